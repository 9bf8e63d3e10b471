"""Images in archives, and wherever the user's own fsspec reaches."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sktransfer import PretrainedFeatureExtractor
from sktransfer._images import as_image_source
from sktransfer._utils import config as _config
from sktransfer.exceptions import ImageDecodeError


@pytest.fixture
def files():
    rng = np.random.default_rng(0)
    found = {}
    for name in ("a.png", "deep/b.png"):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (9, 8, 3), dtype=np.uint8)).save(file, format="PNG")
        found[name] = file.getvalue()
    return {**found, "broken.png": b"no image"}


@pytest.fixture
def archive(files, tmp_path):
    with zipfile.ZipFile(tmp_path / "scans.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, data in files.items():
            zipped.writestr(name, data)
    return tmp_path / "scans.zip"


def test_files_in_a_zip_archive_are_rows(archive, files):
    with zipfile.ZipFile(archive) as opened:
        rows = [zipfile.Path(opened, name) for name in files]
        source = as_image_source(pd.DataFrame({"scan": rows}))
        assert [source.describe(i) for i in range(3)] == ["a.png", "b.png", "broken.png"]
        for i, data in enumerate(list(files.values())[:2]):
            plain = as_image_source([data]).open(0)
            assert source.open(i).digest == plain.digest
            assert np.array_equal(np.asarray(source.open(i).decode()), np.asarray(plain.decode()))
        with pytest.raises(ImageDecodeError, match=r"row 2 \(broken.png\)"):
            source.open(2).decode()
        absent = as_image_source([zipfile.Path(opened, "none.png")])
        with pytest.raises(ImageDecodeError, match="cannot be read"):
            absent.open(0)
        feat = PretrainedFeatureExtractor("squeezenet1_1", weights=None, image_size=32, n_jobs=3)
        E = feat.fit_transform(rows[:2] * 5)
        assert np.array_equal(E[0], E[8])
        with pytest.raises(TypeError, match=r"Wrap it in a list"):
            as_image_source(rows[0])


def test_a_member_that_expands_beyond_the_limit_is_refused(archive, monkeypatch):
    monkeypatch.setattr(_config, "MAX_FILE_BYTES", 20)
    with zipfile.ZipFile(archive) as opened:
        source = as_image_source(
            [zipfile.Path(opened, "a.png"), zipfile.Path(opened, "broken.png")]
        )
        with pytest.raises(ImageDecodeError, match="more than the 20 bytes"):
            source.open(0)
        assert source.open(1).content == b"no image"


def test_files_that_fsspec_opens_are_rows(files, archive, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    with tarfile.open(tmp_path / "scans.tar", "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    for rows in (
        fsspec.open_files(f"tar://*.png::{tmp_path / 'scans.tar'}"),
        fsspec.open_files(f"zip://*.png::{archive}"),
    ):
        source = as_image_source(list(rows))
        assert [source.describe(i) for i in range(2)] == ["a.png", "broken.png"]
        assert source.open(0).digest == as_image_source([files["a.png"]]).open(0).digest
        assert pickle.loads(pickle.dumps(source)).open(0).digest == source.open(0).digest
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/a.png", files["a.png"])
    rows = [fsspec.open("memory://bucket/a.png"), fsspec.open("memory://bucket/none.png")]
    source = as_image_source(rows)
    assert source.open(0).content == files["a.png"]
    with pytest.raises(ImageDecodeError, match=r"row 1 \(none.png\): the file cannot be read"):
        source.open(1)


def test_an_address_is_not_fetched():
    """Nothing opens the network because a string looks like a URL."""
    with pytest.raises(ImageDecodeError, match="nothing is fetched"):
        as_image_source(["s3://bucket/a.png"]).open(0)
