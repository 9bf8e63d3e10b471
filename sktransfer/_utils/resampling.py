"""Scores of predictions for held-out rows, and their intervals by resampling rows."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

SCORINGS = ("accuracy", "balanced_accuracy", "f1", "roc_auc")


def score_held_out(codes: np.ndarray, decisions: np.ndarray, scoring: str) -> float:
    """Return the score of decisions, one column for each class, against the true columns ``codes``.

    With more than two classes the area under the curve and F1 are of each class against the rest,
    averaged; with two, F1 is of the second. An area is NaN where not every class is in ``codes``.
    """
    if scoring == "accuracy":
        return float(np.mean(decisions.argmax(axis=1) == codes))
    if scoring == "balanced_accuracy":
        # The recalls of the classes there are, as scikit-learn has it, without its warning of
        # predictions of another class.
        hit = decisions.argmax(axis=1) == codes
        return float(np.mean([hit[codes == c].mean() for c in np.unique(codes)]))
    if scoring == "f1":
        predicted = decisions.argmax(axis=1)
        n = decisions.shape[1]
        right = np.bincount(codes[predicted == codes], minlength=n)
        both = np.bincount(codes, minlength=n) + np.bincount(predicted, minlength=n)
        each = np.divide(2.0 * right, both, out=np.zeros(n), where=both > 0)
        return float(each[1] if n == 2 else each.mean())
    if scoring == "roc_auc":
        present = np.unique(codes)
        if len(present) < decisions.shape[1]:
            return float("nan")
        if decisions.shape[1] == 2:
            return _area(codes == 1, decisions[:, 1] - decisions[:, 0])
        return float(np.mean([_area(codes == c, decisions[:, c]) for c in present]))
    raise ValueError(f"scoring must be one of {', '.join(map(repr, SCORINGS))}; got {scoring!r}.")


def _area(positive: np.ndarray, decision: np.ndarray) -> float:
    """Return the area under the ROC curve, at a tenth of scikit-learn's cost."""
    n = int(positive.sum())
    ranks = float(rankdata(decision)[positive].sum())
    return (ranks - n * (n + 1) / 2) / (n * (len(positive) - n))


def members(groups: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each group, for groups numbered from 0."""
    order = np.argsort(groups, kind="stable")
    return np.split(order, np.cumsum(np.bincount(groups))[:-1])


def resamples(
    n: int, groups: np.ndarray | None, n_resamples: int, random_state: np.random.RandomState
) -> list[np.ndarray]:
    """Return rows drawn with replacement; with groups, whole groups are drawn."""
    if groups is None:
        return [random_state.randint(n, size=n) for _ in range(n_resamples)]
    parts = members(groups)
    return [
        np.concatenate([parts[g] for g in random_state.randint(len(parts), size=len(parts))])
        for _ in range(n_resamples)
    ]


def half_samples(
    codes: np.ndarray,
    groups: np.ndarray | None,
    n_resamples: int,
    random_state: np.random.RandomState,
) -> list[np.ndarray]:
    """Return halves of the rows, drawn by class; with groups, halves of the groups.

    For scores that repeated rows would mislead, such as a likelihood, which takes the second copy
    for new evidence. The spread over halves is that over samples of the whole size (Shao and Wu,
    "A general theory for jackknife variance estimation", Annals of Statistics, 1989).
    """
    out = []
    for _ in range(n_resamples):
        if groups is not None:
            numbers = random_state.permutation(groups.max() + 1)
            rows = np.flatnonzero(np.isin(groups, numbers[: len(numbers) // 2]))
        else:
            rows = np.concatenate(
                [
                    random_state.permutation(np.flatnonzero(codes == c))[
                        : max(1, int((codes == c).sum()) // 2)
                    ]
                    for c in np.unique(codes)
                ]
            )
        out.append(np.sort(rows))
    return out


def middle(values: np.ndarray, confidence_level: float = 0.95) -> tuple[float, float]:
    """Return the ends of the middle share of the finite values."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [(1 - confidence_level) / 2, (1 + confidence_level) / 2])
    return float(low), float(high)
