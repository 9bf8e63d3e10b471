"""Batches on a device, with a stand-in for CUDA that runs on the CPU and notes what it is told."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sktransfer._frozen import Extraction, _device
from sktransfer._frozen._device import DeviceBatches
from sktransfer._images import as_image_source, make_preprocessing

SIDE = 8


class Stream:
    """Names itself in the log of what it is told to wait for."""

    def __init__(self, cuda, name):
        self.cuda, self.name = cuda, name

    def wait_stream(self, other):
        self.cuda.log.append(f"{self.name} waits for {other.name}")


class Event:
    def __init__(self, cuda):
        self.cuda = cuda

    def record(self, stream):
        self.cuda.log.append(f"event on {stream.name}")

    def synchronize(self):
        self.cuda.log.append("host waits")


class Recorder(TorchDispatchMode):
    """Notes operations, as a capture does, and refuses what waits for the device."""

    def __init__(self, calls):
        super().__init__()
        self.calls = calls

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.nonzero.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        made = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, made))
        return made


class Graph:
    def __init__(self, cuda):
        self.cuda, self.calls = cuda, []
        cuda.graphs.append(self)

    def replay(self):
        self.cuda.log.append("replay")
        for func, args, kwargs, made in self.calls:
            again = func(*args, **kwargs)
            outputs = zip(
                *((x if isinstance(x, tuple | list) else (x,)) for x in (made, again)), strict=True
            )
            for kept, new in outputs:
                if isinstance(kept, torch.Tensor) and kept.data_ptr() != new.data_ptr():
                    kept.copy_(new)  # where the first one was, as a graph has it


class Cuda:
    """What :class:`DeviceBatches` uses of ``torch.cuda``."""

    def __init__(self, fail=None):
        self.log, self.graphs, self.fail = [], [], fail
        self.streams = [Stream(self, "main")]
        self.n_streams = 0
        self.Event = partial(Event, self)
        self.CUDAGraph = partial(Graph, self)

    def Stream(self):
        self.n_streams += 1
        return Stream(self, f"side {self.n_streams}")

    def current_stream(self):
        return self.streams[-1]

    def synchronize(self, device):
        self.log.append("host waits for all")

    @contextmanager
    def stream(self, stream):
        self.streams.append(stream)
        try:
            yield
        finally:
            self.streams.pop()

    @contextmanager
    def device(self, device):
        assert device == torch.device("cpu")
        yield

    @contextmanager
    def graph(self, graph, stream, capture_error_mode):
        assert stream is self.current_stream()
        assert capture_error_mode == "thread_local"
        if self.fail is not None:
            self.streams.append(stream)  # torch does not leave the stream of a capture that fails
            raise self.fail
        with Recorder(graph.calls):
            yield


@pytest.fixture
def uses_streams(monkeypatch):
    """CPU tensors take ``record_stream`` in good part."""
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)


@pytest.fixture(autouse=True)
def _streams(uses_streams):
    pass


def steps(batch):
    scaled = batch.float() / 255
    return [scaled.mean((2, 3)), torch.stack([scaled.amax(), scaled.amin()]).isfinite().all()]


def batch(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)


def same(found, images):
    for part, expected in zip(found, steps(images), strict=True):
        torch.testing.assert_close(part, expected)


def test_the_copy_has_its_own_stream_and_the_host_waits_only_for_results():
    cuda = Cuda()
    wait = DeviceBatches(steps, "cpu", cuda=cuda).begin(batch(4))
    assert cuda.log == ["main waits for side 1", "event on main"]
    on_device, found = wait()
    assert cuda.log[-1] == "host waits"
    assert torch.equal(on_device, batch(4))
    same(found, batch(4))


def test_batches_of_one_shape_are_replayed_and_others_are_run(monkeypatch):
    monkeypatch.setattr(_device, "GRAPH_AFTER", 2)
    cuda = Cuda()
    batches = DeviceBatches(steps, "cpu", cuda=cuda)
    sizes = [4, 4, 4, 4, 3, 4, 3, 3, 3]
    waits = [batches.begin(batch(n, seed)) for seed, n in enumerate(sizes)]
    # Each has its own results, though the graph writes all of them to one place.
    for (seed, n), wait in zip(enumerate(sizes), waits, strict=True):
        same(wait()[1], batch(n, seed))
    assert cuda.log.count("replay") == 3
    assert len(cuda.graphs) == 1
    assert "side 2 waits for main" in cuda.log, "warmed up after what was before"
    assert "main waits for side 2" in cuda.log


def test_a_batch_of_other_numbers_is_another_shape(monkeypatch):
    monkeypatch.setattr(_device, "GRAPH_AFTER", 1)
    batches = DeviceBatches(steps, "cpu", cuda=Cuda())
    for seed in range(3):
        batches.begin(batch(2, seed))()
    deep = batch(2).float() / 7
    same(batches.begin(deep)()[1], deep)


@pytest.mark.parametrize("fail", [torch.OutOfMemoryError("no memory"), RuntimeError("capture")])
def test_what_cannot_be_captured_is_run_on_the_stream_it_was_on(monkeypatch, fail):
    monkeypatch.setattr(_device, "GRAPH_AFTER", 1)
    cuda = Cuda(fail=fail)
    batches = DeviceBatches(steps, "cpu", cuda=cuda)
    for seed in range(4):
        same(batches.begin(batch(2, seed))()[1], batch(2, seed))
    assert len(cuda.graphs) == 1, "tried once"
    assert "replay" not in cuda.log


def test_steps_that_wait_for_the_device_are_not_captured(monkeypatch):
    monkeypatch.setattr(_device, "GRAPH_AFTER", 1)
    cuda = Cuda()
    waiting = DeviceBatches(lambda b: [b * len(b.nonzero())], "cpu", cuda=cuda)
    for seed in range(3):
        images = batch(2, seed)
        assert torch.equal(waiting.begin(images)()[1][0], images * len(images.nonzero()))
    assert "replay" not in cuda.log


def test_no_graph_is_made_where_none_is_wanted_or_memory_was_short(monkeypatch):
    monkeypatch.setattr(_device, "GRAPH_AFTER", None)
    without = Cuda()
    batches = DeviceBatches(steps, "cpu", cuda=without)
    for seed in range(4):
        batches.begin(batch(2, seed))
    monkeypatch.setattr(_device, "GRAPH_AFTER", 1)
    rested = Cuda()
    batches = DeviceBatches(steps, "cpu", cuda=rested)
    for seed in range(3):
        batches.begin(batch(2, seed))
    replays = rested.log.count("replay")
    assert replays
    batches.rest()
    assert rested.log[-1] == "host waits for all", "before memory of what runs is given back"
    for seed in range(3):
        same(batches.begin(batch(2, seed))()[1], batch(2, seed))
    assert not without.graphs
    assert rested.log.count("replay") == replays


# --- an extraction whose batches overlap ----------------------------------------------------------


class Device:
    """Begins batches, and notes the order; fails above so many images."""

    def __init__(self, most=None, fail_in="begin"):
        self.log, self.most, self.fail_in, self.n = [], most, fail_in, 0

    def fails(self, images, where):
        if self.most and len(images) > self.most and where == self.fail_in:
            self.log.append(f"{where} of {len(images)} fails")
            raise torch.OutOfMemoryError("CUDA out of memory")

    def begin(self, images):
        self.fails(images, "begin")
        self.n += 1
        number = self.n
        self.log.append(f"begin {number}")

        def finish():
            self.fails(images, "finish")
            self.log.append(f"finish {number}")
            return [(images.float() / 255).mean((2, 3)).numpy()]

        return finish


def extraction(X, device, **settings):
    preprocessing = make_preprocessing(
        crop_size=SIDE,
        resize_size=SIDE,
        interpolation="bilinear",
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
    )
    settings = {"batch_size": 4, "n_threads": 2, "begin": device.begin, **settings}
    parts = ((3,), (np.dtype(np.float32),))
    return Extraction(as_image_source(X), None, preprocessing, *parts, **settings)


def images(n):
    return np.random.default_rng(0).integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8)


def expected(X):
    return X.astype(np.float32).mean((1, 2)) / 255


def test_a_batch_is_begun_before_the_one_ahead_of_it_is_waited_for():
    device, X = Device(), images(14)
    rows, failures = extraction(X, device).run()
    np.testing.assert_allclose(rows, expected(X), rtol=1e-5)
    assert not failures
    order = "begin 1, begin 2, finish 1, begin 3, finish 2, begin 4, finish 3, finish 4"
    assert ", ".join(device.log) == order


@pytest.mark.parametrize("fail_in", ["begin", "finish"])
def test_a_batch_that_does_not_fit_is_begun_again_in_halves(fail_in):
    device, X = Device(most=3, fail_in=fail_in), images(21)
    halved = []
    run = extraction(X, device, batch_size=8, halved=lambda: halved.append(1))
    with pytest.warns(RuntimeWarning, match="ran out of memory"):
        rows = run.run()[0]
    np.testing.assert_allclose(rows, expected(X), rtol=1e-5)
    assert len(halved) >= 2


def test_an_error_of_another_kind_is_raised_and_ends_the_threads():
    def begin(images):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="illegal memory access"):
        extraction(images(9), Device(), begin=begin).run()
    assert threading.active_count() == before


def test_what_the_device_was_computing_when_a_row_failed_is_kept(tmp_path):
    from sktransfer._frozen import MemoryStore
    from sktransfer.exceptions import ImageDecodeError

    X = [*images(8), b"no image"]
    store, device = MemoryStore(), Device()
    settings = {"store": store, "fingerprints": (b"mean",)}
    with pytest.raises(ImageDecodeError):
        extraction(X, device, **settings).run()
    assert device.log[-1] == "finish 2"
    again = Device()
    extraction(X[:8], again, **settings).run()
    assert again.log == []
