"""The section of a report on a gate for novel images."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer.model_selection import OperatingPointClassifier
from sktransfer.novelty import NoveltyGate
from sktransfer.report import diagnostic_report
from sktransfer.report._novelty import novelty_section
from sktransfer.report._partition import partition_section
from sktransfer.report._scored_rows import score_rows


def draw(n, seed):
    rng = np.random.default_rng(seed)
    y = np.array(["well", "ill"])[rng.integers(0, 2, n)]
    return rng.normal(size=(n, 16)) + 0.5 * (y == "ill")[:, None], y


def scored(clf, X, y, groups=None):
    return score_rows(clf, X, y, pos_label="ill", groups=groups)


@pytest.fixture(scope="module")
def test_rows():
    X, y = draw(200, 1)
    X[:30] += 40
    return X, y, np.arange(200) // 2


@pytest.mark.parametrize("on_novel", ["flag", "refer", "raise"])
def test_a_report_counts_novel_images_by_class(on_novel, test_rows):
    X, y, patients = test_rows
    model = make_pipeline(StandardScaler(), NoveltyGate(LogisticRegression(), on_novel=on_novel))
    model.fit(*draw(300, 0))
    novel = model[-1].is_novel(model[0].transform(X))
    assert novel[:30].all()
    rows = scored(model, X, y, patients)
    section = novelty_section(rows, rows.novelty, random_state=0)
    found = section.data
    assert found["n_novel"] == novel.sum()
    assert found["novel"].estimate == novel.mean()
    for name in ("ill", "well"):
        share = found["classes"][name]
        assert share.low < share.estimate == novel[y == name].mean() < share.high
    assert found["drift"]["p_value"] == 0.001
    assert any("More test images are novel than expected" in text for text, _ in section.notices)
    test = partition_section(rows).data["parts"]["test"]
    answered = 200 if on_novel == "flag" else 200 - novel.sum()
    assert (test["images"], test["unreadable"]) == (answered, 0)
    assert test.get("novel", 0) == 200 - answered


def test_without_drift_nothing_is_warned_of():
    gate = NoveltyGate(LogisticRegression()).fit(*draw(300, 0))
    rows = scored(gate, *draw(200, 2))
    assert not novelty_section(rows, rows.novelty, random_state=0).notices
    assert scored(gate.estimator_, *draw(200, 2)).novelty is None


def test_a_gate_keeps_the_threshold_of_its_classifier_in_the_report(test_rows):
    X, y, _ = test_rows
    clf = OperatingPointClassifier(LogisticRegression(), target_level=0.9, pos_label="ill")
    around = NoveltyGate(clf, detector=IsolationForest(random_state=0)).fit(*draw(300, 0))
    settings = {"saliency": None, "images": False, "n_failures": 0, "pos_label": "ill"}
    report = diagnostic_report(around, X, y, **settings)
    numbers = report.to_dict()
    point = next(iter(numbers["operating"]["points"].values()))
    assert point["threshold"] == around.estimator_.threshold_
    assert numbers["novelty"]["drift"] is None  # this detector has no such test
    assert '<section id="novelty"' in report.to_html()
