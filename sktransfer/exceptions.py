"""Errors and warnings that sktransfer raises on purpose.

Each error also inherits the builtin exception that a caller would catch: ``except ValueError`` and
``except FileNotFoundError`` work without this module.
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
    """Base class of every error that sktransfer defines.

    Catch it to handle any of them. It is raised itself where the program that decodes DICOM files
    cannot be started or fails, which is the fault of no single row, and where an activation store
    cannot be cleared.
    """


class ImageDecodeError(SkTransferError, ValueError):
    """A row of ``X`` could not be turned into an image.

    Raised by ``fit``, ``transform``, ``predict`` and the readers of ``sktransfer.datasets`` if a
    file is missing, damaged, too large or of no known format, or if an array has no image in it.
    With ``on_error="nan"`` such rows are reported by :class:`FailedRowsWarning` instead.

    Parameters
    ----------
    reason : str
        What is wrong with the image, and what would correct it.
    index : int or None, default=None
        Position of the row in ``X`` (0 is the first row), if known.
    source : str or None, default=None
        The file name, or a word for what the row holds (``"array"``, ``"bytes"``).

    Attributes
    ----------
    reason : str
        What is wrong with the image.
    index : int or None
        Position of the row in ``X``.
    source : str or None
        The file name, or a word for what the row holds.
    """

    def __init__(self, reason: str, index: int | None = None, source: str | None = None) -> None:
        self.reason = reason
        self.index = index
        self.source = source
        where = "" if index is None else f"row {index}"
        if source:
            where = f"{where} ({source})" if where else source
        super().__init__(f"{where}: {reason}" if where else reason)

    def __reduce__(self) -> tuple[type, tuple[str, int | None, str | None]]:
        # The default would pass the whole message as the reason.
        return type(self), (self.reason, self.index, self.source)


class UnknownBackboneError(SkTransferError, ValueError):
    """No network has this name.

    Raised wherever ``backbone`` is given by name: by ``fit``,
    :func:`~sktransfer.describe_backbone`, and what ranks or compares networks. The message suggests
    similar names; :func:`~sktransfer.list_backbones` lists all.
    """


class UnknownStageError(SkTransferError, ValueError):
    """The network has no stage of this name or index.

    Raised by ``fit`` for ``layer`` and ``freeze_depth``. The message lists the stages that the
    network has, as :func:`~sktransfer.describe_backbone` does.
    """


class WeightsNotFoundError(SkTransferError, FileNotFoundError):
    """The pretrained weights are not on this machine and could not be downloaded.

    Raised by ``fit``, and by loading a fitted estimator that refers to weights, if a path leads
    nowhere, if there is no network connection, or if ``SKTRANSFER_OFFLINE`` forbids downloads. The
    message says where the file can be put.
    """


class WeightsDownloadError(SkTransferError, OSError):
    """A download of weights started and did not end with the right file.

    Raised by ``fit`` if the server answers with an error or with other content than the publisher
    announces, if the connection breaks repeatedly, or if the file cannot be written.
    """


class WeightsMismatchError(SkTransferError, ValueError):
    """Weights are not what they should be.

    Raised by ``fit``, and by loading a fitted estimator, if a file has another digest than was
    announced or recorded, if its tensors do not fit the network, or if it holds more than tensors:
    no code in it is run.
    """


class MissingDependencyError(SkTransferError, ImportError):
    """An optional package is needed and not installed.

    Raised by what needs one of the extras (``timm``, ``openvino``, ``medical`` and so on). The
    message says how to install it.
    """


class ActivationBudgetWarning(UserWarning):
    """Activations at the cut do not fit into the memory that they may take.

    Issued by ``fit`` of :class:`~sktransfer.FineTuneClassifier`; the message says what is done
    instead, and what would avoid it.
    """


class FailedRowsWarning(UserWarning):
    """Some rows could not be read, and were given NaN or left out.

    Issued with ``on_error="nan"``, once per call; ``failed_rows_`` names the rows and the reasons.
    """


class LeakageWarning(UserWarning):
    """The same image or patient is in the training and in the test set.

    Issued by :func:`~sktransfer.model_selection.check_leakage`, also where rows could not be read
    and were therefore not compared.
    """
