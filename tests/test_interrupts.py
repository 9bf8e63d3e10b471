"""Ctrl-C and SIGTERM: two seconds at most, nothing taken for a result, what was finished kept."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import suppress

import numpy as np
import pytest
from skorch.callbacks import Callback

from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor, cache_info
from sktransfer._backbones import load_backbone
from sktransfer._finetune._training import raised_by_code
from sktransfer._frozen import open_directory
from sktransfer._frozen._registry import NetworkRegistry, NetworkSource
from sktransfer._utils.threads import DecodingThreads

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")

PRELUDE = """
import json, os, signal, sys, threading, time
import numpy as np
import torch
import sktransfer
from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor

directory = sys.argv[1]
X = np.random.default_rng(0).integers(0, 256, (400, 40, 40, 3), dtype=np.uint8)
y = np.arange(40) % 2

def slow(seconds, after=0):
    # Native decoders release the GIL and look for no signal, as sleeping in a thread does.
    seen = []
    def prepare(image):
        seen.append(image)
        time.sleep(seconds if len(seen) > after else 0)
        small = np.asarray(image.convert("RGB").resize((32, 32)), dtype=np.float32)
        return torch.from_numpy(small).permute(2, 0, 1) / 255
    prepare.fingerprint = "slow"
    return prepare

def embedder(**settings):
    settings = {"image_size": 32, "batch_size": 4, "cache": directory, "n_jobs": 2, **settings}
    settings = {"engine": "torch", **settings}
    return PretrainedFeatureExtractor("squeezenet1_1", weights=None, **settings).fit(X)

def interrupted(work, ready=lambda: True):
    # Returns what came of Ctrl-C half a second after it was ready, and after how long.
    sent = []
    def send():
        while not ready():
            time.sleep(0.05)
        time.sleep(0.5)
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)
    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    try:
        work()
        how = "finished"
    except KeyboardInterrupt:
        how = "interrupted"
    sender.join(5)
    return [how, time.monotonic() - sent[0]]
"""

SCENARIOS = (
    PRELUDE
    + """
from sklearn.model_selection import GridSearchCV, cross_val_score
from skorch.callbacks import Callback
from sktransfer._frozen import open_directory
from sktransfer.datasets import check_images

found = {}

# The network: batches that take long altogether.
big = embedder(image_size=96, batch_size=400)
found["network"] = interrupted(lambda: [big.transform(X[k:]) for k in range(200)])
if "openvino" in sys.argv:
    fast = embedder(image_size=96, batch_size=200, engine="openvino", cache=False)
    found["openvino"] = interrupted(lambda: [fast.transform(X) for k in range(200)])
    same = np.allclose(fast.transform(X[:4]), big.transform(X[:4]), atol=1e-3)
    found["openvino goes on"] = bool(same)

# The store: other runs hold every claim.
store = open_directory(directory)
claim, store.claim = store.claim, lambda *args, **kwargs: False
found["claims of others"] = interrupted(lambda: embedder().transform(X))
store.claim = claim

# Training.
finished = []
class Waiting(Callback):
    def on_batch_begin(self, net, **kwargs):
        time.sleep(0.05)
    def on_epoch_end(self, net, **kwargs):
        finished.append(net)
trained = lambda: len(finished) > 2

def classifier(**settings):
    return FineTuneClassifier(
        "squeezenet1_1", weights=None, image_size=32, freeze_depth=-1, max_epochs=200,
        batch_size=8, callbacks=[Waiting()], engine="torch", **settings,
    )

def fit(clf):
    finished.clear()
    clf.fit(X[:40], y)

alone = classifier()
found["fit"] = interrupted(lambda: fit(alone), trained)
found["epochs"] = len(alone.history_)
found["all epochs whole"] = all("train_loss" in row for row in alone.history_)
found["predicts"] = alone.predict(X[:3]).shape == (3,)
search = GridSearchCV(classifier(), {"lr": [1e-3, 1e-4]}, cv=2)
found["search"] = interrupted(lambda: fit(search), trained)
found["search has no result"] = not hasattr(search, "best_estimator_")
finished.clear()
crossed = lambda: cross_val_score(classifier(), X[:40], y)
found["cross-validation"] = interrupted(crossed, trained)

