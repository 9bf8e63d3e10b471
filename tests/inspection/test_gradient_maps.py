"""Gradients, integrated gradients and Grad-CAM: against captum, formulas, networks end to end."""

from __future__ import annotations

import copy
import sys

import captum.attr
import numpy as np
import pytest
import torch
import torchvision
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor
from sktransfer.exceptions import MissingDependencyError, UnknownStageError
from sktransfer.inspection import (
    grad_cam,
    input_gradient,
    integrated_gradients,
    occlusion,
    saliency_maps,
)

SIDE = 64
MEAN = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64).view(3, 1, 1)
X = np.random.default_rng(0).integers(0, 256, (12, SIDE, SIDE, 3), np.uint8)
y = np.arange(12) % 2
SETTINGS = {
    "image_size": SIDE,
    "preprocessing": "resize",
    "precision": "float64",
    "engine": "torch",
    "cache": False,
}


def normalized(images):
    return (torch.from_numpy(images).permute(0, 3, 1, 2) / 255.0 - MEAN) / STD


def with_classifier(network, name, pipe):
    """Return a torchvision network that ends in the scaler and the logistic regression."""
    scaler, logistic = pipe[-2], pipe[-1]
    weight = logistic.coef_ / scaler.scale_
    linear = torch.nn.Linear(weight.shape[1], 1)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(weight))
        linear.bias.copy_(torch.from_numpy(logistic.intercept_ - weight @ scaler.mean_))
    setattr(network, name, linear)
    return network.double().eval().requires_grad_(False)


def pipeline_and_network(folder, backbone, last):
    torch.manual_seed(0)
    network = getattr(torchvision.models, backbone)(weights=None)
    path = folder / f"{backbone}.pth"
    torch.save(network.state_dict(), path)
    feat = PretrainedFeatureExtractor(backbone, weights=str(path), **SETTINGS)
    pipe = make_pipeline(feat, StandardScaler(), LogisticRegression()).fit(X, y)
    return pipe, with_classifier(network, last, pipe)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    return pipeline_and_network(tmp_path_factory.mktemp("resnet"), "resnet18", "fc")


@pytest.fixture(scope="module")
def pipe(resnet):
    return resnet[0]


@pytest.fixture(scope="module")
def tuned_and_network(tmp_path_factory):
    torch.manual_seed(1)
    network = torchvision.models.resnet18(weights=None)
    path = tmp_path_factory.mktemp("tuned") / "resnet18.pth"
    torch.save(network.state_dict(), path)
    clf = FineTuneClassifier(
        "resnet18",
        weights=str(path),
        freeze_depth=-1,
        head__layers="embedding",
        max_epochs=1,
        random_state=0,
        **SETTINGS,
    ).fit(X, y)
    (network.layer4,) = copy.deepcopy(clf.module_.stages).values()
    head = copy.deepcopy(clf.module_.head)
    network.fc = torch.nn.Sequential(head, Difference())
    return clf, network.double().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def tuned(tuned_and_network):
    return tuned_and_network[0]


class Difference(torch.nn.Module):
    """The decision between two classes."""

    def forward(self, logits):
        return logits[:, 1] - logits[:, 0]


def close(found, expected):
    expected = np.asarray(expected)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def cam_written_out(network, layer, batch, sign=1):
    """Compute Grad-CAM with a hook: weights are mean gradients, negative sums become zero."""
    kept = {}
    hook = layer.register_forward_hook(lambda *args: kept.update(out=args[2]) or args[2].clone())
    # Not a leaf: an in-place layer may come first.
    score = network(batch.clone().requires_grad_() * 1.0)
    hook.remove()
    (gradient,) = torch.autograd.grad(sign * score.sum(), kept["out"])
    weights = gradient.mean((2, 3), keepdim=True)
    cam = (weights * kept["out"]).sum(1, keepdim=True).clamp(min=0).detach()
    return torch.nn.functional.interpolate(cam, batch.shape[2:], mode="bilinear")[:, 0].numpy()


def test_gradient_is_captums(resnet):
    pipe, network = resnet
    batch = normalized(X[:3]).requires_grad_()
    theirs = captum.attr.Saliency(network).attribute(batch, target=0, abs=False)
    close(input_gradient(pipe, X[:3], [1, 1, 1]), theirs)


