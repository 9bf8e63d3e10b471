"""What runs a network: which engine is possible, how near to plain torch it must come, what was
resolved before, and torch itself. It must not know images or stores.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sktransfer._frozen._openvino import is_lost
from sktransfer._utils import config as _config
from sktransfer._utils.forking import new_lock
from sktransfer._utils.writing import written_whole
from sktransfer.exceptions import MissingDependencyError

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "tf32": torch.float32,  # with products of 10 bits of mantissa, on CUDA devices that have them
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
ENGINES: tuple[str, ...] = ("auto", "torch", "openvino")

# How far, per row and output, an engine may be from plain torch in float32: the L2 norm of the
# difference over the L2 norm of the row. bfloat16 has 8 bits of mantissa; torch's own bfloat16 is
# as far away.
TOLERANCES = {"float32": 1e-5, "bfloat16": 3e-2}

HOW_TO_CONTINUE = "engine='auto' takes torch where OpenVINO cannot; engine='torch' runs everything."


def resolve_engine(engine: str, precision: str, device: str) -> str:
    """Resolve an estimator's ``engine`` from what is installed and possible, for any network.

    What is returned as ``"auto"`` is OpenVINO for the networks where it works and agrees, else
    torch. Raises MissingDependencyError or ValueError where the engine asked for is impossible.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(map(repr, ENGINES))}; got {engine!r}.")
    if engine == "torch" and precision != "int8":
        return engine
    on_cpu = torch.device(device).type == "cpu"
    if precision == "int8":
        return _for_integers(engine, device)
    installed = _is_installed("openvino")
    if engine == "auto":
        return "auto" if installed and on_cpu and precision in TOLERANCES else "torch"
    if not on_cpu:
        raise ValueError(
            f"engine='openvino' runs on device='cpu'; got {device!r}. {HOW_TO_CONTINUE}"
        )
    if precision not in TOLERANCES:
        raise ValueError(
            f"engine='openvino' computes in precision 'float32' or 'bfloat16'; got {precision!r}. "
            f"{HOW_TO_CONTINUE}"
        )
    if not installed:
        raise MissingDependencyError(
            "engine='openvino' needs the package 'openvino', which is not installed. "
            f"{_config.how_to_install('fast')}"
        )
    return engine


def _for_integers(engine: str, device: str) -> str:
    """Return the one engine that computes in 8-bit integers, or raise where it is impossible."""
    instead = "precision='bfloat16' or 'float32' runs with every engine and device."
    if engine == "torch" or torch.device(device).type != "cpu":
        raise ValueError(
            "precision='int8' runs with engine='openvino' (or 'auto') on device='cpu'; got "
            f"engine={engine!r} on device={device!r}. {instead}"
        )
    missing = [package for package in ("openvino", "nncf") if not _is_installed(package)]
    if missing:
        raise MissingDependencyError(
            f"precision='int8' needs the package {missing[0]!r}, which is not installed. "
            f"{_config.how_to_install('openvino')} {instead}"
        )
    return "openvino"


