"""Images in archives, and wherever the user's own fsspec reaches."""

from __future__ import annotations

import copy
import io
import pickle
import tarfile
import threading
import time
import traceback
import urllib.error
import urllib.request
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sktransfer import PretrainedFeatureExtractor
from sktransfer._images import as_image_source
from sktransfer._utils import config as _config
from sktransfer.exceptions import FailedRowsWarning, ImageDecodeError


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


@pytest.mark.parametrize(
    "address",
    ["s3://bucket/a.png", "https://ann:hidden@host/a.png?Signature=hidden", "memory://a.png"],
)
def test_an_address_is_not_fetched(address):
    """Nothing opens the network because a string looks like a URL."""
    with pytest.raises(ImageDecodeError, match=r"nothing is fetched.*fsspec\.open\(") as caught:
        as_image_source([address]).open(0)
    assert "row 0 (a.png)" in str(caught.value)
    assert "hidden" not in str(caught.value)


# --- a store behind a server ----------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Answers two requests, and the others once twelve wait, or nobody asks for more."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, files):
        self.files, self.n, self.waiting, self.lock = files, 0, 0, threading.Lock()
        self.enough = threading.Event()
        super().__init__(("127.0.0.1", 0), Answer)


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        with server.lock:
            server.n += 1
            first = server.n <= 2
            server.waiting += not first and not server.enough.is_set()
            if server.waiting == 12:
                server.enough.set()
        if not first and not server.enough.wait(10):
            server.enough.set()
        data = server.files.get(self.path.split("?")[0].lstrip("/"))
        self.send_response(404 if data is None else 200)
        self.end_headers()
        self.wfile.write(data or b"")

    def log_message(self, *args):
        pass


class Slow(io.BytesIO):
    """Open for a while."""

    def read(self, *args):
        time.sleep(0.005)
        return super().read(*args)


@pytest.fixture
def bucket():
    """Open files of a store that is asked over HTTP, with a key in its options and addresses."""
    fsspec = pytest.importorskip("fsspec")

    class Store(fsspec.AbstractFileSystem):
        protocol = "slow"
        cachable = False

        def _open(self, path, mode="rb", **kwargs):
            address = f"{self.storage_options['host']}/{path}?Signature=hidden-one"
            try:
                with urllib.request.urlopen(address, timeout=30) as answer:
                    return Slow(answer.read())
            except urllib.error.HTTPError as error:
                error.close()
                token = self.storage_options["client_kwargs"]["token"]
                raise OSError(f"{error} from {address} with {token}") from error

    fsspec.register_implementation("slow", Store, clobber=True)
    named = {f"deep/{i:02d}.png": png(i) for i in range(48)}
    server = Server(named)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    options = {
        "host": f"http://127.0.0.1:{server.server_port}",
        "client_kwargs": {"token": "hidden-two"},
    }
    yield server, [fsspec.open(f"slow://{name}", **options) for name in [*named, "deep/none.png"]]
    server.shutdown()
    server.server_close()
    thread.join(10)


def png(seed):
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def test_many_files_of_a_store_are_asked_for_at_once(bucket):
    server, rows = bucket
    feat = PretrainedFeatureExtractor(
        "squeezenet1_1", weights=None, image_size=32, n_jobs=20, cache=False, engine="torch"
    )
    E = feat.fit_transform(rows[:-1])
    # More than fit the assumption about files of which nothing is known.
    assert server.waiting == 12
    plain = feat.transform([png(i) for i in range(48)])
    np.testing.assert_array_equal(E, plain)


def test_one_open_file_in_many_rows_is_read_in_each(bucket):
    server, rows = bucket
    server.enough.set()
    source = as_image_source([rows[0]] * 16)
    with ThreadPoolExecutor(8) as threads:
        digests = list(threads.map(lambda i: source.open(i).digest, range(16)))
    assert set(digests) == {as_image_source([png(0)]).open(0).digest}
    # Opened to be written, or as text, it is read all the same.
    for mode in ("wb", "rt"):
        row = copy.copy(rows[0])
        row.mode = mode
        assert as_image_source([row]).open(0).content == png(0)


def test_errors_name_the_address_and_the_row_and_no_key(bucket):
    server, rows = bucket
    server.enough.set()
    feat = PretrainedFeatureExtractor("squeezenet1_1", weights=None, image_size=32)
    with pytest.raises(
        ImageDecodeError, match=r"row 2 \(none.png\).*slow://deep/none.png"
    ) as caught:
        feat.fit_transform([*rows[:2], rows[-1]])
    assert "404" in str(caught.value)
    told = "".join(traceback.format_exception(caught.value))
    with pytest.warns(FailedRowsWarning) as warned:
        feat.set_params(on_error="nan").transform([*rows[:2], rows[-1]])
    told += str(warned[0].message) + feat.failed_rows_.to_csv() + repr(feat)
    assert "none.png" in told
    kept = pickle.dumps(feat) + pickle.dumps(caught.value) + told.encode()
    assert b"hidden" not in kept
    # Dask has errors pickled with what they were raised in.
    error = caught.value
    while error is not None:
        assert "hidden" not in str(error)
        error = error.__cause__ or error.__context__


def test_dask_opens_files_of_a_store_where_it_runs():
    fsspec = pytest.importorskip("fsspec")
    dd, db = pytest.importorskip("dask.dataframe"), pytest.importorskip("dask.bag")
    memory = fsspec.filesystem("memory")
    addresses = [f"memory://scans/{i}.png" for i in range(6)]
    for i, address in enumerate(addresses):
        memory.pipe(address, png(i))
    feat = PretrainedFeatureExtractor("squeezenet1_1", weights=None, image_size=32, cache=False)
    expected = feat.fit_transform([png(i) for i in range(6)])
    bag = db.from_sequence(addresses, npartitions=2).map(fsspec.open)
    E = feat.fit_transform(bag).compute(scheduler="sync")
    np.testing.assert_allclose(E, expected, rtol=1e-4, atol=1e-5)
    table = pd.DataFrame({"scan": addresses}, index=list("abcdef"))
    column = dd.from_pandas(table, npartitions=2)["scan"].map(fsspec.open, meta=("scan", object))
    E = feat.fit_transform(column).compute(scheduler="sync")
    assert E.index.tolist() == list("abcdef")
    np.testing.assert_allclose(E, expected, rtol=1e-4, atol=1e-5)
