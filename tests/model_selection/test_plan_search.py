"""plan_search: one pass for all that a search runs frozen; nothing else is left behind."""

from __future__ import annotations

import os
import pickle
import time

import numpy as np
import pytest
import torch
from imblearn.over_sampling import RandomOverSampler
from imblearn.pipeline import Pipeline as ImbalancedPipeline
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, RandomizedSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from sktransfer import FineTuneClassifier, cache_info, clear_cache
from sktransfer._frozen import MEMORY_STORE, open_directory
from sktransfer.model_selection import freeze_depth_curve, plan_search
from tests.counting import Counted

N, SIDE = 30, 24


@pytest.fixture
def fresh():
    """Images that no earlier test has shown to the store."""
    rng = np.random.default_rng(int.from_bytes(os.urandom(4)))
    return rng.integers(0, 256, (N, SIDE, SIDE, 3), dtype=np.uint8), np.arange(N) % 2


@pytest.fixture
def counted(tmp_path):
    return Counted(tmp_path / "log")


def small(**parameters):
    settings = {"weights": None, "image_size": 32, "max_epochs": 2, "batch_size": 8}
    settings |= {"random_state": 0, "engine": "torch", **parameters}
    return FineTuneClassifier("squeezenet1_1", **settings)


def unnamed(image):
    return image.resize((32, 32))


def grid_search(clf, grid, cv=3, **settings):
    return GridSearchCV(clf, grid, cv=cv, refit=False, **settings)


def ran(counted, search, X, y):
    """Images that a search prepares."""
    before = counted.n
    search.fit(X, y)
    return counted.n - before


def test_cuts_count_each_image_once(fresh, counted):
    X, y = fresh
    search = grid_search(
        small(preprocessing=counted), {"freeze_depth": ["all", -2, 0], "lr": [1e-5, 1e-4]}
    )
    plan = plan_search(search, X, y)
    assert plan.cuts["stage"].tolist() == ["all", "features.10"]
    assert plan.cuts["n_images"].tolist() == [N, N]
    assert (plan.n_candidates, plan.n_fits) == (6, 18)
    assert plan_search(GridSearchCV(small(), {}, cv=3), X, y).n_fits == 4  # and the refit
    assert counted.n == 0  # nothing was run for the plan


def test_bytes_are_those_the_store_takes(fresh):
    X, y = fresh
    clear_cache()
    search = grid_search(small(), {"freeze_depth": ["all", -1, -3]})
    plan = plan_search(search, X, y)
    search.fit(X, y)
    assert plan.n_bytes == plan.cuts["n_bytes"].sum() == cache_info().n_bytes


def test_prefetch_leaves_no_frozen_part_to_run(fresh, counted):
    X, y = fresh
    search = grid_search(small(preprocessing=counted), {"freeze_depth": ["all", -1, -2]})
    plan = plan_search(search, X, y)
    assert plan.prefetch() is plan
    assert counted.n == N  # one pass for three cuts
    plan.prefetch()
    assert counted.n == N
    assert ran(counted, search, X, y) == 0


def test_prefetch_runs_only_what_the_store_lacks(fresh, counted):
    X, y = fresh
    clf = small(preprocessing=counted, freeze_depth=-1)
    clf.fit(X[:20], y[:20])
    before = counted.n
    plan_search(grid_search(clf, {"lr": [1e-5]}), X, y).prefetch()
    assert counted.n == before + N - 20
    twice = np.concatenate([X, X])
    plan_search(grid_search(clf, {"lr": [1e-5]}), twice, np.tile(y, 2)).prefetch()
    assert counted.n == before + N - 20


def test_prefetch_finds_the_keys_that_engines_resolve_on(fresh, counted):
    X, y = fresh
    search = grid_search(small(preprocessing=counted, engine="auto"), {"freeze_depth": ["all", -2]})
    plan_search(search, X, y).prefetch()
    assert ran(counted, search, X, y) == 0


@pytest.mark.parametrize(("activation_dtype", "atol"), [("float16", 1e-3), ("float32", 2e-4)])
def test_prefetched_is_the_same_as_run_alone(fresh, activation_dtype, atol):
    X, y = fresh
    clf = small(cache__activation_dtype=activation_dtype, head__init="random")
    search = GridSearchCV(clf, {"freeze_depth": ["all", -1, -2]}, cv=3, scoring="neg_log_loss")
    clear_cache()
    alone = clone(search).fit(X, y)
    clear_cache()
    plan_search(search, X, y).prefetch()
    together = search.fit(X, y)
    # Other batches went through the frozen part: some roundings differ, and the first steps of Adam
    # follow the sign of a gradient, however small it is. Depths differ by .03.
    np.testing.assert_allclose(
        together.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"], atol=atol
    )