def _is_installed(module: str) -> bool:
    """Return whether a module can be imported."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # half-installed, or blocked
        return False


@dataclass(frozen=True)
class TorchEngine:
    """Plain torch: channels_last, whatever the device; ``chain`` returns a tuple of tensors."""

    name: ClassVar[str] = "torch"
    chain: nn.Module
    precision: str
    device: str

    def __call__(self, batch: Tensor) -> list[Tensor]:
        """Run a batch; several threads may."""
        kind = self.device.split(":")[0]
        products = float32_products(self.precision, self.device)
        with torch.inference_mode(), torch.autocast(kind, enabled=False), products:
            x = batch.to(
                device=self.device,
                dtype=DTYPES[self.precision],
                memory_format=torch.channels_last,
                non_blocking=True,
            )
            return list(self.chain(x))

    def rest(self) -> bool:
        """Give back the memory of batches: torch has done so."""
        return True


class _Float32Products:
    """Holds the process-wide switches of float32 products while batches run, in any thread.

    The first one in notes what the caller allows, and the last one out restores it. As long as
    anybody needs products in full, nobody has TF32, which it only allows.
    """

    def __init__(self) -> None:
        self._lock = new_lock()
        self._inside = {"ieee": 0, "tf32": 0}
        self._before: Any = None

    @contextmanager
    def __call__(self, precision: str, device: str) -> Iterator[None]:
        """Compute products in float32, whatever the caller allows; with "tf32" in TF32 on CUDA."""
        level = "tf32" if precision == "tf32" and device.startswith("cuda") else "ieee"
        if precision not in ("float32", "tf32"):
            yield
            return
        self._change(level, 1)
        try:
            yield
        finally:
            self._change(level, -1)

    def _change(self, level: str, by: int) -> None:
        """Note that somebody comes or goes, and set the switches."""
        with self._lock:
            if not any(self._inside.values()):
                cudnn = torch.backends.cudnn
                try:
                    older = torch.get_float32_matmul_precision()
                    self._before = older, cudnn.allow_tf32, cudnn.benchmark
                except RuntimeError:
                    # The caller set `fp32_precision`, after which torch refuses to read the older
                    # switches.
                    self._before = [part.fp32_precision for part in self._parts()]
            self._inside[level] += by
            if not any(self._inside.values()):
                self._write(self._before)
            else:
                self._write(None, "ieee" if self._inside["ieee"] else "tf32")

    @staticmethod
    def _parts() -> tuple[Any, ...]:
        of: Any = torch.backends
        return of.cuda.matmul, of.mkldnn.matmul, of.cudnn.conv, of.mkldnn.conv

    def _write(self, before: Any, level: str = "") -> None:
        """Set the switches to what they were, or to a level."""
        if isinstance(self._before, list):
            for part, own in zip(self._parts(), before or [level] * 4, strict=True):
                part.fp32_precision = own
            return
        matmul, convolutions, benchmark = before or (
            *(("highest", False) if level == "ieee" else ("high", True)),
            False,  # which algorithm is fastest is not to decide about the last bits
        )
        if torch.get_float32_matmul_precision() != matmul:
            torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = convolutions, benchmark


float32_products = _Float32Products()


def largest_distance(parts: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """Return the largest relative L2 distance of a row from its reference; inf if not finite."""
    largest = 0.0
    for part, right in zip(parts, reference, strict=True):
        if part.shape != right.shape:
            return float("inf")
        worst = float(distances(part, right).max())
        if not worst < float("inf"):
            return float("inf")
        largest = max(largest, worst)
    return largest


def distances(part: Tensor, right: Tensor) -> Tensor:
    """Return the relative L2 distance of each row from its reference."""
    apart = (part.double() - right.double()).norm(dim=1)
    return apart / right.double().norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)


_said: set[str] = set()


def say_once(engine: str, network: str, precision: str, device: str) -> None:
    """Say, once in a process, which engine ``"auto"`` is for a network, and what is faster."""
    if engine in _said or multiprocessing.parent_process() is not None:
        return
    _said.add(engine)
    hint = ""
    on_cpu = torch.device(device).type == "cpu"
    if on_cpu and engine == "torch" and precision in TOLERANCES:
        hint = " OpenVINO cannot run it, or its numbers differ."
        if not _is_installed("openvino"):
            hint = f" OpenVINO is usually faster. {_config.how_to_install('fast')}"
    elif precision == "float32" and (not on_cpu or torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        hint = " precision='bfloat16' is faster, and a little less exact."
    name = {"torch": "torch", "openvino": "OpenVINO"}[engine]
    print(f"sktransfer: {name} runs {network} on {device}.{hint}", file=sys.stderr)


# --- what was resolved before ---------------------------------------------------------------------
#
# Whether "auto" means OpenVINO for a network is known only once it has been converted, which takes
# a second or so; the answer is part of an embedding's key, which is needed even where every
# embedding is in the store already and no network is loaded. So it is written down.

_resolved: dict[str, str] = {}


def recall(*question: Any) -> str | None:
    """Return the engine that (network, precision, outputs, side) resolved to before, or None."""
    if is_lost():
        return "torch"
    text = _text_of(question)
    if text not in _resolved:
        try:
            answer = _record_of(text).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return None
        if answer not in ("torch", "openvino"):
            return None
        _resolved[text] = answer
    return _resolved[text]


def remember(*question: Any, engine: str) -> None:
    """Write an answer down for other processes; where that is impossible they resolve it too."""
    if is_lost() or recall(*question) == engine:
        return
    text = _text_of(question)
    _resolved[text], record = engine, _record_of(text)
    with suppress(OSError):
        record.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(record) as temporary:
            temporary.write_text(engine, encoding="ascii")


def _text_of(question: tuple) -> str:
    """Return a question with all that its answer depends on."""
    return repr((circumstances(), str(_config.home_directory() / "engines"), question))


def _record_of(text: str) -> Path:
    """Return the file that holds the answer to a question."""
    name = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    return _config.home_directory() / "engines" / name


@cache
def circumstances() -> tuple[str, ...]:
    """Return what else the answer depends on: versions, and what this processor can do."""
    try:
        version = metadata.version("openvino")
    except metadata.PackageNotFoundError:
        version = "none"
    bfloat16 = str(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    processor = (platform.machine(), torch.backends.cpu.get_cpu_capability(), bfloat16)
    return (torch.__version__, version, *processor)
