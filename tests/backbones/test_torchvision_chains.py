"""Torchvision's networks as chains, against the networks themselves."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision import models

from sktransfer._backbones import _torchvision

# The smallest network of each family, and a size of images that it can take.
ONE_PER_FAMILY = {
    "alexnet": 64,
    "convnext_tiny": 64,
    "densenet121": 64,
    "efficientnet_b0": 64,
    "efficientnet_v2_s": 64,
    "googlenet": 64,
    "inception_v3": 96,
    "maxvit_t": 224,
    "mnasnet0_5": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "regnet_y_400mf": 64,
    "resnet18": 64,
    "shufflenet_v2_x0_5": 64,
    "squeezenet1_1": 64,
    "swin_t": 64,
    "swin_v2_t": 64,
    "vgg11_bn": 64,
    "vit_b_32": 224,
}
ALL = models.list_models(module=models)


def build_original(name: str, seed: int) -> nn.Module:
    """The network as torchvision builds it for its default weights, initialized from a seed."""
    options: dict = {}
    if name in ("googlenet", "inception_v3"):
        options = {"transform_input": True, "aux_logits": False, "init_weights": True}
    if name.startswith("vit_"):
        options = {"image_size": models.get_model_weights(name).DEFAULT.meta["min_size"][0]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return models.get_model(name, weights=None, **options).eval()


@torch.no_grad()
def perturb(module: nn.Module) -> None:
    """Move every tensor by something that depends on its shape alone.

    Some layers start out as zeros or nearly so (ViT's head, ConvNeXt's scales), and everything is
    equal to everything behind those. Big ones are random enough, and slow to move.
    """
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.is_floating_point() and tensor.numel() < 10**7:
            wave = torch.sin(torch.arange(tensor.numel(), dtype=torch.float32))
            tensor.add_(wave.reshape(tensor.shape), alpha=0.02)


def module_at(original: nn.Module, stage_name: str) -> nn.Module:
    """The one module with this path, or with a path that ends in it."""
    modules = dict(original.named_modules())
    if stage_name in modules:
        return modules[stage_name]
    (found,) = (module for path, module in modules.items() if path.endswith(f".{stage_name}"))
    return found


def last_layer(original: nn.Module) -> nn.Module:
    return [m for m in original.modules() if isinstance(m, nn.Linear)][-1]


def check_chain(name: str, side: int, n: int = 2) -> None:
    original = build_original(name, seed=3)
    backbone = _torchvision.load(name, weights=None, seed=3)
    perturb(original)
    perturb(backbone.modules())
    # Nothing is lost (but the auxiliary heads) and nothing is there twice.
    count = sum(p.numel() for p in original.parameters())
    assert sum(p.numel() for p in backbone.modules().parameters()) == count

    seen: dict[str, torch.Tensor] = {}
    handles = [
        module_at(original, stage_name).register_forward_hook(
            lambda _, __, output, key=stage_name: seen.__setitem__(key, output.clone())
        )
        for stage_name in backbone.stage_names
    ]
    if not backbone.classifier_takes_map:
        handles.append(
            last_layer(original).register_forward_pre_hook(
                lambda _, inputs: seen.__setitem__("embedding", inputs[0].clone())
            )
        )
    x = torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = original(x)
        assert torch.isfinite(expected).all()
        assert expected.std() > 0
        assert torch.equal(backbone.forward(x), expected)

        y = x
        for stage in backbone.stages:
            before = y.clone()
            output = stage.module(y)
            assert torch.equal(y, before), f"{stage.name} writes into its input"
            assert torch.equal(output, seen[stage.name]), stage.name
            y = output
        embedding = backbone.neck(y)
    if backbone.classifier_takes_map:
        seen["embedding"] = y.mean((2, 3))
        assert torch.allclose(embedding, seen["embedding"], atol=1e-6)
    else:
        assert torch.equal(embedding, seen["embedding"])
    assert embedding.shape == (n, backbone.n_features)
    assert torch.equal(backbone.embed(x), embedding)


@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_chain_equals_the_original_bit_for_bit(name):
    check_chain(name, ONE_PER_FAMILY[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ALL if name not in ONE_PER_FAMILY])
def test_chain_of_every_other_network_equals_the_original(name):
    spec = _torchvision.architecture(name).input_spec
    fixed = name.startswith(("vit_", "maxvit"))
    side = spec.crop_size if fixed else 64
    check_chain(name, side, n=1 if side > 224 else 2)


def test_every_network_has_valid_stages():
    assert list(_torchvision.NAMES) == ALL
    assert len(ALL) >= 80
    for name in ALL:
        backbone = _torchvision.architecture(name)
        names = backbone.stage_names
        assert len(set(names)) == len(names), name
        for stage in backbone.stages:
            # freeze_depth=-1 must always leave something to train.
            assert any(True for _ in stage.module.parameters()), (name, stage.name)
        for part in backbone.modules().values():
            assert not any(module.training for module in part.modules())
            assert not any(p.requires_grad for p in part.parameters())
        transform = models.get_model_weights(name).DEFAULT.transforms()
        spec = backbone.input_spec
        assert [spec.crop_size] == transform.crop_size
        assert [spec.resize_size] == transform.resize_size
        assert spec.interpolation == transform.interpolation.value
        assert (spec.mean, spec.std) == (tuple(transform.mean), tuple(transform.std))


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1"),
        ("vgg16", "IMAGENET1K_FEATURES"),
        ("resnet18", "gone/weights.pth"),
        ("resnet18", None),
    ],
)
def test_architecture_is_built_as_its_weights_want_without_them(name, weights):
    backbone = _torchvision.architecture(name, weights)
    options = models.get_model_weights(name)
    member = options[weights] if weights in options.__members__ else options.DEFAULT
    assert [backbone.input_spec.crop_size] == member.transforms().crop_size
    assert backbone.embedding_trained == (member.meta["categories"] is not None)
    tensors = backbone.modules().state_dict().values()
    assert all(tensor.is_meta for tensor in tensors)


def test_stage_names_are_those_of_the_field():
    expected = {
        "resnet18": ["maxpool", "layer1", "layer2", "layer3", "layer4"],
        "densenet121": ["pool0", "denseblock1", "transition1", "denseblock2"],
        "googlenet": ["maxpool1", "conv2", "maxpool2", "inception3a", "inception3b", "inception4a"],
        "inception_v3": ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "maxpool1", "Conv2d_3b_1x1", "maxpool2"],
        "regnet_x_400mf": ["stem", "block1", "block2", "block3", "block4"],
        "vit_b_32": ["encoder.dropout", "encoder_layer_0", "encoder_layer_1"],
        "squeezenet1_0": ["features.2", "features.3", "features.4", "features.6"],
        "alexnet": ["features.2", "features.5", "features.7", "features.9", "features.12"],
    }
    for name, first in expected.items():
        assert _torchvision.architecture(name).stage_names[: len(first)] == first
    assert _torchvision.architecture("vgg19").stage_names[-3:] == [
        "features.36",
        "classifier.1",
        "classifier.4",
    ]
    assert "Mixed_6e" in _torchvision.architecture("inception_v3").stage_names
    assert _torchvision.architecture("mobilenet_v2").stage_names[12] == "features.12"


def test_stages_state_their_layout():
    def layouts(name):
        return [stage.layout for stage in _torchvision.architecture(name).stages]

    assert set(layouts("swin_t")) == {"NHWC"}
    assert set(layouts("vit_b_16")) == {"NLC"}
    assert layouts("vgg16")[-3:] == ["NCHW", "NC", "NC"]
    assert layouts("mobilenet_v3_large")[-2:] == ["NCHW", "NC"]
    vit = _torchvision.architecture("vit_b_16")
    assert {stage.n_prefix_tokens for stage in vit.stages} == {1}
    assert vit.neck.kind == "cls"


def test_truncated_backbone_keeps_the_first_stages_only():
    backbone = _torchvision.load("resnet18", weights=None)
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        full = x
        for stage in backbone.stages[:3]:
            full = stage.module(full)
        short = backbone.truncated(3)
        y = x
        for stage in short.stages:
            y = stage.module(y)
    assert torch.equal(y, full)
    assert short.stage_names == ["maxpool", "layer1", "layer2"]
    assert (short.neck, short.classifier) == (None, None)
    with pytest.raises(RuntimeError, match="truncated"):
        short.embed(x)


def test_dropout_of_the_classifier_leaves_a_held_embedding_alone():
    # torchvision's EfficientNet drops in place.
    backbone = _torchvision.load("efficientnet_b0", weights=None)
    embedding = torch.ones(2, backbone.n_features)
    backbone.classifier.train()(embedding)
    assert torch.equal(embedding, torch.ones_like(embedding))


@pytest.mark.parametrize("name", ["vit_b_32", "maxvit_t"])
def test_fixed_grids_say_which_size_they_take(name):
    first = _torchvision.load(name, weights=None).stages[0].module
    with pytest.raises(ValueError, match=r"224 x 224 pixels only.*got 192 x 224"):
        first(torch.zeros(1, 3, 192, 224))
