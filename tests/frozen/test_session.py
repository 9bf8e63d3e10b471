"""The private temporary directory of worker processes, and what killed processes leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from sktransfer._frozen import _cache, _session, open_directory, store_for
from sktransfer._frozen._store import MEMORY_STORE
from sktransfer._utils import config

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="signals and modes of POSIX")

# A process that names a directory, and a worker of it that makes it and embeds.
OWNER = """
import os, subprocess, sys, time
import numpy as np
import sktransfer._frozen._session as session
worker = '''
import numpy as np
from sktransfer._frozen import store_for
store_for(True).put([(b"a", np.ones(4, np.float32))])
'''
subprocess.run([sys.executable, "-c", worker], check=True)
print(os.environ["SKTRANSFER_SESSION"].partition(":")[2], flush=True)
time.sleep(100)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A temporary folder of its own, and no session yet."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("SKTRANSFER_SESSION")
    return tmp_path


def start_owner(folder):
    environment = {k: v for k, v in os.environ.items() if k != "SKTRANSFER_SESSION"}
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        stdout=subprocess.PIPE,
        text=True,
        env={**environment, "TMPDIR": str(folder)},
    )
    directory = folder / os.path.basename(owner.stdout.readline().strip())
    assert (directory / "activations-2.sqlite").is_file()
    return owner, directory


def end(owner, how):
    owner.send_signal(how)
    owner.wait(60)
    owner.stdout.close()


def test_what_a_terminated_process_left_behind_is_removed_by_the_next(folder):
    owner, directory = start_owner(folder)
    assert directory.stat().st_mode & 0o777 == 0o700
    _session._remove_left_behind(folder)
    assert (directory / "activations-2.sqlite").is_file()  # its owner lives
    end(owner, signal.SIGTERM)
    assert directory.is_dir()
    _session._remove_left_behind(folder)
    assert list(folder.iterdir()) == []


def begin(folder):
    """Begin a session in this process, as an import does."""
    _session.begin_session()
    owner, _, directory = os.environ["SKTRANSFER_SESSION"].partition(":")
    assert owner == str(os.getpid())
    assert Path(directory).parent == folder
    return Path(directory)


def test_a_session_is_a_lock_until_a_worker_needs_it_and_nothing_at_the_end(folder, monkeypatch):
    ends = []
    monkeypatch.setattr(_session.atexit, "register", lambda *call: ends.append(call))
    directory = begin(folder)
    assert [each.name for each in folder.iterdir()] == [f"{directory.name}.lock"]
    assert _session.private_directory() is None
    monkeypatch.setenv("SKTRANSFER_SESSION", f"{os.getppid()}:{directory}")  # as in a worker
    store_for(True).put([(b"k", np.ones(3, np.float32))])
    _session._remove_left_behind(folder)
    assert directory.is_dir()
    monkeypatch.setenv("SKTRANSFER_SESSION", f"{os.getpid()}:{directory}")
    ((function, *arguments),) = ends
    function(*arguments)
    assert list(folder.iterdir()) == []
    MEMORY_STORE.clear()


@pytest.mark.skipif(
    hasattr(os, "geteuid") and os.geteuid() != 0, reason="only root can make files of others"
)
def test_what_other_users_left_behind_is_left(folder):
    directory = folder / "sktransfer-session-1-0123abcd"
    directory.mkdir(mode=0o700)
    lock = folder / f"{directory.name}.lock"
    lock.touch()
    os.chown(lock, 4321, 4321)
    _session._remove_left_behind(folder)
    assert directory.is_dir()
    assert lock.exists()
    os.chown(lock, 0, 0)
    _session._remove_left_behind(folder)
    assert list(folder.iterdir()) == []


def test_a_link_in_the_place_of_a_session_removes_nothing_else(folder):
    (folder / "precious").mkdir()
    (folder / "precious" / "file").touch()
    (folder / "sktransfer-session-1-ab").symlink_to("precious")
    (folder / "sktransfer-session-1-ab.lock").touch()
    (folder / "sktransfer-session-2-ab.lock").symlink_to("precious/file")
    _session._remove_left_behind(folder)
    assert (folder / "precious" / "file").exists()


