"""scikit-learn's own checks, with no expected failure."""

from __future__ import annotations

from sklearn.utils.estimator_checks import parametrize_with_checks
from skorch import NeuralNetClassifier

from sktransfer import FineTuneClassifier

CHECKED = FineTuneClassifier(
    "squeezenet1_0",
    weights=None,
    image_shape=(1, -1),
    value_range=(-200, 200),
    freeze_depth="all",
    random_state=0,
)


@parametrize_with_checks([CHECKED])
def test_it_passes_scikit_learns_checks(estimator, check):
    check(estimator)


def test_it_is_a_skorch_net():
    assert isinstance(CHECKED, NeuralNetClassifier)
