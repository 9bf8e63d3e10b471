"""Choosing, deciding and validating: splits by group, thresholds, searches over freeze depth."""

from sktransfer._splitting import grouped_train_test_split
from sktransfer.model_selection._depth_curve import curve_of_search, freeze_depth_curve
from sktransfer.model_selection._leakage import check_leakage
from sktransfer.model_selection._operating_point import OperatingPointClassifier
from sktransfer.model_selection._plan_search import plan_search
from sktransfer.model_selection._search_plan import SearchPlan
from sktransfer.model_selection._valid_split import GroupedValidSplit

__all__ = [
    "GroupedValidSplit",
    "OperatingPointClassifier",
    "SearchPlan",
    "check_leakage",
    "curve_of_search",
    "freeze_depth_curve",
    "grouped_train_test_split",
    "plan_search",
]
