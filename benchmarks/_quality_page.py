"""What the results of ``quality.py`` say: differences, the rule, marks; as text and for the page.

It must not measure anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from _common import rst_table, text_table, where

BASE, BEFORE = "embedding", "readme_line"
# In the order of the tables.
SHOWN = {
    "pixels": "pixels, no network",
    "readme_line": "README line of 0.1",
    "embedding": "embedding probe",
    "all_layers": "all-layers probe",
    "skorch_like": "skorch-like",
    "fastai_like": "fastai-like",
    "finetune_before": "FineTuneClassifier of 0.1",
    "finetune": "FineTuneClassifier",
    "finetune_half": "FineTuneClassifier, kept half way",
    "transfer": "TransferClassifier",
    "transfer_four": "TransferClassifier, four networks",
    "transfer_30": "TransferClassifier, four, 30 s",
    "transfer_300": "TransferClassifier, four, 300 s",
    "drifting": "probe, drifting BatchNorm",
    "frozen_eval": "the same in eval mode",
}
FOUR, NONE = "four networks", "no network"
OURS = ("finetune", "transfer", "transfer_four", "transfer_30", "transfer_300")
# Not below any of these, where both have been measured on the same folds.
AT_LEAST = ("embedding", "all_layers", "finetune_before", "finetune")
TOLERANCE = 0.005
# Cells hold four digits.
ROUNDING = 1e-4
# Shown, and not counted: of another kind than what the library is for.
EXTRA = ("digits",)
# What each set was to reach, and the score that is meant.
MARKS = {
    "chest X-rays": 0.94,
    "ants and bees, val part": 0.967,
    "ants and bees": 0.967,
    "PneumoniaMNIST": 0.973,
}
FIGURES = ("auc", "accuracy", "log_loss", "brier", "seconds")


# --- figures ----------------------------------------------------------------------------------


def long(content: dict[str, Any]) -> pd.DataFrame:
    """A row for each fold of each cell; ``score`` is in the set's own metric."""
    rows = []
    for name, cell in content["cells"].items():
        images, network, recipe, seed = name.split(" | ")
        its = content["sets"][images]
        if (recipe, network) == ("transfer", FOUR):
            recipe = "transfer_four"
        for i, fold in enumerate(cell["folds"]):
            rows.append(
                {
                    "set": images,
                    "cluster": its["cluster"],
                    "network": network,
                    "recipe": recipe,
                    "seed": int(seed),
                    "fold": fold,
                    **{figure: cell[figure][i] for figure in FIGURES},
                    "score": cell["auc" if its["metric"] == "AUC" else "accuracy"][i],
                }
            )
    columns = ["set", "cluster", "network", "recipe", "seed", "fold", *FIGURES, "score"]
    return pd.DataFrame(rows, columns=columns)


def is_small(images: str) -> bool:
    """Whether networks see the images of a set small, for the table of drifts alone."""
    return images.endswith(" px")


def counted(frame: pd.DataFrame) -> pd.DataFrame:
    """The sets that the summary is about."""
    return frame[~frame["set"].isin(EXTRA) & ~frame["set"].map(is_small)]


def pairs(frame: pd.DataFrame, recipe: str, other: str) -> pd.DataFrame:
    """Both on the same folds of the same seeds, a row each, with suffixes ``_a`` and ``_b``.

    A recipe without one network (several together, or none) meets the mean of the others'.
    """
    keys = ["set", "cluster", "network", "seed", "fold"]
    figures = [*FIGURES, "score"]
    a, b = (frame[frame["recipe"] == name][keys + figures] for name in (recipe, other))
    rest = a[a["network"].isin((FOUR, NONE)) & ~a["network"].isin(b["network"])]
    alone = a.merge(b, on=keys, suffixes=("_a", "_b"))
    folds = ["set", "cluster", "seed", "fold"]
    mean = b.groupby(folds, as_index=False)[figures].mean()
    return pd.concat([alone, rest.merge(mean, on=folds, suffixes=("_a", "_b"))])


def clustered(values: pd.Series, clusters: pd.Series) -> tuple[float, float]:
    """Mean over clusters of the means within them, and its standard error."""
    means = values.groupby(clusters.to_numpy()).mean()
    error = means.std(ddof=1) / np.sqrt(len(means)) if len(means) > 1 else float("nan")
    return float(means.mean()), float(error)


