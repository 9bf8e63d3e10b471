"""What the head sees of a network, how its inputs are standardized, and what "auto" trains."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor, describe_backbone
from sktransfer._backbones import OwnNetwork, architecture, load_backbone
from sktransfer._finetune._network import Standardized, default_depth
from sktransfer.inspection._differentiable import differentiable


@pytest.mark.parametrize("freeze_depth", [0, 2, -1, ["layer2"]])
def test_training_starts_at_the_probe_on_all_layers_at_every_depth(small, task, freeze_depth):
    X, y = task
    probe = small(freeze_depth="all").fit(X, y).decision_function(X)
    start = small(freeze_depth=freeze_depth, max_epochs=0, cache__activation_dtype="float32")
    np.testing.assert_allclose(start.fit(X, y).decision_function(X), probe, atol=1e-4)


def test_vectors_of_frozen_stages_are_an_extractors_and_not_rounded(small, task):
    X, y = task
    clf = small(freeze_depth=-1, max_epochs=1).fit(X, y)
    assert [each.pooling for each in clf._prefix.outputs] == ["raw", *["avg"] * 4]
    rows = PretrainedFeatureExtractor(
        "resnet18",
        weights=None,
        image_size=32,
        layer=["maxpool", "layer1", "layer2", "layer3"],
        engine="torch",
        cache=False,
    ).fit_transform(X)
    inputs, _ = clf.get_dataset(X)[list(range(len(X)))]
    assert np.array_equal(inputs["x"][:, -rows.shape[1] :].numpy(), rows)
    raw = inputs["x"][:, : -rows.shape[1]]
    assert torch.equal(raw, raw.half().float())


def test_a_head_of_the_embedding_sees_nothing_else(small, task):
    X, y = task
    clf = small(freeze_depth="all", head__layers="embedding").fit(X, y)
    assert clf.module_.head[-1].in_features == 512
    again = PretrainedFeatureExtractor(
        "resnet18", weights=None, image_size=32, engine="torch", cache=False
    )
    rows = torch.from_numpy(again.fit_transform(X)).double()
    logits = clf.module_.head(rows).detach().numpy()
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], clf.decision_function(X), atol=1e-6)
    with pytest.raises(ValueError, match="head__layers is 'embedding' now"):
        small(freeze_depth="all", warm_start=True).fit(X, y).set_params(
            head__layers="embedding"
        ).fit(X, y)


@pytest.mark.parametrize("freeze_depth", ["auto", 0])
def test_what_is_saved_is_what_was_fitted(small, task, tmp_path, freeze_depth):
    X, y = task
    clf = small("squeezenet1_1", freeze_depth=freeze_depth, max_epochs=1).fit(X, y)
    clf.save(tmp_path / "clf.safetensors")
    again = FineTuneClassifier.load(tmp_path / "clf.safetensors")
    assert np.array_equal(again.predict_proba(X), clf.predict_proba(X))
    assert again.freeze_depth_ == clf.freeze_depth_ == (7 if freeze_depth == "auto" else 0)


def test_gradients_go_through_all_that_the_head_sees(small, task):
    X, y = task
    clf = small(freeze_depth=-1, max_epochs=1, cache__activation_dtype="float32").fit(X, y)
    function = differentiable(clf)
    ((batch, codes),) = function.batches(X[:4], y[:4], 4)
    batch.requires_grad_()
    decision = function.decision(batch, codes)
    expected = clf.decision_function(X[:4]) * (2 * codes.numpy() - 1)
    np.testing.assert_allclose(decision.detach().numpy(), expected, rtol=1e-3, atol=1e-3)
    decision.sum().backward()
    assert batch.grad.abs().sum() > 0


# --- standardized inputs -------------------------------------------------------------------------


def standardized(rows):
    module = Standardized(rows.shape[1])
    module.measure(rows, np.ones(len(rows)))
    return module.eval()


def test_columns_are_centered_and_scaled_as_by_a_standard_scaler():
    rows = np.random.default_rng(0).normal(3, [0.5, 1, 20], (50, 3))
    z = standardized(rows)(torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(z, (rows - rows.mean(0)) / rows.std(0), rtol=1e-5, atol=1e-5)


def test_a_column_that_hardly_varied_does_not_decide_about_other_images(small, task):
    """It is scaled as a tenth of the median, and counts as twice the farthest in training."""
    rng = np.random.default_rng(0)
    rows = rng.normal(0, [1, 1, 1e-3, 0], (50, 4))
    module = standardized(rows)
    deviation = rows.std(0)
    least = 0.1 * np.median(deviation[:3])  # of those that vary
    np.testing.assert_allclose(1 / module.scale, np.maximum(deviation, least), rtol=1e-6)
    farthest = np.abs(rows - rows.mean(0)).max(0) / least
    far = module(torch.tensor([[0.0, 0.0, 100.0, 100.0]])).numpy()[0]
    assert far[2] == pytest.approx(2 * farthest[2], rel=1e-5)
    assert far[2] < 0.1
    assert far[3] == 0  # it said nothing about the classes
    # In training it counts in full, and from then on.
    assert module.train()(torch.tensor([[0.0, 0.0, 100.0, 0.0]]))[0, 2] > 100
    assert module.eval()(torch.tensor([[0.0, 0.0, 100.0, 0.0]]))[0, 2] > 100


@pytest.mark.parametrize("freeze_depth", ["all", 0])
def test_one_colored_mark_does_not_decide_about_a_gray_image(small, freeze_depth):
    """Gray but for one bit in some, as JPEG leaves them, which a column for colors sees."""
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    X = (rng.integers(0, 200, (40, 24, 24, 1)) + 4 * y[:, None, None, None]).repeat(3, axis=3)
    X[::4, 0, 0, 0] ^= 1
    conv = nn.Conv2d(3, 32, 3)
    torch.manual_seed(0)
    with torch.no_grad():
        conv.weight[:] = torch.randn(32, 1, 3, 3)
        conv.weight[7] = torch.tensor([1.0, -1.0, 0.0])[:, None, None]  # red without green
    clf = small([("conv", conv), ("act", nn.Hardtanh(-9, 9))], weights="default")
    clf.set_params(
        freeze_depth=freeze_depth, preprocessing="resize", max_epochs=0, weight_interpolation=1.0
    )
    clf.fit(X.astype(np.uint8), y)
    gray, marked = X.copy(), X.copy()
    gray[:, :6, :6] = 100
    marked[:, :6, :6] = [146, 55, 100]  # as bright, once normalized
    moved, usual = (clf.decision_function(each.astype(np.uint8)) for each in (marked, gray))
    assert np.abs(moved - usual).max() < 0.02 * usual.std()


def test_probabilities_of_images_unlike_those_of_training_stay_numbers_to_read(small, task):
    X, y = task
    dim = (X // 16 + 100).astype(np.uint8)  # hardly any contrast
    clf = small("squeezenet1_1", freeze_depth="all").fit(dim, y)
    unlike = np.random.default_rng(0).integers(0, 2, X.shape).astype(np.uint8) * 255
    seen, other = (np.abs(clf.decision_function(each)).max() for each in (dim, unlike))
    unbounded = torch.finfo(torch.float32).max
    clf.module_.head[0].limit.fill_(unbounded)
    assert other < 10 * seen < np.abs(clf.decision_function(unlike)).max()


def test_a_layer_absorbs_what_was_solved_for_inputs_as_they_were():
    rng = np.random.default_rng(0)
    rows, W, b = rng.normal(5, [0.1, 3], (30, 2)), rng.normal(size=(3, 2)), rng.normal(size=3)
    module, linear = standardized(rows).double(), nn.Linear(2, 3).double()
    module.absorb(linear, W, b)
    found = linear(module(torch.from_numpy(rows))).detach().numpy()
    np.testing.assert_allclose(found, rows @ W.T + b, rtol=1e-10)


def test_infinity_is_not_bounded():
    module = standardized(np.random.default_rng(0).normal(size=(10, 2)))
    assert module(torch.tensor([[torch.inf, 0.0]]))[0, 0].isnan()


def test_one_row_leaves_inputs_as_large_as_they_are():
    module = standardized(np.array([[3.0, 4.0]]))
    assert torch.equal(module.scale, torch.ones(2))


# --- how deep "auto" is --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("resnet18", "layer4"),
        ("resnet50", "layer4"),
        ("mobilenet_v2", "features.16"),
        ("efficientnet_lite0", "blocks.5"),
        ("squeezenet1_0", "features.11"),
        ("densenet121", "denseblock3"),
        ("convnext_tiny", "features.7"),
        ("vit_b_16", "encoder_layer_10"),
    ],
)
def test_auto_trains_the_last_stages_with_15_percent_of_the_multiply_adds(name, first):
    table = describe_backbone(name)
    depth = default_depth(architecture(name))
    assert table["name"][depth] == first
    left = 1 - np.array([0, *table["gmacs_share"]])
    assert left[depth] >= 0.15 > left[depth + 1]


def test_auto_means_the_same_for_a_module_of_ones_own(task):
    network = load_backbone("squeezenet1_1", weights=None)
    stages = [stage.module for stage in network.stages]
    assert default_depth(OwnNetwork(stages).to_backbone()) == default_depth(network)
    assert default_depth(network) == 7
    # It is counted on the module as it is, which stays where it is.
    assert not any(tensor.is_meta for tensor in network.modules().state_dict().values())


class Scaled(nn.Module):
    """A stage without a multiplication that torch counts."""

    def __init__(self, n):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n, 3, 1, 1))

    def forward(self, x):
        return x * self.weight.mean(0)


def test_auto_counts_parameters_where_operations_are_not_counted():
    own = OwnNetwork([Scaled(100), Scaled(10), Scaled(5), Scaled(1)], 16).to_backbone()
    assert default_depth(own) == 0
    own = OwnNetwork([Scaled(100), Scaled(10), Scaled(15), Scaled(1)], 16).to_backbone()
    assert default_depth(own) == 1
