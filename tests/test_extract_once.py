"""The guarantee: an image is embedded once. Counted where an image is prepared for the network,
by a preprocessing that writes a line to a file, so that it counts in every process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from joblib import parallel_config
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    TunedThresholdClassifierCV,
    cross_val_predict,
    cross_val_score,
)
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import shuffle

from sktransfer import PretrainedFeatureExtractor, cache_info, clear_cache
from sktransfer._frozen import open_directory
from tests.counting import Counted, unseen

N = 60


@pytest.fixture
def task():
    return unseen(N)


@pytest.fixture
def counted(tmp_path):
    return Counted(tmp_path / "log")


def pipeline(counted, **parameters):
    feat = PretrainedFeatureExtractor(
        "squeezenet1_1", weights=None, image_size=32, preprocessing=counted, **parameters
    )
    return Pipeline(
        [("feat", feat), ("scale", StandardScaler()), ("clf", LogisticRegression(max_iter=500))]
    )


def test_cross_validation(task, counted):
    cross_val_score(pipeline(counted), *task, cv=5, scoring="roc_auc")
    assert counted.n == N


def test_a_grid_over_the_classifier(task, counted):
    search = GridSearchCV(pipeline(counted), {"clf__C": [0.01, 0.1, 1, 10]}, cv=5)
    search.fit(*task).predict(task[0])
    assert counted.n == N


def test_steps_before_the_end_do_not_matter(task, counted):
    pipe = pipeline(counted)
    pipe.steps.insert(1, ("pca", PCA()))
    GridSearchCV(pipe, {"pca__n_components": [2, 5], "clf__C": [0.1, 1]}, cv=3).fit(*task)
    assert counted.n == N


def test_calibration_and_threshold_nested(task, counted):
    nest = TunedThresholdClassifierCV(CalibratedClassifierCV(pipeline(counted), cv=3), cv=3)
    cross_val_predict(nest, *task, cv=3)
    assert counted.n == N


def test_after_a_shuffle_and_with_duplicates(task, counted):
    X, y = task
    cross_val_score(pipeline(counted), X, y, cv=5)
    cross_val_score(pipeline(counted), *shuffle(X, y, random_state=1), cv=5)
    twice = np.concatenate([X, X[::-1]])
    cross_val_score(pipeline(counted), twice, np.concatenate([y, y[::-1]]), cv=3)
    assert counted.n == N


def test_partial_hits_embed_what_is_missing(task, counted):
    X, y = task
    pipe = pipeline(counted).fit(X[:40], y[:40])
    assert counted.n == 40
    pipe.predict(X)
    assert counted.n == N


def test_threads_that_meet_the_same_images(task, counted):
    with parallel_config(backend="threading"):
        cross_val_score(pipeline(counted), *task, cv=5, n_jobs=3)
    assert counted.n == N


def test_worker_processes_with_a_directory(task, tmp_path):
    counted = Counted(tmp_path / "log", seconds=0.02)
    pipe = pipeline(counted, cache=tmp_path / "store")
    scores = cross_val_score(pipe, *task, cv=5, scoring="roc_auc", n_jobs=2)
    assert counted.n == N
    assert counted.n_processes == 2  # they shared the work
    assert np.array_equal(scores, cross_val_score(pipe, *task, cv=5, scoring="roc_auc"))
    assert counted.n == N
    open_directory(tmp_path / "store").close()


SESSION = """
import sys, numpy as np
sys.path.insert(0, sys.argv[3])
from tests.test_extract_once import Counted, pipeline
from sklearn.model_selection import GridSearchCV
counted = Counted(sys.argv[1], seconds=0.02)
X, y = np.load(sys.argv[2]), np.arange(60) % 2
search = GridSearchCV(pipeline(counted), {"clf__C": [0.1, 1]}, cv=5, n_jobs=2).fit(X, y)
print(counted.n, counted.n_processes)
"""


def run(code, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    ).stdout


def test_worker_processes_without_a_directory_share_a_private_one(task, tmp_path):
    np.save(tmp_path / "X.npy", task[0])
    environment = {k: v for k, v in os.environ.items() if k != "SKTRANSFER_SESSION"}
    (tmp_path / "tmp").mkdir()
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            SESSION,
            tmp_path / "log",
            tmp_path / "X.npy",
            Path(__file__).parents[1],
        ],
        env={**environment, "TMPDIR": str(tmp_path / "tmp")},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["60", "2"]
    left = [p.name for p in (tmp_path / "tmp").iterdir() if p.name.startswith("sktransfer")]
    assert left == []


ANOTHER = """
import sys, numpy as np
sys.path.insert(0, sys.argv[4])
from tests.test_extract_once import Counted, pipeline
counted = Counted(sys.argv[1], seconds=float(sys.argv[5]))
X, y = np.load(sys.argv[2]), np.arange(60) % 2
pipe = pipeline(counted, cache=sys.argv[3], batch_size=4).fit(X, y)
np.save(sys.argv[1] + ".npy", pipe[:-1].transform(X))
"""


def test_a_second_process_finds_what_the_first_computed(task, tmp_path):
    np.save(tmp_path / "X.npy", task[0])
    arguments = (tmp_path / "X.npy", tmp_path / "store", Path(__file__).parents[1], 0)
    for log in ("one", "two"):
        run(ANOTHER, tmp_path / log, *arguments)
    assert Counted(tmp_path / "one").n == N
    assert Counted(tmp_path / "two").n == 0
    assert np.array_equal(np.load(tmp_path / "one.npy"), np.load(tmp_path / "two.npy"))


def test_after_a_kill_only_the_rest_is_computed(task, tmp_path):
    np.save(tmp_path / "X.npy", task[0])
    store = tmp_path / "store"
    arguments = (tmp_path / "X.npy", store, Path(__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", ANOTHER, tmp_path / "log", *map(str, arguments), "0.05"]
    )
    while cache_info(store).n_rows < 20:
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    done = cache_info(store).n_rows
    assert 20 <= done < N
    run(ANOTHER, tmp_path / "rest", *arguments, 0)
    assert Counted(tmp_path / "rest").n == N - done
    open_directory(store).close()


def test_two_processes_at_once_share_the_work(task, tmp_path):
    np.save(tmp_path / "X.npy", task[0])
    store = tmp_path / "store"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ANOTHER, tmp_path / log, tmp_path / "X.npy", store]
            + [str(Path(__file__).parents[1]), "0.05"]
        )
        for log in ("one", "two")
    ]
    assert [process.wait(300) for process in processes] == [0, 0]
    assert Counted(tmp_path / "one").n + Counted(tmp_path / "two").n == N
    assert np.array_equal(np.load(tmp_path / "one.npy"), np.load(tmp_path / "two.npy"))


def test_a_miss_returns_what_the_later_hit_returns(task, counted, tmp_path):
    X, _ = task
    feat = pipeline(counted, cache=tmp_path / "store", layer=["features.3", None])[0].fit(X)
    first = feat.transform(X)
    near = feat.transform(X)
    clear_cache()
    far = feat.transform(X)
    assert np.array_equal(first, near)
    assert np.array_equal(first, far)
    assert counted.n == N
    open_directory(tmp_path / "store").close()


def test_a_store_that_breaks_changes_no_result(task, counted, tmp_path):
    X, _ = task
    (tmp_path / "store").write_text("not a directory")
    feat = pipeline(counted, cache=tmp_path / "store")[0].fit(X)
    with pytest.warns(RuntimeWarning, match="results are the same"):
        E = feat.transform(X)
    assert np.array_equal(E, pipeline(counted, cache=False)[0].fit(X).transform(X))
