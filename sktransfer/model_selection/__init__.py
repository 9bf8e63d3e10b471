"""Choosing, deciding and validating, with pictures that come in groups."""

from sktransfer._splitting import grouped_train_test_split
from sktransfer.model_selection._leakage import check_leakage
from sktransfer.model_selection._operating_point import OperatingPointClassifier
from sktransfer.model_selection._valid_split import GroupedValidSplit

__all__ = [
    "GroupedValidSplit",
    "OperatingPointClassifier",
    "check_leakage",
    "grouped_train_test_split",
]
