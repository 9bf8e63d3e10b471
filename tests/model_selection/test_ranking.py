"""rank_backbones: what it computes, on which rows, and at what price."""

from __future__ import annotations

import time
from functools import partial
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import PretrainedFeatureExtractor, cache_info, clear_cache
from sktransfer._backbones import load_backbone
from sktransfer.datasets import load_digit_screening
from sktransfer.exceptions import FailedRowsWarning, ImageDecodeError
from sktransfer.model_selection import (
    BackboneRankingDisplay,
    _ranking,
    h_score,
    knn_score,
    leep_score,
    logme_score,
    loo_ridge_score,
    rank_backbones,
    recommend_strategy,
)

mpl.use("Agg")
ALL = ["loo_ridge", "knn", "probe", "logme", "hscore", "leep"]


@pytest.fixture(scope="module")
def digits():
    found = load_digit_screening()
    return found.data.reshape(-1, 8, 8)[:120], found.target[:120]


def small(name, **params):
    return PretrainedFeatureExtractor(
        name, weights=None, image_size=32, value_range=(0, 16), **params
    )


def test_scores_are_those_of_the_features_of_each_layer(digits):
    X, y = digits
    network = small("resnet18", engine="torch")
    ranking = rank_backbones(X, y, [network], layers="each", metric=ALL, scoring="roc_auc")
    table = ranking.table
    assert list(table["score"]) == sorted(table["score"], reverse=True)
    # The average of the last map is the embedding: not two rows for one thing.
    assert set(table["layer"]) == {"maxpool", "layer1", "layer2", "layer3", "embedding"}
    assert ranking.metric == "loo_ridge"
    assert ranking.n_images == 120
    for place in (0, len(table) - 1):
        row = table.iloc[place]
        extractor = ranking.make_extractor(place)
        F = extractor.fit_transform(X)
        scaled = StandardScaler().fit_transform(F)
        assert F.shape[1] == row["n_features"]
        assert row["score"] == pytest.approx(loo_ridge_score(F, y, scoring="roc_auc"), abs=1e-6)
        assert row["knn"] == pytest.approx(knn_score(F, y, scoring="roc_auc"), abs=1e-6)
        assert row["logme"] == pytest.approx(logme_score(scaled, y), abs=1e-5)
        assert row["hscore"] == pytest.approx(h_score(scaled, y), abs=1e-5)
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        expected = cross_val_score(probe, F, y, cv=folds, scoring="roc_auc").mean()
        assert row["probe"] == pytest.approx(expected, abs=0.05)  # pooled, not averaged over folds
        assert row["low"] < row["score"] < row["high"] + 1e-9
    assert table["best_share"].sum() == pytest.approx(1)
    assert table["pareto"].any()
    assert table["imagenet_top1"].isna().all()  # random weights have none


def test_by_default_networks_are_judged_by_all_their_layers(digits):
    X, y = digits
    networks = [small("resnet18"), small("squeezenet1_1")]
    ranking = rank_backbones(X, y, networks, metric=["loo_ridge", "probe"], scoring="roc_auc")
    table = ranking.table
    assert sorted(table["backbone"]) == ["resnet18", "squeezenet1_1"]
    assert set(table["layer"]) == {"all"}
    assert table["best_share"].sum() == pytest.approx(1)
    for place, row in table.iterrows():
        extractor = ranking.make_extractor(place)
        assert extractor.layer == "all"
        F = extractor.fit_transform(X)
        assert F.shape[1] == row["n_features"]
        assert row["score"] == pytest.approx(loo_ridge_score(F, y, scoring="roc_auc"), abs=1e-6)
        assert 1 / row["images_per_s"] > 0


def test_all_layers_are_compared_with_single_ones_without_another_pass(digits):
    X, y = digits
    network = small("resnet18", engine="torch")
    clear_cache()
    alone = rank_backbones(X, y, [network], n_resamples=0).table
    misses = cache_info().misses
    table = rank_backbones(X, y, [network], layers=["layer1", "all", None], n_resamples=0).table
    assert cache_info().misses == misses
    assert set(table["layer"]) == {"layer1", "all", "embedding"}
    both = table.set_index("layer").loc["all"]
    assert both["score"] == alone["score"][0]
    assert both["n_features"] == alone["n_features"][0] > table["n_features"].min()


def test_the_speed_of_an_early_layer_is_that_of_the_part_that_runs(digits, monkeypatch):
    X, y = digits
    clock = SimpleNamespace(perf_counter=iter(range(100)).__next__)
    monkeypatch.setattr(_ranking, "time", clock)
    options = {"backbones": small("resnet18"), "n_resamples": 0}
    early = rank_backbones(X, y, layers=["layer1"], **options).table
    assert early["images_per_s"][0] == pytest.approx(5)  # five images took the second
    both = rank_backbones(X, y, layers=["layer1", None], **options).table
    speeds = both.set_index("layer")["images_per_s"]
    assert speeds["embedding"] == pytest.approx(5)
    assert speeds["layer1"] > 10


