"""OpenVINO against plain torch: the same numbers for every family, layer, pooling and batch."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from sktransfer._backbones import load_backbone
from sktransfer._frozen import TOLERANCES, FrozenNetwork, LayerOutput, _openvino
from sktransfer._frozen._engines import largest_distance
from sktransfer._frozen._openvino import OpenVinoEngine

pytestmark = pytest.mark.skipif(
    find_spec("openvino") is None,
    reason='openvino is not installed: pip install "sktransfer[fast]"',
)

FAMILIES = [
    ("squeezenet1_1", 64),
    ("resnet18", 64),
    ("mobilenet_v3_small", 64),
    ("shufflenet_v2_x1_0", 64),
    pytest.param("densenet121", 64, marks=pytest.mark.slow),
    pytest.param("efficientnet_lite0", 64, marks=pytest.mark.slow),
    pytest.param("regnet_y_400mf", 64, marks=pytest.mark.slow),
    pytest.param("convnext_tiny", 64, marks=pytest.mark.slow),
    pytest.param("vit_b_32", 224, marks=pytest.mark.slow),
    pytest.param("swin_t", 64, marks=pytest.mark.slow),
    pytest.param("googlenet", 64, marks=pytest.mark.slow),
    pytest.param("inception_v3", 96, marks=pytest.mark.slow),
    pytest.param("vgg11", 64, marks=pytest.mark.slow),
]


def images(n, side, seed=1):
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def networks(name, precision="float32", engine="openvino"):
    backbone = load_backbone(name, weights=None)
    depth = backbone.n_stages + 1
    own = FrozenNetwork(backbone, depth, precision=precision, engine=engine)
    plain = FrozenNetwork(backbone, depth)
    return backbone, own, plain, FrozenNetwork(backbone, depth, precision=precision)


def some_outputs(backbone):
    """The end, and three stages in every pooling they allow."""
    last = backbone.n_stages - 1
    outputs = [LayerOutput(None, None)]
    for index in sorted({0, last // 2, last}):
        stage = backbone.stages[index]
        poolings = ["avg", "max", "avgmax", "gem", "flatten"]
        outputs += [
            LayerOutput(index, how) for how in poolings + ["cls"] * bool(stage.n_prefix_tokens)
        ]
    return tuple(outputs)


@pytest.mark.parametrize(("name", "side"), FAMILIES)
def test_float32_agrees_with_torch(name, side):
    backbone, network, plain, _ = networks(name)
    outputs = some_outputs(backbone)
    assert network.engine_for(outputs, side) == "openvino"
    for n in (1, 3, 33):
        batch = images(n, side)
        found, right = network.run(batch, outputs), plain.run(batch, outputs)
        assert [part.dtype for part in found] == [torch.float32] * len(outputs)
        assert largest_distance(found, right) <= TOLERANCES["float32"]


@pytest.mark.parametrize(("name", "side"), FAMILIES)
def test_bfloat16_is_as_close_to_float32_as_torch_is(name, side):
    backbone, network, plain, half = networks(name, "bfloat16")
    outputs = tuple(output for output in some_outputs(backbone) if output.pooling != "flatten")
    try:
        assert network.engine_for(outputs, side) == "openvino"
    except ValueError as error:
        if "no bfloat16 arithmetic" in str(error):
            pytest.skip("this processor has no bfloat16 arithmetic")
        raise
    batch = images(5, side)
    found, right = network.run(batch, outputs), plain.run(batch, outputs)
    apart = largest_distance(found, right)
    assert 1e-4 < apart <= TOLERANCES["bfloat16"]
    assert apart <= 2 * largest_distance(half.run(batch, outputs), right)


def test_rows_do_not_depend_on_the_batch():
    _, network, _, _ = networks("resnet18")
    outputs = (LayerOutput(None, None), LayerOutput(1, "gem"))
    batch = images(7, 64)
    whole = network.run(batch, outputs)
    for low, high in ((0, 1), (1, 4), (4, 7)):
        part = network.run(batch[low:high], outputs)
        assert largest_distance(part, [each[low:high] for each in whole]) <= TOLERANCES["float32"]


def test_a_layer_before_an_in_place_activation():
    """DenseNet's and SqueezeNet's next stage begins with one: what was taken must not change."""
    _, network, plain, _ = networks("squeezenet1_1")
    outputs = (LayerOutput(0, "flatten"), LayerOutput(1, "flatten"), LayerOutput(2, "avg"))
    batch = images(2, 64)
    assert (
        largest_distance(network.run(batch, outputs), plain.run(batch, outputs))
        <= TOLERANCES["float32"]
    )


def test_channels_last_and_wider_batches_are_taken():
    _, network, plain, _ = networks("squeezenet1_1")
    outputs = (LayerOutput(None, None),)
    batch = images(3, 64)
    right = plain.run(batch, outputs)
    for each in (batch.to(memory_format=torch.channels_last), batch.double()):
        assert largest_distance(network.run(each, outputs), right) <= TOLERANCES["float32"]


def test_a_result_is_not_overwritten_by_the_next_batch():
    _, network, _, _ = networks("squeezenet1_1")
    outputs = (LayerOutput(None, None),)
    (first,) = network.run(images(3, 64), outputs)
    kept = first.clone()
    network.run(images(3, 64, seed=2), outputs)
    assert torch.equal(first, kept)


def test_several_threads_at_once():
    _, network, _, _ = networks("resnet18")
    outputs = (LayerOutput(2, "avg"),)
    batches = [images(4, 64, seed) for seed in range(6)]
    alone = [network.run(batch, outputs)[0] for batch in batches]
    with ThreadPoolExecutor(3) as executor:
        for _ in range(3):
            together = list(executor.map(lambda batch: network.run(batch, outputs)[0], batches))
            for found, right in zip(together, alone, strict=True):
                assert largest_distance([found], [right]) <= 1e-6


def test_another_number_of_threads_is_the_same_network():
    _, network, plain, _ = networks("squeezenet1_1")
    outputs = (LayerOutput(None, None),)
    batch = images(3, 64)
    before = torch.get_num_threads()
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            assert largest_distance(network.run(batch, outputs), plain.run(batch, outputs)) <= 1e-5
    finally:
        torch.set_num_threads(before)


class Untraceable(nn.Module):
    def forward(self, x):
        return (torch.linalg.eigvals(x.flatten(1)[:, :9].unflatten(1, (3, 3))).abs(),)


class BakedBatch(nn.Module):
    """What a tracer gets wrong: a number of images that became a constant."""

    def forward(self, x):
        return (x.mean((2, 3)) * float(len(x)),)


def test_what_cannot_be_converted_is_an_exception():
    with pytest.raises(Exception, match="eig"):
        OpenVinoEngine(Untraceable(), (8, 8), "float32")


def test_a_constant_batch_does_not_pass_the_agreement():
    engine = OpenVinoEngine(BakedBatch(), (8, 8), "float32")
    batch = images(2, 8)
    assert largest_distance(engine(batch), BakedBatch()(batch)) > TOLERANCES["float32"]


def test_a_real_conversion_failure_falls_back(monkeypatch):
    _, network, plain, _ = networks("squeezenet1_1", engine="auto")
    monkeypatch.setattr(torch.jit, "trace", None)
    outputs = (LayerOutput(0, "avg"),)
    assert network.engine_for(outputs, 64) == "torch"
    assert torch.equal(network.run(images(2, 64), outputs)[0], plain.run(images(2, 64), outputs)[0])


def test_a_processor_without_bfloat16_is_told(monkeypatch):
    class Elsewhere:
        """A core that, like those of older processors, computes in float32 whatever is asked."""

        def __init__(self, core):
            self.core = core

        def compile_model(self, model, device, settings):
            return self.core.compile_model(
                model, device, {**settings, "INFERENCE_PRECISION_HINT": "f32"}
            )

    core = _openvino._core()
    monkeypatch.setattr(_openvino, "_core", lambda: Elsewhere(core))
    _, network, _, _ = networks("squeezenet1_1", "bfloat16")
    with pytest.raises(ValueError, match="no bfloat16 arithmetic"):
        network.engine_for((LayerOutput(0, "avg"),), 64)
    _, network, _, half = networks("squeezenet1_1", "bfloat16", "auto")
    outputs = (LayerOutput(0, "avg"),)
    assert network.engine_for(outputs, 64) == "torch"
    assert torch.equal(network.run(images(2, 64), outputs)[0], half.run(images(2, 64), outputs)[0])


def test_openvino_prints_nothing_and_calls_nobody(tmp_path):
    """Imported only when it runs; nothing printed, no telemetry, nothing written to the home."""
    code = """
        import sys
        from sktransfer._backbones import load_backbone
        from sktransfer._frozen import FrozenNetwork, LayerOutput, resolve_engine
        assert resolve_engine("auto", "float32", "cpu") == "auto"
        backbone = load_backbone("squeezenet1_1", weights=None)
        FrozenNetwork(backbone, 2)
        assert "openvino" not in sys.modules
        network = FrozenNetwork(backbone, 2, engine="auto")
        assert network.engine_for((LayerOutput(1, "avg"),), 64) == "openvino"
        assert "openvino" in sys.modules
        assert not any(name.startswith("openvino_telemetry") for name in sys.modules)
    """
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "SKTRANSFER_HOME": str(tmp_path / "own"),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=300,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [each.name for each in tmp_path.iterdir()] == ["own"]
