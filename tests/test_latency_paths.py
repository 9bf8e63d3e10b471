"""What is left out when one image is predicted: the numbers, the errors and the state are those of
the plain way."""

from __future__ import annotations

import hashlib
import io
import pickle
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import (
    FineTuneClassifier,
    PretrainedFeatureExtractor,
    TransferClassifier,
    cache_info,
    clear_cache,
)
from sktransfer._frozen import _engines
from sktransfer._frozen._extraction import Extraction
from sktransfer._frozen._extractor import FrozenExtractor
from sktransfer._images import as_image_source, make_preprocessing
from sktransfer._images._source import _SMALL_FILE
from sktransfer._utils.threads import DecodingThreads
from sktransfer.exceptions import FailedRowsWarning, ImageDecodeError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def encoded(seed, size=(48, 40), format_="JPEG"):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize(size).save(file, format_)
    return file.getvalue()


@pytest.fixture
def files(tmp_path):
    clear_cache()
    paths = [tmp_path / f"{i}.jpg" for i in range(12)]
    for i, path in enumerate(paths):
        path.write_bytes(encoded(i))
    return paths


def extractor(**given):
    settings = {"weights": None, "image_size": 32, "engine": "torch", "n_jobs": 2, **given}
    return PretrainedFeatureExtractor("squeezenet1_1", **settings)


def pipeline(files, **given):
    steps = (extractor(**given), StandardScaler(), LogisticRegression())
    return make_pipeline(*steps).fit(files, np.arange(len(files)) % 2)


def fine_tuned(files, **given):
    settings = {"weights": None, "image_size": 32, "engine": "torch", "max_epochs": 1, **given}
    clf = FineTuneClassifier("squeezenet1_1", random_state=0, **settings)
    return clf.fit(files, np.arange(len(files)) % 2)


def chosen(files, engine="torch", **given):
    clf = TransferClassifier([extractor(engine=engine)], random_state=0, **given)
    return clf.fit(files, np.arange(len(files)) % 2)


@pytest.fixture
def started(monkeypatch):
    """Names of the threads that are started."""
    names, start = [], threading.Thread.start
    monkeypatch.setattr(
        threading.Thread, "start", lambda self: names.append(self.name) or start(self)
    )
    return names


# --- normalizing ------------------------------------------------------------------------------


def by_torch(batch):
    """torchvision's operations, in its order."""
    scaled = batch.float() / 255 if batch.dtype == torch.uint8 else batch.float()
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (MEAN, STD))
    return (scaled - mean).div_(std)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_a_batch_is_normalized_to_the_bit_as_torch_does(dtype):
    plain = make_preprocessing(
        crop_size=16, resize_size=16, interpolation="bilinear", mean=MEAN, std=STD
    )
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    batch = every if dtype == torch.uint8 else every.to(dtype) / 255
    if dtype == torch.float32:
        batch = batch.clone()
        batch[1, 2, 3, 4] = float("nan")  # a row that could not be read
    for each in (batch, batch.contiguous(memory_format=torch.channels_last), batch[:0]):
        before = each.clone()
        found = plain.normalize(each)
        assert found.dtype == torch.float32
        np.testing.assert_array_equal(found, by_torch(each))
        np.testing.assert_array_equal(each, before)
    if dtype != torch.uint8:
        asked = batch.clone().requires_grad_()
        assert plain.normalize(asked).requires_grad


# --- without threads --------------------------------------------------------------------------


def test_one_small_image_is_decoded_without_a_thread_to_the_same_bits(files, started, monkeypatch):
    feat = extractor(cache=False, layer="all").fit(files)
    started.clear()
    alone = feat.transform(files[:1])
    array = np.asarray(Image.open(files[0]))
    feat.transform([array]), feat.transform([files[0].read_bytes()]), feat.transform([array] * 1)
    assert not started
    monkeypatch.setattr("sktransfer._images.ImageSource.n_threads", lambda self, most: most)
    np.testing.assert_array_equal(feat.transform(files[:1]), alone)
    assert started


def test_several_images_and_a_large_file_are_decoded_in_threads(files, started, tmp_path):
    large = tmp_path / "large.bmp"
    large.write_bytes(encoded(0, (500, 400), "BMP"))
    assert large.stat().st_size > _SMALL_FILE
    feat = extractor(cache=False).fit(files)
    for X in (files[:2], [large]):
        started.clear()
        feat.transform(X)
        assert started