# Decoding, last: threads that sleep on are left behind when the process ends.
large = [np.full((9000, 9000), 7, np.uint8)] * 60
found["check_images"] = interrupted(lambda: check_images(large, n_jobs=2, verbose=False))
some, rows = embedder(preprocessing=slow(600, after=12)), store.info().n_rows
found["decoding"] = interrupted(lambda: some.transform(X), lambda: store.info().n_rows >= rows + 8)
with store._lock:
    connection = store._open()
    found["claims left"] = connection.execute("SELECT COUNT(*) FROM claims").fetchone()[0]
again = embedder(preprocessing=slow(0))
before = sktransfer.cache_info().hits
again.transform(X[:20])
found["hits afterwards"] = sktransfer.cache_info().hits - before
print(json.dumps(found), flush=True)
"""
)


@pytest.fixture(scope="module")
def scenarios(tmp_path_factory):
    """What happened in a process of its own, and how long that took to end."""
    folder = tmp_path_factory.mktemp("interrupts")
    environment = {**os.environ, "SKTRANSFER_HOME": str(folder), "SKTRANSFER_SESSION": ""}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    try:
        import openvino  # noqa: F401

        extra = ["openvino"]
    except ImportError:
        extra = []
    command = [sys.executable, "-c", SCENARIOS, str(folder / "cache"), *extra]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    limit = threading.Timer(300, process.kill)
    limit.start()
    try:
        line = process.stdout.readline()
        told = time.monotonic()
        process.wait(timeout=120)
    finally:
        limit.cancel()
        process.kill()
        process.wait(timeout=60)
        process.stdout.close()
    assert process.returncode == 0
    return {**json.loads(line), "exit": time.monotonic() - told, "has openvino": bool(extra)}


@pytest.mark.parametrize(
    "what",
    [
        *("network", "openvino", "claims of others", "fit", "search", "cross-validation"),
        *("check_images", "decoding"),
    ],
)
def test_ctrl_c_is_answered_within_two_seconds(scenarios, what):
    if what == "openvino" and not scenarios["has openvino"]:
        pytest.skip("openvino is not installed")
    how, seconds = scenarios[what]
    assert how == "interrupted"
    assert seconds < 2


def test_a_process_does_not_wait_for_images_that_are_decoded_for_nothing(scenarios):
    assert scenarios["exit"] < 120  # they sleep for ten minutes


def test_after_ctrl_c_claims_are_free_and_what_was_finished_is_stored(scenarios):
    assert scenarios["claims left"] == 0
    assert 8 <= scenarios["hits afterwards"] <= 12
    assert scenarios.get("openvino goes on", True)


def test_an_interrupted_fit_keeps_its_epochs_and_a_search_has_no_result(scenarios):
    assert scenarios["epochs"] >= 1
    assert scenarios["all epochs whole"]
    assert scenarios["predicts"]
    assert scenarios["search has no result"]


def test_after_sigterm_others_go_on_at_once(tmp_path):
    code = PRELUDE + "\nembedder(preprocessing=slow(0.02)).transform(X)\n"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path / "c"], env=environment)
    store = open_directory(tmp_path / "c")
    try:
        deadline = time.monotonic() + 90
        while store.info().n_rows < 12:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == -signal.SIGTERM
    done, code = store.info().n_rows, {}
    exec(PRELUDE.replace("sys.argv[1]", repr(str(tmp_path / "c"))), code)
    start = time.monotonic()
    code["embedder"](preprocessing=code["slow"](0)).transform(code["X"][: done + 10])
    assert time.monotonic() - start < 30  # claims of the living hold for two minutes
    assert cache_info(tmp_path / "c").n_rows == done + 10
    assert cache_info(tmp_path / "c").hits >= done


@pytest.fixture
def task():
    """Noise, half of it brighter."""
    y = np.arange(24) % 2
    X = np.random.default_rng(0).integers(0, 200, (24, 24, 24, 3)) + 40 * y[:, None, None, None]
    return X.astype(np.uint8), y


@pytest.fixture
def small():
    """A classifier that trains in a second."""

    def make(**parameters):
        settings = {"weights": None, "image_size": 32, "max_epochs": 2, "batch_size": 8}
        settings |= {"random_state": 0, "engine": "torch", "freeze_depth": -1, **parameters}
        return FineTuneClassifier("squeezenet1_1", **settings)

    return make


def raised(function):
    with pytest.raises(KeyboardInterrupt) as caught:
        function()
    return raised_by_code(caught.value)


def test_an_interrupt_is_told_from_a_callback_that_ends_training(small, task):
    def on_purpose():
        raise KeyboardInterrupt

    def by_signal():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    assert raised(on_purpose)
    assert not raised(by_signal)

    class Ctrl(Callback):
        def on_epoch_end(self, net, **kwargs):
            if len(net.history) == 2:
                by_signal()

    clf = small(max_epochs=5, callbacks=[Ctrl()])
    with pytest.raises(KeyboardInterrupt):
        clf.fit(*task)
    assert len(clf.history_) == 2
    assert clf.predict(task[0]).shape == (len(task[1]),)
    clf.set_params(callbacks=None, max_epochs=1).partial_fit(*task)
    assert len(clf.history_) == 3


def test_a_fit_that_is_interrupted_before_its_first_epoch_ended_is_not_fitted(small, task):
    class Ctrl(Callback):
        def on_batch_begin(self, net, **kwargs):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)

    clf = small(callbacks=[Ctrl()])
    with pytest.raises(KeyboardInterrupt):
        clf.fit(*task)
    with pytest.raises(ValueError, match="not fitted"):
        clf.predict(task[0])


def test_threads_drop_what_waits_and_are_not_waited_for_after_an_interrupt():
    begun, release = [], threading.Event()

    def work(number):
        begun.append(number)
        release.wait(30)

    start = time.monotonic()
    futures = []

    def interrupted():
        with DecodingThreads(2) as threads:
            futures.extend(threads.submit(work, number) for number in range(6))
            while len(begun) < 2:
                time.sleep(0.01)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - start < 2
    assert [future.cancelled() for future in futures] == [False] * 2 + [True] * 4
    release.set()
    assert begun == [0, 1]


def test_threads_give_results_in_order_and_errors_to_whoever_asks():
    with DecodingThreads(3) as threads:
        assert list(threads.map(lambda x: x * x, range(20))) == [x * x for x in range(20)]
        failing = threads.map(lambda x: 1 // x, [1, 0, 1])
        assert next(failing) == 1
        with pytest.raises(ZeroDivisionError):
            next(failing)
    assert not [t for t in threading.enumerate() if t.name.startswith("sktransfer-decode")]


def test_an_error_does_not_wait_for_what_a_thread_took_meanwhile():
    class OneIsTaken(queue.SimpleQueue):
        """After a look whether there is a task, a thread has taken it."""

        def empty(self):
            was = super().empty()
            with suppress(queue.Empty):
                self.get_nowait()
            return was

    def fail():
        with suppress(ValueError), DecodingThreads(1) as threads:
            threads._tasks = OneIsTaken()
            threads._tasks.put((Future(), print, ()))
            raise ValueError

    failed = threading.Thread(target=fail, daemon=True)
    failed.start()
    failed.join(30)
    assert not failed.is_alive()


def test_ctrl_c_while_networks_are_looked_up_is_no_missing_network():
    class Name:
        """A key in whose hash Ctrl-C arrives, as it may in any that Python computes."""

        interrupts = False

        def __hash__(self):
            if Name.interrupts:
                raise KeyboardInterrupt
            return 1

    registry = NetworkRegistry(at_least=0)
    source = NetworkSource(("key",), lambda: load_backbone("squeezenet1_1", weights=None))
    network = registry._networks[Name()] = registry.get(source, 1)
    Name.interrupts = True
    assert registry.get(source, 1) is network  # or KeyboardInterrupt, but no KeyError
    registry.max_bytes = 0
    with pytest.raises(KeyboardInterrupt):
        registry.get(source, 1)


def test_an_extractor_works_after_an_interrupt():
    X = np.random.default_rng(1).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    feat = PretrainedFeatureExtractor("squeezenet1_1", weights=None, image_size=32).fit(X)

    def go_on():
        deadline = time.monotonic() + 60
        threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        while time.monotonic() < deadline:
            feat.set_params(cache=False).transform(X)

    with pytest.raises(KeyboardInterrupt):
        go_on()
    assert np.isfinite(feat.set_params(cache=True).transform(X)).all()
