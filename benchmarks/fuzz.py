"""Damaged files by the thousand: each ends in an image or in a named error, soon and in bounds.

    python benchmarks/fuzz.py FOLDER [--n 10000] [--workers 2] [--seed 7]

FOLDER holds images of any kind, in any folders below it. What is found there, and what some of it
becomes in other formats, is damaged in the six ways that the user guide tells of and in five more,
and goes through ``transform(on_error="nan")``. The exit status is 1 if one file crashes, takes
more than 5 s or 500 MB, ends in another error than ImageDecodeError, or gives other pixels without
a word where the table says "detected". File number i is the same in every run with one seed.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import re
import struct
import sys
import time
import warnings
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _common import RESULTS, machine, print_table, write_json
from PIL import Image, TiffImagePlugin

SECONDS, MEGABYTES = 5.0, 500.0
LARGEST = 1_500_000  # bytes of a file that is damaged
BATCH = 50  # files that are embedded together
SILENCE = 120.0  # seconds after which a process that says nothing hangs

SIX = ("cut", "zeroed block", "zeroed tail", "flipped byte")  # in every format: see `damaged`
OTHER = ("bytes anywhere", "header edited", "truncated", "spliced", "sizes edited")


def is_certain(kind: str, how: str) -> bool:
    """Return whether the table says "detected": such damage must never pass without a word.

    "cut" leaves out coded pixels and keeps the end of the file, with sizes that fit. PNG has
    checksums, in icons too. Everything else that is found depends on chance, however often.
    """
    if how == "cut":
        return not kind.endswith("as found") and kind != "DICOM"
    return kind.startswith(("PNG", "ICO")) and how in SIX


class Original(NamedTuple):
    """A sound file: what it is called in the table, and its bytes."""

    kind: str
    data: bytes


# --- originals --------------------------------------------------------------------------------

_PHOTO: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "JPEG": ("JPEG", None, {"quality": 85}),
    "JPEG, restart markers": ("JPEG", None, {"restart_marker_rows": 1}),
    "JPEG progressive": ("JPEG", None, {"progressive": True}),
    "JPEG CMYK": ("JPEG", "CMYK", {}),
    "JPEG gray": ("JPEG", "L", {"optimize": True}),
    "PNG": ("PNG", None, {}),
    "PNG palette": ("PNG", "P", {}),
    "PNG gray": ("PNG", "L", {}),
    "PNG 16 bits": ("PNG", "I;16", {}),
    "GIF": ("GIF", "P", {}),
    "BMP": ("BMP", None, {}),
    "TIFF": ("TIFF", None, {}),
    "TIFF LZW": ("TIFF", None, {"compression": "tiff_lzw"}),
    "TIFF deflate": ("TIFF", None, {"compression": "tiff_adobe_deflate"}),
    "TIFF PackBits": ("TIFF", None, {"compression": "packbits"}),
    "TIFF JPEG": ("TIFF", None, {"compression": "jpeg"}),
    "TIFF fax": ("TIFF", "1", {"compression": "group4"}),
    "TIFF 16 bits": ("TIFF", "I;16", {"compression": "tiff_lzw"}),
    "WebP": ("WEBP", None, {"quality": 80}),
    "WebP lossless": ("WEBP", None, {"lossless": True}),
    "WebP alpha": ("WEBP", "RGBA", {"quality": 80}),
    "JPEG 2000": ("JPEG2000", None, {"quality_mode": "rates", "quality_layers": [12]}),
    "JPEG 2000 codestream": ("JPEG2000", "L", {"no_jp2": True}),
    "PPM": ("PPM", None, {}),
    "TGA": ("TGA", None, {}),
    "TGA run lengths": ("TGA", "L", {"compression": "tga_rle"}),
    "ICO": ("ICO", None, {"sizes": [(128, 128)]}),
    "AVIF": ("AVIF", None, {"quality": 70}),
}


def originals(folder: Path, per_kind: int = 12) -> list[Original]:
    """Files of the folder that can be read, and what some of them become in each format."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in (".csv", ".md", ".npz") or not path.is_file():
            continue
        if 0 < path.stat().st_size <= LARGEST:
            found[str(path.parent)].append(path)
    sound, photos = [], []
    for paths in found.values():
        for path in paths[:: max(1, len(paths) // 60)]:
            data = path.read_bytes()
            pixels = _readable(data)
            if pixels is None:
                continue
            sound.append(Original(_kind(data), data))
            if pixels.dtype == np.uint8 and min(pixels.shape[:2]) >= 128:
                photos.append(Image.fromarray(pixels).convert("RGB"))
    if not photos:
        sys.exit(f"{folder} has no image of 128 pixels or more.")
    for kind, (format_, mode, options) in _PHOTO.items():
        for photo in photos[:: max(1, len(photos) // per_kind)][:per_kind]:
            data = _converted(photo, format_, mode, options)
            if _readable(data) is not None:
                sound.append(Original(kind, data))
    return sound


def _readable(data: bytes) -> np.ndarray | None:
    """Pixels of a file, or None if it is refused."""
    from sktransfer.exceptions import ImageDecodeError

    try:
        return decoded(data)
    except ImageDecodeError:
        return None


def _converted(photo: Image.Image, format_: str, mode: str | None, options: dict) -> bytes:
    photo = photo.copy()
    photo.thumbnail((320, 320))
    if mode == "I;16":
        deep = np.asarray(photo.convert("L")).astype(np.uint16) * 257
        photo = Image.fromarray(deep ^ (np.arange(deep.shape[1], dtype=np.uint16) & 255))
    elif mode == "RGBA":
        photo.putalpha(photo.convert("L"))
    elif mode is not None:
        photo = photo.convert(mode)
    file = io.BytesIO()
    photo.save(file, format_, **options)
    return file.getvalue()


def _kind(data: bytes) -> str:
    """What a file of the folder counts as."""
    from sktransfer._images._formats import identify, is_dicom

    if is_dicom(data):
        return "DICOM"
    kind = identify(data) or "unknown"
    if kind == "JPEG":
        with Image.open(io.BytesIO(data)) as image:
            progressive = image.info.get("progressive")
            kind = {"CMYK": "JPEG CMYK", "L": "JPEG gray"}.get(image.mode, kind)
        return "JPEG progressive" if progressive else kind
    return kind if kind in _PHOTO and kind not in ("TIFF", "WebP") else f"{kind}, as found"


# --- damage -----------------------------------------------------------------------------------


def coded_pixels(data: bytes) -> tuple[int, int]:
    """Where the coded pixels of a sound file begin and end."""
    end = len(data)
    if data[128:132] == b"DICM":
        return data.rfind(b"\xe0\x7f\x10\x00") + 12, end
    if data[:2] == b"\xff\xd8":
        at = 2
        while data[at : at + 2] != b"\xff\xda" and at < end:
            at = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            while at < end and data[at] != 0xFF:  # junk between segments
                at += 1
        start = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        first = data.find(b"\xff\xd9\xff\xd8", start)  # more images may follow
        return start, first if first > 0 else data.rfind(b"\xff\xd9")
    if data[:4] == b"\x89PNG":
        return data.find(b"IDAT") + 4, data.find(b"IEND") - 8
    if data[:3] == b"GIF":
        table = 3 << ((data[10] & 7) + 1) if data[10] & 0x80 else 0
        return data.find(b",", 13 + table) + 11, end - 1
    if data[:4] == b"RIFF":
        at = max(data.find(b"VP8 "), data.find(b"VP8L"))
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        return at + 8 + (10 if data[at + 3 : at + 4] == b" " else 5), at + 8 + size
    if data[:2] == b"BM":
        return int.from_bytes(data[10:14], "little"), end
    if data[:2] in (b"II", b"MM"):
        with TiffImagePlugin.TiffImageFile(io.BytesIO(data)) as image:
            tags = image.tag_v2
            offsets = tags.get(273) or tags.get(324)
            counts = tags.get(279) or tags.get(325)
        return min(offsets), max(a + b for a, b in zip(offsets, counts, strict=False))
    if b"\xff\x4f\xff\x51" in data[:200]:
        return data.find(b"\xff\x93") + 2, end - 2
    if data[4:8] == b"ftyp":
        return data.find(b"mdat") + 4, end
    if match := re.match(rb"P[1-7]\s+(?:#.*\s)*\d+\s+\d+\s+\d*\s?", data):
        return match.end(), end
    if data[:4] == b"\0\0\1\0":
        return int.from_bytes(data[18:22], "little") + 60, end
    return min(18, end), end


def damaged(data: bytes, how: str, rng: np.random.Generator, other: bytes) -> bytes:
    """A sound file, damaged in one way."""
    start, end = coded_pixels(data)
    if not 0 <= start < end <= len(data):
        start, end = 0, len(data)
    long = end - start
    if how == "cut":
        return _fitted(data, start, start + int(long * rng.uniform(0.1, 0.9)), end)
    if how == "zeroed block":
        at = start + int(long * rng.uniform(0.2, 0.7))
        width = max(1, int(long * rng.uniform(0.05, 0.25)))
        return data[:at] + bytes(width) + data[at + width :]
    if how == "zeroed tail":
        at = start + int(long * rng.uniform(0.3, 0.9))
        return data[:at] + bytes(end - at) + data[end:]
    if how == "truncated":
        return data[: int(len(data) * rng.uniform())]
    if how == "spliced":
        at = int(len(data) * rng.uniform())
        return data[:at] + other[int(len(other) * rng.uniform()) :]
    changed = bytearray(data)
    if how == "flipped byte":
        at = start + int(long * rng.uniform())
        changed[at] ^= int(rng.integers(1, 256))
        return bytes(changed)
    reach = len(data) if how == "bytes anywhere" else min(len(data), max(start, 64), 1024)
    for _ in range(min(8, rng.geometric(0.4))):
        at = int(rng.integers(reach))
        if how == "sizes edited":
            value = int(rng.choice([0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF]))
            width = int(rng.choice([1, 2, 4]))
            changed[at : at + width] = (value % 256**width).to_bytes(width, "little")
        elif how == "header edited" and rng.random() < 0.3:
            del changed[at : at + int(rng.integers(1, 16))]
        else:
            changed[at % len(changed)] = int(rng.integers(256))
    return _with_checksums(bytes(changed)) if rng.random() < 0.7 else bytes(changed)


def _fitted(data: bytes, start: int, cut: int, end: int) -> bytes:
    """A file without the pixels from ``cut`` on, whose sizes and end are as they must be."""
    if data[:4] == b"\x89PNG":
        parts, at = [], data.find(b"IDAT") - 4
        head = data[:at]
        while data[at + 4 : at + 8] == b"IDAT":
            size = int.from_bytes(data[at : at + 4], "big")
            parts.append(data[at + 8 : at + 8 + size])
            at += 12 + size
        coded = b"IDAT" + b"".join(parts)[: cut - start]
        crc = struct.pack(">I", zlib.crc32(coded))
        return head + struct.pack(">I", len(coded) - 4) + coded + crc + data[at:]
    if data[:3] == b"GIF":  # sub-blocks: length, data
        at = start
        while at + 1 + data[at] < cut:
            at += 1 + data[at]
        return data[:at] + b"\0" + data[end:]
    if data[:4] == b"RIFF":
        at = max(data.find(b"VP8 "), data.find(b"VP8L"))
        cut -= (cut - at) % 2
        changed = bytearray(data[:cut] + data[end:])
        changed[at + 4 : at + 8] = (cut - at - 8).to_bytes(4, "little")
        changed[4:8] = (len(changed) - 8).to_bytes(4, "little")
        return bytes(changed)
    return data[:cut] + data[end:]


def _with_checksums(data: bytes) -> bytes:
    """A PNG whose checksums are right again, so that what was changed is looked at."""
    if not data.startswith(b"\x89PNG"):
        return data
    repaired, at = bytearray(data), 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        repaired[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(repaired)


def make(sound: Sequence[Original], seed: int, number: int) -> tuple[Original, str, bytes]:
    """File ``number``: what it was, how it is damaged, its bytes."""
    rng = np.random.default_rng([seed, number])
    kinds = sorted({original.kind for original in sound})
    kind = kinds[number % len(kinds)]
    choice = [original for original in sound if original.kind == kind]
    original = choice[rng.integers(len(choice))]
    other = sound[rng.integers(len(sound))]
    how = (SIX + OTHER)[rng.choice(9, p=[0.15] * 4 + [0.08] * 5)]
    return original, how, damaged(original.data, how, rng, other.data)


# --- one file, and many -----------------------------------------------------------------------


def _memory(*, peak: bool) -> float:
    """Megabytes of this process now, or at most since it was last asked for those of now."""
    status = Path("/proc/self/status")
    if not peak:
        Path("/proc/self/clear_refs").write_text("5")
    name = "VmHWM" if peak else "VmRSS"
    (line,) = (line for line in status.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def decoded(data: bytes, min_side: int | None = None) -> np.ndarray:
    """Pixels of the file."""
    from sktransfer._images import as_image_source

    return np.asarray(as_image_source([data]).open(0).decode(min_side))


def outcome(original: Original, data: bytes, min_side: int | None = None) -> dict[str, Any]:
    """What becomes of one file: "error", "same" pixels, "other" pixels, or a failure."""
    from sktransfer.exceptions import ImageDecodeError

    before = _memory(peak=False)
    start = time.monotonic()
    result, detail, values = "error", "", None
    try:
        values = decoded(data, min_side)
    except ImageDecodeError as error:
        detail = error.reason
    except BaseException as error:
        result, detail = "failure", f"{type(error).__name__}: {error}"
    spent = time.monotonic() - start
    grown = _memory(peak=True) - before
    if values is not None:
        sound = decoded(original.data, min_side)
        result = "same" if np.array_equal(values, sound) else "other"
    return {"result": result, "detail": detail[:300], "seconds": spent, "megabytes": grown}


def _work(
    sound: Sequence[Original], seed: int, numbers: Sequence[int], embed: bool, pipe: Connection
) -> None:
    """Announce each file, then say what became of it."""
    warnings.simplefilter("ignore")
    for kind in {original.kind: original for original in sound}.values():
        decoded(kind.data)  # what is imported at first use is no file's fault
    batch: list[tuple[int, bytes, bool]] = []
    for number in numbers:
        original, how, data = make(sound, seed, number)
        pipe.send({"number": number})
        min_side = 48 if number % 4 == 0 else None  # what `scaled_decoding` asks for
        found = outcome(original, data, min_side)
        for _ in range(2):  # a busy machine is not the file's fault
            if found["seconds"] > SECONDS:
                found = min(
                    found, outcome(original, data, min_side), key=lambda each: each["seconds"]
                )
        pipe.send({"number": number, "kind": original.kind, "how": how, **found})
        batch.append((number, data, found["result"] in ("same", "other")))
        if embed and (len(batch) == BATCH or number == numbers[-1]):
            for wrong in _embedded(batch):
                pipe.send({"number": wrong, "kind": original.kind, "how": how, **_OTHER_ROW})
            batch = []
    pipe.send(None)


_OTHER_ROW = {
    "result": "failure",
    "detail": "embedded though it cannot be decoded, or the other way round",
    "seconds": 0.0,
    "megabytes": 0.0,
}


def _embedded(batch: Sequence[tuple[int, bytes, bool]]) -> list[int]:
    """Numbers of files whose row is not what their decoding said."""
    from sktransfer import PretrainedFeatureExtractor

    extractor = PretrainedFeatureExtractor(
        "squeezenet1_1", weights=None, image_size=32, on_error="nan", cache=False, random_state=0
    )
    rows = extractor.fit_transform([data for _, data, _ in batch])
    whole = np.isfinite(rows).all(axis=1)
    return [number for (number, _, image), row in zip(batch, whole, strict=True) if image != row]


def run(
    sound: Sequence[Original], seed: int, n: int, workers: int, embed: bool = True
) -> Iterator[dict[str, Any]]:
    """What becomes of each of ``n`` files, in processes of which any may die."""
    context = multiprocessing.get_context("spawn")
    left = [list(range(n))[worker::workers] for worker in range(workers)]
    pipes: dict[Connection, tuple[Any, list[int], int]] = {}

    def begin(numbers: list[int]) -> None:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(sound, seed, numbers, embed, theirs))
        process.start()
        theirs.close()
        pipes[ours] = process, numbers, numbers[0]

    for numbers in left:
        if numbers:
            begin(numbers)
    while pipes:
        ready = wait(list(pipes), timeout=SILENCE)
        for pipe in ready or list(pipes):
            process, numbers, at = pipes[pipe]
            try:
                message = pipe.recv() if ready else ...
            except EOFError:
                message = ...
            if message is ...:  # it died, or says nothing
                process.kill()
                process.join()
                del pipes[pipe]
                how = f"exit status {process.exitcode}" if ready else f"no answer in {SILENCE} s"
                yield {"number": at, "kind": "?", "how": "?", **_OTHER_ROW, "detail": how}
                if rest := [number for number in numbers if number > at]:
                    begin(rest)
            elif message is None:
                process.join()
                del pipes[pipe]
            else:
                pipes[pipe] = process, numbers, max(at, message["number"])
                if "result" in message:
                    yield message


def failures_of(found: dict[str, Any]) -> list[str]:
    """What is wrong with an outcome, in words."""
    said = []
    if found["result"] == "failure":
        said.append(found["detail"])
    if found["seconds"] > SECONDS:
        said.append(f"{found['seconds']:.1f} s")
    if found["megabytes"] > MEGABYTES:
        said.append(f"{found['megabytes']:.0f} MB")
    if found["result"] == "other" and is_certain(found["kind"], found["how"]):
        said.append("other pixels without a word")
    return said


def shares(outcomes: Sequence[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """For each kind of file and of damage: refused, of those that are no longer the same image."""
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for found in outcomes:
        counts[found["kind"], found["how"]][found["result"]] += 1
    table: dict[str, dict[str, str]] = defaultdict(dict)
    for (kind, how), count in sorted(counts.items()):
        table[kind][how] = f"{count['error']}/{count['error'] + count['other']}"
    return dict(table)


# Rows of the user guide's table, and what they are made of.
_ROWS: dict[str, tuple[str, ...]] = {
    "PNG, ICO": ("PNG", "PNG palette", "PNG gray", "PNG 16 bits", "ICO"),
    "JPEG": ("JPEG", "JPEG gray", "JPEG CMYK", "JPEG, restart markers"),
    "JPEG, progressive": ("JPEG progressive",),
    "GIF": ("GIF",),
    "WebP, lossy": ("WebP", "WebP alpha"),
    "WebP, lossless": ("WebP lossless",),
    "JPEG 2000": ("JPEG 2000", "JPEG 2000 codestream"),
    "AVIF": ("AVIF",),
    "TIFF of JPEG": ("TIFF JPEG",),
    "TIFF, deflate": ("TIFF deflate",),
    "TIFF, LZW or PackBits": ("TIFF LZW", "TIFF PackBits", "TIFF 16 bits"),
    "TIFF, fax group 4": ("TIFF fax",),
    "TGA, run lengths": ("TGA run lengths",),
    "BMP, PPM, TGA, TIFF without compression": ("BMP", "PPM", "TGA", "TIFF"),
    "DICOM of many kinds": ("DICOM",),
}


def guide_table(refused: dict[str, dict[str, str]]) -> str:
    """The table of the user guide, as reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", "   :widths: 28 16 18 18 20", ""]
    for title, kinds in {"format": (), **_ROWS}.items():
        cells = [title]
        for how in SIX:
            pairs = [refused[kind].get(how, "0/0").split("/") for kind in kinds if kind in refused]
            found, n = (sum(int(pair[i]) for pair in pairs) for i in (0, 1))
            if not kinds:
                cells.append(how)
            elif all(is_certain(kind, how) for kind in kinds):
                cells.append("detected")
            elif n:
                cells.append(f"{found} of {n}" if found else "no")
        if len(cells) == 1 + len(SIX):
            lines += [f"   {'-' if i else '* -'} {cell}".rstrip() for i, cell in enumerate(cells)]
    return "\n".join(line.replace("   - ", "     - ") for line in lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="images of any kind")
    parser.add_argument("--n", type=int, default=10_000, help="files")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--no-embedding", action="store_true", help="only decode")
    parser.add_argument("--results", type=Path, help="folder of the JSON file")
    parser.add_argument("--table", action="store_true", help="print the guide's table and end")
    args = parser.parse_args()
    if args.table:
        content = json.loads(((args.results or RESULTS) / "fuzz.json").read_text())
        print(guide_table(content["refused"]), end="")
        return
    if args.folder is None:
        parser.error("name a folder of images")
    described = machine()
    sound = originals(args.folder)
    kinds = Counter(original.kind for original in sound)
    print(f"{len(sound)} files of {len(kinds)} kinds: {dict(kinds)}", flush=True)
    start = time.monotonic()
    outcomes, failures = [], []
    for found in run(sound, args.seed, args.n, args.workers, not args.no_embedding):
        outcomes.append(found)
        for said in failures_of(found):
            failures.append({**found, "failure": said})
            line = f"seed {args.seed}, file {found['number']}, {found['kind']}, {found['how']}"
            print(f"FAILURE: {line}: {said}", flush=True)
    table = shares(outcomes)
    lines = [(kind, *(row.get(how, "-") for how in SIX)) for kind, row in table.items()]
    print_table("Refused, of the files that are not the same image", ("kind", *SIX), lines)
    results = Counter(found["result"] for found in outcomes)
    content = {
        "machine": described,
        "n": args.n,
        "seed": args.seed,
        "originals": dict(kinds),
        "outcomes": dict(results),
        "slowest_s": max(found["seconds"] for found in outcomes),
        "largest_mb": max(found["megabytes"] for found in outcomes),
        "minutes": (time.monotonic() - start) / 60,
        "refused": table,
        "failures": failures,
    }
    print(json.dumps({key: content[key] for key in ("outcomes", "slowest_s", "largest_mb")}))
    write_json("fuzz", content, args.results)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
