"""Predictions of a fine-tuned network; it must not know how it was trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from sklearn.utils import Bunch
from sklearn.utils.validation import check_is_fitted
from torch.utils.data import Dataset

from sktransfer._base import n_decoding_threads
from sktransfer._finetune._datasets import ActivationRows, ImageRows
from sktransfer._finetune._fitting import Fitting, threads
from sktransfer._finetune._keeping import from_array
from sktransfer._finetune._lr_finder import find_learning_rate
from sktransfer._finetune._parts import TEST_VIEWS
from sktransfer._images import ImageSource, portions, resolve_augmentation
from sktransfer.exceptions import ImageDecodeError

# Fewest rows that are predicted at once, however little memory there is.
_LEAST_ROWS = 32


class Predicting(Fitting):
    """``predict`` and its kin."""

    @property
    def classes_(self) -> np.ndarray:
        """Class labels, sorted."""
        if "_classes" not in vars(self):
            raise AttributeError(f"This {type(self).__name__} is not fitted yet: no classes_.")
        return self._classes

    def __sklearn_is_fitted__(self) -> bool:
        return self.initialized_

    def check_is_fitted(self, attributes: Any = None, *args: Any, **kwargs: Any) -> None:
        """Raise NotFittedError before ``fit``."""
        check_is_fitted(self, attributes, *args, **kwargs)

    def decision_function(self, X: Any) -> np.ndarray:
        """Logits of rows.

        Parameters
        ----------
        X : array-like, DataFrame, Series or sequence of images, n rows

        Returns
        -------
        ndarray of shape (n,) or (n, n_classes)
            With two classes, the logit of the second one minus that of the first.
        """
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of rows.

        Parameters
        ----------
        X : array-like, DataFrame, Series or sequence of images, n rows

        Returns
        -------
        ndarray of shape (n, n_classes), float64
            In the order of ``classes_``; rows sum to 1. NaN for rows that cannot be read, with
            ``on_error="nan"``.
        """
        return softmax(self._logits(X), axis=1)

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest class of each row.

        Parameters
        ----------
        X : array-like, DataFrame, Series or sequence of images, n rows

        Returns
        -------
        ndarray of shape (n,)

        Raises
        ------
        ImageDecodeError
            If a row cannot be read, whatever ``on_error`` says: there is no class for "broken".
        """
        logits = self._logits(X)
        lost = np.flatnonzero(np.isnan(logits).any(axis=1))
        if len(lost):
            failed = self._failed_rows[self._failed_rows["row"] == lost[0]]
            first = failed.iloc[0] if len(failed) else None
            raise ImageDecodeError(
                f"{len(lost)} row(s) have no prediction"
                + ("" if first is None else f" ({first['reason']})")
                + "; predict_proba gives NaN for them. Leave them out, or mend the files.",
                int(lost[0]),
                None if first is None else first["source"],
            )
        return self._classes[logits.argmax(axis=1)]

    def _logits(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        parts = [part.detach().cpu().double().numpy() for part in self.forward_iter(X)]
        return np.concatenate(parts)

    def forward_iter(self, X: Any, training: bool = False, device: str = "cpu") -> Any:
        """Logits of rows, batch by batch, as skorch has it."""
        check_is_fitted(self)
        if isinstance(X, Dataset):
            yield from super().forward_iter(X, training=training, device=device)
            return
        source = self._image_source(X, reset=False)
        failures: list[ImageDecodeError] = []
        with threads(n_decoding_threads(self.n_jobs)) as map_:
            for some in portions(source, self._rows_at_once(source)):
                datasets = [
                    self._plain(some, map_, failures),
                    *(self._drawn(some, v, map_) for v in range(1, self.test_time_views or 1)),
                ]
                batches = [super(Predicting, self).forward_iter(d, training) for d in datasets]
                for views in zip(*batches, strict=True):
                    yield torch.stack([logits.double() for logits in views]).mean(0).to(device)
                failures += getattr(datasets[0], "failures", [])
        self._note_failures(failures, len(source), "given NaN")

    def get_dataset(self, X: Any, y: Any = None) -> Any:
        """Datasets as they are; images are brought to the cut."""
        if isinstance(X, Dataset):
            return X
        source = self._image_source(X, reset=False)
        failures: list[ImageDecodeError] = []
        dataset = self._plain(source, map, failures)  # read when no pool of ours lives any more
        self._note_failures(failures, len(source), "given NaN")
        return dataset

    def _rows_at_once(self, source: ImageSource) -> int:
        """How many rows' activations fit in memory."""
        if self._prefix.cut.depth == 0:
            return len(source)
        return max(_LEAST_ROWS, self._budget.memory_bytes // self._prefix.n_bytes)

    def _plain(self, source: ImageSource, map_: Any, failures: list[ImageDecodeError]) -> Any:
        """Rows as they are; those that cannot be read are added to ``failures``."""
        if self._prefix.cut.depth == 0:
            return self._images(source, None, map_)
        rows, failed = self._prefix.activations(
            source,
            cache=self.cache,
            n_threads=n_decoding_threads(self.n_jobs),
            on_error=self.on_error,
            progress=bool(self.verbose),
            of_bytes=len(source) * self._prefix.n_bytes,
        )
        failures += failed
        return ActivationRows(from_array(rows), *_unlabeled(len(source)))

    def _drawn(self, source: ImageSource, view: int, map_: Any) -> ImageRows:
        """Rows as a draw of the augmentation has them."""
        dataset = self._images(source, resolve_augmentation(self.augmentation), map_)
        dataset.epoch = view
        dataset.by_content = True
        return dataset

    def _images(self, source: ImageSource, augmentation: Any, map_: Any) -> ImageRows:
        seed = self._seed_of(TEST_VIEWS)
        rows = _unlabeled(len(source))
        dataset = ImageRows(source, self._prefix, augmentation, seed, map_, *rows)
        dataset.on_error = self.on_error
        return dataset

    def find_lr(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        lr_min: float = 1e-6,
        lr_max: float = 1.0,
        n_steps: int = 80,
    ) -> Bunch:
        """Look for a learning rate: train a clone while the rate rises, and watch the loss.

        The frozen part is run once; this estimator is left as it is.

        Parameters
        ----------
        X, y, sample_weight
            As for ``fit``.
        lr_min, lr_max : float
            First and last rate.
        n_steps : int
            Batches.

        Returns
        -------
        Bunch
            ``lr`` and ``loss``, ndarrays of equal length (shorter where the loss ran away), and
            ``suggestion``: where the loss falls fastest.
        """
        return find_learning_rate(
            self, X, y, sample_weight, lr_min=lr_min, lr_max=lr_max, n_steps=n_steps
        )


def _unlabeled(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, labels and weights of a dataset that is only predicted."""
    return np.arange(n), np.zeros(n, dtype=np.int64), np.ones(n)
