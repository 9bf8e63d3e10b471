"""A logistic regression of bags, solved on the embeddings of their images.

It must not know images or estimators.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.extmath import randomized_svd
from torch import Tensor
from torch.nn.functional import cross_entropy

from sktransfer._utils.logistic import solve_linear
from sktransfer.bags._pooling import attention, pool, shares, weighted

# Attention is trained on the leading principal components of the images, which is as good as all
# columns and many times faster. With so many units, and with a penalty that is this share of that
# of the coefficients, it ranks bags best and most often finds the image that decides.
_N_COMPONENTS = 256
_N_UNITS = 16
_PENALTY = 0.3
# The maximum is learned as a log-sum-exp of this sharpness, which has a gradient everywhere.
_SHARP = 10.0
_MOST_STEPS = 1000


@dataclass
class BagRegression:
    """Coefficients of images' logits, and what pools them into those of bags.

    With attention there are, after coefficients and intercepts, those of its two gates and the mix.
    """

    pooling: str
    sharpness: float
    arrays: list[np.ndarray]

    def image_logits(self, F: np.ndarray) -> np.ndarray:
        """Return the logits of images, each a bag of its own."""
        return F @ self.arrays[0] + self.arrays[1]

    def bag_logits(self, F: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Return the logits of bags, of which none is empty."""
        given = map(torch.from_numpy, (F, sizes, *self.arrays))
        return _bag_logits(self.pooling, self.sharpness, *given).numpy()

    def weights(self, F: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Return the part (n, n_classes) of each image in its bag's logits."""
        rows, counts, coef, intercept, *gates = map(torch.from_numpy, (F, sizes, *self.arrays))
        logits = rows @ coef + intercept
        if gates:
            return attention(rows, counts, gates).expand_as(logits).numpy()
        return shares(logits, counts, self.pooling, self.sharpness).numpy()


def _bag_logits(
    pooling: str,
    sharpness: float,
    rows: Tensor,
    counts: Tensor,
    coef: Tensor,
    intercept: Tensor,
    *gates: Tensor,
) -> Tensor:
    """Return logits of bags from the rows of their images."""
    logits = rows @ coef + intercept
    if gates:
        return weighted(logits, attention(rows, counts, gates), counts)
    return pool(logits, counts, pooling, sharpness)


def solve_bags(
    F: np.ndarray,
    sizes: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray,
    cost: np.ndarray,
    *,
    n_classes: int,
    pooling: str,
    sharpness: float,
    seed: int,
) -> BagRegression:
    """Minimize the bags' log loss, each times its ``cost``, plus the penalty on coefficients.

    Columns are standardized, every bag counting as its ``weight``. The start is the regression of
    averages, which has one solution.
    """
    of_image = np.repeat(weight / sizes, sizes) / weight.sum()
    mean = of_image @ F
    X = F - mean
    deviation = np.sqrt(of_image @ np.square(X))
    useful = deviation > 1e-12 * np.maximum(np.abs(mean), 1.0)
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=useful)
    X *= scale
    axes = None
    if pooling == "attention":
        k = min(_N_COMPONENTS, *X.shape)
        weighed = np.sqrt(of_image)[:, None] * X
        axes = randomized_svd(weighed, k, random_state=seed)[2].T
        X = X @ axes
    averages = np.add.reduceat(X, np.cumsum(sizes) - sizes) / sizes[:, None]
    with warnings.catch_warnings():  # a start need not be the solution to the last digit
        warnings.simplefilter("ignore", ConvergenceWarning)
        coef, intercept = solve_linear(averages, y, cost, n_classes, 1.0)
    start = [coef.T, intercept, *(_random_gates(X.shape[1], seed) if axes is not None else ())]
    given = [*map(torch.from_numpy, (X, sizes))]
    codes, costs = torch.from_numpy(y), torch.from_numpy(cost)
    trained = ("lse", _SHARP) if pooling == "max" else (pooling, sharpness)
    # The two halves of a binary regression have half its penalty.
    penalty = 1.0 if n_classes == 2 else 0.5

    def loss(coef: Tensor, intercept: Tensor, *gates: Tensor) -> Tensor:
        logits = _bag_logits(*trained, *given, coef, intercept, *gates)
        size = coef.square().sum() + _PENALTY * sum(each.square().sum() for each in gates)
        return costs @ cross_entropy(logits, codes, reduction="none") + penalty * size

    found = _minimized(loss, start)
    for i in range(0, len(found) - 1, 2):  # back to the columns as they were given
        turned = found[i] if axes is None else axes @ found[i]
        found[i] = scale[:, None] * turned
        found[i + 1] = found[i + 1] - mean @ found[i]
    return BagRegression(pooling, sharpness, found)


def _random_gates(k: int, seed: int) -> list[np.ndarray]:
    """Return a start at which attention is nearly the same for all images."""
    rng = np.random.default_rng(seed)
    shapes = [(k, _N_UNITS), (_N_UNITS,), (k, _N_UNITS), (_N_UNITS,), (_N_UNITS,)]
    return [0.3 * rng.standard_normal(shape) / np.sqrt(shape[0]) for shape in shapes]


def _minimized(loss: Callable[..., Tensor], start: list[np.ndarray]) -> list[np.ndarray]:
    """Return the arguments of the least loss that L-BFGS reaches."""
    ends = np.cumsum([each.size for each in start])[:-1]

    def parts(point: np.ndarray) -> list[np.ndarray]:
        pieces = zip(np.split(point, ends), start, strict=True)
        return [piece.reshape(each.shape) for piece, each in pieces]

    def value_and_slopes(point: np.ndarray) -> tuple[float, np.ndarray]:
        arguments = [torch.tensor(part, requires_grad=True) for part in parts(point)]
        value = loss(*arguments)
        slopes = torch.autograd.grad(value, arguments)
        return value.item(), np.concatenate([slope.numpy().ravel() for slope in slopes])

    solved = minimize(
        value_and_slopes,
        np.concatenate([each.ravel() for each in start]),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": _MOST_STEPS, "maxcor": 20, "ftol": 1e-13, "gtol": 1e-9},
    )
    return parts(solved.x)
