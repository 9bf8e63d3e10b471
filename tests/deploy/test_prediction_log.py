"""The log of predictions: one whole line for each, whatever happens to the process."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline

from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor
from sktransfer.deploy import prediction_log
from sktransfer.deploy._lines import PAGE, AppendedLines
from sktransfer.exceptions import ImageDecodeError, NovelImageError
from sktransfer.model_selection import OperatingPointClassifier
from sktransfer.novelty import NoveltyDetector, NoveltyGate

SMALL = {"weights": None, "image_size": 32}
SCORES = np.linspace(0, 1, 40)[:, None]


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, size=(12, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def network(images):
    clf = FineTuneClassifier("squeezenet1_1", **SMALL, freeze_depth="all", random_state=0)
    return clf.fit(images, np.array(["ill", "well"] * 6))


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_prediction_is_a_line_with_what_an_audit_asks_for(network, images, tmp_path):
    with prediction_log(tmp_path / "a" / "log.jsonl", network) as model:
        labels = model.predict(images[:3])
        y_proba = model.predict_proba(images[3:4])
        assert model.classes_.tolist() == ["ill", "well"]
    np.testing.assert_array_equal(labels, network.predict(images[:3]))
    np.testing.assert_array_equal(y_proba, network.predict_proba(images[3:4]))
    log = lines_of(tmp_path / "a" / "log.jsonl")
    assert [line["decision"] for line in log[:3]] == labels.tolist()
    assert list(log[3]["scores"].values()) == y_proba[0].tolist()
    for line in log:
        assert set(line) == {
            *("time", "input", "scores", "decision", "novel", "error"),
            *("model", "threshold", "positive", "versions"),
        }
        assert pd.Timestamp(line["time"]).tzinfo is not None
        assert line["model"].startswith("sha256:")
        assert line["input"].startswith("blake2b:")
        assert {"sktransfer", "torch", "scikit-learn"} <= set(line["versions"])
    assert len({line["input"] for line in log}) == 4
    assert pd.read_json(tmp_path / "a" / "log.jsonl", lines=True).shape[0] == 4


def test_files_are_logged_by_the_digest_of_their_bytes_and_names_only_if_asked(
    network, images, tmp_path
):
    file = tmp_path / "Jane Doe 1970.png"
    Image.fromarray(images[0]).save(file)
    path = tmp_path / "log.jsonl"
    with prediction_log(path, network) as model:
        model.predict([str(file)])
    assert "Jane" not in path.read_text()
    with prediction_log(path, network, include_identifiers=True) as model:
        model.predict([str(file)])
    log = lines_of(path)
    digest = f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    assert [line["input"] for line in log] == [digest, digest]
    assert log[1]["name"] == file.name
    assert "name" not in log[0]


def test_an_image_that_cannot_be_read_is_logged_and_stays_an_error(network, images, tmp_path):
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    Image.fromarray(images[0]).save(good)
    bad.write_bytes(b"\x89PNG\r\n\x1a\n")
    path = tmp_path / "log.jsonl"
    with prediction_log(path, network) as model, pytest.raises(ImageDecodeError, match=r"bad\.png"):
        model.predict([good, bad])
    log = lines_of(path)
    assert log[0]["decision"] == network.predict([good])[0]
    assert log[1]["scores"] is log[1]["decision"] is None
    assert "PNG" in log[1]["error"]
    assert "bad.png" not in path.read_text()


def test_reasons_in_the_log_have_no_names_of_files_unless_asked(network, tmp_path):
    folder = tmp_path / "Doe's folder"
    folder.mkdir()
    path, asked = tmp_path / "log.jsonl", tmp_path / "asked.jsonl"
    rows = [str(folder / "Doe.png"), str(folder), "https://example.invalid/Doe.png", "file:///Doe"]
    for log, named in ((path, False), (asked, True)):
        with prediction_log(log, network, include_identifiers=named) as model:
            assert all(model.predictions([*rows, b""]).reasons)
    assert "Doe" not in path.read_text()
    assert lines_of(path)[0]["error"].startswith("no such file: '...'")
    assert lines_of(path)[4]["error"] == lines_of(asked)[4]["error"]
    assert all("Doe" in line["error"] for line in lines_of(asked)[:4])


def test_an_image_that_an_imputer_would_make_up_is_logged_as_unreadable(images, tmp_path):
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    Image.fromarray(images[0]).save(good)
    bad.write_bytes(b"\x89PNG\r\n\x1a\n")
    network = PretrainedFeatureExtractor("squeezenet1_1", **SMALL, on_error="nan")
    pipe = make_pipeline(network, SimpleImputer(), LogisticRegression(max_iter=500))
    pipe.fit(images, np.array(["ill", "well"] * 6))
    with prediction_log(tmp_path / "log.jsonl", pipe) as model:
        found = model.predictions([good, bad])
    assert np.isnan(found.y_proba[1]).all()
    log = lines_of(tmp_path / "log.jsonl")
    assert log[0]["decision"] == pipe.predict([good])[0]
    assert log[1]["decision"] is None
    assert "PNG" in log[1]["error"]


def test_classes_of_several_outputs_are_refused(tmp_path):
    y = np.stack([SCORES[:, 0] > 0.5, SCORES[:, 0] > 0.7], axis=1)
    several = MultiOutputClassifier(LogisticRegression()).fit(SCORES, y)
    with pytest.raises(TypeError, match="classes for each of 2 outputs"):
        prediction_log(tmp_path / "log.jsonl", several)
    assert not (tmp_path / "log.jsonl").exists()


def test_the_threshold_of_the_model_is_in_each_line(images, tmp_path):
    y = (SCORES[:, 0] > 0.5).astype(int)
    clf = LogisticRegression().fit(SCORES, y)
    chosen = OperatingPointClassifier(
        FrozenEstimator(clf), cv="prefit", target_level=0.9, confidence_level=None
    ).fit(SCORES, y)
    with prediction_log(tmp_path / "log.jsonl", chosen) as model:
        model.predict(SCORES[::7])
    log = lines_of(tmp_path / "log.jsonl")
    assert {line["threshold"] for line in log} == {chosen.threshold_}
    assert {line["positive"] for line in log} == {"1"}
    assert [int(line["decision"]) for line in log] == chosen.predict(SCORES[::7]).tolist()


@pytest.mark.parametrize("on_novel", ["flag", "refer", "raise"])
def test_images_unlike_those_of_the_training_are_marked(tmp_path, on_novel):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 3))
    gate = NoveltyGate(LogisticRegression(), on_novel=on_novel).fit(X, np.where(X[:, 0] > 0, 1, 0))
    new = np.array([[0.1, 0, 0], [30, 30, 30], [-0.1, 0, 0]])
    path = tmp_path / "log.jsonl"
    with prediction_log(path, gate) as model:
        found = model.predictions(new)
        if on_novel == "raise":
            with pytest.raises(NovelImageError):
                model.predict(new)
        else:
            np.testing.assert_array_equal(model.predict(new), gate.predict(new))
    log = lines_of(path)[:3]
    assert [line["novel"] for line in log] == found.novel.tolist() == [False, True, False]
    second = {"flag": "1", "refer": "refer", "raise": None}[on_novel]
    assert [line["decision"] for line in log] == ["1", second, "0"]
    assert (log[1]["error"] is not None) == (on_novel == "raise")


def test_a_gate_at_the_end_of_a_pipeline_gets_what_the_steps_before_it_give(images, tmp_path):
    network = PretrainedFeatureExtractor("squeezenet1_1", **SMALL)
    gate = NoveltyGate(
        LogisticRegression(max_iter=500), detector=NoveltyDetector(false_alarm_rate=0.2)
    )
    pipe = make_pipeline(network, gate).fit(images, np.array([0, 1] * 6))
    with prediction_log(tmp_path / "log.jsonl", pipe) as model:
        found = model.predictions(images[:4])
    np.testing.assert_array_equal(found.novel, pipe[-1].is_novel(pipe[:-1].transform(images[:4])))


def test_models_that_learned_otherwise_have_other_digests_and_saved_ones_their_files(
    network, images, tmp_path
):
    y = np.array([0, 1] * 6)
    path = tmp_path / "log.jsonl"
    for seed in (0, 1, 0):
        head = RandomForestClassifier(5, random_state=seed)
        pipe = make_pipeline(PretrainedFeatureExtractor("squeezenet1_1", **SMALL), head)
        with prediction_log(path, pipe.fit(images, y)) as model:
            model.predict(images[:1])
    first, second, third = (line["model"] for line in lines_of(path))
    assert first == third != second
    file = tmp_path / "model.safetensors"
    network.save(file)
    with prediction_log(path, file) as model:
        model.predict(images[:1])
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert lines_of(path)[-1]["model"] == f"sha256:{digest}"


@pytest.mark.parametrize("shared", [False, True], ids=["a file each", "one file"])
def test_lines_of_many_writers_stay_whole(tmp_path, shared):
    path = tmp_path / "log.jsonl"
    one = AppendedLines(path)

    def write(number):
        lines = one if shared else AppendedLines(path)
        for k in range(40):
            text = "x" * ((k * 97) % 3000)
            lines.append([json.dumps([number, k, text]).encode() + b"\n"])

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    found = {(number, k) for number, k, _ in lines_of(path)}
    assert found == {(number, k) for number in range(4) for k in range(40)}


def test_no_line_crosses_a_page(tmp_path):
    path = tmp_path / "log.jsonl"
    lines = AppendedLines(path)
    lines.append(json.dumps("y" * (k % 2000)).encode() + b"\n" for k in range(0, 60_000, 613))
    start = 0
    for line in path.read_bytes().splitlines(keepends=True):
        begins = start + len(line) - len(line.lstrip())
        assert begins // PAGE == (start + len(line) - 1) // PAGE
        start += len(line)
    with pytest.raises(ValueError, match="at most 4096"):
        lines.append([b"z" * PAGE + b"\n"])


@pytest.mark.parametrize(
    ("tail", "kept"),
    [(b'{"a": 1', []), (b"   ", []), (b'{"a": 1}', [{"a": 1}]), (b'{"a": 1}\n   {"b"', [{"a": 1}])],
)
def test_what_a_power_failure_cut_is_removed_and_nothing_else(tmp_path, tail, kept):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"first": 0}\n' + tail)
    AppendedLines(path).append([b'{"last": 2}\n'])
    assert lines_of(path) == [{"first": 0}, *kept, {"last": 2}]


WRITER = """
    import sys
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sktransfer.deploy import prediction_log

    X = np.arange(8.0)[:, None]
    clf = LogisticRegression().fit(X, X[:, 0] > 3)
    with prediction_log(sys.argv[1], clf) as model:
        print("ready", flush=True)
        k = 0
        while True:
            rows = 1000.0 * int(sys.argv[2]) + np.arange(k, k + 7)[:, None]
            model.predict(rows)
            for row in rows:
                sys.stdout.write(row.tobytes().hex() + "\\n")
            sys.stdout.flush()
            k += 7
