"""Processes that do for us what might crash, hang or eat all memory, and are used again.

It must not know what they do. A helper is asked one thing at a time, in JSON and plain bytes, so
that nothing it answers can run code here.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

_FRAME = struct.Struct("<QQ")  # lengths of JSON and payload
_TAKEN = b"!"  # sent back as soon as a question has been read
_MAIN = Path(__file__).with_name("_helper_main.py")


class HelperError(RuntimeError):
    """A helper did not answer: it crashed, or had to be stopped."""


class HelperStartError(HelperError):
    """None can be started; the question is not to blame."""


class HelperPool:
    """As many helper processes as threads ask at once; idle ones wait for the next question.

    Parameters
    ----------
    handler : str
        ``"module:function"``, imported in the helper without this package's ``__init__``. The
        function takes (question, payload) and returns (answer, payload).
    memory : int
        Bytes of address space a helper may have, where the system can limit it (not on Windows).
    """

    def __init__(self, handler: str, memory: int) -> None:
        self._setup = {"handler": handler, "memory": memory}
        self._reset()
        if hasattr(os, "register_at_fork"):
            # A forked child shares the pipes; it must not write into them.
            os.register_at_fork(after_in_child=self._reset)
        atexit.register(self.close)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        for helper in getattr(self, "_idle", ()):
            helper.disown()
        self._idle: list[_Helper] = []

    def ask(
        self, question: dict[str, Any], payload: bytes, *, seconds: int, at_most: int
    ) -> tuple[dict[str, Any], bytearray]:
        """Answer of a helper.

        Parameters
        ----------
        question : dict
            Of what JSON can say.
        payload : bytes
        seconds : int
            Processor time it may take. The clock on the wall may show several times that.
        at_most : int
            Bytes of payload that are taken back.

        Raises
        ------
        HelperError
            If it crashed, or took longer. The next question gets a new helper.
        HelperStartError
            If no process can be started.
        """
        message = json.dumps({"seconds": seconds, **question}).encode()
        while True:
            with self._lock:
                helper = self._idle.pop() if self._idle else None
            used_before = helper is not None
            try:
                helper = helper or _Helper(self._setup)
            except OSError as error:
                raise HelperStartError(f"no helper process can be started: {error}") from error
            try:
                answer = helper.ask(message, payload, 10 + 5 * seconds, at_most)
            except _GoneError:
                helper.stop()
                if used_before:  # it ended while it was idle
                    continue
                raise HelperStartError(
                    f"no helper process can be started with {sys.executable}."
                ) from None
            except BaseException:
                helper.stop()
                raise
            with self._lock:
                self._idle.append(helper)
            return answer

    def close(self) -> None:
        """End the idle helpers."""
        with self._lock:
            helpers, self._idle = self._idle, []
        for helper in helpers:
            helper.stop()


class _GoneError(Exception):
    """The helper had ended before it took the question."""


class _Helper:
    def __init__(self, setup: dict[str, Any]) -> None:
        arguments = json.dumps({**setup, "path": sys.path, "package": str(_MAIN.parents[1])})
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        self._process = subprocess.Popen(
            [sys.executable, str(_MAIN), arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **one_thread},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        self._overdue = False

    def ask(
        self, message: bytes, payload: bytes, patience: float, at_most: int
    ) -> tuple[dict[str, Any], bytearray]:
        alarm = threading.Timer(patience, self._give_up)
        alarm.daemon = True
        alarm.start()
        try:
            try:
                self._in.write(_FRAME.pack(len(message), len(payload)))
                self._in.write(message)
                self._in.write(payload)
                self._in.flush()
                taken = self._out.read(1)
            except OSError:  # a broken pipe
                taken = b""
            if taken != _TAKEN and not self._overdue:
                raise _GoneError
            return self._answer(at_most)
        finally:
            alarm.cancel()

    def _answer(self, at_most: int) -> tuple[dict[str, Any], bytearray]:
        n_json, n_payload = _FRAME.unpack(self._read(_FRAME.size))
        if n_json > 2**20 or n_payload > at_most:
            raise HelperError("the helper process answered nonsense.")
        answer = json.loads(self._read(n_json))
        return answer, self._read(n_payload)

    def _read(self, n: int) -> bytearray:
        data = bytearray(n)
        view, at = memoryview(data), 0
        while at < n:
            got = self._out.readinto(view[at:])  # type: ignore[attr-defined]
            if not got:
                raise HelperError(self._post_mortem())
            at += got
        return data

    def _give_up(self) -> None:
        self._overdue = True
        self._process.kill()

    def _post_mortem(self) -> str:
        code = self._process.wait()
        if self._overdue or code == -getattr(signal, "SIGXCPU", 0):
            return "it takes too long, and was stopped."
        try:
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        except ValueError:
            how = f"signal {-code}"
        return f"it crashes, or needs more memory than is allowed ({how})."

    def disown(self) -> None:
        """Leave the process to the one that started it, of which this is a fork."""
        self._process.returncode = 0

    def stop(self) -> None:
        """End the process, idle or not."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._in, self._out):
            with contextlib.suppress(OSError):  # what was still to be written
                pipe.close()
