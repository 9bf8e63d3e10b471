"""plan_search: what it says a search will run is what the search runs; nothing is left behind."""

from __future__ import annotations

import os
import pickle
import time
from collections import Counter
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import torch
from imblearn.over_sampling import RandomOverSampler
from imblearn.pipeline import Pipeline as ImbalancedPipeline
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, ShuffleSplit, StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from sktransfer import FineTuneClassifier, cache_info, clear_cache
from sktransfer._finetune import _keeping
from sktransfer._frozen import MEMORY_STORE, open_directory
from sktransfer.exceptions import ActivationBudgetWarning, ImageDecodeError
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


def ran(counted, clf, grid, X, y, cv, **settings):
    """Images that a search prepares."""
    before = counted.n
    GridSearchCV(clf, grid, cv=cv, refit=False, **settings).fit(X, y)
    return counted.n - before


GRIDS = {
    "depths": {"freeze_depth": ["all", -1, -2]},
    "rates at two depths": {"freeze_depth": ["all", -2], "lr": [1e-5, 1e-4]},
    "several grids": [{"freeze_depth": [0, -1]}, {"freeze_depth": [-1], "batch_size": [4]}],
    "views": {"augmentation": ["light"], "augment_views": [2], "freeze_depth": [-1, -2]},
    "fresh draws": {"augmentation": ["light"], "freeze_depth": [-1]},
    "nothing is kept": {"freeze_depth": [-1], "cache": [False]},
}


@pytest.mark.parametrize("name", GRIDS)
def test_what_runs_is_predicted(fresh, counted, name):
    X, y = fresh
    clf, grid = small(preprocessing=counted), GRIDS[name]
    table = plan_search(clf, grid, X, 3, y=y).table
    done = ran(counted, clf, grid, X, y, 3)
    frozen = table["freeze_depth"] != 0
    # With nothing frozen, images are prepared for every look: an embedding pass and two epochs
    # of two thirds of them, and the scored third, in each of three folds.
    unfrozen = int((~frozen).sum()) * 3 * (3 * 20 + 10)
    # Fresh draws come on top of the plain images, as the counting of runs has it.
    assert table["n_runs"].sum() + unfrozen == done
    if name not in ("fresh draws", "nothing is kept"):
        assert table["n_new"].sum() == table["n_runs"].sum()


def test_what_is_there_already_is_not_counted(fresh, counted):
    X, y = fresh
    clf, grid = small(preprocessing=counted), {"freeze_depth": ["all", -1]}
    before = plan_search(clf, grid, X, 3, y=y).table
    assert before["n_new"].tolist() == before["n_images"].tolist() == [N, N]
    clf.set_params(freeze_depth=-1).fit(X[:20], y[:20])
    assert plan_search(clf, grid, X, 3, y=y).table["n_new"].tolist() == [N, N - 20]
    twice = np.concatenate([X, X])
    table = plan_search(clf, grid, twice, 3, y=np.tile(y, 2)).table
    assert table["n_images"].tolist() == [N, N]


def test_bytes_are_those_the_store_takes(fresh):
    X, y = fresh
    clear_cache()
    clf, grid = small(), {"freeze_depth": ["all", -1, -3]}
    plan = plan_search(clf, grid, X, 3, y=y)
    GridSearchCV(clf, grid, cv=3).fit(X, y)
    info = cache_info()
    assert plan.total_bytes == info.n_bytes - 300 * info.n_rows
    assert plan.store_needed == info.n_bytes
    assert plan.fits


def test_prefetch_leaves_no_frozen_part_to_run(fresh, counted):
    X, y = fresh
    clf, grid = small(preprocessing=counted), {"freeze_depth": ["all", -1, -2, 0]}
    plan = plan_search(clf, {"freeze_depth": ["all", -1, -2]}, X, 3, y=y)
    before = counted.n
    assert plan.prefetch() is plan
    assert counted.n == before + N  # one pass for three cuts
    plan.prefetch()
    assert counted.n == before + N
    again = plan_search(clf, grid, X, 3, y=y)
    assert again.table["n_new"].tolist() == [0, 0, 0, 0]
    assert again.total_bytes == 0
    assert ran(counted, clf, {"freeze_depth": ["all", -1, -2]}, X, y, 3) == 0


