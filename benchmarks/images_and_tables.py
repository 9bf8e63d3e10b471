"""Image score and columns of a table in one model: what it gains, and whether it leaks.

    python benchmarks/images_and_tables.py [--permutations 200] [--repeats 3] [--figures FOLDER]

Needs the shared data (``SKTRANSFER_TEST_SHARED``) and the extra ``offline``. First, labels of
patients are permuted, so that nothing can be predicted: an area under the ROC curve that is not
0.5 is a leak. Then image, table and both are compared on the labels as they are. Folds are grouped
by patient or lesion. With ``--only-figures`` the results that there are are drawn.
"""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sklearn
from _common import (
    RESULTS,
    Neighbors,
    machine,
    print_table,
    shared_directory,
    workspace,
    write_json,
)
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from sktransfer import PretrainedFeatureExtractor
from sktransfer.metrics import roc_auc_difference, roc_auc_interval
from sktransfer.model_selection import OutOfFoldTransformer

OUT_OF_FOLD = "image score, out of fold"
COMPONENTS = "three components, out of fold"
IN_SAMPLE = "image score of own rows"
ALL_ROWS = "image score of a model of all rows"


class InSampleScores(OutOfFoldTransformer):
    """What not to do: the scores of the rows that the model was fitted to."""

    def fit_transform(self, X: Any, y: Any, groups: Any = None, **params: Any) -> Any:
        return self.fit(X, y, groups, **params).transform(X)


@dataclass
class Task:
    """Features of a frozen network, in columns named by numbers, and a table, side by side."""

    name: str
    data: pd.DataFrame
    y: np.ndarray
    groups: np.ndarray
    n_features: int
    numbers: list[str]
    categories: list[str]
    C: float

    @property
    def image(self) -> slice:
        return slice(0, self.n_features)

    def probe(self) -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression(C=self.C, max_iter=2000))

    def second(self, kind: str) -> Any:
        """The model of the columns: trees, which take NaN and categories, or a linear one."""
        if kind == "trees":
            return HistGradientBoostingClassifier(min_samples_leaf=5, max_iter=30, random_state=0)
        return make_pipeline(
            SimpleImputer(add_indicator=True), StandardScaler(), LogisticRegression(C=0.1)
        )

    def columns(self, kind: str, image: Any = None, *, table: bool = True) -> ColumnTransformer:
        encoder = (
            OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
            if kind == "trees"
            else OneHotEncoder(handle_unknown="infrequent_if_exist", sparse_output=False)
        )
        parts = [] if image is None else [("image", image, self.image)]
        if table:
            parts += [("number", "passthrough", self.numbers)]
            parts += [("category", encoder, self.categories)] if self.categories else []
        return ColumnTransformer(parts)


def lesions(shared: Path, features: Any) -> Task:
    folder = shared / "data" / "ham10000_mini"
    table = pd.read_csv(folder / "metadata.csv")
    numbers, categories = ["age"], ["sex", "localization"]
    return _task("skin lesions", folder, table, "malignant", "lesion_id", features)(
        numbers, categories, 0.01
    )


def xrays(shared: Path, features: Any) -> Task:
    folder = shared / "data" / "chest_xray_pneumonia"
    table = pd.read_csv(folder / "metadata.csv")
    table["pneumonia"] = (table["label"] == "pneumonia").astype(int)
    numbers, categories = ["follow_up", "age"], ["sex", "view"]
    return _task("chest X-rays", folder, table, "pneumonia", "patient_id", features)(
        numbers, categories, 0.001
    )


def _task(name: str, folder: Path, table: pd.DataFrame, target: str, group: str, features: Any):
    found = features.fit_transform([str(folder / each) for each in table["file"]])

    def make(numbers: list[str], categories: list[str], C: float) -> Task:
        image = pd.DataFrame(found, columns=[f"f{i}" for i in range(found.shape[1])])
        data = pd.concat([image, table[numbers + categories]], axis=1)
        groups = table[group].astype(str).to_numpy()
        return Task(
            name, data, table[target].to_numpy(), groups, found.shape[1], numbers, categories, C
        )

    return make


