"""From ``results/*.json`` to the tables of ``performance.rst`` and ``engines.rst``.

It must not measure anything. Tables stand between two comments of a page, and replace what is
there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from _common import HERE, number

PAGES = HERE.parent / "docs" / "user_guide"
# Above this share of the cores taken by others, figures are called preliminary.
QUIET = 0.05


def update_pages(results: Path, pages: Path = PAGES) -> list[Path]:
    """Put the tables of every JSON file there is between its two comments."""
    written = []
    for name, (file, make) in MAKERS.items():
        path, page = results / f"{name}.json", pages / file
        if not path.is_file():
            continue
        begin, end = f".. begin {name}\n", f".. end {name}\n"
        head, rest = page.read_text().split(begin, 1)
        _, tail = rest.split(end, 1)
        page.write_text(f"{head}{begin}\n{make(json.loads(path.read_text()))}\n{end}{tail}")
        written.append(page)
    return written


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


def extraction(content: dict[str, Any]) -> str:
    parts = [
        where(content),
        f"{content['n']} {content['pictures']}; median of {content['rounds']} turns.\n",
    ]
    header = ("", "images/s", "times the best peer", "of the bound", "peak MB", "difference")
    for network, summary in content["networks"].items():
        rows, skipped = [], []
        for name, row in summary["contestants"].items():
            if "skipped" in row:
                skipped.append(name)
            elif row["kept"]:
                rows.append(
                    (
                        f"**{name}**" if name.startswith("sktransfer") else name,
                        number(row["images_per_s"]),
                        number(row.get("times_best_peer"), 2),
                        number(row.get("of_bound"), 2),
                        number(row["peak_mb"], 2),
                        f"{row.get('difference_from_torchvision', float('nan')):.0e}",
                    )
                )
        parts.append(f"**{network}**\n\n{rst_table(header, rows)}")
        if skipped:
            parts.append(f"Not run: {', '.join(skipped)}.\n")
    return "\n".join(parts)


def search(content: dict[str, Any]) -> str:
    parts = [
        where(content),
        f"{content['n']} pictures, {content['network']}, {content['folds']} folds, "
        f"{content['candidates']} values of ``clf__C``.\n",
    ]
    header = ("", "embedded", "seconds", "times sktransfer's", "embedded again", "seconds again")
    for task in dict.fromkeys(row["task"] for row in content["cases"]):
        rows = [
            (
                f"**{row['case']}**" if row["case"].startswith("sktransfer") else row["case"],
                number(row["cold_embedded"], 9),
                number(row["cold_seconds"]),
                number(row.get("cold_times_sktransfer")),
                number(row.get("warm_embedded"), 9),
                number(row.get("warm_seconds")),
            )
            for row in content["cases"]
            if row["task"] == task and "skipped" not in row
        ]
        parts.append(f"**{task}**\n\n{rst_table(header, rows)}")
    return "\n".join(parts)


def hits(content: dict[str, Any]) -> str:
    header = ("tier", "pictures", "hit, ms", "of it hashing, ms", "miss, ms")
    rows = [
        (
            row["tier"],
            row["kind"],
            number(row["hit_ms"], 2),
            number(row["hash_ms"], 2),
            number(row["miss_ms"], 2),
        )
        for row in content["rows"]
        if "skipped" not in row
    ]
    return f"{where(content)}\n{rst_table(header, rows)}"


def scaling(content: dict[str, Any]) -> str:
    header = ("pictures", "ms each", "peak MB", "output MB", "memory tier MB", "net growth MB")
    rows = [
        (
            number(row["n"], 9),
            number(1000 * row["seconds_per_image"]),
            number(row["peak_mb"], 4),
            number(row["output_mb"]),
            number(row["memory_tier_mb"]),
            number(row["net_growth_mb"]),
        )
        for row in content["sizes"]
        if "skipped" not in row
    ]
    return f"{where(content)}\n{rst_table(header, rows)}"


def engines(content: dict[str, Any]) -> str:
    header = ("", "engine", "precision", "images/s", "times eager", "difference", "to settle, s")
    eager = {
        record["network"]: record["images_per_second"]
        for record in content["records"]
        if record["engine"] == "eager"
    }
    rows = [
        (
            record["network"],
            record["engine"],
            record["precision"],
            number(record["images_per_second"]),
            number(record["images_per_second"] / eager[record["network"]], 2),
            f"{record['difference']:.0e}",
            number(record["seconds_to_settle"], 2),
        )
        for record in content["records"]
    ]
    return f"{where(content)}\n{rst_table(header, rows)}"


def finetune(content: dict[str, Any]) -> str:
    header = ("task", "backbone", "", "metric", "mean", "lowest to highest", "seconds a fit")
    rows = [
        (
            row["task"],
            row["backbone"],
            row["case"],
            row["metric"],
            f"{row['mean']:.3f}",
            f"{min(row['scores']):.3f} to {max(row['scores']):.3f}",
            number(row["seconds_per_fit"]),
        )
        for row in content["rows"]
    ]
    return f"{where(content)}\n{rst_table(header, rows)}"


def depth_search(content: dict[str, Any]) -> str:
    parts = [where(content)]
    header = ("trained", "", "seconds", "times faster", "score", "standard error", "foretold, s")
    for task, found in content["summary"].items():
        its = content["settings"][task]
        many = "" if its["n"] is None else f"{its['n']} pictures, "
        parts.append(
            f"**{task}**: {many}{its['folds']} folds, {its['epochs']} epochs, batches of "
            f"{its['batch_size']}, learning rate {its['lr']:g}.\n"
        )
        rows = [
            (
                *(row["case"], row["who"], number(row["seconds"]), number(row["times"])),
                *(f"{row['mean']:.3f}", number(row["standard_error"], 2)),
                number(row.get("foretold_seconds")),
            )
            for row in found["rows"]
        ]
        for row in found["total"]:
            memory = f"{row['who']} ({number(row['peak_mb'])} MB)"
            seconds, foretold = number(row["seconds"]), number(row.get("foretold_seconds"))
            rows.append(("**all**", memory, seconds, number(row["times"]), "", "", foretold))
        for row in found.get("with_full", []):
            bound = f"{number(row['times'])} (bound {number(row['bound'])})"
            rows.append(
                ("**and everything**", row["who"], number(row["seconds"]), bound, "", "", "")
            )
        parts.append(rst_table(header, rows))
    return "\n".join(parts)


MAKERS: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "extraction": ("performance.rst", extraction),
    "search": ("performance.rst", search),
    "hits": ("performance.rst", hits),
    "scaling": ("performance.rst", scaling),
    "engines": ("engines.rst", engines),
    "finetune": ("finetune.rst", finetune),
    "depth_search": ("depth_search.rst", depth_search),
}
