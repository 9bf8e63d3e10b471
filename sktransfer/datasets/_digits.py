"""The demo's task: scikit-learn's scanned digits, one of them against the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.utils import Bunch

from sktransfer.datasets._tables import one_against_rest


def load_digit_screening(
    digit: int = 8, *, positive: str | None = None, return_X_y: bool = False
) -> Any:
    """Find one handwritten digit among all ten: a screening task with rare positives.

    The images are the 1797 scanned digits that come with scikit-learn (8 x 8 pixels, values 0
    to 16, handwriting of 43 people), so that nothing has to be downloaded. One digit in ten is
    about the prevalence of a screening program.

    Parameters
    ----------
    digit : int, default=8
        The digit to find. 8 is the hardest to tell from the others.
    positive : str or None, default=None
        Class that is 1 in ``target``, such as "eight"; the other is 0. None: ``target`` has names.
    return_X_y : bool, default=False
        Whether ``(data, target)`` is returned instead of the Bunch.

    Returns
    -------
    Bunch
        ``data``: ndarray of shape (1797, 64), raveled images; ``target``: ndarray of str, the
        digit as a word or "other" (with ``positive``: of 0 and 1); ``target_names``: both, sorted
        (with ``positive``: names of 0 and 1); ``value_range``: (0, 16), to be given to the
        extractor; ``groups``: None (scikit-learn does not say who wrote what).

    See Also
    --------
    load_image_folder : Read images of your own.

    Examples
    --------
    >>> from sktransfer.datasets import load_digit_screening
    >>> task = load_digit_screening(digit=3)
    >>> task.data.shape, int((task.target == "three").sum()), task.target_names
    ((1797, 64), 183, ['other', 'three'])
    >>> int(load_digit_screening(digit=3, positive="three").target.sum())
    183
    """
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    if not 0 <= digit <= 9:
        raise ValueError(f"digit must be between 0 and 9; got {digit}.")
    data, label = load_digits(return_X_y=True)
    target = np.where(label == digit, names[digit], "other").astype(object)
    target_names = sorted(["other", names[digit]])
    if positive is not None:
        target, target_names = one_against_rest(target, positive)
    if return_X_y:
        return data, target
    return Bunch(
        data=data,
        target=target,
        target_names=target_names,
        groups=None,
        value_range=(0, 16),
        DESCR=f"scikit-learn's scanned digits: {names[digit]} against the rest.",
    )
