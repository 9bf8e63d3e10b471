"""Networks with random weights can be computed with: none explodes, none vanishes."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from sktransfer import list_backbones
from sktransfer._backbones import load_backbone

pytest.importorskip("torchvision")

# One or two of each family that has BatchNorm, small; the side of the images where it may be small.
SMALL = [
    *(("resnet18", 64), ("mobilenet_v2", 64), ("mobilenet_v3_small", 64), ("efficientnet_b0", 64)),
    *(("mnasnet0_5", 64), ("shufflenet_v2_x0_5", 64), ("googlenet", 64), ("inception_v3", 96)),
    *(("regnet_x_400mf", 64), ("squeezenet1_1", 64), ("efficientnet_lite0", 64)),
]
# Of each kind of timm's networks: with other norms than BatchNorm, and without any.
OF_TIMM = [
    *("resnetv2_50", "nf_resnet26", "regnetz_b16", "mobilenetv4_conv_small", "ghostnet_100"),
    *("mixer_s32_224", "vit_tiny_patch16_224", "convnext_atto", "repvgg_a0", "edgenext_xx_small"),
]


def images(spec, side):
    """Four parts of two photographs, normalized as the network expects."""
    rows = []
    for photo in load_sample_images().images:
        for box in ((0, 0, 300, 300), (200, 100, 427, 427)):
            part = Image.fromarray(photo).crop(box).resize((side, side))
            rows.append((np.asarray(part) / 255 - spec.mean) / spec.std)
    return torch.tensor(np.stack(rows), dtype=torch.float32).permute(0, 3, 1, 2).contiguous()


def check(name, side=None, seed=0):
    backbone = load_backbone(name, weights=None, seed=seed)
    side = side or backbone.input_spec.crop_size
    noise = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(1))
    for x in (images(backbone.input_spec, side), noise):
        with torch.inference_mode():
            for stage in backbone.stages:
                x = stage.module(x)
                spread = float(x.std())
                assert 1e-3 < spread < 1e3, (name, stage.name, spread)
            embedding = backbone.neck(x)
        assert 1e-3 < float(embedding.std()) < 1e3, name
        apart = (embedding - embedding.mean(0)).norm() / embedding.norm()
        assert apart > 1e-3, name  # each image has an embedding of its own


@pytest.mark.parametrize(("name", "side"), SMALL)
def test_random_networks_neither_explode_nor_vanish(name, side):
    check(name, side)


@pytest.mark.slow
def test_no_random_network_of_the_catalog_explodes_or_vanishes():
    for name in list_backbones()["name"]:
        # Networks that take one size take it; others are quicker at a smaller one.
        check(name, None if name.startswith(("vit", "maxvit")) else 96)


@pytest.mark.slow
def test_no_random_network_of_timm_explodes_or_vanishes():
    pytest.importorskip("timm")
    for name in OF_TIMM:
        check(f"timm/{name}")


def test_hidden_linear_layers_keep_the_directions_that_torchvision_draws():
    from torchvision import models

    torch.manual_seed(3)
    theirs = models.mobilenet_v3_small(weights=None).classifier[0].weight
    ours = load_backbone("mobilenet_v3_small", weights=None, seed=3).stages[-1].module[2].weight
    exponent = torch.log2(ours.std() / theirs.std()).round()
    assert exponent > 0
    assert torch.equal(theirs * 2**exponent, ours)


def test_other_seeds_do_no_worse():
    for seed in (1, 2, 3):
        check("mobilenet_v3_small", 64, seed)


def test_the_weights_of_a_random_network_are_those_that_torchvision_draws():
    from torchvision import models

    torch.manual_seed(3)
    theirs = models.resnet18(weights=None)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    ours = load_backbone("resnet18", weights=None, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(ours.stages[1].module[0].conv1.weight, theirs.layer1[0].conv1.weight)
    assert torch.equal(ours.stages[-1].module[1].conv2.weight, theirs.layer4[1].conv2.weight)


def test_measured_norms_are_powers_of_two_and_part_of_the_digest():
    backbone = load_backbone("resnet18", weights=None, seed=0)
    norms = [m for m in backbone.modules().modules() if isinstance(m, torch.nn.BatchNorm2d)]
    variances = torch.stack([norm.running_var[0] for norm in norms])
    assert len(variances.unique()) > 1
    exponents = torch.log2(variances) / 2
    assert torch.equal(exponents, exponents.round())
    again = load_backbone("resnet18", weights=None, seed=0)
    assert again.reference == backbone.reference
    drawn = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert load_backbone("resnet18", weights=None).reference == backbone.reference
    finally:
        torch.set_default_dtype(drawn)


def test_the_digest_does_not_depend_on_the_number_of_threads():
    n_threads = torch.get_num_threads()
    digests = set()
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            digests.add(load_backbone("mobilenet_v2", weights=None, seed=1).reference.digest)
    finally:
        torch.set_num_threads(n_threads)
    assert len(digests) == 1