def test_integrated_gradients_are_those_of_the_whole_network(resnet):
    pipe, network = resnet
    batch = normalized(X[:3])
    black = normalized(np.zeros_like(X[:3]))
    theirs = captum.attr.IntegratedGradients(network).attribute(batch, black, target=0, n_steps=8)
    found = integrated_gradients(pipe, X[:3], [1, 1, 1], n_steps=8)
    close(found, theirs)
    close(integrated_gradients(pipe, X[:3], [0, 0, 0], n_steps=8, batch_size=2), -found)
    # Without captum: the mean gradient at Gauss and Legendre's points times the way.
    points, weights = np.polynomial.legendre.leggauss(8)
    total = 0
    for point, weight in zip((points + 1) / 2, weights / 2, strict=True):
        between = (black + float(point) * (batch - black)).requires_grad_()
        total = total + weight * torch.autograd.grad(network(between).sum(), between)[0]
    close(found, total * (batch - black))


@pytest.mark.parametrize(("baseline", "gray"), [(0.0, 0), (0.4, 102)])
def test_shares_add_up_to_the_score(baseline, gray):
    """For a smooth network, the sum over points on the way is the integral."""
    feat = PretrainedFeatureExtractor(
        "efficientnet_b0", weights=None, **{**SETTINGS, "image_size": 32}
    )
    pipe = make_pipeline(feat, LogisticRegression()).fit(X, y)
    shares = integrated_gradients(pipe, X[:1], [1], baseline=baseline, n_steps=32)
    empty = np.full_like(X[:1], gray)
    expected = pipe.decision_function(X[:1]) - pipe.decision_function(empty)
    np.testing.assert_allclose(shares.sum((1, 2, 3)), expected, rtol=1e-4)


def test_flat_image_has_no_attribution_against_its_mean(pipe):
    flat = np.full((1, SIDE, SIDE, 3), (10, 200, 30), np.uint8)
    assert np.abs(integrated_gradients(pipe, flat, baseline="mean", n_steps=2)).max() < 1e-9
    assert np.abs(integrated_gradients(pipe, flat, n_steps=2)).max() > 1e-6


@pytest.mark.parametrize("layer", [None, "layer2", -4, "maxpool"])
def test_grad_cam_is_that_of_the_whole_network(resnet, layer):
    pipe, network = resnet
    module = {None: network.layer4, "layer2": network.layer2, -4: network.layer1}
    own = module.get(layer, network.maxpool)
    batch = normalized(X[:3])
    for_one, for_zero = (cam_written_out(network, own, batch, sign) for sign in (1, -1))
    assert max(for_one.max(), for_zero.max()) > 0
    close(grad_cam(pipe, X[:3], [1, 1, 1], layer=layer, batch_size=2), for_one)
    close(grad_cam(pipe, X[:3], [0, 0, 0], layer=layer), for_zero)


def test_grad_cam_is_correct_where_another_layer_follows_the_map(tmp_path):
    """An in-place ReLU follows DenseNet's last block, a dense layer MobileNetV3's."""
    pipe, network = pipeline_and_network(tmp_path, "densenet121", "classifier")
    block = network.features.denseblock4
    labels = [1, 0, 1]
    both = [cam_written_out(network, block, normalized(X[:3]), sign) for sign in (-1, 1)]
    expected = [both[label][row] for row, label in enumerate(labels)]
    assert np.max(expected) > 0
    close(grad_cam(pipe, X[:3], labels, layer="denseblock4"), expected)
    feat = PretrainedFeatureExtractor("mobilenet_v3_small", weights=None, **SETTINGS)
    other = make_pipeline(feat, StandardScaler(), LogisticRegression()).fit(X, y)
    assert max(grad_cam(other, X[:3], [label] * 3).max() for label in (0, 1)) > 0
    with pytest.raises(ValueError, match=r"'classifier\.1' of mobilenet_v3_small gives one vector"):
        grad_cam(other, X[:2], layer="classifier.1")


@pytest.mark.parametrize("layer", [None, "layer2"], ids=["trained", "frozen"])
def test_grad_cam_of_a_fine_tuned_network_is_that_of_the_whole_network(tuned_and_network, layer):
    clf, network = tuned_and_network
    module = network.layer4 if layer is None else network.layer2
    expected = cam_written_out(network, module, normalized(X[:2]))
    close(grad_cam(clf, X[:2], [1, 1], layer=layer), expected)


