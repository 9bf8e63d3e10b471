"""What comes after the embedding: modules, and the linear one solved exactly.

It must not know backbones, images or skorch.
"""

from __future__ import annotations

import copy
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from torch import nn

from sktransfer._utils.random import private_seed

# Newton's method on all coefficients at once is exact to the last digits, and cubic in their
# number.
_NEWTON_COEFFICIENTS = 4096


def make_head(
    head: Any, n_features: int, n_classes: int, dropout: float, seed: int
) -> nn.Sequential:
    """A head with random weights.

    Parameters
    ----------
    head : "linear", sequence of int, or callable
        ``"linear"`` is one linear layer; (1024, 256) two hidden layers with ReLU before it. A
        callable takes (n_features, n_classes) and returns a module.
    dropout : float
        Share of units dropped before each linear layer.
    seed : int
        Torch's global generator is left alone.

    Returns
    -------
    nn.Sequential
    """
    with private_seed(seed):
        if isinstance(head, str):
            hidden: tuple[int, ...] = ()
        elif callable(head):
            made = head(n_features, n_classes)
            if not isinstance(made, nn.Module):
                raise ValueError(f"head(n_features, n_classes) must return a module; got {made!r}.")
            # A copy: what a factory gives twice must not be trained twice.
            return nn.Sequential(copy.deepcopy(made))
        else:
            hidden = tuple(head)
        layers: list[nn.Module] = []
        width = n_features
        for size in hidden:
            layers += [*_dropout(dropout), nn.Linear(width, size), nn.ReLU()]
            width = size
        return nn.Sequential(*layers, *_dropout(dropout), nn.Linear(width, n_classes))


def _dropout(share: float) -> list[nn.Module]:
    return [nn.Dropout(share)] if share else []


def check_head(head: Any) -> None:
    """Raise ValueError for what is no head."""
    sizes = isinstance(head, (list, tuple)) and all(
        isinstance(size, Integral) and not isinstance(size, bool) and int(size) > 0 for size in head
    )
    if isinstance(head, nn.Module):
        raise ValueError(
            f"head is a module, {type(head).__name__}, that every fit would go on training: give "
            "what makes one, a callable (n_features, n_classes) -> module."
        )
    if not (head == "linear" or sizes or (callable(head) and not isinstance(head, str))):
        raise ValueError(
            "head must be 'linear', a tuple of hidden layer sizes such as (1024,), or a callable "
            f"(n_features, n_classes) -> module; got {head!r}."
        )


def solve_linear(
    embeddings: np.ndarray, y: np.ndarray, weight: np.ndarray, n_classes: int, C: float
) -> tuple[np.ndarray, np.ndarray]:
    """Weights and biases of the linear head that logistic regression gives, in float64.

    Embeddings are centerd and scaled to unit variance, column by column, as far as the penalty is
    concerned; the scaling is folded into what is returned.

    Parameters
    ----------
    embeddings : ndarray of shape (n, d)
    y : ndarray of shape (n,), int
        From 0 to ``n_classes`` - 1; a class may be absent.
    weight : ndarray of shape (n,)
    C : float
        Inverse strength of the L2 penalty, for the sum of losses over rows.

    Returns
    -------
    coefficients : ndarray of shape (n_classes, d)
    intercepts : ndarray of shape (n_classes,)
    """
    keep = weight > 0
    X, y, weight = embeddings[keep].astype(np.float64), y[keep], weight[keep]
    share = weight / weight.sum()
    mean = share @ X
    deviation = np.sqrt(share @ (X - mean) ** 2)
    # A column that is constant on these rows says nothing about the classes.
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 1e-12)
    present = np.unique(y)
    coefficients = np.zeros((n_classes, X.shape[1]))
    intercepts = np.zeros(n_classes)
    # Absent classes must lose, by a margin that is finite.
    intercepts[np.setdiff1d(np.arange(n_classes), present)] = -30.0
    if len(present) == 1:
        return coefficients, intercepts
    n_coefficients = X.shape[1] * (1 if len(present) == 2 else len(present))
    newton = n_coefficients <= _NEWTON_COEFFICIENTS
    solver = LogisticRegression(
        C=C,
        solver="newton-cholesky" if newton else "lbfgs",
        tol=1e-12 if newton else 1e-8,
        max_iter=200 if newton else 5000,
    ).fit((X - mean) * scale, y, sample_weight=weight)
    if len(present) == 2:  # halves, so that neither class is privileged by a later decay
        solved = np.stack([-solver.coef_[0], solver.coef_[0]]) / 2
        offset = np.array([-solver.intercept_[0], solver.intercept_[0]]) / 2
    else:
        solved, offset = solver.coef_, solver.intercept_
    coefficients[present] = solved * scale
    intercepts[present] = offset - (solved * scale) @ mean
    return coefficients, intercepts
