"""ConfusionPairDisplay: what a classifier and experts confuse, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix
from sklearn.utils.multiclass import unique_labels

from sktransfer._utils.per_row import as_columns
from sktransfer._utils.plotting import new_panels
from sktransfer.metrics._labels import check_labels


@dataclass(kw_only=True, eq=False, repr=False)
class ConfusionPairDisplay:
    """Confusion matrices of a classifier and of experts, on the same rows and the same scale.

    Make one with a ``from_`` method. Plotting needs matplotlib (extra ``plot``).

    Parameters
    ----------
    matrices : dict of str to ndarray of shape (n_classes, n_classes)
        A matrix for each who judged, the classifier first.
    display_labels : ndarray of shape (n_classes,)
        Names of the classes.
    normalize : {"true", "pred", "all"} or None, default="true"
        What the numbers are shares of; None: counts.

    Attributes
    ----------
    figure_, axes_ : matplotlib Figure and ndarray of Axes
        The figure, and the axes for each who judged.
    displays_ : list of sklearn.metrics.ConfusionMatrixDisplay
        Display for each who judged.

    See Also
    --------
    sklearn.metrics.ConfusionMatrixDisplay : A single matrix.
    ReaderStudyDisplay : Sensitivity and specificity of the same experts.

    Examples
    --------
    >>> import numpy as np
    >>> from sktransfer.metrics import ConfusionPairDisplay
    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(0, 3, 200)
    >>> network, expert = (np.where(rng.random(200) < p, y, (y + 1) % 3) for p in (0.9, 0.8))
    >>> display = ConfusionPairDisplay.from_predictions(y, network, readers={"expert": expert})
    >>> len(display.axes_)
    2
    """

    matrices: dict[str, np.ndarray]
    display_labels: np.ndarray
    normalize: str | None = "true"

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: Any, *, readers: Any, name: str | None = None, **kwargs: Any
    ) -> ConfusionPairDisplay:
        """Plot the labels that a fitted classifier predicts.

        Parameters
        ----------
        estimator : estimator instance
            Fitted classifier.
        X : array-like, list or DataFrame
            Rows that the classifier has not seen.
        y : array-like of shape (n,)
            True labels.
        readers : mapping of str to array-like of shape (n,), or DataFrame
            The label that each expert gave each row; None or NaN where an expert gave none.
        name : str or None, default=None
            Title of the classifier's matrix. None: the name of the estimator's class.
        **kwargs : dict
            Further parameters of :meth:`from_predictions`.

        Returns
        -------
        display : ConfusionPairDisplay
            The display, plotted.
        """
        name = type(estimator).__name__ if name is None else name
        return cls.from_predictions(y, estimator.predict(X), readers=readers, name=name, **kwargs)

    @classmethod
    def from_predictions(
        cls,
        y_true: Any,
        y_pred: Any,
        *,
        readers: Any,
        labels: Any = None,
        display_labels: Any = None,
        normalize: str | None = "true",
        pool: bool = False,
        name: str = "Classifier",
        **kwargs: Any,
    ) -> ConfusionPairDisplay:
        """Plot from labels.

        Parameters
        ----------
        y_true, y_pred : array-like of shape (n,)
            True labels, and those of the classifier.
        readers : mapping of str to array-like of shape (n,), or DataFrame
            The label that each expert gave each row; None or NaN where an expert gave none.
        labels : array-like of shape (n_classes,) or None, default=None
            Classes in the order to show. None: those that occur, sorted.
        display_labels : array-like of shape (n_classes,) or None, default=None
            Names of the classes. None: the labels themselves.
        normalize : {"true", "pred", "all"} or None, default="true"
            Shares of the rows of each true class, of each predicted class, or of all; None: counts.
        pool : bool, default=False
            Whether all experts go into a single matrix.
        name : str, default="Classifier"
            Title of the classifier's matrix.
        **kwargs : dict
            Parameters of :meth:`plot`, such as ``figure``.

        Returns
        -------
        display : ConfusionPairDisplay
            The display, plotted.
        """
        truth = check_labels(y_true)
        raters = as_columns(readers, len(truth), "readers")
        if raters.empty:
            raise ValueError(
                "readers is empty; for the classifier alone use sklearn's ConfusionMatrixDisplay."
            )
        if name in raters:
            raise ValueError(
                f"A reader and the classifier are both called {name!r}; give the classifier "
                "another name."
            )
        # Rows that an expert did not read are not in the expert's matrix.
        read = {who: (truth[own.notna()], own.dropna().to_numpy()) for who, own in raters.items()}
        if labels is None:
            labels = unique_labels(truth, y_pred, *(given for _, given in read.values()))
        judged: dict[str, Any] = {name: (truth, y_pred), **read}
        if pool and len(read) > 1:
            together = tuple(np.concatenate(each) for each in zip(*read.values(), strict=True))
            judged = {name: (truth, y_pred), f"{len(read)} readers": together}
        matrices = {
            who: confusion_matrix(*both, labels=labels, normalize=normalize)
            for who, both in judged.items()
        }
        shown = labels if display_labels is None else display_labels
        display = cls(matrices=matrices, display_labels=np.asarray(shown), normalize=normalize)
        return display.plot(**kwargs)

    def plot(
        self, *, figure: Any = None, cmap: Any = "Blues", values_format: str | None = None
    ) -> ConfusionPairDisplay:
        """Plot the matrices in a row.

        Parameters
        ----------
        figure : matplotlib Figure or SubFigure or None, default=None
            Figure to plot in. None makes a new one.
        cmap : str or matplotlib Colormap, default="Blues"
            Colors of the matrices.
        values_format : str or None, default=None
            Format of the numbers. None: two decimals for shares.

        Returns
        -------
        display : ConfusionPairDisplay
            The display itself.
        """
        n = len(self.matrices)
        axes, self.figure_ = new_panels(
            figure, self, 1, n, figsize=(3.6 * n + 0.6, 3.6), sharey=True
        )
        self.axes_ = axes.ravel()
        top = max(float(matrix.max()) for matrix in self.matrices.values())
        top = 1.0 if self.normalize in ("true", "pred") else top
        if values_format is None:
            values_format = "d" if self.normalize is None else ".2f"
        self.displays_: list[ConfusionMatrixDisplay] = []
        for ax, (who, matrix) in zip(self.axes_, self.matrices.items(), strict=True):
            display = ConfusionMatrixDisplay(matrix, display_labels=self.display_labels)
            display.plot(
                ax=ax,
                cmap=cmap,
                values_format=values_format,
                colorbar=False,
                im_kw={"vmin": 0, "vmax": top},
            )
            ax.set_title(who)
            if self.displays_:
                ax.set_ylabel("")
            self.displays_.append(display)
        return self
