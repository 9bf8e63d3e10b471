"""What displays of single rows and their calls share: the way from an estimator.

It must not know what is drawn.
"""

from __future__ import annotations

from typing import Any, ClassVar

from sktransfer.inspection._estimator_images import images_of
from sktransfer.inspection._judged import judged_by


class JudgedDisplay:
    """Constructor of displays that show images alongside what a classifier called them."""

    # A classmethod of every display: (judged rows, their images, **kwargs).
    _of: ClassVar[Any]

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        response_method: str = "auto",
        image_shape: tuple[int, ...] | None = None,
        value_range: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Predict with a fitted classifier, and plot.

        Parameters
        ----------
        estimator : estimator instance
            Fitted classifier of two classes or more. Its own threshold counts, if it has one.
        X : collection of images, n rows
            Rows it has not seen, in any of the :ref:`accepted forms <accepted-inputs>`.
        y : array-like of shape (n,)
            True labels.
        response_method : {"auto", "predict_proba", "decision_function"}, default="auto"
            Where confidence comes from. "auto": the first of the two that the estimator has.
        image_shape, value_range : default=None
            As in :class:`~sktransfer.PretrainedFeatureExtractor`. None: those of the estimator.
        **kwargs
            As of :meth:`from_predictions`.

        Returns
        -------
        Display
            With what was found.

        Raises
        ------
        TypeError
            If the estimator has no scores.
        """
        found = judged_by(estimator, X, y, response_method)
        return cls._of(found, images_of(estimator, X, image_shape, value_range), **kwargs)
