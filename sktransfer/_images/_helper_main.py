"""What a helper process runs: it answers questions on its pipes until they are closed.

It is run as a script and must not import the package's ``__init__``, which would take seconds.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import struct
import sys
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

_FRAME = struct.Struct("<QQ")
_TAKEN = b"!"
_IDLE_SECONDS = 600  # then it ends; the next question starts another

Handler = Callable[[dict[str, Any], bytes], tuple[dict[str, Any], Any]]


def main(setup: dict[str, Any]) -> None:
    """Take the pipes, set the limits, answer."""
    question_pipe, answer_pipe = _pipes()
    warnings.simplefilter("ignore")  # what a file is worth is told by the answer alone
    sys.path[:] = setup["path"]
    _stand_in_packages(Path(setup["package"]))
    module, function = setup["handler"].split(":")
    handler = getattr(importlib.import_module(module), function)
    if resource is not None:
        _limit(resource.RLIMIT_AS, setup["memory"])
        _limit(resource.RLIMIT_CORE, 0)
    while _answer_one(handler, question_pipe, answer_pipe):
        pass


def _pipes() -> tuple[BinaryIO, BinaryIO]:
    """Standard input and output for ourselves: native decoders print to the latter."""
    answer_pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return sys.stdin.buffer, answer_pipe


def _stand_in_packages(root: Path) -> None:
    for name, path in (("sktransfer", root), ("sktransfer._images", root / "_images")):
        package = types.ModuleType(name)
        package.__path__ = [str(path)]
        sys.modules[name] = package


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
    """A soft limit, as far as the hard one lets us and the system knows it."""
    hard = resource.getrlimit(what)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(what, (value, hard))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
