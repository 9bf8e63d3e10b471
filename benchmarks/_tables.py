"""From ``results/*.json`` to the tables of ``performance.rst`` and ``engines.rst``.

It must not measure anything. Tables stand between two comments of a page, and replace what is
there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from _common import HERE, number, rst_table, where
from _quality_page import quality
from _scale_page import plan, scale, storage

PAGES = HERE.parent / "docs" / "user_guide"
# Of deletion and insertion curves.
_AREAS = ("deletion", "insertion")
# The sets of the studies.
STUDIED = ("chest X-rays", "ants and bees")


def update_pages(results: Path, pages: Path = PAGES) -> list[Path]:
    """Put the tables of every JSON file there is between its two comments."""
    written = []
    for name, (file, table) in tables(results).items():
        page = pages / file
        begin, end = f".. begin {name}\n", f".. end {name}\n"
        head, rest = page.read_text().split(begin, 1)
        _, tail = rest.split(end, 1)
        page.write_text(f"{head}{begin}\n{table}\n{end}{tail}")
        written.append(page)
    return written


def tables(results: Path) -> dict[str, tuple[str, str]]:
    """The page and the text of every table that there are results for."""
    content = {
        path.stem: json.loads(path.read_text())
        for path in sorted(results.glob("*.json"))
        if path.stem in MAKERS or path.stem in {"gpu"}
    }
    made = {
        name: (file, make(content[name]))
        for name, (file, make) in MAKERS.items()
        if name in content
    }
    if "extraction" in content:
        made |= {name: (file, make(content)) for name, (file, make) in COMPUTED.items()}
    return made


def extraction(content: dict[str, Any]) -> str:
    parts = [
        where(content),
        f"{content['n']} {content['images']}; median of {content['rounds']} turns.\n",
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
        f"{content['n']} images, {content['network']}, {content['folds']} folds, "
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
    header = ("tier", "images", "hit, ms", "of it hashing, ms", "miss, ms")
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


def latency(content: dict[str, Any]) -> str:
    cases = [case for case in content["cases"] if "skipped" not in case]
    ratios = ("cache=False", "cache=True", "loaded", "PIL image", "array", "batch")
    hits = ("hit, memory", "hit, directory")
    header = ("network", "estimator", "bare, ms", "file", "new in the store", "loaded from disk")
    header = (*header, "PIL image", "array", "8 files", "hit, ms", "from a directory, ms")
    rows = [
        (
            case["network"],
            case["estimator"],
            number(case["rows"]["bare"]["ms"]),
            *(number(case["rows"][name]["times"], 3) for name in ratios),
            *(number(case["rows"][name]["ms"], 2) for name in hits),
        )
        for case in cases
    ]
    own = [case["rows"][name] for case in cases for name in ratios[:3]]
    told = (
        f"{content['images']}; medians of {content['turns']} turns, {cases[0]['engine']} on "
        f"{cases[0]['threads']} thread{'s' * (cases[0]['threads'] > 1)}. Files take at most "
        f"**{number(max(row['times'] for row in own), 3)}** times the bare way, and "
        f"{number(max(row['times_cpu'] for row in own), 3)} times its processor time."
    )
    names = {"dict": "file, digest, ``dict``", "npz": "row of an ``.npz`` file"}
    lines = [(names.get(name, name), number(value, 2)) for name, value in content["hits"].items()]
    return (
        f"{where(content)}\n{told}\n\n{rst_table(header, rows)}\n"
        f"Milliseconds an image of {content['n_hits']:,} that are in memory already, all layers of "
        f"{cases[0]['network']}:\n\n{rst_table(('', 'ms'), lines)}"
    )


def scaling(content: dict[str, Any]) -> str:
    header = ("images", "ms each", "peak MB", "output MB", "memory tier MB", "net growth MB")
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


def long_run(content: dict[str, Any]) -> str:
    header = ("", "seconds", "peak MB", "at the end MB", "networks MB", "memory tier MB")
    rows = [
        (
            row["phase"],
            number(row["seconds"]),
            number(row["peak_mb"], 4),
            number(row["end_mb"], 4),
            number(row["networks_mb"]),
            number(row["memory_tier_mb"]),
        )
        for row in content["phases"]
    ]
    asked = content["asked"]
    told = (
        f"{asked['images']:,} images ({content['images']}), networks at {asked['size']} px. The "
        f"libraries take {number(content['baseline_mb'])} MB before the first network. The peak "
        f"with four networks is {number(content['peak_mb'], 4)} MB; after {asked['calls']:,} calls "
        f"and {len(asked['networks'])} networks the process is at {number(content['end_mb'], 4)} "
        f"MB. The directory has {number(content['directory_mb'])} MB."
    )
    return f"{where(content)}\n{told}\n\n{rst_table(header, rows)}"


def import_time(content: dict[str, Any]) -> str:
    header = ("", "seconds", "times the first row", "CPU seconds", "times the first row")
    rows = [
        (
            f"``{row['statement']}``",
            number(row["seconds"], 2),
            number(row["times_seconds"], 2),
            number(row["cpu_seconds"], 2),
            number(row["times_cpu_seconds"], 2),
        )
        for row in content["rows"]
    ]
    return f"{where(content)}\n{rst_table(header, rows)}"


def front_door(content: dict[str, Any]) -> str:
    header = ("", "seconds", "times the passes", "CPU seconds", "times the passes")
    keys = ("seconds", "times_seconds", "cpu_seconds", "times_cpu_seconds")
    rows = [(row["kind"], *(number(row[key], 2) for key in keys)) for row in content["rows"]]
    told = f"{content['images']} chest X-rays, four networks."
    return f"{where(content)} {told}\n\n{rst_table(header, rows)}"


def engines(content: dict[str, Any]) -> str:
    header = ("", "engine", "precision", "images/s", "times eager", "difference", "to resolve, s")
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
            number(record["seconds_to_resolve"], 2),
        )
        for record in content["records"]
    ]
    return f"{where(content)}\n{rst_table(header, rows)}"


def int8_quality(content: dict[str, Any]) -> str:
    header = ("network", "images", "columns", "AUC in float32", "int8", "accuracy", "int8", "apart")
    rows = [
        (
            row["network"],
            f"{row['set']} ({row['images']:,})",
            row["columns"],
            *(
                f"{row[f'{metric}_{precision}']:.4f}"
                for metric in ("auc", "accuracy")
                for precision in ("float32", "int8")
            ),
            f"{row['difference']:.1%}",
        )
        for row in content["records"]
    ]
    return f"{where(content)}\n{rst_table(header, rows)}"


def int8_calibration(content: dict[str, Any]) -> str:
    header = ("network", "calibrated on", "images", "columns", "AUC lost", "accuracy lost", "apart")
    said = {
        "photographs": "two photographs",
        "ImageNet": "ImageNet",
        "statistics": "BatchNorm's statistics",
    }
    rows = [
        (
            row["network"],
            said[row["calibration"]],
            f"{row['set']} ({row['images']:,})",
            row["columns"],
            *(f"{row[f'{m}_float32'] - row[f'{m}_int8']:+.4f}" for m in ("auc", "accuracy")),
            f"{row['difference']:.1%}",
        )
        for row in content["records"]
        if row["images"] >= 300
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
            f"{row['mean']:.4f}",
            f"{min(row['scores']):.4f} to {max(row['scores']):.4f}",
            number(row["seconds_per_fit"]),
        )
        for row in content["rows"]
    ]
    return f"{where(content)}\n{rst_table(header, rows)}"


def operating_point(content: dict[str, Any]) -> str:
    header = (
        *("model", "threshold from", "ROC AUC", "sensitivity, patients", "sensitivity, images"),
        *("specificity, images", "calibration slope", "Brier score"),
    )
    rows = [
        (
            row["model"],
            row["how"],
            _interval(row["auc"]),
            _interval(row["patient_sensitivity"]),
            _interval(row["sensitivity"]),
            _interval(row["specificity"]),
            _interval(row["slope"]),
            f"{row['brier']:.3f}",
        )
        for row in content["rows"]
    ]
    tp, fn, fp, tn = content["rows"][-1]["counts"]
    text = (
        f"{tp + fn} images with and {fp + tn} without pneumonia of held-out patients "
        f"({content['machine']['date'][:10]}).\n\n{rst_table(header, rows)}"
    )
    several = content["repeated"]
    if several:
        patients = several["patients"]["values"]
        below = sum(value < 0.95 for value in patients)
        text += (
            f"\nOver {len(patients)} draws of the held-out patients, the extractor found all "
            f"images of {several['patients']['mean']:.3f} of the patients on average "
            f"({min(patients):.3f} to {max(patients):.3f}; below 0.95 in {below} of the draws, in "
            "which the held-out patients themselves are a sample), at a specificity of "
            f"{several['specificity']['mean']:.3f}.\n"
        )
    return text


def _interval(value: Sequence[float]) -> str:
    estimate, low, high = value
    return f"{estimate:.2f} ({low:.2f} to {high:.2f})"


def imbalance(content: dict[str, Any]) -> str:
    header = (
        *("", "ROC AUC", "specificity at sensitivity 0.9", "mean probability"),
        *("intercept", "slope", "Brier score", "sensitivity at 0.5", "specificity at 0.5"),
    )
    names = ("auc", "specificity at sensitivity 0.9", "mean probability", "intercept", "slope")
    names += ("brier", "sensitivity at 0.5", "specificity at 0.5")
    rows = [(row["case"], *(f"{row[name]:.3f}" for name in names)) for row in content["rows"]]
    first = content["rows"][0]
    return (
        f"{first['positive']:.0f} of {first['rows']:.0f} images positive, five folds grouped by "
        f"patient, mean of {len(first['repeats'])} draws of the patients "
        f"({content['machine']['date'][:10]}).\n\n{rst_table(header, rows)}"
    )


def findings(content: dict[str, Any]) -> str:
    def row(case: str, own: dict[str, Any]) -> tuple[str, ...]:
        numbers = (f"{own[name]:.3f}" for name in ("auc", "auc_separate", "largest_difference"))
        return (
            *(case, str(own["findings"]), *numbers, f"{own['cost']:.2f}"),
            f"{own['cost_in_single_fits']:.1f}",
        )

    header = (
        *("", "findings", "ROC AUC", "separate fits", "largest difference", "cost"),
        "in single fits",
    )
    rows = []
    for own in content["probes"]:
        if own["alone"] == "own solver":
            unknown = f", {own['unknown']:.0%} unknown" if own["unknown"] else ""
            rows.append(row(f"probe, {own['case']}{unknown}", own))
    rows += [row(f"pipeline from {own['case']}", own) for own in content["pipelines"]]
    for own in content["networks"]:
        kept = own["weight_interpolation"]
        how = "default" if kept == "auto" else "all of the training kept"
        rows.append(row(f"network, {own['case']}, {how}", own))
    peers = {
        how: [own for own in content["probes"] if own["alone"] == how]
        for how in ("scikit-learn", "scikit-learn, default tolerance")
    }
    peer, loose = peers.values()

    def span(rows: list[dict[str, Any]], unknown: bool) -> str:
        costs = [own["cost_in_single_fits"] for own in rows if bool(own["unknown"]) == unknown]
        return f"{min(costs):.1f} to {max(costs):.1f}"

    first, network = content["probes"][0], content["networks"][0]
    lines = ", ".join(
        f"{name} {own['roc_auc']:.2f} ({own['roc_auc_low']:.2f} to {own['roc_auc_high']:.2f}; "
        f"{own['n_positive']:.0f} of {own['n']:.0f})"
        for name, own in content["published"].items()
    )
    return (
        f"{content['network']}; {first['train']} images to learn from and {first['test']} others "
        f"for probes, {network['train']} and {network['test']} for networks of {content['epochs']} "
        "epochs. ROC AUC is the mean over findings, the largest difference that of one finding, "
        "cost the processor time of one fit as a share of that of all separate fits, the last "
        "column the same in fits of one finding. Frozen parts are stored, but for pipelines "
        f"({content['machine']['date'][:10]}).\n\n{rst_table(header, rows)}\n"
        "Against scikit-learn's LogisticRegression after a StandardScaler, which does not bound "
        "the scale of nearly constant columns, the mean ROC AUC differs by "
        f"{min(own['auc'] - own['auc_separate'] for own in peer):+.4f} to "
        f"{max(own['auc'] - own['auc_separate'] for own in peer):+.4f}, that of one finding by "
        f"up to {max(own['largest_difference'] for own in peer):.3f}; one fit costs "
        f"{span(peer, False)} of its fits to the same precision ({span(peer, True)} with 30 % "
        f"unknown), and {span(loose, False)} ({span(loose, True)}) at its default tolerance.\n\n"
        f"A demonstration and no more, on the {next(iter(content['published'].values()))['n']:.0f} "
        f"X-rays with published findings: ROC AUC in ten folds of {lines}.\n"
    )


def novelty(content: dict[str, Any]) -> str:
    networks = list(content["networks"])
    kinds = {name: own["kinds"] for name, own in content["networks"].items()}
    sizes = [row["n"] for row in kinds[networks[0]] if row["detector"] == "NoveltyDetector"]
    few, many = sizes[0], sizes[-1]

    def area(network: str, detector: str, n: int, kind: str) -> str:
        (row,) = (r for r in kinds[network] if (r["detector"], r["n"]) == (detector, n))
        return f"{row['auc'][kind]:.4f}"

    names = list(kinds[networks[0]][0]["auc"])
    columns = [("NoveltyDetector", n, net) for net in networks for n in (few, many)]
    header = ("", *(f"{net}, {n}" for _, n, net in columns))
    rows = [(kind, *(area(net, how, n, kind) for how, n, net in columns)) for kind in names]
    plain = [("without stages", net) for net in networks]
    plain += [("nearest embedding", net) for net in networks]
    compared = [(kind, *(area(net, how, many, kind) for how, net in plain)) for kind in names]
    alarms = [
        (net, *(f"{100 * own['false_alarms'][str(n)]['mean']:.1f} %" for n in sizes))
        for net, own in content["networks"].items()
    ]
    drift = [
        (net, *(f"{100 * own['drift'][name]:.1f} %" for name in ("noticed", "false_alarms")))
        for net, own in content["networks"].items()
    ]
    swapped = [
        (row["network"], row["kind"], str(row["n"]), f"{row['auc']:.4f}")
        for row in content["swapped"]
    ]
    draws = content["networks"][networks[0]]["drift"]["draws"]
    return "\n\n".join(
        [
            "ROC AUC of images of each kind against X-rays of other patients, by network and by "
            f"the number of X-rays in ``fit`` ({content['machine']['date'][:10]}):",
            rst_table(header, rows),
            f"With {many} X-rays, all layers as one stage, and the plain distance of the embedding "
            "to its nearest neighbor:",
            rst_table(("", *(f"{how}, {net}" for how, net in plain)), compared),
            "Share of X-rays of other patients that is called novel, 5 % being asked for, by "
            "number of X-rays in ``fit``:",
            rst_table(("", *map(str, sizes)), alarms),
            "X-rays among other images:",
            rst_table(("", "images of fit", "number", "ROC AUC of X-rays"), swapped),
            f"Fifty images of PneumoniaMNIST against X-rays brought to 28 pixels, {draws} draws, "
            "p at most 0.05:",
            rst_table(("", "noticed", "false alarms, 50 X-rays of other patients"), drift),
        ]
    )


def audit(content: dict[str, Any]) -> str:
    sets = content["labels"]
    cases = [row["case"] for row in next(iter(sets.values()))["rows"]]
    found = {
        (name, row["case"]): f"{row['ap']:.3f}"
        for name, each in sets.items()
        for row in each["rows"]
    }
    header = ("", *(f"{name} ({each['images']})" for name, each in sets.items()))
    rows = [(case, *(found.get((name, case), "") for name in sets)) for case in cases]
    n_draws = min(len(row["draws"]) for each in sets.values() for row in each["rows"])
    for what, place in (("those suspected: precision", 0), ("those suspected: recall", 1)):
        rows.append((what, *(f"{each['suspected'][place]:.2f}" for each in sets.values())))
    text = (
        f"Average precision of the ranking where {content['share']:.0%} of the labels were "
        f"changed, mean of {n_draws} draws, with efficientnet_lite0 "
        f"({content['machine']['date'][:10]}). "
        "Peers are given its embedding.\n\n" + rst_table(header, rows)
    )
    copies = content["copies"]
    edits = list(next(iter(copies.values()))["recall"])
    rows = [(e, *(f"{each['recall'][e]:.2f}" for each in copies.values())) for e in edits]
    for what, name in (
        ("true pairs", "true_pairs"),
        ("false pairs", "false_pairs"),
        ("pairs of one patient or lesion, which may be copies", "pairs_of_one_patient"),
    ):
        rows.append((what, *(str(each[name]) for each in copies.values())))
    header = (
        "",
        *(f"{name} ({each['images']} + {each['copies']})" for name, each in copies.items()),
    )
    return (
        f"{text}\nCopies that were found, among so many images and edited copies.\n\n"
        + rst_table(header, rows)
    )


def bags(content: dict[str, Any]) -> str:
    networks = list(content["planted"])
    found = {
        (network, row["case"]): (f"{row['auc']:.3f}", f"{row['found']:.2f}")
        for network, rows in content["planted"].items()
        for row in rows
    }
    poolings = [row["case"] for row in content["planted"][networks[0]]]
    rows = [(name, *(cell for net in networks for cell in found[net, name])) for name in poolings]
    header = ("", *(f"{what}, {net}" for net in networks for what in ("ROC AUC", "bee found")))
    text = (
        "Bags of 3 to 8 ants, of which half have one bee; 150 to learn from and 150 of other "
        f"photographs to judge by, mean of {content['n']} draws "
        f"({content['machine']['date'][:10]}).\n\n{rst_table(header, rows)}"
    )
    aucs = {
        network: {row["case"]: row["auc"] for row in rows}
        for network, rows in content["patients"].items()
    }
    cases: list[tuple[str, list[float]]] = []
    for how in ("mean logit", "mean probability", "maximum"):
        best = [max(a for case, a in own.items() if how in case) for own in aucs.values()]
        cases.append((f"images alone, {how} of a patient, best of three C", best))
    for name in poolings:
        cases.append((name, [own[f"BagClassifier, {name}"] for own in aucs.values()]))
    first = content["patients"][networks[0]][0]
    shown = [(case, *(f"{auc:.3f}" for auc in values)) for case, values in cases]
    return text + (
        f"\nChest X-rays: ROC AUC of the {first['patients']:.0f} patients with two or more images, "
        "all of one class; trained on patients with one image too, five folds of patients, mean of "
        f"{content['n']} repeats. A classifier of images, whose scores are pooled afterwards, "
        f"is compared.\n\n{rst_table(('', *networks), shown)}"
    )


def triage(content: dict[str, Any]) -> str:
    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f} %"

    def several(values: list[Any]) -> str:
        return ", ".join(percent(each) for each in values)

    broken, sets = [], []
    for row in content["simulated"]:
        shares = [each if each is None else each[0] for each in row["broken"]]
        broken.append(
            (row["case"], several(row["stated"]), several(shares), percent(row["referred"]))
        )
        if "conformal" in row:
            own = row["conformal"]
            sets.append((row["case"], several(own["released"]), several(own["broken"])))
    header = ("scores", "stated, each class", "broken, each class", "referred")
    chest = [
        (
            network,
            row["cohort"],
            f"{row['diseased_patients']:.0f}",
            several([row["max_false"], row["max_missed"]]),
            several(row["released"]),
            f"{percent(row['referred'])} ({several(row['referred_spread']).replace(', ', ' to ')})",
            several(row["conformal_released"]),
            percent(row["conformal_referred"]),
        )
        for network, rows in content["xrays"].items()
        for row in rows
    ]
    level = content["simulated"][0]["conformal"]["level"]
    of_chest = (
        *("network", "patients", "diseased", "stated, healthy and diseased", "released patients"),
        *("referred images", "released by conformal sets", "referred by them"),
    )
    return (
        f"How often the true share of a class was above the stated one, in {content['n']} "
        f"simulations each ({content['machine']['date'][:10]}; healthy first, at most 5 % are "
        "right, and chance adds up to 1.4 % where it is just 5):\n\n"
        f"{rst_table(header, broken)}\n"
        f"Marginal conformal sets of level {1 - level:g} on the same rows, of which those with one "
        "class decide: the mean share of the patients of each class that is released, and how "
        f"often it is above {percent(level)}:\n\n"
        f"{rst_table(('scores', 'released, each class', 'above the level'), sets)}\n"
        "Chest X-rays: means over draws of three tenths of the patients, who were held out, with "
        "thresholds from five folds of the others; in brackets the range of 95 % of the draws. "
        f"Sets have the level of the diseased:\n\n{rst_table(of_chest, chest)}"
    )


def intervals(content: dict[str, Any]) -> str:
    parts = []
    for data in dict.fromkeys(cell["data"] for cell in content["cells"]):
        cells = [cell for cell in content["cells"] if cell["data"] == data]
        cells.sort(key=lambda cell: cell["n"])
        natural = "X-rays" in data
        found = {
            (row["method"], cell["n"]): (
                f"{row['covers']:.3f}"
                + (f" ({row['covers_without_noise']:.3f})" if natural else ""),
                f"{row['times_oracle']:.2f}",
            )
            for cell in cells
            for row in cell["rows"]
        }
        methods = [row["method"] for row in cells[0]["rows"]]
        header: tuple[str, ...] = ("", "draws")
        for cell in cells:
            header += (f"covers, n = {cell['n']}", f"width, n = {cell['n']}")
        draws = {row["method"]: row["draws"] for row in cells[0]["rows"]}
        rows = [
            (
                f"**{name}**" if not place else name,
                str(draws[name]),
                *(each for cell in cells for each in found[name, cell["n"]]),
            )
            for place, name in enumerate(methods)
        ]
        parts.append(f"**{data}**\n\n{rst_table(header, rows)}")
    return (
        "Draws in which a fold has one patient of a class are drawn again. The last three methods "
        f"take 45 fits or more ({content['machine']['date'][:10]}). A coverage of 0.95 is known to "
        "0.02 from 400 draws or more, to 0.04 from 100.\n\n" + "\n".join(parts)
    )


def numbers_and_grades(content: dict[str, Any]) -> str:
    networks = list(content["numbers"])
    of = content["numbers"][networks[0]]
    named = {"brightness": "brightness, gray levels", "marks": "bright marks, 0 to 12"}
    rows = [
        (
            named[what],
            f"{of[what]['baseline']:.2f}",
            *(f"{content['numbers'][net][what]['error']:.2f}" for net in networks),
        )
        for what in named
    ]
    age = {network: content["age"][network] for network in networks}
    first = age[networks[0]]
    patients = f"age, years: {first['images']} X-rays of {first['patients']} patients"
    errors = (f"{row['error']:.1f}" for row in age.values())
    rows.append((patients, f"{first['baseline']:.1f}", *errors))
    header = ("mean absolute error", "predicting the mean", *networks)
    gains = "; ".join(
        f"{network} {mean:+.1f} years (95 % interval {low:+.1f} to {high:+.1f}, by patient)"
        for network, (mean, low, high) in ((n, row["difference"]) for n, row in age.items())
    )
    text = (
        f"A head on frozen networks; {content['n']} synthetic images, of which a third is judged "
        f"by, three draws; ages in five folds of patients ({content['machine']['date'][:10]}).\n\n"
        f"{rst_table(header, rows)}\nAges against predicting the mean: {gains}.\n"
    )
    decided = {"likeliest": "likeliest grade", "median": "median grade", "mean": "rounded mean"}
    losses = {"cumulative_link": "ordinal", "cross_entropy": "plain classes"}

    def shown(network: str, key: str) -> str:
        mean, low, high = content["grades"][network][key]
        return f"{mean:.3f} ({low:.3f} to {high:.3f})"

    kappas = [
        (f"{name}, {how}", *(shown(network, f"{loss}, {key}") for network in networks))
        for loss, name in losses.items()
        for key, how in decided.items()
    ]
    difference = "difference, likeliest grade"
    kappas.append((difference, *(shown(net, "difference, likeliest") for net in networks)))
    n_train = content["n"] // 3
    return text + (
        f"\nFive grades that are the number of marks plus noise, {n_train} images to learn from "
        f"and {content['n'] - n_train} to judge by, {content['seeds']} draws: Cohen's "
        "kappa with quadratic weights, and its 95 % interval over the draws.\n\n"
        f"{rst_table(('', *networks), kappas)}"
    )


def images_and_tables(content: dict[str, Any]) -> str:
    null = [
        (row["set"], f"{row['rows']}", row["way"], f"{row['mean']:.3f} ± {row['error']:.3f}")
        for row in content["permuted"]
    ]
    cases: dict[tuple[str, ...], dict[str, str]] = {}
    for row in content["compared"]:
        if row["subset"] == "all":
            what = f"{row['set']}, {row['rows']} images"
        else:
            what = f"{row['set']}, the {row['rows']} with every column known"
        estimate, low, high = row["auc"]
        text = f"{estimate:.2f} ({low:.2f} to {high:.2f})"
        cases.setdefault((what, row["case"]), {})[row["kind"]] = text
    rows = [(*case, each["trees"], each.get("linear", "-")) for case, each in cases.items()]
    return (
        f"Mean ROC AUC with the labels of patients permuted, {content['permutations']} times "
        f"({content['machine']['date'][:10]}):\n\n"
        f"{rst_table(('', 'images', 'column of the image', 'ROC AUC'), null)}\n"
        "ROC AUC (95 % interval) with the labels as they are:\n\n"
        f"{rst_table(('', 'model of', 'trees', 'linear'), rows)}"
    )


def domain_distance(content: dict[str, Any]) -> str:
    networks = [record["name"] for record in content["thresholds"]]
    sets = list(dict.fromkeys((row["set"], row["kind"]) for row in content["rows"]))
    found = {(row["set"], row["backbone"]): row["distance"] for row in content["rows"]}
    rows = [(what, kind, *(f"{found[what, name]:.3f}" for name in networks)) for what, kind in sets]
    for field in ("similar_below", "dissimilar_above"):
        values = (f"**{record[field]:.3f}**" for record in content["thresholds"])
        rows.append((f"**{field}**", "", *values))
    middle = ((r["similar_below"] * r["dissimilar_above"]) ** 0.5 for r in content["thresholds"])
    rows.append(("**threshold**", "", *(f"**{value:.3f}**" for value in middle)))
    return rst_table(("images", "used as", *networks), rows)


def choosing_regret(content: dict[str, Any]) -> str:
    means = [
        (row["by"], f"{row['regret']:.3f}", f"{row['others']:.3f}", f"{row['worst']:.3f}")
        for row in content["rows"]
    ]
    shown = ("all layers", "best single layer, used alone", "ImageNet accuracy", "random")
    cases = [
        (
            f"{case['set']}, {case['n_train']}",
            f"{case['best']} ({case['areas'][case['best']]:.3f})",
            *(f"{case['regret'][way]:.3f}" for way in shown),
        )
        for case in content["cases"]
    ]
    header = ("chosen by", "regret", "without skin lesions", "worst case")
    return (
        f"Means of {len(cases)} cases (a set and a number of images), {content['splits']} splits "
        f"each, {len(content['networks'])} networks.\n\n{rst_table(header, means)}\n"
        f"The cases:\n\n{rst_table(('images', 'best network (ROC AUC)', *shown), cases)}"
    )


def choosing_ranking(content: dict[str, Any]) -> str:
    def two(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    agreement = [
        (
            row["by"],
            two(row["spearman"]),
            two(row["kendall"]),
            two(row["within_networks"]),
            f"{row['regret']:.3f}",
        )
        for row in content["agreement"]
    ]
    header = ("order by", "Spearman", "Kendall", "Spearman within a network", "regret")
    first = sorted(content["rows"], key=lambda row: -row["score"])[:8]
    rows = [
        (
            row["backbone"],
            row["layer"],
            f"{row['score']:.3f} ({row['low']:.3f} to {row['high']:.3f})",
            f"{row['best_share']:.2f}",
            f"{row['accuracy']:.3f}",
        )
        for row in first
    ]
    best = ("network", "layer", "loo_ridge", "best_share", "accuracy")
    return (
        f"{content['n']} images, {len(content['rows'])} pairs of network and layer.\n\n"
        f"{rst_table(header, agreement)}\nThe first eight:\n\n{rst_table(best, rows)}"
    )


def choosing_cost(content: dict[str, Any]) -> str:
    rows = [
        (
            row["backbone"],
            number(row["extraction_s"]),
            number(row["ranking_s"]),
            f"{row['ratio']:.2f}",
        )
        for row in content["rows"]
    ]
    header = ("network", "extraction, s", "ranking, s", "ratio")
    return f"{content['n']} images. {where(content)}\n{rst_table(header, rows)}"


def choosing_strategies(content: dict[str, Any]) -> str:
    names = list(content["rows"][0]["scores"])
    rows = []
    for row in content["rows"]:
        mean = {name: sum(v) / len(v) for name, v in row["scores"].items() if v}
        cells = []
        for name in names:
            text = f"{mean[name]:.3f}" if name in mean else "-"
            cells.append(f"**{text}**" if name in row["readings"] else text)
        rows.append((row["set"], str(row["n"]), row["quadrant"], *cells))
    header = ("images", "n", "quadrant", *names)
    splits = max(len(v) for row in content["rows"] for v in row["scores"].values())
    return (
        f"{content['network']}, {splits} splits of 60 % to 40 %, {content['epochs']} epochs. What "
        f"the matrix advises is set in bold.\n\n{rst_table(header, rows)}"
    )


def choosing_layers(content: dict[str, Any]) -> str:
    cases = ("embedding", "all stages", "all stages, selected")
    rows = [
        (row["set"], str(row["n"]), row["backbone"], *(f"{row[case]:.3f}" for case in cases))
        for row in content["rows"]
    ]
    return rst_table(("images", "n", "network", *cases), rows)


def choosing_heads(content: dict[str, Any]) -> str:
    header = ("``layer``", "scaler", "C", "ROC AUC", "accuracy", "log loss", "Brier score")
    rows = [
        (
            "``None``" if row["features"] == "embedding" else '``"all"``',
            "yes" if row["scaled"] else "no",
            f"{row['C']:g}",
            f"{row['ROC AUC']:.3f}",
            f"{row['accuracy']:.3f}",
            f"{row['log loss']:.2f}",
            f"{row['Brier']:.3f}",
            f"{100 * row['not converged']:.0f} %",
            f"{row['CPU s'] / content['table'][0]['CPU s']:.1f}",
        )
        for row in content["table"]
    ]
    return rst_table((*header, "not converged", "relative time"), rows)


def ordered_studies(content: dict[str, Any]) -> list[dict[str, Any]]:
    """By set, the higher learning rate first."""
    return sorted(
        content["studies"].values(), key=lambda it: (STUDIED.index(it["set"]), -it["rate"])
    )


def studies(content: dict[str, Any]) -> str:
    parts = []
    for found in ordered_studies(content):
        scores: dict[str, dict[str, list[float]]] = {}
        for row in found["transfer"]:
            stage = row["stage"] or "-"
            scores.setdefault(row["treatment"], {}).setdefault(stage, []).append(row["score"])
        stages = [
            s for s in dict.fromkeys(r["stage"] or "-" for r in found["transfer"]) if s != "-"
        ]
        rows = []
        for treatment, by_stage in scores.items():
            means = {stage: sum(v) / len(v) for stage, v in by_stage.items()}
            base = means.get("-")
            rows.append((treatment, *(f"{means.get(s, base):.3f}" for s in stages)))
        lengths: dict[str, dict[int, list[float]]] = {}
        for row in found["convergence"]:
            lengths.setdefault(row["init"], {}).setdefault(row["budget"], []).append(row["score"])
        budgets = sorted({row["budget"] for row in found["convergence"]})
        other = [
            (init, *(f"{sum(by[b]) / len(by[b]):.3f}" for b in budgets))
            for init, by in lengths.items()
        ]
        title = (
            f"**{found['set']}, learning rate {found['rate']:g}**: {found['n_train']} images to "
            f"train on, {found['n_test']} to test on"
        )
        parts.append(
            f"{title}; ROC AUC by the last stage that was taken over,\n\n"
            f"{rst_table(('treatment', *stages), rows)}\nand by steps of training:\n\n"
            f"{rst_table(('start', *map(str, budgets)), other)}"
        )
    its = content["settings"]
    first = (
        f"{its['network']} at {its['image_size']} px, {its['epochs']} epochs in the first study, "
        f"one training of each ({content['machine']['date'][:10]}).\n"
    )
    image = ".. image:: ../_static/studies.png\n   :alt: scores by stages taken over and by steps\n"
    return "\n".join([first, image, *parts])


def depth_search(content: dict[str, Any]) -> str:
    parts = [where(content)]
    header = ("trained", "", "seconds", "times faster", "score", "standard error")
    for task, found in content["summary"].items():
        its = content["settings"][task]
        many = "" if its["n"] is None else f"{its['n']} images, "
        parts.append(
            f"**{task}**: {many}{its['folds']} folds, {its['epochs']} epochs, batches of "
            f"{its['batch_size']}, learning rate {its['lr']:g}.\n"
        )
        rows = [
            (
                *(row["case"], row["who"], number(row["seconds"]), number(row["times"])),
                *(f"{row['mean']:.3f}", number(row["standard_error"], 2)),
            )
            for row in found["rows"]
        ]
        for row in found["total"]:
            if row.get("one_pass_seconds"):
                once = ("one pass for all cuts", row["who"], number(row["one_pass_seconds"]))
                rows.append((*once, "", "", ""))
        for row in found["total"]:
            memory = f"{row['who']} ({number(row['peak_mb'])} MB)"
            seconds = number(row["seconds"])
            rows.append(("**all**", memory, seconds, number(row["times"]), "", ""))
        for row in found.get("with_full", []):
            bound = f"{number(row['times'])} (bound {number(row['bound'])})"
            rows.append(("**and everything**", row["who"], number(row["seconds"]), bound, "", ""))
        parts.append(rst_table(header, rows))
    return "\n".join(parts)


def saliency(content: dict[str, Any]) -> str:
    networks = list(dict.fromkeys(row["network"] for row in content["pointing"]))
    hits = {(row["map"], row["network"]): row["hits"] for row in content["pointing"]}
    left: dict[tuple[str, str], list[float]] = {}
    for row in content["forgetting"]:
        left.setdefault((row["map"], row["network"]), []).append(row["half"])
    areas = {row["map"]: row for row in content["areas"]}
    names = list(dict.fromkeys([*areas, *(name for name, _ in left)]))
    rows = []
    for name in names:
        of_hits = [hits.get((name, network)) for network in networks]
        of_left = [left.get((name, network)) for network in networks]
        rows.append(
            (
                name,
                " / ".join("-" if each is None else f"{each:.2f}" for each in of_hits),
                *(f"{areas[name][part]:.2f}" if name in areas else "-" for part in _AREAS),
                " / ".join("-" if each is None else f"{max(each):.2f}" for each in of_left),
            )
        )
    header = ("map", "hits", "deletion", "insertion", "correlation")
    facts = {row["network"]: row for row in content["pointing"]}
    without = ", ".join(
        f"{each['called positive']:.2f} and {each['called positive without']:.2f} ({name})"
        for name, each in facts.items()
    )
    return (
        f"{content['pointing'][0]['n']} held-out positives; {' / '.join(networks)}; areas of "
        f"{content['areas'][0]['network']} on {content['areas'][0]['n']} of them "
        f"({content['machine']['date'][:10]}). Called positive with and without the letter: "
        f"{without}.\n\n{rst_table(header, rows)}"
    )


def lr_finder(content: dict[str, Any]) -> str:
    runs = [row for row in content["rows"] if row["suggestion"] is not None]
    grid = [name for name in runs[0]["fits"] if name not in ("head alone", "suggestion")]

    def over_lowest(row: dict[str, Any], name: str, figure: str = "loss") -> float:
        known = [fit[figure] for rate in grid if (fit := row["fits"][rate])]
        fit = row["fits"][name]
        return float(fit[figure] / min(known)) if fit else float("inf")

    def sentence(what: str, name: str, figure: str = "loss") -> str:
        over = [over_lowest(row, name, figure) for row in runs]
        good = sum(each <= 1.1 for each in over)
        worst = f"{100 * (max(over) - 1):.0f} %"
        return f"{what}: within 10 % in **{good} of {len(over)}** runs, at worst {worst} above."

    rates = {"1e-05": "1e-5", "3e-05": "3e-5 (the default)", "0.0001": "1e-4", "0.0003": "3e-4"}
    lines = [
        sentence("The suggestion, loss of test images", "suggestion"),
        sentence(
            "The suggestion, loss of the rows held out in the epoch kept", "suggestion", "valid"
        ),
        *(sentence(f"{shown} in every run", name) for name, shown in rates.items()),
        sentence("1e-3 in every run", "0.001"),
    ]
    rows = []
    for row in content["rows"]:
        images, network, depth, start, seed = row["case"]
        fits = row["fits"]
        best = min((name for name in grid if fits[name]), key=lambda name: fits[name]["loss"])
        case = [images, network, f"{depth}, {start}", str(seed)]
        if row["suggestion"] is None:
            rows.append((*case, "none", f"{float(best):.0e}", "", "", "", ""))
            continue
        figures = [f"{over_lowest(row, name):.2f}" for name in ("suggestion", "3e-05", "0.001")]
        auc = " / ".join(f"{fits[name]['auc']:.3f}" for name in ("suggestion", best))
        rates_ = (f"{row['suggestion']:.1e}", f"{float(best):.0e}")
        rows.append((*case, *rates_, *figures, auc))
    header = (
        *("images", "network", "depth, head", "seed", "suggestion", "best rate"),
        *("loss over the lowest", "at 3e-5", "at 1e-3", "ROC AUC / at the best rate"),
    )
    points = "\n".join(f"- {line}" for line in lines)
    return f"{points}\n\n{rst_table(header, rows)}\n{where(content)}"


# Of several results together.
COMPUTED: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "plan": ("scale.rst", plan),
    "storage": ("scale.rst", storage),
}


def export(content: dict[str, Any]) -> str:
    header = (
        *("network", "layer", "head", "images", "largest difference of probabilities"),
        *("torch and the engine", "equal decisions", "MB", "ms"),
    )
    rows = [
        (
            *(row["network"], row["layer"], row["head"]),
            f"{row['n']:,}" + (f" (every {row['step']}th)" if row["step"] > 1 else ""),
            f"{row['largest']:.0e}",
            *(f"{row['engines']:.0e}", f"{row['equal']:.1%}", number(row["mb"]), number(row["ms"])),
        )
        for row in content["rows"]
    ]
    trees = min((r["share_within"] for r in content["rows"] if r["head"] == "trees"), default=1)
    parts = [
        f"{where(content)}\nAll shared images that the runner reads: files, and the images of "
        "PneumoniaMNIST, of which networks with random weights were given every tenth. Alongside, "
        'how far the library\'s engines are from each other ("torch and the engine", every '
        "twentieth image). Trees: "
        f"{trees:.2%} of the images are within 1e-5.\n",
        rst_table(header, rows),
    ]
    if content["int8"]:
        header = ("network", "images", "ROC AUC", "difference in int8", "MB", "ms", "times as fast")
        rows = [
            (
                *(row["network"], f"{row['n']} {row['images']}", f"{row['auc']:.4f}"),
                *(f"{row['difference']:+.4f}", number(row["mb"]), number(row["ms_int8"])),
                number(row["times"], 2),
            )
            for row in content["int8"]
        ]
        parts += [
            "In 8-bit integers, all layers, scored on images not trained on (PneumoniaMNIST: the "
            'official test images). "Times as fast" is of whole files, with decoded photographs:\n'
        ]
        parts += [rst_table(header, rows)]
    return "\n".join(parts)


MAKERS: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "extraction": ("performance.rst", extraction),
    "search": ("performance.rst", search),
    "hits": ("performance.rst", hits),
    "latency": ("performance.rst", latency),
    "scaling": ("performance.rst", scaling),
    "long_run": ("performance.rst", long_run),
    "scale": ("performance.rst", scale),
    "import_time": ("performance.rst", import_time),
    "front_door": ("transfer.rst", front_door),
    "engines": ("engines.rst", engines),
    "int8_quality": ("engines.rst", int8_quality),
    "int8_calibration": ("engines.rst", int8_calibration),
    "finetune": ("finetune.rst", finetune),
    "lr_finder": ("finetune.rst", lr_finder),
    "operating_point": ("thresholds.rst", operating_point),
    "imbalance": ("imbalance.rst", imbalance),
    "bags": ("bags.rst", bags),
    "audit": ("label_audit.rst", audit),
    "findings": ("findings.rst", findings),
    "export": ("deployment.rst", export),
    "triage": ("triage.rst", triage),
    "intervals": ("intervals.rst", intervals),
    "numbers_and_grades": ("numbers.rst", numbers_and_grades),
    "novelty": ("novelty.rst", novelty),
    "images_and_tables": ("tables.rst", images_and_tables),
    "domain_distance": ("choosing.rst", domain_distance),
    "choosing_regret": ("choosing.rst", choosing_regret),
    "choosing_ranking": ("choosing.rst", choosing_ranking),
    "choosing_cost": ("choosing.rst", choosing_cost),
    "choosing_strategies": ("choosing.rst", choosing_strategies),
    "choosing_layers": ("choosing.rst", choosing_layers),
    "choosing_heads": ("extractor.rst", choosing_heads),
    "studies": ("studies.rst", studies),
    "depth_search": ("depth_search.rst", depth_search),
    "saliency": ("inspection.rst", saliency),
    "quality": ("quality.rst", quality),
}
