"""Bags: several images of one patient, with one label for all of them."""

from sktransfer.bags._classifier import BagClassifier
from sktransfer.bags._making import make_bags
from sktransfer.bags._transformer import BagTransformer

__all__ = ["BagClassifier", "BagTransformer", "make_bags"]
