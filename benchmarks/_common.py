"""What the benchmarks share: the machine, the images, one process per case, tables and JSON.

It must not know what is measured.
"""

from __future__ import annotations

import datetime
import importlib.util
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if importlib.util.find_spec("sktransfer") is None:  # not installed: the checkout around us
    sys.path.append(str(HERE.parent))
RESULTS = HERE / "results"
# An interpreter that has the peers, where they cannot live in this one.
PEERS_VARIABLE = "SKTRANSFER_BENCHMARK_PEERS"

# What convolutions and matrix products are made of; the rest of the list says nothing about them.
_TELLING_FLAGS = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "asimd", "bf16", "i8mm", "sve"),
)
# Above this share of the cores taken by others, figures are called preliminary.
QUIET = 0.05
_PACKAGES = (
    *("sktransfer", "torch", "torchvision", "numpy", "pillow", "scikit-learn", "joblib"),
    *("openvino", "timm", "img2vec_pytorch", "embetter", "thingsvision"),
)


# --- the machine ------------------------------------------------------------------------------


def n_cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """What a figure depends on besides the code."""
    import torch

    model, flags = _cpu()
    return {
        "cpu": model,
        "flags": [flag for flag in _TELLING_FLAGS if flag in flags],
        "cores": n_cores(),
        "ram_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": versions(),
        "torch_threads": torch.get_num_threads(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "load_average": [round(value, 2) for value in os.getloadavg()],
    }


def versions() -> dict[str, str]:
    """Versions of the packages that matter, where they are installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if "sktransfer" not in found:  # run from a checkout
        import sktransfer

        found["sktransfer"] = sktransfer.__version__
    return found


def _cpu() -> tuple[str, set[str]]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine(), set()
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    name = fields.get("model name", platform.machine())
    family = f" (family {fields['cpu family']} model {fields['model']})"
    return name + (family if {"cpu family", "model"} <= fields.keys() else ""), flags


class Neighbors:
    """How much of the machine others used while we measured.

    Read from the kernel's own books, so that figures taken on a busy machine say so.
    """

    def __init__(self) -> None:
        self._start = self._books()

    def share(self) -> float | None:
        """Fraction of all cores that went to other processes or was stolen since the start."""
        if self._start is None:
            return None
        wall, busy, own = (now - then for now, then in zip(self._books(), self._start, strict=True))
        return round(max(0.0, busy - own) / (wall * (os.cpu_count() or 1)), 3)

    @staticmethod
    def _books() -> tuple[float, float, float] | None:
        try:
            fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
        except OSError:
            return None
        user, nice, system, _idle, _wait, irq, soft, steal = (int(f) for f in fields[:8])
        busy = (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")
        return time.perf_counter(), busy, cpu_seconds()


def cpu_seconds() -> float:
    """Processor time of this process and of the children it has waited for."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, kinds))


def peak_memory_mb() -> float:
    """Largest resident size of this process so far, in MB (10^6 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


# --- images and weights ---------------------------------------------------------------------


def shared_directory() -> Path | None:
    """`SKTRANSFER_TEST_SHARED`, or a `shared/` folder alongside or above the checkout."""
    named = os.environ.get("SKTRANSFER_TEST_SHARED")
    root = HERE.parent
    candidates = [Path(named)] if named else [root / "shared", root.parent / "shared"]
    return next((path for path in candidates if (path / "data").is_dir()), None)


def shared_with_weights() -> Path:
    """:func:`shared_directory`; ends the script where there is none, or one without weights."""
    shared = shared_directory()
    if shared is None or not (shared / "weights").is_dir():
        sys.exit("This needs the shared data and weights: set SKTRANSFER_TEST_SHARED.")
    return shared


def photos(n: int, folder: Path) -> tuple[list[str], str]:
    """``n`` distinct JPEG files in ``folder``, and a sentence that says what they are.

    Photographs of ImageNet where there are any, else generated images with the spectrum of a
    photograph. Where there are fewer than ``n``, copies carry a comment: equal pixels in files of
    other bytes, so that nothing that recognizes duplicates has an advantage.
    """
    shared = shared_directory()
    found = sorted((shared / "data" / "imagenet_samples").glob("*.jpg")) if shared else []
    if found:
        # Evenly over the classes, whatever n is.
        step = max(1, len(found) // n)
        originals = [path.read_bytes() for path in found[::step][:n]]
        what = f"ImageNet photographs, shorter side 288 px, {_mean_kb(originals):.0f} kB"
    else:
        originals = [_photo_like(seed) for seed in range(min(n, 200))]
        what = f"generated images of 384 x 288 px, {_mean_kb(originals):.0f} kB"
    paths = []
    for i in range(n):
        data = originals[i % len(originals)]
        path = folder / f"{i:06d}.jpg"
        path.write_bytes(data if i < len(originals) else with_comment(data, i))
        paths.append(str(path))
    return paths, what


def with_comment(jpeg: bytes, number: int) -> bytes:
    """The same image in other bytes: a comment segment after the start marker."""
    text = str(number).encode()
    return jpeg[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + jpeg[2:]


def _mean_kb(files: Sequence[bytes]) -> float:
    return statistics.mean(map(len, files)) / 1000


def _photo_like(seed: int) -> bytes:
    """A JPEG whose spectrum falls as 1/f, as that of photographs does."""
    import io

    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(seed)
    height, width = 288, 384
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = 1.0
    noise = np.fft.rfft2(rng.standard_normal((3, height, width)))
    image = np.fft.irfft2(noise / frequency, s=(height, width))
    image = 128 + 50 * image / image.std()
    buffer = io.BytesIO()
    pixels = np.clip(image, 0, 255).astype(np.uint8).transpose(1, 2, 0)
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def random_weights(network: str, folder: Path) -> str:
    """A file of random weights that every contestant loads, so that all do the same sums."""
    import torch
    import torchvision

    path = folder / f"{network}.pth"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(torchvision.models.get_model(network, weights=None).state_dict(), path)
    return str(path)


def torchvision_model(network: str, weights: str) -> Any:
    """A network of torchvision's with the weights of a file."""
    import torch
    import torchvision

    model = torchvision.models.get_model(network, weights=None)
    model.load_state_dict(torch.load(weights, weights_only=True))
    return model


# --- processes, timing ------------------------------------------------------------------------


@contextmanager
def workspace() -> Iterator[Path]:
    """A temporary folder; nothing is read from or written to the user's own."""
    with tempfile.TemporaryDirectory(prefix="sktransfer-bench-") as name:
        folder = Path(name)
        yield folder


def in_own_process(
    script: str, arguments: dict[str, Any], folder: Path, *, python: str | None = None
) -> dict[str, Any]:
    """What ``script`` writes when run on ``arguments`` in a fresh process.

    A case that cannot run (a peer that is not installed) comes back as ``{"skipped": reason}``.
    """
    out = folder / "answer.json"
    out.unlink(missing_ok=True)
    home = folder / "home"
    paths = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "SKTRANSFER_HOME": str(home),
        "TORCH_HOME": str(home),
        "SKTRANSFER_OFFLINE": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    environment.pop("SKTRANSFER_SESSION", None)
    done = subprocess.run(
        [python or sys.executable, str(HERE / script), json.dumps(arguments), str(out)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or not out.is_file():
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
        return {"skipped": lines[-1][:300] if lines else f"exit status {done.returncode}"}
    return json.loads(out.read_text())


def answer(work: Callable[..., dict[str, Any]]) -> None:
    """The other end of :func:`in_own_process`: run ``work`` and write what it returns."""
    arguments, out = json.loads(sys.argv[1]), Path(sys.argv[2])
    out.write_text(json.dumps(work(**arguments)))


def peers_python() -> str:
    """The interpreter that peers run in."""
    return os.environ.get(PEERS_VARIABLE) or sys.executable


def seconds(work: Callable[[], Any]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def median(values: Sequence[float]) -> float:
    return float(statistics.median(values))


# --- results ----------------------------------------------------------------------------------


def write_json(name: str, content: dict[str, Any], folder: Path | None = None) -> Path:
    """Write ``results/NAME.json`` (numbers rounded to four significant digits)."""
    folder = folder or RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(_rounded(content), indent=1) + "\n")
    print(f"\nwritten: {path}", flush=True)
    return path


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return value


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    print(text_table(title, header, rows), flush=True)


def text_table(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in plain text; numbers are aligned to the right."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    width, _ = shutil.get_terminal_size((120, 24))
    lines = ["", title, "=" * min(len(title), width)]
    for number, row in enumerate(cells):
        lines.append(
            "  ".join(_aligned(cell, size) for cell, size in zip(row, widths, strict=True))
        )
        if number == 0:
            lines.append("  ".join("-" * size for size in widths))
    return "\n".join([*lines, ""])


def _aligned(cell: str, size: int) -> str:
    return cell.rjust(size) if cell[:1].isdigit() or cell == "-" else cell.ljust(size)


def number(value: float | None, digits: int = 3) -> str:
    """A number in a table: so many significant digits, no exponent; "-" for none."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    return f"{float(f'{value:.{digits}g}'):,.10f}".rstrip("0").rstrip(".")


def rst_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A list-table."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in (header, *rows):
        for i, cell in enumerate(row):
            lines.append(f"   {'* -' if i == 0 else '  -'} {cell}".rstrip())
    return "\n".join([*lines, ""])


def where(content: dict[str, Any]) -> str:
    """A sentence about the machine, and a warning if it was not ours alone."""
    its, packages = content["machine"], content["machine"]["packages"]
    flags = ", ".join(its["flags"]) or "none of note"
    software = ", ".join(
        f"{name} {packages[name]}"
        for name in ("torch", "torchvision", "openvino")
        if name in packages
    )
    text = (
        f"Measured {its['date']} on {its['cores']} cores of {its['cpu']} ({flags}), "
        f"{its['ram_gb']:.0f} GB, Python {its['python']}, {software}."
    )
    share = content.get("others_share")
    if share is not None and share > QUIET:
        text += (
            f"\n\n.. warning::\n\n   Preliminary: {100 * share:.0f} % of the machine was used by "
            "other programs meanwhile."
        )
    return text + "\n"
