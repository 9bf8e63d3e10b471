"""Which layers "all" are: the rule by itself, and over every network of the catalog."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sktransfer import describe_backbone, list_backbones
from sktransfer._backbones import BackboneReference, InputSpec, architecture, load_backbone
from sktransfer._frozen import LayerOutput, NetworkInfo, all_outputs, pool
from sktransfer._frozen._layers import MAX_ALL_WIDTH, StageInfo

SPEC = InputSpec(32, 32, "bilinear", (0.5,) * 3, (0.5,) * 3)


def info_of(layouts, n_features, *, mean=False, trained=True):
    stages = tuple(
        StageInfo(f"s{index}", layout, int(layout == "NLC")) for index, layout in enumerate(layouts)
    )
    reference = BackboneReference("network", None, 0, "blake2b:0")
    return NetworkInfo(reference, stages, SPEC, n_features, "avg", False, trained, mean)


def maps(*widths_and_sides):
    return [(width, side, side) for width, side in widths_and_sides]


def listed(info, shapes, pooling="avg"):
    """Indices of the stages, and None for the embedding."""
    return [output.stage for output in all_outputs(info, shapes, pooling)]


def test_every_stage_and_then_the_embedding():
    shapes = maps((8, 16), (16, 8), (32, 4))
    outputs = all_outputs(info_of(["NCHW"] * 3, 32), shapes)
    stages = (LayerOutput(0, "avg"), LayerOutput(1, "avg"), LayerOutput(2, "avg"))
    assert outputs == (*stages, LayerOutput(None, None))


def test_the_last_stage_is_left_out_only_where_the_embedding_is_its_mean():
    shapes = maps((8, 16), (32, 4))
    mean = info_of(["NCHW"] * 2, 32, mean=True)
    assert listed(mean, shapes) == [0, None]
    assert listed(mean, shapes, "max") == [0, 1, None]
    vector = info_of(["NCHW", "NC"], 32, mean=True)  # which has no positions to pool
    assert listed(vector, [(8, 16, 16), (32,)], "max") == [0, None]


def test_another_pooling_is_of_the_stages_and_not_of_the_embedding():
    outputs = all_outputs(info_of(["NLC"] * 2, 8), [(5, 8)] * 2, "cls")
    assert [output.pooling for output in outputs] == ["cls", "cls", None]
    with pytest.raises(ValueError, match="needs a class token"):
        all_outputs(info_of(["NCHW"], 8), maps((8, 4)), "cls")
    with pytest.raises(ValueError, match="'flatten' does not go with layer='all'"):
        all_outputs(info_of(["NCHW"], 8), maps((8, 4)), "flatten")


def test_layers_that_were_never_trained_are_left_out():
    info = info_of(["NCHW", "NCHW", "NC"], 32, trained=False)
    assert listed(info, [(8, 16, 16), (16, 8, 8), (32,)]) == [0, 1]


def test_too_wide_a_network_is_thinned_out_evenly_from_its_end():
    transformer = info_of(["NLC"] * 33, 1280)
    found = listed(transformer, [(257, 1280)] * 33)
    assert found == [4, 11, 18, 25, 32, None]
    # 20 stages of 512 columns in two resolutions: every second of each, with its last.
    shapes = maps(*[(512, 8)] * 10, *[(512, 4)] * 10)
    assert listed(info_of(["NCHW"] * 20, 512), shapes) == [*range(1, 20, 2), None]
    # What is left out of the list still counts as the last of its resolution.
    shapes = maps(*[(1024, 8)] * 4, *[(2048, 4)] * 4)
    assert listed(info_of(["NCHW"] * 8, 2048, mean=True), shapes) == [1, 3, 5, None]


def test_the_last_stages_of_resolutions_go_after_all_others_and_the_embedding_never():
    shapes = maps((32, 32), (528, 16), (1056, 8), (2904, 4), (7392, 2))
    regnet = info_of(["NCHW"] * 5, 7392, mean=True)
    assert listed(regnet, shapes) == [1, None]
    assert listed(info_of(["NCHW"], 10_000), maps((10_000, 4))) == [None]
    assert listed(info_of(["NCHW"] * 2, 1, trained=False), maps((9000, 8), (9000, 4))) == [1]


def test_a_neck_is_a_mean_if_it_computes_one():
    backbone = load_backbone("squeezenet1_1", weights=None, seed=0)
    assert NetworkInfo.of(backbone).embedding_is_mean
    state = torch.random.get_rng_state()
    for module in (nn.AdaptiveMaxPool2d(1), nn.ReLU(), nn.BatchNorm2d(512)):
        neck = nn.Sequential(module, nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
        neck.kind, neck.post = "avg", nn.Identity()
        other = type(backbone)(**{**vars(backbone), "neck": neck.eval()})
        assert not NetworkInfo.of(other).embedding_is_mean
    assert torch.equal(state, torch.random.get_rng_state())


def _checked(name, outputs, info, table):
    """Assert what holds for all layers of any network of the catalog."""
    axes = [0 if layout in ("NCHW", "NC") else -1 for layout in table["layout"]]
    shapes = list(table["output_shape"])
    widths = [shape[axis] for shape, axis in zip(shapes, axes, strict=True)]
    kept = [output.stage for output in outputs]
    total = sum(info.n_features if stage is None else widths[stage] for stage in kept)
    assert total <= MAX_ALL_WIDTH, name
    assert kept[-1] is None, name
    assert kept[:-1] == sorted(set(kept[:-1])), name
    ends = {np.prod(s) // w: i for i, (s, w) in enumerate(zip(shapes, widths, strict=True))}
    last = set(ends.values()) - ({len(widths) - 1} if info.embedding_is_mean else set())
    assert name == "regnet_y_128gf" or last <= set(kept), name
    whole = sum(widths) + info.n_features - widths[-1] * info.embedding_is_mean
    assert len(kept) == len(widths) + 1 - info.embedding_is_mean or whole > MAX_ALL_WIDTH, name


FAMILIES = [
    *("alexnet", "convnext_tiny", "densenet161", "efficientnet_b0", "efficientnet_lite0"),
    *("efficientnet_v2_s", "googlenet", "inception_v3", "maxvit_t", "mnasnet0_5"),
    *("mobilenet_v2", "mobilenet_v3_small", "regnet_y_128gf", "resnet50", "shufflenet_v2_x0_5"),
    *("squeezenet1_1", "swin_t", "vgg16", "vit_b_32"),
]


@pytest.mark.parametrize("name", FAMILIES)
def test_all_layers_of_every_family_are_bounded_and_end_in_the_embedding(name):
    info, table = NetworkInfo.of(architecture(name)), describe_backbone(name)
    _checked(name, all_outputs(info, list(table["output_shape"])), info, table)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(list_backbones()["name"]))
def test_all_layers_of_every_network_have_no_block_twice(name):
    backbone = load_backbone(name, weights=None, seed=0)
    info, table = NetworkInfo.of(backbone), describe_backbone(name)
    outputs = all_outputs(info, list(table["output_shape"]))
    _checked(name, outputs, info, table)
    side = info.input_spec.crop_size
    x = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for stage in backbone.stages:
            x = stage.module(x)
        embedding, last = backbone.neck(x), pool(x, "avg", stage.layout, stage.n_prefix_tokens)
    same = embedding.shape == last.shape and torch.allclose(embedding, last, rtol=1e-3, atol=1e-5)
    assert same == info.embedding_is_mean
