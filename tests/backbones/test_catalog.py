"""The tables of backbones and of their stages."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest
import torch
from torchvision import models

from sktransfer._backbones import _torchvision, describe_backbone, list_backbones, load_backbone
from sktransfer.exceptions import UnknownBackboneError, UnknownStageError

LITE = ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]


def test_list_backbones_lists_every_network():
    table = list_backbones()
    assert list(table["name"]) == sorted(models.list_models(module=models) + LITE)
    assert isinstance(table.index, pd.RangeIndex)
    assert not table.drop(columns="imagenet_top1").isna().any(axis=None)
    assert set(table["provider"]) == {"torchvision", "efficientnet_lite"}
    row = table.set_index("name").loc["inception_v3"]
    assert row["n_features"] == 2048
    assert row["image_size"] == 299
    assert row["imagenet_top1"] == pytest.approx(77.294)
    assert row["download_mb"] == pytest.approx(109.0)


def test_list_backbones_is_quick():
    start = time.perf_counter()
    list_backbones()
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("swin_v2", ["swin_v2_b", "swin_v2_s", "swin_v2_t"]),
        ("swin_?", ["swin_b", "swin_s", "swin_t"]),
        ("resnet1*", ["resnet101", "resnet152", "resnet18"]),
        ("ResNet[3-5]?", ["resnet34", "resnet50"]),
        ("nothing", []),
    ],
)
def test_a_pattern_selects_networks(pattern, names):
    table = list_backbones(pattern)
    assert list(table["name"]) == names
    assert list(table.index) == list(range(len(names)))
    assert list(table.columns) == list(list_backbones().columns)


def test_available_offline_is_read_from_the_disk(tmp_path, monkeypatch):
    def available():
        return list_backbones("resnet18")["available_offline"].item()

    assert not available()
    monkeypatch.setenv("SKTRANSFER_WEIGHTS_DIR", str(tmp_path))
    (tmp_path / "resnet18-f37072fd.pth").touch()
    assert available()


def test_the_table_of_sizes_agrees_with_the_networks():
    assert tuple(_torchvision.sizes()) == _torchvision.NAMES
    for name, sizes in _torchvision.sizes().items():
        assert _torchvision.measure(name) == sizes, name


def test_describe_backbone_agrees_with_a_real_forward():
    backbone = load_backbone("mobilenet_v3_small", weights=None)
    table = describe_backbone("mobilenet_v3_small", image_size=96)
    x = torch.zeros(1, 3, 96, 96)
    assert table.index.name == "index"
    assert list(table["name"]) == backbone.stage_names
    with torch.inference_mode():
        for row, stage in zip(table.itertuples(), backbone.stages, strict=True):
            x = stage.module(x)
            assert row.output_shape == tuple(x.shape[1:])
            assert row.layout == stage.layout
            assert row.n_features == x.shape[1]
            assert row.n_parameters == sum(p.numel() for p in stage.module.parameters())
    assert table["n_features"].iloc[-1] == backbone.n_features


@pytest.mark.parametrize(
    "name",
    ["resnet18", "vit_b_32", "swin_t", "maxvit_t", "vgg16", "inception_v3", "densenet121", LITE[0]],
)
def test_sums_agree_with_the_catalog(name):
    stages = describe_backbone(name)
    network = list_backbones(name).iloc[0]
    # The classifier, which is in the catalog's sums, is a thousand times the features.
    classifier = 1000 * network["n_features"]
    total = stages["n_parameters"].sum()
    assert total == pytest.approx(network["n_parameters"] - classifier, abs=1000)
    # Publishers leave out this or that; Lite's count is TensorFlow's.
    assert stages["gmacs"].sum() + classifier / 1e9 == pytest.approx(network["gmacs"], rel=0.06)
    assert len(stages) == network["n_stages"]
    for share in (stages["parameters_share"], stages["gmacs_share"]):
        assert share.is_monotonic_increasing
        assert share.iloc[-1] == 1.0
        assert share.iloc[0] > 0


def test_closing_norm_is_counted_with_the_last_stage():
    backbone = load_backbone("densenet121", weights=None)
    own = sum(p.numel() for p in backbone.stages[-1].module.parameters())
    last = describe_backbone("densenet121").iloc[-1]
    assert last["n_parameters"] == own + 2 * 1024


def test_layouts_decide_which_axis_is_counted_as_features():
    assert describe_backbone("swin_t").iloc[-1]["output_shape"] == (7, 7, 768)
    assert describe_backbone("swin_t").iloc[-1]["n_features"] == 768
    assert describe_backbone("vit_b_16").iloc[-1]["output_shape"] == (197, 768)
    assert describe_backbone("vit_b_16").iloc[-1]["n_features"] == 768


def test_every_stage_of_the_table_can_be_asked_for():
    backbone = load_backbone("squeezenet1_0", weights=None)
    table = describe_backbone("squeezenet1_0")
    for index, name in table["name"].items():
        assert backbone.stage_index(name) == backbone.stage_index(int(index)) == index
    assert backbone.stage_index(np.int64(-1)) == len(table) - 1
    with pytest.raises(UnknownStageError, match="describe_backbone"):
        backbone.stage_index("layer4")


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("inception_v3", 40, r"cannot take images of 40 x 40.*Its own size is 299"),
        ("vit_b_16", 384, r"224 x 224 pixels only"),
    ],
)
def test_a_size_that_a_network_cannot_take_is_an_error(name, size, message):
    with pytest.raises(ValueError, match=message):
        describe_backbone(name, image_size=size)


def test_describing_an_unknown_backbone_suggests_a_name():
    with pytest.raises(UnknownBackboneError, match="resnet18"):
        describe_backbone("resnet-18")


@pytest.mark.slow
@pytest.mark.parametrize("name", models.list_models(module=models))
def test_every_network_can_be_described(name):
    table = describe_backbone(name)
    assert (table["gmacs"] > 0).all()
    assert (table["n_parameters"] > 0).all()


def test_changing_a_description_does_not_change_the_next_one():
    table = describe_backbone("squeezenet1_1")
    table.loc[:, "gmacs"] = 0.0
    assert describe_backbone("squeezenet1_1")["gmacs"].sum() > 0


@pytest.mark.parametrize("name", [18, None])
def test_a_name_is_a_string(name):
    with pytest.raises(UnknownBackboneError, match="named by a string"):
        describe_backbone(name)


def test_a_list_holds_stages_and_no_names():
    with pytest.raises(ValueError, match="got 'resnet18' at position 0"):
        describe_backbone(["resnet18"])
