"""``precision="int8"``: quantized once, the same for everybody, near enough or refused."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from joblib import Parallel, delayed
from sklearn.base import clone

from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor, cache_info, clear_cache
from sktransfer._base import resolve_device
from sktransfer._frozen import (
    REGISTRY,
    _calibration,
    _engines,
    _extractor,
    _int8,
    resolve_engine,
)
from sktransfer.exceptions import ImageDecodeError, MissingDependencyError

needs_nncf = pytest.mark.skipif(
    find_spec("openvino") is None or find_spec("nncf") is None,
    reason='openvino or nncf is not installed: pip install "sktransfer[openvino]"',
)


def photos(n):
    """Cuts of photographs that no network is quantized on."""
    return list(_calibration.photographs(200))[-n:]


def small(**parameters):
    settings = {"weights": None, "image_size": 64, "precision": "int8", "cache": False}
    return PretrainedFeatureExtractor("squeezenet1_1", **{**settings, **parameters})


def apart(a, b):
    """Relative L2 distance of each row."""
    return np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    """A home of this module's own, so that what one test quantizes is there for the next."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("home")
        patch.setenv("SKTRANSFER_HOME", str(folder))
        patch.setenv("SKTRANSFER_OFFLINE", "1")
        patch.setattr(_calibration, "N_CUTS", 8)
        REGISTRY.clear()
        yield folder
    REGISTRY.clear()


@pytest.fixture(autouse=True)
def at_home(home, offline_home, monkeypatch):
    """Every test is at the home of the module, not at one of its own."""
    monkeypatch.setenv("SKTRANSFER_HOME", str(home))


@pytest.fixture
def again(monkeypatch):
    """Forget networks in memory; return a list of those that are quantized from now on."""
    made = []
    make = _int8._make

    def watched(*given):
        found = make(*given)
        made.append(found.digest)
        return found

    monkeypatch.setattr(_int8, "_make", watched)
    monkeypatch.setattr(_int8, "_digests", {})
    REGISTRY.clear()
    yield made
    REGISTRY.clear()


@pytest.fixture(scope="module")
def quantized(home):
    """What the default is for this network, made once."""
    rows = small().fit_transform(photos(2))
    (record,) = (home / "int8").glob("*.int8")
    return record, rows


@pytest.fixture
def stand_in(quantized, monkeypatch):
    """Without quantizing, networks are those of ``quantized``; the list has what was asked for."""
    import json

    head, _, content = quantized[0].read_bytes().partition(b"\n")
    said = json.loads(head)
    kept = _int8.Quantized(content[: said["xml"]], content[said["xml"] :], (*said["errors"],))
    asked = []

    def make(module, calibration, plain):
        asked.append(calibration.key)
        time.sleep(0.2)
        return kept

    monkeypatch.setattr(_int8, "_make", make)
    monkeypatch.setattr(_int8, "_digests", {})
    REGISTRY.clear()
    yield asked
    REGISTRY.clear()


# --- the numbers ----------------------------------------------------------------------------------


@needs_nncf
@pytest.mark.parametrize("layer", [None, [3, None], "all"])
def test_rows_are_near_those_in_float32_and_not_the_same(layer, quantized):
    X = photos(6)
    own = small(layer=layer).fit(X)
    exact = small(layer=layer, precision="float32", engine="torch").fit(X)
    rows, right = own.transform(X), exact.transform(X)
    assert rows.dtype == np.float32
    assert list(own.get_feature_names_out()) == list(exact.get_feature_names_out())
    assert rows.shape == (6, own.n_features_out_)
    assert 1e-3 < np.median(apart(rows, right)) < 0.15


@needs_nncf
def test_rows_do_not_depend_on_the_batch_or_the_threads(quantized):
    X = photos(7)
    whole = small().fit_transform(X)
    for settings in ({"batch_size": 1}, {"batch_size": 3, "n_jobs": 2}):
        assert apart(small(**settings).fit_transform(X), whole).max() < 2e-2


