"""From a weights file or a seed to tensors in a module; what a file holds is never run.

It must not know where files come from, nor any particular network.
"""

from __future__ import annotations

import hashlib
import math
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor, nn

from sktransfer._backbones._weights_files import WeightsFile, forget_digest, stamp
from sktransfer._utils.forking import new_lock
from sktransfer.exceptions import WeightsMismatchError

# Under which key training scripts put the network's tensors when they save more than those.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network")
# What DataParallel and torch.compile put in front of every name.
_PREFIXES = ("module.", "_orig_mod.")

# Types of weights; torch fills a network's float32 with any type it is given, without a word.
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Counters, tables of positions and masks, which are no weights, by the last part of their names.
_COUNTS = re.compile(r"num_batches_tracked|.*(?:idx|index|indices|ids|mask)s?")
# Limits of a clamp in timm's networks and masks of attention, which may be infinite.
_LIMITS = ("_min", "_max", "mask")

# How torch's restricted reader words its refusal to import or call something.
_NEEDS_CODE = re.compile(r"Unsupported (global|class)|GLOBAL|Trying to (load|call|instantiate)")

# Torch's generator is one for all threads.
_SEEDING = new_lock()


def read_state_dict(file: WeightsFile) -> dict[str, Tensor]:
    """Read the tensors of a weights file, on the CPU, without running anything it holds.

    Torch's formats (zip and older) and safetensors, told apart by content. A checkpoint that
    keeps the tensors under ``"state_dict"`` or ``"model"`` is unwrapped, and ``"module."`` in
    front of every name is removed. A file that is no state dict, that would have to run code, or
    whose content is not what was hashed raises ``WeightsMismatchError``.
    """
    with open(file.path, "rb") as stream:
        # One open file from the hash to the last tensor: replacing the name changes nothing here.
        before = stamp(stream.fileno())
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if digest != file.sha256:
            forget_digest(file.path)
            raise WeightsMismatchError(
                f"{file.path} has changed: its sha256 is {digest}, expected was {file.sha256}."
            )
        stream.seek(0)
        content = _load_content(stream, file.path)
        if stamp(stream.fileno()) != before:
            raise WeightsMismatchError(f"{file.path} was changed while it was being read.")
    return _tensors_of(content, file.path)


