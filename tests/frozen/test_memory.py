"""Memory of a run and of a process: read ahead by bytes, given back, bounded over long use."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sktransfer._backbones import load_backbone
from sktransfer._frozen import (
    Extraction,
    LayerOutput,
    NetworkRegistry,
    NetworkSource,
    _extraction,
)
from sktransfer._images import ImageSelection, as_image_source, make_preprocessing
from sktransfer._utils import memory
from sktransfer.exceptions import ImageDecodeError

SIDE = 8
STATM = Path("/proc/self/statm")


def resident():
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def noise(n, folder, side=100):
    """Files of noise, about 30 kB each, and their pixels' means."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(n):
        path = folder / f"{i}.png"
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)
        paths.append(str(path))
    return paths


class Alive:
    """Counts images that were opened, or prepared, and have not reached the network."""

    def __init__(self, images, side=SIDE, seconds=0.002):
        self.images = images
        plain = make_preprocessing(
            crop_size=side,
            resize_size=side,
            interpolation="bilinear",
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
        )
        self.plain, self.seconds = plain, seconds
        self.fingerprint, self.min_decode_side = plain.fingerprint, None
        self.stack, self.normalize = plain.stack, plain.normalize
        self.lock, self.opened, self.prepared = threading.Lock(), 0, 0
        self.most_opened = self.most_prepared = 0
        self.batches = []
        images_open = images.open

        def open_(i):
            with self.lock:
                self.opened += 1
                self.most_opened = max(self.most_opened, self.opened)
            return images_open(i)

        images.open = open_

    def __call__(self, image):
        time.sleep(self.seconds)
        with self.lock:
            self.opened -= 1
            self.prepared += 1
            self.most_prepared = max(self.most_prepared, self.prepared)
        return self.plain(image)

    def network(self, batch):
        self.batches.append(len(batch))
        with self.lock:
            self.prepared -= len(batch)
        return [batch.mean((2, 3)).numpy()]

    def run(self, **settings):
        settings = {"batch_size": 32, "n_threads": 2, **settings}
        parts = ((3,), (np.dtype(np.float32),))
        return Extraction(self.images, self.network, self, *parts, **settings).run()


# --- reading ahead --------------------------------------------------------------------------------


def test_large_files_are_read_a_few_at_a_time(tmp_path, monkeypatch):
    paths = noise(60, tmp_path)
    free = Alive(as_image_source(paths))
    rows = free.run()[0]
    assert free.most_opened > 10
    monkeypatch.setattr(_extraction, "AHEAD_BYTES", 5 * os.stat(paths[0]).st_size)
    bounded = Alive(as_image_source(paths))
    np.testing.assert_array_equal(bounded.run()[0], rows)
    assert bounded.most_opened <= 6


def test_small_files_do_not_hide_the_large_ones_after_them(tmp_path, monkeypatch):
    (tmp_path / "small").mkdir()
    paths = noise(40, tmp_path / "small", side=9) + noise(40, tmp_path)
    monkeypatch.setattr(_extraction, "AHEAD_BYTES", 4 * os.stat(paths[-1]).st_size)
    images = as_image_source(paths)
    alive = Alive(ImageSelection(images, np.arange(40, 80)))
    alive.run()
    assert alive.most_opened <= 5
    alive = Alive(images)
    assert np.isfinite(alive.run()[0]).all()


def test_one_file_larger_than_all_that_may_be_read_ahead_goes_alone(tmp_path, monkeypatch):
    paths = noise(12, tmp_path)
    rows = Alive(as_image_source(paths)).run()[0]
    monkeypatch.setattr(_extraction, "AHEAD_BYTES", 1)
    alone = Alive(as_image_source(paths), seconds=0)
    np.testing.assert_array_equal(alone.run(batch_size=5)[0], rows)
    assert alone.batches == [5, 5, 2]


