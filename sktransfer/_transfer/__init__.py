"""The estimator that chooses networks, features and heads itself, and combines them."""

from sktransfer._transfer._classifier import TransferClassifier

__all__ = ["TransferClassifier"]
