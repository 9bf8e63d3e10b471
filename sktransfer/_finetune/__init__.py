"""FineTuneClassifier, the one place that knows skorch; see ``_estimator`` for what users see."""

from sktransfer._finetune._estimator import FineTuneClassifier

__all__ = ["FineTuneClassifier"]
