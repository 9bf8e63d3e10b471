"""Penalized logistic regression on standardized columns, in float64, and its temperature."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy.linalg import cho_factor, cho_solve, cholesky, solve_triangular
from scipy.optimize import brentq
from scipy.special import expit, log_softmax, softmax
from sklearn.linear_model import LogisticRegression

from sktransfer._utils.threads import blas_threads

# Inverse strength of the penalty of every probe, on standardized columns.
PROBE_C = 0.01
# The floor for what networks compute. Columns for colors hardly vary on X-rays; scaled as all
# others are, one colored mark on a new X-ray would decide.
FLOOR = 0.1
# Newton's method on all coefficients at once is exact to the last digits, and cubic in their
# number.
_NEWTON_COEFFICIENTS = 4096
# Newton's method stops after a step that lowers the objective by at most this share of it: what is
# left is far less. Where rounding is in the way of that, steps below the second one stop shrinking.
_LEAST_DECREASE = 1e-17
_SMALL_DECREASE = 1e-9
_PRECISION = 1e-6  # of the equations of a step, in the end
_MOST_STEPS = 200
# Logit of a class that is in no row of training, below that of the others.
_ABSENT = -30.0
# Of several labels: the share of the objective that is left in the end, how exactly Newton's
# equations are solved, and the iterations after which curvatures are looked at again.
_ENOUGH, _INNER, _OLD_BASIS = 1e-15, 1e-3, 15
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
        return _solve(embeddings, y, weight, n_classes, [C], floor)[0]


def cross_fitted_logits(
    F: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray,
    n_classes: int,
    folds: Iterable[tuple[np.ndarray, np.ndarray]],
    C: Sequence[float],
    *,
    floor: float = 0.0,
) -> np.ndarray:
    """Return logits of rows by regressions that have not seen them, (len(C), n, n_classes).

    Columns are standardized with the rows of training only. Rows that no fold tests are NaN.
    """
    logits = np.full((len(C), len(F), n_classes), np.nan)
    with blas_threads(*F.shape):
        for train, test in folds:
            found = _solve(F[train], y[train], weight[train], n_classes, C, floor)
            tested = F[test].astype(np.float64, copy=False)
            for place, (solved, offset) in enumerate(found):
                logits[place, test] = tested @ solved.T + offset
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
    embeddings: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray,
    n_classes: int,
    Cs: Sequence[float],
    floor: float,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Solve for several C with one standardization and one matrix of products of rows."""
    keep = weight > 0
    y, weight = y[keep], weight[keep].astype(np.float64)
    X, mean, scale = standardized_columns(embeddings[keep], weight, floor)
    present, codes = np.unique(y, return_inverse=True)
    onehot = np.eye(len(present))[codes]
    # The penalty keeps the solution in the span of the rows: few of them need few coefficients.
    by_rows = len(X) < X.shape[1] or not scale.any()
    gram = X @ X.T if by_rows and len(present) > 1 else np.empty((0, 0))
    _check_finite(gram.diagonal())
    found = []
    start = np.zeros_like(onehot)
    for C in Cs:
        coefficients = np.zeros((n_classes, X.shape[1]))
        intercepts = np.zeros(n_classes)
        # Absent classes must lose, by a margin that is finite.
        intercepts[np.setdiff1d(np.arange(n_classes), present)] = _ABSENT
        if len(present) > 1:
            if by_rows:
                start, offset = _solve_in_rows(gram, onehot, C * weight, start)
                solved = start.T @ X
            else:
                solved, offset = _solve_in_columns(X, codes, weight, len(present), C)
            coefficients[present] = solved * scale
            intercepts[present] = offset - (solved * scale) @ mean
        found.append((coefficients, intercepts))
    return found


def _check_finite(numbers: np.ndarray) -> None:
    if not np.isfinite(numbers).all():
        raise ValueError("Features hold numbers that are not finite.")