def summary(content: dict[str, Any]) -> pd.DataFrame:
    """A row for each recipe: against the embedding probe, and log loss against the README line."""
    frame = counted(long(content))
    rows = {}
    for recipe in SHOWN:
        own = frame[frame["recipe"] == recipe]
        joined = pairs(frame, recipe, BASE)
        before = pairs(frame, recipe, BEFORE)
        if joined.empty or before.empty:
            continue
        cell = ["set", "network"]
        joined["difference"] = joined["score_a"] - joined["score_b"]
        cells = joined.groupby([*cell, "cluster"], as_index=False)["difference"].mean()
        gain, error = clustered(cells["difference"], cells["cluster"])
        losses = before.groupby([*cell, "cluster"], as_index=False)[["log_loss_a", "log_loss_b"]]
        means = losses.mean()
        of_own, of_line = (
            clustered(means[name], means["cluster"])[0] for name in ("log_loss_a", "log_loss_b")
        )
        brier = own.groupby([*cell, "cluster"], as_index=False)["brier"].mean()
        rows[recipe] = {
            "cells": len(cells),
            "seeds": int(own.groupby(cell)["seed"].nunique().median()),
            "fits": len(own),
            "difference": gain,
            "error": error,
            "wins": int((cells["difference"] > 5e-5).sum()),
            "losses": int((cells["difference"] < -5e-5).sum()),
            "log_loss": of_own,
            "of_readme_line": of_own / of_line,
            "brier": clustered(brier["brier"], brier["cluster"])[0],
            "seconds": float(own["seconds"].median()),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def tolerance(its: dict[str, Any], folds: int) -> float:
    """The largest of .005, one image, and two pairs of what one seed tests on."""
    share = folds / its["folds"]
    worth = 1 / its["n_test"] if its["metric"] == "accuracy" else 2 / max(its["pairs"], 1)
    return max(TOLERANCE, worth / share)


def rule(content: dict[str, Any]) -> pd.DataFrame:
    """Every (set, network) of our estimators against the best of what they must not be below."""
    frame = long(content)
    frame = frame[~frame["set"].map(is_small)]
    rows = []
    for ours in OURS:
        for other in AT_LEAST:
            joined = pairs(frame[frame["network"] != FOUR], ours, other)
            if ours == other or joined.empty:
                continue
            for (images, network), both in joined.groupby(["set", "network"]):
                folds = int(both["fold"].nunique())
                below = both["score_b"] - both["score_a"]
                rows.append(
                    {
                        "recipe": ours,
                        "set": images,
                        "network": network,
                        "other": other,
                        "below": float(below.mean()),
                        "error": float(below.std(ddof=1) / np.sqrt(len(below))),
                        "tolerance": tolerance(content["sets"][images], folds),
                        "fits": len(both),
                    }
                )
    columns = ["recipe", "set", "network", "other", "below", "error", "tolerance", "fits"]
    table = pd.DataFrame(rows, columns=columns)
    worst = table.groupby(["recipe", "set", "network"])["below"].idxmax()
    table = table.loc[worst].reset_index(drop=True)
    table["kept"] = table["below"] <= table["tolerance"] + ROUNDING
    return table


def together(content: dict[str, Any]) -> pd.DataFrame:
    """TransferClassifier on all networks against the best single one, chosen in hindsight."""
    frame = counted(long(content))
    rows = []
    own = frame[frame["recipe"] == "transfer_four"]
    single = frame[frame["recipe"].isin(AT_LEAST) & (frame["network"] != FOUR)]
    for images, part in own.groupby("set"):
        folds = part[["seed", "fold"]]
        theirs = single[single["set"] == images].merge(folds, on=["seed", "fold"])
        groups = theirs.groupby(["network", "recipe"])["score"]
        means = groups.mean()[groups.size() == len(folds)]
        if means.empty:
            continue
        best = means.idxmax()
        rows.append((images, part["score"].mean(), means[best], *best))
    return pd.DataFrame(rows, columns=["set", "together", "single", "network", "recipe"])


def means_of(content: dict[str, Any]) -> pd.DataFrame:
    """Mean score and log loss of each (set, network, recipe), and what they are means of."""
    frame = long(content)
    groups = frame.groupby(["set", "network", "recipe"])
    table = groups[["score", "auc", "accuracy", "log_loss", "brier"]].mean()
    table["seconds"] = groups["seconds"].median()
    table["fits"] = groups.size()
    return table


# --- tables -----------------------------------------------------------------------------------

Table = tuple[str, Sequence[str], list[Sequence[str]]]


def _summary_table(content: dict[str, Any]) -> Table:
    rows = []
    for recipe, its in summary(content).iterrows():
        error = f" ± {its['error']:.3f}" if its["error"] == its["error"] else ", one set"
        gain = "" if recipe == BASE else f"{its['difference']:+.3f}{error}"
        rows.append(
            (
                *(SHOWN[str(recipe)], gain, f"{its['wins']:.0f} / {its['losses']:.0f}"),
                *(f"{its['log_loss']:.3f}", f"{its['of_readme_line']:.2f}"),
                *(f"{its['brier']:.3f}", f"{its['seconds']:.1f}"),
                f"{its['cells']:.0f} / {its['seeds']:.0f} / {its['fits']:.0f}",
            )
        )
    header = (
        *("recipe", "against the embedding probe", "wins / losses", "log loss"),
        *("of the README line's", "Brier", "seconds", "cells / seeds / fits"),
    )
    return "All sets", header, rows


def _set_tables(content: dict[str, Any]) -> list[Table]:
    means = means_of(content)
    made = []
    for images, its in content["sets"].items():
        if is_small(images):
            continue
        part = means.loc[images]
        networks = list(dict.fromkeys(part.index.get_level_values("network")))
        single = sorted(set(networks) - {FOUR, NONE})
        columns = [*single, FOUR] if FOUR in networks else single
        rows: list[Sequence[str]] = []
        for recipe in SHOWN if columns else ():
            # Pixels know no network: they stand in the first column.
            names = [NONE, *[""] * (len(columns) - 1)] if recipe == "pixels" else columns
            cells = [
                part.loc[(name, recipe)] if (name, recipe) in part.index else None for name in names
            ]
            if all(cell is None for cell in cells):
                continue
            shown = ["" if c is None else f"{c['score']:.4f} ({c['log_loss']:.3f})" for c in cells]
            fits = [int(c["fits"]) for c in cells if c is not None]
            span = dict.fromkeys((min(fits), max(fits)))
            rows.append((SHOWN[recipe], *shown, " to ".join(map(str, span))))
        title = (
            f"{images}: {its['metric']} (log loss), {its['n_train']} to train on, "
            f"{its['n_test']} to test on"
        )
        made.append((title, ("recipe", *columns, "fits"), rows))
    return made


def _rule_table(content: dict[str, Any]) -> tuple[str, Table]:
    table = rule(content)
    counts = [
        f"{SHOWN[recipe]} {int(part['kept'].sum())} of {len(part)}"
        for recipe, part in table.groupby("recipe", sort=False)
    ]
    sentence = "Cells where it holds: " + (", ".join(counts) or "none measured") + "."
    rows = [
        (
            *(SHOWN[each["recipe"]], each["set"], each["network"], SHOWN[each["other"]]),
            f"{-each['below']:+.4f}" + (f" ± {each['error']:.4f}" if each["fits"] > 1 else ""),
            *(f"{each['tolerance']:.4f}", str(each["fits"])),
        )
        for _, each in table[~table["kept"]].iterrows()
    ]
    header = ("below", "set", "network", "the better one", "difference", "allowed", "fits")
    return sentence, ("Cells where the rule does not hold", header, rows)


def _mark_table(content: dict[str, Any]) -> Table:
    means = means_of(content).reset_index()
    rows = []
    for images in content["sets"]:
        part = means[means["set"] == images]
        if is_small(images) or images in EXTRA or part.empty:
            continue
        # Means of few fits would win by chance.
        part = part[part["fits"] >= part["fits"].max() / 2]
        best = part.loc[part["score"].idxmax()]
        ours = part[part["recipe"].isin(OURS)]
        own = ours.loc[ours["score"].idxmax()] if len(ours) else None
        mark = MARKS.get(images)
        line = (
            *(images, "" if mark is None else f"{mark:.3f}"),
            f"{best['score']:.4f}: {SHOWN[best['recipe']]}, {best['network']}",
            "" if own is None else f"{own['score']:.4f}: {SHOWN[own['recipe']]}, {own['network']}",
        )
        rows.append(line)
    header = ("set", "mark", "best of all, in hindsight", "best of the two estimators")
    return "Marks", header, rows


def _drift_table(content: dict[str, Any]) -> Table:
    means = means_of(content)
    rows = []
    for images in content["sets"]:
        if not is_small(images):
            continue
        for recipe in SHOWN:
            for network in sorted(set(means.loc[images].index.get_level_values("network"))):
                if (images, network, recipe) not in means.index:
                    continue
                its = means.loc[(images, network, recipe)]
                figures = [f"{its[name]:.4f}" for name in ("auc", "accuracy")]
                more = [f"{its['log_loss']:.3f}", f"{its['seconds']:.1f}", f"{its['fits']:.0f}"]
                rows.append((images, SHOWN[recipe], *figures, *more))
    header = ("set", "recipe", "AUC", "accuracy", "log loss", "seconds", "fits")
    return "What a drifting BatchNorm costs", header, rows


def _together_table(content: dict[str, Any]) -> Table:
    rows = [
        (
            *(each["set"], f"{each['together']:.4f}", f"{each['single']:.4f}"),
            f"{SHOWN[each['recipe']]}, {each['network']}",
        )
        for _, each in together(content).iterrows()
    ]
    header = ("set", "four networks", "best single network", "which is")
    return "TransferClassifier on four networks", header, rows


def report(content: dict[str, Any]) -> str:
    """All tables in plain text."""
    if not content["cells"]:
        return "Nothing measured yet."
    sentence, failing = _rule_table(content)
    tables = [
        *(*_set_tables(content), _summary_table(content), _together_table(content)),
        *(_mark_table(content), _drift_table(content), failing),
    ]
    parts = [text_table(*table) for table in tables if table[2]]
    return "\n".join([*parts, sentence])


def quality(content: dict[str, Any]) -> str:
    """All tables, for the page."""
    sentence, failing = _rule_table(content)

    def shown(table: Table) -> str:
        title, header, rows = table
        return f"**{title}**\n\n{rst_table(header, rows)}" if rows else ""

    commits = sorted({cell["commit"] for cell in content["cells"].values()})
    parts = [
        where(content),
        shown(_summary_table(content)),
        sentence + "\n",
        *(shown(failing), shown(_together_table(content)), shown(_mark_table(content))),
        *map(shown, _set_tables(content)),
        shown(_drift_table(content)),
        f"Commits measured: {', '.join(commits)}.\n",
    ]
    return "\n".join(part for part in parts if part)
