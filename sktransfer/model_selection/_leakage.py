"""check_leakage: the same image or patient on both sides of a split."""

from __future__ import annotations

import os
import warnings
from collections.abc import Hashable, Sequence
from typing import Any

import pandas as pd
from numpy.typing import ArrayLike

from sktransfer._images import ImageSource, as_image_source
from sktransfer._utils.identifiers import read_groups
from sktransfer._utils.threads import DecodingThreads
from sktransfer.datasets._near_duplicates import copies_across
from sktransfer.exceptions import ImageDecodeError, LeakageWarning

_COLUMNS = ["test_row", "train_row", "what"]


def check_leakage(
    X_train: Any,
    X_test: Any,
    *,
    groups_train: ArrayLike | None = None,
    groups_test: ArrayLike | None = None,
    image_shape: tuple[int, ...] | None = None,
    value_range: tuple[float, float] | None = None,
    near_duplicates: bool = False,
    on_leak: str = "warn",
) -> pd.DataFrame:
    """Find images and patients that are on both sides of a split.

    Images are compared by the digest of their encoded bytes, or of their numbers; none is decoded.
    A copy that was saved again, cropped or scaled is another file; it is found with
    ``near_duplicates``, for which all images are decoded.

    Parameters
    ----------
    X_train : collection of images
        Training images, in any of the :ref:`accepted forms <accepted-inputs>`.
    X_test : collection of images
        Test images.
    groups_train : array-like of shape (n_train,), default=None
        Groups, such as patients, of the training images. Give groups of both parts or of none.
    groups_test : array-like of shape (n_test,), default=None
        Groups of the test images.
    image_shape : tuple of int or None, default=None
        Shape of an image in a row of numbers, as in
        :class:`~sktransfer.PretrainedFeatureExtractor`.
    value_range : tuple of float or None, default=None
        Range of the numbers, as in :class:`~sktransfer.PretrainedFeatureExtractor`.
    near_duplicates : bool, default=False
        Whether to look for edited copies, too (see :ref:`label-audit`). It takes about 30 ms an
        image, and its square from some ten thousand images on.
    on_leak : {"warn", "raise", "ignore"}, default="warn"
        What to do if something is found.

    Returns
    -------
    leaks : DataFrame
        A row for each test row that is not new, and why: ``test_row``, the first such
        ``train_row``, and ``what``: "image", "near duplicate" or "group". It is empty if there
        is none.

    Raises
    ------
    ValueError
        With ``on_leak="raise"``, if something is found; if groups do not fit.

    Warns
    -----
    LeakageWarning
        If something is found, or rows cannot be read and so were not compared.

    See Also
    --------
    grouped_train_test_split : Split without dividing groups.
    sktransfer.datasets.check_images : Find copies within one set.

    Examples
    --------
    >>> import numpy as np
    >>> from sktransfer.model_selection import check_leakage
    >>> images = np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8)
    >>> check_leakage(images[:4], images[3:], on_leak="ignore")
       test_row  train_row     what
    0         0          3  image
    """
    if on_leak not in ("warn", "raise", "ignore"):
        raise ValueError(f"on_leak must be 'warn', 'raise' or 'ignore'; got {on_leak!r}.")
    if (groups_train is None) != (groups_test is None):
        raise ValueError("Give groups_train and groups_test together, or neither of them.")
    sources = [
        as_image_source(X, image_shape=image_shape, value_range=value_range)
        for X in (X_train, X_test)
    ]
    train, test = (_digests(source) for source in sources)
    unread = sum(digest is None for digest in [*train, *test])
    lines = _shared(train, test, "image")
    if near_duplicates:
        lines += [(row, first, "near duplicate") for row, first in copies_across(*sources)]
    if groups_train is not None and groups_test is not None:
        names: list[list[Any]] = []
        given = {"groups_train": groups_train, "groups_test": groups_test}
        for source, (name, groups) in zip(sources, given.items(), strict=True):
            column = read_groups(groups, name=name).tolist()
            if len(column) != len(source):
                raise ValueError(f"{name} has {len(column)} entries for {len(source)} images.")
            names.append(column)
        lines += _shared(names[0], names[1], "group")
    found = pd.DataFrame(lines, columns=_COLUMNS).sort_values(
        ["test_row", "what"], ignore_index=True
    )
    if unread:
        warnings.warn(
            f"{unread} rows cannot be read and were not compared.", LeakageWarning, stacklevel=2
        )
    if len(found) and on_leak != "ignore":
        counts = found["what"].value_counts()
        parts = [
            f"{counts[what]} of {len(sources[1])} test rows are of {one} that is in training"
            for what, one in (
                ("image", "an image"),
                ("near duplicate", "an edited image"),
                ("group", "a group"),
            )
            if what in counts
        ]
        message = f"{'; '.join(parts)}. Scores on them are not those of new patients."
        if on_leak == "raise":
            raise ValueError(message)
        warnings.warn(message, LeakageWarning, stacklevel=2)
    return found


def _digests(source: ImageSource) -> list[bytes | None]:
    """Compute the digest of every row; None for one that cannot be read."""

    def digest(row: int) -> bytes | None:
        try:
            return source.open(row).digest
        except ImageDecodeError:
            return None

    with DecodingThreads(min(8, (os.cpu_count() or 1) + 1)) as pool:
        return list(pool.map(digest, range(len(source))))


def _shared(
    train: Sequence[Hashable | None], test: Sequence[Hashable | None], what: str
) -> list[tuple[int, int, str]]:
    """List test rows whose key is in training, with the first such training row."""
    first: dict[Hashable, int] = {}
    for row, key in enumerate(train):
        if key is not None:
            first.setdefault(key, row)
    return [
        (row, first[key], what) for row, key in enumerate(test) if key is not None and key in first
    ]
