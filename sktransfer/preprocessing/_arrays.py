"""What transformers on arrays of images share: the check of ``X``, and their tags."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.validation import check_array, validate_data

from sktransfer._utils.config import API_PAGE


class ImageArrayMixin:
    """Accept arrays (n, H, W), (n, H, W, C) and 2-D ``X`` whose rows are raveled images."""

    _doc_link_module = "sktransfer"
    _doc_link_template = API_PAGE

    def _check_images(
        self, X: Any, *, reset: bool, dtype: Any = "numeric", ensure_min_samples: int = 1
    ) -> np.ndarray:
        """Return X as numbers; the columns of a 2-D X are checked as scikit-learn's are."""
        if reset:
            for name in ("n_features_in_", "feature_names_in_"):
                self.__dict__.pop(name, None)  # of an earlier fit on a table
        n_axes, first = 0, X
        while isinstance(first, list | tuple) and len(first):
            n_axes, first = n_axes + 1, first[0]
        checks: dict[str, Any] = {"dtype": dtype, "ensure_min_samples": ensure_min_samples}
        if n_axes + getattr(first, "ndim", 0) > 2:  # their sides are not features
            X = check_array(X, allow_nd=True, input_name="X", **checks)
        else:
            X = validate_data(self, X, reset=reset, **checks)
        if X.ndim not in (2, 3, 4):
            raise ValueError(
                f"X has shape {X.shape}; expected (n, height, width, channels), (n, height, width) "
                "or raveled images (n, pixels) with image_shape."
            )
        return X

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
