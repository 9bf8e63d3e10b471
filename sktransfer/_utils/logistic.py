"""Penalized logistic regression on standardized columns, in float64, and its temperature."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import brentq
from scipy.special import expit, log_softmax, softmax
from sklearn.exceptions import ConvergenceWarning

from sktransfer._utils.threads import blas_threads

# Inverse strength of the penalty of every probe, on standardized columns.
PROBE_C = 0.01
# The floor for what networks compute. Columns for colors hardly vary on X-rays; scaled as all
# others are, one colored mark on a new X-ray would decide.
FLOOR = 0.1
# Logit of a class that is in no row of training, below that of the others.
_ABSENT = -30.0
# Of regressions that are solved at once: the share of the objective that is left in the end, how
# exactly Newton's equations are solved, and the iterations after which curvatures are renewed.
_ENOUGH, _INNER, _OLD_BASIS = 1e-21, 1e-3, 15
_MOST_STEPS = 200  # of Newton's method, and of conjugate gradients in each
# Regressions whose scales of a column differ by more than this are solved by themselves.
_ALIKE = 10.0
# Most decisions (rows x regressions x classes) at once: ten arrays of them are in memory.
_MOST_DECISIONS = 2**24
# The temperature is looked for between exp(-x) and exp(x): beyond, probabilities are those of the
# largest class, or even.
_DECADES = 5.0


def solve_linear(
    embeddings: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray,
    n_classes: int,
    C: float,
    *,
    floor: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients (n_classes, d) and intercepts of a logistic regression, in float64.

    Embeddings are centered and scaled to unit variance, column by column, as far as the penalty is
    concerned; the scaling is folded into what is returned. A row of weight two is two rows. Columns
    that are constant are not used. Those with less than ``floor`` of the median deviation are
    scaled by that, so that they stay nearly constant.
    """
    with blas_threads(*embeddings.shape):
        (found,) = _solve(embeddings, y, weight, n_classes, [np.arange(len(y))], C, floor)
    return found


def cross_fitted_logits(
    F: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray,
    n_classes: int,
    folds: Iterable[tuple[np.ndarray, np.ndarray]],
    C: float,
    *,
    floor: float = 0.0,
) -> np.ndarray:
    """Return logits of rows by regressions that have not seen them, (n, n_classes).

    Columns are standardized with the rows of training only. Rows that no fold tests are NaN.
    """
    logits = np.full((len(F), n_classes), np.nan)
    splits = list(folds)
    with blas_threads(*F.shape):
        found = _solve(F, y, weight, n_classes, [train for train, _ in splits], C, floor)
        for (_, rows), (solved, offset) in zip(splits, found, strict=True):
            logits[rows] = F[rows].astype(np.float64, copy=False) @ solved.T + offset
    return logits


