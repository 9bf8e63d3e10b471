"""input_gradient: against finite differences in float64, and against torchvision end to end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.feature_selection import SelectKBest, VarianceThreshold
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, RidgeClassifier, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import SVC, LinearSVC

from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor
from sktransfer.inspection import input_gradient

SIDE = 32
# Multiples of the step are float32 numbers: nothing is rounded on the way to the network.
STEP = 2.0**-20


def as_it_is(image):
    """Return the image itself as the network's input."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def make_images(n, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.uniform(0.25, 0.75, (n, SIDE, SIDE, 3))
    return (np.round(values / STEP) * STEP).astype(np.float32)


X = make_images(24)
Y3 = np.arange(24) % 3
Y2 = np.where(Y3 == 2, "sick", "well")
EXACT = {
    "weights": None,
    "image_size": SIDE,
    "preprocessing": as_it_is,
    "precision": "float64",
    "engine": "torch",
    "cache": False,
}


def extractor(backbone="squeezenet1_1", **params):
    return PretrainedFeatureExtractor(backbone, **{**EXACT, **params})


def check_differences(estimator, score, y=None, rows=2, **kwargs):
    """Check the derivative along random directions by finite differences of the score."""
    gradient = input_gradient(estimator, X[:rows], y, **kwargs)
    assert gradient.dtype == np.float64
    assert gradient.shape == (rows, 3, SIDE, SIDE)
    assert np.abs(gradient).max() > 0
    for seed in range(2):
        signs = np.random.default_rng(seed).choice([-1, 1], X[:rows].shape).astype(np.float32)
        up, down = X[:rows] + STEP * signs, X[:rows] - STEP * signs
        expected = (score(up) - score(down)) / (2 * STEP)
        found = (gradient * signs.transpose(0, 3, 1, 2)).sum((1, 2, 3))
        scale = np.abs(gradient).sum((1, 2, 3)).max()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6 * scale)


STEPS = {
    "logistic": [StandardScaler(), LogisticRegression()],
    "pca": [StandardScaler(), PCA(5), LogisticRegression()],
    "whitened": [PCA(5, whiten=True), LogisticRegression()],
    "svd": [RobustScaler(), TruncatedSVD(5), RidgeClassifier()],
    "selected": [VarianceThreshold(), MinMaxScaler(), SelectKBest(k=20), LinearSVC()],
    "normal": [Normalizer(), LogisticRegression(C=100)],
    "largest": [MaxAbsScaler(), "passthrough", LogisticRegression()],
    "over the largest": [Normalizer("max"), LogisticRegression()],
    "discriminant": [PCA(5), LinearDiscriminantAnalysis()],
    "nested": [make_pipeline(StandardScaler(), PCA(4)), SGDClassifier(random_state=0)],
}


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_pipeline_agrees_with_finite_differences(steps):
    pipe = make_pipeline(extractor(), *steps).fit(X, Y2)
    check_differences(pipe, pipe.decision_function, y=["well", "well"])
    check_differences(pipe, lambda Z: -pipe.decision_function(Z), y=["sick", "sick"])


def test_several_classes_and_layers_agree_with_finite_differences():
    feat = extractor(layer=[2, -1], pooling="gem")
    pipe = make_pipeline(feat, StandardScaler(), LogisticRegression()).fit(X, Y3)
    check_differences(pipe, lambda Z: pipe.decision_function(Z)[[0, 1], [2, 0]], y=[2, 0])
    predicted = pipe.predict(X[:2])
    np.testing.assert_array_equal(
        input_gradient(pipe, X[:2]), input_gradient(pipe, X[:2], predicted)
    )


@pytest.mark.parametrize(
    "classifier",
    [
        LogisticRegression(),
        SGDClassifier("log_loss", alpha=10, random_state=0),
        LinearDiscriminantAnalysis(),
    ],
    ids=["softmax", "one for each", "discriminant"],
)
@pytest.mark.parametrize("labels", [Y2, Y3], ids=["two", "three"])
def test_loss_is_the_cross_entropy(classifier, labels):
    pipe = make_pipeline(extractor(), StandardScaler(), PCA(4), classifier).fit(X, labels)
    codes = np.searchsorted(pipe.classes_, labels[:2])

    def loss(Z):
        return -np.log(pipe.predict_proba(Z)[[0, 1], codes])

    check_differences(pipe, loss, y=labels[:2], objective="loss")


