"""Acceptance of a model by a site's images: numbers of patients, verdicts, page and command."""

from __future__ import annotations

import json

import joblib
import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom
from sklearn.base import BaseEstimator, ClassifierMixin

from sktransfer.__main__ import main
from sktransfer.metrics import rate_interval, rows_needed
from sktransfer.model_selection import (
    OperatingPointClassifier,
    acceptance_sample_size,
    acceptance_test,
)
from sktransfer.report import acceptance_report


class Told(ClassifierMixin, BaseEstimator):
    """A fitted model whose score of the last class is told in the first column of ``X``."""

    def __init__(self, classes=(0, 1)):
        self.classes = classes
        self.classes_ = np.asarray(classes)

    def fit(self, X, y):
        return self

    def predict_proba(self, X):
        score = np.asarray(X, dtype=float)[:, : max(1, len(self.classes) - 1)]
        return np.column_stack([1 - score.sum(axis=1), score])

    def predict(self, X):
        proba = self.predict_proba(X)
        assert not np.isnan(proba).any()
        return self.classes_[proba.argmax(axis=1)]


def rows(tp, fn, tn, fp):
    """Scores and labels with so many of each kind."""
    score = np.r_[np.full(tp, 0.9), np.full(fn, 0.1), np.full(tn, 0.2), np.full(fp, 0.8)]
    return score[:, None], np.r_[np.ones(tp + fn, int), np.zeros(tn + fp, int)]


@pytest.mark.parametrize(("level", "expected"), [(0.9, 0.95), (0.7, 0.8), (0.5, 0.9)])
def test_the_number_of_patients_keeps_the_power_from_there_on(level, expected):
    plan = acceptance_sample_size({"sensitivity": level}, expected={"sensitivity": expected})
    n, errors = plan[["n", "most_errors"]].to_numpy()[0]
    assert rate_interval(n - errors, n).low >= level > rate_interval(n - errors - 1, n).low

    def power(n):
        right = next(k for k in range(n + 1) if rate_interval(k, n).low >= level)
        return binom.sf(right - 1, n, expected)

    assert power(n - 1) < 0.8
    assert all(power(each) >= 0.8 for each in range(n, n + 12))
    assert plan["n_without_error"][0] == rows_needed(level, confidence_level=0.975)


def test_the_prevalence_gives_the_number_of_all_patients():
    plan = acceptance_sample_size(
        {"sensitivity": 0.9, "specificity": 0.7, "accuracy": 0.8}, prevalence=0.2
    )
    ratio = (plan["n_patients"] / plan["n"]).tolist()
    np.testing.assert_allclose(ratio, [5, 1.25, 1], rtol=0.01)
    assert acceptance_sample_size({"sensitivity": 0.9})["n_patients"].isna().all()


@pytest.mark.parametrize(
    ("kinds", "verdict"),
    [
        ((98, 2, 90, 10), "accepted"),
        ((70, 30, 90, 10), "rejected"),
        ((92, 8, 90, 10), "inconclusive"),
        ((98, 2, 50, 50), "rejected"),  # one of the two fails
        ((9, 0, 90, 10), "inconclusive"),  # without an error, and too few
    ],
)
def test_the_verdict_is_that_of_the_exact_intervals(kinds, verdict):
    X, y = rows(*kinds)
    result = acceptance_test(Told(), X, y, required={"sensitivity": 0.9, "specificity": 0.7})
    tp, fn, tn, fp = kinds
    exact = rate_interval(tp, tp + fn), rate_interval(tn, tn + fp)
    found = result.requirements[["estimate", "low", "high"]].to_numpy()
    np.testing.assert_allclose(found, exact)
    assert result.verdict == verdict
    assert result.accepted == (verdict == "accepted")
    assert verdict.capitalize() in str(result)
    assert result.rule in result._repr_html_()


def test_a_bad_model_is_seldom_accepted_and_a_good_one_as_often_as_planned():
    rng = np.random.default_rng(0)
    n = int(acceptance_sample_size({"sensitivity": 0.9})["n"][0])

    def accepted(rate):
        found = rng.binomial(n, rate, 300)
        results = {
            k: acceptance_test(
                Told(), *rows(k, n - k, 2, 0), required={"sensitivity": 0.9}
            ).accepted
            for k in np.unique(found).tolist()
        }
        return np.mean([results[k] for k in found.tolist()])

    assert accepted(0.9) <= 0.05
    assert accepted(0.95) >= 0.73