@needs_nncf
def test_quantizing_again_gives_the_same_network(quantized, again):
    record, rows = quantized
    before = record.read_bytes()
    record.unlink()
    assert np.array_equal(small().fit_transform(photos(2)), rows)
    assert len(again) == 1
    assert record.read_bytes() == before


@needs_nncf
def test_another_process_finds_the_network_and_prints_nothing(quantized, tmp_path):
    """Nothing printed, nobody called, nothing written; NNCF is not even imported."""
    code = """
        import sys
        from sktransfer import PretrainedFeatureExtractor
        from sktransfer._frozen import _calibration, _int8
        _calibration.N_CUTS = 8
        _int8._make = None
        X = list(_calibration.photographs(200))[-2:]
        own = PretrainedFeatureExtractor(
            "squeezenet1_1", weights=None, image_size=64, precision="int8", cache=False
        )
        own.fit_transform(X).tofile(sys.argv[1])
        assert "nncf" not in sys.modules
        assert not any(name.startswith("openvino_telemetry") for name in sys.modules)
    """
    record, rows = quantized
    _own_process(code, tmp_path, home=record.parents[1])
    assert np.array_equal(np.fromfile(tmp_path / "rows", np.float32).reshape(rows.shape), rows)


@needs_nncf
def test_quantizing_prints_nothing_and_calls_nobody(quantized, tmp_path):
    code = """
        import logging, socket, sys
        kind = logging.getLoggerClass()
        from sktransfer import PretrainedFeatureExtractor
        from sktransfer._frozen import _calibration
        _calibration.N_CUTS = 4
        X = list(_calibration.photographs(200))[-2:]
        own = PretrainedFeatureExtractor(
            "squeezenet1_1", weights=None, image_size=64, precision="int8", cache=False
        )
        own.fit_transform(X).tofile(sys.argv[1])
        assert logging.getLoggerClass() is kind
    """
    _own_process(code, tmp_path, home=tmp_path / "own")
    names = {path.suffix for path in (tmp_path / "own" / "int8").iterdir()}
    assert names == {".int8", ".lock"}
    assert {path.name for path in tmp_path.iterdir()} == {"own", "rows"}


def _own_process(code, folder, home):
    """Run code with ``folder`` as the user's home; it must not say anything."""
    environment = {
        **os.environ,
        "HOME": str(folder),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "SKTRANSFER_HOME": str(home),
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("XDG_CACHE_HOME", None)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), str(folder / "rows")],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=600,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_nncf
@pytest.mark.parametrize(
    ("of_extremes", "of_all_values", "kept"),
    [
        ((0.01, 0.05), (0.01, 0.049), b"MEAN_MINMAX"),
        ((0.01, 0.05), (0.02, 0.04), b"HISTOGRAM"),
        ((0.01, 0.05), (0.00, 0.06), b"MEAN_MINMAX"),
    ],
)
def test_ranges_of_all_values_are_taken_where_their_worst_error_is_clearly_smaller(
    of_extremes, of_all_values, kept, monkeypatch
):
    errors = {b"MEAN_MINMAX": of_extremes, b"HISTOGRAM": of_all_values}

    def worker(folder):
        for ranges in errors:
            (folder / f"{ranges.decode()}.xml").write_bytes(ranges)
            (folder / f"{ranges.decode()}.bin").write_bytes(b"")

    def measured(made, images, plain):
        return replace(made, errors=errors[made.xml])

    monkeypatch.setattr(_int8, "_run_worker", worker)
    monkeypatch.setattr(_int8, "_measured", measured)
    images = torch.zeros(2, 3, 8, 8)
    calibration = _calibration.Calibration("two", lambda: (images, images))
    made = _int8._make(torch.nn.Conv2d(3, 3, 1), calibration, None)
    assert (made.xml, made.errors) == (kept, errors[kept])


# --- on disk --------------------------------------------------------------------------------------


