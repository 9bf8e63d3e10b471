"""The benchmark scripts run and say what they measured; how fast anything is, is not tested."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def load(name):
    """A module of benchmarks/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"benchmark{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_script(name, *arguments, results):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SKTRANSFER_BENCHMARK_PEERS": ""}
    done = subprocess.run(
        [sys.executable, BENCHMARKS / f"{name}.py", *arguments, "--results", results],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    content = json.loads((results / f"{name}.json").read_text())
    assert {"cpu", "cores", "ram_gb", "packages", "date"} <= content["machine"].keys()
    return content, done.stdout


def test_photos_are_distinct_files_of_the_pictures_they_copy(tmp_path, monkeypatch):
    common = load("_common")
    monkeypatch.setattr(common, "shared_directory", lambda: None)
    monkeypatch.setattr(common, "_photo_like", lambda seed: _jpeg(seed))
    paths, what = common.photos(203, tmp_path)
    contents = [Path(path).read_bytes() for path in paths]
    assert len(set(contents)) == 203
    assert "generated" in what
    first, copy = (np.asarray(Image.open(paths[i])) for i in (1, 201))
    np.testing.assert_array_equal(first, copy)


def _jpeg(seed):
    buffer = io.BytesIO()
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.slow
def test_extraction_compares_with_torchvision_and_with_the_bound(tmp_path):
    content, table = run_script(
        "extraction",
        *("--n", "6", "--rounds", "1", "--networks", "resnet18", "--workers", "0"),
        *("--only", "torch float32", "torchvision,", "img2vec"),
        results=tmp_path,
    )
    summary = content["networks"]["resnet18"]
    own = summary["contestants"]["sktransfer torch float32"]
    assert own["difference_from_torchvision"] < 1e-5
    assert own["bound_images_per_s"] == pytest.approx(
        own["images_per_s"] / own["of_bound"], rel=1e-3
    )
    assert summary["fastest_peer"] in summary["contestants"]
    assert "sktransfer torch float32" in table


@pytest.mark.slow
def test_search_counts_what_each_way_embeds(tmp_path):
    content, _ = run_script(
        "search",
        *("--n", "10", "--network", "squeezenet1_1", "--peer", "torchvision", "--engine", "torch"),
        *("--tasks", "grid"),
        results=tmp_path,
    )
    embedded = {
        (row["task"], row["case"]): (row.get("cold_embedded"), row.get("warm_embedded"))
        for row in content["cases"]
    }
    assert embedded["grid", "sktransfer"] == (10, 0)
    assert embedded["grid", "sktransfer, directory"] == (10, 0)
    # 50 fits of 8, scored on 2, and the last one on all.
    assert embedded["grid", "torchvision"][0] == 50 * 10 + 10
    assert embedded["grid", "torchvision, FrozenEstimator"][0] == 50 * 10 + 10
    # The first candidate's training folds are kept; what is scored is not.
    assert embedded["grid", "torchvision, Pipeline memory"][0] == 5 * 8 + 50 * 2 + 10


@pytest.mark.slow
def test_hits_and_scaling(tmp_path):
    content, _ = run_script(
        "hits", "--n", "4", "--repeats", "2", "--network", "squeezenet1_1", results=tmp_path
    )
    assert [(row["tier"], row["kind"]) for row in content["rows"]] == [
        (tier, kind) for tier in ("memory", "directory") for kind in ("JPEG files", "arrays")
    ]
    assert all(row["hit_ms"] > 0 for row in content["rows"])
    content, _ = run_script("scaling", "--min", "10", "--max", "100", results=tmp_path)
    assert [row["n"] for row in content["sizes"]] == [10, 100]
    assert all(
        row["output_mb"] == pytest.approx(row["n"] * 2048e-6, rel=1e-3) for row in content["sizes"]
    )


@pytest.mark.slow
def test_every_table_of_the_page_can_be_made(tmp_path):
    """The page has a place for each script's table."""
    page = BENCHMARKS.parent / "docs" / "user_guide" / "performance.rst"
    text = page.read_text()
    for script in ("extraction", "search", "hits", "scaling"):
        assert f".. begin {script}\n" in text
        assert f".. end {script}\n" in text


@pytest.mark.slow
@pytest.mark.usefixtures("shared_data", "shared_weights")
def test_imbalance_shows_what_samplers_do_to_calibration(tmp_path):
    content, _ = run_script("imbalance", "--repeats", "1", results=tmp_path)
    rows = {row["case"]: row for row in content["rows"]}
    share = rows["nothing"]["positive"] / rows["nothing"]["rows"]
    assert rows.pop("nothing")["mean probability"] == pytest.approx(share, abs=0.01)
    assert all(row["mean probability"] > 2 * share for row in rows.values())
    assert all(row["intercept"] < -1 for row in rows.values())
