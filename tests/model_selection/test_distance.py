"""domain_distance: its formula on networks made for the purpose, and its order on real images."""

from __future__ import annotations

import json
from importlib import resources

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageFilter
from sklearn.datasets import load_digits, load_sample_images
from sklearn.frozen import FrozenEstimator
from torch import nn

from sktransfer import PretrainedFeatureExtractor
from sktransfer._backbones import Backbone, BackboneReference, InputSpec, Neck, Stage
from sktransfer.exceptions import ImageDecodeError
from sktransfer.model_selection import domain_distance
from sktransfer.model_selection._domain_distance import Threshold
from tests.given import Given


class Tiny:
    """Stages and nothing else, on images of 8 by 8 that are taken as they are."""

    def __init__(self, *modules):
        flatten = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.backbone = Backbone(
            reference=BackboneReference("tiny", None, 0, "blake2b:of a test"),
            stages=tuple(Stage(f"s{i}", module.eval()) for i, module in enumerate(modules)),
            neck=Neck(flatten, "avg"),
            classifier=None,
            input_spec=InputSpec(8, 8, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
            n_features=3,
        )

    def extractor(self, **params):
        return PretrainedFeatureExtractor(FrozenEstimator(Given(self.backbone)), **params)


def images(n, mean, deviation, seed=0):
    """Float images whose pixels are normal, channel by channel."""
    rng = np.random.default_rng(seed)
    return (mean + deviation * rng.normal(size=(n, 8, 8, 3))).astype(np.float32)


def norm(mean=0.0, variance=1.0):
    layer = nn.BatchNorm2d(3, eps=0.0)
    layer.running_mean.fill_(mean)
    layer.running_var.fill_(variance)
    return layer


def test_normal_input_gives_the_published_formula():
    a, b = 0.3, 0.6
    X = images(400, a, b)
    found = domain_distance(Tiny(norm()).extractor(value_range=(0, 1)), clip(X))
    clipped = clip(X)
    m, v = clipped.mean((0, 1, 2)), clipped.var((0, 1, 2))
    assert found.n_images == 256
    whole = domain_distance(Tiny(norm()).extractor(), clipped, n_images=None, correction=False)
    exact = np.mean(m**2 + (np.sqrt(v) - 1) ** 2)
    assert whole.distance == pytest.approx(exact, rel=1e-5)
    # The distance between N(a, b^2) and the remembered N(0, 1), without rounding to images.
    mean, deviation = 0.5, 0.05
    X = images(300, mean, deviation)
    known = norm(0.4, 0.1**2)
    found = domain_distance(Tiny(known).extractor(), X, n_images=None)
    expected = ((mean - 0.4) / 0.1) ** 2 + (deviation / 0.1 - 1) ** 2
    assert found.distance == pytest.approx(expected, rel=5e-3)
    assert found.profile["mean_part"][0] == pytest.approx(1, rel=5e-3)
    assert found.profile["spread_part"][0] == pytest.approx(0.25, rel=1e-2)


def clip(X):
    return np.clip(X, 0, 1)


def test_statistics_of_the_images_themselves_are_at_no_distance():
    X = clip(images(50, 0.5, 0.2))
    conv = nn.Conv2d(3, 5, 3)
    first, second = norm(), nn.BatchNorm2d(5, eps=0.0)
    first.running_mean[:] = torch.from_numpy(X.mean((0, 1, 2)))
    first.running_var[:] = torch.from_numpy(X.var((0, 1, 2)))
    with torch.no_grad():
        batch = torch.from_numpy(X.transpose(0, 3, 1, 2).copy())
        inner = conv(first.eval()(batch))
        second.running_mean[:] = inner.mean((0, 2, 3))
        second.running_var[:] = inner.var((0, 2, 3), correction=0)
    extractor = Tiny(first, nn.Sequential(conv, second)).extractor()
    found = domain_distance(extractor, X, correction=False)
    assert found.distance == pytest.approx(0, abs=1e-8)
    assert list(found.profile["layer"]) == ["s0", "s1.1"]
    assert list(found.profile["n_channels"]) == [3, 5]


def test_order_and_batches_do_not_matter_and_correction_removes_chance():
    layer = norm(0.5, 0.04)
    X = clip(images(200, 0.5, 0.1, seed=1) + images(200, 0, 0.1, seed=2)[:, :1, :1])
    whole = domain_distance(Tiny(layer).extractor(), X)
    turned = domain_distance(Tiny(layer).extractor(batch_size=7), X[::-1])
    assert turned.distance == pytest.approx(whole.distance, abs=1e-6)

    def parts(correction, n):
        draws = [
            domain_distance(
                Tiny(layer).extractor(), X, n_images=n, correction=correction, random_state=seed
            ).profile["mean_part"][0]
            for seed in range(25)
        ]
        return np.mean(draws)

    population = whole.profile["mean_part"][0]
    assert parts(False, 8) > population + 0.02
    assert parts(True, 8) == pytest.approx(population, abs=0.015)


def test_nothing_of_the_network_is_changed():
    tiny = Tiny(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    module = tiny.backbone.stages[0].module
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    domain_distance(tiny.extractor(), clip(images(9, 0.5, 0.2)))
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert not any(m._forward_pre_hooks for m in module.modules())


def test_embeddings_where_there_is_no_batch_norm():
    tiny = Tiny(nn.Identity())
    source = clip(images(300, 0.5, 0.1, seed=1) + images(300, 0, 0.2, seed=2)[:, :1, :1])
    other = clip(source[:150] * 0.3)
    same = domain_distance(tiny.extractor(), source[:150], source=source[150:])
    assert same.distance == pytest.approx(0, abs=0.02)
    assert same.statistic == "embedding"
    far = domain_distance(tiny.extractor(), other, source=source[150:], correction=False)
    a, b = other.mean((1, 2)), source[150:].mean((1, 2))
    rows = np.random.RandomState(0).permutation(150)[:256]
    a = a[rows]
    expected = (a.mean(0) - b.mean(0)) ** 2 / b.var(0) + (a.std(0) / b.std(0) - 1) ** 2
    assert far.distance == pytest.approx(expected.mean(), rel=1e-4)
    with pytest.raises(ValueError, match=r"tiny has no BatchNorm .* Give source="):
        domain_distance(tiny.extractor(), other)


def test_order_on_real_images_and_the_profile():
    """EfficientNet-Lite0's ImageNet weights; blur and gray show early in the network."""
    photos = [
        Image.fromarray(photo).crop((x, 100, x + 213, 313))
        for photo in load_sample_images().images
        for x in (0, 213, 426)
    ]
    blurred = [photo.filter(ImageFilter.GaussianBlur(4)) for photo in photos]
    digits = (load_digits().images[:12] / 16 * 255).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (6, 224, 224, 3), dtype=np.uint8)
    found = [domain_distance("efficientnet_lite0", X) for X in (photos, blurred, digits, noise)]
    distances = [each.distance for each in found]
    assert distances == sorted(distances)
    assert all(each.threshold.calibrated for each in found)
    assert found[0].similar
    assert not found[-1].similar
    assert found[-1].reading == "dissimilar"
    assert found[1].early - found[0].early > found[1].late - found[0].late
    profile = found[0].profile
    assert len(profile) == 49
    assert profile["n_channels"].sum() == 21_008
    assert profile["distance"].mean() == found[0].distance
    assert list(pd.unique(profile["stage"]))[:2] == ["stem", "blocks.0"]


def test_an_unreadable_row_is_named_by_its_place_in_the_whole():
    X = [*clip(images(40, 0.5, 0.2))]
    X[31] = b"nothing"
    for source in (None, X[:9]):
        with pytest.raises(ImageDecodeError, match=r"^row 31 "):
            domain_distance(Tiny(norm()).extractor(), X, n_images=39, source=source)


def test_unknown_weights_use_the_default_threshold():
    random = PretrainedFeatureExtractor("resnet18", weights=None, image_size=32)
    found = domain_distance(random, clip(images(8, 0.5, 0.2)))
    assert not found.threshold.calibrated


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda X: domain_distance(None, X), ValueError, "named by a str"),
        (lambda X: domain_distance(Tiny(norm()).extractor(), X[:1]), ValueError, "at least 2"),
        (
            lambda X: domain_distance(Tiny(norm()).extractor(), X, n_images=1),
            ValueError,
            "n_images must be",
        ),
        (
            lambda X: domain_distance(Tiny(norm()).extractor(), [X[0], b"nothing"]),
            ImageDecodeError,
            "row 1",
        ),
        (
            lambda X: domain_distance(Tiny(norm()).extractor(on_error="nan"), [b"a", b"b", X[0]]),
            ValueError,
            "Only 1 of 3",
        ),
    ],
)
def test_bad_values(call, error, message):
    with pytest.raises(error, match=message):
        call(clip(images(4, 0.5, 0.2)))


