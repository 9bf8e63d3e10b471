"""FineTuneClassifier, the one place that knows skorch; see ``_estimator`` for what users see."""

from sktransfer._finetune._depth import resolve_freeze_depth
from sktransfer._finetune._estimator import FineTuneClassifier
from sktransfer._finetune._frozen_part import FrozenPart
from sktransfer._finetune._keeping import as_size

__all__ = [
    "FineTuneClassifier",
    "FrozenPart",
    "resolve_freeze_depth",
    "as_size",
]
