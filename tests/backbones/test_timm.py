"""Networks of timm as chains: the same numbers, whatever their family."""

from __future__ import annotations

import hashlib
import math
import sys
from unittest import mock

import pytest
import safetensors.torch
import torch
from torch import nn

from sktransfer._backbones import _timm, load_backbone
from sktransfer._backbones._timm_stages import cut
from sktransfer.exceptions import (
    MissingDependencyError,
    UnknownBackboneError,
    WeightsMismatchError,
    WeightsNotFoundError,
)

timm = pytest.importorskip("timm")
hub_errors = pytest.importorskip("huggingface_hub.errors")

# Small ones of families that people use, with what must come of them:
# name -> stages, layout of the last one, prefix tokens, kind of the neck
FAMILIES = {
    "test_resnet": (5, "NCHW", 0, "avg"),
    "test_efficientnet": (7, "NCHW", 0, "avg"),
    "mobilenetv3_small_050": (7, "NCHW", 0, "avg"),
    "test_convnext": (5, "NCHW", 0, "avg"),
    "test_byobnet": (5, "NCHW", 0, "avg"),
    "test_nfnet": (6, "NCHW", 0, "avg"),
    "test_mambaout": (5, "NHWC", 0, "none"),
    "test_vit": (7, "NLC", 1, "cls"),
    "test_vit2": (9, "NLC", 1, "avg"),
    "test_vit3": (10, "NLC", 1, "none"),
    "vit_tiny_patch16_dinov3_qkvb": (1, "NLC", 5, "avg"),
}
# One more of nearly every other family.
OTHERS = """
densenet121 gmlp_ti16_224 swin_tiny_patch4_window7_224 hrnet_w18_small regnetx_002
resnet10t resnetv2_18 test_vit4 test_vit_relpos cspnext_tiny edgenext_xx_small
efficientformerv2_s0 efficientvit_b0 fastvit_t8 focalnet_tiny_srf gcvit_xxtiny
ghostnet_050 hgnetv2_b0 inception_v3 lcnetv2_small levit_128s maxvit_rmlp_pico_rw_256
mobilevit_xxs mvitv2_tiny poolformer_s12 pit_ti_224 pvt_v2_b0 repghostnet_050 rexnet_100
starnet_s050 tiny_vit_5m_224 twins_svt_small visformer_tiny vovnet39a cait_xxs24_224
coat_tiny crossvit_tiny_240 deit_tiny_patch16_224 deit_tiny_distilled_patch16_224 dla46x_c
dpn48b ese_vovnet19b_dw hiera_tiny_224 selecsls42 skresnet18 legacy_xception
legacy_seresnet18 res2next50 resnest14d tresnet_m volo_d1_224 xcit_nano_12_p16_224
nf_ecaresnet26 mobileone_s1
""".split()  # noqa: SIM905


def built(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # As ours are: parameters with gradients may take another kernel in torch.
        return timm.create_model(name, pretrained=False).eval().requires_grad_(False)


def check_chain(name: str, *, scores: bool = True):
    theirs = built(name)
    ours = _timm.load(f"timm/{name}", weights=None, seed=0)
    side = ours.input_spec.crop_size
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        embedding = theirs.forward_head(theirs.forward_features(x.clone()), pre_logits=True)
        assert torch.equal(ours.embed(x.clone()), embedding)
        assert embedding.shape == (2, ours.n_features)
        if scores:
            assert torch.equal(ours.forward(x.clone()), theirs(x.clone()))
        for stage in ours.stages:
            before = x.clone()
            y = stage.module(x)
            assert torch.equal(x, before), stage.name
            x = y
    return ours


@pytest.mark.parametrize("name", FAMILIES)
def test_chain_equals_the_network(name):
    if name not in timm.list_models():
        pytest.skip(f"this timm has no {name}")
    ours = check_chain(name)
    n_stages, layout, n_prefix_tokens, kind = FAMILIES[name]
    last = ours.stages[-1]
    assert (ours.n_stages, last.layout, last.n_prefix_tokens, ours.neck.kind) == (
        n_stages,
        layout,
        n_prefix_tokens,
        kind,
    )
    for part in ours.modules().values():
        assert not any(module.training for module in part.modules())
        assert not any(p.requires_grad for p in part.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_chain_equals_the_network_in_other_families(name):
    if name not in timm.list_models():
        pytest.skip(f"this timm has no {name}")
    check_chain(name, scores=load_backbone(f"timm/{name}", weights=None).classifier is not None)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "mobilenetv3_small_050"])
