"""Versions of libraries in the keys of activations: an upgrade never mixes two kinds of numbers."""

from __future__ import annotations

import io
from importlib import metadata

import numpy as np
import PIL
import pytest
import torch
from PIL import Image, features

from sktransfer import PretrainedFeatureExtractor, cache_info, clear_cache
from sktransfer._finetune._activations import Prefix
from sktransfer._frozen import FrozenExtractor, _extractor, open_directory
from sktransfer._images import as_image_source
from sktransfer._utils.versions import versions_of


@pytest.fixture(autouse=True)
def fresh():
    """Look the versions up again, before and after."""
    versions_of.cache_clear()
    yield
    versions_of.cache_clear()


def numerical_versions(name, engine):
    return versions_of(network=(name, engine))


def upgrade(monkeypatch, library):
    """Pretend that another version of a library is installed."""
    if library == "pillow":
        monkeypatch.setattr(PIL, "__version__", "99")
    elif library == "torch":
        monkeypatch.setattr(torch, "__version__", "99")
    elif library == "ours":
        monkeypatch.setattr(_extractor, "_NUMBERS_VERSION", 99)
    else:
        found, installed = features.version, metadata.version
        monkeypatch.setattr(features, "version", lambda x: "99" if x == library else found(x))
        monkeypatch.setattr(metadata, "version", lambda x: "99" if x == library else installed(x))
    versions_of.cache_clear()


CODECS = ["libjpeg_turbo", "jpg_2000", "libtiff", "webp", "avif"]


@pytest.mark.parametrize("library", ["torch", "pillow", "torchvision", *CODECS])
def test_an_upgrade_is_another_version_for_every_network(monkeypatch, library):
    names = [("resnet18", "torch"), ("timm/resnet18.a1_in1k", "torch"), ("resnet18", "openvino")]
    before = [numerical_versions(*each) for each in names]
    upgrade(monkeypatch, library)
    for old, each in zip(before, names, strict=True):
        assert numerical_versions(*each) != old
    assert any(each.endswith(" 99") for each in numerical_versions(*names[0]))


def test_libraries_count_only_where_they_compute(monkeypatch):
    plain, timm = ("resnet18", "torch"), ("timm/resnet18.a1_in1k", "torch")
    ours = [numerical_versions(*each) for each in (plain, timm)]
    upgrade(monkeypatch, "timm")
    assert numerical_versions(*plain) == ours[0]
    assert numerical_versions(*timm) != ours[1]
    upgrade(monkeypatch, "openvino")
    assert numerical_versions(*plain) == ours[0]
    assert "openvino 99" in numerical_versions("resnet18", "openvino")


@pytest.mark.parametrize("library", ["pillow", "torch", "ours"])
def test_a_directory_is_computed_again_after_an_upgrade(tmp_path, monkeypatch, library):
    X = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    feat = PretrainedFeatureExtractor(
        "squeezenet1_1",
        weights=None,
        image_size=32,
        layer=["features.3", None],
        cache=tmp_path,
        engine="torch",
    ).fit(X)
    feat.transform(X)
    clear_cache()
    feat.transform(X)
    assert cache_info(tmp_path).n_rows == 8  # of mid-network activations, and of embeddings
    upgrade(monkeypatch, library)
    again = feat.transform(X)
    assert cache_info(tmp_path).n_rows == 16
    monkeypatch.undo()
    versions_of.cache_clear()
    assert np.array_equal(feat.transform(X), again)
    assert cache_info(tmp_path).n_rows == 16  # the older ones are still there
    open_directory(tmp_path).close()


def test_fine_tuning_has_its_keys_from_the_same_place():
    assert issubclass(Prefix, FrozenExtractor)
    assert Prefix.fingerprints is FrozenExtractor.fingerprints


def encoded(data):
    return as_image_source([data]).open(0)


def saved(kind):
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("library", ["pydicom", "python-gdcm", "pyjpegls"])
def test_decoders_of_dicom_count_for_dicom_files_alone(monkeypatch, library):
    pytest.importorskip("pydicom")
    files = [bytes(128) + b"DICM" + bytes(100), saved("PNG"), saved("JPEG")]
    before = [(encoded(file).digest, encoded(file).key) for file in files]
    upgrade(monkeypatch, library)
    after = [(encoded(file).digest, encoded(file).key) for file in files]
    # The digest, which names an image and decides its draws, is of the content alone.
    assert [each[0] for each in before] == [each[0] for each in after]
    assert [a[1] != b[1] for a, b in zip(before, after, strict=True)] == [True, False, False]
    assert [each[0] == each[1] for each in before] == [False, True, True]


def test_versions_of_what_is_not_installed_are_left_out():
    assert versions_of("no-such-package", "numpy") == (f"numpy {np.__version__}",)
