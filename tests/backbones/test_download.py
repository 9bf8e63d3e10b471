"""Downloads against a server of our own that can misbehave in every way."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from sktransfer._backbones._download import NoConnectionError, download
from sktransfer._backbones._weights_files import find_weights_file, on_disk
from sktransfer.exceptions import (
    WeightsDownloadError,
    WeightsMismatchError,
    WeightsNotFoundError,
)

BODY = bytes(range(256)) * 20_000  # 5 MB: several chunks
SHA256 = hashlib.sha256(BODY).hexdigest()
NAME = f"network-{SHA256[:8]}.pth"


class Server:
    """A local server whose answers are a list of functions, one a request; the last one stays."""

    def __init__(self) -> None:
        self.answers: list[Callable[[BaseHTTPRequestHandler], None]] = []
        self.requests: list[str] = []
        lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with lock:
                    owner.requests.append(self.path)
                    answer = owner.answers.pop(0) if len(owner.answers) > 1 else owner.answers[0]
                answer(self)
                self.close_connection = True

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}"

    @property
    def url(self) -> str:
        return f"{self.base}/{NAME}"

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


def whole(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(BODY)))
    handler.end_headers()
    handler.wfile.write(BODY)


def truncated(handler: BaseHTTPRequestHandler) -> None:
    """Announces everything, sends a part, and closes in good order."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(BODY)))
    handler.end_headers()
    handler.wfile.write(BODY[: len(BODY) // 3])


def dies_half_way(handler: BaseHTTPRequestHandler) -> None:
    """Sends a part, then resets the connection."""
    truncated(handler)
    handler.wfile.flush()
    linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"  # close() sends RST
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.connection.close()


def hangs_up(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def slow(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(BODY)))
    handler.end_headers()
    for start in range(0, len(BODY), 1 << 18):
        handler.wfile.write(BODY[start : start + (1 << 18)])
        handler.wfile.flush()
        time.sleep(0.05)


def stalls(handler: BaseHTTPRequestHandler) -> None:
    truncated(handler)
    handler.wfile.flush()
    time.sleep(3)


def status(code: int) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def redirect(location: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", location)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.delenv("SKTRANSFER_OFFLINE")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    running = Server()
    yield running
    running.close()


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "checkpoints" / NAME


def fetch(server: Server, target: Path, **options) -> str:
    return download(server.url, target, backoff=0.01, **{"timeout": 5, **options})


def left_in(folder: Path) -> list[str]:
    """Everything in a folder but the lock (a file of no bytes that may stay)."""
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".lock"))


def test_a_whole_file_is_downloaded_and_checked(server, target, capfd):
    server.answers = [whole]
    assert fetch(server, target, digest_prefix=SHA256[:8]) == SHA256
    assert target.read_bytes() == BODY
    assert left_in(target.parent) == [NAME]
    out, err = capfd.readouterr()
    assert out == ""
    assert NAME in err  # the progress bar goes to stderr and names the file


def test_file_permissions_are_those_of_the_umask(server, target):
    server.answers = [whole]
    fetch(server, target)
    umask = os.umask(0)
    os.umask(umask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("accident", [truncated, dies_half_way, hangs_up, status(503)])
def test_an_interrupted_download_is_tried_again(server, target, accident):
    server.answers = [accident, whole]
    assert fetch(server, target) == SHA256
    assert len(server.requests) == 2
    assert left_in(target.parent) == [NAME]


@pytest.mark.parametrize(
    ("accident", "message"),
    [
        (truncated, "after 1,706,666 of 5,120,000 bytes|connection broke"),
        (dies_half_way, "connection broke"),
        (hangs_up, "without an answer"),
        (status(503), "answered 503"),
    ],
)
def test_repeated_failures_leave_no_file(server, target, accident, message):
    server.answers = [accident]
    with pytest.raises(WeightsDownloadError, match=message) as caught:
        fetch(server, target, attempts=3)
    assert "Tried 3 times" in str(caught.value)
    assert isinstance(caught.value, OSError)
    assert len(server.requests) == 3
    assert left_in(target.parent) == []


def test_a_stalled_connection_times_out(server, target):
    server.answers = [stalls]
    start = time.monotonic()
    with pytest.raises(WeightsDownloadError, match="connection broke"):
        fetch(server, target, timeout=0.3, attempts=2)
    assert time.monotonic() - start < 2.5
    assert left_in(target.parent) == []


def test_a_wrong_digest_is_not_tried_again(server, target):
    server.answers = [whole]
    with pytest.raises(WeightsDownloadError, match="publisher announces deadbeef"):
        fetch(server, target, digest_prefix="deadbeef")
    assert len(server.requests) == 1
    assert left_in(target.parent) == []


def test_a_404_is_not_tried_again(server, target):
    server.answers = [status(404)]
    with pytest.raises(WeightsDownloadError, match="answered 404"):
        fetch(server, target)
    assert len(server.requests) == 1
    assert left_in(target.parent) == []


def test_an_unreachable_server_is_an_error_of_its_own(target):
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        port = placeholder.getsockname()[1]
    with pytest.raises(NoConnectionError, match="Could not connect"):
        download(f"http://127.0.0.1:{port}/{NAME}", target, backoff=0.01)
    assert left_in(target.parent) == []


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x", "x.pth"])
def test_other_schemes_are_refused(target, url):
    with pytest.raises(WeightsDownloadError, match="only http:// and https://"):
        download(url, target)
    assert not target.parent.exists()


def test_redirect_is_followed_but_not_away_from_http(server, target):
    server.answers = [redirect(f"{server.base}/elsewhere"), whole]
    assert fetch(server, target) == SHA256
    assert server.requests == [f"/{NAME}", "/elsewhere"]
    target.unlink()
    server.answers = [redirect("file:///etc/hostname")]
    with pytest.raises(WeightsDownloadError, match="not allowed"):
        fetch(server, target)
    assert left_in(target.parent) == []


def test_an_unwritable_folder_is_named(server, tmp_path):
    server.answers = [whole]
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WeightsDownloadError, match="TORCH_HOME"):
        fetch(server, tmp_path / "file" / NAME)


def in_a_process(url: str, target: Path) -> subprocess.Popen:
    code = (
        "import sys; from pathlib import Path\n"
        "from sktransfer._backbones._download import download\n"
        "download(sys.argv[1], Path(sys.argv[2]))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, url, str(target)],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(["", *sys.path])[1:]},
    )


def test_killed_process_leaves_no_half_file_and_the_next_one_cleans_up(server, target):
    server.answers = [slow, whole]
    process = in_a_process(server.url, target)
    try:
        deadline = time.monotonic() + 40
        while not (parts := list(target.parent.glob("*.part")) if target.parent.exists() else []):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    assert not target.exists()
    assert parts[0].exists()  # what a killed process cannot help leaving
    assert fetch(server, target) == SHA256
    assert left_in(target.parent) == [NAME]


def test_two_processes_download_once(server, target):
    server.answers = [slow, slow]
    processes = [in_a_process(server.url, target) for _ in range(2)]
    assert [p.wait(60) for p in processes] == [0, 0]
    assert server.requests == [f"/{NAME}"]
    assert target.read_bytes() == BODY


# --- the same through find_weights_file --------------------------------------------------------


def test_published_weights_are_downloaded_into_the_hub_cache_once(server):
    server.answers = [whole]
    file = find_weights_file(NAME, url=server.url)
    assert file.path == Path(torch.hub.get_dir()) / "checkpoints" / NAME
    assert file.sha256 == SHA256
    assert file.digest == f"sha256:{SHA256}"
    assert on_disk(NAME)
    assert find_weights_file(NAME, url=server.url) == file
    assert len(server.requests) == 1


def test_a_failed_download_says_where_to_put_the_file(monkeypatch):
    monkeypatch.delenv("SKTRANSFER_OFFLINE")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(WeightsNotFoundError, match="could not be downloaded") as caught:
        find_weights_file(NAME, url=f"http://127.0.0.1:9/{NAME}")
    for part in (NAME, "SKTRANSFER_WEIGHTS_DIR", "hub cache", f"http://127.0.0.1:9/{NAME}"):
        assert part in str(caught.value)


def test_a_download_of_another_digest_is_refused(server):
    server.answers = [whole]
    with pytest.raises(WeightsDownloadError, match="0badc0de"):
        find_weights_file("network-0badc0de.pth", url=server.url)
    assert not on_disk("network-0badc0de.pth")


def test_a_cached_file_of_another_digest_is_refused(server):
    server.answers = [whole]
    path = find_weights_file(NAME, url=server.url).path
    path.write_bytes(BODY[:-1])
    with pytest.raises(WeightsMismatchError, match="damaged or is something else"):
        find_weights_file(NAME, url=server.url)
