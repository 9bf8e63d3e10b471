"""ErrorGalleryDisplay and ConfusionExamplesDisplay: images with what a classifier predicted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix
from sklearn.utils.multiclass import unique_labels
from sklearn.utils.validation import check_consistent_length, column_or_1d

from sktransfer._images import ImageSource
from sktransfer._utils.identifiers import read_groups
from sktransfer._utils.per_row import check_present
from sktransfer._utils.plotting import new_axes, new_panels
from sktransfer.exceptions import ImageDecodeError
from sktransfer.inspection._estimator_images import images_of, shown_small
from sktransfer.metrics._labels import check_scores

_METHODS = ("predict_proba", "decision_function")
# Longer names would overlap the next image of a gallery.
_LONGEST_NAME = 18
# In a cell of side 1: the longer side of its image, how far the image is above the center, and how
# far the number is below it.
_SIDE, _RAISED, _NUMBER_AT = 0.72, 0.09, 0.39
# Images that are tried before a cell is left without one.
_TRIES = 5


class _PredictedImagesMixin:
    """Constructor from an estimator of displays that show images alongside predictions."""

    # A classmethod of every display: (y_true, y_score, X, *, y_pred, labels, ...).
    from_predictions: ClassVar[Any]

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        response_method: str = "auto",
        image_shape: tuple[int, ...] | None = None,
        value_range: tuple[float, float] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Plot what a fitted classifier predicts.

        Parameters
        ----------
        estimator : estimator instance
            Fitted classifier. Its own threshold counts, if it has one.
        X : collection of images, n rows
            Rows that the classifier has not seen, in any of the
            :ref:`accepted forms <accepted-inputs>`.
        y : array-like of shape (n,)
            True labels.
        response_method : {"auto", "predict_proba", "decision_function"}, default="auto"
            Where confidence comes from. "auto": the first of the two that the estimator has.
        image_shape, value_range : tuple or None, default=None
            Shape of raveled images, and values of black and white. None: those of the estimator.
        **kwargs : dict
            Further parameters of :meth:`from_predictions`.

        Returns
        -------
        display : Display
            The display, plotted.
        """
        if response_method not in ("auto", *_METHODS):
            raise ValueError(
                f"response_method must be 'auto' or one of {_METHODS}; got {response_method!r}."
            )
        wanted = _METHODS if response_method == "auto" else (response_method,)
        method = next((each for each in wanted if hasattr(estimator, each)), None)
        if method is None or not hasattr(estimator, "classes_"):
            raise TypeError(
                f"estimator must be a fitted classifier with {' or '.join(wanted)}, as confidence "
                f"is a score; got {type(estimator).__name__}."
            )
        score = np.asarray(getattr(estimator, method)(X), dtype=np.float64)
        if score.ndim == 1:
            # A margin, even if all its values happen to lie between 0 and 1.
            score = np.stack([-score, score], axis=1)
        return cls.from_predictions(
            y,
            score,
            images_of(estimator, X, image_shape, value_range),
            # Not the class with the highest score, where the estimator has a threshold.
            y_pred=estimator.predict(X),
            labels=estimator.classes_,
            **kwargs,
        )