def test_every_tensor_is_in_the_chain_once(name):
    ours = load_backbone(f"timm/{name}", weights=None)
    held = [p.data_ptr() for p in ours.modules().parameters()]
    assert len(held) == len(set(held))
    assert sum(p.numel() for p in ours.modules().parameters()) == sum(
        p.numel() for p in built(name).parameters()
    )
    # Truncation lets go of the rest.
    first = ours.truncated(1).modules()
    largest = sum(p.numel() for p in ours.stages[0].module.parameters())
    assert (
        sum(p.numel() for p in first.parameters())
        == largest
        < 0.3 * sum(p.numel() for p in ours.modules().parameters())
    )


def test_a_network_that_fits_no_pattern_is_one_stage():
    class Odd(nn.Module):
        """Its children are not run in their order."""

        def __init__(self):
            super().__init__()
            self.second = nn.Conv2d(3, 4, 3)
            self.first = nn.Conv2d(3, 3, 3)
            self.fc = nn.Linear(4, 2)

        def get_classifier(self):
            return self.fc

        def forward_features(self, x):
            return self.second(self.first(x)).relu()

        def forward_head(self, x, pre_logits=False):
            x = x.mean((2, 3))
            return x if pre_logits else self.fc(x)

        def forward(self, x):
            return self.forward_head(self.forward_features(x))

    odd = Odd().eval()
    chain = cut(odd, 8)
    assert [stage.name for stage in chain.stages] == ["forward_features"]
    x = torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        y = chain.stages[0].module(x)
        assert torch.equal(chain.classifier(chain.neck(y)), odd(x))


@pytest.mark.parametrize(
    "name", ["resnet18", "convnext_tiny", "vit_base_patch16_siglip_224", "vit_tiny_patch16_224"]
)
def test_input_spec_is_timms_evaluation_transform(name):
    spec = _timm.input_spec(built_cheaply(name))
    config = timm.data.resolve_model_data_config(built_cheaply(name))
    assert (spec.crop_size, spec.crop_size) == config["input_size"][1:]
    assert spec.resize_size == math.floor(spec.crop_size / config["crop_pct"])
    assert (spec.mean, spec.std) == (tuple(config["mean"]), tuple(config["std"]))
    assert spec.interpolation == config["interpolation"]
    assert (spec.resize_mode == "squash") == (config["crop_mode"] == "squash")


def built_cheaply(name: str) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, pretrained=False)


# --- weights -----------------------------------------------------------------------------------


def test_a_file_must_fit_the_network(tmp_path):
    donor = built("test_vit")
    with torch.no_grad():
        for parameter in donor.parameters():
            parameter.add_(0.01)
    path = tmp_path / "w.pth"
    torch.save({"state_dict": donor.state_dict()}, path)
    ours = load_backbone("timm/test_vit", weights=path)
    x = torch.randn(1, 3, 160, 160)
    with torch.inference_mode():
        assert torch.equal(ours.forward(x), donor(x))
    assert ours.reference.digest.startswith("sha256:")
    assert ours.reference.weights == path.name
    with pytest.raises(WeightsMismatchError, match="do not fit timm/test_resnet"):
        load_backbone("timm/test_resnet", weights=path)


def test_default_weights_are_found_in_the_directory(tmp_path, monkeypatch):
    donor = built("test_vit")
    monkeypatch.setenv("SKTRANSFER_WEIGHTS_DIR", str(tmp_path))
    assert _timm.file_here("timm/test_vit") is None
    torch.save(donor.state_dict(), tmp_path / "test_vit.r160_in1k.pth")
    assert _timm.file_here("timm/test_vit") is not None
    for name in ("timm/test_vit", "timm/test_vit.r160_in1k"):
        ours = load_backbone(name)
        assert ours.reference.name == name
        assert ours.reference.weights == "default"


