"""FineTuneClassifier, the one place that knows skorch; see ``_estimator`` for what users see."""

from sktransfer._finetune._costs import Bill, Costs, fit_bill, measure, predict_bill
from sktransfer._finetune._depth import resolve_freeze_depth
from sktransfer._finetune._estimator import FineTuneClassifier
from sktransfer._finetune._keeping import as_size
from sktransfer._finetune._trial import Trial

__all__ = [
    "Bill",
    "Costs",
    "FineTuneClassifier",
    "Trial",
    "fit_bill",
    "measure",
    "predict_bill",
    "resolve_freeze_depth",
    "as_size",
]
