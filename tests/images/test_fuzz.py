"""Damaged files by the thousand: each ends in an image or in ImageDecodeError, soon, in bounds.

``python -m pytest tests/images/test_fuzz.py -m slow`` runs 10,000 of them.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sktransfer._images import as_image_source
from sktransfer.exceptions import ImageDecodeError

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("gdcm")
resource = pytest.importorskip("resource")

SECONDS = 2.0
MEGABYTES = 1024  # of this process; the helper of DICOM files has its own limit
LARGEST_SEED = 1_100_000
SUFFIXES = {".dcm", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".gif", ".pgm", ".bmp", ".webp"}
# JPEG 2000 of 3.6 million pixels: sound, it takes a second by itself.
SLOW_SEEDS = {"RG1_J2KI.dcm"}


def made_seeds() -> list[bytes]:
    """A file of each format and depth, so that there are some without the shared ones."""
    rng = np.random.default_rng(0)
    smooth = np.add.outer(np.arange(48), np.arange(64)) + rng.integers(0, 9, (48, 64))
    gray = Image.fromarray(smooth.astype(np.uint8))
    deep = Image.fromarray((smooth * 300).astype(np.uint16))
    color = Image.merge("RGB", [gray, gray.rotate(90, expand=False), gray])
    seeds = []
    for image, format_, options in [
        (color, "PNG", {}),
        (deep, "PNG", {}),
        (color.convert("P"), "PNG", {"transparency": 3}),
        (color.convert("RGBA"), "PNG", {}),
        (color, "JPEG", {}),
        (gray, "JPEG", {"progressive": True}),
        (color.convert("CMYK"), "JPEG", {}),
        (color, "TIFF", {}),
        (deep, "TIFF", {"compression": "tiff_lzw"}),
        (color, "TIFF", {"compression": "jpeg"}),
        (gray.convert("1"), "TIFF", {"compression": "group4"}),
        (color, "TIFF", {"compression": "tiff_adobe_deflate"}),
        (color.convert("P"), "GIF", {}),
        (gray, "GIF", {"save_all": True, "append_images": [gray.rotate(9)]}),
    ]:
        file = io.BytesIO()
        image.save(file, format=format_, **options)
        seeds.append(file.getvalue())
    return seeds


def seeds_of(folders: list[Path]) -> list[bytes]:
    seeds = []
    for folder in folders:
        for path in sorted(folder.iterdir()):
            sized = path.suffix.lower() in SUFFIXES and path.stat().st_size < LARGEST_SEED
            if sized and path.name not in SLOW_SEEDS:
                seeds.append(path.read_bytes())
    return seeds


INTERESTING = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]


def mutated(seed: bytes, rng: np.random.Generator) -> bytes:
    """A few changes, many of them where headers are."""
    data = bytearray(seed)
    for _ in range(min(6, rng.geometric(0.5))):
        if not data:
            break
        reach = len(data) if rng.random() < 0.5 else min(len(data), 1024)
        at = int(rng.integers(reach))
        kind = rng.choice(7, p=[0.25, 0.2, 0.2, 0.1, 0.1, 0.1, 0.05])
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[at] = int(rng.integers(256))
        elif kind == 2:  # a size, a count, an offset
            value = INTERESTING[rng.integers(len(INTERESTING))]
            width = (1, 2, 4)[rng.integers(3)]
            order = ("little", "big")[rng.integers(2)]
            data[at : at + width] = (value % 256**width).to_bytes(width, order)
        elif kind == 3:
            del data[at : at + int(rng.integers(1, 64))]
        elif kind == 4:
            piece = data[at : at + int(rng.integers(1, 64))]
            data[at:at] = bytes(piece) * int(rng.integers(1, 4))
        elif kind == 5:
            data[at : at + 16] = rng.integers(0, 256, 16, dtype=np.uint8).tobytes()
        else:
            del data[at if rng.random() < 0.5 else max(at, len(data) // 2) :]
    return with_checksums(bytes(data)) if rng.random() < 0.7 else bytes(data)


def with_checksums(data: bytes) -> bytes:
    """A PNG whose checksums are right again, so that what was changed is looked at."""
    if not data.startswith(b"\x89PNG"):
        return data
    repaired, at = bytearray(data), 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        end = at + 8 + length
        if end + 4 > len(data):
            break
        repaired[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(repaired)


def outcome(data: bytes) -> tuple[str, float]:
    start = time.monotonic()
    try:
        image = as_image_source([data]).open(0).decode()
    except ImageDecodeError:
        result = "error"
    else:
        values = np.asarray(image)
        assert values.dtype in (np.uint8, np.float32)
        assert values.ndim == 2 or values.shape[2] == 3
        result = "image"
    return result, time.monotonic() - start


def memory(*, peak: bool) -> float:
    """Megabytes of this process now, or at most since it was last asked for those of now."""
    status = Path("/proc/self/status")
    if not status.exists():  # macOS: the peak of all its life
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if not peak:
        Path("/proc/self/clear_refs").write_text("5")
    name = "VmHWM" if peak else "VmRSS"
    (line,) = (line for line in status.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def fuzz(seeds: list[bytes], numbers: range) -> dict[str, int]:
    """File number i is the same in every run."""
    before = memory(peak=False)
    counts = {"image": 0, "error": 0}
    slowest = 0.0
    for i in numbers:
        rng = np.random.default_rng([7, i])
        data = mutated(seeds[rng.integers(len(seeds))], rng)
        try:
            result, seconds = outcome(data)
            for _ in range(2):  # a busy machine is not the file's fault
                if seconds > SECONDS:
                    seconds = min(seconds, outcome(data)[1])
        except BaseException as error:
            raise AssertionError(f"file {i} ends in {type(error).__name__}: {error}") from error
        assert seconds <= SECONDS, f"file {i} takes {seconds:.1f} s"
        counts[result] += 1
        slowest = max(slowest, seconds)
    grown = memory(peak=True) - before
    assert grown < MEGABYTES, f"{grown:.0f} MB"
    print(f"{counts}, the slowest {slowest:.2f} s, memory grown by {grown:.0f} MB")
    return counts


def test_damaged_files_are_errors_or_images():
    shipped = Path(pydicom.__file__).parent / "data" / "test_files"
    seeds = made_seeds()
    dicom = [seed for seed in seeds_of([shipped]) if len(seed) < 50_000]
    counts = fuzz(seeds * 3 + dicom, range(1500))
    assert min(counts.values()) > 300  # neither refuses everything nor reads everything


@pytest.mark.slow
def test_ten_thousand_damaged_files_are_errors_or_images(shared_data):
    shared = seeds_of([shared_data / "dicom", shared_data / "odd_images"])
    dicom = [seed for seed in shared if seed[128:132] == b"DICM"]
    assert len(dicom) >= 13
    counts = fuzz(made_seeds() * 2 + shared + dicom * 2, range(10_000))
    assert min(counts.values()) > 1000


# --- the benchmark --------------------------------------------------------------------------------

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("benchmark_fuzz", BENCHMARKS / "fuzz.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_benchmark_finds_what_goes_by_without_a_word(benchmark, monkeypatch):
    """Without the check a JPEG that was cut passes, and the benchmark says so."""
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 96), dtype=np.uint8))
    file = io.BytesIO()
    photo.save(file, "JPEG")
    original = benchmark.Original("JPEG", file.getvalue())
    rng = np.random.default_rng(1)
    data = benchmark.damaged(original.data, "cut", rng, b"")
    found = {"kind": "JPEG", "how": "cut", **benchmark.outcome(original, data)}
    assert found["result"] == "error"
    assert benchmark.failures_of(found) == []
    monkeypatch.setattr("sktransfer._images._decode.check_coded_pixels", lambda *_: None)
    found = {"kind": "JPEG", "how": "cut", **benchmark.outcome(original, data)}
    assert found["result"] == "other"
    assert benchmark.failures_of(found) == ["other pixels without a word"]
    slow = {**found, "result": "error", "seconds": 6.0, "megabytes": 600.0}
    assert benchmark.failures_of(slow) == ["6.0 s", "600 MB"]


def test_the_table_of_the_guide_is_that_of_the_kept_results(benchmark):
    results = json.loads((BENCHMARKS / "results" / "fuzz.json").read_text())
    assert results["n"] == 10_000
    assert results["failures"] == []
    page = (BENCHMARKS.parent / "docs" / "user_guide" / "problems.rst").read_text()
    table = page.partition(".. begin fuzz\n")[2].partition(".. end fuzz")[0]
    assert table.strip() == benchmark.guide_table(results["refused"]).strip()


@pytest.mark.slow
def test_hundreds_of_damaged_images_of_every_format_fail_in_no_way(shared_data, tmp_path):
    """The benchmark runs 10,000; it ends with 1 if one of them fails."""
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "fuzz.py", shared_data, "--n", "500", "--results", tmp_path],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=1150,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    results = json.loads((tmp_path / "fuzz.json").read_text())
    assert sum(results["outcomes"].values()) == 500
    assert results["outcomes"]["error"] > 200