@pytest.mark.parametrize("kind", ["open to others", "a link", "a file"])
def test_a_directory_that_is_not_private_is_said_and_not_used(folder, monkeypatch, kind):
    directory = folder / "sktransfer-session-1-ab"
    if kind == "open to others":
        directory.mkdir()
        directory.chmod(0o770)
    elif kind == "a link":
        (folder / "mine").mkdir(mode=0o700)
        directory.symlink_to("mine")
    else:
        directory.touch()
    (folder / f"{directory.name}.lock").touch()
    monkeypatch.setenv("SKTRANSFER_SESSION", f"1:{directory}")
    with pytest.warns(RuntimeWarning, match="is not this user's alone"):
        assert store_for(True) is MEMORY_STORE
    assert store_for(True) is MEMORY_STORE  # said once


def test_a_process_that_outlives_its_session_writes_nothing_that_stays(folder, monkeypatch):
    gone = folder / "sktransfer-session-1-ab"
    monkeypatch.setenv("SKTRANSFER_SESSION", f"1:{gone}")  # inherited, of a process that has ended
    assert store_for(True) is MEMORY_STORE
    assert list(folder.iterdir()) == []
    monkeypatch.setattr(_session.atexit, "register", lambda *call: None)
    _session.begin_session()  # one that is started by it has a session of its own
    assert os.environ["SKTRANSFER_SESSION"].startswith(f"{os.getpid()}:{folder}")


def test_no_temporary_folder_is_no_session(monkeypatch):
    def none():
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    monkeypatch.delenv("SKTRANSFER_SESSION")
    _session.begin_session()
    assert "SKTRANSFER_SESSION" not in os.environ
    assert store_for(True) is MEMORY_STORE


# --- bounds from the environment ------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["SKTRANSFER_CACHE_BYTES", "SKTRANSFER_MEMORY_BYTES"])
def test_a_bound_is_a_whole_number_of_bytes(monkeypatch, variable):
    for text, n_bytes in (("0", 0), (" 4096 ", 4096), ("20_000", 20_000), (str(2**62), 2**62)):
        monkeypatch.setenv(variable, text)
        assert config.cache_bytes(variable) == n_bytes
    for text in ("", "   "):
        monkeypatch.setenv(variable, text)
        assert config.cache_bytes(variable) > 2**28
    wrong = ["-1", "20GB", "1e9", "0.5", "many", "inf", "nan", "0x10", "+5", "1__0", "²", "٣"]
    for text in (*wrong, str(2**63), "9" * 5000):
        monkeypatch.setenv(variable, text)
        with pytest.raises(ValueError, match=f"{variable} must be a whole number of bytes"):
            config.cache_bytes(variable)


def test_a_bound_of_zero_keeps_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("SKTRANSFER_CACHE_BYTES", "0")
    assert store_for(tmp_path / "store") is MEMORY_STORE
    assert not (tmp_path / "store").exists()
    monkeypatch.setattr(_cache.MEMORY_STORE, "max_bytes", 0)
    assert store_for(tmp_path / "store") is None
    assert store_for(True) is None
    assert open_directory(tmp_path / "store").max_bytes == 0


def test_a_switch_is_on_or_off(monkeypatch):
    for text, on in (("1", True), ("TRUE", True), ("yes", True), (" on ", True), ("", False)):
        monkeypatch.setenv("SKTRANSFER_OFFLINE", text)
        assert config.offline() is on
    for text in ("0", "false", "No", "off", "  "):
        monkeypatch.setenv("SKTRANSFER_OFFLINE", text)
        assert not config.offline()
    monkeypatch.setenv("SKTRANSFER_OFFLINE", "maybe")
    with pytest.raises(ValueError, match="SKTRANSFER_OFFLINE must be 1 or 0"):
        config.offline()
