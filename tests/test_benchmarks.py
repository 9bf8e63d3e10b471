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


def load_beside(name):
    """One that imports others of benchmarks/."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return load(name)
    finally:
        sys.path.remove(str(BENCHMARKS))


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


def test_photos_are_distinct_files_of_the_images_they_copy(tmp_path, monkeypatch):
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
def test_a_long_run_states_its_peak_and_ends_near_it(tmp_path):
    content, table = run_script(
        "long_run",
        *("--images", "400", "--calls", "60", "--networks", "6", "--size", "64"),
        results=tmp_path,
    )
    assert content["within"]
    assert content["end_mb"] <= 1.1 * content["peak_mb"]
    assert len(content["phases"]) == 4 + 1 + 2
    assert all(phase["memory_tier_mb"] < 600 for phase in content["phases"])
    assert "60 calls of four networks" in table


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
def test_import_time_is_measured_against_torch_and_scikit_learn(tmp_path):
    content, table = run_script("import_time", "--rounds", "1", results=tmp_path)
    rows = {row["statement"]: row for row in content["rows"]}
    assert rows[content["baseline"]]["times_seconds"] == 1
    assert rows["from sktransfer import PretrainedFeatureExtractor"]["times_cpu_seconds"] > 0
    assert "python -m sktransfer --help" in table


@pytest.mark.slow
def test_depth_search_is_resumed(tmp_path, shared_data, shared_weights):
    settings = ("--n", "16", "--epochs", "1", "--folds", "2", "--tasks", "hymenoptera-full")
    content, table = run_script("depth_search", *settings, results=tmp_path)
    (task,) = content["summary"].values()
    # How the head begins is measured where stages are frozen, not in full training.
    assert {row["who"] for row in task["rows"]} == {"recipe", "sktransfer"}
    assert load_beside("depth_search").contestants("hymenoptera") == [
        *("sktransfer", "sktransfer, head solved first")
    ]
    for row in task["total"]:
        assert row["seconds"] > 0
        assert row["peak_mb"] > 100
    own = next(row for row in task["rows"] if row["who"] == "sktransfer")
    plain = next(row for row in task["rows"] if row["who"] == "recipe")
    assert own["times"] == pytest.approx(plain["seconds"] / own["seconds"], rel=1e-2)
    assert "everything" in table
    # As if it had been interrupted before the last step.
    *kept, last = content["steps"]
    lost = content["steps"].pop(last)
    (tmp_path / "depth_search.json").write_text(json.dumps(content))
    again, _ = run_script("depth_search", *settings, results=tmp_path)
    assert {name: again["steps"][name] for name in kept} == content["steps"]
    assert again["steps"][last]["seconds"] != lost["seconds"]
    rst = load_beside("_tables").depth_search(again)
    assert "**hymenoptera-full**: 16 images, 2 folds" in rst


def test_a_grid_with_full_training_has_a_bound():
    module = load_beside("depth_search")
    frozen = [{"who": "recipe", "seconds": 90.0}, {"who": "sktransfer", "seconds": 9.0}]
    full = [{"who": "recipe", "seconds": 60.0}, {"who": "sktransfer", "seconds": 66.0}]
    recipe, own = module._with_full(frozen, full)
    assert recipe["times"] == 1
    assert own["times"] == pytest.approx(150 / 75)
    assert own["bound"] == recipe["bound"] == pytest.approx(2.5)


@pytest.mark.slow
def test_every_table_of_the_page_can_be_made(tmp_path):
    """The page has a place for each script's table."""
    page = BENCHMARKS.parent / "docs" / "user_guide" / "performance.rst"
    text = page.read_text()
    for script in ("extraction", "search", "hits", "scaling", "import_time"):
        assert f".. begin {script}\n" in text
        assert f".. end {script}\n" in text
    text = (page.parent / "depth_search.rst").read_text()
    assert ".. begin depth_search\n" in text
    assert ".. end depth_search\n" in text


@pytest.mark.slow
@pytest.mark.usefixtures("shared_data", "shared_weights")
def test_imbalance_shows_what_samplers_do_to_calibration(tmp_path):
    content, _ = run_script("imbalance", "--repeats", "1", results=tmp_path)
    rows = {row["case"]: row for row in content["rows"]}
    share = rows["nothing"]["positive"] / rows["nothing"]["rows"]
    assert rows.pop("nothing")["mean probability"] == pytest.approx(share, abs=0.01)
    assert all(row["mean probability"] > 2 * share for row in rows.values())
    assert all(row["intercept"] < -1 for row in rows.values())


def test_pages_hold_what_was_measured():
    """Every table of the documentation is made of the results that are kept, and of no others."""
    tables = load_beside("_tables")
    for name, (page, make) in tables.MAKERS.items():
        text = (tables.PAGES / page).read_text()
        between = text.split(f".. begin {name}\n")[1].split(f".. end {name}\n")[0]
        path = BENCHMARKS / "results" / f"{name}.json"
        made = make(json.loads(path.read_text())) if path.is_file() else ""
        assert between.strip() == made.strip(), name


def test_the_page_about_a_course_holds_what_was_measured(tmp_path):
    course = load_beside("course")
    copy = tmp_path / "course.rst"
    copy.write_text(course.PAGE.read_text())
    course.write_page(json.loads((BENCHMARKS / "results" / "course.json").read_text()), copy)
    assert copy.read_text() == course.PAGE.read_text()


def test_the_table_of_the_studies():
    rows = [
        ("base", "", 0, 0.6), ("base", "", 1, 0.8),
        ("AnB", "layer1", 0, 0.7), ("AnB", "layer1", 1, 0.9),
    ]  # fmt: skip
    transfer = [dict(zip(("treatment", "stage", "seed", "score"), r, strict=True)) for r in rows]
    convergence = [
        {"init": init, "budget": budget, "score": 0.5}
        for init in ("pretrained", "random")
        for budget in (10, 20)
    ]
    content = {
        "machine": {"date": "2026-01-02 03:04 UTC"},
        "settings": {"network": "resnet18", "image_size": "112", "epochs": "10"},
        "studies": {
            f"chest X-rays, {rate}": {
                "set": "chest X-rays", "rate": rate, "n_train": 8, "n_test": 9,
                "transfer": transfer, "convergence": convergence,
            }
            for rate in (0.001, 0.01)
        },
    }  # fmt: skip
    text = load_beside("_tables").studies(content)
    for expected in (
        "resnet18 at 112 px",
        "studies.png",
        "AnB\n     - 0.800",
        "base\n     - 0.700",
    ):
        assert expected in text
    assert "8 images to train on, 9 to test on" in text
    assert text.index("learning rate 0.01**") < text.index("learning rate 0.001**")
