"""freeze_depth_curve: scores over depth are those of scikit-learn's search, from one pass."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.exceptions import FitFailedWarning, NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    HalvingGridSearchCV,
    StratifiedKFold,
)
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from sktransfer import FineTuneClassifier, clear_cache
from sktransfer.model_selection import freeze_depth_curve
from sktransfer.model_selection._freeze_depth import curve_of_search
from tests.counting import Counted

N, SIDE = 30, 24


@pytest.fixture
def fresh():
    """Dark and bright noise that no earlier test has shown to the store."""
    rng = np.random.default_rng(int.from_bytes(os.urandom(4)))
    y = np.arange(N) % 2
    X = rng.integers(0, 200, (N, SIDE, SIDE, 3)) + 20 * y[:, None, None, None]
    return X.astype(np.uint8), y


def small(**parameters):
    settings = {"weights": None, "image_size": 32, "max_epochs": 1, "batch_size": 8}
    settings |= {"random_state": 0, "engine": "torch", **parameters}
    return FineTuneClassifier("resnet18", **settings)


def test_a_row_per_depth_from_full_training_to_the_probe(fresh, tmp_path):
    counted = Counted(tmp_path / "log")
    curve = freeze_depth_curve(small(preprocessing=counted), *fresh, cv=2)
    assert curve["depth"].tolist() == [0, 1, 2, 3, 4, 5]
    assert curve["stage"].tolist() == ["-", "maxpool", "layer1", "layer2", "layer3", "all"]
    assert curve["seconds"].gt(0).all()
    # One pass for five cuts; with nothing frozen, a look for the head, an epoch, and the score.
    assert counted.n == N + 2 * (15 + 15 + 15)
    assert curve.attrs["shared_seconds"] > 0


def test_scores_are_those_of_a_grid_search(fresh):
    X, y = fresh
    clf = small(cache__activation_dtype="float32")
    cv = StratifiedKFold(3, shuffle=True, random_state=0)
    depths = ["layer3", "all"]
    curve = freeze_depth_curve(clf, X, y, depths=depths, cv=cv, scoring="neg_log_loss")
    clear_cache()
    search = GridSearchCV(clf, {"freeze_depth": depths}, cv=cv, scoring="neg_log_loss").fit(X, y)
    assert curve["depth"].tolist() == [4, 5]
    splits = [f"split{i}_score" for i in range(3)]
    expected = np.stack([search.cv_results_[f"split{i}_test_score"] for i in range(3)], axis=1)
    np.testing.assert_allclose(curve[splits], expected, atol=1e-5)
    np.testing.assert_allclose(curve["mean_score"], expected.mean(axis=1), atol=1e-5)
    same = curve_of_search(search)
    np.testing.assert_allclose(same["low"], curve["low"], atol=1e-4)
    assert same["stage"].tolist() == curve["stage"].tolist()


def test_the_interval_is_the_corrected_one(fresh):
    X, y = fresh
    search = GridSearchCV(small(), {"freeze_depth": ["all"]}, cv=3, scoring="neg_log_loss")
    search.fit(X, y)
    curve = curve_of_search(search, confidence_level=0.9)
    scores = curve[[f"split{i}_score" for i in range(3)]].to_numpy()[0]
    # Nadeau and Bengio: (1/k + n_test/n_train) in the place of 1/k.
    scale = np.sqrt((1 / 3 + 10 / 20) * scores.var(ddof=1))
    low, high = stats.t.interval(0.9, 2, loc=scores.mean(), scale=scale)
    np.testing.assert_allclose(curve[["low", "high"]].to_numpy()[0], [low, high])
    one = freeze_depth_curve(small(), X, y, depths=["all"], cv=[(np.arange(20), np.arange(20, 30))])
    assert one[["low", "high"]].isna().all(axis=None)


def test_other_parameters_take_their_best_at_each_depth(fresh):
    X, y = fresh
    grid = {"freeze_depth": ["all"], "head__C": [1e-6, 1.0]}
    search = GridSearchCV(small(), grid, cv=3, scoring="neg_log_loss").fit(X, y)
    curve = curve_of_search(search)
    assert curve["mean_score"].item() == search.best_score_


def test_halving_shows_the_scores_on_most_rows(fresh):
    X, y = fresh
    grid = {"freeze_depth": ["all", -1], "head__C": [1e-6, 1.0]}
    search = HalvingGridSearchCV(
        small(), grid, cv=2, scoring="neg_log_loss", random_state=0, min_resources=10, factor=2
    ).fit(X, y)
    results = pd.DataFrame(search.cv_results_)
    assert results["n_resources"].nunique() > 1
    curve = curve_of_search(search)
    for depth, own in results.groupby(results["param_freeze_depth"].astype(str)):
        last = own[own["n_resources"] == own["n_resources"].max()]
        shown = curve[curve["stage"] == {"all": "all", "-1": "layer3"}[depth]]
        assert shown["mean_score"].item() == last["mean_test_score"].max()


def test_several_grids_and_candidates_that_failed(fresh):
    X, y = fresh
    grids = [{"freeze_depth": ["all"], "head__C": [1e-3, -1.0]}, {"head__C": [1e-3]}]
    search = GridSearchCV(small(), grids, cv=2, scoring="neg_log_loss", refit=False)
    with pytest.warns(FitFailedWarning), pytest.warns(UserWarning, match="non-finite"):
        search.fit(X, y)
    curve = curve_of_search(search)
    assert curve["stage"].tolist() == ["layer3", "all"]  # the second grid's is the estimator's
    assert curve["mean_score"].notna().all()
    search.cv_results_["params"][-1]["backbone"] = "squeezenet1_1"
    with pytest.raises(ValueError, match="several networks"):
        curve_of_search(search)


def test_curves_of_pipelines_and_groups(fresh):
    X, y = fresh
    pipe = Pipeline([("as is", FunctionTransformer()), ("clf", small())])
    groups = np.repeat(np.arange(10), 3)
    curve = freeze_depth_curve(
        pipe, X, y, depths=[-1, 5], cv=GroupKFold(2), groups=groups, scoring="accuracy"
    )
    assert curve["stage"].tolist() == ["layer3", "all"]


@pytest.mark.slow
def test_worker_processes_share_one_pass(fresh, tmp_path):
    counted = Counted(tmp_path / "log")
    clf = small(preprocessing=counted, cache=tmp_path / "store")
    freeze_depth_curve(clf, *fresh, depths=[-1, "all"], cv=2, n_jobs=2)
    assert counted.n == N


def test_bad_input(fresh):
    X, y = fresh
    with pytest.raises(TypeError, match="needs a FineTuneClassifier"):
        freeze_depth_curve(LogisticRegression(), X, y)
    with pytest.raises(ValueError, match="same cut twice"):
        freeze_depth_curve(small(), X, y, depths=[-1, "layer3"])
    with pytest.raises(ValueError, match="one metric"):
        freeze_depth_curve(small(), X, y, scoring=["accuracy", "roc_auc"])
    with pytest.raises(ValueError, match="no place on a curve"):
        freeze_depth_curve(small(), X, y, depths=[["layer1"]])
    with pytest.raises(ValueError, match="confidence_level must lie between"):
        freeze_depth_curve(small(), X, y, depths=["all"], cv=2, confidence_level=95)
    search = GridSearchCV(small(freeze_depth="all"), {"head__C": [0.1, 1]}, cv=2)
    with pytest.raises(NotFittedError):
        curve_of_search(search)
    with pytest.raises(ValueError, match="search over 'freeze_depth' with a single metric"):
        curve_of_search(search.fit(X, y))
    both = GridSearchCV(
        small(), {"freeze_depth": ["all"], "backbone": ["resnet18", "squeezenet1_1"]}, cv=2
    )
    with pytest.raises(ValueError, match="several networks"):
        curve_of_search(both.fit(X, y))
