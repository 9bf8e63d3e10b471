"""What is reached without looking at what the images show, and what that says of the model.

It must not know networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from sktransfer._utils.splitting import stratified_folds
from sktransfer.metrics import roc_auc_difference, roc_auc_interval
from sktransfer.metrics._labels import Interval
from sktransfer.report._document import NOTHING, Section, Table, interval, level, number
from sktransfer.report._properties import image_properties
from sktransfer.report._rows import Rows

_FOLDS = 5
_TREES = 60
# The lower end of a baseline's interval from which on the labels can be told without the anatomy,
# and from which on part of the model's area may come from there.
LEAK_FROM, HINT_FROM = 0.9, 0.6


def baselines(
    rows: Rows,
    model: Interval,
    metadata: Any,
    given: Mapping[str, Any] | None,
    *,
    random_state: int,
) -> Section:
    """The majority, simple image properties, the metadata, and whatever else was scored, alongside
    the model's area under the ROC curve.
    """
    section = Section("baselines", "Baselines and shortcuts")
    section.text.append(
        "A network may tell classes apart by how, where and of whom images were taken. So the "
        "same rows are scored by models that see nothing else: a random forest each, "
        "cross-validated on the test rows" + (" by patient." if rows.groups is not None else ".")
    )
    majority = max(float(rows.is_positive.mean()), float((~rows.is_positive).mean()))
    found: dict[str, dict[str, Any]] = {}
    lines = [
        [
            "The model",
            "the image",
            interval(model),
            NOTHING,
            number(_share_right(rows, rows.called)),
        ],
        ["Majority", "nothing: the larger class, always", number(0.5), NOTHING, number(majority)],
    ]
    tables = {
        "Image properties": (
            "size, file size, brightness, contrast, corners",
            image_properties(rows.estimator, rows.X),
        )
    }
    if metadata is not None:
        table, dropped = _usable(rows.of(_frame(metadata), "metadata"))
        if dropped:
            section.remark(
                f"Left out of the metadata, since nearly every row has its own value or all have "
                f"the same: {', '.join(dropped)}."
            )
        if table.shape[1]:
            tables["Metadata"] = (", ".join(map(str, table.columns)), table)
    else:
        section.remark(
            "No metadata was given. Give what is known of each image alongside its pixels (view, "
            "device, site, age, sex, date) as metadata=."
        )
    for name, (sees, table) in tables.items():
        scores = out_of_fold(table, rows.is_positive, rows.groups, random_state)
        if scores is None:
            section.remark(f"{name}: too few patients of a class to cross-validate.")
            continue
        found[name] = _compared(rows, scores)
        found[name]["most_telling"] = telling = _most_telling(table, rows.is_positive)
        if telling is not None:
            sees += f"; most telling: {telling['name']} (AUC {number(telling['roc_auc'], 2)})"
        lines.append(_line(name, sees, found[name]))
        _judge(section, name, found[name], model)
    for name, scores in (given or {}).items():
        found[str(name)] = _compared(rows, rows.of(np.asarray(scores, float), f"baseline {name!r}"))
        lines.append(_line(str(name), "as given", found[str(name)]))
    section.data = {
        "model": model,
        "majority_accuracy": majority,
        "baselines": found,
        "leak": any(each.get("verdict") == "leak" for each in found.values()),
    }
    section.tables.append(
        Table(
            "The model alongside models that do not look "
            f"({level(rows.confidence_level)} intervals)",
            ["Scores by", "What it sees", "AUC", "Model minus this", "Accuracy"],
            lines,
            "The single most telling column is the best of all of them, so its area flatters; it "
            "says where to look.",
        )
    )
    return section


def out_of_fold(
    table: pd.DataFrame, positive: np.ndarray, groups: np.ndarray | None, random_state: int
) -> np.ndarray | None:
    """Scores of a random forest on rows it has not seen.

    Parameters
    ----------
    table : DataFrame of shape (n, k)
        Numbers and anything else; the latter is one-hot encoded.
    positive : ndarray of bool, shape (n,)
    groups : ndarray of shape (n,) or None
    random_state : int

    Returns
    -------
    ndarray of shape (n,), or None
        None where a class has fewer than two patients.
    """
    units = np.arange(len(positive)) if groups is None else groups
    n_folds = min(_FOLDS, *(len(np.unique(units[own])) for own in (positive, ~positive)))
    if n_folds < 2:
        return None
    folds = stratified_folds(n_folds, grouped=groups is not None, random_state=random_state)
    splits = list(folds.split(table, positive, groups))
    if any(len(np.unique(positive[train])) < 2 for train, _ in splits):
        return None
    text = make_column_selector(dtype_exclude="number")
    model = make_pipeline(
        make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore", max_categories=20, sparse_output=False), text),
            remainder="passthrough",
        ),
        RandomForestClassifier(
            _TREES, min_samples_leaf=3, class_weight="balanced", random_state=random_state
        ),
    )
    return cross_val_predict(model, table, positive, cv=splits, method="predict_proba")[:, 1]


def _frame(metadata: Any) -> pd.DataFrame:
    if isinstance(metadata, pd.DataFrame):
        return metadata
    if isinstance(metadata, Mapping):
        return pd.DataFrame(dict(metadata))
    raise TypeError(
        "metadata has to be a DataFrame, or a mapping of names to columns; got "
        f"{type(metadata).__name__}."
    )


def _usable(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Columns that can tell anything, text as text; and the names of the others."""
    kept, dropped = {}, []
    for name in frame.columns:
        column = frame[name]
        numeric = pd.api.types.is_numeric_dtype(column) and column.dtype != bool
        if column.nunique(dropna=False) < 2 or (not numeric and column.nunique() > len(frame) / 2):
            dropped.append(str(name))
        else:
            kept[str(name)] = (
                column.astype(float) if numeric else column.astype(object).fillna("?").astype(str)
            )
    return pd.DataFrame(kept, index=frame.index), dropped