def part_of(task: Task, n_groups: int) -> Task:
    """Rows of some patients, drawn once: permutations of all would take hours."""
    names = np.random.default_rng(0).permutation(np.unique(task.groups))[:n_groups]
    rows = np.flatnonzero(np.isin(task.groups, names))
    own = {"data": task.data.iloc[rows].reset_index(drop=True), "y": task.y[rows]}
    # Few of them have an age, and trees fail where a fold has none.
    own |= {"numbers": ["follow_up"], "categories": []}
    return Task(**{**vars(task), **own, "groups": task.groups[rows]})


def permuted(task: Task, n_permutations: int) -> list[dict[str, Any]]:
    """Areas with the labels of patients exchanged, by the way the image score was made.

    Features are rotated into as few columns as there are rows: a probe sees no difference.
    """
    _, first, patient = np.unique(task.groups, return_index=True, return_inverse=True)
    left, size, _ = np.linalg.svd(
        StandardScaler().fit_transform(task.data.iloc[:, task.image]), full_matrices=False
    )
    features, table = left * size, task.columns("trees").fit_transform(task.data)
    both, place = np.column_stack([features, table]), slice(0, features.shape[1])
    probe, trees = LogisticRegression(C=task.C, max_iter=2000), task.second("trees")
    ways = {
        OUT_OF_FOLD: OutOfFoldTransformer(probe),
        COMPONENTS: OutOfFoldTransformer(probe, n_components=3),
    }
    found: dict[str, list[float]] = {}
    for seed in range(n_permutations):
        labels = np.random.default_rng(seed).permutation(task.y[first])[patient]
        how = {
            "cv": StratifiedGroupKFold(4, shuffle=True, random_state=seed),
            "params": {"groups": task.groups},
            "scoring": "roc_auc",
        }
        for name, scores in ways.items():
            columns = ColumnTransformer([("image", scores, place)], remainder="passthrough")
            area = cross_val_score(make_pipeline(columns, trees), both, labels, **how).mean()
            found.setdefault(name, []).append(float(area))
        own = probe.fit(features, labels).predict_proba(features)[:, 1]
        area = cross_val_score(trees, np.column_stack([own, table]), labels, **how).mean()
        found.setdefault(ALL_ROWS, []).append(float(area))
        if seed % 20 == 19:
            means = {name: round(float(np.mean(each)), 3) for name, each in found.items()}
            print(task.name, seed + 1, means, flush=True)
    return [
        {
            "set": task.name,
            "rows": len(task.y),
            "patients": len(first),
            "way": name,
            "mean": float(np.mean(areas)),
            "error": float(np.std(areas, ddof=1) / np.sqrt(len(areas))),
            "areas": areas,
        }
        for name, areas in found.items()
    ]


def models(task: Task, kind: str) -> dict[str, Any]:
    second, probe = task.second(kind), task.probe()
    how = {"response_method": "predict_proba" if kind == "trees" else "decision_function"}
    ways = {
        OUT_OF_FOLD: OutOfFoldTransformer(probe, **how),
        COMPONENTS: OutOfFoldTransformer(probe, n_components=3),
        IN_SAMPLE: InSampleScores(probe, **how),
    }
    if kind == "linear":
        del ways[COMPONENTS]
    alone = make_pipeline(task.columns(kind, "passthrough", table=False), probe)
    return {
        "image alone": alone,
        "table alone": make_pipeline(task.columns(kind), clone(second)),
        **{
            f"table and {name}": make_pipeline(task.columns(kind, way), clone(second))
            for name, way in ways.items()
        },
    }


def compared(task: Task, n_repeats: int) -> list[dict[str, Any]]:
    """Areas of image, table and both; a row's score is its mean over repeats of the folds."""
    known = task.data[task.numbers + task.categories].notna().all(axis=1).to_numpy()
    rows = []
    for kind in ("trees", "linear"):
        scores = {}
        for name, model in models(task, kind).items():
            parts = [
                cross_val_predict(
                    model,
                    task.data,
                    task.y,
                    cv=StratifiedGroupKFold(5, shuffle=True, random_state=seed),
                    params={"groups": task.groups},
                    method="predict_proba",
                )[:, 1]
                for seed in range(n_repeats)
            ]
            scores[name] = np.mean(parts, axis=0)
        subsets = {"all": np.ones(len(task.y), dtype=bool)}
        if not known.all():
            subsets["every column known"] = known
        for subset, kept in subsets.items():
            y, groups = task.y[kept], task.groups[kept]
            image = scores["image alone"][kept]
            for name, score in scores.items():
                area = roc_auc_interval(y, score[kept], groups=groups)
                row = {"set": task.name, "subset": subset, "kind": kind, "case": name}
                row |= {
                    "repeats": n_repeats,
                    "rows": len(y),
                    "patients": len(np.unique(groups)),
                    "auc": list(area),
                }
                if name != "image alone":
                    more = roc_auc_difference(y, score[kept], image, groups=groups)
                    row["more than image"] = list(more[:3])
                rows.append(row)
                print(subset, kind, name, [round(each, 3) for each in area], flush=True)
    return rows


