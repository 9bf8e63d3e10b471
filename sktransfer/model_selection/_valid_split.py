"""GroupedValidSplit: skorch's train_split, stratified and grouped; it must not know networks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator

from sktransfer._utils.splitting import holdout_split


class GroupedValidSplit(BaseEstimator):
    """Hold validation rows out inside ``fit``: stratified by class, no patient on both sides.

    For the ``train_split`` of :class:`~sktransfer.FineTuneClassifier` or of any skorch net;
    skorch's own ``ValidSplit`` takes either the classes or the groups into account. Without groups
    it is stratified only.

    :class:`~sktransfer.FineTuneClassifier` does the same with ``validation_fraction``, and hands
    ``groups`` on. A plain skorch net gives what is passed to ``fit`` to its module as well: let
    ``forward`` take ``groups`` and ignore it.

    Parameters
    ----------
    test_size : float, default=0.2
        Share of the rows held out, as nearly as whole groups allow.
    random_state : int, RandomState instance or None, default=None

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
        y : array-like or tensor of shape (n,)
            Class labels.
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
        labels = np.asarray(y)
        if len(labels) != len(dataset):
            raise ValueError(f"y has {len(labels)} entries for {len(dataset)} rows.")
        train, valid = holdout_split(
            labels, self.test_size, groups=groups, random_state=self.random_state
        )
        return Subset(dataset, train.tolist()), Subset(dataset, valid.tolist())