@pytest.mark.slow
def test_order_on_the_shared_images(shared_data):
    """ImageNet < its narrow parts < X-rays < digits < noise (science.md, section 4)."""
    table = pd.read_csv(shared_data / "imagenet_samples" / "labels.csv")
    files = np.array([str(shared_data / "imagenet_samples" / name) for name in table["file"]])
    classes = table["class_index"].to_numpy()
    natural = {
        "animals": classes < 398,
        "objects": classes >= 398,
        "dogs": (classes >= 151) & (classes < 269),
        "birds": np.isin(classes, [*range(7, 25), *range(80, 101), *range(127, 147)]),
        "food and landscapes": (classes >= 923) & (classes < 981),
    }
    rays = sorted(map(str, (shared_data / "chest_xray_pneumonia").rglob("*.jpg")))[::10]
    digits = (load_digits().images[:100] / 16 * 255).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (60, 224, 224, 3), dtype=np.uint8)

    def measured(X):
        return domain_distance("efficientnet_lite0", X)

    whole, *others = (measured(X) for X in (files, rays, digits, noise))
    parts = [measured(files[chosen]) for chosen in natural.values()]
    distances = [each.distance for each in others]
    assert distances == sorted(distances)
    assert whole.distance < min(each.distance for each in parts)
    assert max(each.distance for each in parts) < distances[0]
    assert all(each.similar for each in (whole, *parts))
    assert not any(each.similar for each in others)
    few = [domain_distance("efficientnet_lite0", rays, n_images=20, random_state=s) for s in (0, 1)]
    assert [each.distance for each in few] == pytest.approx([distances[0]] * 2, abs=0.03)


