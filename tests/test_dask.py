"""Dask collections of paths, embedded lazily; some of it on a real cluster of two processes."""

from __future__ import annotations

import importlib.util
import os
import pickle
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

from sktransfer import PretrainedFeatureExtractor
from sktransfer._dask import is_lazy, lazy_transform, stand_in
from sktransfer.exceptions import FailedRowsWarning, ImageDecodeError

dask = pytest.importorskip("dask")
dd = pytest.importorskip("dask.dataframe")
db = pytest.importorskip("dask.bag")
distributed = pytest.importorskip("distributed")
cloudpickle = pytest.importorskip("cloudpickle")

# The workers cannot import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

N = 24


def extractor(**parameters):
    settings = {"weights": None, "image_size": 32, "cache": False, **parameters}
    return PretrainedFeatureExtractor("squeezenet1_1", **settings)


class Slow:
    """Prepares an image slowly and writes down which process did; pickles by value."""

    fingerprint = "tests.Slow"

    def __init__(self, log, seconds):
        self.log = str(log)
        self.seconds = seconds

    def __call__(self, image):
        time.sleep(self.seconds)
        with open(self.log, "a") as log:
            log.write(f"{os.getpid()}\n")
        small = np.asarray(image.convert("RGB").resize((32, 32)), dtype=np.float32)
        return torch.from_numpy(small).permute(2, 0, 1) / 255

    @property
    def pids(self):
        path = Path(self.log)
        return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def paths(tmp_path):
    rng = np.random.default_rng(int.from_bytes(os.urandom(4)))  # no worker has seen them
    for i in range(N):
        pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i:03d}.png")
    return pd.DataFrame(
        {"path": [str(tmp_path / f"{i:03d}.png") for i in range(N)]},
        index=pd.Index([f"case{i:03d}" for i in range(N)], name="case"),
    )


@pytest.fixture
def lazy_paths(paths):
    return dd.from_pandas(paths, npartitions=4)


@pytest.fixture(scope="module")
def client():
    """Two worker processes, as a user would start them."""
    cluster = distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        memory_limit="2GiB",
        dashboard_address=None,
        env={"SKTRANSFER_SESSION": "", "SKTRANSFER_OFFLINE": "1"},
    )
    with cluster, distributed.Client(cluster) as client:
        yield client


def close(a, b):
    """As near as two batches of other sizes come; the numbers themselves are about 1."""
    return np.allclose(a, b, rtol=1e-4, atol=1e-5)


# --- in this process: what comes out -------------------------------------------------------------


def test_the_library_does_not_import_dask(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "dask"]:
        monkeypatch.delitem(sys.modules, name)
    spec = importlib.util.find_spec("sktransfer._dask")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert not module.is_lazy(["a.png"])
    assert not any(name.split(".")[0] == "dask" for name in sys.modules)


def test_dask_collections_are_lazy_and_nothing_else_is(paths, lazy_paths):
    assert is_lazy(lazy_paths)
    assert is_lazy(lazy_paths["path"])
    assert is_lazy(db.from_sequence(["a"]))
    for X in (paths, paths["path"], list(paths["path"]), np.zeros((2, 4, 4)), None, "a"):
        assert not is_lazy(X)


def test_a_lazy_frame_with_index_partitions_names_and_dtype(paths, lazy_paths):
    own = extractor().fit(stand_in(lazy_paths))
    assert own.feature_names_in_.tolist() == ["path"]
    lazy = lazy_transform(own, lazy_paths)
    assert isinstance(lazy, dd.DataFrame)
    assert lazy.divisions == lazy_paths.divisions
    assert list(lazy.columns) == list(own.get_feature_names_out())
    assert set(lazy.dtypes) == {np.dtype(np.float32)}
    result = lazy.compute(scheduler="threads")
    assert result.index.equals(lazy_paths.compute().index)
    assert set(result.dtypes) == {np.dtype(np.float32)}
    assert close(result, own.transform(paths))
    assert close(lazy.mean().compute(scheduler="sync"), result.mean())