def test_few_patients_are_said_to_be_few():
    result = acceptance_test(Told(), *rows(9, 0, 9, 1), required={"sensitivity": 0.9})
    assert any("9 rows count (positive), and 255 are needed" in each for each in result.warnings)


def test_images_of_a_patient_count_for_less_than_patients():
    X, y = rows(96, 4, 2, 0)
    patients = np.r_[np.arange(100) // 10, [90, 91]]
    alone = acceptance_test(Told(), X, y, required={"sensitivity": 0.9}).requirements
    grouped = acceptance_test(
        Told(), X, y, required={"sensitivity": 0.9, "group_sensitivity": 0.5}, groups=patients
    ).requirements
    assert grouped["low"][0] < alone["low"][0]
    assert grouped["n"].tolist() == [10, 10]
    assert grouped["n_rows"].tolist() == [100, 100]
    # All four errors are of one patient.
    assert grouped["estimate"][1] == pytest.approx(0.9)


def test_rows_that_cannot_be_read_count_as_errors_of_either_class():
    X, y = rows(50, 0, 50, 0)
    X[[0, 99]] = np.nan
    required = {"sensitivity": 0.5, "specificity": 0.5, "roc_auc": 0.5, "accuracy": 0.5}
    result = acceptance_test(Told(), X, y, required=required)
    assert result.n_unreadable == 2
    found = result.requirements.set_index("requirement")
    assert found.loc["sensitivity", "estimate"] == found.loc["specificity", "estimate"] == 0.98
    assert found.loc["accuracy", "estimate"] == 0.98
    assert found.loc["roc_auc", "estimate"] == pytest.approx(0.98**2)
    assert "could not be read" in result.warnings[0]
    with pytest.raises(ValueError, match="None of the 100 rows could be read"):
        acceptance_test(Told(), X * np.nan, y, required={"sensitivity": 0.5})


def test_the_models_own_threshold_decides():
    X, y = rows(60, 0, 60, 0)
    low = X * 0.5  # nobody is above 0.5, which predict_proba alone would ask for
    clf = OperatingPointClassifier(Told(), target_level=0.9, cv="prefit").fit(low, y)
    result = acceptance_test(clf, low, y, required={"sensitivity": 0.9})
    assert result.requirements["estimate"][0] == 1
    plain = acceptance_test(Told(), low, y, required={"sensitivity": 0.9})
    assert plain.verdict == "rejected"


def test_the_positive_class_of_words_is_asked_for_and_may_be_the_first():
    X, y = rows(40, 0, 30, 10)
    words = np.where(y, "b", "a")
    model = Told(("a", "b"))
    with pytest.raises(ValueError, match="pos_label="):
        acceptance_test(model, X, words, required={"sensitivity": 0.5})
    first = acceptance_test(model, X, words, required={"sensitivity": 0.5}, pos_label="a")
    assert first.requirements["estimate"][0] == 0.75


def test_several_classes_are_judged_each_or_those_that_are_named():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], 40)
    X = np.column_stack([y == 1, y == 2]) * 0.8 + rng.uniform(0, 0.1, (120, 2))
    X[40:50] = 0.05  # ten of class 1 are called 0
    model = Told((0, 1, 2))
    every = acceptance_test(model, X, y, required={"sensitivity": 0.6, "accuracy": 0.8})
    assert every.requirements["requirement"].tolist() == [
        "sensitivity of 0",
        "sensitivity of 1",
        "sensitivity of 2",
        "accuracy",
    ]
    assert every.requirements["estimate"].round(3).tolist() == [1, 0.75, 1, 0.917]
    named = acceptance_test(model, X, y, required={"sensitivity": {1: 0.9}, "ppv": {0: 0.5}})
    assert named.requirements["verdict"].tolist() == ["not met", "met"]
    one = acceptance_test(model, X, y, required={"specificity": 0.5}, pos_label=0)
    assert one.requirements["estimate"].tolist() == [0.875]


