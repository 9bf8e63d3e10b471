"""Choosing and validating: splits by group, searches over freeze depth and what they cost."""

from sktransfer._splitting import grouped_train_test_split
from sktransfer.model_selection._depth_curve import curve_of_search, freeze_depth_curve
from sktransfer.model_selection._plan_search import plan_search
from sktransfer.model_selection._search_plan import SearchPlan

__all__ = [
    "SearchPlan",
    "curve_of_search",
    "freeze_depth_curve",
    "grouped_train_test_split",
    "plan_search",
]