def log_odds(estimator, codes):
    def score(Z):
        p = estimator.predict_proba(Z)[[0, 1], codes]
        return np.log(p / (1 - p))

    return score


@pytest.mark.parametrize("method", ["sigmoid", "temperature"])
@pytest.mark.parametrize("labels", [Y2, Y3], ids=["two", "three"])
def test_calibrated_classifiers_agree_with_finite_differences(method, labels):
    codes = np.searchsorted(np.unique(labels), labels[:2])
    inner = make_pipeline(StandardScaler(), LogisticRegression(C=0.1))
    last = make_pipeline(extractor(), CalibratedClassifierCV(inner, method=method, cv=3))
    last.fit(X, labels)
    check_differences(last, log_odds(last, codes), y=labels[:2])
    whole = make_pipeline(extractor(), StandardScaler(), LogisticRegression(C=0.1))
    around = CalibratedClassifierCV(whole, method=method, cv=3).fit(X, labels)
    check_differences(around, log_odds(around, codes), y=labels[:2])


@pytest.mark.parametrize("freeze_depth", [0, -2, "all", [-1]], ids=str)
def test_fine_tuned_networks_agree_with_finite_differences(freeze_depth):
    clf = FineTuneClassifier(
        "squeezenet1_1", freeze_depth=freeze_depth, max_epochs=1, random_state=0, **EXACT
    ).fit(X, Y3)
    check_differences(clf, lambda Z: clf.decision_function(Z)[[0, 1], [1, 2]], y=[1, 2])
    doubtful = np.where(np.arange(24) % 4, Y3, 0)  # no probability is 1
    calibrated = CalibratedClassifierCV(FrozenEstimator(clf), method="temperature").fit(X, doubtful)
    check_differences(calibrated, log_odds(calibrated, [1, 2]), y=[1, 2])


def test_a_class_that_is_nearly_certain_has_a_gradient():
    pipe = make_pipeline(extractor(), StandardScaler(), LogisticRegression(C=100)).fit(X, Y3)
    certain = CalibratedClassifierCV(FrozenEstimator(pipe), method="temperature").fit(X, Y3)
    assert certain.predict_proba(X[:2])[[0, 1], [0, 1]].min() > 1 - 1e-12
    gradient = input_gradient(certain, X[:2], [0, 1])
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


@pytest.mark.parametrize("backbone", ["resnet18", "efficientnet_b0", "convnext_tiny"])
def test_other_architectures_agree_with_finite_differences(backbone):
    pipe = make_pipeline(extractor(backbone), StandardScaler(), LogisticRegression()).fit(X, Y2)
    check_differences(pipe, pipe.decision_function, y=["well", "well"])


def test_equal_to_torchvision_end_to_end(tmp_path):
    torch.manual_seed(0)
    network = torchvision.models.resnet18(weights=None)
    path = tmp_path / "resnet18.pth"
    torch.save(network.state_dict(), path)
    feat = PretrainedFeatureExtractor(
        "resnet18", weights=str(path), image_size=64, engine="auto", cache=False
    )
    images = np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3), np.uint8)
    labels = np.arange(12) % 2
    pipe = make_pipeline(feat, StandardScaler(), LogisticRegression()).fit(images, labels)

    scaler, logistic = pipe[1], pipe[2]
    linear = torch.nn.Linear(512, 1)
    weight = logistic.coef_ / scaler.scale_
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(weight))
        linear.bias.copy_(torch.from_numpy(logistic.intercept_ - weight @ scaler.mean_))
    network.fc = linear
    network.eval()
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    transform = torchvision.transforms.Compose(
        [
            torchvision.transforms.Resize(73),
            torchvision.transforms.CenterCrop(64),
            torchvision.transforms.ToTensor(),
        ]
    )
    inputs = torch.stack([transform(Image.fromarray(each)) for each in images[:3]])
    batch = ((inputs - mean) / std).requires_grad_()
    (expected,) = torch.autograd.grad(network(batch).sum(), batch)
    found = input_gradient(pipe, images[:3], [1, 1, 1])
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-4 * expected.abs().max())