def test_other_methods_of_a_fine_tuned_network_are_those_of_the_whole_network(tuned_and_network):
    clf, network = tuned_and_network
    batch = normalized(X[:2]).requires_grad_()
    close(
        input_gradient(clf, X[:2], [1, 1]),
        torch.autograd.grad(network(batch).sum(), batch)[0],
    )
    batch, black = normalized(X[:2]), normalized(np.zeros_like(X[:2]))
    theirs = captum.attr.IntegratedGradients(network).attribute(batch, black, n_steps=8)
    close(integrated_gradients(clf, X[:2], [1, 1], n_steps=8), theirs)


TRANSFORMERS = {"vit_b_32": "tokens", "swin_t": "channels last"}


@pytest.mark.parametrize(("backbone", "what"), TRANSFORMERS.items())
def test_grad_cam_of_transformers_raises(backbone, what):
    settings = {**SETTINGS, "precision": "float32", "image_size": 224}
    feat = PretrainedFeatureExtractor(backbone, weights=None, **settings)
    pipe = make_pipeline(feat, LogisticRegression()).fit(X[:4], y[:4])
    with pytest.raises(ValueError, match=rf"{what}.*integrated_gradients or occlusion"):
        grad_cam(pipe, X[:1])
    with pytest.raises(ValueError, match=what):
        saliency_maps(pipe, X[:1], method="grad_cam", layer=-2)
    assert np.abs(input_gradient(pipe, X[:1])).max() > 0


def test_invalid_input_raises(pipe):
    with pytest.raises(UnknownStageError, match="resnet18 has no stage 'layer9'"):
        grad_cam(pipe, X[:1], layer="layer9")
    small = PretrainedFeatureExtractor("resnet18", weights=None, **{**SETTINGS, "image_size": 32})
    tiny = make_pipeline(small, LogisticRegression()).fit(X, y)
    with pytest.raises(ValueError, match=r"one place for images of 32 x 32.*earlier layer"):
        grad_cam(tiny, X[:1])
    with pytest.raises(ValueError, match='baseline must be "mean"'):
        integrated_gradients(pipe, X[:1], baseline="black")
    with pytest.raises(ValueError, match="from 0"):
        integrated_gradients(pipe, X[:1], baseline=255)
    with pytest.raises(ValueError, match="n_steps must"):
        integrated_gradients(pipe, X[:1], n_steps=0)
    with pytest.raises(ValueError, match="none of the classes"):
        grad_cam(pipe, X[:1], [2])
    feat = PretrainedFeatureExtractor("squeezenet1_1", weights=None, **SETTINGS)
    forest = make_pipeline(feat, RandomForestClassifier(3)).fit(X, y)
    for explain in (grad_cam, integrated_gradients):
        with pytest.raises(TypeError, match=r"RandomForestClassifier.*occlusion"):
            explain(forest, X[:1])


@pytest.mark.parametrize("explain", [grad_cam, integrated_gradients])
def test_missing_captum_names_the_extra(explain, pipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(MissingDependencyError, match=r"sktransfer\[explain\]"):
        explain(pipe, X[:1])


def test_maps_on_the_image_are_merged_over_channels(pipe):
    """Here the network's input is the image, so maps are the methods' own, merged."""
    labels = [1, 0]
    gradient = np.abs(input_gradient(pipe, X[:2], labels)).max(axis=1)
    shares = integrated_gradients(pipe, X[:2], labels, n_steps=4).sum(axis=1)
    for method, expected, kwargs in (
        ("gradient", gradient, {}),
        ("integrated_gradients", shares, {"n_steps": 4}),
        ("grad_cam", grad_cam(pipe, X[:2], labels), {}),
        ("occlusion", occlusion(pipe, X[:2], labels, patch=32), {"patch": 32}),
    ):
        found = saliency_maps(pipe, X[:2], labels, method=method, **kwargs)
        np.testing.assert_allclose(found, expected, err_msg=method)
    with pytest.raises(ValueError, match="'grad_cam', 'occlusion'; got 'guided'"):
        saliency_maps(pipe, X[:1], method="guided")
