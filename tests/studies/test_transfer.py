"""transfer_curve: what is copied, frozen and trained; and the small version of the experiment."""

from __future__ import annotations

from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from sktransfer import FineTuneClassifier, cache_info, clear_cache
from sktransfer._backbones import Stage
from sktransfer.exceptions import ImageDecodeError
from sktransfer.studies import (
    TransferCurve,
    TransferCurveDisplay,
    convergence_curve,
    transfer_curve,
)
from sktransfer.studies._random_networks import (
    first_stages,
    given,
    mean_and_variance,
    random_like,
    recalibrated,
)
from tests.studies.conftest import halves, small_network

mpl.use("Agg")


def tensors(backbone):
    return {k: t.clone() for k, t in backbone.modules().state_dict().items()}


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    keep = y < 4
    X = np.repeat(np.repeat(X.reshape(-1, 8, 8), 2, 1), 2, 2)[keep] / 16 * 255
    return X.astype(np.uint8)[:160], y[keep][:160]


# --- networks ------------------------------------------------------------------------------------


def test_the_first_stages_are_of_one_network_and_the_rest_of_another():
    a, rest = small_network(1), random_like(small_network(1), 7)
    mixed = first_stages(a, 2, rest, "x")
    for name, tensor in tensors(mixed).items():
        source = a if name.startswith(("stage0", "stage1")) else rest
        assert torch.equal(tensor, tensors(source)[name])
    other = first_stages(a, 2, random_like(a, 8), "y")
    assert mixed.reference.digest == other.reference.digest  # they share what is cut off there
    assert mixed.reference != other.reference
    assert first_stages(a, 3, rest, "x").reference.digest != mixed.reference.digest
    whole = first_stages(a, 5, rest, "x")
    assert all(torch.equal(t, tensors(a)[k]) for k, t in tensors(whole).items())


def test_random_networks_are_drawn_from_their_seed_and_leave_others_alone():
    a = small_network(1)
    before = tensors(a)
    state = torch.random.get_rng_state()
    first, again, other = random_like(a, 3), random_like(a, 3), random_like(a, 4)
    assert torch.equal(state, torch.random.get_rng_state())
    assert first.reference.digest == again.reference.digest != other.reference.digest
    assert all(torch.equal(t, before[k]) for k, t in tensors(a).items())
    named = random_like(random_like(_resnet(), 1), 2)
    assert named.name == "resnet18"
    assert named.reference.digest != random_like(named, 1).reference.digest