def hub_cache(folder, repository: str, filename: str, content: bytes, etag: str):
    """Lay out a file as the hub's cache does."""
    repo = folder / f"models--{repository.replace('/', '--')}"
    for part in ("blobs", "refs", "snapshots/0"):
        (repo / part).mkdir(parents=True)
    (repo / "refs" / "main").write_text("0")
    (repo / "blobs" / etag).write_bytes(content)
    (repo / "snapshots" / "0" / filename).symlink_to(repo / "blobs" / etag)


def test_default_weights_are_found_in_the_hubs_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    content = safetensors.torch.save(built("test_vit").state_dict())
    etag = hashlib.sha256(content).hexdigest()
    hub_cache(tmp_path, "timm/test_vit.r160_in1k", "model.safetensors", content, etag)
    assert load_backbone("timm/test_vit").reference.digest == f"sha256:{etag}"
    blob = tmp_path / "models--timm--test_vit.r160_in1k" / "blobs" / etag
    blob.write_bytes(content[:-4] + b"\0\0\0\1")
    with pytest.raises(WeightsMismatchError, match="is damaged"):
        load_backbone("timm/test_vit")


def test_download_from_the_hub(tmp_path, monkeypatch):
    asked = []

    def download(repository, filename):
        asked.append((repository, filename))
        if filename == "model.safetensors":
            # Before huggingface_hub 1.0 there was but one class for files missing there and here.
            error = getattr(hub_errors, "RemoteEntryNotFoundError", hub_errors.EntryNotFoundError)
            raise error("no such file there", response=mock.MagicMock())
        path = tmp_path / filename
        torch.save(built("test_vit").state_dict(), path)
        return str(path)

    monkeypatch.delenv("SKTRANSFER_OFFLINE")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert load_backbone("timm/test_vit").n_stages == 7
    assert asked == [
        ("timm/test_vit.r160_in1k", "model.safetensors"),
        ("timm/test_vit.r160_in1k", "pytorch_model.bin"),
    ]


def test_an_unreachable_hub_is_an_error(monkeypatch):
    monkeypatch.delenv("SKTRANSFER_OFFLINE")
    # The hub's own switch, whose variable is read only once: no test goes to the network.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsNotFoundError, match="hub cannot be reached"):
        load_backbone("timm/test_vit")


def test_default_weights_offline_say_what_to_do():
    with pytest.raises(WeightsNotFoundError) as caught:
        load_backbone("timm/resnet18")
    for part in ("resnet18", "model.safetensors", "SKTRANSFER_WEIGHTS_DIR", "SKTRANSFER_OFFLINE"):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["timm/no_such_network", "timm/", "timm/hf-hub:somebody/model"])
def test_an_unknown_name_is_an_error(name):
    with pytest.raises(UnknownBackboneError, match="has no network"):
        load_backbone(name, weights=None)
    with pytest.raises(UnknownBackboneError, match="has no network"):
        load_backbone(name)


def test_another_tag_is_another_name():
    with pytest.raises(WeightsMismatchError, match="another tag is another name"):
        load_backbone("timm/test_vit", weights="a1_in1k")


def test_missing_timm_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingDependencyError, match=r"pip install \"sktransfer\[timm\]\""):
        load_backbone("timm/resnet18")


def test_random_weights_come_from_the_seed_alone():
    state = torch.get_rng_state()
    first = load_backbone("timm/test_vit", weights=None, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)
    again = load_backbone("timm/test_vit", weights=None, seed=1)
    other = load_backbone("timm/test_vit", weights=None, seed=2)
    assert first.reference == again.reference
    assert first.reference.digest != other.reference.digest


def test_catalog_rows_are_timms_networks():
    names = _timm.names()
    assert len(names) > 1000
    assert "timm/resnet18" in names
    rows = {row["name"]: row for row in _timm.catalog_rows()}
    assert list(rows) == names
    assert rows["timm/resnet18"]["family"] == "resnet"
    assert rows["timm/resnet18"]["image_size"] == 224
    assert rows["timm/resnet18"]["default_weights"].startswith("resnet18.")