def test_prefetch_finds_the_keys_that_engines_resolve_on(fresh, counted):
    X, y = fresh
    clf, grid = small(preprocessing=counted, engine="auto"), {"freeze_depth": ["all", -2]}
    plan_search(clf, grid, X, 3, y=y).prefetch()
    assert ran(counted, clf, grid, X, y, 3) == 0


@pytest.mark.parametrize(("activation_dtype", "atol"), [("float16", 1e-3), ("float32", 1e-5)])
def test_prefetched_is_the_same_as_run_alone(fresh, activation_dtype, atol):
    X, y = fresh
    clf = small(activation_dtype=activation_dtype, head_init="random")
    grid = {"freeze_depth": ["all", -1, -2]}
    clear_cache()
    alone = GridSearchCV(clf, grid, cv=3, scoring="neg_log_loss").fit(X, y)
    clear_cache()
    plan_search(clf, grid, X, 3, y=y).prefetch()
    together = GridSearchCV(clf, grid, cv=3, scoring="neg_log_loss").fit(X, y)
    # Other batches went through the frozen part, so that some roundings to float16 differ.
    np.testing.assert_allclose(
        together.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"], atol=atol
    )


def test_views_are_prefetched_too(fresh, counted):
    X, y = fresh
    clf = small(preprocessing=counted, augmentation="light", augment_views=2)
    grid = {"freeze_depth": [-1, -2]}
    plan = plan_search(clf, grid, X, 3, y=y).prefetch()
    assert plan.table["n_images"].tolist() == [3 * N, 3 * N]
    assert ran(counted, clf, grid, X, y, 3) == 0
    # Without a seed every fit has a network and views of its own.
    unseeded = clf.set_params(random_state=None)
    table = plan_search(unseeded, grid, X, 3, y=y).table
    assert table["n_new"].sum() == ran(counted, unseeded, grid, X, y, 3) == 2 * 3 * (3 * 20 + 10)


@pytest.mark.parametrize("tier", ["memory", "directory"])
def test_a_store_that_is_too_small_is_predicted(fresh, counted, tmp_path, monkeypatch, tier):
    X, y = fresh
    clear_cache()
    clf, grid = small(preprocessing=counted), {"freeze_depth": [-1, -2], "lr": [1e-5, 1e-4]}
    row = plan_search(clf, {"freeze_depth": [-2]}, X, 3, y=y).total_bytes // N
    monkeypatch.setattr(MEMORY_STORE, "max_bytes", 25 * (row + 300))
    if tier == "directory":
        clf.set_params(cache=tmp_path / "store")
    plan = plan_search(clf, grid, X, ShuffleSplit(4, random_state=0), y=y)
    if tier == "memory":
        assert not plan.fits
        assert "run again" in str(plan)
        with pytest.raises(ValueError, match=r"store may hold .*a/directory"):
            plan.prefetch()
    else:
        assert plan.fits
        assert not (tmp_path / "store").exists()
    monkeypatch.setattr(_keeping, "_LEFT_OUT", Counter())
    with pytest.warns(ActivationBudgetWarning) if tier == "memory" else nullcontext():
        done = ran(counted, clf, grid, X, y, ShuffleSplit(4, random_state=0))
    assert plan.table["n_runs"].sum() == done
    assert (done == 2 * N) == (tier == "directory")
    open_directory(tmp_path / "store").close()


def test_a_budget_that_is_too_small_is_predicted(fresh, counted):
    X, y = fresh
    tight = {"memory_budget": 0, "disk_budget": 0, "cache": False}
    clf = small(preprocessing=counted, **tight)
    plan = plan_search(clf, {"freeze_depth": [-1]}, X, 3, y=y)
    assert plan.table["kept_in"].tolist() == ["nowhere"]
    assert plan.table["n_bytes"].tolist() == [0]
    assert "Store: none" in str(plan)
    assert plan.memory_needed > plan.memory_budget == 0
    # An embedding pass and two epochs of 20, and 10 that are scored.
    assert plan.table["n_runs"].tolist() == [3 * (3 * 20 + 10)]


def test_a_fit_larger_than_memory_holds_is_predicted(fresh, counted, monkeypatch):
    """A store that could not hold a fit's rows is left out of it."""
    X, y = fresh
    clear_cache()
    clf, grid = small(preprocessing=counted), {"freeze_depth": [-2], "lr": [1e-5, 1e-4]}
    row = plan_search(clf, grid, X, 3, y=y).total_bytes // N
    monkeypatch.setattr(MEMORY_STORE, "max_bytes", 15 * row)
    plan = plan_search(clf, grid, X, 3, y=y)
    # What is scored does fit, as far as it goes; what is trained on does not.
    monkeypatch.setattr(_keeping, "_LEFT_OUT", Counter())
    with pytest.warns(ActivationBudgetWarning, match="every other fold"):
        done = ran(counted, clf, grid, X, y, 3)
    assert plan.table["n_runs"].sum() == done > 2 * N
    assert not plan.fits


