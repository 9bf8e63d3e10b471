"""``warm_start`` with another ``freeze_depth``: what was learned stays, and more is trained."""

import pickle

import numpy as np
import pytest
import torch

from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor


@pytest.fixture
def gradual(small):
    def make(**parameters):
        settings = {"max_epochs": 1, "warm_start": True, "lr": 1e-3}
        settings["cache__activation_dtype"] = "float32"
        return small("shufflenet_v2_x0_5", **settings | parameters)

    return make


def tensors(clf, prefix=""):
    found = {n: t.clone() for n, t in clf.module_.learned().items() if n.startswith(prefix)}
    assert found
    return found


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_warm_start_with_another_depth_begins_with_what_was_learned(gradual, task):
    X, _ = task
    clf = gradual(freeze_depth=-1).fit(*task)
    before, proba = tensors(clf), clf.predict_proba(X)
    clf.set_params(freeze_depth=-2, max_epochs=0).fit(*task)
    assert same(before, tensors(clf))
    np.testing.assert_allclose(clf.predict_proba(X), proba, atol=1e-4)
    clf.set_params(max_epochs=1).fit(*task)
    after = tensors(clf)
    assert not same(before, after)
    assert any(name.startswith("stages.stage3.") for name in after)
    assert not any(name.startswith("stages.stage3.") for name in before)


def test_a_solved_head_is_unfrozen_stage_by_stage(gradual, task):
    X, y = task
    clf = gradual(freeze_depth="all").fit(X, y)
    assert clf.history_[-1]["phase"] == "solved"
    proba = clf.predict_proba(X)
    clf.set_params(freeze_depth=-1, max_epochs=0).fit(X, y)
    np.testing.assert_allclose(clf.predict_proba(X), proba, atol=1e-4)
    clf.set_params(max_epochs=1)
    for depth in (-1, -2, -3):
        clf.set_params(freeze_depth=depth).fit(X, y)
    assert len(clf.history_) == 4  # the solved head, and an epoch each
    assert {p.dtype for p in clf.module_.parameters()} == {torch.float32}
    assert clf.score(X, y) > 0.5


def test_refrozen_stages_keep_what_they_learned_to_the_bit(gradual, task):
    clf = gradual(freeze_depth=-2).fit(*task)
    before = tensors(clf)
    clf.set_params(freeze_depth=-1).fit(*task)
    after = tensors(clf)
    earlier = [name for name in before if name.startswith("stages.stage3.")]
    assert earlier
    assert all(torch.equal(before[name], after[name]) for name in earlier)
    moved = [name for name in before if name.startswith("stages.stage4.")]
    assert not all(torch.equal(before[name], after[name]) for name in moved)
    held = {id(p) for group in clf.optimizer_.param_groups for p in group["params"]}
    frozen = clf.module_.stages["stage3"]
    assert not any(id(p) in held or p.requires_grad for p in frozen.parameters())
    assert not any(module.training for module in frozen.modules())
    # With everything frozen again, the head is trained on what was learned.
    clf.set_params(freeze_depth="all").fit(*task)
    again = tensors(clf)
    assert all(torch.equal(after[name], again[name]) for name in after if "head" not in name)
    assert not same(tensors(clf, "head"), {n: t for n, t in after.items() if "head" in n})


@pytest.mark.parametrize(
    ("depths", "store_weights"),
    [((-1, -2), False), ((-2, -1), False), ((-2, "all"), True), (("all", [2]), True)],
)
def test_what_was_unfrozen_gradually_is_saved_whole(gradual, task, tmp_path, depths, store_weights):
    X, _ = task
    clf = gradual(store_weights=store_weights)
    for depth in depths:
        clf.set_params(freeze_depth=depth).fit(*task)
    expected = clf.predict_proba(X)
    pickled = pickle.loads(pickle.dumps(clf))
    assert np.array_equal(pickled.predict_proba(X), expected)
    clf.save(tmp_path / "clf.safetensors")
    loaded = FineTuneClassifier.load(tmp_path / "clf.safetensors")
    assert np.array_equal(loaded.predict_proba(X), expected)
    # The next step of a transfer begins with all that was learned.
    embedded = PretrainedFeatureExtractor(tmp_path / "clf.safetensors", image_size=32)
    if "all" not in depths:
        assert embedded.fit_transform(X[:2]).shape == (2, 1024)
    for again in (pickled, loaded):
        again.set_params(freeze_depth=-3).fit(*task)
        assert any(n.startswith("stages.stage2.") for n in again.module_.learned())


def test_a_depth_that_does_not_exist_leaves_the_estimator_as_it_was(gradual, task):
    X, _ = task
    clf = gradual(freeze_depth=-1).fit(*task)
    before = clf.predict_proba(X)
    for wrong in (-99, "layer7"):
        with pytest.raises(ValueError, match=r"out of range|no stage"):
            clf.set_params(freeze_depth=wrong).fit(*task)
        assert np.array_equal(clf.predict_proba(X), before)
    clf.set_params(freeze_depth=-1).fit(*task)


def test_another_backbone_or_other_classes_are_refused_in_a_warm_start(gradual, task):
    X, y = task
    clf = gradual().fit(X, y)
    with pytest.raises(ValueError, match="not among the known classes"):
        clf.fit(X, y + 1)
    with pytest.raises(ValueError, match=r"backbone is 'resnet34' now.*warm_start=False"):
        clf.set_params(backbone="resnet34").fit(X, y)


def test_gradual_unfreezing_is_the_same_for_the_same_seed(gradual, task):
    X, y = task
    results = []
    for _ in range(2):
        clf = gradual(freeze_depth="all").fit(X, y)
        clf.set_params(freeze_depth=-1).fit(X, y).set_params(freeze_depth=-2).fit(X, y)
        results.append(clf.predict_proba(X))
    assert np.array_equal(*results)
    assert len(np.unique(results[0])) > 2