@pytest.mark.parametrize("make", [pipeline, fine_tuned, chosen])
def test_a_broken_image_alone_is_the_error_or_the_nan_that_it_is_among_others(files, make):
    model = make(files)
    expected = model.predict_proba(files)
    bad = files[0].with_name("bad.jpg")
    bad.write_bytes(files[0].read_bytes()[:200])
    with pytest.raises(ImageDecodeError, match=r"bad\.jpg") as alone:
        model.predict_proba([bad])
    with pytest.raises(ImageDecodeError) as among:
        model.predict_proba([bad, files[1]])
    assert str(alone.value) == str(among.value)
    reader = model[0] if make is pipeline else model
    reader.set_params(on_error="nan")
    if make is pipeline:
        with pytest.warns(FailedRowsWarning):
            assert np.isnan(reader.transform([bad])).all()
    else:
        with pytest.warns(FailedRowsWarning):
            assert np.isnan(model.predict_proba([bad])).all()
    assert list(reader.failed_rows_["source"]) == ["bad.jpg"]
    np.testing.assert_allclose(model.predict_proba(files[3:4]), expected[3:4], rtol=1e-4)
    assert reader.failed_rows_.empty  # of this call, not of the one before


def test_ctrl_c_and_an_error_without_a_thread_leave_no_claim_behind(files, monkeypatch, tmp_path):
    feat = extractor(cache=str(tmp_path / "store")).fit(files)
    released, release = [], Extraction._release

    def watched(self, digests):
        released.extend(digests := list(digests))
        release(self, digests)

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Extraction, "_release", watched)
    with monkeypatch.context() as patched:
        patched.setattr("sktransfer._images._preprocess.Preprocessing.__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            feat.transform(files[:1])
    assert len(released) == 1
    assert np.isfinite(feat.transform(files[:1])).all()  # at once, not after a lease


def test_what_is_submitted_to_no_threads_runs_at_once_and_keeps_its_error():
    with DecodingThreads(0) as threads:
        assert threads.submit(threading.get_ident).result() == threading.get_ident()
        failed = threads.submit(int, "x")
        assert list(threads.map(abs, [-1, 2])) == [1, 2]
    with pytest.raises(ValueError, match="invalid literal"):
        failed.result()


# --- nothing goes stale -----------------------------------------------------------------------


@pytest.mark.parametrize("make", [pipeline, fine_tuned, chosen])
@pytest.mark.parametrize("cache", [True, False])
def test_another_content_under_the_same_name_is_another_image(files, make, cache):
    model = make(files, cache=cache)
    expected = model.predict_proba(files)
    assert not np.allclose(expected[4], expected[5])
    name = files[4]
    np.testing.assert_allclose(model.predict_proba([name]), expected[4:5], rtol=1e-4)
    name.write_bytes(files[5].read_bytes())
    np.testing.assert_allclose(model.predict_proba([name]), expected[5:6], rtol=1e-4)


@pytest.mark.parametrize("make", [pipeline, fine_tuned, chosen])
def test_threads_and_pickles_predict_what_one_thread_does(files, make):
    model = make(files, cache=False)
    expected = np.concatenate([model.predict_proba([file]) for file in files])
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(
        np.concatenate([again.predict_proba([file]) for file in files]), expected
    )
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda file: model.predict_proba([file]), files, timeout=120))
    np.testing.assert_array_equal(np.concatenate(found), expected)


def test_parameters_and_fits_count_at_the_next_image(files):
    feat = extractor(cache=False).fit(files)
    before = feat.transform(files[:1])
    feat.set_params(preprocessing="pad")
    fresh = extractor(cache=False, preprocessing="pad").fit(files)
    np.testing.assert_array_equal(feat.transform(files[:1]), fresh.transform(files[:1]))
    feat.set_params(preprocessing="weights", random_state=1).fit(files)
    assert not np.allclose(feat.transform(files[:1]), before)
    model = fine_tuned(files, cache=False)
    first = model.predict_proba(files[:1])
    model.fit(files, np.arange(len(files)) % 3)  # the same estimator, of three classes now
    assert (first.shape, model.predict_proba(files[:1]).shape) == ((1, 2), (1, 3))


def test_without_a_store_nothing_is_asked_of_one(files, monkeypatch):
    feat = extractor(cache=False).fit(files)
    expected = feat.transform(files[:1])
    clear_cache()
    monkeypatch.setattr(FrozenExtractor, "fingerprints", lambda self: 1 / 0)
    np.testing.assert_array_equal(feat.transform(files[:1]), expected)
    assert cache_info()[:3] == (0, 0, 0)
    with pytest.raises(ZeroDivisionError):
        feat.set_params(cache=True).transform(files[:1])