def test_keys_count_where_there_is_just_no_room(fresh, monkeypatch):
    X, y = fresh
    clear_cache()
    plan = plan_search(small(), {"freeze_depth": ["all", -1]}, X, 3, y=y)
    monkeypatch.setattr(MEMORY_STORE, "max_bytes", plan.total_bytes + 100)
    plan = plan_search(small(), {"freeze_depth": ["all", -1]}, X, 3, y=y)
    assert not plan.fits
    with pytest.raises(ValueError, match="store may hold"):
        plan.prefetch()


@pytest.mark.parametrize(
    "settings",
    [{"cache": False}, {"preprocessing": unnamed}, {"random_state": None}],
    ids=["no store", "no name", "no seed"],
)
def test_what_nobody_keeps_is_not_prefetched(fresh, settings):
    X, y = fresh
    plan = plan_search(small(**settings), {"freeze_depth": ["all"]}, X, 3, y=y)
    with pytest.raises(ValueError, match="Nothing that the search runs can be kept"):
        plan.prefetch()
    plan_search(small(**settings), {"freeze_depth": [0]}, X, 3, y=y).prefetch()


def test_nothing_is_left_behind(fresh, tmp_path):
    X, y = fresh
    clear_cache()
    random_state = np.random.RandomState(3)
    clf = small(random_state=random_state, cache=tmp_path / "store", verbose=1)
    state = pickle.dumps(clf)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    expected = (np.random.RandomState(1).rand(), torch.Generator().manual_seed(1))
    plan_search(clf, {"freeze_depth": ["all", -1], "dropout": [0.5]}, X, 3, y=y)
    assert np.random.rand() == expected[0]  # noqa: NPY002
    assert torch.equal(torch.rand(3), torch.rand(3, generator=expected[1]))
    assert pickle.dumps(clf) == state
    assert cache_info() == (0, 0, 0, 0, MEMORY_STORE.max_bytes)
    assert list(tmp_path.iterdir()) == []


def test_pipelines(fresh, counted):
    X, y = fresh
    pipe = Pipeline(
        [("invert", FunctionTransformer(np.invert)), ("clf", small(preprocessing=counted))]
    )
    grid = {"clf__freeze_depth": ["all", -1], "invert": [FunctionTransformer(), "passthrough"]}
    plan = plan_search(pipe, grid, X, 3, y=y)
    # The second way to leave images as they are asks for what the first one stored.
    assert plan.table["n_new"].tolist() == [N, 0, N, 0]
    plan.prefetch()
    assert ran(counted, pipe, grid, X, y, 3) == 0
    bare = Pipeline([("clf", small(preprocessing=counted))])
    assert plan_search(bare, {"clf__freeze_depth": ["all"]}, X, 3, y=y).table["n_new"].item() == 0


def test_samplers_are_left_out(fresh, counted):
    X, y = fresh[0].reshape(N, -1), (np.arange(N) % 5 == 0).astype(int)
    pipe = ImbalancedPipeline(
        [
            ("invert", FunctionTransformer(np.invert)),
            ("over", RandomOverSampler(random_state=0)),
            ("clf", small(preprocessing=counted, image_shape=(SIDE, SIDE, 3))),
        ]
    )
    plan = plan_search(pipe, {"clf__freeze_depth": [-1]}, X, 3, y=y)
    assert plan.table["n_new"].tolist() == [N]
    before = counted.n
    freeze_depth_curve(pipe, X, y, depths=[-1], cv=3)
    assert counted.n == before + N


