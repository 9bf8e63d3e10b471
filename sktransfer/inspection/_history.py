"""HistoryDisplay: loss and score of training, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from sktransfer._finetune import FineTuneClassifier, FineTuneRegressor
from sktransfer._utils.plotting import finish_axes, new_panels, palette_color, styled
from sktransfer.inspection._estimator_images import image_reader

_NAMES = {"loss": "Loss", "acc": "Accuracy", "lr": "Learning rate"}
# Prefix in the history, name in the legend, line, and marker where there is a single epoch.
_CURVES = [("train", "training", "--", "_"), ("valid", "validation", "-", "o")]


@dataclass(kw_only=True, eq=False, repr=False)
class HistoryDisplay:
    """Plot of the loss and score of training and validation rows against epochs.

    Use :meth:`from_estimator` to create one. Plotting needs matplotlib (extra ``plot``). A solid
    line shows rows that were held out, a dashed line rows that were trained on, a point the best
    epoch, and a dotted line where training went from the head to the stages.

    Read more in the :ref:`User Guide <inspection-history>`.

    Parameters
    ----------
    history : DataFrame
        A row per classifier and epoch: ``name``, ``epoch`` (from 1), ``phase`` (``"solved"``,
        ``"head"`` or ``"all"``), ``best`` (whether it is the best epoch), and ``train_...`` and
        ``valid_...`` of each metric, NaN where no rows were held out.
    metrics : sequence of str, default=("loss", "acc")
        Metrics, which get a panel each. ``"lr"`` is the largest learning rate.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes, shape (n_metrics,)
        Axes of each metric.
    figure_ : matplotlib Figure
        Figure with the axes.
    lines_, best_ : dict of (name, column) to matplotlib Line2D
        The curves and the points of the best epochs, such as ``lines_["resnet50", "valid_loss"]``.
    phases_ : dict of (name, metric) to list of matplotlib Line2D
        The lines where phases change.

    See Also
    --------
    sktransfer.FineTuneClassifier : Fit the networks whose ``history_`` is shown.

    Notes
    -----
    The loss of training rows is the mean over the batches of an epoch while weights change, with
    augmentation, dropout and class weights; that of held-out rows is taken at the end of the epoch.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sktransfer import FineTuneClassifier
    >>> from sktransfer.inspection import HistoryDisplay
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = FineTuneClassifier("squeezenet1_1", weights=None, image_size=32, max_epochs=2)
    >>> clf = clf.set_params(validation_fraction=0.3, random_state=0)
    >>> display = HistoryDisplay.from_estimator(clf.fit(X[:60] / 16, y[:60]))
    >>> display.gap[["name", "epochs"]]
                     name  epochs
    0  FineTuneClassifier       2
    """

    history: pd.DataFrame
    metrics: Sequence[str] = ("loss", "acc")

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        metrics: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> HistoryDisplay:
        """Plot the history of fitted classifiers.

        Parameters
        ----------
        estimator : FineTuneClassifier, list of these, or dict of name to these
            Fitted classifiers, such as ``cross_validate(..., return_estimator=True)["estimator"]``.
            Each may be the last step of a Pipeline, the best of a search or in a FrozenEstimator.
        metrics : sequence of str or None, default=None
            Names in ``history_`` without ``train_`` and ``valid_``; skorch callbacks can add some.
            ``"lr"`` is the largest learning rate. None: ``"loss"``, and ``"acc"`` of classifiers.
        **kwargs : dict
            Parameters of :meth:`plot`, such as ``ax``.

        Returns
        -------
        display : HistoryDisplay
            The display, plotted.
        """
        frames = [_history(name, each) for name, each in _named(estimator).items()]
        history = pd.concat(frames, ignore_index=True)
        if metrics is None:
            metrics = ["loss", *(["acc"] if "train_acc" in history else [])]
        for metric in metrics:
            if not {f"train_{metric}", f"valid_{metric}"} & set(history.columns):
                there = sorted({each.split("_", 1)[1] for each in history.columns if "_" in each})
                raise ValueError(
                    f"metrics: there is no {metric!r} in the history; use any of "
                    f"{', '.join(there)}."
                )
        return cls(history=history, metrics=tuple(metrics)).plot(**kwargs)

    @property
    def gap(self) -> pd.DataFrame:
        """Return training and validation metrics at the best epoch, and their gap.

        Returns
        -------
        gap : DataFrame
            A row per classifier: ``name``, ``epochs``, ``best_epoch``, and for each metric
            ``train_...``, ``valid_...`` and ``..._gap``, which is validation minus training. A
            gap of the loss well above 0 (of accuracy: below) is overfitting.
        """
        rows = []
        for name, own in self.history.groupby("name", sort=False):
            best = own[own["best"]].iloc[-1]
            row = {"name": name, "epochs": len(own), "best_epoch": int(best["epoch"])}
            for metric in self.metrics:
                train, valid = (float(best.get(f"{part}_{metric}", np.nan)) for part, *_ in _CURVES)
                row |= {
                    f"train_{metric}": train,
                    f"valid_{metric}": valid,
                    f"{metric}_gap": valid - train,
                }
            rows.append(row)
        return pd.DataFrame(rows)

    def plot(
        self, ax: Any = None, *, show_phases: bool = True, line_kwargs: dict[str, Any] | None = None
    ) -> HistoryDisplay:
        """Plot a panel for each metric.

        Parameters
        ----------
        ax : matplotlib Axes, array-like of Axes, or None, default=None
            As many axes as metrics; a single one is divided among them. None makes a new figure.
        show_phases : bool, default=True
            Whether lines show where a phase of training ends and the next begins.
        line_kwargs : dict or None, default=None
            Keyword arguments for matplotlib's ``plot`` of the curves.

        Returns
        -------
        display : HistoryDisplay
            The display itself.
        """
        self.axes_ = self._panels(ax)
        self.figure_ = self.axes_[0].figure
        self.lines_: dict[tuple[str, str], Any] = {}
        self.best_: dict[tuple[str, str], Any] = {}
        self.phases_: dict[tuple[str, str], list[Any]] = {}
        several = self.history["name"].nunique() > 1
        for panel, metric in zip(self.axes_, self.metrics, strict=True):
            for number, (name, own) in enumerate(self.history.groupby("name", sort=False)):
                color = palette_color(number)
                best = own[own["best"]]
                for part, words, linestyle, marker in _CURVES:
                    column = f"{part}_{metric}"
                    if column not in own or own[column].isna().all():
                        continue
                    settings = styled(
                        line_kwargs,
                        color=color,
                        linestyle=linestyle,
                        marker=marker if len(own) == 1 else None,
                        label=f"{name}, {words}" if several else words,
                    )
                    (line,) = panel.plot(own["epoch"], own[column], **settings)
                    self.lines_[str(name), column] = line
                    (self.best_[str(name), column],) = panel.plot(
                        best["epoch"], best[column], "o", color=line.get_color()
                    )
                changes = own["epoch"][own["phase"].ne(own["phase"].shift()) & (own["epoch"] > 1)]
                self.phases_[str(name), metric] = [
                    panel.axvline(epoch - 0.5, color=color, linestyle=":", linewidth=1)
                    for epoch in (changes if show_phases else ())
                ]
            finish_axes(panel, xlabel="Epoch", ylabel=_NAMES.get(metric, metric))
            panel.xaxis.get_major_locator().set_params(integer=True)
        return self

    def _panels(self, ax: Any) -> np.ndarray:
        n = len(self.metrics)
        if ax is None:
            return new_panels(None, self, 1, n, figsize=(4.5 * n, 3.6))[0].ravel()
        if np.ndim(ax) == 0 and n > 1:
            # As scikit-learn's PartialDependenceDisplay does it.
            ax.set_axis_off()
            grid = ax.get_subplotspec().subgridspec(1, n, wspace=0.35)
            return np.array([ax.figure.add_subplot(grid[i]) for i in range(n)], dtype=object)
        panels = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
        if len(panels) != n:
            raise ValueError(f"ax: {n} axes are needed, one for each metric; got {len(panels)}.")
        return panels


def _named(estimator: Any) -> dict[str, Any]:
    """Return the estimators by the names that they have in the legend."""
    if isinstance(estimator, Mapping):
        named = {str(name): each for name, each in estimator.items()}
    elif isinstance(estimator, (list, tuple)):
        named = {f"fit {number}": each for number, each in enumerate(estimator, 1)}
    else:
        named = {FineTuneClassifier.__name__: estimator}
    if not named:
        raise ValueError("estimator must hold at least one fitted FineTuneClassifier; got none.")
    return named


def _history(name: str, estimator: Any) -> pd.DataFrame:
    """Return a row for each epoch, with the metrics of training and validation rows."""
    classifier = image_reader(estimator)
    if not isinstance(classifier, (FineTuneClassifier, FineTuneRegressor)):
        raise TypeError(
            "estimator must be a FineTuneClassifier or FineTuneRegressor, which keeps "
            f"a history of epochs, or hold one; got a {type(estimator).__name__}."
        )
    check_is_fitted(classifier)
    history: Any = classifier.history_
    table = pd.DataFrame(list(history))
    # The best epoch is counted within the last phase; n_epochs_ is 0 where the head was solved.
    best = len(table)
    if classifier.n_epochs_:
        best += max(classifier.best_epoch_, 1) - classifier.n_epochs_
    epochs = np.arange(1, len(table) + 1)
    phases = table["phase"].fillna("all") if "phase" in table else "all"
    parts = table.columns.str.startswith(("train_", "valid_"))
    metrics = table.loc[:, parts & ~table.columns.str.endswith(("_best", "_count"))].astype(float)
    if "lr" in table:  # not of a head that was solved
        metrics["train_lr"] = table["lr"].astype(float)
    known = {"name": name, "epoch": epochs, "phase": phases, "best": epochs == best}
    return pd.concat([pd.DataFrame(known), metrics], axis=1)