"""


def killed_at_random(path, n_kills, seed):
    """Kill a writer again and again; return the digests of what it has printed."""
    wait, printed = random.Random(seed), set()
    for k in range(n_kills):
        arguments = [sys.executable, "-c", textwrap.dedent(WRITER), str(path), str(k)]
        writer = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        assert writer.stdout.readline() == "ready\n"
        killer = threading.Timer(wait.uniform(0.01, 0.25), writer.send_signal, [signal.SIGKILL])
        killer.start()
        told, _ = writer.communicate(timeout=60)
        for row in told.splitlines():
            if len(row) == 16:  # the last may be cut: it was not printed whole
                printed.add(f"sha256:{hashlib.sha256(bytes.fromhex(row)).hexdigest()}")
        assert path.read_bytes().rstrip(b" ").endswith(b"\n")
    return printed


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no kill -9 here")
@pytest.mark.parametrize(
    "n_kills", [1, pytest.param(20, marks=pytest.mark.slow)], ids=["one kill", "twenty kills"]
)
def test_after_kill_9_every_line_is_whole_and_nothing_printed_is_missing(tmp_path, n_kills):
    path = tmp_path / "log.jsonl"
    printed = killed_at_random(path, n_kills, seed=n_kills)
    logged = {line["input"] for line in lines_of(path)}  # json.loads would fail at a torn line
    assert len(printed) > 7
    assert printed <= logged


TWO_WRITERS = """
    import json, sys
    from sktransfer.deploy._lines import AppendedLines

    lines, number = AppendedLines(sys.argv[1]), int(sys.argv[2])
    print("ready", flush=True)
    sys.stdin.readline()
    for k in range(150):
        lines.append(
            json.dumps([number, k + part, "x" * (k * 97 % 3000)]).encode() + b"\\n"
            for part in (0, 0.5)
        )
