"""What ``trainable`` trains, and that it is merged into plain weights afterwards."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback
from torch import nn
from torch.nn.utils import parametrize

from sktransfer import FineTuneClassifier
from sktransfer._finetune._network import whole_backbone

NORMS = (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)


class Tokens(nn.Module):
    """A block of a transformer, on the places of a map."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 2, 24, dropout=0.0, batch_first=True)

    def forward(self, x):
        return self.layer(x.flatten(2).mT).mT.reshape(x.shape)


def tokens():
    """A small transformer of one's own."""
    torch.manual_seed(0)
    return [("patches", nn.Conv2d(3, 16, 8, stride=8)), ("a", Tokens()), ("b", Tokens())]


@pytest.fixture
def network(request, small):
    """Make a FineTuneClassifier that trains few weights of a network."""
    if request.param == "tokens":
        return lambda **own: small(tokens(), weights="default", trainable="lora", lr=1e-3, **own)
    return lambda **own: small(request.param, trainable="affine", lr=1e-3, **own)


def start_and_end(clf):
    """Tensors of the trained stages before and after ``fit``."""
    whole = whole_backbone(clf._found())
    stages = {f"stages.stage{i}": stage.module for i, stage in enumerate(whole.stages)}
    end = clf.module_.learned()
    start = {
        f"{key}.{name}": tensor
        for key, stage in stages.items()
        for name, tensor in stage.state_dict().items()
    }
    return {n: (start[n], t) for n, t in end.items() if n.startswith("stages.")}


def test_affine_changes_gains_and_biases_of_norms_and_nothing_else(small, task):
    clf = small(trainable="affine", freeze_depth=-2, lr=1e-3).fit(*task)
    norms = {
        f"{part.key}.{name}"
        for part in clf.module_.parts
        for name, module in part.module.named_modules()
        if isinstance(module, NORMS)
    }
    pairs = start_and_end(clf)
    assert pairs
    for name, (before, after) in pairs.items():
        layer, _, tensor = name.rpartition(".")
        trained = layer in norms and tensor in ("weight", "bias")
        assert torch.equal(before, after) != trained, name


def test_without_norms_affine_scales_and_shifts_what_convolutions_return(small, task):
    clf = small("squeezenet1_1", trainable="affine", freeze_depth=-2, lr=1e-3).fit(*task)
    pairs = start_and_end(clf)
    weights = {name: pair for name, pair in pairs.items() if name.endswith("weight")}
    assert weights
    for before, after in weights.values():
        ratio = (after / before).flatten(1)
        torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-4, atol=1e-4)
        assert ratio[:, 0].std() > 0
    assert all(not torch.equal(*pair) for name, pair in pairs.items() if name.endswith("bias"))


def check_low_rank(clf, rank):
    """Raise AssertionError unless linear layers alone changed, by matrices of that rank."""
    changed = 0
    for key, (before, after) in start_and_end(clf).items():
        if torch.equal(before, after):
            continue
        changed += 1
        assert after.ndim == 2, key
        singular = torch.linalg.svdvals((after - before).double())
        assert singular[rank] < 1e-3 * singular[0], key
    assert changed >= 4


def test_lora_adds_a_product_of_low_rank_to_linear_layers_and_nothing_else(small, task):
    clf = small(tokens(), weights="default", trainable="lora", trainable__rank=2, lr=1e-3)
    clf.set_params(freeze_depth=1, weight_interpolation=1).fit(*task)
    check_low_rank(clf, 2)
    # in_proj, out_proj and two linear layers in each of the blocks
    assert sum(not torch.equal(*pair) for pair in start_and_end(clf).values()) == 8


@pytest.mark.slow
@pytest.mark.parametrize("name", ["swin_t", "vit_b_32", "convnext_tiny"])
def test_lora_knows_the_blocks_of_published_networks(small, task, name):
    X, y = task[0][:12], task[1][:12]
    size = 224 if name.startswith("vit") else 32
    clf = small(name, trainable="lora", trainable__rank=2, lr=1e-3, image_size=size, max_epochs=1)
    check_low_rank(clf.fit(X, y), 2)


def test_lora_needs_linear_layers_and_the_error_says_what_to_use(small, task):
    clf = small(trainable="lora")
    with pytest.raises(ValueError, match="trainable='affine'"):
        clf.fit(*task)
    assert not clf.initialized_


