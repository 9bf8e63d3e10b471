"""What a distance means for a network: thresholds measured on known images, kept by the digest of
its weights. It must not know how distances are computed.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

_FILE = "calibration.json"


@dataclass(frozen=True)
class Threshold:
    """Where distances of one network turn from similar to dissimilar.

    Attributes
    ----------
    similar_below : float
        The largest distance seen for photographs of the kinds the network knows.
    dissimilar_above : float
        The smallest seen for other images: X-rays, digits, noise.
    value : float
        Between the two, in the middle on a logarithmic scale.
    calibrated : bool
        Whether it was measured with these very weights. If not, it is that of EfficientNet-Lite0
        (of SqueezeNet, where embeddings are compared), for want of a better one.
    """

    similar_below: float
    dissimilar_above: float
    calibrated: bool = True

    @property
    def value(self) -> float:
        return float(np.sqrt(self.similar_below * self.dissimilar_above))

    def reading(self, distance: float) -> str:
        """``"similar"``, ``"dissimilar"``, or one of the two with ``" (gray zone)"``."""
        side = "similar" if distance < self.value else "dissimilar"
        low, high = sorted((self.similar_below, self.dissimilar_above))
        return f"{side} (gray zone)" if low < distance < high else side


@functools.cache
def _records() -> dict[str, Any]:
    text = resources.files("sktransfer.model_selection").joinpath(_FILE).read_text(encoding="utf-8")
    return json.loads(text)


def threshold_for(digest: str, statistic: str) -> Threshold:
    """The threshold of a network by its digest, or that of the network that stands for all others.

    Parameters
    ----------
    digest : str
    statistic : {"batch_norm", "embedding"}
        What the distance is of.
    """
    thresholds = _records()["thresholds"]
    for record in thresholds:
        if record["digest"] == digest and record["statistic"] == statistic:
            return Threshold(record["similar_below"], record["dissimilar_above"])
    default = next(r for r in thresholds if r.get("default_for") == statistic)
    return Threshold(default["similar_below"], default["dissimilar_above"], calibrated=False)


def stored_statistics(digest: str) -> tuple[np.ndarray, np.ndarray, int] | None:
    """Mean and variance of a network's embedding on its source, and of how many images.

    None where nobody measured them.
    """
    record = _records()["embeddings"].get(digest)
    if record is None:
        return None
    return np.asarray(record["mean"]), np.asarray(record["std"]) ** 2, int(record["n"])
