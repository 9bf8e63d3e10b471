"""Forked children and workers that end of themselves; a hang is a failure, not a wait."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import warnings
from concurrent.futures import ProcessPoolExecutor

import joblib
import numpy as np
import pytest
from joblib.externals.loky import get_reusable_executor

torch = pytest.importorskip("torch")

from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor  # noqa: E402
from sktransfer._frozen import _engines  # noqa: E402

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]
SECONDS = 30
X = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def two_threads():
    """Hangs need a pool of numerical threads in the parent."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def extractor(engine="torch", **kwargs):
    return PretrainedFeatureExtractor(
        "squeezenet1_1", weights=None, image_size=64, engine=engine, **kwargs
    )


def in_children(function, rows):
    """Return what a pool of forked children makes of rows, within half a minute."""
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map_async(function, rows).get(SECONDS)


@contextlib.contextmanager
def none_left():
    """Kill what was forked and has not ended, which executors would wait for without a limit."""
    try:
        yield
    except BaseException:
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)
        raise


def in_a_child(function):
    """Return what one forked child says, within half a minute."""
    ours, theirs = multiprocessing.Pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            theirs.send(function())
        except BaseException as error:
            theirs.send(error)
        finally:
            os._exit(0)
    theirs.close()
    try:
        if not ours.poll(SECONDS):
            os.kill(pid, signal.SIGABRT)  # pytest's faulthandler shows where it is
            time.sleep(1)
            pytest.fail("the child hangs")
        answer = ours.recv()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if isinstance(answer, BaseException):
        raise answer
    return answer


def test_forked_pools_and_executors_compute_as_their_parent_does():
    clf = FineTuneClassifier(
        "squeezenet1_1", weights=None, image_size=64, max_epochs=1, random_state=0, cache=False
    ).fit(X, [0, 1] * 2)
    feat = extractor(cache=False).fit(X)
    expected, embedded = clf.predict_proba(X), feat.transform(X)
    found = in_children(feat.transform, [X[:2], X[2:]])
    np.testing.assert_allclose(np.concatenate(found), embedded, rtol=1e-4, atol=1e-5)
    executor = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"))
    with executor, none_left():
        found = [executor.submit(clf.predict_proba, X[i : i + 2]) for i in (0, 2)]
        found = [future.result(SECONDS) for future in found]
    np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-5)


def test_a_child_computes_in_one_thread_and_its_parent_in_as_many_as_before():
    assert in_a_child(torch.get_num_threads) == 1
    assert torch.get_num_threads() == 2


def test_a_child_of_openvino_runs_torch_and_says_so_where_openvino_was_asked_for(tmp_path):
    pytest.importorskip("openvino")
    feat = extractor("openvino", cache=False).fit(X)
    expected = feat.transform(X)
    recorded = _engines.recall
    auto = extractor("auto", cache=False).fit(X)
    auto.transform(X)

    def child():
        embedded = auto.transform(X)
        try:
            feat.transform(X)
        except ValueError as error:
            return embedded, str(error), _engines.recall("any", "question")
        return embedded, "", None

    embedded, message, engine = in_a_child(child)
    np.testing.assert_allclose(embedded, expected, rtol=1e-3, atol=1e-4)
    assert "forked from one in which OpenVINO had run" in message
    assert "spawn" in message
    assert engine == "torch"
    assert recorded("any", "question") is None  # the parent and others are told nothing of it


@pytest.mark.parametrize(
    ("engine", "stored", "times"),
    [
        ("auto", "directory", 2),
        pytest.param("torch", "memory", 8, marks=pytest.mark.slow),
        pytest.param("torch", "directory", 8, marks=pytest.mark.slow),
        pytest.param("auto", "memory", 8, marks=pytest.mark.slow),
    ],
)
def test_a_child_does_not_wait_for_what_threads_of_its_parent_held(engine, stored, times, tmp_path):
    feat = extractor(engine, cache=tmp_path if stored == "directory" else True).fit(X)
    expected = feat.transform(X)
    stop = threading.Event()

    def embed():
        rng = np.random.default_rng(1)
        while not stop.is_set():
            feat.transform(rng.integers(0, 256, (24, 64, 64, 3), dtype=np.uint8))

    thread = threading.Thread(target=embed, daemon=True)
    thread.start()
    new = np.random.default_rng(2).integers(0, 256, (times, 2, 64, 64, 3), dtype=np.uint8)
    try:
        for images in new:
            both = np.concatenate([X[:2], images])
            found = in_a_child(lambda both=both: feat.transform(both))
            np.testing.assert_allclose(found[:2], expected[:2], rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(
                found[2:], extractor(cache=False).fit_transform(images), rtol=1e-3, atol=1e-4
            )
    finally:
        stop.set()
        thread.join(SECONDS)
    assert not thread.is_alive()


def test_a_child_computes_what_a_thread_of_its_parent_had_claimed():
    from sktransfer._frozen._store import MemoryStore

    store = MemoryStore(10**6)
    assert store.claim(b"key", "a thread of the parent")
    assert in_a_child(lambda: store.claim(b"key", "child"))
    assert not store.claim(b"key", "another thread")


def test_locks_that_a_thread_held_are_free_in_a_child():
    from sktransfer._utils.forking import new_lock

    lock, held, done = new_lock(), threading.Event(), threading.Event()

    def hold():
        with lock:
            held.set()
            done.wait(2 * SECONDS)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(SECONDS)
    try:
        assert in_a_child(lambda: lock.acquire(blocking=False))
        assert not lock.acquire(blocking=False)
    finally:
        done.set()
        thread.join(SECONDS)


def test_workers_that_end_of_themselves_while_others_wait_are_replaced():
    pytest.importorskip("psutil", reason="joblib measures its workers with it")

    def work(number):  # defined here: a worker that imports this file takes seconds
        from joblib.externals.loky import process_executor

        # As if it had grown by too much memory in the meantime: it ends after its second task.
        process_executor._MEMORY_LEAK_CHECK_DELAY = 0
        process_executor._MAX_MEMORY_LEAK_SIZE = -(10**12)
        return number

    try:
        with none_left(), joblib.Parallel(n_jobs=2, timeout=SECONDS) as parallel:
            assert parallel(joblib.delayed(work)(i) for i in range(5)) == list(range(5))
    finally:
        get_reusable_executor().shutdown(wait=False, kill_workers=True)