@pytest.mark.parametrize("ahead", [1, 10**9])
def test_the_first_bad_row_is_named_however_much_is_read_ahead(tmp_path, monkeypatch, ahead):
    paths = noise(12, tmp_path)
    for bad in (4, 7):
        Path(paths[bad]).write_bytes(Path(paths[bad]).read_bytes()[:2000])
    paths[9] = str(tmp_path / "missing.png")
    monkeypatch.setattr(_extraction, "AHEAD_BYTES", ahead)
    with pytest.raises(ImageDecodeError) as caught:
        Alive(as_image_source(paths)).run(batch_size=4, n_threads=3)
    assert caught.value.index == 4
    rows, failures = Alive(as_image_source(paths)).run(on_error="nan")
    assert [each.index for each in failures] == [4, 7, 9]
    assert np.isnan(rows).any(axis=1).nonzero()[0].tolist() == [4, 7, 9]


def test_prepared_images_count_as_what_they_have_become(tmp_path, monkeypatch):
    paths = noise(40, tmp_path, side=9)
    monkeypatch.setattr(_extraction, "AHEAD_BYTES", 4 * 3 * 256 * 256)
    alive = Alive(as_image_source(paths), side=256, seconds=0)
    alive.run(batch_size=2, n_threads=1)
    # Those of the batch, those ahead, and what was read before the first was prepared.
    assert alive.most_prepared <= 2 + 4 + 3


def test_batches_of_huge_images_are_smaller_unless_their_size_was_asked_for(tmp_path, monkeypatch):
    paths = noise(10, tmp_path, side=9)
    monkeypatch.setattr(_extraction, "BATCH_BYTES", 4 * (4 * 3 * 64 * 64))
    alive = Alive(as_image_source(paths), side=64)
    alive.run(batch_size="auto")
    assert alive.batches == [4, 4, 2]
    alive = Alive(as_image_source(paths), side=64)
    alive.run(batch_size=8)
    assert alive.batches == [8, 2]


def test_rows_that_failed_do_not_keep_their_files_in_memory(tmp_path):
    paths = noise(6, tmp_path)
    for path in paths[:5]:
        Path(path).write_bytes(Path(path).read_bytes()[:2000])
    failures = Alive(as_image_source(paths)).run(on_error="nan")[1]
    assert len(failures) == 5
    for failure in failures:  # frames hold what was being decoded
        assert failure.__traceback__ is failure.__cause__ is failure.__context__ is None


def test_the_size_of_a_row_is_known_before_it_is_read(tmp_path):
    (path,) = noise(1, tmp_path)
    n_bytes = os.stat(path).st_size
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(path, "a.png")
    inside = zipfile.Path(str(tmp_path / "a.zip"), "a.png")
    buffer = io.BytesIO(Path(path).read_bytes())
    rows = [path, Path(path), inside, str(tmp_path / "none.png"), buffer.getvalue()]
    images = as_image_source(rows)
    assert [images.size(i) for i in range(5)] == [n_bytes, n_bytes, n_bytes, 0, 0]
    assert ImageSelection(images, np.array([3, 1])).size(1) == n_bytes


# --- long use -------------------------------------------------------------------------------------


def source(name):
    return NetworkSource((name,), lambda: load_backbone(name, weights=None, seed=0))


def test_only_the_network_used_last_has_the_memory_of_batches(monkeypatch):
    registry, trims = NetworkRegistry(), []
    monkeypatch.setattr(
        "sktransfer._frozen._registry.give_back_freed_memory", lambda: trims.append(len(registry))
    )
    one, other = source("squeezenet1_0"), source("squeezenet1_1")
    network, outputs = registry.get(one, 2), [LayerOutput(0, "avg")]
    network.run(torch.zeros(8, 3, 224, 224), outputs)
    trims.clear()
    registry.get(one, 2)
    assert trims == []
    registry.get(other, 2)
    assert trims[0] == 1
    trims.clear()
    registry.get(one, 2)
    registry.get(other, 2).run(torch.zeros(1, 3, 64, 64), outputs)
    registry.get(one, 2)
    assert trims == []  # small batches take little


