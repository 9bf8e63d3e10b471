"""Download one file so that its final name exists only once every byte has been checked.

It must not know what the file is for, nor where else it might be found.
"""

from __future__ import annotations

import glob
import hashlib
import http.client
import os
import secrets
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from filelock import FileLock

from sktransfer._utils.notebooks import progress_bar
from sktransfer._version import __version__
from sktransfer.exceptions import WeightsDownloadError

CHUNK = 1 << 20
# Answers that a server may take back a second later; every other error status is final.
_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


class NoConnectionError(WeightsDownloadError):
    """Not one byte was received: there is no network, or the server cannot be reached."""


class _TransientError(WeightsDownloadError):
    """Worth another try; an ordinary WeightsDownloadError once the tries are used up."""


def download(
    url: str,
    target: Path,
    *,
    digest_prefix: str | None = None,
    timeout: float = 30.0,
    attempts: int = 4,
    backoff: float = 0.5,
) -> str:
    """Download a file, at most once over all processes, and return its sha256.

    The body goes to a hidden ``.NAME.XXXX.part`` next to the target and is renamed when its length
    and digest are right. What a killed process left behind is removed by the next download.

    ``digest_prefix`` is the beginning of the sha256 that the publisher announces, ``timeout`` the
    seconds without a byte after which a connection counts as dead, ``attempts`` how often an
    interrupted download is tried, and ``backoff`` the seconds before the second try, doubled each
    time. Raises ``NoConnectionError`` if the server cannot be reached at all, and
    ``WeightsDownloadError`` if it answers, but not with the whole, right file.
    """
    _require_http(url)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.parent / f".{target.name}.lock")
        lock.acquire()
    except OSError as exc:
        raise WeightsDownloadError(
            f"Cannot write to {target.parent} ({exc.strerror or exc}), where {target.name} would "
            "go. Make that folder writable, or set TORCH_HOME to one that is."
        ) from exc
    try:
        if target.exists():  # another process was faster
            return sha256_of(target)
        for left_behind in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
            left_behind.unlink(missing_ok=True)  # we hold the lock: nobody is writing to it
        for attempt in range(1, attempts + 1):
            try:
                return _fetch(url, target, digest_prefix, timeout)
            except _TransientError as exc:
                if attempt == attempts:
                    raise WeightsDownloadError(
                        f"{exc} Tried {attempts} times; nothing was kept."
                    ) from exc
            except NoConnectionError:
                # Being offline is not something that waiting would resolve.
                if attempt == min(2, attempts):
                    raise
            time.sleep(backoff * 2 ** (attempt - 1))
        raise ValueError(f"attempts must be at least 1, got {attempts}.")
    finally:
        lock.release()


def sha256_of(path: Path) -> str:
    """Return the sha256 (hex) of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(url: str, target: Path, digest_prefix: str | None, timeout: float) -> str:
    """Try once: the whole right body under the final name, or nothing and an error."""
    response = _open(url, target.name, timeout)
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with response, open(part, "xb") as file:
            digest = _copy(response, file, url, target.name)
            file.flush()
            os.fsync(file.fileno())
        if digest_prefix and not digest.startswith(digest_prefix.lower()):
            raise WeightsDownloadError(
                f"What {url} sent is not {target.name}: its sha256 is {digest[:16]}…, but the "
                f"publisher announces {digest_prefix}…. A proxy or a log-in page may have answered "
                "in its place. Nothing was kept."
            )
        os.replace(part, target)
    except OSError as exc:
        if isinstance(exc, WeightsDownloadError):
            raise
        raise WeightsDownloadError(
            f"Writing {target} failed ({exc.strerror or exc}); nothing was kept. Is the disk full?"
        ) from exc
    finally:
        part.unlink(missing_ok=True)
    return digest


def _copy(response: Any, file: BinaryIO, url: str, name: str) -> str:
    """Stream the body into ``file``; return its sha256 if it is as long as announced."""
    announced = response.headers.get("Content-Length")
    total = int(announced) if announced and announced.isdigit() else None
    digest = hashlib.sha256()
    received = 0
    # One process downloads while others wait, which see that something happens.
    units = {"unit": "B", "unit_scale": True, "unit_divisor": 1024}
    with progress_bar(name, total=total, disable=False, **units) as bar:
        while True:
            try:
                chunk = response.read(CHUNK)
            except (http.client.HTTPException, OSError) as exc:
                raise _TransientError(
                    f"The connection broke while downloading {url} after {received:,} bytes "
                    f"({type(exc).__name__})."
                ) from exc
            if not chunk:
                break
            file.write(chunk)
            digest.update(chunk)
            received += len(chunk)
            bar.update(len(chunk))
    if total is not None and received != total:
        raise _TransientError(
            f"The download of {url} stopped after {received:,} of {total:,} bytes."
        )
    return digest.hexdigest()


def _open(url: str, name: str, timeout: float) -> Any:
    request = urllib.request.Request(
        url,
        headers={"User-Agent": f"sktransfer/{__version__}", "Accept-Encoding": "identity"},
    )
    try:
        return _opener().open(request, timeout=timeout)
    except urllib.error.HTTPError as exc:
        exc.close()
        message = f"The server answered {exc.code} ({exc.reason}) to the request for {url}."
        if exc.code in _TRANSIENT_STATUS:
            raise _TransientError(message) from exc
        raise WeightsDownloadError(
            f"{message} Download {name} by other means, and give its path as weights= or put it "
            "into the folder named by SKTRANSFER_WEIGHTS_DIR."
        ) from exc
    except (http.client.HTTPException, ConnectionResetError) as exc:
        raise _TransientError(
            f"The server of {url} closed the connection without an answer ({type(exc).__name__})."
        ) from exc
    except OSError as exc:  # URLError, timeouts, refused connections, unknown hosts
        reason = getattr(exc, "reason", exc)
        if isinstance(reason, WeightsDownloadError):
            raise reason from exc
        raise NoConnectionError(f"Could not connect to {url} ({reason}).") from exc


class _HttpOnlyRedirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects, but never away from HTTP, and never from HTTPS to HTTP."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        _require_http(newurl)
        if urlsplit(req.full_url).scheme == "https" and urlsplit(newurl).scheme != "https":
            raise WeightsDownloadError(
                f"{req.full_url} redirects to {newurl}, which is not encrypted; refused."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """Make an opener like urlopen's, without handlers for files, FTP and data addresses."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        _HttpOnlyRedirects(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _require_http(url: str) -> None:
    if urlsplit(url).scheme not in ("http", "https"):
        raise WeightsDownloadError(
            f"{url!r} is not downloaded: only http:// and https:// addresses are. A file on this "
            "machine is given as weights=PATH."
        )
