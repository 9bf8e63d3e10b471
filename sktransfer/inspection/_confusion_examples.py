"""ConfusionExamplesDisplay: a confusion matrix with an image in each cell; never a network."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix
from sklearn.utils.validation import check_consistent_length

from sktransfer._images import ImageSource
from sktransfer._utils.plotting import new_axes
from sktransfer.inspection._estimator_images import images_of, shown_small
from sktransfer.inspection._judged import Judged, class_names, judged
from sktransfer.inspection._judged_display import JudgedDisplay
from sktransfer.metrics._confusion_pair import normalized

# Of a cell of side 1: the longer side of its image, and how far that is above the middle.
_SIDE, _RAISED = 0.72, 0.09
_NUMBER_AT = 0.39
# Images tried before a cell is left without one.
_TRIES = 5


class ConfusionExamplesDisplay(JudgedDisplay):
    """A confusion matrix that shows in each cell one of the images counted there.

    Make one with :meth:`from_estimator` or :meth:`from_predictions`. Needs matplotlib (extra
    ``plot``) to plot.

    Read more in the :ref:`User Guide <seeing-errors>`.

    Parameters
    ----------
    confusion_matrix : ndarray of shape (n_classes, n_classes)
        True classes down, predicted ones across.
    rows : dict of (int, int) to int
        Which row of ``X`` is the example of a cell; cells without images have none.
    images : dict of (int, int) to ndarray of shape (h, w, 3)
        The examples, with values from 0 to 1.
    display_labels : list of str
        Names of the classes.
    normalize : {"true", "pred", "all"} or None, default=None
        What the numbers are shares of.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    display_ : sklearn.metrics.ConfusionMatrixDisplay
        The matrix below the images.
    images_ : dict of (int, int) to matplotlib AxesImage
        The images.

    See Also
    --------
    ErrorGalleryDisplay : The errors that a classifier was surest of.
    ConfusionPairDisplay : Matrices of a network and of experts.

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
    >>> int(y[60:][display.rows[1, 1]])
    1
    """

    def __init__(
        self,
        *,
        confusion_matrix: np.ndarray,
        rows: dict[tuple[int, int], int],
        images: dict[tuple[int, int], np.ndarray],
        display_labels: list[str],
        normalize: str | None = None,
    ) -> None:
        self.confusion_matrix = confusion_matrix
        self.rows = rows
        self.images = images
        self.display_labels = display_labels
        self.normalize = normalize

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
        example: str = "typical",
        normalize: str | None = None,
        display_labels: Any = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> ConfusionExamplesDisplay:
        """Plot from labels and scores, such as those of ``cross_val_predict``.

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
        example : {"typical", "sure", "doubtful"}, default="typical"
            Which image stands for a cell: that of median confidence among those counted there
            (the lower of two in the middle), of the highest, or of the lowest.
        normalize : {"true", "pred", "all"} or None, default=None
            Shares of the true class, of the predicted one, or of all rows; None: counts.
        display_labels : array-like of shape (n_classes,) or None, default=None
            Names of the classes. None: the labels themselves.
        ax : matplotlib Axes or None, default=None
            Where to plot. None makes new ones.
        **kwargs
            As of :meth:`plot`.

        Returns
        -------
        ConfusionExamplesDisplay

        Raises
        ------
        ValueError
            If lengths differ, columns and classes do not match, or a score is NaN.
        """
        return cls._of(
            judged(y_true, y_score, y_pred=y_pred, labels=labels),
            images_of(None, X, image_shape, value_range),
            example=example,
            normalize=normalize,
            display_labels=display_labels,
            ax=ax,
            **kwargs,
        )

    @classmethod
    def _of(
        cls,
        found: Judged,
        source: ImageSource,
        *,
        example: str = "typical",
        normalize: str | None = None,
        display_labels: Any = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> ConfusionExamplesDisplay:
        if example not in ("typical", "sure", "doubtful"):
            raise ValueError(f'example must be "typical", "sure" or "doubtful"; got {example!r}.')
        check_consistent_length(found.y_true, range(len(source)))
        names = class_names(found.classes, display_labels)
        counts = confusion_matrix(found.y_true, found.y_pred, labels=found.classes)
        rows, images = {}, {}
        for i, j in zip(*np.nonzero(counts), strict=True):
            true, predicted = found.classes[i], found.classes[j]
            own = np.flatnonzero((found.y_true == true) & (found.y_pred == predicted))
            for row in _in_order(own, found.confidence[own], example)[:_TRIES]:
                image = shown_small(source, int(row))
                if image is not None:
                    cell = int(i), int(j)
                    rows[cell], images[cell] = int(row), image
                    break
        display = cls(
            confusion_matrix=normalized(counts, normalize),
            rows=rows,
            images=images,
            display_labels=list(names.values()),
            normalize=normalize,
        )
        return display.plot(ax, **kwargs)

    def plot(
        self, ax: Any = None, *, cmap: Any = "Blues", values_format: str | None = None
    ) -> ConfusionExamplesDisplay:
        """Plot the matrix, and the images on it.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Where to plot. None makes new ones.
        cmap : str or matplotlib Colormap, default="Blues"
        values_format : str or None, default=None
            Of the numbers. None: two decimals for shares.

        Returns
        -------
        ConfusionExamplesDisplay
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
            # Below the image; where there is none, it has the cell for itself.
            if place in self.images:
                text.set_y(place[0] + _NUMBER_AT)
        limits = self.ax_.get_xlim(), self.ax_.get_ylim()
        self.images_ = {}
        for (i, j), image in self.images.items():
            height, width = _SIDE * np.array(image.shape[:2]) / max(image.shape[:2]) / 2
            middle = i - _RAISED
            extent = (j - width, j + width, middle + height, middle - height)
            self.images_[i, j] = self.ax_.imshow(image, extent=extent, zorder=2)
        self.ax_.set(xlim=limits[0], ylim=limits[1])
        return self


def _in_order(rows: np.ndarray, confidence: np.ndarray, example: str) -> np.ndarray:
    """Rows of a cell, the one that is to stand for it first."""
    ascending = rows[np.argsort(confidence, kind="stable")]
    if example == "doubtful":
        return ascending
    if example == "sure":
        return rows[np.argsort(-confidence, kind="stable")]
    places = np.arange(len(rows))
    return ascending[np.argsort(np.abs(places - (len(rows) - 1) // 2), kind="stable")]
