"""saliency_randomization_test: maps that ignore the weights fail, gradients pass."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torchmetrics.functional.image import structural_similarity_index_measure

from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor
from sktransfer.inspection import saliency_randomization_test

RNG = np.random.default_rng(0)
X = RNG.integers(0, 255, (16, 32, 32), np.uint8)
y = np.arange(16) % 3
STAGES = ["classifier", "layer4", "layer3", "layer2", "layer1", "maxpool"]


@pytest.fixture(scope="module")
def pipe():
    feat = PretrainedFeatureExtractor("resnet18", weights=None, image_size=64, engine="torch")
    return make_pipeline(feat, StandardScaler(), LogisticRegression()).fit(X, y)


@pytest.fixture(scope="module")
def tuned():
    clf = FineTuneClassifier(
        "resnet18", weights=None, image_size=64, freeze_depth="layer3", max_epochs=1, random_state=0
    )
    return clf.fit(X, y)


def edges(decision, batch, codes):
    """Return edges, which look like a map but do not depend on the model."""
    return batch.diff(dim=3).abs().amax(1)


def constant_fall(decision, batch, codes):
    """Return the occlusion map of a model with a constant score."""
    return torch.zeros(len(batch), *batch.shape[2:])


def times_input(decision, batch, codes):
    batch = batch.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(decision(batch).sum(), batch)
    return (gradient * batch).sum(1)


@pytest.mark.parametrize("method", [edges, constant_fall])
@pytest.mark.parametrize("estimator", ["pipe", "tuned"])
def test_a_map_that_ignores_the_weights_fails(estimator, method, request):
    result = saliency_randomization_test(request.getfixturevalue(estimator), X[:3], method=method)
    assert not result.passed
    np.testing.assert_allclose(result.table["correlation"], 1)
    np.testing.assert_allclose(result.table["similarity"], 1)
    assert result.table["flat"].eq(method is constant_fall).all()


@pytest.mark.parametrize("estimator", ["pipe", "tuned"])
def test_every_stage_is_shuffled_and_the_model_is_not_changed(estimator, request):
    model = request.getfixturevalue(estimator)
    before = model.predict_proba(X)
    result = saliency_randomization_test(model, X[:3], y[:3], batch_size=2)
    assert result.passed
    assert result.table["randomized"].tolist() == STAGES
    np.testing.assert_array_equal(model.predict_proba(X), before)


def test_earlier_steps_stay_randomized(pipe):
    """The decision differs after each step, so each step starts from the one before."""
    seen = []

    def of_decision(decision, batch, codes):
        seen.append(decision(batch).tolist())
        return batch[:, 0]

    saliency_randomization_test(pipe, X[:2], method=of_decision)
    assert len({tuple(each) for each in seen}) == len(seen) == 1 + len(STAGES)


def test_measures_are_spearmans_correlation_and_ssim(pipe):
    rng = np.random.default_rng(1)
    a, b = rng.uniform(size=(2, 2, 40, 50))
    for each in (a, b):
        # From 0 to 1 already, with enough white not to be stretched.
        each[:, 0, 0], each[:, 1] = 0, 1
    b = 0.6 * a + 0.4 * b
    given = iter([a, *[b] * len(STAGES)])
    # The sign of a map says for or against, and not how much.
    signs = rng.choice([-1, 1], a.shape)
    result = saliency_randomization_test(
        pipe, X[:2], method=lambda *args: torch.from_numpy(signs * next(given))
    )
    ranks = [spearmanr(*pair, axis=None).statistic for pair in zip(a, b, strict=True)]
    np.testing.assert_allclose(result.table["correlation"], np.mean(ranks))
    np.testing.assert_allclose(result.table["std"], np.std(ranks))
    tensors = [torch.from_numpy(each[:, None]) for each in (a, b)]
    expected = structural_similarity_index_measure(*tensors, data_range=1.0)
    np.testing.assert_allclose(result.table["similarity"], float(expected), rtol=1e-5)


@pytest.mark.parametrize(
    ("method", "kwargs"),
    [
        ("integrated_gradients", {"n_steps": 4}),
        ("grad_cam", {"layer": "layer3"}),
        ("occlusion", {"patch": 32, "stride": 32}),
    ],
)
def test_methods_are_chosen_by_name(pipe, method, kwargs):
    result = saliency_randomization_test(pipe, X[:1], method=method, **kwargs)
    assert result.table["randomized"].tolist() == STAGES
    by_gradient = saliency_randomization_test(pipe, X[:1])
    assert not np.allclose(result.table["correlation"], by_gradient.table["correlation"])


def test_named_gradient_is_the_gradient(pipe):
    def largest(decision, batch, codes):
        batch = batch.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(decision(batch).sum(), batch)
        return gradient.abs().amax(1)

    by_name = saliency_randomization_test(pipe, X[:2])
    by_hand = saliency_randomization_test(pipe, X[:2], method=largest)
    pd.testing.assert_frame_equal(by_name.table, by_hand.table)
    # The classifier, layer4 and layer3; then come those whose maps depend on the first layers.
    assert by_name.correlation == by_name.table["correlation"].iloc[:3].mean()


def test_result_depends_on_the_seed_and_the_limit(pipe):
    first = saliency_randomization_test(pipe, X[:1], method=times_input, random_state=1)
    again = saliency_randomization_test(pipe, X[:1], method=times_input, random_state=1)
    pd.testing.assert_frame_equal(first.table, again.table)
    other = saliency_randomization_test(pipe, X[:1], method=times_input, random_state=2)
    assert not first.table.equals(other.table)
    strict = saliency_randomization_test(pipe, X[:1], method=times_input, max_correlation=-1)
    assert not strict.passed


def test_invalid_input_raises(pipe):
    with pytest.raises(ValueError, match="'occlusion', or a callable; got 'guided'"):
        saliency_randomization_test(pipe, X[:2], method="guided")
    with pytest.raises(ValueError, match=r"of shape \(2, height, width\); got Tensor of shape"):
        saliency_randomization_test(pipe, X[:2], method=lambda *args: torch.zeros(1, 3))
    with pytest.raises(ValueError, match="got ndarray"):
        saliency_randomization_test(pipe, X[:2], method=lambda *args: np.zeros((2, 3, 3)))
    with pytest.raises(ValueError, match="takes no parameters; got smooth"):
        saliency_randomization_test(pipe, X[:2], method=edges, smooth=3)
    with pytest.raises(ValueError, match="none of the classes"):
        saliency_randomization_test(pipe, X[:2], [7, 7])
    feat = PretrainedFeatureExtractor("squeezenet1_1", weights=None, image_size=32)
    with pytest.raises(TypeError, match="No gradient passes through SVC"):
        saliency_randomization_test(make_pipeline(feat, SVC()).fit(X, y), X[:2])
