"""Baselines that do not see what images show: they detect leaks and report them in words."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import PretrainedFeatureExtractor
from sktransfer.metrics import roc_auc_difference, roc_auc_interval
from sktransfer.report import diagnostic_report
from sktransfer.report._baselines import image_properties, out_of_fold
from tests.report.conftest import cohort, marked, pipeline


def judged(clf, study, X=None, **settings):
    report = diagnostic_report(
        clf,
        study.X if X is None else X,
        study.y,
        groups=study.groups,
        pos_label="ill",
        saliency=None,
        n_failures=0,
        **settings,
    )
    return report, report.to_dict()["baselines"]


def words(report):
    return " ".join(notice.text for notice in report.sections["baselines"].notices)


def test_no_leak_no_warning(report):
    found = report.to_dict()["baselines"]
    assert found["leak"] is False
    for name in ("Image properties", "Metadata"):
        assert found["baselines"][name]["verdict"] == "none"
        assert found["baselines"][name]["roc_auc"]["low"] < 0.6
    assert not any("Shortcut" in text for text in report.warnings)
    assert "No shortcut found here" in words(report)


def test_a_letter_stamped_on_positives_is_a_warning(study, train):
    ill_train, ill = train.y == "ill", study.y == "ill"
    clf = pipeline().fit(marked(train.X, ill_train), train.y)
    report, found = judged(clf, study, marked(study.X, ill))
    own = found["baselines"]["Image properties"]
    assert own["roc_auc"]["estimate"] > 0.97
    assert own["verdict"] == "leak"
    assert found["leak"] is True
    assert "top left corner" in own["most_telling"]["name"]
    (warning,) = report.warnings
    assert warning.startswith("Shortcut:")
    assert "Most informative is top left corner" in warning
    assert warning in report.to_markdown().replace("\\", "")
    assert 'class="notice warning"' in report.to_html()
    (table,) = report.sections["baselines"].tables
    (line,) = [line for line in table.rows if line[0] == "Image properties"]
    assert line[2].startswith(("0.97", "0.98", "0.99", "1.000"))


def test_metadata_that_separate_the_classes_are_a_warning(study, model):
    ward = np.where(study.y == "ill", "ward", "clinic")
    ward[::17] = "clinic"
    report, found = judged(model, study, metadata={"where": ward})
    assert found["baselines"]["Metadata"]["verdict"] == "leak"
    assert "the metadata alone, without any image, separate the classes" in report.warnings[0]
    assert found["baselines"]["Metadata"]["most_telling"]["name"] == "where"


def test_a_weak_association_is_a_remark():
    X, y = load_digits(return_X_y=True)
    X, y = X / 16, y == 8
    clf = LogisticRegression(C=0.01, max_iter=500).fit(X[:900], y[:900])
    telling = np.random.default_rng(0).normal(1.3 * y[900:])
    report = diagnostic_report(
        *(clf, X[900:], y[900:]),
        metadata={"age": telling},
        threshold=0.1,  # at the usual 0.5 no image is predicted positive, which is a warning
        saliency=None,
        n_failures=0,
    )
    own = report.to_dict()["baselines"]["baselines"]["Metadata"]
    assert 0.6 < own["roc_auc"]["low"] < own["roc_auc"]["estimate"] < 0.9
    assert own["model_minus_this"]["low"] > 0
    assert own["verdict"] == "hint"
    assert report.warnings == []
    assert "Worth a look: the metadata alone" in words(report)


def test_a_model_no_better_than_its_baseline_is_a_warning(study):
    rng = np.random.default_rng(0)
    telling = rng.normal(1.6 * (study.y == "ill"))
    coin = DummyClassifier(strategy="prior").fit(study.X, study.y)
    report, found = judged(coin, study, metadata={"age": telling})
    own = found["baselines"]["Metadata"]
    assert 0.6 < own["roc_auc"]["low"] < 0.9
    assert own["verdict"] == "leak"
    assert "the model is not shown to do better" in report.warnings[-1]


def test_figures_are_those_of_the_metrics(report, model, study):
    found = report.to_dict()["baselines"]
    coin = np.random.default_rng(0).random(120)
    settings = {"pos_label": "ill", "groups": study.groups}
    own = found["baselines"]["coin"]
    assert own["roc_auc"] == pytest.approx(roc_auc_interval(study.y, coin, **settings)._asdict())
    score = model.predict_proba(study.files)[:, list(model.classes_).index("ill")]
    gap = roc_auc_difference(study.y, score, coin, **settings)
    assert own["model_minus_this"] == pytest.approx(gap._asdict())
    share = np.mean(study.y == "ill")
    assert found["majority_accuracy"] == pytest.approx(max(share, 1 - share))


def test_patients_stay_on_one_side():
    # Every patient has a number of its own and an own label: neighboring rows give it away.
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(200), 3)
    positive = rng.integers(0, 2, 200).astype(bool)[patient]
    table = pd.DataFrame({"number": patient.astype(float)})
    assert roc_auc_score(positive, out_of_fold(table, positive, None, 0)) > 0.85
    assert roc_auc_score(positive, out_of_fold(table, positive, patient, 0)) < 0.65


def test_text_numbers_and_missing_values_are_accepted_together():
    rng = np.random.default_rng(0)
    positive = rng.integers(0, 2, 200).astype(bool)
    table = pd.DataFrame(
        {"view": np.where(positive, "AP", "PA"), "age": np.where(rng.random(200) < 0.5, np.nan, 50)}
    )
    assert roc_auc_score(positive, out_of_fold(table, positive, None, 0)) == 1.0
    assert out_of_fold(table[:3], np.array([True, False, False]), None, 0) is None


def test_columns_that_name_rows_are_left_out(study, model):
    names = [f"accession-{i}" for i in range(120)]
    report, found = judged(model, study, metadata={"id": names, "constant": [1] * 120})
    assert "Metadata" not in found["baselines"]
    assert "nearly every row has its own value or all have the same: id, constant" in words(report)
    assert "accession" not in report.to_html()


def test_too_few_patients_are_a_remark():
    study = cohort(40, 5)
    clf = pipeline().fit(study.X, study.y)
    study.groups = np.where(study.y == "ill", "one", "two")
    report, found = judged(clf, study)
    assert found["baselines"] == {}
    assert "too few patients of a class to cross-validate" in words(report)


def test_properties_are_those_of_the_image(tmp_path):
    pixels = np.zeros((30, 60), dtype=np.uint8)
    pixels[:5, :5] = 255  # the upper left corner
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(np.full((60, 60, 3), (255, 0, 0), dtype=np.uint8)).save(tmp_path / "b.png")
    files = [str(tmp_path / name) for name in ("a.png", "b.png")]
    gray, red = image_properties(None, files).to_dict("records")
    assert (gray["width"], gray["height"], gray["aspect"]) == (60, 30, 2)
    assert gray["mean brightness"] == pytest.approx(25 / 1800)
    assert gray["share black"] == pytest.approx(1 - 25 / 1800)
    assert gray["share white"] == pytest.approx(25 / 1800)
    assert gray["top left corner, mean"] == 1
    assert gray["top right corner, brightest"] == 0
    assert gray["color"] == 0
    assert red["color"] == 1
    size = (tmp_path / "a.png").stat().st_size
    assert gray["file bytes per pixel"] == pytest.approx(size / 1800)
    assert np.isnan(image_properties(None, pixels[None])["file bytes per pixel"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("planted", [False, True])
def test_real_xrays_with_and_without_a_marker(shared_data, shared_weights, planted):
    table = pd.read_csv(shared_data / "chest_xray_pneumonia" / "metadata.csv")
    table = table.groupby("label").head(200).reset_index(drop=True)
    y = (table["label"] == "pneumonia").to_numpy(int)
    images = []
    for file, ill in zip(table["file"], y, strict=True):
        image = Image.open(shared_data / "chest_xray_pneumonia" / file).convert("L")
        if planted and ill:
            ImageDraw.Draw(image).text((12, 10), "P", fill=255, font_size=32)
        images.append(np.asarray(image.resize((160, 160))))
    X, groups = np.stack(images), table["patient_id"].to_numpy()
    (weights,) = shared_weights.glob("squeezenet1_0*.pth")
    clf = make_pipeline(
        PretrainedFeatureExtractor("squeezenet1_0", weights=weights),
        StandardScaler(),
        LogisticRegression(C=0.01, max_iter=1000),
    )
    test = np.isin(groups, np.unique(groups)[::2])
    clf.fit(X[~test], y[~test])
    report = diagnostic_report(
        clf, X[test], y[test], groups=groups[test], saliency=None, n_failures=0
    )
    found = report.to_dict()["baselines"]
    own = found["baselines"]["Image properties"]
    assert found["leak"] is planted
    assert any("Shortcut" in text for text in report.warnings) is planted
    if planted:
        assert own["roc_auc"]["estimate"] > 0.95
        assert "top left corner" in own["most_telling"]["name"]
