"""Heads, which come after the embedding: made as modules, or solved by logistic regression.

It must not know backbones, images or skorch.
"""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from torch import nn

from sktransfer._backbones import private_seed

# Newton's method on all coefficients at once is exact to the last digits, and cubic in their
# number.
_NEWTON_COEFFICIENTS = 4096


def make_head(
    head: Any, n_features: int, n_classes: int, dropout: float, seed: int
) -> nn.Sequential:
    """Make a head with random weights; torch's global generator is left alone.

    ``"linear"`` is one linear layer; (1024, 256) two hidden layers with ReLU before it. A callable
    takes (n_features, n_classes) and returns a module. Dropout is before each linear layer.
    """
    with private_seed(seed):
        if callable(head):
            made = head(n_features, n_classes)
            if not isinstance(made, nn.Module):
                raise ValueError(
                    "head(n_features, n_classes) must return a torch.nn.Module; it returned "
                    f"{made!r}."
                )
            # A copy: what a factory gives twice must not be trained twice.
            return nn.Sequential(copy.deepcopy(made))
        widths = [n_features, *(() if isinstance(head, str) else head), n_classes]
        layers: list[nn.Module] = []
        for i, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
            layers += [nn.ReLU()] if i else []
            layers += [nn.Dropout(dropout)] if dropout else []
            layers.append(nn.Linear(n_in, n_out))
        return nn.Sequential(*layers)


def solve_linear(
    embeddings: np.ndarray, y: np.ndarray, weight: np.ndarray, n_classes: int, C: float
) -> tuple[np.ndarray, np.ndarray]:
    """Solve the linear head by logistic regression, in float64.

    Embeddings are centered and scaled to unit variance, column by column, as far as the penalty is
    concerned; the scaling is folded into what is returned.
    """
    keep = weight > 0
    X, y, weight = embeddings[keep].astype(np.float64), y[keep], weight[keep]
    share = weight / weight.sum()
    mean = share @ X
    deviation = np.sqrt(share @ (X - mean) ** 2)
    # A column that is constant on these rows says nothing about the classes.
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 1e-12)
    X = (X - mean) * scale
    present = np.unique(y)
    coefficients = np.zeros((n_classes, X.shape[1]))
    intercepts = np.zeros(n_classes)
    # Absent classes must lose, by a margin that is finite.
    intercepts[np.setdiff1d(np.arange(n_classes), present)] = -30.0
    if len(present) == 1:
        return coefficients, intercepts
    # The penalty keeps the solution in the span of the rows: few of them need few coefficients.
    basis = None
    if len(X) < X.shape[1]:
        basis, triangle = np.linalg.qr(X.T)
        X = triangle.T
    n_coefficients = X.shape[1] * (1 if len(present) == 2 else len(present))
    newton = n_coefficients <= _NEWTON_COEFFICIENTS
    solver = LogisticRegression(
        C=C,
        solver="newton-cholesky" if newton else "lbfgs",
        tol=1e-12 if newton else 1e-8,
        max_iter=200 if newton else 5000,
    ).fit(X, y, sample_weight=weight)
    solved, offset = solver.coef_, solver.intercept_
    if basis is not None:
        solved = solved @ basis.T
    if len(present) == 2:  # halves, so that neither class is privileged by a later decay
        solved, offset = (np.stack([-each[0], each[0]]) / 2 for each in (solved, offset))
    coefficients[present] = solved * scale
    intercepts[present] = offset - (solved * scale) @ mean
    return coefficients, intercepts
