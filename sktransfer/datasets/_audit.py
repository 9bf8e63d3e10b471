"""audit_labels: which labels are probably wrong, and which images are copies of one another."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_consistent_length, column_or_1d

from sktransfer._extractor import PretrainedFeatureExtractor
from sktransfer._images import ImageSource, as_image_source
from sktransfer._utils.identifiers import read_groups
from sktransfer._utils.multilabel import is_multilabel
from sktransfer._utils.notebooks import card
from sktransfer._utils.per_row import as_frame, check_present
from sktransfer._utils.plotting import new_panels
from sktransfer._utils.splitting import joined_groups, units_per_class
from sktransfer.datasets._near_duplicates import COLUMNS, copies, look_for_copies
from sktransfer.datasets._suspicion import Evidence, gather_evidence
from sktransfer.exceptions import ImageDecodeError

_COLUMNS = ["row", "source", "given", "suggested", "score", "neighbors", "suspected"]
_BACKBONE = "efficientnet_lite0"
_SHOWN = 10


@dataclass(frozen=True, repr=False, eq=False)
class LabelAudit:
    """Labels by how probably they are wrong, made by :func:`audit_labels`.

    Parameters
    ----------
    table : DataFrame
        A row for each label, the most suspicious first: ``row`` (of ``X``), ``source`` (file name
        or kind), ``given`` label, ``suggested`` label (the most probable one), ``score`` (1 minus
        the probability of the given label), ``neighbors`` (share of the ten most similar images,
        of other patients, that have the given label) and ``suspected``: whether another label is
        as probable as it usually is where it is given (Northcutt et al., 2021).
    duplicates : DataFrame
        A row for each pair of copies: ``row``, ``duplicate_of`` (an earlier row), ``correlation``
        after alignment, ``mirrored``, and ``conflict``, whether their labels differ.
    left_out : DataFrame
        ``row``, ``source`` and ``why`` of rows that were not audited.
    images : ImageSource or None
        The images, for :meth:`plot`.

    See Also
    --------
    audit_labels : Audit labels.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sktransfer.datasets import audit_labels
    >>> X, y = load_iris(return_X_y=True)
    >>> y[7] = 2
    >>> audit = audit_labels(X, y)
    >>> audit.table[["row", "given", "suggested"]].iloc[0].tolist()
    [7, 2, 0]
    """

    table: pd.DataFrame
    duplicates: pd.DataFrame
    left_out: pd.DataFrame
    images: ImageSource | None = field(default=None)

    @property
    def n_suspected(self) -> int:
        """Number of labels that are suspected."""
        return int(self.table["suspected"].sum())

    def __repr__(self) -> str:
        return f"LabelAudit({self._sentence()})"

    def _sentence(self) -> str:
        parts = [
            f"{len(self.table)} labels",
            f"{self.n_suspected} suspected",
            f"{len(self.duplicates)} pairs of copies",
            f"{int(self.duplicates['conflict'].sum())} of them with different labels",
        ]
        if len(self.left_out):
            parts.append(f"{len(self.left_out)} rows left out")
        return ", ".join(parts)

    def _repr_html_(self) -> str:
        # Files may be named after patients, and notebooks are passed on.
        tables = {"Most suspicious labels": self.table.drop(columns="source").head(_SHOWN)}
        if len(self.duplicates):
            tables["Copies"] = self.duplicates.head(_SHOWN)
        return card("LabelAudit", [f"{self._sentence()}."], tables)

    def plot(self, n_images: int = 12, *, figure: Any = None, n_columns: int = 6) -> LabelAudit:
        """Plot the images whose labels are the most suspicious, with both labels.

        Plotting needs matplotlib (extra ``plot``).

        Parameters
        ----------
        n_images : int, default=12
            Number of images.
        figure : matplotlib Figure or SubFigure or None, default=None
            Figure to plot into. None makes a new one.
        n_columns : int, default=6
            Number of images in a row of the grid.

        Returns
        -------
        audit : LabelAudit
            The audit itself, with ``figure_`` and ``axes_``.

        Raises
        ------
        ValueError
            If features were audited: there are no images.
        """
        if self.images is None:
            raise ValueError(
                "There are no images to plot: X held features. Give images to audit_labels, with "
                "the network as backbone, or look up table['row'] in your own."
            )
        first = self.table.head(n_images)
        columns = max(1, min(n_columns, len(first)))
        lines = math.ceil(len(first) / columns)
        size = (max(1.9 * columns, 4), 2.5 * lines + 0.4)
        grid, shown_in = new_panels(figure, self, lines, columns, figsize=size)
        for axes in grid.ravel():
            axes.set_axis_off()
        for axes, each in zip(grid.ravel(), first.itertuples(), strict=False):
            try:
                axes.imshow(np.asarray(self.images.open(each.row).decode(256)), cmap="gray")
            except ImageDecodeError:
                axes.text(0.5, 0.5, "cannot be read", ha="center", transform=axes.transAxes)
            title = f"row {each.row}: {each.given}\n{each.suggested}? ({each.score:.2f})"
            axes.set_title(title, fontsize=8, loc="left")
        object.__setattr__(self, "figure_", shown_in)
        object.__setattr__(self, "axes_", grid.ravel()[: len(first)])
        return self


def audit_labels(
    X: Any,
    y: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    backbone: Any = None,
    near_duplicates: bool = True,
    image_shape: tuple[int, ...] | None = None,
    value_range: Any = None,
    n_jobs: int | None = None,
    random_state: int | np.random.RandomState | None = 0,
) -> LabelAudit:
    """Rank labels by how probably they are wrong, and find copies of images.

    Each label is judged by logistic regressions that have not seen its row, nor other rows of its
    patient, nor copies of its image. They are fitted to all stages of a frozen network, strongly
    penalized, and fitted again with suspicious labels weighted less. Look at what is ranked first,
    and let somebody decide who knows the images: a label that the network does not understand is
    suspicious too.

    Read more in the :ref:`User Guide <label-audit>`.

    Parameters
    ----------
    X : collection of images, or array-like of shape (n, n_features)
        Images in any of the :ref:`accepted forms <accepted-inputs>`; or features, which are numbers
        with two axes, without a ``backbone`` and an ``image_shape``. A row of features with NaN,
        and an image that cannot be read, are left out.
    y : array-like of shape (n,)
        Class labels, at least two classes.
    groups : array-like of shape (n,) or None, default=None
        What each image belongs to, such as its patient.
    backbone : str, PretrainedFeatureExtractor, other network or sequence of them, default=None
        Networks that embed images; the evidence of several is averaged. None:
        "efficientnet_lite0". Of an extractor without a ``layer``, all stages are used.
    near_duplicates : bool, default=True
        Whether to look for copies that were cropped, scaled, turned, mirrored or saved again, too.
        It takes about 40 ms an image, and its square from some ten thousand images on. Equal files,
        and equal rows of features, are always found.
    image_shape : tuple of int or None, default=None
        Shape (height, width) or (height, width, channels) of one image in a 2-D ``X``.
    value_range : (float, float), "dtype", "percentile", ("percentile", low, high) or None, \
            default=None
        Values that are black and white, as in :class:`~sktransfer.PretrainedFeatureExtractor`.
    n_jobs : int or None, default=None
        Threads that decode. None: 1.
    random_state : int, RandomState instance or None, default=0
        How folds are drawn.

    Returns
    -------
    audit : LabelAudit
        ``table`` with the most suspicious labels first, ``duplicates``, ``left_out``; ``plot()``
        shows the images.

    Raises
    ------
    ValueError
        If fewer than two classes have rows of at least two groups, a label is missing, or labels
        are numbers that are no classes.

    Warns
    -----
    UserWarning
        If a class has rows of one group only: they cannot be judged and are left out.

    See Also
    --------
    check_images : Find what is wrong with images, whatever their labels.
    sktransfer.model_selection.check_leakage : Compare a training and a test set.

    References
    ----------
    C. Northcutt, L. Jiang and I. Chuang, "Confident learning: estimating uncertainty in dataset
    labels", Journal of Artificial Intelligence Research 70, 2021.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sktransfer.datasets import audit_labels
    >>> X, y = load_digits(return_X_y=True)
    >>> y[4] = 9
    >>> audit = audit_labels(X[:300], y[:300])
    >>> audit.table[["row", "given", "suggested"]].iloc[0].tolist()
    [4, 9, 4]
    """
    if is_multilabel(y):
        raise ValueError("y has several labels a row: audit each of its columns by itself.")
    labels = column_or_1d(check_present(y))
    if type_of_target(labels).startswith("continuous"):
        raise ValueError(
            f"y has numbers such as {labels[0]!s}, and classes are audited. Pass classes, such as "
            "np.digitize(y, thresholds) for grades."
        )
    features = _features(X, backbone, image_shape)
    images = None
    if features is None:
        images = as_image_source(X, image_shape=image_shape, value_range=value_range)
    n = len(labels)
    check_consistent_length(labels, *(each for each in (features, images) if each is not None))
    numbers = np.arange(n) if groups is None else _codes(read_groups(groups, n=n))
    if features is None:
        form = {"image_shape": image_shape, "value_range": value_range, "n_jobs": n_jobs}
        given = {name: value for name, value in form.items() if value is not None}
        blocks = [_embedded(X, each, given) for each in _networks(backbone)]
    else:
        blocks = [features]
    duplicates = (
        _equal_rows(blocks[0])
        if images is None
        else look_for_copies(images, near=near_duplicates, n_jobs=n_jobs)
    )
    duplicates["conflict"] = (
        labels[duplicates["row"]] != labels[duplicates["duplicate_of"]]
        if len(duplicates)
        else np.zeros(0, dtype=bool)
    )
    units = joined_groups(numbers, copies(duplicates, n))
    readable = np.all([np.isfinite(block).all(axis=1) for block in blocks], axis=0)
    judged = readable & ~_lonely(labels, units, readable)
    named = images.describe if images is not None else lambda row: "features"
    table = _judged(blocks, labels, units, np.flatnonzero(judged), random_state)
    table.insert(1, "source", [named(int(row)) for row in table["row"]])
    out = np.flatnonzero(~judged)
    why = ["its class has no other group" if readable[row] else "unreadable" for row in out]
    left_out = pd.DataFrame({"row": out, "source": [named(int(row)) for row in out], "why": why})
    return LabelAudit(table[_COLUMNS], duplicates, left_out, images)


def _features(X: Any, backbone: Any, image_shape: Any) -> np.ndarray | None:
    """Return ``X`` as features, or None if it holds images."""
    if backbone is not None or image_shape is not None:
        return None
    table = as_frame(X)
    if table is not None and table.shape[1] > 1:
        X = table.to_numpy()
    numbers = isinstance(X, np.ndarray) and X.ndim == 2 and X.dtype.kind in "buif"
    return np.asarray(X, dtype=np.float64) if numbers and X.shape[1] > 1 else None


def _networks(backbone: Any) -> list[PretrainedFeatureExtractor]:
    several = isinstance(backbone, Sequence) and not isinstance(backbone, str)
    found = []
    for each in backbone if several else [_BACKBONE if backbone is None else backbone]:
        own = isinstance(each, PretrainedFeatureExtractor)
        extractor = clone(each) if own else PretrainedFeatureExtractor(each)
        if extractor.layer is None:
            extractor.set_params(layer="all")
        found.append(extractor.set_params(on_error="nan", output="numpy"))
    if not found:
        raise ValueError("backbone is empty; name at least one network.")
    return found


def _embedded(X: Any, extractor: PretrainedFeatureExtractor, given: dict[str, Any]) -> np.ndarray:
    with warnings.catch_warnings():
        # Rows that cannot be read are in the result.
        warnings.filterwarnings("ignore", message=".*given NaN")
        rows = extractor.set_params(**given).set_output(transform="default").fit_transform(X)
    return np.asarray(rows, dtype=np.float64)


def _codes(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.unique(values, return_inverse=True)[1])


def _equal_rows(F: np.ndarray) -> pd.DataFrame:
    """Return pairs of equal rows of features, the earlier one being the first of its kind."""
    first: dict[bytes, int] = {}
    pairs = []
    for row in np.flatnonzero(np.isfinite(F).all(axis=1)).tolist():
        earlier = first.setdefault(F[row].tobytes(), row)
        if earlier != row:
            pairs.append((row, earlier, 1.0, False))
    return pd.DataFrame(pairs, columns=["row", "duplicate_of", "correlation", "mirrored"])


def _lonely(labels: np.ndarray, units: np.ndarray, readable: np.ndarray) -> np.ndarray:
    """Return rows of classes that no other group has, with a warning that names them."""
    counts = units_per_class(labels[readable], units[readable])
    alone = [label for label, n_units in counts.items() if n_units < 2]
    if len(counts) - len(alone) < 2:
        raise ValueError(
            "Labels are judged by rows of other groups, so that two classes must have rows of at "
            f"least two groups each; the classes have {dict(list(counts.items())[:_SHOWN])}."
        )
    if alone:
        warnings.warn(
            f"Classes with rows of one group only are left out, as nothing says what they look "
            f"like: {alone}.",
            stacklevel=3,
        )
    return np.isin(labels, np.array(alone, dtype=labels.dtype))


def _judged(
    blocks: list[np.ndarray],
    labels: np.ndarray,
    units: np.ndarray,
    rows: np.ndarray,
    random_state: Any,
) -> pd.DataFrame:
    """Judge labels by the others, and return them with the most suspicious first."""
    classes, codes = np.unique(labels[rows], return_inverse=True)
    evidence = gather_evidence(
        [block[rows] for block in blocks], codes, _codes(units[rows]), random_state
    )
    return _ranked(rows, labels[rows], classes, evidence)


def audit_probabilities(
    probabilities: Any, y: np.ndarray, classes: np.ndarray, images: ImageSource | None
) -> LabelAudit:
    """Rank labels by probabilities of models that have not seen them, a column for each class."""
    own = np.asarray(probabilities, dtype=np.float64)
    if own.shape != (len(y), len(classes)):
        raise ValueError(
            f"Probabilities must have shape {(len(y), len(classes))}, a row for each label and a "
            f"column for each of the classes {list(classes)}; got {own.shape}. "
            "cross_val_predict(..., method='predict_proba') gives them."
        )
    there = np.isfinite(own).all(axis=1)
    rows = np.flatnonzero(there)
    nowhere = np.full((len(rows), len(classes)), np.nan)
    table = _ranked(rows, y[rows], np.asarray(classes), Evidence(own[rows], nowhere))
    out = np.flatnonzero(~there)
    named = images.describe if images is not None else lambda row: "features"
    sources = [named(int(row)) for row in out]
    left_out = pd.DataFrame({"row": out, "source": sources, "why": "no probability"})
    table.insert(1, "source", [named(int(row)) for row in table["row"]])
    none = pd.DataFrame(columns=[*COLUMNS, "conflict"])
    return LabelAudit(table[_COLUMNS], none, left_out, images)


def _ranked(
    rows: np.ndarray, labels: np.ndarray, classes: np.ndarray, evidence: Evidence
) -> pd.DataFrame:
    """Return labels with what speaks against them, the most suspicious first."""
    own, places = evidence.probabilities, np.arange(len(rows))
    codes = np.searchsorted(classes, labels)
    likely = own.argmax(axis=1)
    there = np.bincount(codes, minlength=len(classes)) > 0
    usual = np.array([own[codes == c, c].mean() if there[c] else np.inf for c in range(len(there))])
    suspected = (likely != codes) & (own[places, likely] >= usual[likely])
    table = pd.DataFrame(
        {
            "row": rows,
            "given": labels,
            "suggested": classes[likely],
            "score": 1 - own[places, codes],
            "neighbors": evidence.neighbors[places, codes],
            "suspected": suspected,
        }
    )
    return table.sort_values("score", ascending=False, kind="stable", ignore_index=True)
