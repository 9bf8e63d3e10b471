"""What the image estimators share: reading X, naming its columns, devices; never a network."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from numbers import Integral
from typing import Any, ClassVar

import joblib
import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import check_is_fitted, validate_data

from sktransfer._backbones import InputSpec
from sktransfer._frozen import DTYPES, ENGINES
from sktransfer._images import (
    DicomOptions,
    ImageSource,
    Preprocessing,
    as_image_source,
    make_preprocessing,
)
from sktransfer._utils.config import API_PAGE
from sktransfer._utils.sklearn_compat import Interval, StrOptions
from sktransfer.exceptions import FailedRowsWarning, ImageDecodeError

_LARGEST_SEED = np.iinfo(np.int32).max

NO_FAILED_ROWS = pd.DataFrame(columns=["row", "source", "reason"])


class ImageInputMixin:
    """Parameters, which a subclass stores, and steps of an estimator whose X is images."""

    _doc_link_module = "sktransfer"
    _doc_link_template = API_PAGE
    _image_parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "preprocessing": [StrOptions({"weights", "resize", "pad"}), callable],
        "scaled_decoding": ["boolean"],
        "image_size": [Interval(Integral, 1, None, closed="left"), None],
        "image_shape": [tuple, list, None],
        "value_range": [tuple, list, StrOptions({"dtype", "percentile"}), None],
        "dicom": [DicomOptions, None],
        "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "device": [str, torch.device],
        "precision": [StrOptions(set(DTYPES))],
        "engine": [StrOptions(set(ENGINES))],
        "cache": ["boolean", str, os.PathLike, None],
        "on_error": [StrOptions({"raise", "nan"})],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
        "store_weights": ["boolean"],
        "verbose": ["verbose"],
    }

    image_shape: Any
    value_range: Any
    dicom: DicomOptions | None
    preprocessing: Any
    image_size: int | None
    scaled_decoding: bool
    _failed_rows: pd.DataFrame

    def _image_source(self, X: Any, *, reset: bool) -> ImageSource:
        """Return X as images, its columns checked the way scikit-learn does."""
        if isinstance(X, (str, bytes, os.PathLike)):
            raise ValueError(
                f"X has to be a collection of images, one per row; got a single "
                f"{type(X).__name__}. Put it in a list: [X]. For a folder of class sub-folders "
                "there is sktransfer.datasets.load_image_folder."
            )
        source = as_image_source(
            X, image_shape=self.image_shape, value_range=self.value_range, dicom=self.dicom
        )
        if isinstance(X, pd.DataFrame) or source.n_columns is not None:
            validate_data(self, X, reset=reset, skip_check_array=True)
        elif reset:
            # Left from an earlier fit on a table.
            for name in ("n_features_in_", "feature_names_in_"):
                self.__dict__.pop(name, None)
        return source

    @property
    def failed_rows_(self) -> pd.DataFrame:
        """Rows of the last call that could not be read: ``row``, ``source``, ``reason``."""
        # Not an attribute: scikit-learn's HTML repr shows those, and a file may be named after
        # a patient.
        check_is_fitted(self)
        return self._failed_rows.copy()

    def _note_failures(self, failures: list[ImageDecodeError], n: int, what: str) -> None:
        """Note the rows of this call that could not be read, and warn of them."""
        rows = [(failure.index, failure.source, failure.reason) for failure in failures]
        # Without any, the very same object: a prediction must not change the estimator.
        self._failed_rows = NO_FAILED_ROWS
        if failures:
            self._failed_rows = pd.DataFrame(rows, columns=NO_FAILED_ROWS.columns)
            warnings.warn(
                f"{len(failures)} of {n} rows could not be read and were {what} (failed_rows_ "
                f"lists them). The first: {failures[0]}",
                FailedRowsWarning,
                stacklevel=3,
            )

    def _preprocessing_for(
        self, spec: InputSpec, settings: Mapping[str, Any] | None = None
    ) -> Preprocessing:
        """Return what makes a network's input from an image, as this estimator's parameters say.

        ``settings`` are its parameters as they were; None: as they are.
        """
        given = vars(self) if settings is None else settings
        return make_preprocessing(
            **vars(spec),
            preprocessing=given["preprocessing"],
            image_size=given["image_size"],
            scaled_decoding=given["scaled_decoding"],
        )


class LogitsMixin:
    """Predictions of a classifier whose ``_logits`` gives NaN for rows that cannot be read.

    What logits mean is known to ``_target``, a ``Target`` of ``sktransfer/_finetune/_targets.py``.
    """

    def decision_function(self: Any, X: Any) -> np.ndarray:
        """Compute the logits of rows.

        Parameters
        ----------
        X : array-like, DataFrame, Series or sequence, n rows
            In any of the forms that ``fit`` accepts.

        Returns
        -------
        ndarray of shape (n,) or (n, n_classes)
            With two classes, the logit of the second one minus that of the first. With several
            labels a row, the logit of each, of shape (n, n_labels).
        """
        logits = self._logits(X)
        return self._target.decision(logits)

    def predict_proba(self: Any, X: Any) -> np.ndarray:
        """Predict the probabilities of the classes.

        Parameters
        ----------
        X : array-like, DataFrame, Series or sequence, n rows
            In any of the forms that ``fit`` accepts.

        Returns
        -------
        ndarray of shape (n, n_classes), float64
            In the order of ``classes_``; rows sum to 1, unless labels are several a row, whose
            probabilities are independent. NaN for rows that cannot be read, with
            ``on_error="nan"``.
        """
        logits = self._logits(X)
        return self._target.probabilities(logits)

    def predict(self: Any, X: Any) -> np.ndarray:
        """Predict the likeliest class of each row, or of several labels those likelier than not.

        Parameters
        ----------
        X : array-like, DataFrame, Series or sequence, n rows
            In any of the forms that ``fit`` accepts.

        Returns
        -------
        ndarray of shape (n,) or (n, n_labels)
            Class labels; with several labels a row, 1 for each that it has and 0 for the others.

        Raises
        ------
        ImageDecodeError
            If a row cannot be read, whatever ``on_error`` says: there is no class for "broken".
        """
        logits = self._logits(X)  # NaN for rows that cannot be read, and for no others
        lost = np.flatnonzero(np.isnan(logits).any(axis=1))
        if len(lost):
            failed = self._failed_rows[self._failed_rows["row"] == lost[0]]
            first = failed.iloc[0] if len(failed) else None
            raise ImageDecodeError(
                f"{len(lost)} row(s) have no prediction"
                + ("" if first is None else f" ({first['reason']})")
                + "; predict_proba gives NaN for them. Leave them out, or repair the files.",
                int(lost[0]),
                None if first is None else first["source"],
            )
        return self._target.predicted(logits)

    def score(self: Any, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy of predictions.

        Parameters
        ----------
        X : array-like, DataFrame, Series or sequence, n rows
            In any of the forms that ``fit`` accepts.
        y : array-like of shape (n,) or (n, n_labels)
            True labels, in any of the forms that ``fit`` accepts.
        sample_weight : array-like of shape (n,), default=None
            Weights of the rows.

        Returns
        -------
        float
            Share of rows that are predicted correctly; with several labels a row, in all labels
            that are known.
        """
        return self._target.accuracy(self.predict(X), y, sample_weight)


