"""compare_backbones: folds, intervals, paired differences, and taking it up again."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor
from sktransfer.studies import BackboneComparison, compare_backbones

EXTRACTOR = PretrainedFeatureExtractor(image_size=32, value_range=(0, 16), engine="torch")
FINETUNE = FineTuneClassifier(
    image_size=32, value_range=(0, 16), engine="torch", max_epochs=1, random_state=0
)
NETS = {
    "squeeze": {"backbone": "squeezenet1_1", "weights": None},
    "resnet": {"backbone": "resnet18", "weights": None},
}


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X.reshape(-1, 8, 8)[:90], np.where(y[:90] > 4, "high", "low")


def test_scores_are_of_predictions_for_rows_of_other_folds(digits):
    X, y = digits
    found = compare_backbones(
        X, y, backbones=NETS, strategies=["extract"], cv=3, extractor=EXTRACTOR, random_state=2
    )
    table = found.table.set_index("backbone")
    folds = StratifiedKFold(3, shuffle=True, random_state=2)
    own = PretrainedFeatureExtractor(
        "squeezenet1_1", weights=None, image_size=32, value_range=(0, 16), engine="torch"
    )
    model = make_pipeline(own, StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    expected = cross_val_predict(model, X, y, cv=folds, method="predict_proba")
    np.testing.assert_allclose(found.probabilities["squeeze", "extract"], expected, atol=1e-5)
    predicted = found.classes[expected.argmax(1)]
    row = table.loc["squeeze"]
    assert row["accuracy"] == accuracy_score(y, predicted)
    assert row["f1"] == pytest.approx(f1_score(y, predicted, pos_label="low"))
    assert row["roc_auc"] == pytest.approx(roc_auc_score(y == "low", expected[:, 1]), abs=1e-6)
    assert (table["accuracy_low"] < table["accuracy"]).all()
    assert (table["roc_auc_high"] > table["roc_auc"]).all()
    assert table.loc["squeeze", "n_parameters"] < table.loc["resnet", "n_parameters"]
    assert found.table["accuracy"].is_monotonic_decreasing


def test_both_strategies_and_taking_it_up_again(digits, tmp_path, monkeypatch):
    X, y = digits
    options = {
        "cv": 2, "extractor": EXTRACTOR, "finetune": FINETUNE, "directory": tmp_path / "kept",
    }  # fmt: skip
    fits = []
    fit = FineTuneClassifier.fit
    monkeypatch.setattr(
        FineTuneClassifier, "fit", lambda self, *a, **k: fits.append(1) or fit(self, *a, **k)
    )
    squeeze = {"squeeze": NETS["squeeze"]}
    first = compare_backbones(X, y, backbones=squeeze, **options)
    assert len(fits) == 2
    assert set(first.table["strategy"]) == {"extract", "finetune"}
    again = compare_backbones(X, y, backbones=squeeze, **options)
    assert len(fits) == 2  # nothing was computed again
    pd.testing.assert_frame_equal(again.table, first.table)
    files = sorted((tmp_path / "kept").iterdir())
    assert len(files) == 4
    files[0].write_text("{cut sho")
    files[1].unlink()
    repaired = compare_backbones(X, y, backbones=squeeze, **options)
    pd.testing.assert_series_equal(repaired.table["accuracy"], first.table["accuracy"])
    # Other labels are another comparison.
    before = len(list((tmp_path / "kept").iterdir()))
    compare_backbones(X, y[::-1], backbones=squeeze, strategies="extract", **options)
    assert len(list((tmp_path / "kept").iterdir())) == before + 2


def test_groups_are_not_divided_and_are_resampled_whole(digits):
    X, _ = digits
    patients = np.repeat(np.arange(18), 5)
    labels = np.random.default_rng(0).integers(2, size=18)[patients]
    X = X[patients * 5]
    options = {
        "backbones": {"squeeze": NETS["squeeze"]}, "strategies": "extract",
        "extractor": EXTRACTOR, "cv": 3,
    }  # fmt: skip
    loose = compare_backbones(X, labels, **options).table.iloc[0]
    strict = compare_backbones(X, labels, groups=patients, **options).table.iloc[0]
    assert loose["accuracy"] > 0.85
    assert strict["accuracy"] < 0.75
    assert strict["accuracy_high"] - strict["accuracy_low"] > 0.2


def test_paired_differences_tell_apart_what_single_intervals_do_not():
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=400)
    common = rng.normal(size=400) + y
    worse = np.where(rng.uniform(size=400) < 0.06, -common, common)
    probabilities = {}
    for name, decision in (("a", common), ("b", worse)):
        p = 1 / (1 + np.exp(-(decision - 0.5)))
        probabilities[name, "extract"] = np.stack([1 - p, p], axis=1)
    table = pd.DataFrame({"backbone": ["a", "b"], "strategy": "extract", "roc_auc": [0.8, 0.7]})
    found = BackboneComparison(table, probabilities, np.array([0, 1]), y, None)
    gap = found.differences("roc_auc").iloc[0]
    assert gap["backbone"] == "b"
    assert gap["low"] < gap["difference"] < gap["high"] < 0
    area = [roc_auc_score(y, probabilities[name, "extract"][:, 1]) for name in "ab"]
    assert gap["difference"] == pytest.approx(area[1] - area[0])
    back = found.differences("roc_auc", to=("b", "extract")).iloc[0]
    assert back["difference"] == pytest.approx(-gap["difference"])
    with pytest.raises(ValueError, match="There is no"):
        found.differences(to=("c", "extract"))
    with pytest.raises(ValueError, match="metric must be"):
        found.differences("recall")


def test_a_classifier_of_ones_own(digits):
    X, y = digits
    found = compare_backbones(
        X, y, backbones={"a": NETS["squeeze"]}, strategies="extract", extractor=EXTRACTOR, cv=2,
        classifier=DummyClassifier(strategy="prior"),
    )  # fmt: skip
    # Each fold has its own share of the classes, and that is all the predictions say.
    assert len(np.unique(found.probabilities["a", "extract"][:, 1])) == 2
    assert found.table["roc_auc"][0] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategies": ["both"]}, "strategies must be some of"),
        ({"backbones": []}, "backbones is empty"),
        ({"groups": [1]}, "must have as many"),
        ({"classifier": LinearSVC()}, "needs predict_proba"),
    ],
)
def test_bad_values(digits, options, message):
    X, y = digits
    with pytest.raises(ValueError, match=message):
        compare_backbones(X, y, extractor=EXTRACTOR, **{"backbones": NETS, **options})
    with pytest.raises(ValueError, match="one class only"):
        compare_backbones(X, np.zeros(90), backbones=NETS)
