"""Maps, embeddings and reports of a TransferClassifier, which averages several networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor, TransferClassifier
from sktransfer.inspection import (
    deletion_insertion_curves,
    input_gradient,
    occlusion,
    saliency_maps,
    saliency_randomization_test,
    similar_images,
)
from sktransfer.inspection._differentiable import differentiable_shares
from sktransfer.inspection._estimator_images import images_of
from sktransfer.inspection._gradient_maps import explain_by_gradient
from sktransfer.inspection._saliency import _on_images
from sktransfer.model_selection import OperatingPointClassifier
from sktransfer.report import diagnostic_report

N, SIDE = 24, 64


def network(name="squeezenet1_1", **params):
    return PretrainedFeatureExtractor(
        name, **{"weights": None, "image_size": 64, "preprocessing": "resize", **params}
    )


@pytest.fixture(scope="module")
def task():
    rng = np.random.default_rng(0)
    y = np.arange(N) % 2
    X = rng.integers(0, 200, (N, SIDE, SIDE, 3)) + 40 * y[:, None, None, None]
    return X.astype(np.uint8), np.array(["no", "yes"])[y]


@pytest.fixture(scope="module")
def clf(task):
    """Two frozen networks with inputs of different sizes, and a fine-tuned one."""
    networks = {"a": network(), "b": network("mobilenet_v3_small", image_size=48)}
    clf = TransferClassifier(networks, random_state=0).fit(*task)
    settings = {"weights": None, "image_size": 64, "preprocessing": "resize", "max_epochs": 1}
    net = FineTuneClassifier("squeezenet1_1", random_state=0, **settings).fit(*task)
    frozen = [each.model if hasattr(each, "model") else each for each in clf.estimators_]
    clf.estimators_ = [*frozen, net]
    clf.weights_ = np.array([*(0.6 * clf.weights_), 0.4])
    return clf


def test_the_decisions_of_the_members_add_up_to_that_of_the_classifier(clf, task):
    X = task[0][:4]
    threshold = {"target_level": 0.8, "confidence_level": None, "pos_label": "yes"}
    screen = OperatingPointClassifier(FrozenEstimator(clf), cv="prefit", **threshold).fit(*task)
    for estimator in (clf, FrozenEstimator(clf), screen):
        whole, members = differentiable_shares(estimator)
        assert whole is clf
        assert len(members) == len(clf.estimators_)
        codes = torch.ones(4, dtype=torch.long)
        parts = [each.decision(each.batch(images_of(clf, X), range(4)), codes) for each in members]
        np.testing.assert_allclose(sum(parts).detach(), clf.decision_function(X), rtol=1e-3)


def test_integrated_gradients_add_up_to_the_difference_of_the_decisions(clf, task):
    pytest.importorskip("captum")
    X = task[0][:2]
    black = np.zeros_like(X)
    (one, other) = saliency_maps(clf, X, ["yes"] * 2, method="integrated_gradients", n_steps=50)
    expected = clf.decision_function(X) - clf.decision_function(black)
    np.testing.assert_allclose([one.sum(), other.sum()], expected, rtol=0.1)


def test_a_gradient_predicts_the_effect_of_a_small_change(clf, task):
    _, members = differentiable_shares(clf)
    X = task[0][:1] / 255.0
    total = 0.0
    for member in members:
        _, (own,) = _on_images(member, X, ["yes"], explain_by_gradient(), 16, unit_of="gradient")
        total = total + own
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.standard_normal((3, 4, 4)), np.ones((16, 16)))
    step = 1e-3
    moved = X + step * smooth.transpose(1, 2, 0)
    change = (clf.decision_function(moved.clip(0, 1)) - clf.decision_function(X))[0]
    assert change == pytest.approx(step * (total * smooth).sum(), rel=0.2)


@pytest.mark.parametrize("method", ["gradient", "grad_cam", "integrated_gradients"])
def test_maps_are_in_pixels_of_the_image_and_of_the_class_predicted_together(clf, task, method):
    if method != "gradient":
        pytest.importorskip("captum")
    X = task[0][:2]
    settings = {"n_steps": 4} if method == "integrated_gradients" else {}
    maps = saliency_maps(clf, X, method=method, **settings)
    named = saliency_maps(clf, X, clf.predict(X), method=method, **settings)
    for own, other in zip(maps, named, strict=True):
        assert own.shape == (SIDE, SIDE)
        assert np.isfinite(own).all()
        np.testing.assert_array_equal(own, other)
    assert np.abs(maps[0]).max() > 0


def test_one_member_is_explained_like_the_estimator_that_it_is(task):
    X, y = task
    clf = TransferClassifier(network(), random_state=0).fit(X, y)
    clf.estimators_, clf.weights_ = clf.estimators_[:1], np.ones(1)
    own = input_gradient(clf, X[:2], y[:2])
    expected = input_gradient(clf.estimators_[0], X[:2], y[:2]) / clf.temperature_
    np.testing.assert_allclose(own, expected, rtol=1e-3, atol=1e-5)
    assert saliency_randomization_test(clf, X[:2], y[:2]).table.shape[0] > 3


def test_what_needs_one_network_says_what_to_give_it(clf, task):
    X = task[0][:2]
    calibrated = CalibratedClassifierCV(FrozenEstimator(clf)).fit(*task)
    for estimator in (clf, calibrated):
        for function in (input_gradient, saliency_randomization_test):
            with pytest.raises(TypeError, match=r"saliency_maps .* best_estimator_"):
                function(estimator, X)
    assert input_gradient(clf.best_estimator_, X).ndim == 4


def test_functions_that_take_any_classifier_take_it(clf, task):
    X, y = task
    assert occlusion(clf, X[:1], y[:1], patch=20)[0].shape == (SIDE, SIDE)
    curves = deletion_insertion_curves(clf, X[:1], y[:1], n_steps=4)
    assert len(curves.deletion) == 1


@pytest.mark.parametrize("tuned", [False, True])
def test_similar_images_are_those_of_the_best_network(clf, task, tuned):
    best = clf.best_estimator_
    if tuned:
        clf.best_estimator_ = clf.estimators_[-1]
    try:
        found = similar_images(clf, task[0], 0, n_neighbors=3)
    finally:
        clf.best_estimator_ = best
    assert found["rank"].tolist() == [1, 2, 3]
    if not tuned:
        expected = similar_images(best[:-1], task[0], 0, n_neighbors=3)
        assert found.equals(expected)


def test_a_report_has_maps_of_all_and_tests_those_of_the_best(clf, task, tmp_path):
    report = diagnostic_report(clf, *task, pos_label="yes", images=False)
    report.to_markdown(tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text()
    assert f"sums over the {len(clf.estimators_)} models" in text
    assert "TransferClassifier" in text
    assert "Pretrained squeezenet1" in text
    assert "Pretrained mobilenet" in text
