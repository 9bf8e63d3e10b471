"""What is written into skorch's history, and labels for its scoring callbacks; never a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from skorch.callbacks import Callback
from skorch.utils import to_numpy


class BatchAccuracy(Callback):
    """Writes the phase, and the share of right answers of every batch, into the history."""

    def on_epoch_begin(self, net: Any, **kwargs: Any):
        """Say what is trained: the head alone, or all that is not frozen."""
        net.history.record("phase", net.phase_)

    def on_batch_end(self, net: Any, batch: Any = None, training: bool = False, **kwargs: Any):
        """Compare the largest logit with the label."""
        predicted = kwargs["y_pred"].argmax(1)
        accuracy = (predicted == batch[1].to(predicted.device)).double().mean().item()
        net.history.record_batch("train_acc" if training else "valid_acc", accuracy)


@dataclass
class Labels:
    """Codes to class labels, for skorch's scoring callbacks."""

    classes: np.ndarray

    def __call__(self, codes: Any) -> np.ndarray:
        """Labels of a batch."""
        return self.classes[to_numpy(codes)]