def load_strict(
    module: nn.Module,
    state_dict: Mapping[str, Tensor],
    *,
    source: str | os.PathLike[str],
    ignore: Sequence[str] = (),
) -> None:
    """Fill a module with tensors that must fit it one to one, or raise ``WeightsMismatchError``.

    ``source`` is where they come from, for the message; ``ignore`` has patterns of names that may
    be missing or left over (``"AuxLogits.*"``). If this raises, the module is in no defined state.
    """
    expected = module.state_dict()
    check_kinds(state_dict, source, expected)
    wrong = [
        f"{name} ({tuple(state_dict[name].shape)} instead of {tuple(tensor.shape)})"
        for name, tensor in expected.items()
        if name in state_dict and state_dict[name].shape != tensor.shape
    ]
    if wrong:
        hint = ""
        if len(wrong) <= 2:
            hint = (
                " Only the classifier seems to differ: these weights were trained for another "
                "number of classes."
            )
        raise WeightsMismatchError(
            f"The tensors of {os.fspath(source)} do not fit this network: wrong shape of "
            f"{_few(wrong)}.{hint}"
        )
    result = module.load_state_dict(state_dict, strict=False)  # keeps torch's own upgrades of names
    missing = _without(result.missing_keys, ignore)
    unexpected = _without(result.unexpected_keys, ignore)
    if missing or unexpected:
        parts = [
            f"{what}: {_few(names)}"
            for what, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        advice = "They must come from the architecture that was named, built the same way."
        # What Lightning and other wrappers put in front.
        front = unexpected[0].partition(".")[0] + "." if unexpected else ""
        if missing and all(front + name in state_dict for name in missing):
            advice = (
                f"Take {front!r} off their names: torch.save({{k.removeprefix({front!r}): v for "
                f"k, v in tensors.items() if k.startswith({front!r})}}, 'file.pth')."
            )
        raise WeightsMismatchError(
            f"The tensors of {os.fspath(source)} do not fit this network ({'; '.join(parts)}). "
            f"{advice}"
        )
    check_values(module.state_dict(), source)


def check_kinds(
    tensors: Mapping[str, Tensor],
    source: str | os.PathLike[str],
    expected: Mapping[str, Tensor] | None = None,
) -> None:
    """Raise ``WeightsMismatchError`` for tensors whose type or layout cannot be that of weights.

    ``expected`` has the tensors of the network; without it, only counters, tables of positions
    and masks, by their names, may be whole numbers or booleans.
    """
    for name, tensor in tensors.items():
        kind = str(tensor.dtype)
        if expected is not None and name in expected:
            counts = not expected[name].is_floating_point()
        else:
            counts = _COUNTS.fullmatch(str(name).rpartition(".")[2]) is not None
        if tensor.is_meta or tensor.is_quantized or tensor.layout != torch.strided:
            kind = "meta" if tensor.is_meta else "quantized" if tensor.is_quantized else "sparse"
        elif tensor.dtype in _FLOATS or (counts and not kind.startswith(("torch.c", "torch.f"))):
            continue
        raise WeightsMismatchError(
            f"{name!r} of {os.fspath(source)} is a {kind} tensor; weights are dense and of "
            "float32, float64, float16 or bfloat16. Save the state dict before the network is "
            "quantized, pruned or converted."
        )


def check_values(tensors: Mapping[str, Tensor], source: str | os.PathLike[str]) -> None:
    """Raise ``WeightsMismatchError`` for values that cannot be those of weights.

    These are NaN, infinity (also what a wider type held and this one cannot) and a negative
    variance. One pass over the values, at the speed of memory.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not tensor.numel() or tensor.is_meta:
            continue
        low, high = (float(each) for each in torch.aminmax(tensor.detach()))
        if math.isnan(low):  # as where a single value is
            problem = "NaN"
        elif math.inf in (-low, high) and not name.endswith(_LIMITS):
            problem = f"infinity in {tensor.dtype}"
        elif name.endswith("running_var") and low < 0:
            problem = f"a negative variance ({low:.4g})"
        else:
            continue
        raise WeightsMismatchError(
            f"{name!r} of {os.fspath(source)} has {problem}, so the network cannot compute with "
            "it: the training that wrote it failed, or the file is damaged. Take an earlier "
            "checkpoint, or get the file again."
        )


@contextmanager
def private_seed(seed: int | None) -> Iterator[None]:
    """Draw the random weights of modules from ``seed``, and restore torch's global generator.

    Only the CPU generator is used: modules are built on the CPU, and ``torch.manual_seed`` would
    reset those of the GPUs too. One thread at a time enters, for there is one generator.
    """
    with _SEEDING, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0 if seed is None else int(seed))
        yield


def state_dict_digest(of: nn.Module | Mapping[str, Tensor], header: str = "") -> str:
    """Return ``"blake2b:<hex>"`` of a text and every name, shape, type and value in a module."""
    tensors = of.state_dict() if isinstance(of, nn.Module) else of
    digest = hashlib.blake2b(header.encode("utf-8", "surrogatepass"), digest_size=32)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(values.view(torch.uint8).numpy())  # numpy has no bfloat16
    return f"blake2b:{digest.hexdigest()}"


def _load_content(stream: BinaryIO, path: Path) -> object:
    head = stream.read(256)
    stream.seek(0)
    if _is_safetensors(head):
        import safetensors
        import safetensors.torch

        try:
            return safetensors.torch.load(stream.read())
        except (safetensors.SafetensorError, KeyError, ValueError) as exc:
            raise WeightsMismatchError(f"{path} is a damaged safetensors file ({exc}).") from exc
    _refuse_other_kinds(stream, head, path)
    try:
        check_archive(stream, path)
        return torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        if _NEEDS_CODE.search(str(exc)):
            raise WeightsMismatchError(
                f"{path} holds more than tensors: reading it would mean running code from the "
                f"file, which sktransfer never does. Nothing was run. Torch says: "
                f"{_first_sentence(exc)} If you trust where it comes from, load it yourself and "
                "save the tensors alone: torch.save(model.state_dict(), path)."
            ) from exc
        raise WeightsMismatchError(f"{path} is not a torch weights file, or damaged.") from exc
    except (MemoryError, WeightsMismatchError):
        raise
    except Exception as exc:  # a damaged file may lead the reader anywhere
        raise WeightsMismatchError(
            f"{path} cannot be read as weights; it may be cut short or damaged "
            f"({type(exc).__name__}: {_first_sentence(exc)})"
        ) from exc


def _is_safetensors(head: bytes) -> bool:
    # Eight bytes of length, then a JSON object.
    return len(head) > 9 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < 2**27


def _refuse_other_kinds(stream: BinaryIO, head: bytes, path: Path) -> None:
    """Raise with what a file is if it is something that people mistake for weights."""
    start = head.lstrip().lower()
    if not head:
        raise WeightsMismatchError(f"{path} is empty.")
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise WeightsMismatchError(
            f"{path} is a web page, not weights: a log-in or error page was saved in their place."
        )
    if start.startswith(b"version https://git-lfs"):
        raise WeightsMismatchError(
            f"{path} is a Git LFS pointer, not the weights themselves; fetch them with "
            "`git lfs pull`."
        )
    if head.startswith(b"PK") and zipfile.is_zipfile(stream):
        with zipfile.ZipFile(stream) as archive:
            names = archive.namelist()
        # torch.load would warn, then refuse; say at once what to do.
        if any(name.endswith("/constants.pkl") for name in names):
            raise WeightsMismatchError(
                f"{path} is a TorchScript archive, which holds code. Save its tensors alone: "
                "torch.save(scripted.state_dict(), path)."
            )
    stream.seek(0)


def check_archive(file: BinaryIO | str | os.PathLike[str], path: object) -> None:
    """Raise ``WeightsMismatchError`` if a record of torch's archive has another checksum.

    torch.load compares none. All differ where whoever saved switched them off, with
    ``torch.serialization.set_crc32_options``.
    """
    damaged, n_intact = [], 0
    with suppress(zipfile.BadZipFile), zipfile.ZipFile(file) as archive:
        for record in archive.infolist():
            if record.compress_type != zipfile.ZIP_STORED:  # torch compresses nothing
                continue
            try:
                with archive.open(record) as content:
                    while content.read(1 << 20):
                        pass
                n_intact += record.file_size > 0
            except (zipfile.BadZipFile, EOFError, RuntimeError):
                damaged.append(record.filename)
    if not isinstance(file, (str, os.PathLike)):
        file.seek(0)
    if damaged and n_intact:
        raise WeightsMismatchError(
            f"{path} is damaged: the checksum of {_few(damaged)} is wrong. Get the file again."
        )


def _tensors_of(content: object, path: Path) -> dict[str, Tensor]:
    for _ in range(2):  # a checkpoint inside a checkpoint, but no deeper
        if not isinstance(content, Mapping):
            break
        wrapped = [content[k] for k in _WRAPPERS if isinstance(content.get(k), Mapping)]
        if not wrapped:
            break
        content = wrapped[0]
    if not isinstance(content, dict) or not content:
        empty = "an empty" if isinstance(content, (dict, list, tuple)) and not content else "a"
        raise WeightsMismatchError(
            f"{path} holds {empty} {type(content).__name__} instead of a state dict (names and "
            "tensors)."
        )
    others = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise WeightsMismatchError(
            f"{path} is not a plain state dict: {_few(others)} hold no tensor. Save the network's "
            "tensors alone: torch.save(model.state_dict(), path)."
        )
    check_kinds(content, path)
    matrices = [tensor for tensor in content.values() if tensor.ndim > 1]
    if matrices and not any(tensor.any() for tensor in matrices):
        raise WeightsMismatchError(
            f"Every matrix of {path} is zero: nothing was learned, or the file lost its content. "
            "Get it again."
        )
    for prefix in _PREFIXES:
        if all(str(name).startswith(prefix) for name in content):
            nn.modules.utils.consume_prefix_in_state_dict_if_present(content, prefix)
    return content


def _without(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    return [n for n in names if not any(fnmatchcase(n, pattern) for pattern in patterns)]


def _few(names: Sequence[str], limit: int = 4) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _first_sentence(exc: BaseException) -> str:
    """Shorten torch's messages, most of which is on how to switch the protection off."""
    text = str(exc)
    for line in text.splitlines():
        if "Unsupported" in line or "GLOBAL" in line:
            text = line.split("Please use")[0].split("Please file")[0]
            break
    return shortened(text, 200)


def shortened(text: object, limit: int = 300) -> str:
    """Return a message on one line, cut off where it gets too long."""
    plain = " ".join(str(text).split())
    return plain if len(plain) <= limit else plain[: limit - 1] + "…"
