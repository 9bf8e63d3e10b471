"""Choosing and validating with pictures that come in groups; the splitters' public face."""

from sktransfer._splitting import grouped_train_test_split
from sktransfer.model_selection._operating_point import OperatingPointClassifier

__all__ = ["OperatingPointClassifier", "grouped_train_test_split"]
