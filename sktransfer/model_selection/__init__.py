"""Choosing and validating with pictures that come in groups; the splitters' public face."""

from sktransfer._splitting import grouped_train_test_split

__all__ = ["grouped_train_test_split"]