def test_subgroups_are_tabulated_and_warned_of_but_do_not_decide():
    X, y = rows(190, 10, 95, 5)
    site = np.where(np.arange(300) % 2, "a", "b")
    site[190:200] = "c"  # all that are missed
    result = acceptance_test(
        *(Told(), X, y),
        required={"sensitivity": 0.9},
        subgroups={"site": site, "age": np.arange(300)},
    )
    assert result.accepted
    table = result.subgroups
    assert table[table["column"] == "site"]["level"].tolist() == ["a", "b", "c"]
    assert (table["column"] == "age").sum() == 4
    assert any(each.startswith("site: c: sensitivity is below") for each in result.warnings)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"required": {}}, "at least one rate"),
        ({"required": {"recall": 0.9}}, "'recall' is none of sensitivity"),
        ({"required": {"sensitivity": 90}}, "must be a share"),
        ({"required": {"sensitivity": {1: 0.9}}}, "one number here"),
        ({"required": {"sensitivity": 0.9}, "expected": {"sensitivity": 0.9}}, "more than the 0.9"),
        ({"required": {"npv": 0.9}, "X": np.ones((4, 1))}, "no rows are called negative"),
        ({"required": {"sensitivity": 0.9}, "y": [0, 1, 7, 1]}, r"does not know: \[7\]"),
    ],
)
def test_what_cannot_be_judged_is_refused(given, message):
    settings = {"X": np.array([[0.9], [0.1], [0.9], [0.2]]), "y": [1, 0, 1, 0], **given}
    with pytest.raises(ValueError, match=message):
        acceptance_test(Told(), **settings)


def test_the_page_has_verdict_numbers_and_subgroups_and_no_names_of_patients(tmp_path):
    X, y = rows(190, 10, 95, 5)
    patients = [f"Doe-{i}" for i in range(300)]
    result = acceptance_test(
        *(Told(), X, y),
        required={"sensitivity": 0.9, "roc_auc": 0.5},
        groups=patients,
        subgroups={"site": np.where(np.arange(300) % 2, "<a>", "b")},
    )
    page = acceptance_report(result)
    page.to_html(tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    assert "Acceptance test: accepted" in html
    assert "site: &lt;a&gt;" in html
    assert "Doe" not in html
    assert html.count("<figure>") == 2
    assert "Doe" not in page.to_markdown()
    assert "Number of patients" in page.to_markdown()
    numbers = json.loads(page.to_json())
    assert numbers["verdict"]["verdict"] == "accepted"
    assert numbers["summary"] == result.summary
    assert "Acceptance test" in page._repr_html_()
    for write in (page.to_chai, page.to_hugging_face):
        with pytest.raises(ValueError, match="has no model card; diagnostic_report"):
            write()
    with pytest.raises(TypeError, match="what acceptance_test returned"):
        acceptance_report("accepted")


class Bright(Told):
    """Scores an image by how bright it is."""

    def predict_proba(self, X):
        from PIL import Image

        return super().predict_proba([[np.asarray(Image.open(each)).mean() / 255] for each in X])


@pytest.fixture
def site(tmp_path):
    """Return a folder of images with a table, 60 of each class, and a saved model."""
    from PIL import Image

    lines = []
    for i in range(120):
        ill = i % 2
        value = 230 if ill else 20
        Image.new("L", (9, 9), value).save(tmp_path / f"{i}.png")
        lines.append({"file": f"{i}.png", "label": ["no", "yes"][ill], "patient_id": i, "sex": "f"})
    pd.DataFrame(lines).to_csv(tmp_path / "site.csv", index=False)
    joblib.dump(Bright(("no", "yes")), tmp_path / "model.joblib")
    return tmp_path


def accept(site, *options):
    known = [str(site / "model.joblib"), str(site / "site.csv"), "--allow-pickle"]
    return main(["accept", *known, "--positive", "yes", *options])


def test_the_command_ends_with_the_status_of_its_verdict(site, capsys):
    out = site / "page.html"
    rates = ["--required", "sensitivity=.9", "specificity=.7"]
    assert accept(site, *rates, "-o", str(out)) == 0
    printed = capsys.readouterr().out
    assert "Accepted on 120 rows of 120 groups." in printed
    assert "wrote" in printed
    assert "sex: f" in out.read_text()
    assert accept(site, "--required", "sensitivity=.97") == 4
    assert "Inconclusive" in capsys.readouterr().out
    frame = pd.read_csv(site / "site.csv")
    frame["label"] = frame["label"].map({"no": "yes", "yes": "no"})
    frame.to_csv(site / "site.csv", index=False)
    assert accept(site, *rates) == 3
    assert accept(site, *rates, "-o", str(site / "card.xml")) == 1
    assert "has to end in .html, .md, .json." in capsys.readouterr().err
    assert accept(site, "--required", "sensitivity") == 1
    assert "write a rate and a number" in capsys.readouterr().err


def test_the_command_counts_patients_before_there_are_any(capsys):
    assert main(["accept", "--required", "sensitivity=.9", "--prevalence", "0.1"]) == 0
    assert "2550" in capsys.readouterr().out
    assert main(["accept", "model.joblib", "--required", "sensitivity=.9"]) == 1
    assert "no data" in capsys.readouterr().err