def _compared(rows: Rows, scores: np.ndarray) -> dict[str, Any]:
    difference = roc_auc_difference(rows.y, rows.score, scores, **rows.interval_settings)
    return {
        "roc_auc": roc_auc_interval(rows.y, scores, **rows.interval_settings),
        "model_minus_this": difference._asdict(),
        # Of other scores 0.5 is no threshold.
        "accuracy": _share_right(rows, scores >= 0.5)
        if scores.min() >= 0 and scores.max() <= 1
        else np.nan,
    }


def _share_right(rows: Rows, called: np.ndarray) -> float:
    return float((called == rows.is_positive).mean())


def _line(name: str, sees: str, result: dict[str, Any]) -> list[str]:
    gap = result["model_minus_this"]
    between = f"{number(gap['estimate'])} ({number(gap['low'])} to {number(gap['high'])})"
    return [name, sees, interval(result["roc_auc"]), between, number(result["accuracy"])]


def _most_telling(table: pd.DataFrame, positive: np.ndarray) -> dict[str, Any] | None:
    """The single column, or value of a column, that tells most, either way round."""
    best: tuple[float, str] | None = None
    for name in table.columns:
        column = table[name]
        if pd.api.types.is_numeric_dtype(column):
            codes = column.fillna(column.median()).to_numpy()
        else:
            # Values in the order of how often they are positive.
            codes = column.map(pd.Series(positive).groupby(column.to_numpy()).mean()).to_numpy()
        if np.isnan(codes).any() or np.ptp(codes) == 0:
            continue
        area = roc_auc_score(positive, codes)
        area = max(area, 1 - area)
        if best is None or area > best[0]:
            best = (float(area), str(name))
    return None if best is None else {"name": best[1], "roc_auc": best[0]}


def _judge(section: Section, name: str, result: dict[str, Any], model: Any) -> None:
    """Say in words what a baseline's area means for the model's."""
    area, gap = result["roc_auc"], result["model_minus_this"]
    what = {
        "Image properties": "size, file size, brightness and corners of the images alone",
        "Metadata": "the metadata alone, without any image,",
    }[name]
    not_better = not gap["low"] > 0
    where = result["most_telling"]
    look = f" Most telling is {where['name']}: look there." if where is not None else ""
    if area.low >= LEAK_FROM or (area.low >= HINT_FROM and not_better):
        result["verdict"] = "leak"
        alongside = ", and the model is not shown to do better" if not_better else ""
        section.warn(
            f"Shortcut: {what} tell the classes apart with an AUC of {interval(area)}{alongside}. "
            "The labels leak into how the images were made or collected. Until that is "
            f"explained, the model's AUC of {number(model.estimate)} is no evidence that it looks "
            f"at what is to be diagnosed.{look}"
        )
    elif area.low >= HINT_FROM:
        result["verdict"] = "hint"
        section.remark(
            f"Worth a look: {what} reach an AUC of {interval(area)}. Part of the model's "
            f"{number(model.estimate)} may come from there.{look}"
        )
    else:
        result["verdict"] = "none"
        section.remark(
            f"No shortcut found here: {what} reach an AUC of {interval(area)} only. That rules "
            "out these ones, not others."
        )
