"""The scikit-learn contract of TransferClassifier: official checks, and every form of images."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import (
    GridSearchCV,
    StratifiedGroupKFold,
    TunedThresholdClassifierCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

from sktransfer import PretrainedFeatureExtractor, TransferClassifier
from sktransfer._frozen import MEMORY_STORE
from sktransfer.model_selection import OperatingPointClassifier
from tests.forms import FORMS, rows


def network(name="squeezenet1_1", **params):
    return PretrainedFeatureExtractor(name, **{"weights": None, "image_size": 32, **params})


# Zero expected failures, through the route scikit-learn knows: one raveled image a row. The
# checks feed integers and floats from -50 to 103.
CHECKED = TransferClassifier(
    network(), image_shape=(1, -1), value_range=(-200, 200), random_state=0
)


@pytest.mark.filterwarnings("ignore:No score counts")  # some checks have one group a class
@parametrize_with_checks([CHECKED])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


N, SIDE = 24, 20


def small(**params):
    return TransferClassifier(**{"backbones": network(), "random_state": 0, **params})


@pytest.fixture(scope="module")
def task():
    """Dark and bright noise: easy, and not perfectly so."""
    rng = np.random.default_rng(0)
    y = np.arange(N) % 2
    X = rng.integers(0, 200, (N, SIDE, SIDE, 3)) + 40 * y[:, None, None, None]
    return X.astype(np.uint8), y


@pytest.fixture(scope="module")
def folder(tmp_path_factory, task):
    folder = tmp_path_factory.mktemp("images")
    for i, image in enumerate(task[0]):
        Image.fromarray(image).save(folder / f"{i:02d}.png")
    return folder


@pytest.fixture(params=FORMS)
def form(request, task, folder):
    names = [str(folder / f"{i:02d}.png") for i in range(N)]
    return FORMS[request.param](task[0], names)


def test_every_form_gives_the_same_classifier_and_keeps_rows_with_their_images(form, task):
    X, y = task
    before = pickle.dumps(form)
    clf = small()
    params = dict(clf.get_params())
    P = clf.fit(form, y).predict_proba(form)
    assert clf.get_params() == params
    assert pickle.dumps(form) == before
    reference = small().fit(X, y).predict_proba(X)
    # Folds are drawn by the digests of files or arrays, and the temperature depends on folds.
    np.testing.assert_allclose(P, reference, atol=0.05)
    np.testing.assert_allclose(P.sum(axis=1), 1)
    state = dict(vars(clf))
    order = np.random.default_rng(0).permutation(N)
    np.testing.assert_allclose(clf.predict_proba(rows(form, order)), P[order], atol=1e-5)
    np.testing.assert_allclose(clf.predict_proba(rows(form, [3, 3])), P[[3, 3]], atol=1e-5)
    assert all(vars(clf)[name] is value for name, value in state.items())


def test_fitted_attributes_end_in_an_underscore(task):
    clf = small().fit(*task)
    own = set(vars(clf)) - set(clf.get_params())
    assert all(name.endswith("_") or name.startswith("_") for name in own)


def test_the_order_of_rows_does_not_matter_and_neither_does_the_store(task):
    X, y = task
    P = small().fit(X, y).predict_proba(X)
    order = np.random.default_rng(1).permutation(N)
    np.testing.assert_allclose(small().fit(X[order], y[order]).predict_proba(X), P, atol=1e-4)
    np.testing.assert_allclose(small(cache=None).fit(X, y).predict_proba(X), P, atol=1e-4)
    one_by_one = small().fit(X, y)
    alone = np.concatenate([one_by_one.predict_proba(X[i : i + 1]) for i in range(N)])
    np.testing.assert_allclose(alone, P, atol=1e-4)


def test_the_same_seed_gives_every_bit_again_and_leaves_the_global_state(task):
    np.random.seed(3)  # noqa: NPY002 - the global state is what must not move
    state = pickle.dumps(np.random.get_state())  # noqa: NPY002
    P = small().fit(*task).predict_proba(task[0])
    assert pickle.dumps(np.random.get_state()) == state  # noqa: NPY002
    np.testing.assert_array_equal(small().fit(*task).predict_proba(task[0]), P)
    np.testing.assert_array_equal(clone(small().fit(*task)).fit(*task).predict_proba(task[0]), P)


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["no", "yes"], dtype=object),
        np.array(["b", "a"]),
        np.array([False, True]),
        np.array([-1, 1]),
        np.array([7, 3], dtype=np.int8),
        np.array([2.0, 5.0]),
    ],
    ids=lambda labels: f"{labels.dtype} {labels[0]}",
)
def test_labels_of_every_type_are_predicted_as_they_were_given(task, labels):
    X, y = task
    clf = small().fit(X, labels[y])
    predicted = clf.predict(X)
    assert clf.classes_.tolist() == sorted(labels.tolist())
    assert predicted.dtype == labels.dtype
    assert (predicted == labels[y]).mean() > 0.8
    np.testing.assert_array_equal(predicted, clf.classes_[clf.predict_proba(X).argmax(axis=1)])
    positive = (predicted == clf.classes_[1]).tolist()
    assert (clf.decision_function(X) > 0).tolist() == positive


def test_three_classes(task):
    X, _ = task
    y = np.array(["a", "b", "c"])[np.arange(N) % 3]
    clf = small().fit(X, y)
    assert clf.predict_proba(X).shape == clf.decision_function(X).shape == (N, 3)
    assert clf.scoring_ == "accuracy"
    assert cross_val_score(small(), X, y, cv=3, scoring="roc_auc_ovr").shape == (3,)


def test_column_names_and_numbers_are_checked(task, folder):
    frame = pd.DataFrame({"scan": [str(folder / f"{i:02d}.png") for i in range(N)]})
    clf = small().fit(frame, task[1])
    assert clf.feature_names_in_.tolist() == ["scan"]
    assert clf.n_features_in_ == 1
    with pytest.raises(ValueError, match="feature names"):
        clf.predict(frame.rename(columns={"scan": "image"}))
    raveled = task[0].reshape(N, -1)
    clf = small().fit(raveled, task[1])
    assert clf.n_features_in_ == raveled.shape[1]
    with pytest.raises(ValueError, match="1200"):
        clf.predict(raveled[:, : 3 * 18 * 18])


def test_cross_validation_embeds_each_image_once_for_each_network(task):
    X, y = task
    nets = {"a": network(random_state=71), "b": network(random_state=72)}
    before = MEMORY_STORE.info()
    scores = cross_val_score(
        small(backbones=nets),
        X,
        y,
        groups=np.arange(N) // 2,
        scoring="roc_auc",
        cv=StratifiedGroupKFold(3),
    )
    assert scores.mean() > 0.8
    after = MEMORY_STORE.info()
    assert after.misses - before.misses == 2 * N


def test_searches_calibration_and_thresholds_take_it(task):
    X, y = task
    labels = np.array(["benign", "malignant"])[y]
    search = GridSearchCV(
        small(), {"backbones": [network(), network("mobilenet_v3_small")]}, cv=3, scoring="roc_auc"
    ).fit(X, labels)
    assert search.best_score_ > 0.8
    calibrated = CalibratedClassifierCV(small(), cv=3, method="sigmoid").fit(X, labels)
    np.testing.assert_allclose(calibrated.predict_proba(X).sum(axis=1), 1)
    tuned = TunedThresholdClassifierCV(small(), cv=3, scoring="balanced_accuracy")
    assert (tuned.fit(X, labels).predict(X) == labels).mean() > 0.7
    pipe = make_pipeline(FunctionTransformer(), small())
    assert (cross_val_predict(pipe, X, labels, cv=3) == labels).mean() > 0.7


def test_a_threshold_takes_the_scores_of_its_own_folds_and_fits_once(task, monkeypatch):
    X, y = task
    fits = []
    fit = TransferClassifier.fit

    def counted(self, X, y, sample_weight=None, groups=None):
        fits.append(groups)
        return fit(self, X, y, sample_weight, groups)

    monkeypatch.setattr(TransferClassifier, "fit", counted)
    groups = np.arange(N) // 2
    screen = OperatingPointClassifier(
        small(), target_level=0.8, confidence_level=None, response_method="decision_function"
    ).fit(X, y, groups=groups)
    assert len(fits) == 1
    np.testing.assert_array_equal(fits[0], groups.astype(str))
    seen = screen.estimator_.decision_function(X)
    sensitivity = screen.operating_point_.sensitivity.estimate
    assert sensitivity >= 0.8
    assert (seen.min() < screen.threshold_ < seen.max()) or sensitivity == 1
    OperatingPointClassifier(small(), target_level=0.8, confidence_level=None, cv=3).fit(X, y)
    assert len(fits) == 1 + 4


def test_metadata_is_routed(task):
    X, y = task
    groups, weight = np.arange(N) // 2, np.ones(N)
    with config_context(enable_metadata_routing=True):
        clf = small().set_fit_request(groups=True, sample_weight=True)
        clf = clf.set_score_request(sample_weight=True)
        found = cross_validate(
            make_pipeline(clf),
            X,
            y,
            cv=StratifiedGroupKFold(3),
            params={"groups": groups, "sample_weight": weight},
            return_estimator=True,
            error_score="raise",
        )
    assert len(found["estimator"]) == 3


def test_a_row_of_no_weight_is_a_row_that_is_not_there(task):
    X, y = task
    weight = np.ones(N)
    weight[:4] = 0
    with_weight = small().fit(X, y, sample_weight=weight)
    np.testing.assert_allclose(
        with_weight.predict_proba(X), small().fit(X[4:], y[4:]).predict_proba(X), atol=1e-3
    )


def test_no_rows(task):
    clf = small().fit(*task)
    for empty in (task[0][:0], [], pd.DataFrame({"scan": []})):
        with pytest.raises(ValueError, match="0 sample"):
            clf.predict(empty)
        with pytest.raises(ValueError, match="0 sample"):
            small().fit(empty, [])


def test_what_notebooks_show_links_to_the_documentation_and_has_the_leaderboard(task):
    html = small()._repr_html_()
    assert "generated/sktransfer.TransferClassifier.html" in html
    assert "Leaderboard" not in html
    clf = small().fit(*task)
    for html in (clf._repr_html_(), clf._repr_mimebundle_()["text/html"]):
        assert "generated/sktransfer.TransferClassifier.html" in html
        assert "Leaderboard" in html
        assert "squeezenet1_1, all layers" in html
    with config_context(display="text"):
        assert "text/html" not in clf._repr_mimebundle_()
