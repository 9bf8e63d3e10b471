"""Frozen stages stay as they are, bit for bit, whatever is done with the estimator."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from skorch.callbacks import Callback

from sktransfer import PretrainedFeatureExtractor
from sktransfer._backbones import load_backbone
from sktransfer.exceptions import UnknownStageError

STAGES = ["stem", "layer1", "layer2", "layer3", "layer4"]


def stage_outputs(module, x, indices):
    """What the frozen stages inside a suffix make of an input, in the mode they are in."""
    with torch.no_grad():
        return [module.stages[f"stage{i}"](x) for i in indices]


def frozen_tensors(clf):
    cut = clf.module_.cut
    found = {}
    for i, name in clf.module_.stage_names.items():
        if i not in cut.trained:
            for key, tensor in clf.module_.stages[f"stage{i}"].state_dict().items():
                found[f"{name}.{key}"] = tensor
    return found


def test_stages_are_named_as_in_the_field(small, task):
    backbone = load_backbone("resnet18", weights=None)
    names = backbone.stage_names
    clf = small(freeze_depth=names[-2]).fit(*task)
    assert clf.module_.cut.depth == len(names) - 1
    assert list(clf.module_.stage_names.values()) == [names[-1]]


@pytest.mark.parametrize(
    ("freeze_depth", "depth", "trained"),
    [
        (0, 0, "all"),
        ("all", None, "none"),
        (-1, -1, "last"),
    ],
)
def test_freeze_depth_counts_frozen_stages(small, task, freeze_depth, depth, trained):
    n = load_backbone("resnet18", weights=None).n_stages
    cut = small(freeze_depth=freeze_depth, max_epochs=1).fit(*task).module_.cut
    assert cut.depth == {None: n, -1: n - 1}.get(depth, depth)
    assert len(cut.trained) == {"all": n, "none": 0, "last": 1}[trained]


def test_a_number_of_stages_and_all_are_the_same(small, task):
    n = load_backbone("resnet18", weights=None).n_stages
    a, b = (small(freeze_depth=depth).fit(*task) for depth in (n, "all"))
    assert np.array_equal(a.predict_proba(task[0]), b.predict_proba(task[0]))


@pytest.mark.parametrize("bad", [99, -99, 1.5, True, None, b"layer1"])
def test_an_invalid_freeze_depth_is_refused(small, task, bad):
    with pytest.raises((ValueError, TypeError), match="freeze_depth"):
        small(freeze_depth=bad).fit(*task)


def test_an_unknown_stage_lists_those_there_are(small, task):
    with pytest.raises(UnknownStageError, match="layer4"):
        small(freeze_depth="layer9").fit(*task)
    with pytest.raises(UnknownStageError, match="layer4"):
        small(freeze_depth=["layer9"]).fit(*task)


def test_activations_at_the_cut_equal_an_extractors(small, task):
    X, y = task
    clf = small(freeze_depth=-1, cache__activation_dtype="float32", head__layers="embedding").fit(
        X, y
    )
    stage = clf._prefix.info.stages[-2].name
    rows = PretrainedFeatureExtractor(
        "resnet18",
        weights=None,
        image_size=32,
        layer=stage,
        pooling="flatten",
        engine="torch",
        cache=False,
    ).fit_transform(X)
    (inputs, _) = clf.get_dataset(X)[list(range(len(X)))]
    assert np.array_equal(inputs["x"].numpy(), rows)


def test_frozen_stages_after_the_cut_do_not_change(small, task):
    X, y = task
    backbone = load_backbone("resnet18", weights=None)
    first, last = backbone.stage_names[1], backbone.stage_names[-1]
    clf = small(
        freeze_depth=[first],
        lr=0.1,
        module__freeze_batch_norm=False,
        weight_decay=0.1,
        max_epochs=1,
    ).fit(X, y)
    before = {
        f"{stage.name}.{key}": tensor
        for stage in backbone.stages[2:]
        for key, tensor in stage.module.state_dict().items()
    }
    x = torch.randn(3, *clf._prefix.shape)
    for each in (
        clf,
        pickle.loads(pickle.dumps(clf)),
        clone(clf).fit(X, y).partial_fit(X, y),
    ):
        now = frozen_tensors(each)
        assert last in "".join(now)
        assert now.keys() == before.keys()
        assert all(torch.equal(now[key], before[key]) for key in before)
        each.module_.train()
        frozen = [i for i in each.module_.stage_names if i not in each.module_.cut.trained]
        assert not any(each.module_.stages[f"stage{i}"].training for i in frozen)
        x0 = torch.randn(2, 64, 8, 8, generator=torch.Generator().manual_seed(0))
        out = stage_outputs(each.module_, x0, frozen[:1])
        with torch.no_grad():
            # In the layout that training uses: another one adds up in another order.
            stage = backbone.stages[frozen[0]].module.to(memory_format=torch.channels_last)
            right = stage(x0)
        assert torch.equal(out[0], right)
    assert x.shape[0] == 3


def test_frozen_stages_do_not_change_in_a_warm_start_or_a_resumed_training(small, task, tmp_path):
    class Stop(Callback):
        def on_epoch_end(self, net, **kwargs):
            if len(net.history) == 2:
                raise RuntimeError("stopped")

    backbone = load_backbone("resnet18", weights=None)
    before = {
        f"{stage.name}.{key}": tensor
        for stage in backbone.stages[2:]
        for key, tensor in stage.module.state_dict().items()
    }
    settings = {"freeze_depth": [backbone.stage_names[1]], "module__freeze_batch_norm": False}
    settings |= {"lr": 1e-2, "weight_decay": 0.1}
    warm = small(warm_start=True, **settings).fit(*task).fit(*task)
    resumed = small(checkpoint__dir=tmp_path, checkpoint__every=1, **settings)
    with pytest.raises(RuntimeError, match="stopped"):
        clone(resumed).set_params(callbacks=[Stop()]).fit(*task)
    assert len(list(tmp_path.glob("*/training.pt"))) == 1
    for each in (warm, resumed.fit(*task)):
        now = frozen_tensors(each)
        assert now.keys() == before.keys()
        assert all(torch.equal(now[key], before[key]) for key in before)
        held = {id(p) for group in each.optimizer_.param_groups for p in group["params"]}
        frozen = [i for i in each.module_.stage_names if i not in each.module_.cut.trained]
        assert len(frozen) == len(backbone.stages) - 2
        for i in frozen:
            own = list(each.module_.stages[f"stage{i}"].parameters())
            assert own
            assert not held & {id(p) for p in own}
            assert not any(p.requires_grad for p in own)
            assert all(p.grad is None for p in own)


def test_what_is_trained_changes_and_only_that_is_in_the_optimizer(small, task):
    clf = small(freeze_depth=-1, lr=1e-2).fit(*task)
    own = {id(p) for _, p in clf.module_.named_parameters() if p.requires_grad}
    held = {id(p) for group in clf.optimizer_.param_groups for p in group["params"]}
    assert held == own
    backbone = load_backbone("resnet18", weights=None)
    before = backbone.stages[-1].module.state_dict()
    after = next(iter(clf.module_.stages.values())).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("conv" in name for name in changed)
    # Statistics of a trained stage are kept by default.
    assert not any("running" in name for name in changed)


def test_batch_norm_of_trained_stages_can_be_trained(small, task):
    clf = small(freeze_depth=-1, module__freeze_batch_norm=False).fit(*task)
    before = load_backbone("resnet18", weights=None).stages[-1].module.state_dict()
    after = next(iter(clf.module_.stages.values())).state_dict()
    assert any("running_mean" in k and not torch.equal(before[k], after[k]) for k in before)


def test_the_registry_network_is_untouched(small, task):
    X, y = task
    reference = PretrainedFeatureExtractor(
        "resnet18", weights=None, image_size=32, cache=False, engine="torch"
    )
    before = reference.fit_transform(X)
    small(freeze_depth=0, lr=0.1).fit(X, y)
    assert np.array_equal(reference.fit_transform(X), before)
