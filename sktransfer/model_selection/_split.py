"""Splits that keep the images of a patient together: hold-out, inside of ``fit``, and folds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.model_selection import StratifiedGroupKFold, train_test_split
from sklearn.utils import check_consistent_length, check_random_state, indexable

from sktransfer._utils.config import API_PAGE
from sktransfer._utils.identifiers import read_groups
from sktransfer._utils.multilabel import is_multilabel, read_indicators
from sktransfer._utils.per_row import check_present
from sktransfer._utils.sklearn_compat import _safe_indexing, validate_shuffle_split
from sktransfer._utils.splitting import (
    holdout_split,
    iterative_folds,
    labels_to_stratify,
    stratified_part,
)


def grouped_train_test_split(
    *arrays: Any,
    groups: ArrayLike | None = None,
    test_size: float | int | None = None,
    train_size: float | int | None = None,
    random_state: int | np.random.RandomState | None = None,
    stratify: ArrayLike | None = None,
) -> list[Any]:
    """Split arrays into train and test parts that share no group.

    :func:`sklearn.model_selection.train_test_split` for patients with several images: it is called
    in the same way, and ``groups`` says whose each row is.

    Parameters
    ----------
    *arrays : sequence of indexables with the same length
        Lists, arrays, DataFrames or Series.
    groups : array-like of shape (n,) or None, default=None
        Group of each row, such as the patient. All rows of a group are in one part. None: every
        row is a group of its own, and ``train_test_split`` does the work.
    test_size : float, int or None, default=None
        Share or number of the rows in the test part, met as nearly as whole groups allow. None:
        the complement of ``train_size``, or 0.25.
    train_size : float, int or None, default=None
        Share or number of the rows in the training part. None: the complement of ``test_size``.
    random_state : int, RandomState instance or None, default=None
        Seed of the choice of groups.
    stratify : array-like of shape (n,) or (n, n_labels), or None, default=None
        Class labels whose shares both parts keep, as nearly as whole groups allow. With several
        labels a row, a matrix or table of 0, 1 and NaN or a list of sets, those of each label.

    Returns
    -------
    splitting : list, length=2 * len(arrays)
        Train and test part of each array, in turn.

    See Also
    --------
    GroupedValidSplit : The same for the ``train_split`` of skorch nets.
    MultilabelStratifiedGroupKFold : Folds for rows with several labels.

    Examples
    --------
    >>> import numpy as np
    >>> from sktransfer.model_selection import grouped_train_test_split
    >>> patients = np.repeat(np.arange(20), 2)
    >>> X, y = np.arange(40).reshape(-1, 1), np.repeat(np.arange(20) % 2, 2)
    >>> X_train, X_test, y_train, y_test = grouped_train_test_split(
    ...     X, y, groups=patients, stratify=y, random_state=0
    ... )
    >>> len(X_train), len(X_test), set(patients[X_train[:, 0]]) & set(patients[X_test[:, 0]])
    (30, 10, set())
    """
    if not arrays:
        raise ValueError("At least one array to split is needed.")
    several = stratify is not None and is_multilabel(stratify)
    if several and groups is None:
        groups = np.arange(len(read_indicators(stratify, name="stratify")[0]))
    elif stratify is not None and not several:
        stratify = check_present(stratify, "stratify")
    if groups is None:
        return train_test_split(
            *arrays,
            test_size=test_size,
            train_size=train_size,
            random_state=random_state,
            stratify=stratify,
        )
    arrays = tuple(indexable(*arrays))
    patients = read_groups(groups)
    check_consistent_length(arrays[0], patients)
    n = len(patients)
    n_train, n_test = validate_shuffle_split(n, test_size, train_size)
    labels = np.zeros(n) if stratify is None else labels_to_stratify(stratify, "stratify")
    check_consistent_length(patients, labels)
    random = check_random_state(random_state)
    share = test_size if isinstance(test_size, float) else n_test / n
    train, test = holdout_split(labels, share, groups=patients, random_state=random)
    if n_train + n_test < n:  # both sizes were given, and rows are left over
        seed = random.randint(np.iinfo(np.int32).max)
        part = stratified_part(labels[train], n_train, groups=patients[train], random_state=seed)
        train = train[part]
    return [_safe_indexing(array, part) for array in arrays for part in (train, test)]


class GroupedValidSplit(BaseEstimator):
    """Hold validation rows out inside ``fit``: stratified by class, no patient on both sides.

    For the ``train_split`` of skorch nets, whose own ``ValidSplit`` takes either the classes or the
    groups into account. Without groups it is stratified only.

    :class:`~sktransfer.FineTuneClassifier` accepts it as ``validation_fraction``, where a number
    does the same, and hands ``groups`` on. A plain skorch net gives what is passed to ``fit`` to
    its module as well: let ``forward`` take ``groups`` and ignore it.

    Parameters
    ----------
    test_size : float, default=0.2
        Share of the rows held out, as nearly as whole groups allow.
    random_state : int, RandomState instance or None, default=None
        Seed of the choice of rows or groups.

    See Also
    --------
    grouped_train_test_split : For splits outside ``fit``.

    Examples
    --------
    >>> import numpy as np
    >>> from sktransfer.model_selection import GroupedValidSplit
    >>> patients = np.repeat(np.arange(20), 2)
    >>> y = np.repeat(np.arange(20) % 2, 2)
    >>> split = GroupedValidSplit(0.25, random_state=0)
    >>> train, valid = split(list(range(40)), y, groups=patients)
    >>> len(train), len(valid), set(patients[train.indices]) & set(patients[valid.indices])
    (30, 10, set())
    """

    _doc_link_module = "sktransfer"
    _doc_link_template = API_PAGE

    def __init__(self, test_size: float = 0.2, *, random_state: Any = None) -> None:
        self.test_size = test_size
        self.random_state = random_state

    def __call__(
        self, dataset: Any, y: ArrayLike | None = None, groups: ArrayLike | None = None
    ) -> tuple[Any, Any]:
        """Split a data set.

        Parameters
        ----------
        dataset : sized and indexable
            What skorch trains on.
        y : array-like or tensor of shape (n,) or (n, n_labels)
            Class labels, or several labels a row.
        groups : array-like of shape (n,) or None, default=None
            Patients.

        Returns
        -------
        train, valid : torch.utils.data.Subset
        """
        from torch.utils.data import Subset

        if y is None:
            raise ValueError(
                "GroupedValidSplit needs the labels to be stratified by them: pass y to fit, also "
                "where the data set has its own."
            )
        labels = labels_to_stratify(y)
        if len(labels) != len(dataset):
            raise ValueError(f"y has {len(labels)} entries for {len(dataset)} rows.")
        train, valid = holdout_split(
            labels, self.test_size, groups=groups, random_state=self.random_state
        )
        return Subset(dataset, train.tolist()), Subset(dataset, valid.tolist())


class MultilabelStratifiedGroupKFold(StratifiedGroupKFold):
    """Divide rows with several labels into folds, by label and by patient.

    Iterative stratification [1]_: the label with the fewest rows is dealt out first, each time to
    the fold that lacks most of it. Whole groups are dealt out, so that no patient is in two folds.
    Rows where a label is absent, and where it is unknown, are spread as those where it is present.

    Read more in the :ref:`User Guide <findings>`.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds, at least 2.
    shuffle : bool, default=False
        Whether ties are broken at random. Otherwise they are by the order of rows.
    random_state : int, RandomState instance or None, default=None
        Seed of the ties, with ``shuffle=True``.

    See Also
    --------
    grouped_train_test_split : A single split, by several labels too.
    sklearn.model_selection.StratifiedGroupKFold : Folds for rows with one label.

    Notes
    -----
    A label with fewer patients than folds is not in every fold, and its measures are NaN there.

    References
    ----------
    .. [1] Sechidis, Tsoumakas, Vlahavas: On the stratification of multi-label data. ECML PKDD
       (2011).

    Examples
    --------
    >>> import numpy as np
    >>> from sktransfer.model_selection import MultilabelStratifiedGroupKFold
    >>> y = np.tile([[1, 0], [0, 0], [0, 1], [0, 0], [1, 1], [0, 0]], (4, 1))
    >>> patients = np.repeat(np.arange(12), 2)
    >>> folds = MultilabelStratifiedGroupKFold(4)
    >>> [y[test].sum(axis=0).tolist() for _, test in folds.split(y, y, patients)]
    [[2, 2], [2, 2], [2, 2], [2, 2]]
    """

    _doc_link_module = "sktransfer"
    _doc_link_template = API_PAGE

    def __init__(
        self, n_splits: int = 5, *, shuffle: bool = False, random_state: Any = None
    ) -> None:
        super().__init__(n_splits, shuffle=shuffle, random_state=random_state)

    def _iter_test_indices(self, X: Any, y: Any, groups: Any) -> Iterator[np.ndarray]:
        if y is None:
            raise ValueError(f"{type(self).__name__} needs the labels: pass y.")
        labels = labels_to_stratify(y)
        patients = None if groups is None else read_groups(groups, n=len(labels))
        seed = check_random_state(self.random_state) if self.shuffle else None
        fold = iterative_folds(labels, self.n_splits, groups=patients, random_state=seed)
        for number in range(self.n_splits):
            yield np.flatnonzero(fold == number)