def test_a_series_and_double_precision(paths, lazy_paths):
    own = extractor(precision="float64").fit(stand_in(lazy_paths["path"]))
    lazy = lazy_transform(own, lazy_paths["path"])
    result = lazy.compute(scheduler="sync")
    assert set(lazy.dtypes) == set(result.dtypes) == {np.dtype(np.float64)}
    assert close(result, own.transform(paths["path"]))


def test_a_bag_of_paths_or_bytes(paths):
    names = list(paths["path"])
    own = extractor().fit(names)
    bag = db.from_sequence(names, npartitions=3)
    lazy = lazy_transform(own, bag)
    assert lazy.npartitions == 3
    expected = own.transform(names)
    assert close(lazy.compute(scheduler="sync"), expected)
    contents = bag.map(lambda name: Path(name).read_bytes())
    assert close(lazy_transform(own, contents).compute(scheduler="sync"), expected)


def test_nothing_is_read_before_compute(lazy_paths, paths):
    lazy = lazy_transform(extractor().fit(stand_in(lazy_paths)), lazy_paths)
    for name in paths["path"]:
        Path(name).unlink()
    with pytest.raises(ImageDecodeError, match=r"row 0 .*no such file"):
        lazy.compute(scheduler="sync")


def test_an_empty_partition_is_no_error(lazy_paths):
    few = lazy_paths[lazy_paths["path"].str.endswith("001.png")]
    own = extractor().fit(stand_in(few))
    result = lazy_transform(own, few).compute(scheduler="sync")
    assert result.shape == (1, 512)
    assert set(result.dtypes) == {np.dtype(np.float32)}


def test_later_changes_do_not_reach_the_result(paths, lazy_paths):
    own = extractor(on_error="nan").fit(stand_in(lazy_paths))
    lazy = lazy_transform(own, lazy_paths)
    own.set_params(on_error="raise", verbose=1)
    Path(paths["path"].iloc[0]).unlink()
    with pytest.warns(FailedRowsWarning, match="1 of 6 rows"):
        result = lazy.compute(scheduler="sync")
    assert np.isnan(result).all(axis=1).tolist() == [True] + [False] * (N - 1)
    assert own.failed_rows_.empty


def test_no_bar_on_a_worker(lazy_paths, capfd):
    own = extractor(verbose=1).fit(stand_in(lazy_paths))
    lazy_transform(own, lazy_paths).compute(scheduler="sync")
    assert capfd.readouterr().err == ""
    assert own.verbose == 1


def test_what_travels_is_small(lazy_paths):
    own = extractor().fit(stand_in(lazy_paths))
    lazy = lazy_transform(own, lazy_paths.repartition(npartitions=20))
    graph = lazy.optimize().__dask_graph__()
    assert len(cloudpickle.dumps(graph)) < 60_000 + len(pickle.dumps(own))
    per_task = [len(cloudpickle.dumps(task)) for key, task in graph.items() if "embed" in str(key)]
    assert len(per_task) >= 20
    assert max(per_task) < 20_000


def test_errors_say_what_to_do(lazy_paths):
    own = extractor().fit(stand_in(lazy_paths))
    with pytest.raises(ValueError, match=r"X\[\['path'\]\]"):
        lazy_transform(own, lazy_paths.assign(age=3))
    with pytest.raises(ValueError, match="int64 numbers; expected a column of paths"):
        lazy_transform(own, lazy_paths.assign(age=3)["age"])
    with pytest.raises(ValueError, match="feature names"):
        lazy_transform(own, lazy_paths.rename(columns={"path": "scan"}))
    with pytest.raises(ValueError, match=r"set_output\(transform='default'\)"):
        lazy_transform(own.set_output(transform="pandas"), lazy_paths)


