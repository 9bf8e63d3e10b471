"""Functions and scorers on labels and scores; it must not know estimators."""

from sktransfer.metrics._bootstrap import roc_curve_band
from sktransfer.metrics._calibration import calibration_intercept, calibration_slope
from sktransfer.metrics._calibration_display import CalibrationDisplay
from sktransfer.metrics._confusion_pair import ConfusionPairDisplay, normalized
from sktransfer.metrics._decision_curve import DecisionCurveDisplay
from sktransfer.metrics._decisions import (
    cheapest_threshold,
    check_cost_matrix,
    check_probabilities,
    expected_cost,
    net_benefit,
)
from sktransfer.metrics._labels import (
    Interval,
    binary_labels,
    binary_scores,
    check_scores,
    positive_label,
)
from sktransfer.metrics._rates import (
    rate_interval,
    rate_of,
    sensitivity_score,
    sensitivity_specificity,
    specificity_score,
)
from sktransfer.metrics._reader_study import Reader, ReaderStudyDisplay
from sktransfer.metrics._report import OperatingPoint, operating_point
from sktransfer.metrics._roc import (
    AucDifference,
    roc_auc_difference,
    roc_auc_interval,
)
from sktransfer.metrics._score_distribution import ScoreDistributionDisplay
from sktransfer.metrics._scorers import get_scorer, get_scorer_names
from sktransfer.metrics._thresholds import (
    allowed_misses,
    rate_threshold,
    rows_needed,
    sensitivity_at_specificity,
    specificity_at_sensitivity,
    worst_scores,
)

__all__ = [
    "CalibrationDisplay",
    "ConfusionPairDisplay",
    "DecisionCurveDisplay",
    "Reader",
    "ReaderStudyDisplay",
    "ScoreDistributionDisplay",
    "normalized",
    "AucDifference",
    "Interval",
    "OperatingPoint",
    "allowed_misses",
    "binary_scores",
    "calibration_intercept",
    "calibration_slope",
    "cheapest_threshold",
    "binary_labels",
    "check_cost_matrix",
    "check_probabilities",
    "check_scores",
    "expected_cost",
    "get_scorer",
    "get_scorer_names",
    "net_benefit",
    "operating_point",
    "positive_label",
    "rate_interval",
    "rate_of",
    "rate_threshold",
    "roc_auc_difference",
    "roc_auc_interval",
    "roc_curve_band",
    "rows_needed",
    "sensitivity_at_specificity",
    "sensitivity_score",
    "sensitivity_specificity",
    "specificity_at_sensitivity",
    "specificity_score",
    "worst_scores",
]
