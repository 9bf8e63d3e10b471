"""scikit-learn's own checks of numbers and grades, with no expected failure."""

from __future__ import annotations

import warnings

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks
from skorch import NeuralNetRegressor

from sktransfer import FineTuneClassifier, FineTuneRegressor

PIXELS = {
    "weights": None,
    "image_shape": (1, -1),
    "image_size": 64,
    "value_range": (-200, 200),
    "freeze_depth": "all",
    "random_state": 0,
}
REGRESSOR = FineTuneRegressor("squeezenet1_1", **PIXELS)
GRADES = FineTuneClassifier("squeezenet1_1", loss="cumulative_link", **PIXELS)


@parametrize_with_checks([REGRESSOR])
def test_numbers_pass_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([GRADES])
def test_grades_pass_scikit_learns_checks(estimator, check):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The order of the grades is that of the alphabet")
        check(estimator)


def test_it_is_a_skorch_regressor():
    assert isinstance(REGRESSOR, NeuralNetRegressor)
    assert not hasattr(REGRESSOR, "predict_proba")
    assert not hasattr(REGRESSOR, "classes_")
