"""The demo's task: scikit-learn's scanned digits, one of them against the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.utils import Bunch


def load_digit_screening(digit: int = 8, *, return_X_y: bool = False) -> Any:
    """Find one handwritten digit among all ten: a screening task with rare positives.

    The images are the 1797 scanned digits that come with scikit-learn (8 x 8 pixels, values 0
    to 16, handwriting of 43 people), so that nothing has to be downloaded. One digit in ten is
    about the prevalence of a screening program.

    Parameters
    ----------
    digit : int, default=8
        The digit that counts as positive. 8 is the hardest to tell from the others.
    return_X_y : bool, default=False
        Whether ``(data, target)`` is returned instead of the Bunch.

    Returns
    -------
    Bunch
        ``data``: ndarray of shape (1797, 64), raveled images; ``target``: 1 for the digit, 0
        for the others; ``target_names``: names of 0 and 1; ``value_range``: (0, 16), to be given
        to the extractor; ``groups``: None (scikit-learn does not say who wrote what).

    Examples
    --------
    >>> from sktransfer.datasets import load_digit_screening
    >>> task = load_digit_screening(digit=3)
    >>> task.data.shape, int(task.target.sum()), task.target_names
    ((1797, 64), 183, ['other', 'three'])
    """
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    if not 0 <= digit <= 9:
        raise ValueError(f"digit must be between 0 and 9; got {digit}.")
    data, label = load_digits(return_X_y=True)
    target = (label == digit).astype(np.int64)
    if return_X_y:
        return data, target
    return Bunch(
        data=data,
        target=target,
        target_names=["other", names[digit]],
        groups=None,
        value_range=(0, 16),
        DESCR=f"scikit-learn's scanned digits: {names[digit]} (1) against the rest (0).",
    )
