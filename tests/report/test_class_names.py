"""Folders and words are matched with a model's classes by name, and nothing is guessed."""

from __future__ import annotations

import json
import re
import shlex

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import make_scorer, recall_score
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    TunedThresholdClassifierCV,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import SelfTrainingClassifier

from sktransfer import FineTuneClassifier
from sktransfer.__main__ import _parser, main
from sktransfer.report import diagnostic_report
from sktransfer.report._class_names import check_names, given_names, labels_of
from sktransfer.report._scored_rows import score_rows

NAMED = {0: "normal", 1: "malignant"}


@pytest.mark.parametrize(
    ("words", "classes", "names", "expected"),
    [
        (["malignant", "normal"], [0, 1], NAMED, [1, 0]),
        (["malignant"], [0, 1], NAMED, [1]),  # a part of the classes
        (["malignant", "normal"], ["malignant", "normal"], None, ["malignant", "normal"]),
        (["0", "1"], [0, 1], NAMED, [0, 1]),
        ([0.0, 1.0], [0, 1], None, [0, 1]),
        ([0, 1], [0.0, 1.0], None, [0.0, 1.0]),
        ([0, 1], ["0", "1"], None, ["0", "1"]),
        (["True", "False"], [False, True], None, [True, False]),
        (["TRUE", "false"], [False, True], None, [True, False]),
        ([True, False], [0, 1], None, [1, 0]),
        ([0, 1], [False, True], None, [False, True]),
        (["1.0", "2"], [1, 2], None, [1, 2]),
        (["10", "2", "1"], [1, 2, 10], None, [10, 2, 1]),
    ],
)
def test_words_mean_classes_by_name_text_or_value(words, classes, names, expected):
    assert list(labels_of(words, classes, names).values()) == expected


@pytest.mark.parametrize(
    ("words", "classes", "names", "message"),
    [
        (["malignant", "normal"], [0, 1], None, "--classes 0=malignant 1=normal or"),
        (["malignant", "normal"], [False, True], None, "True=malignant, whichever is true"),
        (["a", "b", "c"], [0, 1, 2], None, "--classes 0=NAME 1=NAME 2=NAME"),
        (["a"], [0, 1], None, "Nothing says which is which"),
        (["mel", "nv"], ["malignant", "normal"], None, "cannot predict 'mel', 'nv'"),
        (["Malignant", "normal "], [0, 1], NAMED, "--classes '0=normal ' 1=Malignant"),
        (["malignant", "normall"], [0, 1], NAMED, "cannot predict 'normall'"),
        (["malignant", "normal", "thumbs"], [0, 1], NAMED, "cannot predict 'thumbs'"),
        (["malignant", "1"], [0, 1], NAMED, "both mean the class 1"),
        (["1", "01"], [0, 1], None, "both mean the class 1"),
        (["yes", "no"], [False, True], None, "not guessed"),
        ([0.0, 1.0], ["0", "1"], None, "cannot predict '0.0', '1.0'"),
        (["0", "1"], [0, 1], {0: "1", 1: "0"}, "also the label"),
        (["1", "2"], [0, 1], None, "cannot predict '2'"),
    ],
)
def test_what_would_have_to_be_guessed_is_refused(words, classes, names, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        labels_of(words, classes, names)


def test_the_option_names_each_class_once():
    assert given_names(["0=normal", "1=a=b"], [0, 1]) == {0: "normal", 1: "a=b"}
    assert given_names(["a=x", "a=b=y"], ["a", "a=b"]) == {"a": "x", "a=b": "y"}
    for given in (["0=normal"], ["0=a", "1=a"], ["0=a", "0=b"], ["normal", "malignant"], ["2=c"]):
        with pytest.raises(ValueError, match="--classes"):
            given_names(given, [0, 1])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["normal", "malignant"], "the label of another"),
        (["normal", "other"], "the label of another"),
        ({"Malignant": "m"}, "a mapping with a name for each"),
        (["m", "m"], "a different name for each"),
        ("mn", "in the order of the classes"),
        ({"malignant", "normal"}, "in the order of the classes"),
        (["m"], "a different name for each"),
    ],
)
def test_names_that_would_swap_classes_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        check_names(names, ["malignant", "normal"], {})
    assert check_names({"normal": "N"}, ["malignant", "normal"], {}) == ["malignant", "N"]


