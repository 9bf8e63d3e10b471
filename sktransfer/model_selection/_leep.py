"""LEEP and NCE: how well the classes a network was trained on predict new ones; they must not
know networks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from sktransfer.model_selection._features import check_labeled


def leep_score(theta: ArrayLike, y: ArrayLike) -> float:
    """Log-likelihood of labels under a classifier read off the source classes.

    A network's own class probabilities stand for each image; the new label is drawn given an
    old class as the data have it [1]_.

    Parameters
    ----------
    theta : array-like of shape (n, n_source_classes)
        Probabilities of the network's own classes; rows sum to 1.
    y : array-like of shape (n,)
        New labels.

    Returns
    -------
    float
        At most 0; larger is better.

    Raises
    ------
    ValueError
        If rows of ``theta`` are no probabilities.

    References
    ----------
    .. [1] Nguyen, C. V., Hassner, T., Seeger, M., & Archambeau, C. (2020). "LEEP: a new measure to
       evaluate transferability of learned representations". ICML.

    Examples
    --------
    >>> from sktransfer.model_selection import leep_score
    >>> leep_score([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], ["a", "a", "b"])
    0.0
    """
    return float(leep_per_row(theta, y).mean())


def leep_per_row(theta: ArrayLike, y: ArrayLike) -> np.ndarray:
    """Log-likelihood of each label, shape (n,); its mean is :func:`leep_score`."""
    data = check_labeled(theta, y, name="theta")
    total = data.F.sum(axis=1)
    if (data.F < 0).any() or not np.allclose(total, 1, atol=1e-3):
        raise ValueError(
            f"Rows of theta are probabilities of the source classes: not negative, and summing to "
            f"1; got values from {data.F.min():.3g} and sums from {total.min():.3g} to "
            f"{total.max():.3g}. Apply a softmax to logits first."
        )
    probabilities = data.F / total[:, None]
    joint = data.onehot.T @ probabilities
    marginal = joint.sum(axis=0)
    conditional = np.divide(joint, marginal, out=np.zeros_like(joint), where=marginal > 0)
    likelihood = (conditional[data.codes] * probabilities).sum(axis=1)
    return np.log(np.maximum(likelihood, np.finfo(np.float64).tiny))


def nce_score(z: ArrayLike, y: ArrayLike) -> float:
    """Negative entropy of labels given the source class each image was put into.

    Parameters
    ----------
    z : array-like of shape (n,)
        Source classes, of any kind.
    y : array-like of shape (n,)
        New labels.

    Returns
    -------
    float
        At most 0; larger is better. What :func:`leep_score` is for probabilities of 0 and 1 [1]_.

    References
    ----------
    .. [1] Tran, A. T., Nguyen, C. V., & Hassner, T. (2019). "Transferability and hardness of
       supervised classification tasks". ICCV.

    Examples
    --------
    >>> from sktransfer.model_selection import nce_score
    >>> round(nce_score([0, 0, 1, 1], ["a", "a", "a", "b"]), 4)
    -0.3466
    """
    source, codes = np.unique(np.asarray(z), return_inverse=True)
    return leep_score(np.eye(len(source))[codes], y)