def draw(content: dict[str, Any], folder: Path) -> None:
    """The figure of the user guide."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10.4, 3.9), layout="constrained")
    colors = {OUT_OF_FOLD: "#0072B2", COMPONENTS: "#009E73", ALL_ROWS: "#D55E00"}
    bins = np.linspace(0.2, 1, 41)
    for row in content["permuted"]:
        if row["set"] == "chest X-rays":
            color = colors[row["way"]]
            left.hist(row["areas"], bins, alpha=0.6, color=color, label=row["way"])
    left.axvline(0.5, color="black", linewidth=0.8)
    left.set(xlabel="ROC AUC", ylabel="permutations", title="X-rays with permuted labels")
    left.legend(fontsize="small", frameon=False, loc="upper center")
    shown = [
        row
        for row in content["compared"]
        if row["kind"] == "trees" and row["subset"] == "all" and COMPONENTS not in row["case"]
    ]
    for place, row in enumerate(reversed(shown)):
        estimate, low, high = row["auc"]
        color = "#D55E00" if IN_SAMPLE in row["case"] else "#0072B2"
        right.plot([low, high], [place, place], color=color)
        right.plot(estimate, place, "o", color=color)
    right.set_yticks(range(len(shown)), [f"{row['set']}: {row['case']}" for row in reversed(shown)])
    right.tick_params(axis="y", labelsize="small")
    right.axvline(0.5, color="black", linewidth=0.8)
    right.set(xlabel="ROC AUC, 95 % interval", title="Labels as they are")
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "images_and_tables.png", dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--permutations", type=int, default=200)
    parser.add_argument(
        "--repeats", type=int, default=3, help="of the folds; five times with few rows"
    )
    parser.add_argument("--patients", type=int, default=140, help="X-rays' to permute labels of")
    parser.add_argument("--sets", nargs="+", default=["lesions", "xrays"])
    parser.add_argument("--figures", type=Path, help="folder to draw into")
    parser.add_argument("--only-figures", action="store_true", help="measure nothing")
    parser.add_argument("--results", type=Path, help="folder of the JSON file")
    args = parser.parse_args()
    if args.only_figures:
        path = (args.results or RESULTS) / "images_and_tables.json"
        return draw(json.loads(path.read_text()), args.figures)
    shared = shared_directory()
    if shared is None:
        parser.error("This needs the shared data: set SKTRANSFER_TEST_SHARED.")
    sklearn.set_config(enable_metadata_routing=True)
    warnings.simplefilter("ignore")
    description, neighbors = machine(), Neighbors()
    content: dict[str, Any] = {"machine": description, "permuted": [], "compared": []}
    content["permutations"] = args.permutations
    with workspace() as folder:
        features = PretrainedFeatureExtractor(
            "efficientnet_lite0", preprocessing="resize", cache=folder / "store"
        )
        makers = {"lesions": lesions, "xrays": xrays}
        tasks = [makers[name](shared, features) for name in args.sets]
    for task in tasks:
        few = part_of(task, args.patients) if task.name == "chest X-rays" else task
        content["permuted"] += permuted(few, args.permutations)
    for task in tasks:
        # Few rows are soon done, and how they are divided matters more.
        content["compared"] += compared(task, args.repeats * (5 if len(task.y) < 100 else 1))
    print_table(
        f"Labels permuted {args.permutations} times",
        ("set", "way", "mean AUC", "error"),
        [
            (row["set"], row["way"], f"{row['mean']:.3f}", f"{row['error']:.3f}")
            for row in content["permuted"]
        ],
    )
    content["others_share"] = neighbors.share()
    write_json("images_and_tables", content, args.results)
    if args.figures is not None:
        draw(content, args.figures)
    return None


if __name__ == "__main__":
    main()
