"""Which engine runs: what is asked for, there, and agrees; with a stand-in for OpenVINO."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sktransfer._backbones import load_backbone
from sktransfer._frozen import (
    FrozenExtractor,
    FrozenNetwork,
    LayerOutput,
    LayerOutputs,
    NetworkInfo,
    NetworkSource,
    _engines,
    _extractor,
    _network,
    float32_products,
    resolve_engine,
)
from sktransfer._frozen._engines import recall
from sktransfer.exceptions import MissingDependencyError

OUTPUTS = (LayerOutput(1, "avg"), LayerOutput(2, "max"))
SIDE = 32


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("squeezenet1_1", weights=None)


@pytest.fixture
def images():
    return torch.randn(5, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))


class StandIn:
    """What OpenVINO would be, in torch, and a little off."""

    name = "openvino"
    made = 0
    off = 0.0
    fails: Exception | None = None

    def __init__(self, module, shape, precision):
        type(self).made += 1
        if self.fails is not None:
            raise self.fails
        self.module = module

    def __call__(self, batch):
        with torch.inference_mode():
            return [part * (1 + self.off) for part in self.module(batch)]


@pytest.fixture
def stand_in(monkeypatch):
    class Fresh(StandIn):
        pass

    monkeypatch.setattr(_network, "OpenVinoEngine", Fresh)
    return Fresh


@pytest.fixture
def installed(monkeypatch):
    def say(yes):
        monkeypatch.setattr(_engines, "_is_installed", lambda module: yes)

    return say


# --- resolve_engine ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "precision", "device", "there", "expected"),
    [
        ("torch", "float32", "cpu", True, "torch"),
        ("torch", "float16", "cuda:1", False, "torch"),
        ("auto", "float32", "cpu", True, "auto"),
        ("auto", "bfloat16", "cpu", True, "auto"),
        ("auto", "float64", "cpu", True, "torch"),
        ("auto", "float16", "cpu", True, "torch"),
        ("auto", "float32", "cpu", False, "torch"),
        ("auto", "float32", "cuda", True, "torch"),
        ("auto", "bfloat16", "mps", True, "torch"),
        ("openvino", "float32", "cpu", True, "openvino"),
        ("openvino", "bfloat16", "cpu", True, "openvino"),
    ],
)
def test_resolved_from_what_is_possible(installed, engine, precision, device, there, expected):
    installed(there)
    assert resolve_engine(engine, precision, device) == expected


@pytest.mark.parametrize(
    ("precision", "device", "message"),
    [
        ("float64", "cpu", r"precision 'float32' or 'bfloat16'; got 'float64'.*engine='auto'"),
        ("float32", "cuda", r"runs on device='cpu'; got 'cuda'.*engine='torch'"),
    ],
)
def test_an_impossible_engine_is_an_error(installed, precision, device, message):
    installed(True)
    with pytest.raises(ValueError, match=message):
        resolve_engine("openvino", precision, device)


def test_a_missing_package_names_its_extra(installed):
    installed(False)
    with pytest.raises(MissingDependencyError, match=r"sktransfer\[fast\]"):
        resolve_engine("openvino", "float32", "cpu")


def test_an_unknown_engine_lists_those_there_are():
    with pytest.raises(ValueError, match="'auto', 'torch', 'openvino'; got 'onnx'"):
        resolve_engine("onnx", "float32", "cpu")


# --- resolving ------------------------------------------------------------------------------------


def test_auto_takes_the_engine_that_agrees(backbone, images, stand_in):
    stand_in.off = 5e-6
    network = FrozenNetwork(backbone, 3, engine="auto")
    assert network.engine_for(OUTPUTS, SIDE) == "openvino"
    plain = FrozenNetwork(backbone, 3).run(images, OUTPUTS)
    for part, right in zip(network.run(images, OUTPUTS), plain, strict=True):
        torch.testing.assert_close(part, right * (1 + 5e-6))
        assert not torch.equal(part, right)


@pytest.mark.parametrize(
    ("precision", "off"),
    [("float32", 2e-5), ("float32", float("nan")), ("float32", float("inf")), ("bfloat16", 4e-2)],
)
def test_auto_falls_back_for_good_when_numbers_differ(backbone, images, stand_in, precision, off):
    stand_in.off = off
    network = FrozenNetwork(backbone, 3, precision=precision, engine="auto")
    assert network.engine_for(OUTPUTS, SIDE) == "torch"
    plain = FrozenNetwork(backbone, 3, precision=precision).run(images, OUTPUTS)
    for part, right in zip(network.run(images, OUTPUTS), plain, strict=True):
        assert torch.equal(part, right)
    assert stand_in.made == 1


def test_a_wrong_shape_is_a_disagreement(backbone, stand_in, monkeypatch):
    monkeypatch.setattr(
        stand_in, "__call__", lambda self, x: [part[:, 1:] for part in self.module(x)]
    )
    assert FrozenNetwork(backbone, 3, engine="auto").engine_for(OUTPUTS, SIDE) == "torch"


def test_auto_falls_back_silently_when_conversion_fails(backbone, images, stand_in, capfd):
    stand_in.fails = RuntimeError("no such operation: aten::frobnicate")
    network = FrozenNetwork(backbone, 3, engine="auto")
    plain = FrozenNetwork(backbone, 3).run(images, OUTPUTS)
    assert torch.equal(network.run(images, OUTPUTS)[1], plain[1])
    assert network.engine_for(OUTPUTS, SIDE) == "torch"
    assert capfd.readouterr() == ("", "")


def test_an_explicit_engine_that_cannot_says_why(backbone, images, stand_in):
    network = FrozenNetwork(backbone, 3, engine="openvino")
    stand_in.fails = RuntimeError("no such operation: aten::frobnicate")
    message = r"cannot run squeezenet1_1 on images of 32 x 32 pixels: .*frobnicate.*engine='auto'"
    with pytest.raises(ValueError, match=message):
        network.run(images, OUTPUTS)
    stand_in.fails, stand_in.off = None, 1e-3
    with pytest.raises(ValueError, match=r"1\.0e-03 away from torch's, more than 1e-05"):
        network.engine_for(OUTPUTS, SIDE)


def test_an_explicit_engine_that_cannot_be_imported(backbone, stand_in):
    stand_in.fails = MissingDependencyError("openvino")
    with pytest.raises(MissingDependencyError):
        FrozenNetwork(backbone, 3, engine="openvino").engine_for(OUTPUTS, SIDE)


def test_resolved_once_per_outputs_and_side(backbone, images, stand_in):
    network = FrozenNetwork(backbone, 3, engine="auto")
    for _ in range(3):
        network.run(images, OUTPUTS)
    assert stand_in.made == 1
    network.run(images, OUTPUTS[:1])
    network.run(torch.zeros(1, 3, 48, 48), OUTPUTS)
    assert stand_in.made == 3


def test_widths_convert_nothing(backbone, stand_in):
    network = FrozenNetwork(backbone, 3, precision="bfloat16", engine="openvino")
    assert network.widths(OUTPUTS, SIDE) == FrozenNetwork(backbone, 3).widths(OUTPUTS, SIDE)
    assert stand_in.made == 0


def test_engines_of_many_image_sizes_are_bounded(backbone, stand_in):
    network = FrozenNetwork(backbone, 2, engine="auto")
    alone = network.n_bytes
    sizes = set()
    for side in range(20, 40):
        network.run(torch.zeros(1, 3, side, side), OUTPUTS[:1])
        sizes.add(network.n_bytes)
    assert alone < min(sizes)
    copied = alone * _network._COPIES + _network._KERNELS
    assert max(sizes) == network.n_bytes == alone + copied * _network._MAX_ENGINES


def test_several_threads_resolve_once(backbone, images, stand_in):
    network = FrozenNetwork(backbone, 3, engine="auto")
    together = threading.Barrier(4)

    def work(_):
        together.wait(60)
        return network.run(images, OUTPUTS)

    with ThreadPoolExecutor(4) as executor:
        results = list(executor.map(work, range(4)))
    assert stand_in.made == 1
    assert all(torch.equal(result[0], results[0][0]) for result in results)


def test_no_more_stages_than_the_deepest_output_needs(backbone, stand_in):
    network = FrozenNetwork(backbone, backbone.n_stages + 1, engine="auto")
    held = (network.info, network.stages, network.neck)
    middle, end = LayerOutputs(*held, OUTPUTS), LayerOutputs(*held, (LayerOutput(None, None),))
    assert (len(middle.stages), len(middle.neck)) == (3, 0)
    assert (len(end.stages), len(end.neck)) == (backbone.n_stages, 2)


# --- what is known without the network -----------------------------------------------------------


def test_what_was_resolved_is_known_without_the_network(backbone, stand_in, monkeypatch):
    asked = (backbone.reference, "float32", OUTPUTS, SIDE)
    assert recall(*asked) is None
    FrozenNetwork(backbone, 3, engine="auto").engine_for(OUTPUTS, SIDE)
    assert recall(*asked) == "openvino"
    monkeypatch.setattr(_engines, "_resolved", {})  # as in another process
    assert recall(*asked) == "openvino"
    for other in (
        (replace(backbone.reference, digest="blake2b:0"), "float32", OUTPUTS, SIDE),
        (backbone.reference, "bfloat16", OUTPUTS, SIDE),
        (backbone.reference, "float32", OUTPUTS[:1], SIDE),
        (backbone.reference, "float32", OUTPUTS, SIDE + 1),
    ):
        assert recall(*other) is None
    monkeypatch.setattr(_engines, "circumstances", lambda: ("another openvino",))
    assert recall(*asked) is None


def extractor(backbone, **settings):
    """Bring images to two layers of a network."""
    source = NetworkSource(("given",), lambda: backbone)
    preprocessing = SimpleNamespace(fingerprint="p", size=SIDE)
    dtypes = (np.dtype(np.float32),) * 2
    info = NetworkInfo.of(backbone)
    return FrozenExtractor(source, info, OUTPUTS, preprocessing, dtypes=dtypes, **settings)


def test_an_engine_asked_for_by_name_needs_no_network(backbone, monkeypatch):
    monkeypatch.setattr(_extractor.REGISTRY, "get", None)  # would fail if it were called
    for engine in ("torch", "openvino"):
        assert extractor(backbone, engine=engine).fingerprints() is not None


def test_a_later_answer_replaces_the_earlier(backbone, stand_in, monkeypatch):
    asked = (backbone.reference, "float32", OUTPUTS, SIDE)
    FrozenNetwork(backbone, 3, engine="auto").engine_for(OUTPUTS, SIDE)
    stand_in.fails = RuntimeError("no memory left")
    assert FrozenNetwork(backbone, 3, engine="auto").engine_for(OUTPUTS, SIDE) == "torch"
    monkeypatch.setattr(_engines, "_resolved", {})
    assert recall(*asked) == "torch"


def test_a_home_that_cannot_be_written_changes_nothing(backbone, stand_in, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SKTRANSFER_HOME", str(tmp_path / "file"))
    asked = (backbone.reference, "float32", OUTPUTS, SIDE)
    assert FrozenNetwork(backbone, 3, engine="auto").engine_for(OUTPUTS, SIDE) == "openvino"
    assert recall(*asked) == "openvino"


def test_a_damaged_record_is_ignored(backbone, stand_in, offline_home, monkeypatch):
    asked = (backbone.reference, "float32", OUTPUTS, SIDE)
    FrozenNetwork(backbone, 3, engine="auto").engine_for(OUTPUTS, SIDE)
    (record,) = (offline_home / "engines").iterdir()
    for spoilt in (b"", b"\xff\xfe", b"tensorrt"):
        record.write_bytes(spoilt)
        monkeypatch.setattr(_engines, "_resolved", {})
        assert recall(*asked) is None


def test_engines_share_no_rows(backbone, stand_in):
    found = {
        (precision, engine): extractor(backbone, precision=precision, engine=engine).fingerprints()
        for precision in ("float32", "bfloat16")
        for engine in ("torch", "openvino")
    }
    assert len(set(found.values())) == 4
    assert extractor(backbone, engine="auto").fingerprints() == found["float32", "openvino"]


# --- products of float32 --------------------------------------------------------------------------


def switches():
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.fixture
def allows_tf32():
    """A caller that allows TF32 everywhere."""
    before = switches()
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


def test_float32_is_in_full_until_the_last_thread_is_through(allows_tf32):
    outer = float32_products("float32", "cuda")
    outer.__enter__()
    both = threading.Barrier(2)

    def other():
        with float32_products("float32", "cuda:0"):
            both.wait(60)
            both.wait(60)

    thread = threading.Thread(target=other)
    thread.start()
    both.wait(60)
    outer.__exit__(None, None, None)  # the first one out
    assert switches() == ("highest", False)
    both.wait(60)
    thread.join(60)
    assert switches() == ("high", True)


@pytest.mark.parametrize("order", ["full first", "TF32 first"])
def test_who_allows_tf32_never_takes_the_full_products_of_another(allows_tf32, order):
    torch.set_float32_matmul_precision("medium")
    full, loose = float32_products("float32", "cuda"), float32_products("tf32", "cuda")
    first, second = (full, loose) if order == "full first" else (loose, full)
    with first:
        with second:
            assert switches() == ("highest", False)
        assert switches() == (("highest", False) if first is full else ("high", True))
    assert switches() == ("medium", True)


@pytest.mark.parametrize(
    ("precision", "device", "inside"),
    [
        ("float32", "cpu", ("highest", False)),
        ("tf32", "cpu", ("highest", False)),  # processors call other things by that name
        ("tf32", "cuda:1", ("high", True)),
        ("bfloat16", "cuda", ("high", True)),  # as the caller has it
    ],
)
def test_tf32_is_for_who_asks_for_it(allows_tf32, precision, device, inside):
    with float32_products(precision, device):
        assert switches() == inside
    assert switches() == ("high", True)


def test_an_error_leaves_the_switches_as_they_were(allows_tf32):
    with pytest.raises(KeyError), float32_products("float32", "cpu"):
        raise KeyError
    assert switches() == ("high", True)