def test_folds_and_labels(fresh):
    X, y = fresh
    clf, grid = small(), {"freeze_depth": ["all"], "lr": [1e-4]}
    groups = np.repeat(np.arange(N // 3), 3)
    for cv, given in (
        (GroupKFold(3), {"groups": groups}),
        (KFold(3), {}),
        (3, {"y": np.array(["a", "b"])[y]}),
        ([(np.arange(20), np.arange(20, 30))], {}),
        (iter([(np.arange(N) < 20, np.arange(N) >= 20)]), {}),
        (None, {"y": y}),
    ):
        plan = plan_search(clf, grid, X, cv, **given)
        assert plan.table["seconds"].gt(0).all()
    with pytest.raises(ValueError, match=r"without groups.*Pass groups="):
        plan_search(clf, grid, X, GroupKFold(3))
    with pytest.raises(ValueError, match=r"without y.*Pass y="):
        plan_search(clf, grid, X, StratifiedKFold(3))
    with pytest.raises(ValueError, match="n_splits=20 cannot be greater"):
        plan_search(clf, grid, X, 20, y=y)
    with pytest.raises(ValueError, match="X has 30 rows, y has 29"):
        plan_search(clf, grid, X, 3, y=y[:-1])


def test_rows_that_cannot_be_read(fresh):
    X, y = fresh
    rows = [b"no image", *X]
    labels = np.insert(y, 0, 1)
    clf = small(on_error="nan")
    plan = plan_search(clf, {"freeze_depth": [-1]}, rows, 3, y=labels).prefetch()
    assert plan_search(clf, {"freeze_depth": [-1]}, rows, 3, y=labels).table["n_new"].item() <= 1
    assert plan.total_seconds > 0
    with pytest.raises(ImageDecodeError):
        plan_search(clf, {"freeze_depth": [-1]}, [b"none", b"at all"], KFold(2))
    one = plan_search(clf, {"freeze_depth": [-1]}, ["/no/file", X[0]], [([0, 1], [1])], y=[0, 1])
    assert one.table["n_images"].tolist() == [1]


def test_what_is_printed(fresh):
    X, y = fresh
    plan = plan_search(small(), {"freeze_depth": ["all", -1]}, X, 3, y=y)
    text = str(plan)
    assert "2 candidates x 3 folds: about" in text
    assert "for the refit" in text
    assert isinstance(plan.table, pd.DataFrame)
    parts = plan.table[["seconds_frozen", "seconds_train", "seconds_predict"]].sum(axis=1)
    np.testing.assert_allclose(parts, plan.table["seconds"])
    assert plan.total_seconds == pytest.approx(plan.table["seconds"].sum() + plan.refit_seconds)
    assert (
        plan_search(small(), {"freeze_depth": ["all"]}, X, 3, y=y, refit=False).refit_seconds == 0
    )


def test_bad_input(fresh):
    X, y = fresh
    with pytest.raises(TypeError, match=r"needs a FineTuneClassifier.*got LogisticRegression"):
        plan_search(LogisticRegression(), {"C": [1]}, X, 3, y=y)
    pipe = Pipeline([("clf", LogisticRegression())])
    with pytest.raises(TypeError, match="Pipeline that ends in LogisticRegression"):
        plan_search(pipe, {"clf__C": [1]}, X, 3, y=y)
    with pytest.raises(TypeError, match="param_grid is a dict of lists"):
        plan_search(small(), "freeze_depth", X, 3, y=y)
    with pytest.raises(ValueError, match="Invalid parameter"):
        plan_search(small(), {"depth": [1]}, X, 3, y=y)
    with pytest.raises(ValueError, match="has no candidates"):
        plan_search(small(), [], X, 3, y=y)
    with pytest.raises(ValueError, match="gives no folds"):
        plan_search(small(), {"freeze_depth": [-1]}, X, iter([]), y=y)
    with pytest.raises(ValueError, match="out of range"):
        plan_search(small(), {"freeze_depth": [99]}, X, 3, y=y)
    with pytest.raises(TypeError, match="collection of images"):
        plan_search(small(), {"freeze_depth": [-1]}, "image.jpg", 3, y=y)


@pytest.mark.slow
@pytest.mark.parametrize("augmentation", [None, "light"])
def test_estimates_are_within_a_factor_of_one_and_a_half(augmentation):
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
            augmentation=augmentation,
        )
        grid = {"freeze_depth": ["all", -1, -2]}
        plan = plan_search(clf, grid, X[rows], 3, y=y[rows], refit=False)
        start = time.perf_counter()
        GridSearchCV(clf, grid, cv=3, refit=False).fit(X[rows], y[rows])
        ratios.append((time.perf_counter() - start) / plan.total_seconds)
        if 1 / 1.5 < ratios[-1] < 1.5:
            return
    if os.getloadavg()[0] > (os.cpu_count() or 1):
        pytest.skip(f"the machine is busy: {ratios}")
    raise AssertionError(ratios)
