"""Every error and warning the library raises on purpose; it knows nothing of the rest.

Each error also inherits the builtin a caller would catch, so ``except ValueError`` and
``except FileNotFoundError`` go on working for people who never heard of this module.
"""

from __future__ import annotations

__all__ = [
    "ActivationBudgetWarning",
    "FailedRowsWarning",
    "ImageDecodeError",
    "LeakageWarning",
    "MissingDependencyError",
    "SkTransferError",
    "UnknownBackboneError",
    "UnknownStageError",
    "WeightsDownloadError",
    "WeightsMismatchError",
    "WeightsNotFoundError",
]


class SkTransferError(Exception):
    """Base class of every error raised by sktransfer."""


class ImageDecodeError(SkTransferError, ValueError):
    """A row could not be turned into an image.

    Parameters
    ----------
    reason : str
        What is wrong with the image, and what would put it right.
    index : int or None, default=None
        Position of the row in ``X`` (0 is the first row), if known.
    source : str or None, default=None
        The file name, or a word for what the row holds (``"array"``, ``"bytes"``).

    Attributes
    ----------
    reason, index, source
        As given.
    """

    def __init__(self, reason: str, index: int | None = None, source: str | None = None) -> None:
        self.reason = reason
        self.index = index
        self.source = source
        where = "" if index is None else f"row {index}"
        if source:
            where = f"{where} ({source})" if where else source
        super().__init__(f"{where}: {reason}" if where else reason)

    def __reduce__(self):  # the default would hand the whole message back as the reason
        return type(self), (self.reason, self.index, self.source)


class UnknownBackboneError(SkTransferError, ValueError):
    """The name is not one of a known network."""


class UnknownStageError(SkTransferError, ValueError):
    """The network has no stage of that name or index."""


class WeightsNotFoundError(SkTransferError, FileNotFoundError):
    """The pretrained weights are neither on this machine nor to be had from the network."""


class WeightsDownloadError(SkTransferError, OSError):
    """A download of weights started and did not finish as announced."""


class WeightsMismatchError(SkTransferError, ValueError):
    """A weights file is not what it should be: another digest, other tensors, other shapes."""


class MissingDependencyError(SkTransferError, ImportError):
    """An optional package is needed and not installed."""


class ActivationBudgetWarning(UserWarning):
    """Activations do not fit in memory; the message says what is done instead."""


class FailedRowsWarning(UserWarning):
    """Some rows could not be read and were given NaN (``on_error="nan"``)."""


class LeakageWarning(UserWarning):
    """The same image or patient is in training and in testing."""