def test_the_last_two_networks_stay_however_large_they_are():
    registry = NetworkRegistry(max_bytes=1, at_least=2)
    kept = [registry.get(source(f"squeezenet1_{k}"), 2) for k in (0, 1)]
    assert [registry.get(source(f"squeezenet1_{k}"), 2) for k in (0, 1)] == kept
    registry.get(source("resnet18"), 1)
    assert len(registry) == 2


@pytest.mark.skipif(not STATM.exists(), reason="/proc tells the resident size")
def test_an_openvino_model_gives_the_memory_of_batches_back():
    pytest.importorskip("openvino")
    from sktransfer._frozen._openvino import OpenVinoEngine

    class Wide(torch.nn.Module):
        def __init__(self):
            super().__init__()
            first, second = torch.nn.Conv2d(3, 64, 3), torch.nn.Conv2d(64, 64, 3)
            self.layers = torch.nn.Sequential(first, torch.nn.ReLU(), second)

        def forward(self, x):
            return (self.layers(x).mean((2, 3)),)

    engine = OpenVinoEngine(Wide().eval(), (96, 96), "float32")
    batch = torch.rand(64, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    (before,) = engine(batch)
    taken = resident()
    assert engine.rest()
    memory.give_back_freed_memory()
    assert taken - resident() > 50e6  # 150 MB a layer
    assert torch.equal(engine(batch)[0], before)


def test_freed_memory_is_given_back_every_few_hundred_images(monkeypatch):
    trims = []
    monkeypatch.setattr(memory, "_trim", trims.append)
    monkeypatch.setattr(memory, "_counted", [])
    for _ in range(memory._EVERY):
        memory.give_back_freed_memory(1)
    assert len(trims) == 1
    memory.give_back_freed_memory(memory._EVERY)
    assert len(trims) == 2


LONG = """
import json, os, sys
import numpy as np
import torch
from sktransfer import PretrainedFeatureExtractor
from sktransfer._frozen import REGISTRY

directory, n_calls, engine = sys.argv[1], int(sys.argv[2]), sys.argv[3]
rng = np.random.default_rng(0)

def resident():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

def embed(name, calls):
    feat = PretrainedFeatureExtractor(
        name, weights=None, layer=[0, 1, 2], image_size=96, cache=directory, engine=engine
    ).fit(np.zeros((1, 96, 96, 3), np.uint8))
    for _ in range(calls):
        n = int(rng.integers(1, 33))
        feat.transform(rng.integers(0, 256, (n, 96, 96, 3), dtype=np.uint8))

seen = []
for name in ("resnet18", "squeezenet1_1", "mobilenet_v2"):
    embed(name, 4)
    seen.append(resident())
embed("squeezenet1_1", n_calls)
seen.append(resident())
for name in ("squeezenet1_0", "shufflenet_v2_x0_5", "mnasnet0_5"):
    embed(name, 4)
    seen.append(resident())
print(json.dumps(seen))
"""


@pytest.mark.skipif(not STATM.exists(), reason="/proc tells the resident size")
@pytest.mark.parametrize(
    ("engine", "n_calls"),
    [
        ("torch", 40),
        pytest.param("torch", 400, marks=pytest.mark.slow),
        pytest.param("openvino", 400, marks=pytest.mark.slow),
    ],
)
def test_hundreds_of_calls_and_several_networks_later_a_process_has_not_grown(
    tmp_path, engine, n_calls
):
    if engine == "openvino":
        pytest.importorskip("openvino")
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", LONG, str(tmp_path / "cache"), str(n_calls), engine]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, timeout=1150
    )
    seen = json.loads(done.stdout)
    # What the calls leave are rows in memory. Three more small networks have 10 to 40 MB, and with
    # OpenVINO the same again for the compiled code of each.
    assert max(seen[:4]) <= max(seen[:3]) * 1.1
    networks = 3 * 40 if engine == "openvino" else 0
    assert max(seen[4:]) <= max(seen[:3]) * 1.1 + networks