class Tokens(nn.Module):
    """Attention with a learned token before the others, as in transformers."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.full((1, 1, 8), 5.0))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        with torch.no_grad():
            self.attention.in_proj_weight.fill_(7.0)

    def forward(self, x):
        x = torch.cat([self.token.expand(len(x), -1, -1), x.flatten(2).mT], dim=1)
        return self.attention(x, x, x)[0][:, 0]


class TokensThatAreDrawn(Tokens):
    def reset_parameters(self):
        nn.init.normal_(self.token, std=0.02)


def test_nothing_learned_is_left_in_a_random_network():
    def network(kind):
        small = small_network(1)
        stage = Stage("tokens", kind(), "NC")
        front = replace(small.stages[0], module=nn.Conv2d(3, 8, 4, stride=4))
        return replace(small, stages=(front, stage), n_features=8)

    with pytest.raises(ValueError, match=r"no layer knows how to draw stage1.token at random"):
        random_like(network(Tokens), 0)
    drawn = tensors(random_like(network(TokensThatAreDrawn), 0))
    assert drawn["stage1.token"].abs().max() < 1
    assert drawn["stage1.attention.in_proj_weight"].abs().max() < 1


def _resnet():
    from sktransfer._backbones import load_backbone

    return load_backbone("resnet18", weights=None)


def test_mean_and_variance_are_kept_and_nothing_else():
    a = small_network(1)
    with torch.no_grad():
        a.stages[3].module[0].weight.mul_(3).add_(0.5)
    drawn = mean_and_variance(a, 0)
    old, new = a.stages[3].module[0].weight, drawn.stages[3].module[0].weight
    assert new.mean().item() == pytest.approx(old.mean().item(), abs=0.01)
    assert new.std().item() == pytest.approx(old.std().item(), rel=0.02)
    assert abs(np.corrcoef(old.detach().ravel(), new.detach().ravel())[0, 1]) < 0.05


def test_recalibrated_batch_norm_has_the_statistics_of_the_images(digits, classifier):
    X, _ = digits
    network = random_like(small_network(2, side=16), 5)
    own = recalibrated(network, classifier(side=16), X[:64])
    batch = torch.from_numpy(X[:64].astype(np.float32) / 255)[:, None].expand(-1, 3, -1, -1)
    x = (batch - 0.13) / 0.31
    with torch.no_grad():
        inner = own.stages[0].module[0](x)
    norm = own.stages[0].module[1]
    torch.testing.assert_close(norm.running_mean, inner.mean((0, 2, 3)), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(norm.running_var, inner.var((0, 2, 3)), atol=1e-2, rtol=3e-2)
    assert network.stages[0].module[1].running_mean.abs().max() == 0
    assert norm.momentum == network.stages[0].module[1].momentum
    assert not any(m.training for stage in own.stages for m in stage.module.modules())


@pytest.mark.parametrize("n", [33, 40, 97])
def test_recalibration_weighs_images_alike_whatever_the_last_batch(classifier, n):
    """Maps of one pixel: an image that is left over has no variance of its own."""
    X = np.random.default_rng(0).integers(0, 256, (n, 4, 4), dtype=np.uint8)
    X[32:] //= 4
    images, clf = X[..., None], classifier(side=4)
    own = recalibrated(random_like(small_network(2, side=4), 5), clf, images)
    x = (torch.from_numpy(X.astype(np.float32) / 255)[:, None].expand(-1, 3, -1, -1) - 0.13) / 0.31
    with torch.no_grad():
        inner = own.stages[0].module[0](x)
    mean = own.stages[0].module[1].running_mean
    torch.testing.assert_close(mean, inner.mean((0, 2, 3)), atol=1e-4, rtol=1e-3)
    assert all(torch.isfinite(tensor).all() for tensor in tensors(own).values())


# --- the curve -----------------------------------------------------------------------------------


def test_table_of_all_treatments(digits, classifier):
    X, y = digits
    clf = classifier(side=16, max_epochs=2)
    options = {"depths": ["conv2", 5], "n_repeats": 2, "random_state": 3}
    curve = transfer_curve(clf, X[80:], y[80:], X_base=X[:80], y_base=y[:80], **options)
    table = curve.table
    assert len(table) == 2 * (1 + 5 * 2)
    assert set(table["treatment"]) == {"base", "AnB", "AnB+", "BnB", "BnB+", "random"}
    assert table["score"].between(0, 1).all()
    frozen = table[table["treatment"] == "AnB"].set_index("depth")["n_trainable"]
    tuned = table[table["treatment"] == "AnB+"].set_index("depth")["n_trainable"]
    assert frozen[5].unique() == 64 * 4 + 4  # the head alone
    assert tuned.nunique() == 1
    assert (frozen[2] < tuned[2]).all()
    scores = table.pivot_table(index=["seed", "depth"], columns="treatment", values="score")
    base = table[table["treatment"] == "base"].set_index("seed")["score"]
    for _, row in table[table["depth"] > 0].iterrows():
        own = scores.loc[(row["seed"], row["depth"])]
        assert row["coadaptation"] == pytest.approx(base[row["seed"]] - own["BnB"])
        assert row["specificity"] == pytest.approx(own["BnB"] - own["AnB"])
    gaps = curve.differences("AnB+", "base")
    assert list(gaps["depth"]) == [2, 5]
    expected = [np.mean([scores.loc[(s, d), "AnB+"] - base[s] for s in (0, 1)]) for d in (2, 5)]
    np.testing.assert_allclose(gaps["mean"], expected)
    back = curve.differences("base", "AnB+")
    np.testing.assert_allclose(back["mean"], -gaps["mean"])
    one = TransferCurve(table[table["depth"].isin([0, 5])]).differences("AnB+", "AnB")
    assert (list(one["depth"]), list(one["stage"])) == ([5], ["fc"])
    assert len(TransferCurve(table[table["depth"].isin([0, 5])]).differences("AnB")) == 1
    again = transfer_curve(
        clf, X[80:], y[80:], X_base=X[:80], y_base=y[:80], treatments=["base", "AnB"], **options
    )
    pd.testing.assert_series_equal(
        again.table.query("treatment == 'AnB'")["score"].reset_index(drop=True),
        table.query("treatment == 'AnB'")["score"].reset_index(drop=True),
    )


def test_activations_of_a_prefix_are_computed_once(digits, classifier):
    X, y = digits
    clear_cache()
    clf = classifier(side=16, max_epochs=1)
    options = {"depths": [3], "treatments": ["AnB"], "X_test": X[120:], "y_test": y[120:]}
    transfer_curve(clf, X[:120], y[:120], n_repeats=3, **options)
    # A is the same network in each repeat, and so is its prefix, whatever follows.
    assert cache_info().misses == 160
    assert cache_info().hits >= 2 * 160


def test_a_frozen_prefix_of_a_pretrained_network_stays_what_it_was(digits):
    X, y = digits
    base = small_network(1, side=16)
    mixed = first_stages(base, 3, random_like(base, 1), "x")
    clf = FineTuneClassifier(
        given(mixed), freeze_depth=3, max_epochs=1, lr=0.1, head__init="random", random_state=0,
        module__freeze_batch_norm=False, value_range=(0, 255),
    ).fit(X, y)  # fmt: skip
    after = tensors(clf.to_backbone())
    for name, tensor in tensors(base).items():
        if name.startswith(("stage0", "stage1", "stage2")):
            assert torch.equal(tensor, after[name])
        elif "num_batches" not in name:
            assert not torch.equal(tensor, after[name])


def test_display_has_a_line_per_treatment(digits):
    table = pd.DataFrame(
        {
            "treatment": ["base", "AnB", "AnB", "AnB+", "AnB+"],
            "depth": [0, 1, 2, 1, 2],
            "stage": ["", "conv1", "conv2", "conv1", "conv2"],
            "seed": 0,
            "score": [0.5, 0.6, 0.7, 0.6, 0.8],
        }
    )
    display = TransferCurveDisplay(table=table).plot()
    np.testing.assert_allclose(display.lines_["AnB+"].get_ydata(), [0.6, 0.8])
    assert [t.get_text() for t in display.ax_.get_xticklabels()] == ["conv1", "conv2"]
    mpl.pyplot.close(display.figure_)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"treatments": ["CnB"]}, "treatments must be some of"),
        ({"treatments": []}, "treatments must be some of"),
        ({"depths": [6]}, "from 1 to 5 for small"),
        ({"depths": [2.5]}, "from 1 to 5 for small"),
        ({"depths": ["conv9"]}, "no stage 'conv9'"),
        ({"n_repeats": 0}, "n_repeats"),
        ({"X_base": [1]}, "X_base and y_base together"),
        ({"X_test": [1]}, "X_test and y_test together"),
    ],
)
def test_bad_values(digits, classifier, options, message):
    X, y = digits
    with pytest.raises(ValueError, match=message):
        transfer_curve(classifier(side=16), X, y, **options)
    with pytest.raises(ValueError, match="A network is named by a str"):
        transfer_curve(3.5, X, y)
    with pytest.raises(ValueError, match="X has 160 rows and y has 3"):
        transfer_curve(classifier(side=16), X, y[:3])


@pytest.mark.parametrize("place", [3, 11, 57])
def test_an_unreadable_row_is_named_by_its_place_in_the_whole(digits, classifier, place):
    """In the part to train on, or in that to test on."""
    X, y = [*digits[0][:60]], digits[1][:60]
    X[place] = b"nothing"
    clf = classifier(side=16, max_epochs=1)
    with pytest.raises(ImageDecodeError, match=rf"^row {place} "):
        transfer_curve(clf, X, y, depths=[5], treatments=["AnB"])
    with pytest.raises(ImageDecodeError, match=rf"^row {place} "):
        transfer_curve(clf, X, y, depths=[5], treatments=["random"])
    with pytest.raises(ImageDecodeError, match=rf"^row {place} "):
        convergence_curve(clf, X, y, budgets=[8], inits=["random"])


def test_nothing_is_trained_twice_or_before_parameters_are_checked(classifier, digits):
    X, y = digits
    clf = classifier(side=16, max_epochs=1)
    treatments = ["AnB", "AnB"]
    table = transfer_curve(clf, X, y, depths=[5, "fc"], treatments=treatments, scoring=None).table
    assert len(table) == 1
    assert (
        table["score"][0]
        == transfer_curve(
            clf, X, y, depths=np.int64(5), treatments="AnB", scoring="accuracy"
        ).table["score"][0]
    )
    with pytest.raises(ValueError, match="scoring"):
        transfer_curve(clf, [b"nothing"] * len(y), y, scoring="nothing")


@pytest.mark.slow
def test_transferability_on_a_small_task(mnist, classifier):
    """science.md, section 1: what held in all of four seeds. A dip of BnB is not among it.

    There random stages were at chance because their BatchNorm knew no image; here the study gives
    it the statistics of the images. Both are shown.
    """
    X, y = mnist
    gains = []
    for seed in range(4):
        (X_a, y_a), (X_b, y_b), (X_test, y_test) = halves(X, y, seed, 300, 10)
        curve = transfer_curve(
            classifier(),
            X_b,
            y_b,
            X_base=X_a,
            y_base=y_a,
            base_params={"max_epochs": 8},
            X_test=X_test,
            y_test=y_test,
            random_state=seed,
        )
        mean = curve.table.set_index(["treatment", "depth"])["score"]
        print(mean.unstack("treatment").round(3))
        base = mean["base", 0]
        gains.append(mean["AnB+", 5] - base)
        assert mean["AnB+", 5] > mean["AnB", 5]
        assert 2 <= mean["AnB"].idxmax() <= 4
        dead = classifier(seed, freeze_depth=5, head__init="random").fit(X_b, y_b)
        assert dead.score(X_test, y_test) == pytest.approx(0.2, abs=0.03)  # chance
        assert 0.2 < mean["random", 5] < base - 0.15
        assert mean["random", 5] < mean["random", 3] < mean["random", 1]
    assert min(gains) > 0.12
    assert 0.17 < np.mean(gains) < 0.25
