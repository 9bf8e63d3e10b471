"""Metrics of labels and scores with their intervals, and displays of scores."""

from sktransfer.metrics._calibration import (
    CalibrationIntervalDisplay,
    calibration_intercept,
    calibration_slope,
)
from sktransfer.metrics._confusion_pair import ConfusionPairDisplay
from sktransfer.metrics._decisions import DecisionCurveDisplay, expected_cost, net_benefit
from sktransfer.metrics._forest import ForestDisplay
from sktransfer.metrics._multilabel import multilabel_report, multilabel_score
from sktransfer.metrics._multilabel_roc import MultilabelRocDisplay
from sktransfer.metrics._operating_point import operating_point
from sktransfer.metrics._rates import rate_interval
from sktransfer.metrics._reader_study import ReaderStudyDisplay
from sktransfer.metrics._roc import roc_auc_difference, roc_auc_interval
from sktransfer.metrics._score_distribution import ScoreDistributionDisplay
from sktransfer.metrics._thresholds import (
    allowed_misses,
    rows_needed,
    sensitivity_at_specificity,
    specificity_at_sensitivity,
)

__all__ = [
    "CalibrationIntervalDisplay",
    "ConfusionPairDisplay",
    "DecisionCurveDisplay",
    "ForestDisplay",
    "MultilabelRocDisplay",
    "ReaderStudyDisplay",
    "ScoreDistributionDisplay",
    "allowed_misses",
    "calibration_intercept",
    "calibration_slope",
    "expected_cost",
    "multilabel_report",
    "multilabel_score",
    "net_benefit",
    "operating_point",
    "rate_interval",
    "roc_auc_difference",
    "roc_auc_interval",
    "rows_needed",
    "sensitivity_at_specificity",
    "specificity_at_sensitivity",
]