def test_names_that_contradict_those_of_the_model_are_refused():
    for names in (["malignant", "normal"], {0: "malignant", 1: "m"}):
        with pytest.raises(ValueError, match="the wrong way round"):
            check_names(names, [0, 1], NAMED)
    assert check_names(["healthy", "malignant"], [0, 1], NAMED) == ["healthy", "malignant"]
    assert check_names({1: "ill"}, [0, 1], NAMED) == ["normal", "ill"]
    assert check_names(None, [0, 1], NAMED) == ["normal", "malignant"]


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder of two classes, the brighter of which is malignant, and its images."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    names = np.array(["normal", "malignant"])[np.arange(60) % 2]
    files = []
    for i, name in enumerate(names):
        (root / "test" / name).mkdir(parents=True, exist_ok=True)
        files.append(root / "test" / name / f"{i}.png")
        bright = (i % 2) if i >= 6 else 1 - i % 2  # not every label is right
        pixels = rng.normal(90 + 25 * bright, 40, (24, 24)).clip(0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(files[-1])
    return root, [str(file) for file in files], names


def saved(folder, kind, path, class_names=None):
    root, files, names = folder
    clf = FineTuneClassifier("squeezenet1_1", weights=None, image_size=32, freeze_depth="all")
    clf.fit(files, (names == "malignant").astype(kind)).save(path, class_names=class_names)
    return root / "test"


def reported(tmp_path, model, data, *more):
    out = tmp_path / "r.json"
    out.unlink(missing_ok=True)
    given = ["report", str(model), str(data), "--saliency", "none", "-o", str(out), *more]
    return json.loads(out.read_text()) if main(given) == 0 else None


def test_negative_labels_are_typed_like_others():
    given = ["report", "m", "d", "--classes", "-1=normal", "1=a\nb", "--positive", "-1"]
    options = _parser().parse_args(given)
    assert (options.classes, options.positive) == (["-1=normal", "1=a\nb"], "-1")


@pytest.mark.parametrize("kind", [bool, int])
def test_the_command_asks_which_is_which_and_takes_the_answer(folder, tmp_path, capsys, kind):
    model = tmp_path / "m.safetensors"
    data = saved(folder, kind, model)
    assert reported(tmp_path, model, data) is None
    error = capsys.readouterr().err
    _, option = re.search(r"Add (.*) or (.*), whichever is true", error).groups()
    if kind is int:  # one report is enough, which takes seconds
        return
    found = reported(tmp_path, model, data, *shlex.split(option))
    assert found["roc"]["roc_auc"]["estimate"] > 0.8
    assert "50 % of them malignant (the positive class)" in found["summary"]
    assert not any("swapped" in text for text in found["warnings"])


def test_names_in_the_model_decide_and_a_swap_is_the_first_warning(folder, tmp_path, capsys):
    model = tmp_path / "m.safetensors"
    data = saved(folder, int, model, ["normal", "malignant"])
    found = reported(tmp_path, model, data, "--train", str(data))
    assert found["roc"]["roc_auc"]["estimate"] > 0.8
    assert "0 is normal, 1 is malignant" in capsys.readouterr().out
    assert reported(tmp_path, model, data, "--classes", "0=malignant", "1=normal") is None
    assert "the wrong way round" in capsys.readouterr().err
    saved(folder, int, model, ["malignant", "normal"])
    found = reported(tmp_path, model, data)
    assert found["roc"]["roc_auc"]["high"] < 0.5
    assert "Probably labels or classes are swapped" in found["warnings"][0]


# --- the report ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    y = np.arange(120) % 2
    X = rng.normal(size=(120, 64)) + 0.4 * y[:, None]
    return LogisticRegression().fit(X[:60], y[:60]), X[60:], y[60:]


def test_a_report_upside_down_says_so_first_in_every_format(arrays):
    clf, X, y = arrays
    report = diagnostic_report(
        clf,
        X,
        1 - y,
        readers={"right": 1 - y, "swapped": y, "chance": np.arange(60) // 2 % 2},
        baselines={"other": clf.predict_proba(X)[:, 1]},
        saliency=None,
        n_failures=0,
    )
    assert "swapped" in report.warnings[0]
    texts = " ".join(report.warnings)
    for expected in ("Reader 2 has a sensitivity", "calibration slope", "The scores of other"):
        assert expected in texts
    assert "Reader 1" not in texts
    assert "Reader 3" not in texts
    for text in (report.to_html(), report.to_markdown(), report.to_json()):
        places = [text.index(each) for each in ("whole interval", "Reader 2 has a sensitivity")]
        assert places == sorted(places)
    sound = diagnostic_report(clf, X, y, saliency=None, n_failures=0)
    assert not any("swapped" in text for text in sound.warnings)


def test_true_is_class_one_whichever_class_is_positive(arrays):
    clf, X, y = arrays
    expected = score_rows(clf, X, y, pos_label=0)
    found = score_rows(clf, X, y == 1, pos_label=0)
    assert found.y.tolist() == expected.y.tolist() == y.astype(str).tolist()


@pytest.mark.parametrize("classes", [("a", "b"), (-1, 1), (1, 2)])
@pytest.mark.parametrize("positive", [0, 1])
def test_rates_are_those_of_the_class_that_the_threshold_is_for(arrays, classes, positive):
    _, X, y = arrays
    labels = np.array(classes)[y]
    own, other = classes[positive], classes[1 - positive]
    tuned = TunedThresholdClassifierCV(
        LogisticRegression(), scoring=make_scorer(recall_score, pos_label=own), cv=2
    )
    fixed = FixedThresholdClassifier(LogisticRegression(), threshold=0.2, pos_label=own)
    for model in (
        tuned,
        fixed,
        make_pipeline(StandardScaler(), fixed),
        GridSearchCV(fixed, {"estimator__C": [1.0]}, cv=2),
    ):
        model.fit(X, labels)
        rows = score_rows(model, X, labels)
        assert rows.pos_label == own
        np.testing.assert_array_equal(rows.predicted, model.predict(X) == own)
        with pytest.raises(ValueError, match=f"one of scores of {own}, and not of {other}"):
            score_rows(model, X, labels, pos_label=other)
        assert score_rows(model, X, labels, pos_label=other, threshold=0.4).threshold == 0.4


def test_a_threshold_for_something_else_decides_nothing(arrays):
    _, X, y = arrays
    model = SelfTrainingClassifier(LogisticRegression(), threshold=0.9)
    model.fit(X, np.where(np.arange(60) < 50, y, -1))
    assert score_rows(model, X, y).threshold == 0.5


def test_a_positive_class_that_nobody_named_is_asked_for(arrays):
    _, X, y = arrays
    labels = np.array(["normal", "malignant"])[y]
    clf = LogisticRegression().fit(X, labels)
    with pytest.raises(ValueError, match=r"Add pos_label='malignant' or pos_label='normal'\."):
        diagnostic_report(clf, X, labels, saliency=None)
    for name, other in (("normal", "malignant"), ("malignant", "normal")):
        assert score_rows(clf, X, labels, pos_label=name).positive == name
        named = LogisticRegression().fit(X, y)  # 0 and 1 that are called so
        rows = score_rows(named, X, y, pos_label=name, target_names=["normal", "malignant"])
        assert (rows.positive, rows.negative) == (name, other)
        assert rows.pos_label == int(name == "malignant")


def test_readings_are_matched_with_names_too(folder, tmp_path, capsys):
    _, files, names = folder
    model = tmp_path / "m.safetensors"
    saved(folder, int, model, {1: "malignant", 0: "normal"})
    table = pd.DataFrame({"file": files, "label": names, "a": names, "b": names == "malignant"})
    table.loc[0, "a"] = ""
    table["c"] = np.where(names == "normal", "normal", "unsure")
    table.to_csv(tmp_path / "t.csv", index=False)
    table = ["--readers", "a", "b", "--positive", "normal"]
    found = reported(tmp_path, model, tmp_path / "t.csv", *table)
    assert found["roc"]["roc_auc"]["estimate"] > 0.8
    assert "of them normal (the positive class)" in found["summary"]
    for reader in found["roc"]["readers"].values():
        assert reader["sensitivity"]["estimate"] == reader["specificity"]["estimate"] == 1
    assert reported(tmp_path, model, tmp_path / "t.csv", "--readers", "c") is None
    assert "readers 'c': 'unsure' is not one of the classes" in capsys.readouterr().err
