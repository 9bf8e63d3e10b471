"""`python -m sktransfer report`: a saved model, a folder or a table, and errors that help."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression

from sktransfer import FineTuneClassifier
from sktransfer.__main__ import main
from tests.report.conftest import cohort, pipeline, readable


@pytest.fixture(scope="module")
def ward(tmp_path_factory):
    """Return folders of two classes with a table alongside them, and a model of each kind."""
    root = tmp_path_factory.mktemp("saint-anna")
    study = cohort(60, 7)
    names = []
    for i, (pixels, label) in enumerate(zip(study.X, study.y, strict=True)):
        names.append(f"{label}/Doe-{i:03d}.png")
        (root / "test" / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / "test" / names[-1])
    table = pd.DataFrame(
        {
            "file": names,
            "patient_id": study.groups,
            "sex": study.subgroups["sex"],
            "View": study.metadata["view"],
            "label": study.y,
            "reader_a": study.y[::-1],
        }
    )
    table.to_csv(root / "test" / "metadata.csv", index=False)
    joblib.dump(pipeline().fit(study.X, study.y), root / "pipe.joblib")
    clf = FineTuneClassifier(
        "squeezenet1_1", weights=None, image_size=48, freeze_depth="all", random_state=0
    )
    clf.fit(study.X, (study.y == "ill").astype(int))
    clf.save(root / "net.safetensors", class_names={0: "healthy", 1: "ill"})
    return root


def test_a_saved_network_is_reported_on_a_folder(ward, tmp_path, capsys):
    out = [str(tmp_path / "made" / f"r.{suffix}") for suffix in ("html", "json", "md")]
    arguments = ["report", str(ward / "net.safetensors"), str(ward / "test"), "--saliency", "none"]
    assert main([*arguments, *(part for name in out for part in ("-o", name))]) == 0
    printed = capsys.readouterr().out
    assert "0 is healthy, 1 is ill" in printed
    assert "60 test images of 30 patients" in printed
    found = json.loads((tmp_path / "made" / "r.json").read_text())
    digest = hashlib.sha256((ward / "net.safetensors").read_bytes()).hexdigest()
    assert found["model"]["digests"]["Model file"] == f"sha256:{digest}"
    assert set(found["subgroups"]["subgroups"]) == {"sex", "View"}
    assert found["partition"]["parts"]["test"]["patients"] == 30
    for name in out:
        text = readable(Path(name).read_text())
        for word in ("Doe", "PATIENT", "saint-anna", str(ward)):
            assert word not in text


def test_a_pickle_is_reported_on_a_table_if_allowed(ward, tmp_path, capsys):
    table = str(ward / "test" / "metadata.csv")
    out = tmp_path / "r.json"
    arguments = ["report", str(ward / "pipe.joblib"), table, "-o", str(out), "--saliency", "none"]
    assert main(arguments) == 1
    assert "runs whatever code is in it" in capsys.readouterr().err
    more = ["--allow-pickle", "--readers", "reader_a", "--positive", "healthy", "--train", table]
    assert main([*arguments, *more]) == 0
    found = json.loads(out.read_text())
    assert list(found["roc"]["readers"]) == ["Reader 1"]
    assert found["partition"]["overlap"] == {
        "rows_of_training_patients": 60,
        "training_images": 60,
        "edited_training_images": 0,
    }
    assert "healthy against ill" in found["title"]
    assert "warning: 60 test images" in capsys.readouterr().out


def test_names_are_written_if_asked_for(ward, tmp_path):
    out = tmp_path / "r.json"
    arguments = ["report", str(ward / "net.safetensors"), str(ward / "test" / "metadata.csv")]
    more = ["--readers", "reader_a", "--identifiers", "--saliency", "none", "-o", str(out)]
    assert main([*arguments, *more]) == 0
    assert list(json.loads(out.read_text())["roc"]["readers"]) == ["reader_a"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.safetensors", "{test}"], "There is no saved model 'nowhere.safetensors'"),
        (["{net}", "nowhere"], "There is no folder and no table 'nowhere'"),
        (["{csv}", "{test}"], "is not a file that save wrote"),
        (["{net}", "{test}", "-o", "r.docx"], "has to end in .html, .md, .json"),
        (["{net}", "{test}", "--positive", "dead"], "--positive 'dead' is not one of the classes"),
        (["{net}", "{test}", "--metadata", "dose"], "--metadata: the table has no column 'dose'"),
        (["{net}", "{csv}", "--target", "dx"], "The table has no column 'dx'"),
        (["{net}", "{test}", "--target", "dx"], "--target is for tables"),
        (["{bad}", "{test}", "--allow-pickle"], "cannot be loaded here"),
        (["{list}", "{test}", "--allow-pickle"], "holds a list, which is no classifier"),
        (
            ["{new}", "{test}", "--allow-pickle"],
            "a LogisticRegression, which is no",
        ),
        (
            ["{net}", "{other}"],
            "The model knows the classes 0 (healthy), 1 (ill); the images are",
        ),
        (["{net}", "{unlabeled}"], "say where the labels are with --target"),
    ],
)
def test_errors_say_what_to_do(ward, tmp_path, capsys, arguments, message):
    (tmp_path / "bad.pkl").write_bytes(b"not a pickle")
    joblib.dump([1], tmp_path / "list.joblib")
    joblib.dump(LogisticRegression(), tmp_path / "new.joblib")
    for name in "abc":
        (tmp_path / "other" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "other" / name / "1.png")
    frame = pd.read_csv(ward / "test" / "metadata.csv").drop(columns="label")
    frame.to_csv(tmp_path / "unlabeled.csv", index=False)
    places = {
        "test": ward / "test",
        "net": ward / "net.safetensors",
        "csv": ward / "test" / "metadata.csv",
        "bad": tmp_path / "bad.pkl",
        "new": tmp_path / "new.joblib",
        "list": tmp_path / "list.joblib",
        "other": tmp_path / "other",
        "unlabeled": tmp_path / "unlabeled.csv",
    }
    given = [each.format(**places) for each in arguments]
    if "-o" not in given:
        given += ["-o", str(tmp_path / "r.html")]
    assert main(["report", *given, "--saliency", "none"]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


def options(tmp_path, *more):
    return [*more, "--saliency", "none", "--no-images", "-o", str(tmp_path / "r.json")]


def test_ages_of_dicom_are_years_and_many_sites_are_left_out(ward, tmp_path, capsys):
    table = pd.read_csv(ward / "test" / "metadata.csv")
    table["file"] = [str(ward / "test" / name) for name in table["file"]]
    table["age"] = [f"{20 + row:03d}Y" for row in range(len(table))]
    table["site"] = [f"site {row % 20}" for row in range(len(table))]
    table.to_csv(tmp_path / "t.csv", index=False, sep=";", encoding="utf-16")
    arguments = ["report", str(ward / "net.safetensors"), str(tmp_path / "t.csv")]
    assert main([*arguments, *options(tmp_path)]) == 0
    assert "site is left out, since it has 20 values" in capsys.readouterr().out
    found = json.loads((tmp_path / "r.json").read_text())
    assert set(found["subgroups"]["subgroups"]) == {"sex", "View", "age"}
    bands = list(found["subgroups"]["subgroups"]["age"])
    assert len(bands) == 4
    assert bands[0].startswith("(19.")
    assert found["baselines"]["baselines"]["Metadata"]["roc_auc"]["estimate"] >= 0
    chosen = options(tmp_path, "--metadata", "none", "--subgroups", "sex")
    assert main([*arguments, *chosen]) == 0
    found = json.loads((tmp_path / "r.json").read_text())
    assert set(found["subgroups"]["subgroups"]) == {"sex"}
    assert "Metadata" not in found["baselines"]["baselines"]
    assert main([*arguments, *options(tmp_path, "--subgroups", "site")]) == 1
    assert "leave the column out" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("None", "tumor"), ("FALSE", "TRUE")])
def test_readings_called_like_missing_values_are_readings(words, tmp_path, capsys):
    study = cohort(40, 3)
    names = np.where(study.y == "ill", words[1], words[0])
    files = []
    for i, (pixels, name) in enumerate(zip(study.X, names, strict=True)):
        files.append(f"{name}/{i}.png")
        (tmp_path / "test" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "test" / files[-1])
    # Right in four of five rows of each class.
    expert = names.copy().astype(object)
    for name in words:
        own = np.flatnonzero(names == name)[::5]
        expert[own] = words[0] if name == words[1] else words[1]
    table = pd.DataFrame({"file": files, "expert": expert})
    table.to_csv(tmp_path / "test" / "metadata.csv", index=False)
    joblib.dump(pipeline().fit(study.X, names), tmp_path / "m.joblib")
    model, test = str(tmp_path / "m.joblib"), str(tmp_path / "test")
    more = options(tmp_path, "--readers", "expert", "--allow-pickle")
    assert main(["report", model, test, *more]) == 1
    line = f"Add --positive {min(words)!r} or --positive {max(words)!r}."
    assert line in capsys.readouterr().err
    more += ["--positive", words[1]]
    assert main(["report", model, test, *more]) == 0
    (reader,) = json.loads((tmp_path / "r.json").read_text())["roc"]["readers"].values()
    for rate, name in (("sensitivity", words[1]), ("specificity", words[0])):
        own = names == name
        assert reader[rate]["estimate"] == pytest.approx((expert[own] == name).mean())
