"""The tables of ``scale.rst``: what was measured on many files, and what that means for more.

It must not measure anything. Hours and bytes are computed from the results of other benchmarks, so
that they follow when those are measured again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from _common import number, rst_table, where

MILLION, HUNDRED_MILLION = 10**6, 10**8
NIGHT_HOURS = 10
# Numbers in a row, of the embedding and of all layers; a test compares them.
WIDTHS = {
    "resnet18": (512, 1024),
    "mobilenet_v2": (1280, 2816),
    "efficientnet_lite0": (1280, 2096),
    "resnet50": (2048, 3904),
}


def scale_rows(content: dict[str, Any]) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Header and rows of the run over many files."""
    header = ("", "images", "seconds", "ms each", "CPU ms each")
    header = (*header, "times a short run", "peak MB", "open files")

    def row(what: str, its: dict[str, Any], *more: str) -> tuple[str, ...]:
        costs = (number(its["images"], 9), number(its["seconds"]), number(its["ms"]))
        return (what, *costs, number(its["cpu_ms"]), *(more or ("", "", "")))

    rows: list[Sequence[str]] = []
    for name, what in (("one_call", "one call"), ("dask", "Dask")):
        if name not in content:
            continue
        part = content[name]
        middle = sorted(part["short"], key=lambda its: its["cpu_ms"])[len(part["short"]) // 2]
        rows.append(row(f"{what}, short run (one of {len(part['short'])})", middle))
        most = (number(part["peak_mb"], 4), str(part["files"]))
        rows.append(row(f"**{what}**", part["long"], f"{part['ratio']['cpu_ms']:.3f}", *most))
        if name == "one_call":
            fresh = content["fresh_process"]
            rows.append(row("again, every row is there", part["second"]))
            most = ("", number(fresh["peak_mb"], 4), str(fresh["files"]))
            rows.append(row("in a fresh process", fresh, *most))
    return header, rows


def store_rows(content: dict[str, Any]) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Header and rows of the store on its own; microseconds."""
    header = ("rows there", "a row added, µs", "found, µs", "not found, µs")
    names = ("put_ms", "hit_ms", "miss_ms")
    return header, [
        (number(each["rows"], 9), *(number(1000 * each[name], 2) for name in names))
        for each in content["store"]["sizes"]
    ]


def scale(content: dict[str, Any]) -> str:
    """The run over many files, and the store on its own."""
    asked = content["asked"]
    one = content["one_call"]
    told = (
        f"{content['files'][0].upper()}{content['files'][1:]}; {', '.join(asked['networks'])} "
        f"at {asked['size']} px, "
        f"random weights, torch on {content['machine']['torch_threads']} of the cores. Of the peak "
        f"of one call, {number(one['output_mb'])} MB are the result, once in parts and once as a "
        f"whole, {number(one['memory_tier_mb'])} MB the memory tier at the end of the call after "
        f"it, and {number(one['baseline_mb'])} MB the libraries. The directory has "
        f"{number(one['directory_mb'])} MB for {number(one['stored_mb'])} MB of rows."
    )
    parts = [where(content), told, "", rst_table(*scale_rows(content))]
    alone = f"A directory store on its own, rows of {content['store']['width']} numbers:"
    return "\n".join([*parts, alone, "", rst_table(*store_rows(content))])


def engines_of(extraction: dict[str, Any]) -> list[tuple[str, str, float]]:
    """Network, engine and images per second, of ours and of the best peer."""
    found = []
    for network, its in extraction["networks"].items():
        for name, row in its["contestants"].items():
            # "auto" is one of the others.
            own = name.startswith("sktransfer") and " auto " not in name
            if "skipped" not in row and (own or name == its["fastest_peer"]):
                label = name.removeprefix("sktransfer ") if own else f"best peer ({name})"
                found.append((network, label, row["images_per_s"]))
    return found


def plan_row(network: str, label: str, rate: float, cores: int) -> tuple[str, ...]:
    """What a million and a hundred million images take at a rate."""
    hours = MILLION / rate / 3600
    more = HUNDRED_MILLION / MILLION * hours * cores
    figures = (rate, hours, hours * cores, more)
    return (network, label, *map(number, figures), number(rate * 3600 * NIGHT_HOURS, 2))


def plan(results: dict[str, Any]) -> str:
    """Hours of whole collections by engine; GPUs, where they were measured."""
    extraction = results["extraction"]
    cores = extraction["machine"]["cores"]
    header = ("", "", "images/s", "10\\ :sup:`6`, hours", "core-hours")
    header = (*header, "10\\ :sup:`8`, core-hours", f"in a night of {NIGHT_HOURS} h")
    rows = [plan_row(*each, cores) for each in engines_of(extraction)]
    text = f"{where(extraction)}\n{extraction['images']}.\n\n{rst_table(header, rows)}"
    card = results.get("gpu", {}).get("machine", {}).get("gpu")
    if card:
        header = (*header[:4], "GPU-hours", header[5].replace("core", "GPU"), header[6])
        records = results["gpu"]["records"]
        rows = [plan_row(each["network"], each["precision"], each["ours"], 1) for each in records]
        text += f"\nOn one {card}:\n\n{rst_table(header, rows)}"
    return text


def storage(results: dict[str, Any]) -> str:
    """Bytes of embeddings, of a million and of a hundred million images; reading them again."""
    header = ("", "numbers", "10\\ :sup:`6`, GB", "10\\ :sup:`8`, GB")
    rows = []
    for network, widths in WIDTHS.items():
        for what, width in zip(("", ", all layers"), widths, strict=True):
            sizes = (number(4 * width * n / 1e9) for n in (MILLION, HUNDRED_MILLION))
            rows.append((network + what, number(width, 9), *sizes))
    text = f"In float32:\n\n{rst_table(header, rows)}"
    if "scale" in results:
        one = results["scale"]["one_call"]
        more = number(one["directory_mb"] / one["stored_mb"], 2)
        text += f"\nA directory of the store takes {more} times as much for rows of 512 numbers.\n"
    for row in results.get("hits", {}).get("rows", ()):
        if (row.get("tier"), row.get("kind")) == ("directory", "JPEG files"):
            minutes = number(row["hit_ms"] * MILLION / 60e3, 2)
            text += (
                f"\nWhere every row is stored, a million files take {minutes} minutes, if the "
                "system has them in memory, and else the time to read them.\n"
            )
    return text
