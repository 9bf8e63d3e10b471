"""compare_backbones: folds, intervals, paired differences, and resuming."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor
from sktransfer.exceptions import FailedRowsWarning, ImageDecodeError
from sktransfer.studies import BackboneComparison, compare_backbones

EXTRACTOR = PretrainedFeatureExtractor(image_size=32, value_range=(0, 16), engine="torch")
FINETUNE = FineTuneClassifier(
    image_size=32, value_range=(0, 16), engine="torch", max_epochs=1, random_state=0
)
NETS = {
    "squeeze": PretrainedFeatureExtractor("squeezenet1_1", weights=None),
    "resnet": PretrainedFeatureExtractor("resnet18", weights=None),
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


def test_both_strategies_and_resuming(digits, tmp_path, monkeypatch):
    X, y = digits
    options = {
        "cv": 2, "extractor": EXTRACTOR, "finetune": FINETUNE, "path": tmp_path / "kept",
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


def test_damaged_records_are_computed_again(digits, tmp_path):
    X, y = digits
    options = {
        "backbones": {"squeeze": NETS["squeeze"]}, "strategies": "extract", "cv": 3,
        "extractor": EXTRACTOR, "path": tmp_path,
    }  # fmt: skip
    first = compare_backbones(X, y, **options)
    for file, damage in zip(sorted(tmp_path.iterdir()), (b"\xff\xfe", b"{}", b""), strict=True):
        file.write_bytes(damage)
    again = compare_backbones(X, y, **options)
    np.testing.assert_array_equal(
        again.probabilities["squeeze", "extract"], first.probabilities["squeeze", "extract"]
    )
    assert len(list(tmp_path.iterdir())) == 3


def test_what_changes_a_result_is_another_comparison(digits, tmp_path):
    X, y = digits
    C = np.linspace(0, 1, 2000)

    def n_files(X=X, y=y, **params):
        options = {
            "backbones": {"squeeze": NETS["squeeze"]}, "strategies": "extract", "cv": 2,
            "extractor": EXTRACTOR, "path": tmp_path,
            "classifier": TellsWhatItIsGiven(C), **params,
        }  # fmt: skip
        compare_backbones(X, y, **options)
        return len(list(tmp_path.iterdir()))

    assert n_files() == 2
    assert n_files() == 2
    other = C.copy()
    other[1000] = 5  # in the middle, which numpy's repr leaves out
    assert n_files(classifier=TellsWhatItIsGiven(other)) == 4
    darker = X.copy()
    darker[7] *= 0.5
    assert n_files(darker) == 6
    assert n_files(random_state=3) == 8
    assert n_files(extractor=clone(EXTRACTOR).set_params(pooling="max")) == 10
    assert n_files(extractor=clone(EXTRACTOR).set_params(n_jobs=2, cache=None)) == 10


class TellsWhatItIsGiven(DummyClassifier):
    def __init__(self, C=None):
        super().__init__()
        self.C = C


def test_results_with_functions_are_not_kept_without_a_fingerprint(digits, tmp_path):
    X, y = digits
    options = {
        "backbones": {"squeeze": NETS["squeeze"]}, "strategies": "extract", "cv": 2,
        "path": tmp_path,
    }  # fmt: skip

    def darker(image):
        return image * 0.5

    extractor = clone(EXTRACTOR).set_params(preprocessing=darker)
    with pytest.warns(UserWarning, match=r"Nothing is kept .*darker.* fingerprint"):
        compare_backbones(X, y, extractor=extractor, **options)
    assert not list(tmp_path.iterdir())
    darker.fingerprint = "darker 1"
    compare_backbones(X, y, extractor=extractor, **options)
    assert len(list(tmp_path.iterdir())) == 2
    darker.fingerprint = "darker 2"
    compare_backbones(X, y, extractor=extractor, **options)
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("strategy", ["extract", "finetune"])
def test_images_that_cannot_be_read_are_no_predictions(digits, strategy):
    X, y = digits
    rows = [*X[:40], b"no image", *X[40:]]
    labels, patients = np.insert(y, 40, "high"), np.arange(91) // 2
    options = {
        "backbones": {"squeeze": NETS["squeeze"]}, "strategies": strategy, "cv": 2,
        "extractor": clone(EXTRACTOR).set_params(on_error="nan"),
        "finetune": clone(FINETUNE).set_params(on_error="nan"),
    }  # fmt: skip
    with pytest.warns(FailedRowsWarning, match="1 of 91 rows .* left out"):
        found = compare_backbones(rows, labels, groups=patients, **options)
    assert np.array_equal(found.y, y)
    assert np.array_equal(found.groups, np.delete(patients, 40))
    probabilities = found.probabilities["squeeze", strategy]
    assert probabilities.shape == (90, 2)
    assert np.isfinite(probabilities).all()
    predicted = found.classes[probabilities.argmax(1)]
    assert found.table["accuracy"][0] == np.mean(predicted == y)
    with pytest.raises(ImageDecodeError, match=r"^row 40 "):  # of what was given, not of a fold
        compare_backbones(rows, labels, **{**options, "extractor": EXTRACTOR, "finetune": FINETUNE})


def test_speed_is_of_images_that_nothing_is_stored_of(digits):
    X, y = digits
    options = {"backbones": {"a": NETS["resnet"]}, "strategies": "extract", "cv": 2}
    big = clone(EXTRACTOR).set_params(image_size=96)
    compare_backbones(X, y, extractor=big, **options)
    table = compare_backbones(X, y, extractor=big, **options).table
    once = time.perf_counter()
    clone(big).set_params(backbone="resnet18", weights=None, cache=None).fit_transform(X)
    speed = 90 / (time.perf_counter() - once)
    row = table.iloc[0]
    assert row["images_per_s"] < 4 * speed
    assert row["images_per_s"] < 0.5 * 45 / row["predict_time_s"]


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


def test_a_classifier_of_the_user(digits):
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
        ({"groups": [1]}, "groups has 1; they must be as many"),
        ({"classifier": LinearSVC()}, "needs predict_proba"),
    ],
)
def test_bad_values(digits, options, message):
    X, y = digits
    with pytest.raises(ValueError, match=message):
        compare_backbones(X, y, extractor=EXTRACTOR, **{"backbones": NETS, **options})
    with pytest.raises(ValueError, match="holds one only"):
        compare_backbones(X, np.zeros(90), backbones=NETS)


def test_a_fold_without_a_class_is_an_error_before_anything_is_trained(digits):
    X, y = digits
    options = {"backbones": NETS, "extractor": EXTRACTOR, "cv": 2}
    with pytest.raises(ValueError, match=r"train on no row of \['(high|low)'\]"):
        compare_backbones([b"nothing"] * 90, y, groups=y, **options)
    with pytest.raises(ValueError, match="continuous"):
        compare_backbones(X, np.linspace(0, 1, 90), **options)
