"""Networks quantized to 8-bit integers: made once per machine, kept on disk, told by their digest.

It must not know layers or estimators. The quantizing itself is done in a process of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from sktransfer._frozen import _engines, _openvino
from sktransfer._frozen._calibration import Calibration
from sktransfer._utils import config as _config
from sktransfer._utils.versions import versions_of
from sktransfer._utils.writing import written_whole
from sktransfer.exceptions import SkTransferError

# Largest error of an output, the median over images held out of the calibration: the L2 norm of the
# difference to plain torch in float32 over that of the row. Beyond it a network is refused.
LARGEST_ERROR = 0.2

# NNCF's ways to find the range of an activation: the mean over images of their extremes, and what
# loses least of all their values. The mean is the better one on images unlike those of the
# calibration. A network without normalization layers has single images of far larger values, which
# it cuts off: then the other is taken, if its error is this much smaller.
_RANGES = ("MEAN_MINMAX", "HISTOGRAM")
_CLEARLY = 0.9

# Raised when a network comes to be quantized otherwise.
_VERSION = 2
_WORKER = Path(__file__).with_name("_int8_worker.py")
# How long another process is waited for that quantizes the same network, and our own.
_PATIENCE_SECONDS = 1800.0
# Images that are run at once when the error is measured.
_BATCH = 16

_digests: dict[Path, str] = {}  # of the networks that this process has seen


@dataclass(frozen=True)
class Quantized:
    """A quantized network as OpenVINO reads it, and the error of each of its outputs."""

    xml: bytes
    weights: bytes
    errors: tuple[float, ...]

    @property
    def digest(self) -> str:
        """What stands in fingerprints."""
        content = hashlib.blake2b(self.xml, digest_size=16)
        content.update(self.weights)
        return content.hexdigest()

    def engine(self) -> _openvino.IntegerEngine:
        """Return what runs it."""
        # bfloat16 has no more digits than the integers. That is enough for the first convolution of
        # a ResNet, and with depthwise ones, which are left too, it would double the error.
        depthwise = b'type="GroupConvolution"' in self.xml
        precision = "float32" if depthwise else rest_precision()
        return _openvino.IntegerEngine(self.xml, self.weights, precision)


def rest_precision() -> str:
    """Return what is computed in at most where there are no integers, on this processor."""
    return "bfloat16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"


def question_of(*parts: Any, calibration: Calibration) -> str:
    """Return a text equal if and only if the quantized network is, on this machine.

    ``parts`` are the reference of the network, its outputs and the image size.
    """
    reference, *rest = parts
    network = (reference.name, reference.digest, reference.variant)
    versions = versions_of("nncf", "scikit-learn", network=(reference.name, "openvino"))
    return repr(
        (_VERSION, _exact(), _engines.circumstances(), versions, network, *rest, calibration.key)
    )


def recall(question: str) -> str | None:
    """Return the digest of a quantized network that is there, or None."""
    record = _record_of(question)
    if record not in _digests:
        found = _read(record, question)
        if found is None:
            return None
        _digests[record] = found.digest
    return _digests[record]


def quantized(
    question: str, module: torch.nn.Module, calibration: Calibration, plain: Callable[..., Any]
) -> Quantized:
    """Return the quantized network, which is made if it is not there.

    ``module`` is in float32, ``plain`` computes its outputs in torch. Any exception at all may be
    raised where it cannot be converted.
    """
    record = _record_of(question)
    found = _read(record, question)
    if found is None:
        with _alone(record):
            found = _read(record, question)  # another process has made it meanwhile
            if found is None:
                found = _make(module, calibration, plain)
                _write(record, question, found)
    _digests[record] = found.digest
    return found


def _make(
    module: torch.nn.Module, calibration: Calibration, plain: Callable[..., Any]
) -> Quantized:
    """Quantize a network, and measure its error."""
    images, held_out = calibration.load()
    with tempfile.TemporaryDirectory(prefix="sktransfer-int8-") as name:
        folder = Path(name)
        _openvino.write_model(module, images.shape[2:], folder / "float.xml")
        np.save(folder / "images.npy", images.numpy())
        del images
        _run_worker(folder)
        made = []
        for ranges in _RANGES:
            xml, weights = (folder / f"{ranges}{end}" for end in (".xml", ".bin"))
            each = Quantized(xml.read_bytes(), weights.read_bytes(), ())
            made.append(_measured(each, held_out, plain))
    first, other = made
    return other if max(other.errors) < _CLEARLY * max(first.errors) else first


def _measured(made: Quantized, images: Tensor, plain: Callable[..., Any]) -> Quantized:
    """Return a quantized network with the median error of each output."""
    engine, errors = made.engine(), []
    for batch in images.split(_BATCH):
        errors.append(
            torch.stack(
                [
                    _engines.distances(own, right)
                    for own, right in zip(engine(batch), plain(batch), strict=True)
                ]
            )
        )
    medians: Tensor = torch.cat(errors, dim=1).median(dim=1).values
    return replace(made, errors=tuple(medians.tolist()))


def _run_worker(folder: Path) -> None:
    """Quantize the model in a folder, in a process whose output nobody sees unless it fails."""
    threads = str(torch.get_num_threads())
    done = subprocess.run(
        [sys.executable, str(_WORKER), str(folder), "exact" if _exact() else "careful", *_RANGES],
        env={**os.environ, "OMP_NUM_THREADS": threads},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=_PATIENCE_SECONDS,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise SkTransferError(f"NNCF failed to quantize it: {said[-1]}")


def _exact() -> bool:
    """Return whether this processor sums products of 8-bit integers in 32 bits."""
    return bool(getattr(torch.cpu, "_is_vnni_supported", lambda: False)())


# --- on disk --------------------------------------------------------------------------------------


def _record_of(question: str) -> Path:
    """Return the file of a quantized network."""
    directory = _config.home_directory() / "int8"
    return directory / f"{hashlib.blake2b(question.encode(), digest_size=16).hexdigest()}.int8"


@contextmanager
def _alone(record: Path) -> Iterator[None]:
    """Keep other processes from making the same network meanwhile, where that is possible."""
    lock = FileLock(record.with_suffix(".lock"), timeout=_PATIENCE_SECONDS)
    with suppress(OSError, Timeout):
        record.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _read(record: Path, question: str) -> Quantized | None:
    """Read a network; None where there is none, or a file that is damaged or somebody else's."""
    try:
        head, _, content = record.read_bytes().partition(b"\n")
        said = json.loads(head)
        end = int(said["xml"])
        errors = tuple(float(error) for error in said["errors"])
        found = Quantized(content[:end], content[end:], errors)
        same = said["question"] == question and said["digest"] == found.digest
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return found if same else None


def _write(record: Path, question: str, made: Quantized) -> None:
    """Keep a network for other processes; where that is impossible they make it too."""
    said = {
        "question": question,
        "digest": made.digest,
        "xml": len(made.xml),
        "errors": made.errors,
    }
    with suppress(OSError), written_whole(record) as temporary:
        temporary.write_bytes(json.dumps(said).encode() + b"\n" + made.xml + made.weights)
