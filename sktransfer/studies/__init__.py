"""The experiments that taught the field, one call each, on your images."""

from sktransfer.studies._comparison import BackboneComparison, compare_backbones
from sktransfer.studies._convergence import ConvergenceCurve, ConvergenceDisplay, convergence_curve
from sktransfer.studies._transfer import TransferCurve, TransferCurveDisplay, transfer_curve

__all__ = [
    "BackboneComparison",
    "compare_backbones",
    "ConvergenceCurve",
    "ConvergenceDisplay",
    "TransferCurve",
    "TransferCurveDisplay",
    "convergence_curve",
    "transfer_curve",
]
