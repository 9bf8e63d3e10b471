"""A FineTuneClassifier made ready for measuring: cut, with a head, and nothing learned.

It must not know searches, nor what is done with what it tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from sklearn.base import clone

from sktransfer._base import n_decoding_threads
from sktransfer._finetune._activations import Prefix
from sktransfer._finetune._estimator import FineTuneClassifier
from sktransfer._finetune._keeping import Place
from sktransfer._finetune._parts import VIEWS
from sktransfer._frozen import OneCut
from sktransfer._images import ImageSource, ImageViews, resolve_augmentation

# What has effects elsewhere, or is of no use before anything is learned.
_SILENT: dict[str, Any] = {"verbose": 0, "callbacks": None, "checkpoint_dir": None}


@dataclass
class Trial:
    """What one candidate of a search asks of the frozen part, and the candidate itself.

    Parameters
    ----------
    clf : FineTuneClassifier
        A clone that was prepared and not trained.
    prefix : Prefix
        Its frozen part.
    solves_head, only_solved : bool
        Whether a fit begins with a logistic regression, and whether that is all there is to it.
    """

    clf: FineTuneClassifier
    prefix: Prefix
    solves_head: bool
    only_solved: bool

    @classmethod
    def of(cls, estimator: FineTuneClassifier, classes: np.ndarray) -> Trial:
        """Prepare a clone; ``estimator`` and global random states are left alone."""
        clf = _silent(estimator)
        clf._classes = classes
        clf._start()
        solves = clf._solves_head
        trial = cls(clf, clf._prefix, solves, solves and clf._nothing_but_solved())
        trial.let_go()
        return trial

    def like(self, estimator: FineTuneClassifier) -> Trial:
        """Of a candidate that differs in nothing that changes the network or a step's seconds."""
        clf = _silent(estimator)
        clf._seed = self.clf._seed
        return Trial(clf, self.prefix, self.solves_head, self.only_solved)

    def let_go(self) -> None:
        """Drop the trained part: a grid has many candidates, and memory is for one of them."""
        for name in ("_module_", "criterion_", "optimizer_"):
            self.clf.__dict__.pop(name, None)
        self.clf.initialized_ = False

    @property
    def frozen(self) -> bool:
        """Whether there is one."""
        return self.prefix.cut.depth > 0

    @property
    def n_threads(self) -> int:
        """Threads that decode."""
        return n_decoding_threads(self.clf.n_jobs)

    @property
    def n_views(self) -> int:
        """Draws of each training image that are kept."""
        return self.clf.augment_views or 0

    @property
    def draws_anew(self) -> bool:
        """Whether images are drawn, and run through the frozen part, in every epoch."""
        return self.clf.augmentation is not None and not self.n_views

    @cached_property
    def cut(self) -> OneCut:
        """What is stored."""
        prefix = self.prefix
        return OneCut(prefix.frozen(), prefix.width, prefix.dtype)

    @cached_property
    def fingerprint(self) -> bytes | None:
        """Of what is stored; None where it is not, or where no other fit would ask for the same."""
        from_seed = self.clf.weights is None and self.clf.random_state is None
        if not self.frozen or from_seed or not self.clf.cache:
            return None
        return self.cut.fingerprint

    def read(self, X: Any) -> ImageSource:
        """Images of X."""
        return self.clf._image_source(X, reset=True)

    def views_of(self, images: ImageSource) -> ImageViews | None:
        """The draws that are kept; None without."""
        if not self.n_views:
            return None
        augmentation = resolve_augmentation(self.clf.augmentation)
        return ImageViews(images, augmentation, self.n_views, self.views_seed)

    @property
    def views_seed(self) -> int:
        """What decides the draws that are kept."""
        return self.clf._seed_of(VIEWS)

    def views_last(self, views: ImageViews) -> bool:
        """Whether another fit asks for the same draws."""
        return views.lasting and self.clf.random_state is not None

    def place(self, n: int) -> Place:
        """Where a fit on ``n`` images keeps activations."""
        augmentation = resolve_augmentation(self.clf.augmentation) if self.n_views else None
        storable = self.prefix.storable(augmentation)
        return self.clf._budget.place(n * self.prefix.n_bytes, storable=storable)

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory that a fit's activations may take."""
        return self.clf._budget.memory_bytes


def _silent(estimator: FineTuneClassifier) -> FineTuneClassifier:
    clf = clone(estimator).set_params(**_SILENT)
    clf._check_parameters()
    return clf