def test_keys_are_of_the_text_that_they_always_were(files, monkeypatch):
    texts, digest = [], hashlib.blake2b
    frozen = extractor(layer=[1, 3]).fit(files)
    frozen = frozen._frozen(frozen._found(), frozen._info)
    monkeypatch.setattr(
        "sktransfer._frozen._extractor.hashlib.blake2b",
        lambda data, **given: texts.append(data.decode()) or digest(data, **given),
    )
    assert len(set(frozen.fingerprints())) == 2
    for text, output in zip(texts, frozen.outputs, strict=True):
        parts = eval(text)  # a tuple of plain values
        assert repr(parts) == text
        assert parts[-6:] == ("float32", "torch", "cpu", *output, "<f4")


def test_a_row_too_large_for_its_dtype_stays_whole_and_others_do_not_change(files):
    values = np.array([[1.0, 2.0], [1e30, 3.0]], dtype=np.float32)
    for dtypes in ([np.dtype("f4")], [np.dtype("f2")]):
        X = as_image_source(files[:2])
        found, failures = Extraction(
            X,
            lambda batch: [values[: len(batch)]],
            make_preprocessing(
                crop_size=8, resize_size=8, interpolation="bilinear", mean=MEAN, std=STD
            ),
            [2],
            dtypes,
        ).run()
        assert not failures
        np.testing.assert_array_equal(found, values)


def test_a_stage_that_the_user_set_to_training_predicts_in_eval_mode(files):
    clf = fine_tuned(files, head__dropout=0.5)
    expected = clf.predict_proba(files[:1])
    modules = [module for module in clf.module_.modules() if isinstance(module, torch.nn.Dropout)]
    assert modules
    for module in modules:
        module.train()
    np.testing.assert_array_equal(clf.predict_proba(files[:1]), expected)
    assert not any(module.training for module in clf.module_.modules())


# --- which engine -----------------------------------------------------------------------------


@pytest.fixture
def unsaid(monkeypatch):
    monkeypatch.setattr(_engines, "_said", set())


@pytest.mark.parametrize("make", [pipeline, fine_tuned, chosen])
def test_auto_says_once_which_engine_runs_and_how_to_get_a_faster_one(
    files, make, unsaid, monkeypatch, capsys
):
    monkeypatch.setattr(_engines, "_is_installed", lambda module: False)
    for _ in range(2):
        make(files, verbose=1, engine="auto").predict_proba(files[:1])
    said = [each for each in capsys.readouterr().err.splitlines() if each.startswith("sktransfer:")]
    assert len(said) == 1
    assert "torch runs squeezenet1_1 on cpu" in said[0]
    assert "sktransfer[fast]" in said[0]


def test_nothing_is_said_without_verbose_or_where_an_engine_was_asked_for(files, unsaid, capsys):
    extractor(engine="auto", cache=False).fit(files).transform(files[:1])
    extractor(engine="torch", cache=False, verbose=1).fit(files).transform(files[:1])
    assert "sktransfer:" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("engine", "precision", "device", "there", "bfloat16", "hint"),
    [
        ("openvino", "float32", "cpu", True, True, "precision='bfloat16' is faster"),
        ("openvino", "float32", "cpu", True, False, ""),
        ("openvino", "bfloat16", "cpu", True, True, ""),
        ("torch", "float32", "cpu", True, True, "cannot run it"),
        ("torch", "float32", "cpu", False, True, "sktransfer[fast]"),
        ("torch", "float64", "cpu", True, True, ""),
        ("torch", "float32", "cuda", False, False, "precision='bfloat16' is faster"),
    ],
)
def test_the_hint_is_what_would_be_faster_here(
    unsaid, monkeypatch, capsys, engine, precision, device, there, bfloat16, hint
):
    monkeypatch.setattr(_engines, "_is_installed", lambda module: there)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: bfloat16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _engines.say_once(engine, "net", precision, device)
        _engines.say_once(engine, "net", precision, device)
    said = capsys.readouterr().err
    name = {"torch": "torch", "openvino": "OpenVINO"}[engine]
    assert said.count("\n") == 1
    assert said.startswith(f"sktransfer: {name} runs net on {device}.")
    assert hint in said
    assert hint or said.rstrip().endswith(f"on {device}.")
