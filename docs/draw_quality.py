"""Draws docs/_static/quality.png and quality_dark.png from benchmarks/results/quality.json."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from draw_idea import DARK, LIGHT
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
from _quality_page import BASE, FOUR, SHOWN, long, pairs  # noqa: E402

# Each kind of recipe has a color, which does not alone carry what is meant.
COLORS = {"light": ("#6b6b6b", "#1f6fb2"), "dark": ("#9aa4ae", "#6cb4ee")}
OURS = ("all_layers", "finetune", "transfer")
SETS = ("chest X-rays", "ants and bees", "skin lesions", "PneumoniaMNIST, 500 images")
RECIPES = tuple(name for name in SHOWN if name not in ("pixels", BASE, "drifting", "frozen_eval"))


def differences(content: dict[str, Any]) -> pd.DataFrame:
    """Mean difference to the embedding probe of each (set, network, recipe)."""
    frame = long(content)
    parts = []
    for recipe in RECIPES:
        joined = pairs(frame, recipe, BASE)
        joined["difference"] = joined["score_a"] - joined["score_b"]
        means = joined.groupby(["set", "network"], as_index=False)["difference"].mean()
        parts.append(means.assign(recipe=recipe))
    return pd.concat(parts)


def draw(content: dict[str, Any], colors: dict[str, str], kind: str) -> Figure:
    table = differences(content)
    sets = [name for name in SETS if (table["set"] == name).any()]
    table = table[table["set"].isin(sets)]
    recipes = [name for name in RECIPES if (table["recipe"] == name).any()]
    figure = Figure(figsize=(10, 1 + 0.36 * len(recipes)), dpi=170, facecolor=colors["paper"])
    figure.set_layout_engine("constrained")
    axes = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    theirs, own = COLORS[kind]
    for ax, images in zip(axes, sets, strict=True):
        ax.set_facecolor(colors["paper"])
        ax.axvline(0, color=colors["pale"], linewidth=1)
        for i, recipe in enumerate(recipes):
            part = table[(table["set"] == images) & (table["recipe"] == recipe)]
            color = own if recipe in OURS else theirs
            single = part[part["network"] != FOUR]["difference"]
            several = part[part["network"] == FOUR]["difference"]
            ax.scatter(single, [i] * len(single), s=16, color=color, alpha=0.55, linewidth=0)
            if len(single):
                ax.scatter([single.mean()], [i], s=70, color=color, linewidth=0, zorder=3)
            ax.scatter(several, [i] * len(several), s=60, marker="D", color=colors["cut"], zorder=4)
        metric = content["sets"][images]["metric"]
        ax.set_title(images.replace(", ", ",\n"), fontsize=10, color=colors["ink"])
        ax.set_xlabel(f"{metric}, difference", fontsize=9, color=colors["ink"])
        ax.tick_params(colors=colors["ink"], labelsize=9)
        ax.locator_params(axis="x", nbins=4)
        ax.margins(x=0.1)
        ax.grid(axis="y", color=colors["left out"])
        ax.set_axisbelow(True)
        for side in ax.spines.values():
            side.set_color(colors["pale"])
    axes[0].set_yticks(range(len(recipes)), [SHOWN[name] for name in recipes])
    axes[0].invert_yaxis()
    marks = [
        Line2D([], [], marker="o", markersize=4, color=theirs, linestyle="", label="one network"),
        Line2D([], [], marker="o", markersize=8, color=theirs, linestyle="", label="their mean"),
        Line2D([], [], marker="D", color=colors["cut"], linestyle="", label="four networks"),
    ]
    figure.legend(
        handles=marks,
        loc="outside lower right",
        ncols=3,
        fontsize=9,
        frameon=False,
        labelcolor=colors["ink"],
    )
    return figure


def main() -> None:
    content = json.loads((ROOT / "benchmarks" / "results" / "quality.json").read_text())
    for name, colors, kind in (("quality", LIGHT, "light"), ("quality_dark", DARK, "dark")):
        path = ROOT / "docs" / "_static" / f"{name}.png"
        figure = draw(content, colors, kind)
        figure.savefig(path, facecolor=figure.get_facecolor())
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