def resolve_device(device: str | torch.device, precision: str) -> str:
    """Return the device to run on, as torch names it; raise where torch does not have it."""
    if device == "auto":
        if precision == "int8":
            return "cpu"
        if torch.cuda.is_available():
            return "cuda"
        # Apple's GPUs have no float64.
        if torch.backends.mps.is_available() and precision != "float64":
            return "mps"
        return "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device must be 'auto' or a torch device such as 'cpu', 'cuda' or 'cuda:1'; "
            f"got {device!r}."
        ) from error
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available()
        and (chosen.index is None or chosen.index < torch.cuda.device_count()),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(chosen.type, False):
        available["cuda"] = torch.cuda.is_available()
        names = {"cuda": [f"cuda:{i}" for i in range(torch.cuda.device_count())]}
        kinds = ", ".join(
            name for kind, yes in available.items() if yes for name in names.get(kind, [kind])
        )
        raise ValueError(
            f"device={str(device)!r} is not available to torch on this machine (available: "
            f"{kinds}). device='auto' takes the best one there is."
        )
    if chosen.type == "mps" and precision == "float64":
        raise ValueError("precision='float64' is not available on device='mps'; use 'cpu'.")
    return str(chosen)


def on_host(rows: Any) -> np.ndarray:
    """Return embeddings as an array, also where they are a tensor on a device."""
    return np.asarray(rows.cpu() if isinstance(rows, torch.Tensor) else rows)


def n_decoding_threads(n_jobs: int | None) -> int:
    """Return ``n_jobs``, or as many threads as torch may use (joblib's workers set that)."""
    if n_jobs is None:
        return max(1, torch.get_num_threads())
    return joblib.effective_n_jobs(n_jobs)


def seed_from(random_state: int | np.random.RandomState | None) -> int:
    """Return a seed for torch; an integer is its own, to mean the same in every version."""
    if random_state is None:
        # Fresh entropy; numpy's global generator is not ours to advance.
        return int(np.random.default_rng().integers(_LARGEST_SEED))
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(_LARGEST_SEED))
    return int(random_state)


def derived_seed(*parts: int) -> int:
    """Return a seed for each combination of numbers, unlike that of any other."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
