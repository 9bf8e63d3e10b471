"""Bags as estimators get them: cells taken apart into images, which are embedded together.

It must not know how the images of a bag are pooled.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Number
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils import Tags, check_array, check_consistent_length
from sklearn.utils.validation import check_is_fitted, validate_data

from sktransfer._base import NO_FAILED_ROWS, ImageInputMixin
from sktransfer._images import is_missing
from sktransfer._utils.config import API_PAGE
from sktransfer._utils.per_row import as_frame
from sktransfer._utils.sklearn_compat import HasMethods, StrOptions, _num_samples
from sktransfer.exceptions import FailedRowsWarning, ImageDecodeError


@dataclass
class Bags:
    """Images of all bags, one after the other, how many each bag has, and their places in it."""

    rows: Any
    sizes: np.ndarray
    place: Any = None

    def __post_init__(self) -> None:
        if self.place is None:
            starts = np.cumsum(self.sizes) - self.sizes
            self.place = np.arange(self.sizes.sum()) - np.repeat(starts, self.sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def bag(self) -> np.ndarray:
        """Number of the bag of each image."""
        return np.repeat(np.arange(len(self)), self.sizes)

    def only(self, chosen: np.ndarray) -> Bags:
        """Return the bags without the images that are not chosen."""
        sizes = np.bincount(self.bag[chosen], minlength=len(self))
        return Bags(self.rows[chosen], sizes, self.place[chosen])


def read_bags(X: Any, *, vectors: bool) -> Bags:
    """Take the cells of ``X`` apart; a row of numbers is a bag of one image."""
    if isinstance(X, (str, bytes, os.PathLike)):
        raise TypeError(f"X has to be a collection of bags; got a single {type(X).__name__}.")
    cells = cells_of(X)
    if cells is None and not vectors:
        cells = views_of(X)
    if cells and not vectors and _is_row_of_numbers(cells[0]):
        cells = None
    if cells is not None:
        read = _vectors if vectors else images_of
        parts = [read(cell, number) for number, cell in enumerate(cells)]
        rows = [row for part in parts for row in part]
        if vectors and len(widths := sorted({len(row) for row in rows})) > 1:
            raise ValueError(f"The bags hold vectors of different lengths: {widths[:5]}.")
        return Bags(np.asarray(rows) if vectors else rows, np.asarray([*map(len, parts)], int))
    if getattr(X, "ndim", 2) == (3 if vectors else 5):  # bags of one size
        n, size = X.shape[:2]
        return Bags(X.reshape(n * size, *X.shape[2:]), np.full(n, size))
    return Bags(X, np.ones(_num_samples(X), dtype=int))


def cells_of(X: Any) -> list[Any] | None:
    """Return the cells of a column, or None where ``X`` is numbers."""
    frame = as_frame(X)
    if frame is not None:
        one = frame.shape[1] == 1 and frame.dtypes.iloc[0].kind not in "biufc"
        return list(frame.iloc[:, 0]) if one else None
    if isinstance(X, np.ndarray):
        column = X.dtype.kind in "OU" and X.shape in ((len(X),), (len(X), 1))
        return list(X.ravel()) if column else None
    if hasattr(X, "to_list") or hasattr(X, "to_pylist"):
        return X.to_list() if hasattr(X, "to_list") else X.to_pylist()
    return list(X) if isinstance(X, (list, tuple)) else None


def views_of(X: Any) -> list[list[Any]] | None:
    """Return the rows of a table that has a column of images for each view, or None."""
    frame = as_frame(X)
    table = X if frame is None else frame.to_numpy()
    views = isinstance(table, np.ndarray) and table.ndim == 2 and table.dtype.kind in "OU"
    return table.tolist() if views else None


def _is_row_of_numbers(cell: Any) -> bool:
    """Return whether a cell is a row of a table of pixels."""
    return isinstance(cell, (list, tuple)) and any(
        isinstance(each, Number) and not is_missing(each) for each in cell
    )


def _vectors(cell: Any, number: int) -> Any:
    """Return the vectors of one bag, of which a single one may be given as it is."""
    if is_missing(cell):
        return []
    try:
        array = np.asarray(cell.numpy(force=True) if isinstance(cell, torch.Tensor) else cell)
    except ValueError:  # of different lengths
        array = np.asarray(None)
    if array.size == 0 and array.ndim in (1, 2):
        return []
    if array.dtype.kind not in "biufc" or array.ndim not in (1, 2):
        raise ValueError(
            f"Bag {number} ({type(cell).__name__}) is no array of shape (images, features). For "
            "images, pass extractor=PretrainedFeatureExtractor(...)."
        )
    return np.atleast_2d(array)


def images_of(cell: Any, number: int) -> list[Any]:
    """Return the images of one bag, of which a single one may be given as it is."""
    if is_missing(cell):
        return []
    if hasattr(cell, "as_py"):
        cell = cell.as_py()
    if isinstance(cell, torch.Tensor) or (isinstance(cell, np.ndarray) and cell.dtype.kind != "O"):
        if cell.ndim != 4:
            raise ValueError(
                f"Bag {number} is one array of shape {tuple(cell.shape)}. Put its images into a "
                "list: list(images), or [image] for a single one."
            )
        return list(cell)
    if isinstance(cell, (list, tuple, np.ndarray)) or hasattr(cell, "to_list"):
        return list(cell)
    return [cell]


class BagInputMixin:
    """Steps of an estimator whose ``X`` is bags, and what of them could not be read."""

    _doc_link_module = "sktransfer"
    _doc_link_template = API_PAGE
    _bag_parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "extractor": [HasMethods(["fit", "transform"]), None],
        "on_error": [StrOptions({"raise", "nan"})],
    }
    extractor: Any
    on_error: str
    extractor_: Any
    _n_columns: int
    _failed_rows: pd.DataFrame
    _note_failures: Any = ImageInputMixin._note_failures
    failed_rows_: Any = ImageInputMixin.failed_rows_

    def _fit_extractor(self, X: Any, y: Any = None) -> Bags:
        """Fit the extractor to the images of all bags; return these."""
        bags = read_bags(X, vectors=self.extractor is None)
        if len(bags) and not bags.sizes.any():
            raise ValueError(f"Found no image in {len(bags)} bags; at least one is required.")
        self._check_empty(bags)
        self._failed_rows = NO_FAILED_ROWS
        for name in ("n_features_in_", "feature_names_in_"):  # left from an earlier fit
            self.__dict__.pop(name, None)
        self.extractor_ = None
        if self.extractor is None:
            bags.rows = self._checked(X, bags, reset=True)
            return bags
        extractor = clone(self.extractor)
        own = [name for name in extractor.get_params() if name.split("__")[-1] == "on_error"]
        extractor.set_params(**dict.fromkeys(own, self.on_error))
        check_consistent_length(bags.sizes, y)
        of_images = None if y is None else np.asarray(y)[bags.bag]
        with self._failures_of(bags):
            self.extractor_ = extractor.fit(bags.rows, of_images)
        for name in ("n_features_in_", "feature_names_in_"):  # of a table of pixels
            if bags.rows is X and hasattr(extractor, name):
                setattr(self, name, getattr(extractor, name))
        return bags

    def _embed(self, X: Any) -> Bags:
        """Return the embeddings of the images that can be read; ``X`` may have been read."""
        check_is_fitted(self, "extractor_")
        bags = X if isinstance(X, Bags) else read_bags(X, vectors=self.extractor_ is None)
        if not bags.sizes.any():
            rows = np.empty((0, 1))
        elif self.extractor_ is None:
            rows = bags.rows if bags is X else self._checked(X, bags, reset=False)
        else:
            with self._failures_of(bags):
                rows = self.extractor_.transform(bags.rows)
        rows = np.asarray(rows, dtype=np.float64)
        read = np.asarray(np.isfinite(rows).all(axis=1))
        found = Bags(rows, bags.sizes, bags.place).only(read)
        self._check_empty(found)
        reader = self.extractor_[0] if isinstance(self.extractor_, Pipeline) else self.extractor_
        said = getattr(reader, "failed_rows_", NO_FAILED_ROWS).set_index("row").to_dict("index")
        failures = []
        for i in np.flatnonzero(~read):
            why = said.get(i, {"reason": "its vector is not finite.", "source": None})
            reason = f"image {bags.place[i]} of this bag: {why['reason']}"
            failures.append(ImageDecodeError(reason, int(bags.bag[i]), why["source"]))
        empty = np.flatnonzero(bags.sizes == 0)
        failures += [ImageDecodeError("this bag has no image.", int(bag)) for bag in empty]
        self._note_failures(failures, len(bags.place) + len(empty), "left out of their bags")
        return found

    def _checked(self, X: Any, bags: Bags, *, reset: bool) -> np.ndarray:
        """Check vectors the way scikit-learn does; only those of a table are columns of ``X``."""
        finite = "allow-nan" if self.on_error == "nan" else True
        if bags.rows is X:
            rows = validate_data(self, X, reset=reset, ensure_all_finite=finite)
        else:
            rows = check_array(bags.rows, ensure_all_finite=finite, input_name="X", estimator=self)
        if reset:
            self._n_columns = rows.shape[1]
        elif rows.shape[1] != self._n_columns:
            raise ValueError(
                f"X has {rows.shape[1]} features, but {type(self).__name__} is expecting "
                f"{self._n_columns} features as input."
            )
        return rows

    def _check_empty(self, bags: Bags) -> None:
        """Raise an error for the first bag without images, where that is asked for."""
        empty = np.flatnonzero(bags.sizes == 0)
        if len(empty) and self.on_error == "raise":
            reason = "this bag has no image. Leave it out, or pass on_error='nan'."
            raise ImageDecodeError(reason, int(empty[0]))

    @contextmanager
    def _failures_of(self, bags: Bags) -> Iterator[None]:
        """Name the bag of an image that cannot be read; say nothing of those that are left out."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FailedRowsWarning)
                yield
        except ImageDecodeError as error:
            if error.index is None:
                raise
            reason = f"image {bags.place[error.index]} of this bag: {error.reason}"
            raise ImageDecodeError(reason, int(bags.bag[error.index]), error.source) from error

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())  # type: ignore[call-overload]
        if "_failed_rows" in state:
            state["_failed_rows"] = NO_FAILED_ROWS  # file names may be patients' names
        return state

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.three_d_array = True
        return tags