def test_the_estimator_takes_dask_collections(paths, lazy_paths):
    own = extractor()
    lazy = own.fit_transform(lazy_paths)
    assert isinstance(lazy, dd.DataFrame)
    assert own.feature_names_in_.tolist() == ["path"]
    assert close(lazy.compute(scheduler="sync"), own.transform(paths))
    pipe = make_pipeline(extractor(), "passthrough").fit(lazy_paths["path"])
    assert close(pipe.transform(lazy_paths["path"]).compute(scheduler="sync"), own.transform(paths))
    bag = db.from_sequence(list(paths["path"]), npartitions=2)
    assert close(own.fit(bag).transform(bag).compute(scheduler="sync"), own.fit_transform(paths))


def test_the_failed_rows_of_the_user_guide(paths, lazy_paths):
    Path(paths["path"].iloc[7]).unlink()
    E = lazy_transform(extractor(on_error="nan").fit(stand_in(lazy_paths)), lazy_paths)
    with pytest.warns(FailedRowsWarning):
        failed = E[E.isna().all(axis=1)].index.compute(scheduler="sync")
    assert failed.tolist() == ["case007"]


# --- on two worker processes -----------------------------------------------------------------


def _count_loads():
    from dataclasses import replace

    from sktransfer._frozen import REGISTRY

    REGISTRY.clear()
    plain = type(REGISTRY).info

    def counting(registry, source):
        def load():
            registry.n_loads = getattr(registry, "n_loads", 0) + 1
            return source.load()

        return plain(registry, replace(source, load=load))

    type(REGISTRY).info = counting


def _loads():
    from sktransfer._frozen import REGISTRY

    return getattr(REGISTRY, "n_loads", 0)


def test_a_cluster_that_loses_a_worker(client, paths, tmp_path):
    slow = Slow(tmp_path / "log", 0.1)
    own = extractor(preprocessing=slow, batch_size=2, cache=tmp_path / "store")
    lazy = dd.from_pandas(paths, npartitions=6)
    client.run(_count_loads)
    own.fit(stand_in(lazy))
    future = client.compute(lazy_transform(own, lazy))
    deadline = time.monotonic() + 60
    while len(slow.pids) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    killed = slow.pids[-1]
    assert killed in client.run(os.getpid).values()
    os.kill(killed, signal.SIGKILL)
    result = future.result(timeout=120)

    # The worker that lives has loaded one network for its partitions.
    assert max(client.run(_loads).values()) == 1
    assert len(set(slow.pids)) >= 2
    # Labels: with pandas 2 Dask makes strings of its own type of them.
    assert result.index.tolist() == paths.index.tolist()
    # What was in hand when the worker died is done again, what was stored is not.
    assert N <= len(slow.pids) <= N + 2 * 2
    slow.seconds = 0
    plain = extractor(preprocessing=Slow(tmp_path / "other", 0)).fit(paths)
    assert close(result, plain.transform(paths))


@pytest.mark.slow
def test_failed_rows_on_a_cluster_are_nan(client, paths, lazy_paths):
    Path(paths["path"].iloc[7]).write_bytes(b"\x89PNG\r\n\x1a\n")
    own = extractor(on_error="nan").fit(stand_in(lazy_paths))
    result = client.compute(lazy_transform(own, lazy_paths)).result(timeout=120)
    assert result.index[result.isna().all(axis=1)].tolist() == ["case007"]
    named = extractor().fit(stand_in(lazy_paths))
    future = client.compute(lazy_transform(named, lazy_paths))
    with pytest.raises(ImageDecodeError, match=r"row 1 \(007\.png\)"):  # of its partition
        future.result(timeout=120)


@pytest.mark.slow
def test_joblib_on_a_cluster_shares_a_directory(client, paths, tmp_path):
    from joblib import parallel_config

    slow = Slow(tmp_path / "log", 0)
    own = extractor(preprocessing=slow, cache=tmp_path / "store")
    y = np.arange(N) % 2
    pipe = make_pipeline(own, LogisticRegression(max_iter=500))
    with parallel_config(backend="dask", wait_for_workers_timeout=60):
        scores = cross_val_score(pipe, paths, y, cv=4)
    assert len(slow.pids) == N  # each image once, by one of the workers
    assert os.getpid() not in slow.pids
    assert np.allclose(scores, cross_val_score(pipe, paths, y, cv=4))
    assert len(slow.pids) == N
