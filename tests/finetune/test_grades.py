"""Classes that have an order: a score and thresholds, from the head to files."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score, log_loss
from sklearn.model_selection import cross_val_predict

from sktransfer import FineTuneClassifier, FineTuneRegressor, PretrainedFeatureExtractor
from sktransfer.inspection import saliency_maps
from sktransfer.report import diagnostic_report

N, SIDE = 160, 24


@pytest.fixture(scope="module")
def grades():
    """Noise; y is its brightness in five grades, with errors of readers."""
    rng = np.random.default_rng(0)
    level = rng.uniform(20, 160, N)
    X = rng.uniform(0, 60, (N, SIDE, SIDE, 3)) + level[:, None, None, None]
    read = level + rng.logistic(0, 12, N)
    return X.astype(np.uint8), np.digitize(read, np.quantile(read, [0.2, 0.4, 0.6, 0.8]))


def small(freeze_depth="all", **parameters):
    settings = {"weights": None, "image_size": 32, "max_epochs": 2, "batch_size": 16}
    settings |= {"random_state": 0, "engine": "torch", "loss": "cumulative_link", **parameters}
    return FineTuneClassifier("squeezenet1_1", freeze_depth=freeze_depth, **settings)


def test_frozen_it_is_the_proportional_odds_model_of_skordinal(grades):
    pom = pytest.importorskip("skordinal.classifiers").POM
    X, y = grades
    F = PretrainedFeatureExtractor(
        "squeezenet1_1", weights=None, image_size=32, engine="torch"
    ).fit_transform(X)
    F = F.astype(float)
    own = small(head__layers="embedding", head__C=0.1).fit(X, y)
    scale = F.std(axis=0)
    Z = (F - F.mean(axis=0)) / np.maximum(scale, 0.1 * np.median(scale[scale > 1e-12]))
    Z[:, scale <= 1e-12] = 0
    peer = pom(alpha=10, tol=1e-12, max_iter=100_000).fit(Z, y)
    np.testing.assert_allclose(own.predict_proba(X), peer.predict_proba(Z), atol=1e-4)


def test_an_ordinal_head_agrees_more_than_plain_classes_do(grades):
    X, y = grades
    kappas = {
        loss: cohen_kappa_score(
            y, cross_val_predict(small(loss=loss), X, y, cv=4), weights="quadratic"
        )
        for loss in ("cumulative_link", "cross_entropy")
    }
    assert kappas["cumulative_link"] > kappas["cross_entropy"] > 0.5


@pytest.mark.parametrize("freeze_depth", ["all", -1])
@pytest.mark.parametrize("n_classes", [2, 5])
def test_probabilities_sum_to_one_and_the_likeliest_is_predicted(grades, freeze_depth, n_classes):
    X, y = grades
    y = np.minimum(y, n_classes - 1)
    clf = small(freeze_depth).fit(X, y)
    p = clf.predict_proba(X)
    assert p.shape == (N, n_classes)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    assert np.array_equal(clf.predict(X), clf.classes_[p.argmax(axis=1)])
    if n_classes == 2 and freeze_depth == "all":
        plain = small(loss="cross_entropy").fit(X, y)
        np.testing.assert_allclose(p, plain.predict_proba(X), atol=1e-9)


def test_categories_give_the_order_and_columns_stay_sorted(grades):
    X, y = grades
    names = np.array(["none", "mild", "moderate", "severe", "proliferative"])
    text = pd.Series(pd.Categorical(names[y], categories=names, ordered=True))
    clf, numbered = small().fit(X, text), small().fit(X, y)
    assert clf.ordered_classes_.tolist() == names.tolist()
    assert clf.classes_.tolist() == sorted(names)
    by_name = clf.predict_proba(X)[:, np.searchsorted(clf.classes_, names)]
    np.testing.assert_allclose(by_name, numbered.predict_proba(X), atol=1e-9)
    assert log_loss(names[y], clf.predict_proba(X)) < 1.2
    reverse = names[::-1]
    other = small().fit(X, pd.Categorical(names[y], categories=reverse, ordered=True))
    np.testing.assert_allclose(other.predict_proba(X), clf.predict_proba(X), atol=1e-9)
    with pytest.warns(UserWarning, match="order of the grades is that of the alphabet"):
        small().fit(X, names[y])


@pytest.mark.parametrize("freeze_depth", ["all", -1])
def test_what_is_kept_is_what_was_fitted(grades, tmp_path, freeze_depth):
    X, y = grades
    names = np.array(["low", "middle", "high"])
    text = pd.Categorical(names[y // 2], categories=names, ordered=True)
    clf = small(freeze_depth, max_epochs=1).fit(X, text)
    p = clf.predict_proba(X)
    assert np.array_equal(pickle.loads(pickle.dumps(clf)).predict_proba(X), p)
    clf.save(tmp_path / "clf.safetensors")
    again = FineTuneClassifier.load(tmp_path / "clf.safetensors")
    assert np.array_equal(again.predict_proba(X), p)
    assert again.ordered_classes_.tolist() == names.tolist()


def test_training_resumes_with_the_order_it_has(grades):
    X, y = grades
    names = np.array(["low", "middle", "high"])
    first = pd.Categorical(names[y // 2], categories=names, ordered=True)
    clf = small(-1, max_epochs=1).partial_fit(X, first)
    clf.partial_fit(X[:40], names[y // 2][:40])
    assert clf.ordered_classes_.tolist() == names.tolist()
    wrong = pd.Categorical(names[y // 2], categories=names[::-1], ordered=True)
    with pytest.raises(ValueError, match="another order"):
        clf.partial_fit(X, wrong)


def test_training_starts_at_the_solved_head_and_improves_on_a_bad_start(grades):
    X, y = grades
    probe = small().fit(X, y).predict_proba(X)
    start = small(-1, max_epochs=0, cache__activation_dtype="float32").fit(X, y)
    np.testing.assert_allclose(start.predict_proba(X), probe, atol=1e-4)
    bad = small(-1, head__init="random", lr=1e-3, max_epochs=8, head=(32,), head__epochs=5)
    losses = [row["train_loss"] for row in bad.fit(X, y).history_]
    assert losses[-1] < 0.9 * losses[0]


def test_weights_focus_and_maps_work_as_for_classes(grades):
    X, y = grades
    clf = small(-1, class_weight="balanced", loss__label_smoothing=0.1, augmentation="light")
    clf.fit(X, y, sample_weight=np.linspace(0, 1, N), groups=np.arange(N) // 2)
    assert all(np.nanmax(own) > 0 for own in saliency_maps(clf, X[:2]))


def test_several_columns_are_no_grade(grades):
    X, y = grades
    with pytest.raises(ValueError, match="one grade a row"):
        small().fit(X, np.column_stack([y > 1, y > 2]).astype(int))


def test_a_regressor_is_refused_where_classes_are_needed(grades, tmp_path):
    from sktransfer.model_selection import OperatingPointClassifier

    X, y = grades
    reg = FineTuneRegressor(
        "squeezenet1_1", weights=None, image_size=32, freeze_depth="all", random_state=0
    ).fit(X, y)
    with pytest.raises(TypeError, match=r"no classes_\. For numbers"):
        diagnostic_report(reg, X, y > 2)
    reg.save(tmp_path / "reg.safetensors")
    with pytest.raises(ValueError, match=r"FineTuneRegressor\.load reads it"):
        OperatingPointClassifier.load(tmp_path / "reg.safetensors")
    with pytest.raises(ValueError, match="FineTuneRegressor predicts numbers"):
        small(loss="cross_entropy").fit(X, y + 0.5 * np.random.default_rng(0).random(N))
