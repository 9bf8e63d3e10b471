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
    "NovelImageError",
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

    Examples
    --------
    >>> from sktransfer import describe_backbone
    >>> from sktransfer.exceptions import SkTransferError
    >>> try:
    ...     describe_backbone("resnet19")
    ... except SkTransferError as error:
    ...     print(type(error).__name__)
    UnknownBackboneError
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

    Examples
    --------
    >>> from sktransfer import PretrainedFeatureExtractor
    >>> from sktransfer.exceptions import ImageDecodeError
    >>> extractor = PretrainedFeatureExtractor("squeezenet1_1", weights=None, image_size=32)
    >>> try:
    ...     extractor.fit_transform([b"no image"])
    ... except ImageDecodeError as error:
    ...     print(error.index, error.source)
    0 bytes
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

    Examples
    --------
    >>> from sktransfer import describe_backbone
    >>> describe_backbone("resnet19")
    Traceback (most recent call last):
        ...
    sktransfer.exceptions.UnknownBackboneError: ...'resnet18'...
    """


class UnknownStageError(SkTransferError, ValueError):
    """The network has no stage of this name or index.

    Raised by ``fit`` for ``layer`` and ``freeze_depth``. The message lists the stages that the
    network has, as :func:`~sktransfer.describe_backbone` does.

    Examples
    --------
    >>> import numpy as np
    >>> from sktransfer import PretrainedFeatureExtractor
    >>> extractor = PretrainedFeatureExtractor("squeezenet1_1", weights=None, layer="layer4")
    >>> extractor.fit(np.zeros((2, 32, 32), dtype=np.uint8))
    Traceback (most recent call last):
        ...
    sktransfer.exceptions.UnknownStageError: ...'layer4'...
    """


class WeightsNotFoundError(SkTransferError, FileNotFoundError):
    """The pretrained weights are not on this machine and could not be downloaded.

    Raised by ``fit``, and by loading a fitted estimator that refers to weights, if a path leads
    nowhere, if there is no network connection, or if ``SKTRANSFER_OFFLINE`` forbids downloads. The
    message says where the file can be put.

    Examples
    --------
    >>> import numpy as np
    >>> from sktransfer import PretrainedFeatureExtractor
    >>> extractor = PretrainedFeatureExtractor("resnet18", weights="no/such/file.pth")
    >>> extractor.fit(np.zeros((2, 32, 32), dtype=np.uint8))
    Traceback (most recent call last):
        ...
    sktransfer.exceptions.WeightsNotFoundError: ...file.pth...
    """


class WeightsDownloadError(SkTransferError, OSError):
    """A download of weights started and did not end with the right file.

    Raised by ``fit`` if the server answers with an error or with other content than the publisher
    announces, if the connection breaks repeatedly, or if the file cannot be written.

    Examples
    --------
    Nothing is downloaded here, since the weights are random; with others, this tries once more.

    >>> import numpy as np
    >>> from sktransfer import PretrainedFeatureExtractor
    >>> from sktransfer.exceptions import WeightsDownloadError
    >>> images = np.zeros((2, 32, 32), dtype=np.uint8)
    >>> extractor = PretrainedFeatureExtractor("squeezenet1_1", weights=None, image_size=32)
    >>> try:
    ...     embeddings = extractor.fit_transform(images)
    ... except WeightsDownloadError:
    ...     embeddings = extractor.fit_transform(images)
    >>> embeddings.shape
    (2, 512)
    """


class WeightsMismatchError(SkTransferError, ValueError):
    """Weights are not what they should be.

    Raised by ``fit``, and by loading a fitted estimator, if a file has another digest than was
    announced or recorded, if its tensors do not fit the network, or if it holds more than tensors:
    no code in it is run.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from sktransfer import PretrainedFeatureExtractor
    >>> with tempfile.NamedTemporaryFile(suffix=".pth") as file:
    ...     _ = file.write(b"no tensors")
    ...     file.flush()
    ...     extractor = PretrainedFeatureExtractor("resnet18", weights=file.name)
    ...     extractor.fit(np.zeros((2, 32, 32), dtype=np.uint8))
    Traceback (most recent call last):
        ...
    sktransfer.exceptions.WeightsMismatchError: ...
    """


class MissingDependencyError(SkTransferError, ImportError):
    """An optional package is needed and not installed.

    Raised by what needs one of the extras (``timm``, ``openvino``, ``medical`` and so on). The
    message says how to install it.

    Examples
    --------
    >>> from sktransfer import describe_backbone
    >>> from sktransfer.exceptions import MissingDependencyError
    >>> try:
    ...     stages = describe_backbone("timm/resnet18.a1_in1k")
    ... except MissingDependencyError:  # without timm
    ...     stages = describe_backbone("resnet18")
    >>> stages["name"].iloc[-1]
    'layer4'
    """


class ActivationBudgetWarning(UserWarning):
    """Activations at the cut do not fit into the memory that they may take.

    Issued by ``fit`` of :class:`~sktransfer.FineTuneClassifier`; the message says what is done
    instead, and what would avoid it.

    Examples
    --------
    >>> import warnings
    >>> from sklearn.datasets import load_digits
    >>> from sktransfer import FineTuneClassifier
    >>> from sktransfer.exceptions import ActivationBudgetWarning
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = FineTuneClassifier(
    ...     "squeezenet1_1", weights=None, image_size=32, value_range=(0, 16), max_epochs=0,
    ...     cache=None, cache__memory_budget=1000,
    ... )
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always", ActivationBudgetWarning)
    ...     clf = clf.fit(X[:20], y[:20])
    >>> [each.category.__name__ for each in caught]
    ['ActivationBudgetWarning']
    """


class FailedRowsWarning(UserWarning):
    """Some rows could not be read, and were given NaN or left out.

    Issued with ``on_error="nan"``, once per call; ``failed_rows_`` names the rows and the reasons.

    Examples
    --------
    >>> import warnings
    >>> from PIL import Image
    >>> from sktransfer import PretrainedFeatureExtractor
    >>> from sktransfer.exceptions import FailedRowsWarning
    >>> extractor = PretrainedFeatureExtractor(
    ...     "squeezenet1_1", weights=None, image_size=32, on_error="nan"
    ... )
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore", FailedRowsWarning)
    ...     embeddings = extractor.fit_transform([Image.new("L", (32, 32)), b"no image"])
    >>> extractor.failed_rows_["row"].tolist()
    [1]
    """


class LeakageWarning(UserWarning):
    """The same image or patient is in the training and in the test set.

    Issued by :func:`~sktransfer.model_selection.check_leakage`, also where rows could not be read
    and were therefore not compared.

    Examples
    --------
    >>> import warnings
    >>> import numpy as np
    >>> from sktransfer.exceptions import LeakageWarning
    >>> from sktransfer.model_selection import check_leakage
    >>> images = np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8)
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always", LeakageWarning)
    ...     shared = check_leakage(images[:4], images[3:])
    >>> len(shared), [each.category.__name__ for each in caught]
    (1, ['LeakageWarning'])
    """


class NovelImageError(SkTransferError, ValueError):
    """An image is not like those that a classifier was trained on.

    Raised by the predictions of :class:`~sktransfer.novelty.NoveltyGate` with
    ``on_novel="raise"``.

    Parameters
    ----------
    index : int
        Position of the first such row in ``X``.
    source : str or None, default=None
        Its file name, or a word for what the row holds.
    n_novel, n_rows : int, default=1
        How many rows are novel, and how many there are.

    Attributes
    ----------
    index, source, n_novel, n_rows
        As given.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sktransfer.exceptions import NovelImageError
    >>> from sktransfer.novelty import NoveltyGate
    >>> X = np.random.default_rng(0).normal(size=(60, 3))
    >>> gate = NoveltyGate(LogisticRegression(), on_novel="raise").fit(X, X[:, 0] > 0)
    >>> try:
    ...     gate.predict([[0, 0, 0], [9, 9, 9]])
    ... except NovelImageError as error:
    ...     print(error.index)
    1
    """

    def __init__(
        self, index: int, source: str | None = None, n_novel: int = 1, n_rows: int = 1
    ) -> None:
        self.index, self.source, self.n_novel, self.n_rows = index, source, n_novel, n_rows
        where = f"row {index}" + (f" ({source})" if source else "")
        super().__init__(
            f"{where} is not like the images that this classifier was trained on ({n_novel} of "
            f"{n_rows} rows are not). Check the images; on_novel='refer' gives such rows no "
            "prediction, and 'flag' lets them pass."
        )

    def __reduce__(self) -> tuple[type, tuple[int, str | None, int, int]]:
        return type(self), (self.index, self.source, self.n_novel, self.n_rows)