@dataclass(kw_only=True, eq=False, repr=False)
class ErrorGalleryDisplay(_PredictedImagesMixin):
    """Gallery of the misclassified images, those with the highest confidence first.

    Make one with a ``from_`` method. Plotting needs matplotlib (extra ``plot``).

    Read more in the :ref:`User Guide <inspection-errors>`.

    Parameters
    ----------
    table : DataFrame
        A row for each image shown: ``row`` (of ``X``), ``y_true``, ``y_pred``, ``confidence``
        (the score of the predicted class), ``n_copies`` (how many of the errors are this image),
        and with groups ``n_in_group`` (how many are of its group). No file or group is named.
    images : list of (ndarray of shape (h, w, 3) or None)
        Images with values from 0 to 1; None for one that cannot be read.
    n_errors, n_rows : int
        Number of misclassified rows, and of all rows.
    by_class : bool, default=False
        Whether each true class begins a row of the grid.
    names : dict of label to str or None, default=None
        Names of the classes.
    row_names : list of str or None, default=None
        Names of the rows. None: their numbers.

    Attributes
    ----------
    figure_, axes_ : matplotlib Figure and ndarray of Axes, shape (n_images,)
        The figure, and the axes of each image; a single one that says so where there are no errors.

    See Also
    --------
    ConfusionExamplesDisplay : Show an example for each pair of true and predicted class.
    EmbeddingDisplay : Show where errors lie among all images.

    Notes
    -----
    Look here first for wrong labels, for images that show something else, and for what they have
    in common. Use rows that the model has not seen.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sktransfer.inspection import ErrorGalleryDisplay
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = LogisticRegression(max_iter=1000).fit(X[:200] / 16, y[:200])
    >>> display = ErrorGalleryDisplay.from_estimator(clf, X[200:] / 16, y[200:], n_images=8)
    >>> len(display.images)
    8
    """

    table: pd.DataFrame
    images: list[np.ndarray | None]
    n_errors: int
    n_rows: int
    by_class: bool = False
    names: dict[Any, str] | None = None
    row_names: list[str] | None = None

    @classmethod
    def from_predictions(
        cls,
        y_true: Any,
        y_score: Any,
        X: Any,
        *,
        y_pred: Any = None,
        labels: Any = None,
        image_shape: tuple[int, ...] | None = None,
        value_range: tuple[float, float] | None = None,
        n_images: int = 12,
        by_class: bool = False,
        groups: Any = None,
        display_labels: Any = None,
        row_names: Any = None,
        **kwargs: Any,
    ) -> ErrorGalleryDisplay:
        """Plot the errors among rows with scores, such as those of ``cross_val_predict``.

        Parameters
        ----------
        y_true : array-like of shape (n,)
            True labels.
        y_score : array-like of shape (n,) or (n, n_classes)
            Scores with a column for each class; or, of two classes, scores of the second:
            probabilities if all lie between 0 and 1, otherwise on either side of 0.
        X : collection of images, n rows
            Images in any of the :ref:`accepted forms <accepted-inputs>`.
        y_pred : array-like of shape (n,) or None, default=None
            Predicted labels. None: the class with the highest score.
        labels : array-like of shape (n_classes,) or None, default=None
            The classes, in the order of the columns. None: those in ``y_true``, sorted.
        image_shape, value_range : tuple or None, default=None
            Shape of raveled images, and values of black and white (None: the range of the arrays).
        n_images : int, default=12
            Maximum number of images.
        by_class : bool, default=False
            Whether each true class with errors gets an equal number of images, at least one, in
            rows of its own. With a threshold other than one half, all missed ones would otherwise
            precede the false alarms, or the other way round.
        groups : array-like of shape (n,) or None, default=None
            Patients, of whom each is shown once, unnamed, with the error of highest confidence.
        display_labels : array-like of shape (n_classes,) or None, default=None
            Names of the classes. None: the labels themselves.
        row_names : array-like of shape (n,) or None, default=None
            Names that are written in place of the numbers of rows.
        **kwargs : dict
            Parameters of :meth:`plot`, such as ``figure``.

        Returns
        -------
        display : ErrorGalleryDisplay
            The display, plotted. Images of the same content are shown once.
        """
        if n_images < 1:
            raise ValueError(f"n_images must be at least 1; got {n_images!r}.")
        predictions, classes = _predictions(y_true, y_score, y_pred, labels)
        source = images_of(None, X, image_shape, value_range)
        groups = None if groups is None else read_groups(groups)
        row_names = None if row_names is None else column_or_1d(row_names)
        check_consistent_length(predictions, range(len(source)), groups, row_names)
        errors = predictions[predictions["y_true"] != predictions["y_pred"]]
        table = _distinct(errors, source, groups)
        if by_class:
            n_classes = max(1, table["y_true"].nunique())
            table = table.sort_values("y_true", kind="stable")
            table = table.groupby("y_true", sort=False).head(max(1, n_images // n_classes))
        else:
            table = table.head(n_images)
        display = cls(
            table=table.reset_index(drop=True),
            images=[shown_small(source, int(row)) for row in table["row"]],
            n_errors=len(errors),
            n_rows=len(source),
            by_class=by_class,
            names=_class_names(classes, display_labels),
            row_names=None if row_names is None else [str(row_names[i]) for i in table["row"]],
        )
        return display.plot(**kwargs)

    def plot(
        self, *, figure: Any = None, n_columns: int | None = None, show_rows: bool = True
    ) -> ErrorGalleryDisplay:
        """Plot the images in a grid.

        Parameters
        ----------
        figure : matplotlib Figure or SubFigure or None, default=None
            Figure to plot into. None makes a new one.
        n_columns : int or None, default=None
            Number of images in a row of the grid. None: at most six.
        show_rows : bool, default=True
            Whether to write alongside each image which row it is.

        Returns
        -------
        display : ErrorGalleryDisplay
            The display itself.
        """
        blocks = [np.arange(len(self.table))]
        if self.by_class:
            starts = np.flatnonzero(self.table["y_true"].ne(self.table["y_true"].shift()))[1:]
            blocks = np.split(blocks[0], starts)
        widest = max(len(block) for block in blocks)
        columns = max(1, n_columns or math.ceil(widest / math.ceil(max(1, widest) / 6)))
        places: list[tuple[int, int]] = []
        lines = 0
        for block in blocks:
            places += [(lines + i // columns, i % columns) for i in range(len(block))]
            lines += math.ceil(len(block) / columns)
        size = (max(1.9 * columns, 4), 2.5 * max(lines, 1) + 0.4)
        grid, self.figure_ = new_panels(figure, self, max(lines, 1), columns, figsize=size)
        for axes in grid.ravel():
            axes.set_axis_off()
        if not places:
            grid[0, 0].text(0.5, 0.5, f"no errors among {self.n_rows} rows", ha="center")
            self.axes_ = grid[:1, 0]
            return self
        self.axes_ = np.array([grid[place] for place in places], dtype=object)
        for number, (axes, image) in enumerate(zip(self.axes_, self.images, strict=True)):
            if image is None:
                axes.text(0.5, 0.5, "cannot be read", ha="center", transform=axes.transAxes)
            else:
                axes.imshow(image)
            axes.set_title(self._title(number, show_rows), fontsize=8, loc="left")
        errors = "error" if self.n_errors == 1 else "errors"
        self.figure_.suptitle(
            f"{len(places)} of {self.n_errors} {errors} among {self.n_rows} rows", fontsize=10
        )
        return self

    def _title(self, number: int, show_rows: bool) -> str:
        # Not iloc: a Series of all columns would turn row numbers into floats.
        error = {name: values.iloc[number] for name, values in self.table.items()}
        confidence = f"{error['confidence']:.2f}"
        if confidence == "1.00" and error["confidence"] < 1:
            confidence = ">0.99"
        lines = [
            f"true: {self._name(error['y_true'])}",
            f"predicted: {self._name(error['y_pred'])} ({confidence})",
        ]
        about = []
        if show_rows:
            about.append(self.row_names[number] if self.row_names else f"row {error['row']}")
        if error["n_copies"] > 1:
            about.append(f"{error['n_copies']} copies")
        if error.get("n_in_group", 1) > 1:
            about.append(f"{error['n_in_group']} in group")
        return "\n".join([*lines, ", ".join(about)] if about else lines)

    def _name(self, label: Any) -> str:
        name = (self.names or {}).get(label, str(label))
        return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


@dataclass(kw_only=True, eq=False, repr=False)
class ConfusionExamplesDisplay(_PredictedImagesMixin):
    """Confusion matrix that shows in each cell one of the images counted there.

    Make one with a ``from_`` method. Plotting needs matplotlib (extra ``plot``).

    Read more in the :ref:`User Guide <inspection-errors>`.

    Parameters
    ----------
    confusion_matrix : ndarray of shape (n_classes, n_classes)
        Counts or shares, with true classes in rows and predicted ones in columns.
    rows : dict of (int, int) to int
        Row of ``X`` that is the example of a cell; cells without images have none.
    images : dict of (int, int) to ndarray of shape (h, w, 3)
        The examples, with values from 0 to 1.
    display_labels : list of str
        Names of the classes.
    normalize : {"true", "pred", "all"} or None, default=None
        What the numbers are shares of; None for counts.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
        Axes with the matrix, and their figure.
    display_ : sklearn.metrics.ConfusionMatrixDisplay
        The matrix below the images.
    images_ : dict of (int, int) to matplotlib AxesImage
        The images.

    See Also
    --------
    ErrorGalleryDisplay : Show the errors with the highest confidence.
    sktransfer.metrics.ConfusionPairDisplay : Show matrices of a network and of experts.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sktransfer.inspection import ConfusionExamplesDisplay
    >>> X, y = load_digits(n_class=3, return_X_y=True)
    >>> clf = LogisticRegression(C=1e-4).fit(X[:60], y[:60])
    >>> display = ConfusionExamplesDisplay.from_estimator(clf, X[60:], y[60:])
    >>> display.confusion_matrix.shape
    (3, 3)
    """

    confusion_matrix: np.ndarray
    rows: dict[tuple[int, int], int]
    images: dict[tuple[int, int], np.ndarray]
    display_labels: list[str]
    normalize: str | None = None

    @classmethod
    def from_predictions(
        cls,
        y_true: Any,
        y_score: Any,
        X: Any,
        *,
        y_pred: Any = None,
        labels: Any = None,
        image_shape: tuple[int, ...] | None = None,
        value_range: tuple[float, float] | None = None,
        example: str = "typical",
        normalize: str | None = None,
        display_labels: Any = None,
        **kwargs: Any,
    ) -> ConfusionExamplesDisplay:
        """Plot from labels and scores, such as those of ``cross_val_predict``.

        Parameters
        ----------
        y_true : array-like of shape (n,)
            True labels.
        y_score : array-like of shape (n,) or (n, n_classes)
            Scores with a column for each class; or, of two classes, scores of the second:
            probabilities if all lie between 0 and 1, otherwise on either side of 0.
        X : collection of images, n rows
            Images in any of the :ref:`accepted forms <accepted-inputs>`.
        y_pred : array-like of shape (n,) or None, default=None
            Predicted labels. None: the class with the highest score.
        labels : array-like of shape (n_classes,) or None, default=None
            The classes, in the order of the columns. None: those in ``y_true``, sorted.
        image_shape, value_range : tuple or None, default=None
            Shape of raveled images, and values of black and white (None: the range of the arrays).
        example : {"typical", "sure", "doubtful"}, default="typical"
            Which image represents a cell: that of median confidence among those counted there
            (the lower of two in the middle), of the highest, or of the lowest.
        normalize : {"true", "pred", "all"} or None, default=None
            Whether to show shares of the true class, the predicted class, or all; None: counts.
        display_labels : array-like of shape (n_classes,) or None, default=None
            Names of the classes. None: the labels themselves.
        **kwargs : dict
            Parameters of :meth:`plot`, such as ``ax``.

        Returns
        -------
        display : ConfusionExamplesDisplay
            The display, plotted.
        """
        if example not in ("typical", "sure", "doubtful"):
            raise ValueError(f'example must be "typical", "sure" or "doubtful"; got {example!r}.')
        predictions, classes = _predictions(y_true, y_score, y_pred, labels)
        source = images_of(None, X, image_shape, value_range)
        check_consistent_length(predictions, range(len(source)))
        names = _class_names(classes, display_labels)
        both = predictions["y_true"].to_numpy(), predictions["y_pred"].to_numpy()
        rows, images = {}, {}
        for i, true in enumerate(classes):
            for j, predicted in enumerate(classes):
                own = predictions[(both[0] == true) & (both[1] == predicted)]
                for row in _by_example(own["confidence"], example)[:_TRIES]:
                    image = shown_small(source, row)
                    if image is not None:
                        rows[i, j], images[i, j] = row, image
                        break
        display = cls(
            confusion_matrix=confusion_matrix(*both, labels=classes, normalize=normalize),
            rows=rows,
            images=images,
            display_labels=list(names.values()),
            normalize=normalize,
        )
        return display.plot(**kwargs)

    def plot(
        self, ax: Any = None, *, cmap: Any = "Blues", values_format: str | None = None
    ) -> ConfusionExamplesDisplay:
        """Plot the matrix, and the images on it.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Axes to plot into. None makes new ones.
        cmap : str or matplotlib Colormap, default="Blues"
            Colormap of the matrix.
        values_format : str or None, default=None
            Format of the numbers. None: two decimals for shares.

        Returns
        -------
        display : ConfusionExamplesDisplay
            The display itself.
        """
        side = 1.1 + 1.25 * len(self.display_labels)
        self.ax_, self.figure_ = new_axes(
            ax, self, figsize=(side + 0.5, side), layout="constrained"
        )
        if values_format is None:
            values_format = "d" if self.normalize is None else ".2f"
        self.display_ = ConfusionMatrixDisplay(
            self.confusion_matrix, display_labels=self.display_labels
        ).plot(ax=self.ax_, cmap=cmap, values_format=values_format, colorbar=False)
        for place, text in np.ndenumerate(self.display_.text_):
            # Below the image, if there is one.
            if place in self.images:
                text.set_y(place[0] + _NUMBER_AT)
        limits = self.ax_.get_xlim(), self.ax_.get_ylim()
        self.images_ = {}
        for (i, j), image in self.images.items():
            height, width = _SIDE * np.array(image.shape[:2]) / max(image.shape[:2]) / 2
            center = i - _RAISED
            extent = (j - width, j + width, center + height, center - height)
            self.images_[i, j] = self.ax_.imshow(image, extent=extent, zorder=2)
        self.ax_.set(xlim=limits[0], ylim=limits[1])
        return self


def _predictions(
    y_true: Any, y_score: Any, y_pred: Any, labels: Any
) -> tuple[pd.DataFrame, np.ndarray]:
    """Return ``y_true``, ``y_pred`` and ``confidence`` (its score) of each row, and the classes."""
    truth = column_or_1d(check_present(y_true, "y_true"), warn=True)
    score = check_scores(y_score)
    check_consistent_length(truth, score, y_pred)
    classes = unique_labels(truth) if labels is None else np.asarray(labels)
    if score.ndim == 1:
        probabilities = len(score) > 0 and score.min() >= 0 and score.max() <= 1
        score = np.stack([1 - score if probabilities else -score, score], axis=1)
    named = ", ".join(map(str, classes[:10]))
    if score.ndim != 2 or score.shape[1] != len(classes):
        raise ValueError(
            f"y_score has {score.shape[1]} columns, or one for two classes, but there are "
            f"{len(classes)} classes: {named}. Pass labels, one for each column."
        )
    if y_pred is None:
        codes = score.argmax(axis=1)
    else:
        given = column_or_1d(check_present(y_pred, "y_pred"), warn=True)
        order = np.argsort(classes)
        codes = order[np.searchsorted(classes[order], given).clip(0, len(classes) - 1)]
        unknown = given[classes[codes] != given]
        if len(unknown):
            raise ValueError(
                f"y_pred has {unknown.tolist()[0]!r}, which is none of the classes {named}. Pass "
                "labels, one for each column of y_score."
            )
    confidence = score[np.arange(len(score)), codes]
    columns = {"y_true": truth, "y_pred": classes[codes], "confidence": confidence}
    return pd.DataFrame(columns), classes


def _class_names(classes: np.ndarray, display_labels: Any) -> dict[Any, str]:
    """Return the name of each class."""
    names = classes if display_labels is None else list(display_labels)
    if len(names) != len(classes):
        raise ValueError(
            f"display_labels: {len(classes)} names are needed, one for each of "
            f"{', '.join(map(str, classes[:10]))}; got {len(names)}."
        )
    return dict(zip(classes.tolist(), map(str, names), strict=True))


def _distinct(errors: pd.DataFrame, source: ImageSource, groups: np.ndarray | None) -> pd.DataFrame:
    """Sort errors by confidence and drop copies of an image and further rows of a group."""
    table = errors.sort_values("confidence", ascending=False, kind="stable")
    table = table.reset_index(names="row")
    digests = pd.Series([_identity(source, int(row)) for row in table["row"]], dtype=object)
    table["n_copies"] = digests.groupby(digests).transform("size").astype(int)
    seen = digests.duplicated()
    if groups is not None:
        own = pd.Series(groups[table["row"]])
        table["n_in_group"] = own.groupby(own, dropna=False).transform("size").astype(int)
        seen |= own.duplicated()
    return table[~seen]


def _identity(source: ImageSource, row: int) -> bytes | int:
    """Return the same for copies of an image; what cannot be read is like nothing else."""
    try:
        return source.open(row).digest
    except ImageDecodeError:
        return row


def _by_example(confidence: pd.Series, example: str) -> list[int]:
    """Return the rows of a cell, the one that represents it first."""
    ascending = confidence.sort_values(ascending=example != "sure", kind="stable")
    if example == "typical":
        far = np.abs(np.arange(len(ascending)) - (len(ascending) - 1) // 2)
        return ascending.index[np.argsort(far, kind="stable")].tolist()
    return ascending.index.tolist()