@needs_nncf
@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[:-1],
        lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]),
        lambda whole: whole.replace(b'"question": "(', b'"question": "(0', 1),
        lambda whole: b"[]\n" + whole,
        lambda whole: b"\xff\x00 something else\n",
    ],
)
def test_a_file_that_is_damaged_or_of_something_else_is_made_again(damage, quantized, stand_in):
    record, rows = quantized
    whole = record.read_bytes()
    record.write_bytes(damage(whole))
    try:
        assert np.array_equal(small().fit_transform(photos(2)), rows)
        assert record.read_bytes() == whole
    finally:
        record.write_bytes(whole)
    assert len(stand_in) == 1


@needs_nncf
def test_whoever_comes_second_waits_and_finds_it(stand_in, monkeypatch, tmp_path):
    monkeypatch.setenv("SKTRANSFER_HOME", str(tmp_path))
    calibration = _calibration.Calibration("some", None)
    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(_int8.quantized, "it", None, calibration, None) for _ in range(3)]
        digests = {job.result(timeout=120).digest for job in jobs}
    assert len(digests) == len(stand_in) == 1


@needs_nncf
def test_a_home_that_cannot_be_written_to_is_done_without(
    quantized, stand_in, monkeypatch, tmp_path
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SKTRANSFER_HOME", str(tmp_path / "file" / "home"))
    own = small(cache=True).fit(photos(2))
    assert np.array_equal(own.transform(photos(2)), quantized[1])
    assert len(stand_in) == 1


# --- what rows are kept under ---------------------------------------------------------------------


@needs_nncf
def test_rows_of_another_precision_or_calibration_are_never_taken(quantized, stand_in):
    clear_cache()
    X = photos(2)
    extractors = [
        small(cache=True),
        small(cache=True, precision="float32"),
        small(cache=True, calibration=photos(3)),
        small(cache=True, calibration=photos(4)),
    ]
    for own in extractors:
        own.fit(X).transform(X)
    # All calibrations have one network here, and what it is counts, not what it was made on.
    assert cache_info().n_rows == 2 * 2
    before = cache_info().misses
    for own in extractors:
        own.transform(X)
    assert cache_info().misses == before
    assert len(set(stand_in)) == len(stand_in) == 2


@needs_nncf
def test_a_home_that_changes_in_a_process_is_no_error(quantized, stand_in, monkeypatch, tmp_path):
    X = photos(2)
    own = small().fit(X)
    right = own.transform(X)
    monkeypatch.setenv("SKTRANSFER_HOME", str(tmp_path))
    assert np.array_equal(own.set_params(cache=True).transform(X), right)


@needs_nncf
def test_another_quantized_network_has_other_keys(quantized, monkeypatch):
    own = small().fit(photos(2))
    frozen = own._frozen(own._found(), own._info)
    before = frozen.fingerprints()
    assert frozen.fingerprints() == before
    monkeypatch.setattr(_int8, "recall", lambda question: "of another machine")
    assert frozen.fingerprints() != before


@needs_nncf
def test_layers_are_stored_one_after_another_without_quantizing_all_at_once(quantized, stand_in):
    X = photos(2)
    own = small().fit(X)
    frozen = [own._frozen(own._found(), own._info) for _ in range(2)]
    for each in frozen:
        each.widths = own._widths
    failures = _extractor.store_together(
        frozen, own._image_source(X, reset=False), cache=True, n_threads=1, progress=False
    )
    assert failures == []
    assert stand_in == []


# --- estimators -----------------------------------------------------------------------------------


@needs_nncf
def test_a_copy_and_a_pickle_give_the_same_rows(quantized):
    X = photos(2)
    own = small().fit(X)
    for copied in (clone(own).fit(X), pickle.loads(pickle.dumps(own))):
        assert np.array_equal(copied.transform(X), quantized[1])
    own.set_params(precision="float32")
    assert apart(own.transform(X), quantized[1]).min() > 1e-3


@needs_nncf
def test_a_pickle_does_not_read_the_calibration_again(quantized, stand_in, monkeypatch):
    X = photos(2)
    own = small(calibration=[np.asarray(photo.resize((40, 40))) for photo in photos(5)]).fit(X)
    copied = pickle.loads(pickle.dumps(own))
    monkeypatch.setattr("sktransfer._extractor.digest_of_images", None)
    assert np.array_equal(copied.transform(X), own.transform(X))
    assert len(stand_in) == 1


@needs_nncf
@pytest.mark.slow
def test_worker_processes_give_the_same_rows(quantized):
    X = photos(2)
    own = small(calibration=photos(4)).fit(X)
    right = own.transform(X)
    with Parallel(n_jobs=2, timeout=600) as parallel:
        for rows in parallel(delayed(own.transform)(X) for _ in range(2)):
            assert apart(rows, right).max() < 2e-2


@needs_nncf
def test_too_large_an_error_is_refused_with_the_figure(quantized, monkeypatch):
    REGISTRY.clear()
    monkeypatch.setattr(_int8, "LARGEST_ERROR", 1e-3)
    message = (
        r"too inaccurate for squeezenet1_1: in its embedding, the median relative error is \d+%, "
        r"more than 0%.*'bfloat16' or 'float32'.*calibration"
    )
    with pytest.raises(ValueError, match=message):
        small().fit(photos(2)).transform(photos(2))


@needs_nncf
@pytest.mark.parametrize(
    ("calibration", "error", "message"),
    [
        ("photo.png", ValueError, "single str"),
        ([], ValueError, "0 sample"),
        (5, ValueError, "Got 5"),
        (["there_is_no_such_file.png"], ImageDecodeError, "there_is_no_such_file"),
    ],
)
def test_a_calibration_without_images_is_an_error(calibration, error, message):
    with pytest.raises(error, match=message) as raised:
        small(calibration=calibration).fit(photos(2))
    told = " ".join([str(raised.value), *getattr(raised.value, "__notes__", [])])
    assert "calibration" in told


def test_of_many_images_some_are_taken_evenly(monkeypatch):
    monkeypatch.setattr(_calibration, "MAX_IMAGES", 4)
    assert _calibration._rows(range(10)) == [0, 3, 6, 9]
    assert _calibration._rows(range(3)) == [0, 1, 2]


def test_the_cuts_of_photographs_are_always_the_same():
    first = [np.asarray(cut) for cut in _calibration.photographs(6)]
    for cut, right in zip(_calibration.photographs(6), first, strict=True):
        assert np.array_equal(cut, right)
    assert len({cut.shape for cut in first}) == 6


# --- where it is impossible -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "device"), [("torch", "cpu"), ("auto", "cuda"), ("openvino", "mps")]
)
def test_other_engines_and_devices_are_an_error(engine, device, monkeypatch):
    monkeypatch.setattr(_engines, "_is_installed", lambda module: True)
    with pytest.raises(ValueError, match=r"engine='openvino'.*device='cpu'.*'bfloat16'"):
        resolve_engine(engine, "int8", device)


@pytest.mark.parametrize("missing", ["openvino", "nncf"])
def test_a_missing_package_names_its_extra(missing, monkeypatch):
    monkeypatch.setattr(_engines, "_is_installed", lambda module: module != missing)
    with pytest.raises(MissingDependencyError, match=rf"'{missing}'.*sktransfer\[openvino\]"):
        resolve_engine("auto", "int8", "cpu")


def test_the_device_is_the_cpu_wherever_it_may_be_chosen(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto", "int8") == "cpu"
    assert resolve_device("auto", "float32") == "cuda"


def test_networks_that_are_trained_are_not_quantized():
    with pytest.raises(ValueError, match=r"precision.*'int8'"):
        FineTuneClassifier(precision="int8").fit(np.zeros((4, 8, 8, 3), np.uint8), [0, 1, 0, 1])