def standardized_columns(
    rows: np.ndarray, weight: np.ndarray, floor: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return centered and scaled columns in float64, their means, and what they are scaled by.

    A column that is constant on these rows says nothing about them: it is scaled by 0. One with
    less than ``floor`` of the median deviation is scaled by that.
    """
    X, share = rows.astype(np.float64), weight / weight.sum()
    mean = share @ X
    X -= mean
    deviation = np.sqrt(share @ np.square(X))
    useful = deviation > 1e-12 * np.maximum(np.abs(mean), 1.0)
    if floor and useful.any():
        deviation = np.maximum(deviation, floor * np.median(deviation[useful]))
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=useful)
    X *= scale
    return X, mean, scale


def _solve(
    F: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray,
    n_classes: int,
    parts: Sequence[np.ndarray],
    C: float,
    floor: float,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return coefficients and intercepts of regressions, each of the rows with some indices."""
    parts = [part[weight[part] > 0] for part in parts]
    found = []
    batches: list[tuple[np.ndarray, list[int]]] = []
    together: dict[tuple[int, ...], list[int]] = {}
    for place, part in enumerate(parts):
        present = np.unique(y[part])
        intercepts = np.zeros(n_classes)
        # Absent classes must lose, by a margin that is finite.
        intercepts[np.setdiff1d(np.arange(n_classes), present)] = _ABSENT
        found.append((np.zeros((n_classes, F.shape[1])), intercepts))
        if len(present) > 1 and len(part) < F.shape[1]:  # solved by rows, which others lack
            batches.append((present, [place]))
        elif len(present) > 1:
            together.setdefault(tuple(present), []).append(place)
    for classes, places in together.items():
        most = max(1, _MOST_DECISIONS // (len(F) * len(classes)))
        some = [places[i : i + most] for i in range(0, len(places), most)]
        batches += [(np.array(classes), batch) for batch in some]
    for present, batch in batches:
        given = (F, y[:, None] == present, weight, [parts[place] for place in batch])
        solved = _solve_together(*given, C, floor)
        for place, coef, intercept in zip(batch, *solved, strict=True):
            found[place][0][present], found[place][1][present] = coef, intercept
    return found


def _solve_together(
    F: np.ndarray,
    onehot: np.ndarray,
    weight: np.ndarray,
    parts: Sequence[np.ndarray],
    C: float,
    floor: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients (n_parts, n_classes, d) and intercepts of regressions of all columns."""
    rows = parts[0] if len(parts) == 1 else np.unique(np.concatenate(parts))
    X, mean, scale = standardized_columns(F[rows], weight[rows], floor)
    cost, penalty = C * weight[rows][:, None], None
    if len(parts) > 1:  # each with its columns as its own rows scale them
        own = np.array([standardized_columns(F[part], weight[part], floor)[2] for part in parts])
        varied = (own > 0) & (scale > 0)  # the coefficients of others are 0 whatever they cost
        ratio = np.divide(scale, own, out=np.ones_like(own), where=varied)
        alike = (np.abs(np.log(ratio)) < np.log(_ALIKE)).all(axis=1)
        if not alike.all():
            solved = np.zeros((len(parts), onehot.shape[1], len(scale)))
            offset = np.zeros(solved.shape[:2])
            for batch in (np.flatnonzero(alike), *np.flatnonzero(~alike)[:, None]):
                if len(batch):
                    given = (F, onehot, weight, [parts[place] for place in batch])
                    solved[batch], offset[batch] = _solve_together(*given, C, floor)
            return solved, offset
        cost, penalty = np.zeros((len(rows), len(parts))), ratio.T**2
        for place, part in enumerate(parts):
            np.add.at(cost[:, place], np.searchsorted(rows, part), C * weight[part])
    binary = onehot.shape[1] == 2
    target = onehot[rows, None, 1:] if binary else onehot[rows, None]
    target = np.broadcast_to(target, (*cost.shape, target.shape[2]))
    solved, offset = _minimum(X, target, cost, penalty)
    if binary:  # halves, so that neither class is privileged by a later decay
        solved, offset = (np.concatenate([-each, each], axis=1) / 2 for each in (solved, offset))
    solved = solved * scale
    return solved, offset - offset.mean(axis=1, keepdims=True) - solved @ mean


def solve_independent(
    embeddings: np.ndarray,
    positive: np.ndarray,
    weight: np.ndarray,
    cost: np.ndarray,
    C: float,
    *,
    floor: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients (k, d) and intercepts of k binary regressions on the same rows.

    Each is what a logistic regression by itself gives, on columns that are standardized by all
    rows, with ``weight``. ``cost`` (n, k) weighs the rows of each, 0 where ``positive`` is unknown.
    One that has rows of one kind only is constant.
    """
    keep = weight > 0
    if not keep.all():
        embeddings, positive, cost = embeddings[keep], positive[keep], cost[keep]
    weight = weight[keep].astype(np.float64)
    with blas_threads(*embeddings.shape):
        X, mean, scale = standardized_columns(embeddings, weight, floor)
        totals = np.stack([(cost * positive).sum(axis=0), (cost * ~positive).sum(axis=0)])
        intercepts = np.log((totals[0] + 1) / (totals[1] + 1))
        coefficients = np.zeros((positive.shape[1], X.shape[1]))
        solvable = (totals > 0).all(axis=0)
        if solvable.any() and scale.any():
            found = _minimum(X, positive[:, solvable, None], C * cost[:, solvable])
            solved, offset = (each[:, 0] for each in found)
            coefficients[solvable] = solved * scale
            intercepts[solvable] = offset - coefficients[solvable] @ mean
    return coefficients, intercepts


def _minimum(
    X: np.ndarray, target: np.ndarray, cost: np.ndarray, penalty: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients (k, m, d) and intercepts (k, m) of k regressions on the same rows.

    ``target`` (n, k, m) is 1 for the class of a row, 0 for the others; of two classes it has one
    column, m = 1. ``cost`` (n, k) weighs the rows of each, and ``penalty`` (d, k) its coefficients.
    """
    if not np.isfinite(np.einsum("ij,ij->i", X, X)).all():
        raise ValueError("Features hold numbers that are not finite.")
    varied = X.any(axis=0)
    if not varied.all():
        own, offset = _minimum(
            X[:, varied], target, cost, None if penalty is None else penalty[varied]
        )
        solved = np.zeros((*offset.shape, X.shape[1]))
        solved[..., varied] = own
        return solved, offset
    # An even penalty keeps the solution in the span of the rows: few need few coefficients.
    by_rows = penalty is None and len(X) < X.shape[1]
    Z = X
    if by_rows:  # the triangle whose square the products of rows are, to a share of 1e-11
        Z = X @ X.T
        Z[np.diag_indices_from(Z)] += 1e-11 * Z.trace() / len(Z)
        Z = cholesky(Z, lower=True, overwrite_a=True, check_finite=False)
    found = _newton(Z, target, cost, penalty)
    solved, offset = found[:-1].transpose(1, 2, 0), found[-1]
    if by_rows:
        flat = solve_triangular(Z, solved.reshape(-1, len(Z)).T, trans=1, lower=True)
        solved = (flat.T @ X).reshape(*offset.shape, -1)
    return solved, offset


def _newton(
    Z: np.ndarray, target: np.ndarray, cost: np.ndarray, penalty: np.ndarray | None = None
) -> np.ndarray:
    """Return coefficients (d + 1, k, m), intercepts last, as :func:`_minimum` describes them.

    Newton's method, whose equations are solved for all at once by conjugate gradients, in single
    precision where that is enough; where they lead is computed in double precision.
    """
    n, k, m = target.shape
    A, cost = np.column_stack([Z, np.ones(n)]), cost[:, :, None]
    weight = np.zeros((Z.shape[1] + 1, k, 1))
    weight[:-1, :, 0] = 1 if penalty is None else penalty
    here = np.zeros((A.shape[1], k, m))
    # Halfway to the shares of the classes, curvatures of rare ones are like the others'.
    share = (cost * target).sum(axis=0)
    others = cost.sum(axis=0) - share
    here[-1] = np.log(share / (others if m == 1 else 1)) / 2
    here[-1] -= here[-1].mean(axis=1, keepdims=True) if m > 1 else 0
    values = np.tensordot(A, here, 1)
    # Equations of which a penalty is a millionth need double precision, too, and classes of which
    # one weighs next to nothing.
    size = cost.max(axis=(1, 2)) @ np.einsum("ij,ij->i", A, A) / 4 / weight[:-1].min(initial=1.0)
    even = min(share.min(), others.min()) > 1e-4 * max(share.max(), others.max())
    rounded = A.astype(np.float32) if even and 1e-4 < size < 1e6 else A

    def loss(point: np.ndarray, values: np.ndarray, of: np.ndarray) -> np.ndarray:
        if m == 1:
            fit = np.logaddexp(0, np.where(target[:, of], -values, values))
        else:
            fit = -(target[:, of] * log_softmax(values, axis=2)).sum(axis=2, keepdims=True)
        squares = (weight[:, of] * np.square(point)).sum(axis=(0, 2))
        return squares / 2 + (cost[:, of] * fit).sum(axis=(0, 2))

    left, basis, n_inner, inner = np.arange(k), None, 0, 0.1
    now = loss(here, values, left)
    for _ in range(_MOST_STEPS):
        p = expit(values[:, left]) if m == 1 else softmax(values[:, left], axis=2)
        curvature = (cost[:, left], p, weight[:, left])
        pull = np.tensordot(A.T, cost[:, left] * (target[:, left] - p), 1)
        gradient = pull - weight[:, left] * here[:, left]
        if basis is None or n_inner > _OLD_BASIS:
            basis = _shared_basis(rounded, *curvature)
        step, n_inner = _descent(basis, *curvature, gradient, inner)
        if m > 1:  # what is the same for all classes changes nothing: of that there is rounding
            step -= step.mean(axis=2, keepdims=True)
        decrease = np.einsum("ijk,ijk->j", gradient, step)
        across, length = np.tensordot(A, step, 1), np.ones((len(left), 1))
        while True:
            there, further = here[:, left] + length * step, values[:, left] + length * across
            then = loss(there, further, left)
            short = then > now - 1e-4 * length[:, 0] * decrease + 1e-13 * now
            if not short.any() or length.min() < 1e-9:
                break
            length[short] /= 2
        here[:, left], values[:, left] = there, further
        # What a step leaves: of its equations, and of what they leave out.
        relative = decrease / now
        unsolved = ~(np.maximum(inner**2, relative) * relative <= _ENOUGH)
        left, now = left[unsolved], then[unsolved]
        if not len(left):
            return here
        inner = float(np.clip(np.sqrt(relative[unsolved].max()), _INNER, inner))
    warnings.warn(
        f"A logistic regression was not solved in {_MOST_STEPS} steps of Newton's method.",
        ConvergenceWarning,
        stacklevel=2,
    )
    return here


def _shared_basis(
    A: np.ndarray, cost: np.ndarray, p: np.ndarray, penalty: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return a triangle, rows in the basis where Newton's equations are solved, and curvatures.

    These are of rows and of coefficients, and the mean of those of all regressions and classes:
    with them the matrix of the equations is 1 there.
    """
    spread = (p * (1 - p)).sum(axis=2, keepdims=True) / max(1, p.shape[2] - 1)
    curvature = (cost * spread).mean(axis=1).astype(A.dtype)
    penalty = penalty.mean(axis=(1, 2)).astype(A.dtype)
    weighed = np.sqrt(curvature) * A
    shared = weighed.T @ weighed
    shared[np.diag_indices_from(shared)] += penalty
    root = cholesky(shared, lower=True, overwrite_a=True, check_finite=False)
    rows = solve_triangular(root, A.T, lower=True, check_finite=False).T
    return root, np.ascontiguousarray(rows), curvature[:, :, None], penalty[:, None, None]


def _descent(
    basis: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    cost: np.ndarray,
    p: np.ndarray,
    penalty: np.ndarray,
    gradient: np.ndarray,
    precision: float,
) -> tuple[np.ndarray, int]:
    """Solve Newton's equations of all regressions; also return the number of iterations."""
    root, rows, shared, shared_penalty = basis
    cost, p = cost.astype(root.dtype), p.astype(root.dtype)
    more = penalty.astype(root.dtype) - shared_penalty
    uneven = more.any()

    def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.einsum("ijk,ijk->j", a, b)

    def solved(b: np.ndarray, trans: int = 0) -> np.ndarray:
        flat = b.reshape(len(b), -1)
        found = solve_triangular(root, flat, lower=True, trans=trans, check_finite=False)
        return found.reshape(b.shape)

    def curved(toward: np.ndarray) -> np.ndarray:
        of_rows = np.tensordot(rows, toward, 1)
        weighed = p * of_rows
        across = cost * (weighed - p * weighed.sum(axis=2, keepdims=True)) - shared * of_rows
        found = toward + np.tensordot(rows.T, across, 1)
        return found + solved(more * solved(toward, trans=1)) if uneven else found

    norm = (np.sqrt(dot(gradient, gradient)) + np.finfo(float).tiny)[:, None]
    toward = left = solved((gradient / norm).astype(root.dtype))
    first = size = dot(left, left)
    step, n_done = np.zeros_like(left), 0
    while n_done < _MOST_STEPS:
        going = size > precision**2 * first
        if not going.any():
            break
        across = curved(toward)
        length = np.divide(size, dot(toward, across), out=np.zeros_like(size), where=going)[:, None]
        step, left = step + length * toward, left - length * across
        before, size = size, np.where(going, dot(left, left), size)
        # One may be solved to the last bit before others are.
        again = np.divide(size, before, out=np.zeros_like(size), where=before > 0)
        toward = left + again[:, None] * toward
        n_done += 1
    return norm * solved(step, trans=1), n_done


def fit_temperature(
    log_probabilities: np.ndarray, codes: np.ndarray, weight: np.ndarray | None = None
) -> float:
    """Return the temperature by which logits are divided for the least log loss on their rows.

    As Platt (1999) has it, there is one more row of each class, whatever it is predicted to be:
    rows that are all predicted correctly do not make the next one certain.
    """
    share = np.ones(len(codes)) if weight is None else np.asarray(weight, dtype=float)
    n_classes = log_probabilities.shape[1]
    even = n_classes / (share.sum() + n_classes)
    own = log_probabilities[np.arange(len(codes)), codes]
    target = (1 - even) * own + even * log_probabilities.mean(axis=1)

    def slope(log_inverse: float) -> float:
        expected = softmax(log_probabilities * np.exp(log_inverse), axis=1) * log_probabilities
        return float(share @ (expected.sum(axis=1) - target))

    # The loss is convex in the inverse of the temperature.
    if slope(-_DECADES) >= 0:
        return float(np.exp(_DECADES))
    if slope(_DECADES) <= 0:
        return float(np.exp(-_DECADES))
    return float(np.exp(-brentq(slope, -_DECADES, _DECADES, xtol=1e-13)))