def test_views_are_prefetched_too(fresh, counted):
    X, y = fresh
    clf = small(preprocessing=counted, augmentation="light", augment_views=2)
    search = grid_search(clf, {"freeze_depth": [-1, -2]})
    plan = plan_search(search, X, y).prefetch()
    assert plan.cuts["n_images"].tolist() == [3 * N, 3 * N]
    assert ran(counted, search, X, y) == 0
    # Without a seed every fit has a network and views of its own.
    unseeded = plan_search(grid_search(clone(clf).set_params(random_state=None), {}), X, y)
    with pytest.raises(ValueError, match="Nothing that the search runs can be stored"):
        unseeded.prefetch()


@pytest.mark.parametrize("tier", ["memory", "directory"])
def test_a_store_that_is_too_small_is_refused(fresh, counted, tmp_path, monkeypatch, tier):
    X, y = fresh
    clear_cache()
    clf = small(preprocessing=counted)
    n_bytes = plan_search(grid_search(clf, {"freeze_depth": [-2]}), X, y).n_bytes
    # Keys take room too.
    monkeypatch.setattr(MEMORY_STORE, "max_bytes", n_bytes - 1)
    if tier == "directory":
        clf.set_params(cache=tmp_path / "store")
    search = grid_search(clf, {"freeze_depth": [-2]})
    plan = plan_search(search, X, y)
    if tier == "memory":
        with pytest.raises(ValueError, match=r"store may hold .*a/directory"):
            plan.prefetch()
    else:
        plan.prefetch()
        assert ran(counted, search, X, y) == 0
        open_directory(tmp_path / "store").close()


@pytest.mark.parametrize(
    "settings",
    [{"cache": False}, {"preprocessing": unnamed}, {"random_state": None}],
    ids=["no store", "no name", "no seed"],
)
def test_what_nobody_keeps_is_not_prefetched(fresh, settings):
    X, y = fresh
    plan = plan_search(grid_search(small(**settings), {"freeze_depth": ["all"]}), X, y)
    with pytest.raises(ValueError, match="Nothing that the search runs can be stored"):
        plan.prefetch()
    plan_search(grid_search(small(**settings), {"freeze_depth": [0]}), X, y).prefetch()


def test_planning_leaves_nothing_behind(fresh, tmp_path):
    X, y = fresh
    clear_cache()
    random_state = np.random.RandomState(3)
    clf = small(random_state=random_state, cache=tmp_path / "store", verbose=1)
    search = grid_search(clf, {"freeze_depth": ["all", -1], "head__dropout": [0.5]})
    state = pickle.dumps(search)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    expected = (np.random.RandomState(1).rand(), torch.Generator().manual_seed(1))
    plan = plan_search(search, X, y)
    assert cache_info() == (0, 0, 0, 0, MEMORY_STORE.max_bytes)
    assert list(tmp_path.iterdir()) == []
    plan.estimate_seconds()
    assert np.random.rand() == expected[0]  # noqa: NPY002
    assert torch.equal(torch.rand(3), torch.rand(3, generator=expected[1]))
    assert pickle.dumps(search) == state
    open_directory(tmp_path / "store").close()


def test_pipelines_share_images_that_steps_leave_alike(fresh, counted):
    X, y = fresh
    pipe = Pipeline(
        [("invert", FunctionTransformer(np.invert)), ("clf", small(preprocessing=counted))]
    )
    grid = {"clf__freeze_depth": ["all", -1], "invert": [FunctionTransformer(), "passthrough"]}
    search = grid_search(pipe, grid)
    plan_search(search, X, y).prefetch()
    # The second way to leave images as they are asks for what the first one stored.
    assert counted.n == N
    assert ran(counted, search, X, y) == 0


def test_samplers_are_left_out(fresh, counted):
    X, y = fresh[0].reshape(N, -1), (np.arange(N) % 5 == 0).astype(int)
    pipe = ImbalancedPipeline(
        [
            ("invert", FunctionTransformer(np.invert)),
            ("over", RandomOverSampler(random_state=0)),
            ("clf", small(preprocessing=counted, image_shape=(SIDE, SIDE, 3))),
        ]
    )
    plan = plan_search(grid_search(pipe, {"clf__freeze_depth": [-1]}), X, y)
    assert plan.cuts["n_images"].tolist() == [N]
    freeze_depth_curve(pipe, X, y, depths=[-1], cv=3)
    assert counted.n == N


