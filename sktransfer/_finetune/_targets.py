"""What ``y`` is of: one class a row, or several findings; other kinds are subclasses elsewhere.

A fit asks the target for all that depends on this: how many outputs the head has, which loss is
trained, how a linear head is solved, what rows lose, and what outputs mean. It must not know
networks, images or estimators.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from scipy.special import expit, log_softmax, softmax
from sklearn.metrics import accuracy_score
from sklearn.utils import compute_class_weight
from torch import Tensor, nn
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    logsigmoid,
    one_hot,
)

from sktransfer._utils.cumulative_link import solve_cumulative_link
from sktransfer._utils.logistic import (
    FLOOR,
    fit_temperature,
    solve_independent,
    solve_linear,
)
from sktransfer._utils.multilabel import share_correct
from sktransfer._utils.names import quoted
from sktransfer._utils.splitting import iterative_folds, stratified_folds

# What a saved label may be: boolean, number, text of bounded length, or object.
_LABELS = re.compile(r"[|<>](?:[biuf]\d|U\d{1,5}|O)")
KINDS_DIFFER = (
    "y is of another kind than the y that this network was trained on, such as one class a row "
    "where there were several findings. Fit from scratch (warm_start=False)."
)
# From nothing to numbers of units, which cost a look at all images.
Units = Callable[[], np.ndarray]
_WORST = -math.log(np.finfo(np.float64).eps)  # of losses, however wrong a row is


@dataclass(frozen=True)
class Target:
    """One class a row: codes, cross-entropy, probabilities that sum to one.

    ``classes`` are their labels, sorted. Codes are what ``y`` is in a fit, outputs are logits.
    """

    classes: np.ndarray

    loss: ClassVar[str] = "cross_entropy"  # that the default of ``loss`` means
    dtype: ClassVar[Any] = np.int64  # of encoded ``y``

    @property
    def n_outputs(self) -> int:
        """How many numbers the network gives for a row."""
        return len(self.classes)

    @property
    def width(self) -> int:
        """Width of the last layer of the head."""
        return self.n_outputs

    def link(self) -> nn.Module | None:
        """Return what makes outputs of the last layer's, if they are not the same."""
        return None

    def loss_named(self, loss: str) -> str:
        """Return which loss a value of the parameter ``loss`` means here."""
        if loss == "binary_cross_entropy":
            if len(self.classes) > 2:
                raise ValueError(
                    f"loss='binary_cross_entropy' is of findings that do not exclude each other, "
                    f"and y has one of {len(self.classes)} classes in each row: use "
                    "loss='cross_entropy', or give y as a matrix with a column of 0 and 1 for each "
                    "finding."
                )
            return "cross_entropy"  # of two classes it is the same
        return loss

    # --- before training -------------------------------------------------------------------------

    def lacking(self, y: np.ndarray) -> str:
        """Say why nothing can be learned from rows; empty if something can."""
        present = np.unique(y)
        return "" if len(present) > 1 else f"one class, {self.classes[present].tolist()}"

    def weighed(self, y: np.ndarray, weight: np.ndarray, class_weight: Any) -> Target:
        """Return this target with the class weights that rows of training give."""
        return self

    def encoded(self, y: np.ndarray) -> np.ndarray:
        """Return ``y`` as it is trained on, once the rows of training are known."""
        return y

    def row_weights(self, y: np.ndarray, weight: np.ndarray, class_weight: Any) -> np.ndarray:
        """Return the weights of rows times those of their classes."""
        if class_weight is None:
            return weight
        if class_weight == "balanced":
            # Of the weighted rows, so that a weight of two is the same as a row twice.
            total = np.bincount(y, weights=weight, minlength=len(self.classes))
            present = total > 0
            factor = np.zeros(len(self.classes))
            factor[present] = weight.sum() / (present.sum() * total[present])
        else:
            factor = compute_class_weight(class_weight, classes=self.classes, y=self.classes[y])
            if not (np.isfinite(factor) & (factor >= 0)).all():
                raise ValueError(f"class_weight must be positive; got {class_weight!r}.")
        return weight * factor[y]

    def named(self, y: np.ndarray) -> np.ndarray:
        """Return labels, so that errors name them."""
        return self.classes[y]

    def strata(self, y: np.ndarray) -> np.ndarray:
        """Return what splits are stratified by."""
        return self.named(y)

    def halves(
        self, y: np.ndarray, units: np.ndarray, seed: int
    ) -> list[tuple[np.ndarray, np.ndarray]] | None:
        """Divide rows into two halves, stratified; return for each its rows and others to judge by.

        Rows of a unit stay together. None if a half cannot be learned from, or tells nothing.
        """
        n_units = np.array([len(np.unique(units[y == c])) for c in range(len(self.classes))])
        if (n_units > 1).sum() < 2:
            return None
        # scikit-learn warns of a class that there is too little of to divide.
        strata = np.where(n_units[y] > 1, y, int(n_units.argmax()))
        grouped = units.max() + 1 < len(y)
        folds = stratified_folds(2, grouped=grouped, random_state=seed)
        parts = folds.split(strata, strata, units if grouped else None)
        return [(half, other[np.isin(y[other], y[half])]) for half, other in parts]

    def solve(
        self,
        embeddings: np.ndarray,
        y: np.ndarray,
        weight: np.ndarray,
        C: Any,
        units: Units | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return coefficients (width, d) and intercepts of a linear head, solved.

        ``units`` returns what rows belong to that are independent of all others; None: each row
        is.
        """
        return solve_linear(embeddings, y, weight, self.n_outputs, C, floor=FLOOR)

    # --- in training -----------------------------------------------------------------------------

    def of_loss(self, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the targets of the loss of a batch, and the weight of each of its terms."""
        return y, weight

    def shares(self, y: Tensor) -> Tensor:
        """Return what is mixed where images are: the share of each output, (n, n_outputs)."""
        return one_hot(y, self.n_outputs)

    def correct(self, outputs: Tensor, y: Tensor) -> float:
        """Return the share of rows whose likeliest class is theirs."""
        return (outputs.argmax(1) == y.to(outputs.device)).double().mean().item()

    def mean_loss(self, outputs: Tensor, y: Tensor) -> float:
        """Return the unweighted mean loss."""
        return cross_entropy(outputs, y).item()

    def affinity(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return how well the outputs of each row suit what each other row is, (n, n)."""
        return outputs[:, y]

    # --- after training --------------------------------------------------------------------------

    def normalized(self, logits: np.ndarray) -> np.ndarray:
        """Return log-probabilities."""
        return log_softmax(logits, axis=1)

    def temperature(self, outputs: np.ndarray, y: np.ndarray, weight: np.ndarray) -> float:
        """Return the temperature of least loss of normalized outputs."""
        return fit_temperature(outputs, y, weight)

    def as_given(self, y: np.ndarray) -> Any:
        """Return encoded ``y`` in a form that an estimator takes."""
        return self.classes[y]

    def log_losses(self, logits: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the loss of each row; finite, however wrong it is."""
        with np.errstate(all="ignore"):
            each = -log_softmax(logits, axis=1)[np.arange(len(y)), y]
        return np.nan_to_num(each, nan=_WORST, posinf=_WORST).clip(max=_WORST)

    def scaled_losses(self, logits: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Return log losses at the temperature that is best for these rows.

        Training sharpens probabilities, which can be had without it.
        """
        finite = np.isfinite(logits).all(axis=1)
        judged = finite & (weight > 0)
        inverse = 1.0
        if judged.any():
            top = logits.max(axis=1, keepdims=True, where=finite[:, None], initial=-np.inf)
            logits = logits - top
            inverse = 1 / fit_temperature(logits[judged], y[judged], weight[judged])
        return self.log_losses(logits * inverse, y)

    def decision(self, logits: np.ndarray) -> np.ndarray:
        """Return what ``decision_function`` does."""
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Return what ``predict_proba`` does."""
        return softmax(logits, axis=1)

    def predicted(self, logits: np.ndarray) -> np.ndarray:
        """Return what ``predict`` does."""
        return self.classes[logits.argmax(axis=1)]

    def accuracy(self, predicted: np.ndarray, y: Any, sample_weight: Any) -> float:
        """Return the share of rows that are predicted correctly."""
        return float(accuracy_score(y, predicted, sample_weight=sample_weight))

    def written(self) -> dict[str, Any]:
        """Return the target as JSON has it; labels that it has no type for, as text."""
        values = self.classes.tolist()
        if self.classes.dtype.kind not in "biufU":
            values = [v if isinstance(v, (str, int, float)) else repr(v) for v in values]
        return {"dtype": self.classes.dtype.str, "values": values}

    @classmethod
    def read(cls, written: dict[str, Any]) -> Target:
        """Return what :meth:`written` was of; raise ValueError for what no fit has found."""
        kind, values = written["dtype"], written["values"]
        if _LABELS.fullmatch(kind):
            classes = np.asarray(values, dtype=np.dtype(kind))
            if classes.ndim == 1 and classes.tolist() == values and cls._sound(classes):
                return cls(classes)
        raise ValueError(f"its classes are {values!r} of type {kind}, and not sorted labels.")

    @staticmethod
    def _sound(classes: np.ndarray) -> bool:
        return len(classes) > 1 and np.array_equal(np.unique(classes), classes)


@dataclass(frozen=True)
class Findings(Target):
    """Several findings a row, independent of each other: columns of 0 and 1, NaN where unknown.

    ``classes`` are their names, in the order of the columns. ``factors`` are the weights of rows
    without and with each, (n_findings, 2), None where all are one. An unknown finding counts
    nowhere, and so changes nothing for the others.
    """

    factors: np.ndarray | None = None

    loss: ClassVar[str] = "binary_cross_entropy"
    dtype: ClassVar[Any] = np.float64

    def loss_named(self, loss: str) -> str:
        """Return the loss of independent findings."""
        if loss == "cumulative_link":
            raise ValueError(
                "loss='cumulative_link' is of one grade a row, and y has several labels a row: use "
                "loss='binary_cross_entropy', or fit an estimator for each column of grades."
            )
        return {"cross_entropy": "binary_cross_entropy", "focal": "binary_focal"}.get(loss, loss)

    def lacking(self, y: np.ndarray) -> str:
        """Say that no finding has rows with and without it; warn of one that has not."""
        constant = ~((y == 0).any(axis=0) & (y == 1).any(axis=0))
        if constant.all():
            return "one class in every column"
        if constant.any():
            names = ", ".join(quoted(str(name)) for name in self.classes[constant])
            warnings.warn(
                f"Nothing is learned of {names}: no row of training has it, or none is known to be "
                "without it. What is predicted is the same for all images. Give more rows, or "
                "leave the column out.",
                stacklevel=2,
            )
        return ""

    def weighed(self, y: np.ndarray, weight: np.ndarray, class_weight: Any) -> Findings:
        """Return these findings with the weights of rows without and with each."""
        if class_weight is None:
            return replace(self, factors=None)
        factors = np.ones((len(self.classes), 2))
        for place, (name, own) in enumerate(self._class_weights(class_weight)):
            if own == "balanced":
                total = np.array([weight[y[:, place] == value].sum() for value in (0, 1)])
                if total.all():
                    factors[place] = total.sum() / (2 * total)
            elif own is not None:
                given = own if isinstance(own, dict) else {1: own}
                if not {0, 1}.issuperset(given):
                    raise ValueError(
                        f"class_weight of {name!r} is of rows without it (0) and with it (1); got "
                        f"{own!r}."
                    )
                factors[place] = [given.get(0, 1.0), given.get(1, 1.0)]
            if not (np.isfinite(factors[place]) & (factors[place] >= 0)).all():
                raise ValueError(f"class_weight of {name!r} must be positive; got {own!r}.")
        return replace(self, factors=factors)

    def _class_weights(self, class_weight: Any) -> list[tuple[Any, Any]]:
        """Return for each finding its name and what is given for it."""
        names = self.classes.tolist()
        if class_weight == "balanced":
            return [(name, class_weight) for name in names]
        if isinstance(class_weight, dict):
            if unknown := [name for name in class_weight if name not in names]:
                raise ValueError(
                    f"class_weight is by finding, {{finding: weight of rows that have it}}, and "
                    f"{unknown[0]!r} is none of them; they are {names}."
                )
            return [(name, class_weight.get(name)) for name in names]
        if len(class_weight) != len(names):
            raise ValueError(
                f"class_weight has {len(class_weight)} entries for {len(names)} findings, {names}."
            )
        return list(zip(names, class_weight, strict=True))

    def row_weights(self, y: np.ndarray, weight: np.ndarray, class_weight: Any) -> np.ndarray:
        """Return the weights of rows; those of findings are in ``factors``."""
        return weight

    def named(self, y: np.ndarray) -> np.ndarray:
        """Return findings, of one finding as a label."""
        return y if y.shape[1] > 1 else y[:, 0]

    def halves(
        self, y: np.ndarray, units: np.ndarray, seed: int
    ) -> list[tuple[np.ndarray, np.ndarray]] | None:
        """Divide rows into two halves with each finding in both, as nearly as possible."""
        if units.max() < 1:
            return None
        fold = iterative_folds(y, 2, groups=units, random_state=seed)
        parts = [(np.flatnonzero(fold == k), np.flatnonzero(fold != k)) for k in (0, 1)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return None if any(self.lacking(y[half]) for half, _ in parts) else parts

    def solve(
        self,
        embeddings: np.ndarray,
        y: np.ndarray,
        weight: np.ndarray,
        C: Any,
        units: Units | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return coefficients (n_findings, d) and intercepts, all solved at once."""
        cost = self.costs(y, weight)
        return solve_independent(embeddings, y == 1, weight, cost, C, floor=FLOOR)

    def costs(self, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Return the weight of each finding in each row, 0 where it is unknown."""
        known = weight[:, None] * ~np.isnan(y)
        return known if self.factors is None else known * np.where(y == 1, *self.factors.T[::-1])

    def of_loss(self, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return findings, and the weight of each in each row, 0 where it is unknown."""
        known, y = weight[:, None].to(y) * ~y.isnan(), y.nan_to_num()
        if self.factors is None:
            return y, known
        without, with_it = torch.as_tensor(self.factors.T).to(y)
        return y, known * (without + y * (with_it - without))

    def shares(self, y: Tensor) -> Tensor:
        """Return findings as they are: of a mixture with an unknown one nothing is known."""
        return y

    def correct(self, outputs: Tensor, y: Tensor) -> float:
        """Return the share of known findings that are predicted correctly."""
        y = y.to(outputs)
        known = ~y.isnan()
        return ((outputs > 0) == (y > 0.5))[known].double().mean().item()

    def mean_loss(self, outputs: Tensor, y: Tensor) -> float:
        """Return the unweighted mean loss of known findings."""
        known = ~y.isnan()
        return binary_cross_entropy_with_logits(outputs[known], y[known]).item()

    def affinity(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return how well the outputs of each row suit the findings of each other, (n, n)."""
        return outputs @ (2 * y - 1).nan_to_num().to(outputs).T

    def normalized(self, logits: np.ndarray) -> np.ndarray:
        """Return logits as they are."""
        return logits

    def temperature(self, outputs: np.ndarray, y: np.ndarray, weight: np.ndarray) -> float:
        """Return the temperature of least loss of all findings."""
        row, place = np.nonzero(~np.isnan(y))
        half = outputs[row, place, None] * [[-0.5, 0.5]]
        return fit_temperature(half, y[row, place].astype(int), weight[row])

    def as_given(self, y: np.ndarray) -> Any:
        """Return encoded ``y`` with the names of its columns."""
        if y.shape[1] == 1:  # a table of one column is of classes
            told = [None if np.isnan(value) else value for value in y[:, 0]]
            return [None if value is None else set(self.classes[: int(value)]) for value in told]
        return pd.DataFrame(y, columns=self.classes)

    def log_losses(self, logits: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the weighted mean loss of each row over all findings."""
        with np.errstate(all="ignore"):
            each = np.logaddexp(0, np.where(y == 1, -logits, logits))
        each = np.nan_to_num(each, nan=_WORST, posinf=_WORST).clip(max=_WORST)
        return (each * self.costs(y, np.ones(len(y)))).mean(axis=1)

    def scaled_losses(self, logits: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Return losses at the temperature of each finding that is best for these rows."""
        cost, scaled = self.costs(y, weight), logits.copy()
        for place in range(y.shape[1]):
            judged = (cost[:, place] > 0) & np.isfinite(logits[:, place])
            if judged.any():
                half = logits[judged, place, None] * [[-0.5, 0.5]]
                codes = y[judged, place].astype(int)
                scaled[:, place] /= fit_temperature(half, codes, cost[judged, place])
        return self.log_losses(scaled, y)

    def decision(self, logits: np.ndarray) -> np.ndarray:
        """Return a logit for each finding."""
        return logits

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Return a probability for each finding; rows need not sum to one."""
        return expit(logits)

    def predicted(self, logits: np.ndarray) -> np.ndarray:
        """Return 1 for findings that are more likely than not, else 0."""
        return (logits > 0).astype(np.int64)

    def accuracy(self, predicted: np.ndarray, y: Any, sample_weight: Any) -> float:
        """Return the share of rows all of whose known findings are predicted correctly."""
        return share_correct(y, predicted, self.classes.tolist(), sample_weight)

    def written(self) -> dict[str, Any]:
        """Return the findings as JSON has them."""
        return {**super().written(), "kind": "findings"}

    @staticmethod
    def _sound(classes: np.ndarray) -> bool:
        return len(classes) > 0 and len(set(classes.tolist())) == len(classes)


class CumulativeLink(nn.Module):
    """Log-probabilities of grades from a score: between which thresholds it lies, up to noise.

    The first threshold is 0, the score having a bias; the others follow at distances that are
    learned, so that they stay in order. ``ranks`` are those of the columns that are returned.
    """

    ranks: Tensor

    def __init__(self, ranks: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("ranks", torch.as_tensor(ranks), persistent=False)
        # Logarithms of distances. By this name there is no weight decay on them.
        self.bias = nn.Parameter(torch.zeros(len(ranks) - 2))

    @torch.no_grad()
    def absorb(self, intercepts: np.ndarray) -> np.ndarray:
        """Set the distances to those of solved intercepts, and return that of the score."""
        self.bias.copy_(torch.from_numpy(np.log(np.maximum(-np.diff(intercepts), 1e-12))))
        return intercepts[:1]

    def forward(self, score: Tensor) -> Tensor:
        gaps = self.bias.exp()
        margins = torch.cat([gaps.new_zeros(1), gaps.cumsum(0)]) - score
        up, down = logsigmoid(margins), logsigmoid(-margins)
        between = up[:, 1:] + down[:, :-1] + torch.log(-torch.expm1(-gaps))
        return torch.cat([up[:, :1], between, down[:, -1:]], dim=1)[:, self.ranks]


@dataclass(frozen=True)
class Grades(Target):
    """Classes that have an order: one score a row, and thresholds between neighbors.

    ``classes`` are sorted as those of any classifier, ``ranks`` their places from the lowest grade
    on.
    """

    ranks: np.ndarray

    loss: ClassVar[str] = "cumulative_link"

    @classmethod
    def of(cls, target: Target, y: Any, classes: Any, before: Target | None) -> Grades:
        """Return the grades of labels: in the order of categories, or sorted."""
        labels, given = target.classes.tolist(), None
        for each in (y, classes):
            dtype = getattr(each, "dtype", None)
            if isinstance(dtype, pd.CategoricalDtype) and dtype.ordered:
                categories = dtype.categories.tolist()
                given = np.argsort(np.argsort([categories.index(label) for label in labels]))
        if isinstance(before, Grades):
            if given is not None and not np.array_equal(given, before.ranks):
                raise ValueError("y has its grades in another order than the y of the last fit.")
            return before
        if given is None and len(labels) > 2 and isinstance(labels[0], str):
            warnings.warn(
                f"The order of the grades is that of the alphabet, {', '.join(labels)}. Give y as "
                "pd.Categorical(y, categories=[...], ordered=True), lowest first, or as numbers.",
                stacklevel=5,
            )
        return cls(target.classes, np.arange(len(labels)) if given is None else given)

    @property
    def width(self) -> int:
        """Width of the last layer of the head: the score."""
        return 1

    def link(self) -> nn.Module:
        """Return what makes log-probabilities of the score."""
        return CumulativeLink(self.ranks)

    def solve(
        self,
        embeddings: np.ndarray,
        y: np.ndarray,
        weight: np.ndarray,
        C: Any,
        units: Units | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return coefficients (1, d) and the intercept of each threshold."""
        given = (embeddings, self.ranks[y], weight, len(self.classes), C)
        coefficients, thresholds = solve_cumulative_link(*given, floor=FLOOR)
        return coefficients[None], -thresholds

    def written(self) -> dict[str, Any]:
        """Return the grades as JSON has them."""
        return {**super().written(), "kind": "grades", "ranks": self.ranks.tolist()}

    @classmethod
    def read(cls, written: dict[str, Any]) -> Grades:
        """Return what :meth:`written` was of; raise ValueError for what no fit has found."""
        classes, ranks = Target.read(written).classes, np.asarray(written["ranks"])
        if not np.array_equal(np.sort(ranks), np.arange(len(classes))):
            raise ValueError(f"the order of its classes is {ranks.tolist()}.")
        return cls(classes, ranks)


KINDS: dict[str, type[Target]] = {"classes": Target, "findings": Findings, "grades": Grades}


def read_target(written: dict[str, Any]) -> Target:
    """Return the target that a file has; raise ValueError for what no fit has found."""
    return KINDS[written.get("kind", "classes")].read(written)