def test_kept_statistics_stand_for_the_source(shared_weights):
    """SqueezeNet has no BatchNorm: its embedding's mean and spread on ImageNet are kept."""
    (weights,) = shared_weights.glob("squeezenet1_0*.pth")
    extractor = PretrainedFeatureExtractor("squeezenet1_0", weights=weights)
    photos = [
        Image.fromarray(photo).crop((x, y, x + 320, y + 320))
        for photo in load_sample_images().images
        for x in (0, 320)
        for y in (0, 107)
    ]
    noise = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    near, far = domain_distance(extractor, photos), domain_distance(extractor, noise)
    assert (near.statistic, len(near.profile)) == ("embedding", 1)
    assert near.threshold.calibrated
    assert near.distance < far.distance
    assert far.reading == "dissimilar"


def test_every_kept_threshold_has_its_ends_in_order():
    text = resources.files("sktransfer.model_selection").joinpath("calibration.json").read_text()
    records = json.loads(text)["thresholds"]
    assert {"batch_norm", "embedding"} == {r["default_for"] for r in records if "default_for" in r}
    for record in records:
        assert record["digest"].startswith("sha256:")
        assert 0 < record["similar_below"] < record["dissimilar_above"]
        middle = Threshold(record["similar_below"], record["dissimilar_above"])
        assert middle.reading(record["similar_below"]) == "similar"
        assert middle.reading(record["dissimilar_above"]) == "dissimilar"
        assert middle.reading(middle.value * 0.99) == "similar (gray zone)"
