"""The section of a report on labels that are probably wrong."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from sktransfer.datasets import audit_labels
from sktransfer.report import diagnostic_report

WRONG = [3, 60]


@pytest.fixture(scope="module")
def task():
    X, y = load_digits(return_X_y=True)
    X, y = X[y < 2][:200], y[y < 2][:200]
    return LogisticRegression(C=0.01, max_iter=500).fit(X[120:], y[120:]), X[:120], y[:120]


def report_of(task, audit, wrong=WRONG, **params):
    clf, X, y = task
    y = y.copy()
    y[wrong] = 1 - y[wrong]
    settings = {"saliency": None, "images": False, "target_names": ["nought", "one"]}
    return diagnostic_report(clf, X, y, label_audit=audit, **settings, **params)


def probabilities(task):
    clf, X, y = task
    return cross_val_predict(clf, X, y, method="predict_proba")


@pytest.mark.parametrize("how", ["audit", "probabilities", "given"])
def test_changed_labels_are_ranked_first_with_names_of_classes(task, how):
    _, X, y = task
    y = y.copy()
    y[WRONG] = 1 - y[WRONG]
    given = {"audit": True, "given": audit_labels(X, y), "probabilities": probabilities(task)}
    report = report_of(task, given[how], n_failures=2)
    found = report.to_dict()["labels"]
    assert {each["row"] for each in found["shown"]} == set(WRONG)
    assert all(each["given"] != each["suggested"] for each in found["shown"])
    assert {each["given"] for each in found["shown"]} <= {"nought", "one"}
    assert found["audited"] == 120
    assert 1 <= found["suspected"] <= 2
    html = report.to_html()
    assert '<section id="labels"' in html
    assert "Suspected is not wrong" in html
    assert "labels" not in report_of(task, None).sections


def test_images_are_audited_with_the_network_of_the_model_and_shown_without_names(model, study):
    settings = {"groups": study.groups, "saliency": None, "n_failures": 3, "label_audit": True}
    report = diagnostic_report(model, study.files, study.y, **settings)
    section = report.sections["labels"]
    (figure,) = section.figures
    assert figure.light.startswith("data:image/webp")
    assert "3 images" in figure.alt
    assert section.data["audited"] == 120
    rows = [int(cells[0]) for cells in section.tables[0].rows]
    assert rows == [each["row"] for each in section.data["shown"]]
    assert "Doe-Jane" not in report.to_html() + report.to_json()
    assert "Suspected" not in report._repr_html_()
    hidden = diagnostic_report(model, study.files, study.y, images=False, **settings)
    assert not hidden.sections["labels"].figures


def test_rows_without_a_probability_are_left_out_and_counted(task):
    given = probabilities(task)
    given[5] = np.nan
    found = report_of(task, given).to_dict()["labels"]
    assert (found["audited"], found["left_out"]) == (119, 1)
    with pytest.raises(ValueError, match=r"shape \(120, 2\), a row for each label.*got \(119, 2\)"):
        report_of(task, given[1:])


def test_copies_with_different_labels_are_a_warning(task):
    clf, X, y = task
    X, y = np.concatenate([X, X[:1]]), np.append(y, 1 - y[0])
    report = report_of((clf, X, y), True, wrong=[])
    assert any("1 pairs of images that are copies" in text for text in report.warnings)


def test_several_labels_a_row_have_no_such_section(task):
    clf, X, y = task
    with pytest.raises(ValueError, match="label_audit= is for one label a row"):
        diagnostic_report(clf, X, np.stack([y, 1 - y], axis=1), label_audit=True)