def _solve_in_columns(
    X: np.ndarray, codes: np.ndarray, weight: np.ndarray, n_classes: int, C: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients and intercepts of all classes, by scikit-learn."""
    n_coefficients = X.shape[1] * (1 if n_classes == 2 else n_classes)
    newton = n_coefficients <= _NEWTON_COEFFICIENTS
    solver = LogisticRegression(
        C=C,
        solver="newton-cholesky" if newton else "lbfgs",
        tol=1e-12 if newton else 1e-8,
        max_iter=200 if newton else 5000,
    ).fit(X, codes, sample_weight=weight)
    solved, offset = solver.coef_, solver.intercept_
    if n_classes == 2:  # halves, so that neither class is privileged by a later decay
        solved, offset = (np.stack([-each[0], each[0]]) / 2 for each in (solved, offset))
    return solved, offset - offset.mean()


def _solve_in_rows(
    gram: np.ndarray, onehot: np.ndarray, cost: np.ndarray, start: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return what each row adds to the coefficients of each class, and the intercepts.

    Newton's method on coefficients ``rows.T @ X``, of which only products of rows are needed.
    """
    # The two halves of a binary regression have half its penalty.
    cost = (cost / 2 if onehot.shape[1] == 2 else cost)[:, None]
    n, n_classes = onehot.shape
    # One array for a point or a direction: rows, gram @ rows, and the intercepts.
    here = np.concatenate([start, gram @ start, np.zeros((1, n_classes))])

    def loss(point: np.ndarray) -> float:
        rows, values = point[:n], point[n:-1]
        fit = (cost * onehot * log_softmax(values + point[-1], axis=1)).sum()
        return float((rows * values).sum() / 2 - fit)

    now, before, precision = loss(here), np.inf, 0.1
    for _ in range(_MOST_STEPS):
        p = softmax(here[n:-1] + here[-1], axis=1)
        pull = cost * (onehot - p)
        # What is the same for all classes changes nothing: of that there is rounding only.
        left, pull = (each - each.mean(axis=1, keepdims=True) for each in (pull - here[:n], pull))
        gradient = np.concatenate([left, gram @ left, pull.sum(axis=0, keepdims=True)])
        step, decrease = _newton_step(gram, p, cost, gradient, precision)
        length, sure = 1.0, decrease < _SMALL_DECREASE * now  # of others rounding would decide
        while True:
            there = here + length * step
            then = loss(there)
            if sure or then <= now - 1e-4 * length * decrease or length < 1e-9:
                break
            length /= 2
        if sure and decrease > 0.1 * before:
            break
        here = there
        if decrease <= _LEAST_DECREASE * now:
            break
        here[n:-1] = gram @ here[:n]  # not as added up, with its rounding
        precision = float(np.clip(decrease / now, _PRECISION, precision))
        now, before = then, decrease
    return here[:n], here[-1] - here[-1].mean()


def _newton_step(
    gram: np.ndarray, p: np.ndarray, cost: np.ndarray, gradient: np.ndarray, precision: float
) -> tuple[np.ndarray, float]:
    """Solve Newton's equations by conjugate gradients; also twice the decrease they expect.

    They are preconditioned with curvatures that are the same for all classes. Of two classes that
    is exact, and one iteration enough. ``gradient`` has its sign changed.
    """
    n = len(p)
    curvature = cost * (1 - np.square(p).sum(axis=1, keepdims=True)) / (p.shape[1] - 1)
    root = np.sqrt(curvature)
    matrix = root * gram * root.T
    matrix[np.diag_indices_from(matrix)] += 1
    factor = cho_factor(matrix.T, lower=True, overwrite_a=True, check_finite=False)
    unit = root * cho_solve(factor, root, check_finite=False)

    def dot(a: np.ndarray, b: np.ndarray) -> float:
        """Compute the inner product of the coefficients and intercepts."""
        return float((a[n:-1] * b[:n]).sum() + a[-1] @ b[-1])

    def preconditioned(r: np.ndarray) -> np.ndarray:
        alone = r[:n] - root * cho_solve(factor, root * r[n:-1], check_finite=False)
        offset = (alone.sum(axis=0) - r[:n].sum(axis=0) + r[-1:]) / unit.sum()
        rows = alone - unit * offset
        return np.concatenate([rows, gram @ rows, offset])

    def curved(d: np.ndarray) -> np.ndarray:
        weighed = p * (d[n:-1] + d[-1])
        bent = cost * (weighed - p * weighed.sum(axis=1, keepdims=True))
        return np.concatenate(
            [d[:n] + bent, d[n:-1] + gram @ bent, bent.sum(axis=0, keepdims=True)]
        )

    left, toward = gradient, preconditioned(gradient)
    first = size = dot(left, toward)
    step, decrease = np.zeros_like(gradient), 0.0
    for _ in range(_MOST_STEPS):
        if not size > precision**2 * first:
            break
        across = curved(toward)
        length = size / dot(toward, across)
        step, left = step + length * toward, left - length * across
        decrease += length * size
        again = preconditioned(left)
        before, size = size, dot(left, again)
        toward = again + size / before * toward
    return step, decrease


# --- several labels at once ----------------------------------------------------------------------


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
        by_rows = len(X) < X.shape[1]
        gram = X @ X.T if by_rows else np.empty((0, 0))
        _check_finite(gram.diagonal() if by_rows else np.einsum("ij,ij->i", X, X))
        totals = np.stack([(cost * positive).sum(axis=0), (cost * ~positive).sum(axis=0)])
        intercepts = np.log((totals[0] + 1) / (totals[1] + 1))
        coefficients = np.zeros((positive.shape[1], X.shape[1]))
        solvable = (totals > 0).all(axis=0)
        if solvable.any() and scale.any():
            # The penalty keeps the solution in the span of the rows: of few, their products do.
            Z = _root(gram) if by_rows else X
            own = _newton(Z, positive[:, solvable], C * cost[:, solvable])
            solved = own[:-1].T
            if by_rows:
                solved = solve_triangular(Z, own[:-1], trans=1, lower=True).T @ X
            coefficients[solvable] = solved * scale
            intercepts[solvable] = own[-1] - coefficients[solvable] @ mean
    return coefficients, intercepts


def _root(gram: np.ndarray) -> np.ndarray:
    """Return the lower triangle whose square a matrix of products is, to a share of 1e-11."""
    gram[np.diag_indices_from(gram)] += 1e-11 * gram.trace() / len(gram)
    return cholesky(gram, lower=True, overwrite_a=True, check_finite=False)


def _newton(Z: np.ndarray, positive: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Return coefficients, the intercept last, of a regression for each column of ``positive``.

    Newton's method, whose equations are solved for all columns at once by conjugate gradients, in
    single precision; where they lead is computed in double precision.
    """
    A = np.column_stack([Z, np.ones(len(Z))])
    penalty = np.append(np.ones(Z.shape[1]), 0.0)[:, None]
    sign = np.where(positive, 1.0, -1.0)
    here = np.zeros((A.shape[1], cost.shape[1]))
    # Halfway to the share of the positive ones, curvatures of rare labels are like the others'.
    here[-1] = np.log((cost * positive).sum(axis=0) / (cost * ~positive).sum(axis=0)) / 2
    values = A @ here
    # Equations of which the penalty is a millionth need double precision, too.
    size = float(cost.max(axis=1) @ np.einsum("ij,ij->i", A, A)) / 4
    rounded = A.astype(np.float32) if _ENOUGH < size < 1e6 else A

    def loss(point: np.ndarray, values: np.ndarray, of: np.ndarray) -> np.ndarray:
        margin = sign[:, of] * values
        fit = cost[:, of] * (np.log1p(np.exp(-np.abs(margin))) - np.minimum(margin, 0))
        return np.square(point[:-1]).sum(axis=0) / 2 + fit.sum(axis=0)

    left, basis, n_inner, inner = np.arange(cost.shape[1]), None, 0, 0.1
    now = loss(here, values, left)
    for _ in range(_MOST_STEPS):
        p = expit(values[:, left])
        bend = cost[:, left] * p * (1 - p)
        gradient = A.T @ (cost[:, left] * (positive[:, left] - p)) - penalty * here[:, left]
        if basis is None or n_inner > _OLD_BASIS:
            mean = bend.mean(axis=1, keepdims=True).astype(rounded.dtype)
            basis = _shared_basis(rounded, mean, penalty[:, 0].astype(rounded.dtype))
        step, n_inner = _descent(*basis, bend, gradient, inner)
        decrease = np.einsum("ij,ij->j", gradient, step)
        across, length = A @ step, np.ones(len(left))
        while True:
            there, further = here[:, left] + length * step, values[:, left] + length * across
            then = loss(there, further, left)
            short = then > now - 1e-4 * length * decrease + 1e-13 * now
            if not short.any() or length.min() < 1e-9:
                break
            length[short] /= 2
        here[:, left], values[:, left] = there, further
        # What a step leaves: of its equations, and of what they leave out.
        relative = decrease / now
        unsolved = np.maximum(inner**2, relative) * relative > _ENOUGH
        left, now = left[unsolved], then[unsolved]
        if not len(left):
            break
        inner = float(np.clip(np.sqrt(relative[unsolved].max()), _INNER, inner))
    return here


def _shared_basis(
    A: np.ndarray, curvature: np.ndarray, penalty: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a triangle, rows in the basis where Newton's equations are solved, and curvatures.

    With the curvatures given, which are the mean of those of all columns, the matrix of the
    equations is 1 there.
    """
    weighed = np.sqrt(curvature) * A
    shared = weighed.T @ weighed
    shared[np.diag_indices_from(shared)] += penalty
    root = cholesky(shared, lower=True, overwrite_a=True, check_finite=False)
    rows = solve_triangular(root, A.T, lower=True, check_finite=False).T
    return root, np.ascontiguousarray(rows), curvature


def _descent(
    root: np.ndarray,
    rows: np.ndarray,
    shared: np.ndarray,
    bend: np.ndarray,
    gradient: np.ndarray,
    precision: float,
) -> tuple[np.ndarray, int]:
    """Solve Newton's equations of all columns; also return the number of iterations."""

    def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.einsum("ij,ij->j", a, b)

    more = bend.astype(root.dtype) - shared
    norm = np.sqrt(dot(gradient, gradient)) + np.finfo(float).tiny
    left = (gradient / norm).astype(root.dtype)
    toward = left = solve_triangular(root, left, lower=True, check_finite=False)
    first = size = dot(left, left)
    step, n_done = np.zeros_like(left), 0
    while n_done < _MOST_STEPS:
        going = size > precision**2 * first
        if not going.any():
            break
        across = toward + rows.T @ (more * (rows @ toward))
        length = np.divide(size, dot(toward, across), out=np.zeros_like(size), where=going)
        step, left = step + length * toward, left - length * across
        before, size = size, np.where(going, dot(left, left), size)
        # A column may be solved to the last bit before others are.
        again = np.divide(size, before, out=np.zeros_like(size), where=before > 0)
        toward = left + again * toward
        n_done += 1
    step = solve_triangular(root, step, lower=True, trans=1, check_finite=False)
    return norm * step, n_done


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