def test_the_former_name_of_each_layer_is_explained(digits):
    X, y = digits
    with pytest.raises(ValueError, match="'auto' is called 'each'"):
        rank_backbones(X, y, [small("squeezenet1_1")], layers="auto")


def test_leep_is_of_the_networks_own_classifier(digits):
    X, y = digits
    extractor = PretrainedFeatureExtractor(
        "efficientnet_lite0", image_size=64, value_range=(0, 16), engine="torch"
    )
    table = rank_backbones(X[:40], y[:40], [extractor], metric="leep", layers=[None, "stem"]).table
    assert table.set_index("layer")["score"].isna().to_dict() == {"stem": True, "embedding": False}
    assert table["imagenet_top1"][0] == 75.1
    assert table.set_index("layer")["pareto"].to_dict() == {"stem": False, "embedding": True}
    import torch

    network = load_backbone("efficientnet_lite0")
    F = torch.from_numpy(extractor.fit_transform(X[:40]))
    theta = network.classifier(F).softmax(1).detach().double().numpy()
    assert table["score"].max() == pytest.approx(leep_score(theta, y[:40]), abs=1e-4)


def test_patients_are_left_out_and_drawn_together(digits):
    X, _ = digits
    patients = np.repeat(np.arange(30), 4)
    y = np.random.default_rng(0).integers(2, size=30)[patients]
    X = X[patients * 4] + np.random.default_rng(1).integers(0, 2, X.shape)
    X = np.clip(X, 0, 16)
    options = {"backbones": [small("squeezenet1_1")], "layers": None}
    loose = rank_backbones(X, y, **options).table.iloc[0]
    strict = rank_backbones(X, y, groups=patients, **options).table.iloc[0]
    assert loose["score"] > 0.9
    assert strict["score"] < 0.8
    assert strict["high"] - strict["low"] > 1.3 * (loose["high"] - loose["low"])


def test_every_layer_comes_from_one_pass(digits):
    X, y = digits
    clear_cache()
    ranking = rank_backbones(X, y, [small("resnet18", engine="torch")], layers="each")
    misses = cache_info().misses
    assert misses <= 6 * 120 + 100  # five stages and the embedding
    for place in range(len(ranking.table)):
        ranking.make_extractor(place).fit_transform(X)
    assert cache_info().misses == misses


def test_fewer_images_keep_the_shares_of_the_classes():
    found = load_digit_screening()
    X, y = found.data.reshape(-1, 8, 8)[:600], found.target[:600]
    clear_cache()
    ranking = rank_backbones(X, y, small("squeezenet1_1"), layers=None, n_images=200)
    assert ranking.n_images == 200
    misses = cache_info().misses
    # What was scored is in the store: the same rows are chosen again.
    rank_backbones(X, y, small("squeezenet1_1"), layers=None, n_images=200, metric="knn")
    assert cache_info().misses == misses


def test_rows_that_cannot_be_read_are_left_out(digits):
    X, y = digits
    X = [*X, b"no image"]
    extractor = small("squeezenet1_1", on_error="nan")
    with pytest.warns(FailedRowsWarning, match="1 of 121"):
        ranking = rank_backbones(X, [*y, "other"], [extractor], layers=None)
    assert ranking.n_images == 120


