"""Images unlike those of fit are found, at the stated rate, and refused."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor, TransferClassifier
from sktransfer.exceptions import (
    FailedRowsWarning,
    ImageDecodeError,
    NovelImageError,
    WeightsMismatchError,
)
from sktransfer.novelty import NoveltyDetector, NoveltyGate
from sktransfer.novelty._distances import WIDEST, StageDistance, narrowed

NETWORK = {"backbone": "squeezenet1_1", "weights": None, "image_size": 32}


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return (X.reshape(-1, 8, 8) * 15).astype(np.uint8), y


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)


@pytest.fixture(scope="module")
def detector(digits):
    return NoveltyDetector(PretrainedFeatureExtractor(**NETWORK)).fit(digits[0][:100])


@pytest.mark.filterwarnings("ignore:A false-alarm rate")
@parametrize_with_checks([NoveltyDetector(), NoveltyGate(LogisticRegression())])
def test_scikit_learns_checks_pass(estimator, check):
    check(estimator)


def rows_of(n, d=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ np.random.default_rng(1).normal(size=(d, d))


@pytest.mark.parametrize("d", [6, 60])
def test_a_row_is_judged_as_if_its_patient_had_not_been_there(d):
    X = rows_of(40, d)
    units = [np.array([i]) for i in range(30)] + [np.arange(30, 33), np.arange(33, 40)]
    stage, left_out = StageDistance.fit(X, units)
    n = len(X)
    # Standardization and ridge are those of all rows, as in the closed form.
    scale = stage.arrays["scale"]
    for unit in (units[3], units[-2], units[-1]):
        rest = np.delete(X, unit, axis=0)
        own, center = X[unit] / scale, rest.mean(axis=0) / scale
        inner = (rest / scale - center).T @ (rest / scale - center) / n + np.eye(d)
        z = own - center
        squares = np.einsum("ij,jk,ik->i", z, np.linalg.inv(inner), z)
        np.testing.assert_allclose(left_out[unit] ** 2, squares * (n - len(unit)) / n, rtol=1e-6)


def test_all_rows_of_one_group_are_refused():
    with pytest.raises(ValueError, match="one group"):
        NoveltyDetector().fit(rows_of(30), groups=np.zeros(30))


@pytest.mark.parametrize(("n", "d", "rate"), [(50, 5, 0.05), (50, 200, 0.1), (200, 20, 0.05)])
def test_the_false_alarm_rate_is_kept_on_average(n, d, rate):
    found = []
    for seed in range(40):
        X = rows_of(n + 100, d, seed)
        detector = NoveltyDetector(false_alarm_rate=rate).fit(X[:n])
        found.append((detector.predict(X[n:]) == -1).mean())
    # The order statistic and the row that is left out make it smaller with few rows.
    assert rate / 3 < np.mean(found) < rate + 4 * np.std(found) / np.sqrt(len(found))


def test_groups_keep_the_rate_where_patients_have_several_images():
    rates = {}
    for grouped in (True, False):
        found = []
        for seed in range(30):
            rng = np.random.default_rng(seed)
            of_patient = rng.normal(size=(100, 20))
            X = np.repeat(of_patient, 4, axis=0) + 0.2 * rng.normal(size=(400, 20))
            patients = np.repeat(np.arange(100), 4)
            fitted = NoveltyDetector().fit(X[:160], groups=patients[:160] if grouped else None)
            found.append((fitted.predict(X[160:]) == -1).mean())
        rates[grouped] = np.mean(found)
    assert rates[True] < 0.07
    assert rates[False] > 0.2


def test_too_few_rows_for_the_rate_are_warned_of():
    with pytest.warns(UserWarning, match="at least 19 rows"):
        NoveltyDetector().fit(rows_of(18))
    NoveltyDetector().fit(rows_of(19))


def test_images_of_another_kind_are_novel(detector, digits, noise):
    usual = detector.score_samples(digits[0][100:200])
    for other in (noise, 255 - digits[0][100:200], np.zeros((1, 8, 8), np.uint8)):
        score = detector.score_samples(other)
        assert roc_auc_score([1] * 100 + [0] * len(score), np.r_[usual, score]) > 0.98
    assert (detector.predict(noise) == -1).all()
    assert (detector.predict(digits[0][100:200]) == 1).mean() > 0.85


def test_p_values_are_uniform_for_usual_images_and_least_for_novel_ones(detector, digits, noise):
    p = detector.p_values(digits[0][100:300])
    assert 0.35 < p.mean() < 0.65
    assert (detector.p_values(noise) == 1 / 101).all()
    # Novel is what has a p value of at most the rate.
    np.testing.assert_array_equal(p <= 0.05, detector.predict(digits[0][100:300]) == -1)


def test_stages_of_given_features_are_those_of_the_network(detector, digits):
    net = PretrainedFeatureExtractor(**NETWORK, layer="all")
    F = net.fit_transform(digits[0][:120])
    widths = [own.stop - own.start for own in detector._stages]
    other = NoveltyDetector(widths=widths).fit(F[:100])
    np.testing.assert_allclose(
        other.score_samples(F[100:]), detector.score_samples(digits[0][100:120])
    )
    with pytest.raises(ValueError, match="widths add up to 3"):
        NoveltyDetector(widths=[1, 2]).fit(F)
    with pytest.raises(ValueError, match="numbers of columns"):
        NoveltyDetector(widths=[0.5, 2]).fit(F)


def test_features_of_stages_are_judged_by_their_pattern():
    X = np.abs(rows_of(60, 8))
    detector = NoveltyDetector(widths=[3, 5]).fit(X)
    np.testing.assert_allclose(detector.score_samples(7 * X), detector.score_samples(X))
    plain = NoveltyDetector(widths=[3, 5], normalize=False).fit(X)
    assert (plain.predict(100 * X) == -1).all()
    assert (NoveltyDetector().fit(X).predict(100 * X) == -1).all()


def test_it_is_the_last_step_of_a_pipeline(digits, noise):
    pipe = make_pipeline(
        PretrainedFeatureExtractor(**NETWORK, layer="features.3"), NoveltyDetector()
    )
    pipe.fit(digits[0][:60], noveltydetector__groups=np.arange(60) // 2)
    assert (pipe.predict(noise) == -1).all()


def test_a_column_that_never_moved_counts():
    X = np.c_[rows_of(50), np.zeros(50)]
    detector = NoveltyDetector().fit(X)
    moved = X[:1] + np.r_[np.zeros(6), 50.0]
    assert detector.predict(moved) == [-1]
    assert NoveltyDetector().fit(np.ones((30, 3))).predict(np.ones((2, 3))).tolist() == [1, 1]


def test_wide_stages_are_narrowed_and_distances_kept():
    X = np.random.default_rng(0).normal(size=(80, 4096)) * np.linspace(0.1, 2, 4096)
    close = narrowed(X)
    assert close.shape == (80, WIDEST)
    full = ((X[:40] - X[40:]) ** 2).sum(axis=1)
    np.testing.assert_allclose(((close[:40] - close[40:]) ** 2).sum(axis=1), full, rtol=0.3)
    detector = NoveltyDetector().fit(X)
    assert len(pickle.dumps(detector)) < 3e6
    assert (detector.predict(3 * X[:, ::-1]) == -1).all()


def test_rows_that_cannot_be_read_have_no_score(digits):
    images = [*digits[0][:40], b"no image"]
    with pytest.raises(ImageDecodeError, match="row 40"):
        NoveltyDetector(PretrainedFeatureExtractor(**NETWORK)).fit(images)
    detector = NoveltyDetector(PretrainedFeatureExtractor(**NETWORK), on_error="nan")
    with pytest.warns(FailedRowsWarning):
        detector.fit(images, groups=range(41))
    assert detector.failed_rows_["row"].tolist() == [40]
    with pytest.warns(FailedRowsWarning):
        scores, p = detector.score_samples(images[38:]), None
    assert np.isnan(scores).tolist() == [False, False, True]
    with pytest.warns(FailedRowsWarning):
        p = detector.p_values(images[38:])
    assert np.isnan(p).tolist() == [False, False, True]
    with pytest.warns(FailedRowsWarning), pytest.raises(ImageDecodeError, match="row 2"):
        detector.predict(images[38:])
    with pytest.warns(FailedRowsWarning):
        assert detector.drift_report(images[20:]).n_images == 20
    assert len(pickle.loads(pickle.dumps(detector)).failed_rows_) == 0
    X = np.vstack([rows_of(30), np.full((1, 6), np.nan)])
    with pytest.warns(FailedRowsWarning):
        fitted = NoveltyDetector(on_error="nan").fit(X)
    with pytest.warns(FailedRowsWarning), pytest.raises(ImageDecodeError, match="row 30"):
        fitted.predict(X)


def test_a_saved_detector_gives_the_same_scores(detector, digits, noise, tmp_path):
    path = tmp_path / "detector.safetensors"
    detector.save(path)
    other = NoveltyDetector.load(path)
    X = digits[0][100:120]
    for copy in (other, pickle.loads(pickle.dumps(detector))):
        np.testing.assert_array_equal(copy.score_samples(X), detector.score_samples(X))
        assert copy.drift_report(noise).p_value == detector.drift_report(noise).p_value
    assert other.get_params()["false_alarm_rate"] == 0.05
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsMismatchError, match="damaged"):
        NoveltyDetector.load(path)
    features = NoveltyDetector(widths=[2, 4]).fit(pd.DataFrame(rows_of(40), columns=[*"abcdef"]))
    features.save(path)
    frame = pd.DataFrame(rows_of(5, seed=3), columns=[*"abcdef"])
    found = NoveltyDetector.load(path).score_samples(frame)
    np.testing.assert_array_equal(found, features.score_samples(frame))
    with pytest.raises(ValueError, match="no saved FineTuneClassifier"):
        FineTuneClassifier.load(path)


# --- the gate -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gate(digits):
    net = FineTuneClassifier(**NETWORK, freeze_depth="all", random_state=0)
    return NoveltyGate(net).fit(digits[0][:100], digits[1][:100])


def test_flagged_images_keep_their_predictions(gate, digits, noise):
    X = np.concatenate([digits[0][100:110], noise])
    np.testing.assert_array_equal(gate.predict_proba(X), gate.estimator_.predict_proba(X))
    assert gate.is_novel(X)[10:].all()
    assert gate.detector_.extractor_.layer == "all"


def test_referred_images_have_no_class(gate, digits, noise):
    X = np.concatenate([digits[0][100:110], noise[:3]])
    gate.set_params(on_novel="refer")
    novel = gate.is_novel(X)
    labels = gate.predict(X)
    assert (labels[novel] == -1).all()
    assert gate.refer_label_ == -1
    np.testing.assert_array_equal(labels[~novel], gate.estimator_.predict(X)[~novel])
    np.testing.assert_array_equal(np.isnan(gate.predict_proba(X)).all(axis=1), novel)
    np.testing.assert_array_equal(np.isnan(gate.decision_function(X)).all(axis=1), novel)
    gate.set_params(on_novel="flag")


def test_a_mark_may_be_chosen():
    X = rows_of(60)
    gate = NoveltyGate(LogisticRegression(), on_novel="refer", refer_label="reader")
    gate.fit(X, X[:, 0] > 0)
    assert gate.predict(np.vstack([X[:1], np.full((1, 6), 1e4)]))[1] == "reader"
    with pytest.raises(ValueError, match="is one of the classes"):
        gate.set_params(refer_label=1).fit(X, (X[:, 0] > 0).astype(int))


@pytest.mark.parametrize(
    ("labels", "marker"),
    [([-1, 1], -2), ([0, 1], -1), (["a", "b"], "refer"), ([0.0, 2.0], -1), ([False, True], -1)],
)
def test_the_mark_of_referred_rows_is_no_class(labels, marker):
    X = rows_of(60)
    y = np.asarray(labels)[(X[:, 0] > 0).astype(int)]
    gate = NoveltyGate(LogisticRegression(), on_novel="refer").fit(X, y)
    found = gate.predict(np.vstack([X[:5], np.full((1, 6), 1e4)]))
    assert found[-1] == marker == gate.refer_label_
    assert set(found[:5].tolist()) <= {*labels, marker}


def test_an_error_names_the_row_and_the_file(gate, digits, noise, tmp_path):
    from PIL import Image

    files = []
    for name, image in (("seven", digits[0][107]), ("odd", noise[0])):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
        files.append(str(tmp_path / f"{name}.png"))
    gate.set_params(on_novel="raise")
    with pytest.raises(NovelImageError, match=r"row 1 \(odd.png\).*1 of 2 rows") as caught:
        gate.predict(files)
    assert (caught.value.index, caught.value.source) == (1, "odd.png")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(NovelImageError):
        gate.predict_proba(files)
    gate.predict(files[:1])
    gate.set_params(on_novel="flag")


def test_fitted_parts_become_a_gate(gate, digits, noise, tmp_path):
    gate.detector_.save(tmp_path / "detector")
    gate.estimator_.save(tmp_path / "net")
    parts = NoveltyGate(
        FrozenEstimator(FineTuneClassifier.load(tmp_path / "net")),
        detector=FrozenEstimator(NoveltyDetector.load(tmp_path / "detector")),
        on_novel="refer",
    ).fit(None, None)
    X = np.concatenate([digits[0][100:110], noise[:3]])
    assert (parts.predict(X)[-3:] == -1).all()


@pytest.mark.parametrize("kind", ["pipeline", "transfer"])
def test_the_default_detector_has_the_classifiers_network(kind, digits, noise):
    net = PretrainedFeatureExtractor(**NETWORK, on_error="nan")
    if kind == "pipeline":
        clf = make_pipeline(net, StandardScaler(), LogisticRegression())
    else:
        clf = TransferClassifier(net, random_state=0)
    X, y = digits[0][:60], digits[1][:60] > 4
    gate = NoveltyGate(clf, on_novel="refer").fit(X, y, groups=np.arange(60) // 2)
    assert gate.detector_.extractor_.reference_.name == "squeezenet1_1"
    assert (gate.predict(noise) == -1).all()


def test_groups_and_weights_reach_who_asked_for_them(digits):
    X = rows_of(80)
    y = X[:, 0] > 0
    with config_context(enable_metadata_routing=True):
        clf = LogisticRegression().set_fit_request(sample_weight=True)
        gate = NoveltyGate(clf).fit(X, y, groups=np.arange(80) // 2, sample_weight=1.0 * y + 1)
    plain = NoveltyGate(LogisticRegression()).fit(X, y, sample_weight=1.0 * y + 1)
    np.testing.assert_array_equal(gate.estimator_.coef_, plain.estimator_.coef_)
    grouped = NoveltyDetector().fit(X, groups=np.arange(80) // 2)
    assert gate.detector_.offset_ == grouped.offset_ != plain.detector_.offset_


# --- drift ----------------------------------------------------------------------------------


def test_the_test_of_drift_keeps_its_level_by_patient():
    p, unaware = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        X = np.repeat(rng.normal(size=(40, 4)), 4, axis=0) + 0.1 * rng.normal(size=(160, 4))
        patients = np.repeat(np.arange(40), 4)
        fitted = NoveltyDetector().fit(X[:100], groups=patients[:100])
        new = {"random_state": seed}
        p.append(fitted.drift_report(X[100:], groups=patients[100:], **new).p_value)
        fitted = NoveltyDetector().fit(X[:100])
        unaware.append(fitted.drift_report(X[100:], **new).p_value)
    assert np.mean(np.array(p) <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 60)
    assert np.mean(np.array(unaware) <= 0.05) > 0.5


def test_images_of_another_source_are_noticed(detector, digits):
    shifted = np.clip(digits[0][100:150].astype(int) + 40, 0, 255).astype(np.uint8)
    report = detector.drift_report(shifted)
    assert report.p_value == 0.001
    assert report.n_images == report.n_groups == 50
    assert report.operating_point == "unknown"
    assert "labels" in report.reason
    assert "unknown" in str(report)
    assert "unknown" in report._repr_html_()
    assert detector.drift_report(digits[0][100:150]).p_value > 0.05
    with pytest.raises(ValueError, match="at least 2 images"):
        detector.drift_report(digits[0][:1])


def labeled_rows(n, share, seed, moved=0.0):
    rng = np.random.default_rng(seed)
    y = (rng.uniform(size=n) < share).astype(int)
    X = rng.normal(size=(n, 8)) + 1.2 * y[:, None] * (np.arange(8) < 2)
    return X + moved * (np.arange(8) == 5), y


def test_predictive_values_follow_the_prevalence():
    gate = NoveltyGate(LogisticRegression()).fit(*labeled_rows(300, 0.5, 0))
    X, y = labeled_rows(4000, 0.15, 1)
    labeled = labeled_rows(600, 0.5, 2)
    report = gate.drift_report(X[:400], labeled=labeled)
    table = report.operating_point.loc[1]
    called = gate.predict(X) == 1
    truth = {
        "prevalence": 0.15,
        "recall": called[y == 1].mean(),
        "precision": y[called].mean(),
    }
    for name, value in truth.items():
        assert table[f"{name}_low"] < value < table[f"{name}_high"]
    # The share of positive rows among the labeled ones, and its predictive value, are far off.
    X, y = labeled
    assert table["precision_high"] < y[gate.predict(X) == 1].mean()
    assert "class" in str(report)
    assert "Operating point" in report._repr_html_()


@pytest.mark.parametrize(
    ("n_new", "n_labeled", "moved", "why"),
    [
        (400, 600, 0.8, "look different"),
        (400, 600, 30.0, "are novel"),
        (20, 600, 0.0, "it takes"),
        (400, 30, 0.0, "it takes"),
    ],
)
def test_the_operating_point_is_unknown_where_it_cannot_be_told(n_new, n_labeled, moved, why):
    gate = NoveltyGate(LogisticRegression()).fit(*labeled_rows(300, 0.5, 0))
    X, _ = labeled_rows(n_new, 0.3, 1, moved)
    report = gate.drift_report(X, labeled=labeled_rows(n_labeled, 0.5, 2))
    assert report.operating_point == "unknown"
    assert why in report.reason


def test_a_classifier_of_chance_tells_nothing_of_the_prevalence():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(900, 4)), rng.integers(0, 2, 900)
    gate = NoveltyGate(LogisticRegression()).fit(X[:300], y[:300])
    report = gate.drift_report(X[600:], labeled=(X[300:600], y[300:600]))
    assert report.operating_point == "unknown"
    assert "tell the classes apart" in report.reason
    with pytest.raises(ValueError, match=r"also rows of \[7\]"):
        gate.drift_report(X[600:], labeled=(X[300:600], y[300:600] * 7))


def test_labels_of_another_number_than_labeled_images_are_refused():
    X, y = rows_of(60), np.arange(60) % 2
    gate = NoveltyGate(LogisticRegression()).fit(X, y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        gate.drift_report(rows_of(30, seed=5), labeled=(X, y[:5]))
