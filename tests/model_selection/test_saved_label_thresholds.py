"""Thresholds of several findings with the network that they are for: in one file, in commands."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor, TransferClassifier
from sktransfer.__main__ import main
from sktransfer.metrics import multilabel_report
from sktransfer.model_selection import OperatingPointClassifier

LABELS = ["Effusion", "Mass"]


@pytest.fixture(scope="module")
def task():
    rng = np.random.default_rng(0)
    X = rng.integers(0, 60, (90, 32, 32), dtype=np.uint8)
    y = pd.DataFrame((rng.random((90, 2)) < 0.4).astype(float), columns=LABELS)
    X[y["Effusion"] == 1, 4:14, 4:14] += 150
    X[y["Mass"] == 1, 18:28, 18:28] += 150
    return X, y.mask(rng.random(y.shape) < 0.1)


@pytest.fixture(scope="module")
def clf(task):
    net = FineTuneClassifier(
        "squeezenet1_1", weights=None, image_size=32, freeze_depth="all", random_state=0
    )
    clf = OperatingPointClassifier(net, target_level={"Effusion": 0.7, "Mass": 0.6}, cv=2)
    return clf.fit(*task, groups=np.arange(90) // 2)


def test_thresholds_of_findings_are_chosen_saved_and_loaded(task, clf, tmp_path):
    X, y = task
    report = multilabel_report(y, clf.predict(X), labels=clf.classes_)
    assert (report.loc[LABELS, "sensitivity"] >= [0.7, 0.6]).all()
    clf.save(tmp_path / "model.safetensors")
    loaded = OperatingPointClassifier.load(tmp_path / "model.safetensors")
    assert np.array_equal(loaded.predict(X), clf.predict(X))
    assert loaded.classes_.tolist() == LABELS
    assert loaded.operating_point_ == clf.operating_point_
    assert loaded.target_level == clf.target_level


def test_a_transfer_classifier_is_fitted_once_and_scores_findings_itself(task, monkeypatch):
    X, y = task
    fits, fit = [], TransferClassifier.fit
    monkeypatch.setattr(
        TransferClassifier,
        "fit",
        lambda self, *args, **kw: fits.append(1) or fit(self, *args, **kw),
    )
    features = PretrainedFeatureExtractor("squeezenet1_1", weights=None, image_size=32)
    clf = OperatingPointClassifier(TransferClassifier(features, random_state=0), target_level=0.7)
    clf.fit(X, y)
    assert len(fits) == 1
    assert clf.predict(X).shape == (90, 2)
    logits = clf.estimator_._out_of_fold[:, 1]
    known = y["Mass"].notna() & np.isfinite(logits)
    called = 1 / (1 + np.exp(-logits[known])) >= clf.threshold_[1]
    point = clf.operating_point_["Mass"]
    assert point.tp == (called & (y["Mass"][known] == 1)).sum()
    assert point.fp == (called & (y["Mass"][known] == 0)).sum()


@pytest.mark.parametrize("form", ["columns", "words"])
def test_commands_predict_and_report_every_finding(task, clf, form, tmp_path, capsys, monkeypatch):
    pytest.importorskip("jinja2")
    monkeypatch.setattr("sktransfer.report._baselines._TREES", 3)
    X, y = task
    clf.save(tmp_path / "model.safetensors")
    for i in range(60):
        Image.fromarray(X[i]).save(tmp_path / f"{i}.png")
    table = pd.DataFrame({"file": [f"{i}.png" for i in range(60)], "patient": np.arange(60) // 2})
    if form == "columns":
        table = table.assign(**y[:60])
    else:
        there = [row.index[row == 1].tolist() for _, row in y[:60].iterrows()]
        words = ["|".join([*own, "Hernia"]) if own else "No Finding" for own in there]
        table["Finding Labels"] = np.where(y[:60].isna().any(axis=1), None, words)
    table.to_csv(tmp_path / "table.csv", index=False)
    arguments = [str(tmp_path / "model.safetensors"), str(tmp_path / "table.csv")]
    output = tmp_path / "report.json"
    assert main(["report", *arguments, "-o", str(output), "--no-images", "--saliency", "none"]) == 0
    said = capsys.readouterr().out
    assert "2 findings" in said
    assert ("the model does not know them: 'Hernia'" in said) == (form == "words")
    counts = json.loads(output.read_text())["partition"]["parts"]["test"]["classes"]
    known = y[:60] if form == "columns" else y[:60].dropna()
    assert {name: counts[name]["images"] for name in LABELS} == known.sum().astype(int).to_dict()
    assert main(["predict", *arguments]) == 0
    said = capsys.readouterr()
    assert "every finding" in said.out + said.err
    assert main(["report", *arguments, "--target", "patient"]) != 0
    assert "'patient' names none of the model's findings" in capsys.readouterr().err
