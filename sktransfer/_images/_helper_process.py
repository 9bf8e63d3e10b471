"""Processes that do for us what might crash, hang or eat all memory, and are used again.

A helper is asked one thing at a time, in JSON and plain bytes, so that nothing it answers can run
code here. It runs this file as a script, which must therefore import nothing but the standard
library: the package's own ``__init__`` would take seconds.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_FRAME = struct.Struct("<QQ")  # lengths of JSON and payload
_TAKEN = b"!"  # sent back as soon as a question has been read
_IDLE_SECONDS = 600  # then a helper ends; the next question starts another
_FILE = Path(__file__)


class HelperError(RuntimeError):
    """A helper did not answer: it crashed, or had to be stopped."""


class HelperTimeoutError(HelperError):
    """A helper took too long, and was stopped."""


class HelperStartError(HelperError):
    """No helper can be started; the question is not to blame."""


class HelperPool:
    """As many helper processes as threads ask at once; idle ones wait for the next question.

    ``handler`` is ``"module:function"``, imported in the helper without this package's
    ``__init__``; it takes (question, payload) and returns (answer, payload). ``memory`` is how many
    bytes of address space a helper may have, where the system can limit it (not on Windows).
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
        """Return the answer of a helper to a question that JSON can express.

        ``seconds`` is the processor time it may take (the clock on the wall may show several times
        that), ``at_most`` how many bytes of payload are accepted back. Raises HelperError if it
        crashed or took longer, after which the next question gets a new helper, and
        HelperStartError if no process can be started.
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
        arguments = json.dumps({**setup, "path": sys.path, "package": str(_FILE.parents[1])})
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        self._process = subprocess.Popen(
            [sys.executable, str(_FILE), arguments],
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
            n_json, n_payload = _FRAME.unpack(self._read(_FRAME.size))
            if n_json > 2**20 or n_payload > at_most:
                raise HelperError("the helper process answered nonsense.")
            return json.loads(self._read(n_json)), self._read(n_payload)
        finally:
            alarm.cancel()

    def _read(self, n: int) -> bytearray:
        data = bytearray(n)
        view, at = memoryview(data), 0
        while at < n:
            got = self._out.readinto(view[at:])  # type: ignore[attr-defined]
            if not got:
                raise self._post_mortem()
            at += got
        return data

    def _give_up(self) -> None:
        self._overdue = True
        self._process.kill()

    def _post_mortem(self) -> HelperError:
        code = self._process.wait()
        if self._overdue or code == -getattr(signal, "SIGXCPU", 0):
            return HelperTimeoutError("it takes too long, and was stopped.")
        try:
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        except ValueError:
            how = f"signal {-code}"
        return HelperError(f"it crashes, or needs more memory than is allowed ({how}).")

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


# In the helper ----------------------------------------------------------------------------------

Handler = Callable[[dict[str, Any], bytes], tuple[dict[str, Any], Any]]


def main(setup: dict[str, Any]) -> None:
    """Take the pipes, set the limits and answer until the pipes are closed."""
    # Standard input and output for ourselves: native decoders print to the latter.
    answer_pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")  # what a file is worth is told by the answer alone
    sys.path[:] = setup["path"]
    root = Path(setup["package"])
    for name, path in (("sktransfer", root), ("sktransfer._images", root / "_images")):
        package = types.ModuleType(name)  # instead of an __init__ that imports everything
        package.__path__ = [str(path)]
        sys.modules[name] = package
    module, function = setup["handler"].split(":")
    handler = getattr(importlib.import_module(module), function)
    if resource is not None:
        _limit(resource.RLIMIT_AS, setup["memory"])
        _limit(resource.RLIMIT_CORE, 0)
    while _answer_one(handler, sys.stdin.buffer, answer_pipe):
        pass


def _answer_one(handler: Handler, questions: BinaryIO, answers: BinaryIO) -> bool:
    if os.name == "posix" and not select.select([questions], [], [], _IDLE_SECONDS)[0]:
        return False
    head = questions.read(_FRAME.size)
    if len(head) < _FRAME.size:
        return False
    n_json, n_payload = _FRAME.unpack(head)
    question = json.loads(questions.read(n_json))
    payload = questions.read(n_payload)
    answers.write(_TAKEN)
    answers.flush()
    if resource is not None:
        _limit(resource.RLIMIT_CPU, int(time.process_time()) + 1 + question.pop("seconds"))
    try:
        answer, data = handler(question, payload)
        view = memoryview(data).cast("B")
    except MemoryError:
        answer, view = {"error": "it needs more memory than is allowed."}, memoryview(b"")
    message = json.dumps(answer).encode()
    answers.write(_FRAME.pack(len(message), len(view)))
    answers.write(message)
    answers.write(view)
    answers.flush()
    return True


def _limit(what: int, value: int) -> None:
    """Set a soft limit, as far as the hard one allows it and the system knows it."""
    hard = resource.getrlimit(what)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(what, (value, hard))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