def test_smoothing_depends_on_the_seed_and_not_on_batches():
    pipe = make_pipeline(extractor(), LogisticRegression()).fit(X, Y2)
    plain = input_gradient(pipe, X[:5])
    np.testing.assert_allclose(input_gradient(pipe, X[:5], batch_size=2), plain, rtol=1e-9)
    np.testing.assert_allclose(input_gradient(pipe, X[:5], smooth=2, noise=0.0), plain, rtol=1e-9)
    smooth = input_gradient(pipe, X[:5], smooth=4)
    assert np.abs(smooth - plain).max() > 1e-3 * np.abs(plain).max()
    np.testing.assert_array_equal(smooth, input_gradient(pipe, X[:5], smooth=4))
    assert (smooth != input_gradient(pipe, X[:5], smooth=4, random_state=1)).any()


def test_estimator_is_not_changed():
    clf = FineTuneClassifier(
        "squeezenet1_1", freeze_depth=-2, max_epochs=1, random_state=0, **EXACT
    ).fit(X, Y2)
    before = clf.decision_function(X)
    own = list(clf.module_.parameters())
    flags = [each.requires_grad for each in own]
    left = [None if each.grad is None else each.grad.clone() for each in own]
    input_gradient(clf, X[:2])
    np.testing.assert_array_equal(clf.decision_function(X), before)
    assert [each.requires_grad for each in own] == flags
    for each, grad in zip(own, left, strict=True):
        assert each.grad is grad is None or torch.equal(each.grad, grad)


def test_search_is_explained_by_its_best_estimator():
    pipe = make_pipeline(extractor(), LogisticRegression())
    search = GridSearchCV(pipe, {"logisticregression__C": [0.1]}, cv=2).fit(X, Y2)
    np.testing.assert_allclose(
        input_gradient(search, X[:2]), input_gradient(search.best_estimator_, X[:2])
    )


@pytest.mark.parametrize(
    ("steps", "named"),
    [
        ([RandomForestClassifier(n_estimators=3)], "RandomForestClassifier"),
        ([SVC()], "SVC"),
        ([MinMaxScaler(clip=True), LogisticRegression()], r"MinMaxScaler \(clip=True\)"),
        ([CalibratedClassifierCV(LogisticRegression(), method="isotonic", cv=2)], "isotonic"),
    ],
)
def test_steps_without_gradient_raise(steps, named):
    pipe = make_pipeline(extractor(), *steps).fit(X, Y2)
    with pytest.raises(TypeError, match=f"{named}.*occlusion"):
        input_gradient(pipe, X[:2])


def test_invalid_input_raises():
    pipe = make_pipeline(extractor(), LinearSVC()).fit(X, Y2)
    with pytest.raises(ValueError, match="needs probabilities"):
        input_gradient(pipe, X[:2], objective="loss")
    with pytest.raises(ValueError, match="objective must be"):
        input_gradient(pipe, X[:2], objective="logit")
    with pytest.raises(ValueError, match="none of the classes"):
        input_gradient(pipe, X[:2], ["well", "ill"])
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        input_gradient(pipe, X[:2], ["well"])
    with pytest.raises(ValueError, match="smooth must"):
        input_gradient(pipe, X[:2], smooth=-1)
    with pytest.raises(NotFittedError):
        input_gradient(make_pipeline(extractor(), LinearSVC()), X[:2])
    with pytest.raises(TypeError, match="no classifier"):
        input_gradient(make_pipeline(extractor()).fit(X), X[:2])
    flat = X.reshape(len(X), -1)
    plain = make_pipeline(StandardScaler(), LogisticRegression()).fit(flat, Y2)
    with pytest.raises(TypeError, match="must be the extractor"):
        input_gradient(plain, flat)
