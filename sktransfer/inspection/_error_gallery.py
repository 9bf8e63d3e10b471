"""ErrorGalleryDisplay: the errors a classifier was surest of; it must not know networks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_consistent_length, column_or_1d

from sktransfer._images import ImageSource
from sktransfer._utils.config import import_optional
from sktransfer.exceptions import ImageDecodeError
from sktransfer.inspection._estimator_images import images_of, shown_small
from sktransfer.inspection._judged import (
    Judged,
    class_names,
    confidence_text,
    judged,
)
from sktransfer.inspection._judged_display import JudgedDisplay

# Longer names would run into the next image.
_LONGEST_NAME = 18


class ErrorGalleryDisplay(JudgedDisplay):
    """The images that a classifier got wrong, those it was surest of first.

    Make one with :meth:`from_estimator` or :meth:`from_predictions`. Needs matplotlib (extra
    ``plot``) to plot.

    Read more in the :ref:`User Guide <seeing-errors>`.

    Parameters
    ----------
    table : DataFrame
        A row for each image shown: ``row`` (of ``X``), ``y_true``, ``y_pred``, ``confidence``
        (the score of the class that was predicted), ``n_copies`` (how many of the errors are this
        very image), and with groups ``n_in_group`` (how many are of its group). It holds no
        names of files or groups.
    images : list of (ndarray of shape (h, w, 3) or None)
        Values from 0 to 1; None for one that cannot be read.
    n_errors, n_rows : int
        How many rows are wrong, of how many.
    by_class : bool, default=False
        Whether each true class begins a row of the grid.
    names : dict of label to str or None, default=None
        What the classes are called.
    row_names : list of str or None, default=None
        What the rows are called. None: their numbers.

    Attributes
    ----------
    figure_ : matplotlib Figure or SubFigure
    axes_ : ndarray of matplotlib Axes, shape (n_images,)
        One for each image; a single one that says so where there are no errors.

    See Also
    --------
    ConfusionExamplesDisplay : An example for each pair of true and predicted class.
    EmbeddingDisplay : Where errors lie among all images.

    Notes
    -----
    Look here first for wrong labels, for images that show something else, and for what they have
    in common. Take rows that the model has not seen.

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
    >>> bool(display.table["confidence"].is_monotonic_decreasing)
    True
    """

    def __init__(
        self,
        *,
        table: pd.DataFrame,
        images: list[np.ndarray | None],
        n_errors: int,
        n_rows: int,
        by_class: bool = False,
        names: dict[Any, str] | None = None,
        row_names: list[str] | None = None,
    ) -> None:
        self.table = table
        self.images = images
        self.n_errors = n_errors
        self.n_rows = n_rows
        self.by_class = by_class
        self.names = names
        self.row_names = row_names

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
        value_range: Any = None,
        n_images: int = 12,
        by_class: bool = False,
        groups: Any = None,
        display_labels: Any = None,
        row_names: Any = None,
        figure: Any = None,
        **kwargs: Any,
    ) -> ErrorGalleryDisplay:
        """Plot the errors among rows with scores, such as those of ``cross_val_predict``.

        Parameters
        ----------
        y_true : array-like of shape (n,)
            True labels.
        y_score : array-like of shape (n,) or (n, n_classes)
            A column for each class; or, of two classes, scores of the second: probabilities if all
            lie between 0 and 1, otherwise on either side of 0.
        X : collection of images, n rows
            In any of the :ref:`accepted forms <accepted-inputs>`.
        y_pred : array-like of shape (n,) or None, default=None
            Predicted labels. None: the class with the highest score.
        labels : array-like of shape (n_classes,) or None, default=None
            The classes, in the order of the columns. None: those in ``y_true``, sorted.
        image_shape, value_range : default=None
            As in :class:`~sktransfer.PretrainedFeatureExtractor`. Without ``value_range``, arrays
            are shown from their least value to their largest.
        n_images : int, default=12
            How many images at most.
        by_class : bool, default=False
            Whether each true class that has errors gets an equal part of them, one at the least, in
            rows of its own. Where a threshold other than one half decides, the missed ones would
            otherwise stand before the false alarms, or the other way round.
        groups : array-like of shape (n,) or None, default=None
            Patients, of whom each is shown once, with the surest error. They are not named.
        display_labels : array-like of shape (n_classes,) or None, default=None
            Names of the classes. None: the labels themselves.
        row_names : array-like of shape (n,) or None, default=None
            What is written alongside an image in place of the number of its row.
        figure : matplotlib Figure or SubFigure or None, default=None
            Where to plot. None makes a new one.
        **kwargs
            As of :meth:`plot`.

        Returns
        -------
        ErrorGalleryDisplay
            Copies of an image, which are recognized by their content, are shown once.

        Raises
        ------
        ValueError
            If lengths differ, columns and classes do not match, or a score is NaN.
        """
        return cls._of(
            judged(y_true, y_score, y_pred=y_pred, labels=labels),
            images_of(None, X, image_shape, value_range),
            n_images=n_images,
            by_class=by_class,
            groups=groups,
            display_labels=display_labels,
            row_names=row_names,
            figure=figure,
            **kwargs,
        )

    @classmethod
    def _of(
        cls,
        found: Judged,
        source: ImageSource,
        *,
        n_images: int = 12,
        by_class: bool = False,
        groups: Any = None,
        display_labels: Any = None,
        row_names: Any = None,
        figure: Any = None,
        **kwargs: Any,
    ) -> ErrorGalleryDisplay:
        if n_images < 1:
            raise ValueError(f"n_images must be at least 1; got {n_images!r}.")
        groups, row_names = (
            None if each is None else column_or_1d(each) for each in (groups, row_names)
        )
        check_consistent_length(found.y_true, range(len(source)), groups, row_names)
        table = _distinct_errors(found, source, groups)
        if by_class:
            n_classes = max(1, table["y_true"].nunique())
            table = table.sort_values("y_true", kind="stable")
            table = table.groupby("y_true", sort=False).head(max(1, n_images // n_classes))
        else:
            table = table.head(n_images)
        display = cls(
            table=table.reset_index(drop=True),
            images=[shown_small(source, int(row)) for row in table["row"]],
            n_errors=int(found.wrong.sum()),
            n_rows=len(source),
            by_class=by_class,
            names=class_names(found.classes, display_labels),
            row_names=None if row_names is None else [str(row_names[i]) for i in table["row"]],
        )
        return display.plot(figure=figure, **kwargs)

    def plot(
        self, *, figure: Any = None, n_columns: int | None = None, show_rows: bool = True
    ) -> ErrorGalleryDisplay:
        """Plot the images in a grid.

        Parameters
        ----------
        figure : matplotlib Figure or SubFigure or None, default=None
            Where to plot. None makes a new one.
        n_columns : int or None, default=None
            Images in a row of the grid. None: six at most.
        show_rows : bool, default=True
            Whether to write alongside each image which row it is.

        Returns
        -------
        ErrorGalleryDisplay
        """
        pyplot = import_optional(
            "matplotlib.pyplot", extra="plot", purpose="ErrorGalleryDisplay.plot"
        )
        blocks = [np.arange(len(self.table))]
        if self.by_class:
            starts = np.flatnonzero(self.table["y_true"].ne(self.table["y_true"].shift()))[1:]
            blocks = np.split(blocks[0], starts)
        widest = max(len(block) for block in blocks)
        columns = max(1, n_columns or math.ceil(widest / math.ceil(max(1, widest) / 6)))
        places = []
        line = 0
        for block in blocks:
            places += [(line + i // columns, i % columns) for i in range(len(block))]
            line += math.ceil(len(block) / columns)
        if figure is None:
            figure = pyplot.figure(
                figsize=(max(1.9 * columns, 4), 2.5 * max(line, 1) + 0.4), layout="constrained"
            )
        self.figure_ = figure
        grid = figure.subplots(max(line, 1), columns, squeeze=False)
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
            axes.set_title(self._words(number, show_rows), fontsize=8, loc="left")
        errors = "error" if self.n_errors == 1 else "errors"
        figure.suptitle(
            f"{len(places)} of {self.n_errors} {errors} among {self.n_rows} rows", fontsize=10
        )
        return self

    def _words(self, number: int, show_rows: bool) -> str:
        # Not iloc: a Series of all columns would turn row numbers into floats.
        error = {name: values.iloc[number] for name, values in self.table.items()}
        lines = [
            f"true: {self._name(error['y_true'])}",
            f"predicted: {self._name(error['y_pred'])} ({confidence_text(error['confidence'])})",
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


def _distinct_errors(found: Judged, source: ImageSource, groups: np.ndarray | None) -> pd.DataFrame:
    """All errors, surest first, without further copies of an image or rows of a group."""
    errors = np.flatnonzero(found.wrong)
    errors = errors[np.argsort(-found.confidence[errors], kind="stable")]
    table = pd.DataFrame(
        {
            "row": errors,
            "y_true": found.y_true[errors],
            "y_pred": found.y_pred[errors],
            "confidence": found.confidence[errors],
        }
    )
    digests = pd.Series([_identity(source, int(row)) for row in errors], dtype=object)
    table["n_copies"] = digests.groupby(digests).transform("size").astype(int)
    seen = digests.duplicated()
    if groups is not None:
        own = pd.Series(groups[errors])
        table["n_in_group"] = own.groupby(own, dropna=False).transform("size").astype(int)
        seen |= own.duplicated()
    return table[~seen]


def _identity(source: ImageSource, row: int) -> bytes | int:
    """The same for copies of an image; what cannot be read is like nothing else."""
    try:
        return source.open(row).digest
    except ImageDecodeError:
        return row