def test_nearly_all_images(digits):
    X, y = digits[0], np.arange(120) % 2
    options = {"backbones": [small("squeezenet1_1")], "layers": None, "n_resamples": 0}
    for groups in (None, np.arange(120) // 2):
        ranking = rank_backbones(X, y, n_images=119, groups=groups, **options)
        assert ranking.n_images in (118, 119, 120)
    assert rank_backbones(X, y, n_images=10**9, **options).n_images == 120
    broken = [*X]
    broken[77] = b"nothing"
    with pytest.raises(ImageDecodeError, match=r"^row 77 "):
        rank_backbones(broken, y, n_images=119, **options)


def test_numbers_that_are_not_finite_are_an_error(digits, monkeypatch):
    X, y = digits
    compute = PretrainedFeatureExtractor.fit_transform

    def broken(self, X, y=None):
        out = compute(self, X, y)
        out[3] = np.inf
        return out

    monkeypatch.setattr(PretrainedFeatureExtractor, "fit_transform", broken)
    with pytest.raises(ValueError, match="squeezenet1_1 gives numbers that are not finite at emb"):
        rank_backbones(X[:30], y[:30], [small("squeezenet1_1")], layers=None)


def test_labels_are_checked_before_anything_is_computed():
    for labels, message in (([1] * 9, "holds one only"), (np.linspace(0, 1, 9), "continuous")):
        with pytest.raises(ValueError, match=message):
            rank_backbones([b"nothing"] * 9, labels, ["resnet18"])
        with pytest.raises(ValueError, match=message):
            recommend_strategy([b"nothing"] * 9, labels, "resnet18")


def test_groups_of_one_class_have_no_interval_and_no_warning(digits):
    X, y = digits
    row = rank_backbones(
        X[:40], y[:40], [small("squeezenet1_1")], layers=None, metric="hscore", groups=y[:40]
    ).table.iloc[0]
    assert np.isfinite(row["score"])
    assert np.isnan(row["low"])


@pytest.mark.slow
def test_by_default_networks_with_weights_on_this_machine_are_ranked(digits):
    X, y = digits
    X = np.repeat(np.repeat(X / 16, 3, axis=1), 3, axis=2)
    ranking = rank_backbones(X[:30], y[:30], layers=None, metric="knn", n_resamples=20)
    assert "efficientnet_lite0" in set(ranking.table["backbone"])
    assert ranking.table["imagenet_top1"].notna().all()


def test_a_metric_of_the_user(digits):
    X, y = digits

    def width(F, y):
        return F.shape[1]

    table = rank_backbones(X, y, {"a": small("squeezenet1_1")}, metric=[width, "knn"]).table
    assert list(table["score"]) == list(table["n_features"])
    assert "knn" in table
    assert table["best_share"].isna().all()
    assert set(table["backbone"]) == {"a"}


def test_display_shows_networks_and_names_the_best(digits):
    X, y = digits
    networks = [small("squeezenet1_1"), small("squeezenet1_1", pooling="max")]
    ranking = rank_backbones(X, y, networks, layers="each")
    assert set(ranking.table["backbone"]) == {"squeezenet1_1", "squeezenet1_1 (2)"}
    display = BackboneRankingDisplay.from_ranking(ranking)
    assert display.ax_.get_xscale() == "log"
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert {"squeezenet1_1", "squeezenet1_1 (2)"} <= set(labels)
    names = {text.get_text() for text in display.ax_.texts}
    assert names == set(ranking.table.loc[ranking.table["pareto"], "layer"])
    mpl.pyplot.close(display.figure_)


def test_display_names_networks_where_rows_are_of_all_layers(digits):
    X, y = digits
    display = BackboneRankingDisplay.from_ranking(rank_backbones(X, y, [small("squeezenet1_1")]))
    assert [text.get_text() for text in display.ax_.texts] == ["squeezenet1_1"]
    mpl.pyplot.close(display.figure_)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "accuracy"}, "metric must be one of"),
        ({"metric": []}, "empty list"),
        ({"metric": ["knn", lambda F, y: 0.0, lambda F, y: 1.0]}, "'<lambda>' is the name"),
        ({"metric": ["knn", partial(knn_score, n_neighbors=3)]}, "'score' is the name of"),
        ({"backbones": []}, "backbones is empty"),
        ({"backbones": [3.5]}, "named by a str"),
        ({"groups": [1, 2]}, "groups has 2"),
        ({"n_resamples": -1}, "n_resamples"),
        ({"n_images": 1}, "n_images must be at least 2"),
        ({"scoring": "precision"}, "scoring must be"),
    ],
)
def test_bad_values(digits, options, message):
    X, y = digits
    options = {"backbones": [small("squeezenet1_1")], "layers": None, **options}
    with pytest.raises(ValueError, match=message):
        rank_backbones(X[:20], y[:20], **options)


@pytest.mark.slow
def test_x_rays_cost_what_one_extraction_costs_and_the_order_is_that_of_accuracy(shared_data):
    table = pd.read_csv(shared_data / "chest_xray_pneumonia" / "metadata.csv").iloc[::4]
    folder = shared_data / "chest_xray_pneumonia"
    X = [str(folder / name) for name in table["file"]]
    y, patients = table["label"].to_numpy(), table["patient_id"].to_numpy()
    extractor = PretrainedFeatureExtractor("efficientnet_lite0", cache=None)
    extractor.fit(X).transform(X[:8])
    start = time.perf_counter()
    extractor.transform(X)
    once = time.perf_counter() - start
    start = time.perf_counter()
    ranking = rank_backbones(
        X, y, [extractor], layers="each", groups=patients, metric=["loo_ridge", "probe"]
    )
    assert time.perf_counter() - start < 1.6 * once + 4  # resolving the engine for many taps
    assert ranking.table["score"].corr(ranking.table["probe"], method="spearman") > 0.7
