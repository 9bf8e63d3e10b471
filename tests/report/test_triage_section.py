"""The section of a report on a triage."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression

from sktransfer.model_selection import TriageClassifier
from sktransfer.report import diagnostic_report
from sktransfer.report._scored_rows import score_rows
from sktransfer.report._triage import triage_section

ROWS = slice(900, 1500)


@pytest.fixture(scope="module")
def task():
    X, y = make_classification(1500, 25, class_sep=0.8, random_state=0)
    return X, np.array(["well", "ill"])[y]


def report_of(clf, X, y, **params):
    settings = {"saliency": None, "images": False, "n_failures": 0}
    return diagnostic_report(clf, X, y, **settings, **params)


@pytest.fixture(scope="module")
def fitted(task):
    X, y = task
    return TriageClassifier(LogisticRegression(), pos_label="ill").fit(X[:900], y[:900])


def test_a_report_counts_what_a_triage_referred_and_released(task, fitted):
    X, y = (each[ROWS] for each in task)
    patients = np.arange(600) // 2
    report = report_of(fitted, X, y, groups=patients)
    found = report.to_dict()["triage"]
    decided = fitted.predict(X)
    assert found["referred"]["estimate"] == np.mean(decided == "refer")
    ill = found["classes"]["ill"]
    assert ill["n_released"] == np.sum((y == "ill") & (decided == "well"))
    assert ill["n_groups_released"] == len(set(patients[(y == "ill") & (decided == "well")]))
    assert (ill["max_released"], found["classes"]["well"]["max_released"]) == (0.02, 0.05)
    html = report.to_html()
    assert '<section id="triage"' in html
    assert "decides by a threshold for each class" in html


def test_more_releases_than_guaranteed_are_warned_of(task, fitted):
    X, y = (each[ROWS] for each in task)
    swapped = np.where(y == "ill", "well", "ill")
    notices = triage_section(score_rows(fitted, X, swapped)).notices
    assert any("released than the triage guarantees, 0.02" in text for text, _ in notices)


def test_of_several_classes_the_positive_one_is_counted_against_the_others(task):
    X, y = task
    y = np.where((y == "well") & (X[:, 0] > 0), "other", y)
    clf = TriageClassifier(
        LogisticRegression(max_iter=500), max_missed={"ill": 0.05}, max_false=None
    ).fit(X[:900], y[:900])
    rows = score_rows(clf, X[ROWS], y[ROWS], pos_label="ill")
    found = triage_section(rows).data["classes"]
    decided = clf.predict(X[ROWS])
    assert found["ill"]["n_released"] == np.isin(decided[y[ROWS] == "ill"], ["well", "other"]).sum()
    assert found["not ill"]["n_released"] == np.sum(decided[y[ROWS] != "ill"] == "ill")
    assert np.isnan(found["not ill"]["max_released"])
