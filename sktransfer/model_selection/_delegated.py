"""Scores of an inner estimator, handed through; it must not know how labels are chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from sktransfer._utils.sklearn_compat import _estimator_has


class DelegatedResponses:
    """Score methods of ``estimator_``, there where ``estimator`` has them."""

    estimator: Any
    estimator_: Any

    @available_if(_estimator_has("predict_proba"))
    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the estimator; the threshold does not change them.

        Parameters
        ----------
        X : array-like of shape (n, ...), list or DataFrame

        Returns
        -------
        ndarray of shape (n, 2)
        """
        check_is_fitted(self, "estimator_")
        return self.estimator_.predict_proba(X)

    @available_if(_estimator_has("predict_log_proba"))
    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Logarithms of :meth:`predict_proba`.

        Parameters
        ----------
        X : array-like of shape (n, ...), list or DataFrame

        Returns
        -------
        ndarray of shape (n, 2)
        """
        check_is_fitted(self, "estimator_")
        return self.estimator_.predict_log_proba(X)

    @available_if(_estimator_has("decision_function"))
    def decision_function(self, X: Any) -> np.ndarray:
        """Decision function of the estimator; the threshold does not change it.

        Parameters
        ----------
        X : array-like of shape (n, ...), list or DataFrame

        Returns
        -------
        ndarray of shape (n,)
        """
        check_is_fitted(self, "estimator_")
        return self.estimator_.decision_function(X)
