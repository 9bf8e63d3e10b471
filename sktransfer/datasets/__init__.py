"""Folders and tables of pictures as scikit-learn Bunches; it knows no network and no estimator."""

from sktransfer.datasets._digits import load_digit_screening
from sktransfer.datasets._folder import load_image_folder
from sktransfer.datasets._table import load_image_table

__all__ = ["load_digit_screening", "load_image_folder", "load_image_table"]
