"""The frozen part of a FineTuneClassifier that is not fitted yet: what it will ask of the store."""

from __future__ import annotations

from typing import Any

from sklearn.base import clone

from sktransfer._finetune._estimator import FineTuneClassifier
from sktransfer._finetune._parts import VIEWS
from sktransfer._frozen import FrozenExtractor, NetworkInfo
from sktransfer._images import ImageSource, ImageViews, resolve_augmentation


class FrozenPart:
    """What a fit of ``estimator`` runs through its frozen stages; nothing is trained.

    Parameters
    ----------
    estimator : FineTuneClassifier
        It is cloned, so that it and its random state are left alone.
    """

    def __init__(self, estimator: FineTuneClassifier) -> None:
        self._clf = clone(estimator)
        self._clf._check_parameters()
        self._clf._prepare()
        self._prefix = self._clf._prefix

    @property
    def depth(self) -> int:
        """Number of frozen stages."""
        return self._prefix.cut.depth

    @property
    def info(self) -> NetworkInfo:
        """What is known of the whole network."""
        return self._prefix.info

    def extractor(self) -> FrozenExtractor | None:
        """Return what stores activations, or None if no other fit would ask for the same."""
        clf, prefix = self._clf, self._prefix
        drawn_network = clf.weights is None and clf.random_state is None
        if prefix.cut.depth == 0 or drawn_network or not clf.cache:
            return None
        return prefix.frozen()

    def images(self, X: Any) -> ImageSource:
        """Return the images of X as this classifier reads them."""
        return self._clf._image_source(X, reset=True)

    def sources(self, images: ImageSource) -> dict[tuple, ImageSource]:
        """Return everything that is run: the images, and views of them that other fits share."""
        found: dict[tuple, ImageSource] = {(): images}
        clf, n_views = self._clf, self._clf.augment_views or 0
        if n_views and clf.random_state is not None:
            seed = clf._seed_of(VIEWS)
            views = ImageViews(images, resolve_augmentation(clf.augmentation), n_views, seed)
            if views.lasting:
                found[repr(clf.augmentation), n_views, seed] = views
        return found
