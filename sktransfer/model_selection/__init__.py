"""Choosing and validating: splits by group, searches over freeze depth and what they cost."""

from sktransfer._splitting import grouped_train_test_split
from sktransfer.model_selection._plan_search import plan_search
from sktransfer.model_selection._search_plan import SearchPlan

__all__ = ["SearchPlan", "grouped_train_test_split", "plan_search"]
