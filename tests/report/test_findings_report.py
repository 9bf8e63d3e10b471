"""The report on several findings a row: each by itself, whatever is unknown."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from sktransfer.metrics import multilabel_report
from sktransfer.model_selection import OperatingPointClassifier
from sktransfer.report import diagnostic_report

LABELS = ["even", "round", "high"]


@pytest.fixture(scope="module", autouse=True)
def small_forests():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sktransfer.report._baselines._TREES", 3)
        yield


@pytest.fixture(scope="module")
def rows():
    X, digit = load_digits(return_X_y=True)
    y = pd.DataFrame({"even": digit % 2 == 0, "round": np.isin(digit, [0, 6, 8, 9])})
    y["high"] = digit > 6
    return X[:700] / 16, y[:700].astype(int), np.arange(700) // 2


@pytest.fixture(scope="module")
def clf(rows):
    X, y, groups = rows
    pipe = OneVsRestClassifier(LogisticRegression(C=0.05))
    clf = OperatingPointClassifier(pipe, target_level=0.9, cv=3)
    return clf.fit(X[:400], y[:400], groups[:400])


@pytest.fixture(scope="module")
def test_labels(rows):
    unknown = np.random.default_rng(0).random((300, 3)) < 0.2
    return rows[1][400:].astype(float).mask(unknown).reset_index(drop=True)


@pytest.fixture(scope="module")
def report(rows, clf, test_labels):
    X, y, groups = rows
    return diagnostic_report(
        clf,
        X[400:],
        test_labels,
        groups=groups[400:],
        X_train=X[:400],
        y_train=y[:400][LABELS[::-1]],  # columns are found by name
        groups_train=groups[:400],
        subgroups={"site": np.tile(["a", "b", "b"], 100)},
        metadata={"site": np.tile(["a", "b", "b"], 100)},
        n_failures=4,
    )


def test_each_finding_has_the_numbers_of_the_metrics(report, rows, clf, test_labels):
    X, y, groups = rows
    table = multilabel_report(
        test_labels,
        clf.predict_proba(X[400:]),
        threshold=clf.threshold_,
        labels=LABELS,
        groups=groups[400:],
    )
    found = json.loads(report.to_json())
    for label in LABELS:
        area = found["roc"]["labels"][label]["roc_auc"]
        assert area["estimate"] == pytest.approx(table.loc[label, "roc_auc"])
        point = found["operating"]["points"][label]
        assert point["sensitivity"]["estimate"] == pytest.approx(table.loc[label, "sensitivity"])
        assert point["tp"] + point["fn"] == table.loc[label, "n_positive"]
        assert found["partition"]["parts"]["training"]["classes"][label]["images"] == (
            y[label][:400].sum()
        )
        counts = found["partition"]["parts"]["test"]["classes"][label]
        assert counts["unknown"] == test_labels[label].isna().sum()
        assert counts["images"] + counts["absent"] + counts["unknown"] == 300
    mean = table.loc["macro average", ["roc_auc", "roc_auc_low", "roc_auc_high"]].tolist()
    assert list(found["roc"]["roc_auc"].values()) == pytest.approx(mean)
    assert found["partition"]["overlap"]["rows_of_training_patients"] == 0


def test_it_can_be_written_in_every_form(report):
    text = report.to_markdown()
    for words in ("even", "chose them before", "with confidence 0.95 for each by itself", "Mean"):
        assert words in text
    assert "round, site" in str(list(report.to_dict()["subgroups"]["subgroups"]))
    assert "<svg" not in text
    page = report.to_html()
    assert page.count("<figure>") >= 2
    assert "3 findings" in report.summary
    assert report.summary in report._repr_html_()
    assert "0." in report.to_hugging_face()
    assert "AppliedModelCard" in report.to_chai()


def test_the_same_report_without_names_probabilities_patients_or_images(rows):
    X, y, _ = rows

    class Scores(OneVsRestClassifier):
        predict_proba = None

        def __getattribute__(self, name):
            if name == "predict_proba":
                raise AttributeError(name)
            return super().__getattribute__(name)

    matrix = y.to_numpy()
    clf = Scores(LogisticRegression(C=0.05)).fit(X[:400], matrix[:400])
    report = diagnostic_report(
        clf, X[400:], matrix[400:], target_names=LABELS, threshold=[0, 0, 1], images=False
    )
    assert list(report.to_dict()["operating"]["points"]) == LABELS
    assert report.to_dict()["operating"]["points"]["high"]["threshold"] == 1
    assert "no probabilities" in report.to_markdown()


def test_a_finding_that_no_image_has_is_left_out_of_the_means(rows):
    X, y, _ = rows
    forest = RandomForestClassifier(5, random_state=0).fit(X[:400], y[:400])
    labels = y[400:].assign(high=0)
    report = diagnostic_report(forest, X[400:], labels, images=False)
    assert list(report.to_dict()["operating"]["points"]) == ["even", "round"]
    assert report.to_dict()["roc"]["labels"]["high"]["roc_auc"]["estimate"] is None
    with pytest.raises(ValueError, match="No label of y"):
        diagnostic_report(forest, X[400:], labels.assign(even=1, round=np.nan))


@pytest.mark.parametrize(
    "given", [{"readers": {"a": [1]}}, {"pos_label": 1}, {"thresholds": {"a": 0.5}}]
)
def test_what_is_for_one_label_is_refused(rows, clf, given):
    X, y, _ = rows
    with pytest.raises(ValueError, match=f"{next(iter(given))}= is for one label"):
        diagnostic_report(clf, X[400:], y[400:], **given)