"""


def test_two_processes_that_write_at_once_lose_and_tear_nothing(tmp_path):
    path = tmp_path / "log.jsonl"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(TWO_WRITERS), str(path), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:  # both have begun before either writes
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=120)
        assert writer.returncode == 0
    found = [(number, k) for number, k, _ in lines_of(path)]
    assert sorted(found) == [(number, k / 2) for number in range(2) for k in range(300)]


def test_a_log_that_cannot_be_written_gives_no_prediction(network, images, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="is a folder"):
        prediction_log(tmp_path, network)
    with prediction_log(tmp_path / "log.jsonl", network) as model:
        monkeypatch.setattr(os, "write", lambda file, data: len(data) // 2)
        with pytest.raises(OSError, match="the disk is full"):
            model.predict(images[:1])


def test_a_log_that_cannot_be_written_is_said_before_anything_is_predicted(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="its folder cannot be made"):
        AppendedLines(tmp_path / "file" / "log.jsonl")
    with monkeypatch.context() as patch:  # as a folder is that may be read only
        patch.setattr(os, "access", lambda path, mode: False)
        with pytest.raises(PermissionError, match="read-only"):
            AppendedLines(tmp_path / "log.jsonl")
    (tmp_path / "log.jsonl.lock").mkdir()  # the log may be written, what is next to it may not
    with pytest.raises(OSError, match="nothing can be logged there"):
        AppendedLines(tmp_path / "log.jsonl")