def test_random_searches_are_planned_with_a_seed(fresh, counted):
    X, y = fresh
    distributions = {"freeze_depth": ["all", -1, -2], "lr": [1e-5, 1e-4]}
    settings = {"n_iter": 2, "cv": 3, "refit": False}
    clf = small(preprocessing=counted)
    search = RandomizedSearchCV(clf, distributions, random_state=0, **settings)
    assert plan_search(search, X, y).prefetch().n_candidates == 2
    assert ran(counted, search, X, y) == 0
    with pytest.raises(ValueError, match="set its random_state to a number"):
        plan_search(RandomizedSearchCV(clf, distributions, **settings), X, y)


def test_rows_that_cannot_be_read_are_left_to_the_search(fresh, counted):
    X, y = fresh
    rows = [b"no image", *X]
    clf = small(on_error="nan", preprocessing=counted)
    plan_search(grid_search(clf, {"freeze_depth": [-1]}), rows, np.insert(y, 0, 1)).prefetch()
    assert counted.n == N


def test_folds_of_the_estimate(fresh):
    X, y = fresh
    grid = {"freeze_depth": ["all"], "lr": [1e-4]}
    groups = np.repeat(np.arange(N // 3), 3)
    for cv, given in (
        (GroupKFold(3), {"groups": groups}),
        (KFold(3), {}),
        ([(np.arange(20), np.arange(20, 30))], {}),
        (None, {}),
    ):
        plan = plan_search(grid_search(small(), grid, cv), X, np.array(["a", "b"])[y], **given)
        assert plan.estimate_seconds() > 0
    with pytest.raises(ValueError, match="'groups' parameter should not be None"):
        plan_search(grid_search(small(), grid, GroupKFold(3)), X, y).estimate_seconds()
    with pytest.raises(ValueError, match=r"list\(cv\)"):
        plan_search(grid_search(small(), grid, iter([])), X, y).estimate_seconds()


def test_the_slowest_candidate_is_timed(fresh, counted):
    X, y = fresh
    search = grid_search(small(preprocessing=counted), {"freeze_depth": ["all", 0, -1]})
    plan = plan_search(search, X, y).prefetch()
    before = counted.n
    assert plan.estimate_seconds() > 0
    # Nothing is frozen: a look for the head and two epochs of 20 images, and 10 that are predicted.
    assert counted.n - before == 3 * 20 + 10


def test_bad_input(fresh):
    X, y = fresh
    with pytest.raises(TypeError, match=r"needs a FineTuneClassifier.*got LogisticRegression"):
        plan_search(grid_search(LogisticRegression(), {"C": [1]}), X, y)
    pipe = Pipeline([("clf", LogisticRegression())])
    with pytest.raises(TypeError, match="Pipeline that ends in LogisticRegression"):
        plan_search(grid_search(pipe, {"clf__C": [1]}), X, y)
    with pytest.raises(TypeError, match="needs a search with param_grid"):
        plan_search(small(), X, y)
    with pytest.raises(ValueError, match="give y to plan_search"):
        plan_search(grid_search(small(), {"lr": [1e-4]}), X).estimate_seconds()
    with pytest.raises(ValueError, match="Invalid parameter"):
        plan_search(grid_search(small(), {"depth": [1]}), X, y)
    with pytest.raises(ValueError, match="out of range"):
        plan_search(grid_search(small(), {"freeze_depth": [99]}), X, y)
    with pytest.raises(ValueError, match="collection of images"):
        plan_search(grid_search(small(), {"freeze_depth": [-1]}), "image.jpg", y)


@pytest.mark.slow
def test_the_estimate_is_within_a_factor_of_two():
    """On an idle machine; others' load comes and goes, so that one of three tries has to do."""
    X, y = load_digits(return_X_y=True)
    ratios = []
    for turn in range(3):
        rows = slice(200 * turn, 200 * (turn + 1))
        clf = FineTuneClassifier(
            "resnet18",
            weights=None,
            image_size=64,
            value_range=(0, 16),
            random_state=0,
            max_epochs=3,
        )
        search = grid_search(clf, {"lr": [1e-4, 1e-3]})
        estimated = plan_search(search, X[rows], y[rows]).prefetch().estimate_seconds()
        start = time.perf_counter()
        search.fit(X[rows], y[rows])
        ratios.append((time.perf_counter() - start) / estimated)
        if 1 / 2 < ratios[-1] < 2:
            return
    if os.getloadavg()[0] > (os.cpu_count() or 1):
        pytest.skip(f"the machine is busy: {ratios}")
    raise AssertionError(ratios)