@pytest.mark.parametrize("network", ["squeezenet1_1", "tokens"], indirect=True)
def test_other_code_meets_the_plain_network(network, task):
    clf = network(max_epochs=1).fit(*task)
    assert not any(parametrize.is_parametrized(module) for module in clf.module_.modules())
    plain = network(max_epochs=1).set_params(trainable="all").fit(*task)
    assert {*clf.module_.state_dict()} == {*plain.module_.state_dict()}
    p = clf.predict_proba(task[0])
    assert np.array_equal(p, pickle.loads(pickle.dumps(clf)).predict_proba(task[0]))


def test_scales_and_shifts_are_in_the_weights_of_a_file(small, task, tmp_path):
    clf = small("squeezenet1_1", trainable="affine", lr=1e-3).fit(*task)
    clf.save(tmp_path / "clf.safetensors")
    loaded = FineTuneClassifier.load(tmp_path / "clf.safetensors")
    assert np.array_equal(clf.predict_proba(task[0]), loaded.predict_proba(task[0]))


@pytest.mark.parametrize("network", ["squeezenet1_1", "tokens"], indirect=True)
def test_a_resumed_training_of_few_weights_ends_like_a_whole_one(network, task, tmp_path):
    class Stop(Callback):
        def on_epoch_end(self, net, **kwargs):
            if len(net.history) == 2:
                raise RuntimeError("stopped")

    settings = {"max_epochs": 3, "weight_interpolation": 1}
    state = {"checkpoint__dir": tmp_path, "checkpoint__every": 1}
    with pytest.raises(RuntimeError, match="stopped"):
        network(callbacks=[Stop()], **settings, **state).fit(*task)
    resumed = network(**settings, **state).fit(*task)
    whole = network(**settings).fit(*task)
    assert np.array_equal(resumed.predict_proba(task[0]), whole.predict_proba(task[0]))
    before = resumed.predict_proba(task[0])
    resumed.set_params(trainable="all", checkpoint__dir=None).partial_fit(*task)
    assert not np.array_equal(before, resumed.predict_proba(task[0]))


@pytest.mark.parametrize("network", ["squeezenet1_1", "tokens"], indirect=True)
def test_a_pickle_of_a_callback_holds_the_plain_network(network, task):
    kept = []

    class Keep(Callback):
        def on_epoch_end(self, net, **kwargs):
            if not kept:
                net.callbacks = None
                kept.append((net.module_.saved(), pickle.dumps(net), net.predict_proba(task[0])))

    network(callbacks=[Keep()], max_epochs=1).fit(*task)
    ((during, data, p),) = kept
    assert any("parametrizations" in name for name in during)
    found = pickle.loads(data)
    assert not any("parametrizations" in name for name in found.module_.saved())
    np.testing.assert_allclose(found.predict_proba(task[0]), p, rtol=1e-5)


def test_few_weights_have_a_larger_rate_and_no_decay(small, task):
    clf = small(trainable="affine", lr=1e-4, max_epochs=1).fit(*task)
    rates = clf.history_[-1, "lr_by_stage"]
    assert rates["layer4"] == pytest.approx(100 * rates["head"])
    clf = small("squeezenet1_1", trainable="affine", lr=1e-4, max_epochs=1, lr__layer_decay=0.5)
    rates = clf.set_params(freeze_depth=-2).fit(*task).history_[-1, "lr_by_stage"]
    assert sorted(rate / rates["head"] for rate in rates.values()) == pytest.approx([1, 50, 100])


def test_a_rate_can_be_looked_for_with_few_weights(small, task):
    clf = small("squeezenet1_1", trainable="affine")
    found = clf.find_lr(*task, n_steps=10, n_runs=1)
    assert np.nanmin(found.loss) < found.start


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trainable": True}, "freeze_depth"),
        ({"trainable": "LoRA"}, "Did you mean 'lora'"),
        ({"trainable": "norm"}, "trainable"),
        ({"trainable__rank": 4}, "trainable='lora'"),
        ({"trainable": "lora", "trainable__rank": 0}, "trainable__rank"),
    ],
)
def test_what_makes_no_sense_is_refused(small, task, settings, message):
    with pytest.raises(ValueError, match=message):
        small(**settings).fit(*task)
