"""Which engine runs a network: what is installed, how near to plain torch it has to come, and
what was resolved before. It must not know networks, images or stores.
"""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
from collections.abc import Hashable, Sequence
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from sktransfer._utils import config as _config
from sktransfer.exceptions import MissingDependencyError

ENGINES: tuple[str, ...] = ("auto", "torch", "openvino")

# How far, per row and tap, an engine may be from plain torch in float32: the L2 norm of the
# difference over the L2 norm of the row. bfloat16 has 8 bits of mantissa; torch's own bfloat16 is
# as far away.
TOLERANCES = {"float32": 1e-5, "bfloat16": 3e-2}

_HOW_TO_GO_ON = "engine='auto' takes torch where OpenVINO cannot; engine='torch' runs everything."


def resolve_engine(engine: str, precision: str, device: str) -> str:
    """What a recipe's engine is, from what is installed and possible; no network is looked at.

    Parameters
    ----------
    engine : {"auto", "torch", "openvino"}
        As given to an estimator.
    precision : str
    device : str
        Of :func:`torch.device`, resolved (not ``"auto"``).

    Returns
    -------
    {"auto", "torch", "openvino"}
        ``"auto"`` means OpenVINO for the networks where it works and agrees, else torch.

    Raises
    ------
    MissingDependencyError
        If ``engine="openvino"`` is not installed.
    ValueError
        If there is no such engine, or it has no such device or precision.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(map(repr, ENGINES))}; got {engine!r}.")
    if engine == "torch":
        return engine
    on_cpu = torch.device(device).type == "cpu"
    installed = _is_installed("openvino")
    if engine == "auto":
        return "auto" if installed and on_cpu and precision in TOLERANCES else "torch"
    if not on_cpu:
        raise ValueError(f"engine='openvino' runs on device='cpu'; got {device!r}. {_HOW_TO_GO_ON}")
    if precision not in TOLERANCES:
        raise ValueError(
            f"engine='openvino' computes in precision 'float32' or 'bfloat16'; got {precision!r}. "
            f"{_HOW_TO_GO_ON}"
        )
    if not installed:
        raise MissingDependencyError(
            "engine='openvino' needs the package 'openvino', which is not installed. Install it "
            'with: pip install "sktransfer[openvino]"'
        )
    return engine


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # half-installed, or blocked
        return False


def refusal(network: str, shape: Sequence[int], reason: str) -> ValueError:
    """The error for an engine that was asked for by name and cannot run a network."""
    height, width = shape
    return ValueError(
        f"engine='openvino' cannot run {network} on images of {height} x {width} pixels: "
        f"{reason}. {_HOW_TO_GO_ON}"
    )


def probe(shape: Sequence[int]) -> Tensor:
    """Two random images, always the same, as a network would be given them."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, *shape, generator=generator, dtype=torch.float32)


def distance(parts: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """Largest relative L2 distance of a row from what it should be; infinite if not finite."""
    largest = 0.0
    for part, right in zip(parts, reference, strict=True):
        if part.shape != right.shape:
            return float("inf")
        apart = (part.double() - right.double()).norm(dim=1)
        size = right.double().norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
        worst = float((apart / size).max())
        if not worst < float("inf"):
            return float("inf")
        largest = max(largest, worst)
    return largest


# --- what was resolved before ---------------------------------------------------------------------
#
# Whether "auto" means OpenVINO for a network is known only once it has been converted, which takes
# a second or so; the answer is part of an embedding's key, which is needed even where every
# embedding is in the store already and no network is loaded. So it is written down.

_resolved: dict[str, str] = {}


def recall(question: Hashable) -> str | None:
    """The engine that ``question`` (network, taps, side, precision) ended with, if any."""
    name = _name(question)
    if name not in _resolved:
        try:
            answer = (_directory() / name).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return None
        if answer not in ("torch", "openvino"):
            return None
        _resolved[name] = answer
    return _resolved[name]


def remember(question: Hashable, engine: str) -> None:
    """Write the answer down for other processes; where that is impossible they find out too."""
    if recall(question) == engine:
        return
    name = _name(question)
    _resolved[name] = engine
    temporary = _directory() / f".{name}-{secrets.token_hex(4)}"
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(engine, encoding="ascii")
        os.replace(temporary, _directory() / name)
    except OSError:
        return


def _directory() -> Path:
    return _config.home_directory() / "engines"


def _name(question: Hashable) -> str:
    text = repr((_circumstances(), str(_directory()), question))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@cache
def _circumstances() -> tuple[str, ...]:
    """What else the answer depends on: versions, and what this processor can do."""
    try:
        version = metadata.version("openvino")
    except metadata.PackageNotFoundError:
        version = "none"
    bfloat16 = str(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    processor = (platform.machine(), torch.backends.cpu.get_cpu_capability(), bfloat16)
    return (torch.__version__, version, *processor)
