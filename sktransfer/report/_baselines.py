"""The section on baselines: what is reached without looking at what the images show.

Size, file size, brightness, and the corners, where letters and markers are: a classifier that
performs well with these alone has learned how the images were made.
"""

from __future__ import annotations

import os
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

from sktransfer._images import ImageSource
from sktransfer._utils.splitting import stratified_folds
from sktransfer._utils.threads import DecodingThreads
from sktransfer.inspection._estimator_images import as_shown, images_of
from sktransfer.metrics import roc_auc_difference, roc_auc_interval
from sktransfer.metrics._labels import Interval
from sktransfer.report._scored_rows import ScoredRows
from sktransfer.report._section import NOTHING, Section, interval, level, number

_FOLDS = 5
_TREES = 60
# Lower limits of a baseline's interval above which the classes can be predicted without the
# anatomy, and above which part of the model's area may come from there.
_LEAK_FROM, _HINT_FROM = 0.9, 0.6
# Side of a corner, as a share of the shorter side of an image; what counts as black and white.
_CORNER = 1 / 6
_DARK, _BRIGHT = 0.02, 0.98
# What a forest can hold.
_FINITE = float(np.finfo(np.float32).min), float(np.finfo(np.float32).max)


def baselines_section(
    rows: ScoredRows,
    model: Interval,
    metadata: Any,
    given: Mapping[str, Any] | None,
    *,
    random_state: int,
) -> Section:
    """Write what the majority, image properties, metadata and other given scores reach."""
    section = Section("baselines", "Baselines and shortcuts")
    section.text.append(
        "A network may separate classes by how, where and of whom images were taken. So the same "
        "rows are scored by models that see nothing else: a random forest each, cross-validated "
        "on the test rows" + (" by patient." if rows.groups is not None else ".")
    )
    majority = max(float(rows.is_positive.mean()), float((~rows.is_positive).mean()))
    accuracy = _accuracy(rows, rows.predicted)
    lines = [
        ["The model", "the image", interval(model), NOTHING, number(accuracy)],
        ["Majority", "nothing: always the larger class", number(0.5), NOTHING, number(majority)],
    ]
    found: dict[str, dict[str, Any]] = {}
    for name, (sees, table) in property_tables(section, rows, metadata).items():
        result = compared_with(table, rows, random_state)
        if result is None:
            section.remark(f"{name}: too few patients of a class to cross-validate.")
            continue
        found[name], best = result, result["most_telling"]
        if best is not None:
            sees += f"; most informative: {best['name']} (AUC {number(best['roc_auc'], 2)})"
        lines.append(_line(name, sees, found[name]))
        interpret(section, name, found[name], model)
    for name, scores in (given or {}).items():
        found[str(name)] = _compared(rows, rows.of(np.asarray(scores, float), f"baseline {name!r}"))
        lines.append(_line(str(name), "as given", found[str(name)]))
        area = found[str(name)]["roc_auc"]
        if area.high < 0.5:
            section.warn(
                f"The scores of {name} have an AUC of {interval(area)}: they are probably those of "
                "the other class."
            )
    section.data = {
        "model": model,
        "majority_accuracy": majority,
        "baselines": found,
        "leak": any(each.get("verdict") == "leak" for each in found.values()),
    }
    section.add_table(
        "The model alongside models that see no anatomy "
        f"({level(rows.confidence_level)} intervals)",
        ["Scores by", "What it sees", "AUC", "Model minus this", "Accuracy"],
        lines,
        "The most informative column is the best of all of them, so its area is optimistic; it "
        "shows where to look.",
    )
    return section


def property_tables(
    section: Section, rows: ScoredRows, metadata: Any
) -> dict[str, tuple[str, pd.DataFrame]]:
    """Return what models without anatomy see, in words and as a table, by the name of a model."""
    tables = {
        "Image properties": (
            "size, file size, brightness, contrast, corners",
            image_properties(rows.estimator, rows.X),
        )
    }
    if metadata is None:
        section.remark(
            "No metadata was given. Pass what is known of each image alongside its pixels (view, "
            "device, site, age, sex, date) as metadata=."
        )
        return tables
    frame = rows.columns(metadata, "metadata")
    kept, dropped = {}, []
    for name in frame.columns:
        column = frame[name]
        numeric = pd.api.types.is_numeric_dtype(column) and column.dtype != bool
        if column.nunique(dropna=False) < 2 or (not numeric and column.nunique() > len(frame) / 2):
            dropped.append(str(name))
        elif numeric:
            kept[str(name)] = column.astype(float).clip(*_FINITE)
        else:
            kept[str(name)] = column.astype(object).fillna("?").astype(str)
    if dropped:
        section.remark(
            "Left out of the metadata, since nearly every row has its own value or all have the "
            f"same: {', '.join(dropped)}."
        )
    if kept:
        tables["Metadata"] = (", ".join(kept), pd.DataFrame(kept, index=frame.index))
    return tables


def out_of_fold(
    table: pd.DataFrame, positive: np.ndarray, groups: np.ndarray | None, random_state: int
) -> np.ndarray | None:
    """Return the scores of a random forest on rows it has not seen.

    Text columns are one-hot encoded. None where a class has fewer than two patients.
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


def compared_with(
    table: pd.DataFrame, rows: ScoredRows, random_state: int
) -> dict[str, Any] | None:
    """Return what a model of a table reaches; None where there is too little to cross-validate."""
    scores = out_of_fold(table, rows.is_positive, rows.groups, random_state)
    if scores is None:
        return None
    best = _most_informative(table, rows.is_positive)
    return {**_compared(rows, scores), "most_telling": best}


def _compared(rows: ScoredRows, scores: np.ndarray) -> dict[str, Any]:
    difference = roc_auc_difference(rows.y, rows.score, scores, **rows.interval_settings)
    return {
        "roc_auc": roc_auc_interval(rows.y, scores, **rows.interval_settings),
        "model_minus_this": difference._asdict(),
        # The threshold 0.5 is for probabilities only.
        "accuracy": _accuracy(rows, scores >= 0.5)
        if scores.min() >= 0 and scores.max() <= 1
        else np.nan,
    }


def _accuracy(rows: ScoredRows, predicted: np.ndarray) -> float:
    return float((predicted == rows.is_positive).mean())


def _line(name: str, sees: str, result: dict[str, Any]) -> list[str]:
    gap = result["model_minus_this"]
    between = f"{number(gap['estimate'])} ({number(gap['low'])} to {number(gap['high'])})"
    return [name, sees, interval(result["roc_auc"]), between, number(result["accuracy"])]


def _most_informative(table: pd.DataFrame, positive: np.ndarray) -> dict[str, Any] | None:
    """Return the single column with the highest AUC, in either direction."""
    best: tuple[float, str] | None = None
    for name in table.columns:
        column = table[name]
        if column.isna().all():
            continue
        if pd.api.types.is_numeric_dtype(column):
            codes = column.fillna(column.median()).to_numpy()
        else:
            # Values in the order of their share of positives.
            codes = column.map(pd.Series(positive).groupby(column.to_numpy()).mean()).to_numpy()
        if np.isnan(codes).any() or np.ptp(codes) == 0:
            continue
        area = roc_auc_score(positive, codes)
        area = max(area, 1 - area)
        if best is None or area > best[0]:
            best = (float(area), str(name))
    return None if best is None else {"name": best[1], "roc_auc": best[0]}


def interpret(section: Section, name: str, result: dict[str, Any], model: Any) -> None:
    """Write what a baseline's area means for the model's."""
    area, gap = result["roc_auc"], result["model_minus_this"]
    what = {
        "Image properties": "size, file size, brightness and corners of the images alone",
        "Metadata": "the metadata alone, without any image,",
    }[name]
    not_better = not gap["low"] > 0
    where = result["most_telling"]
    look = f" Most informative is {where['name']}: look there." if where is not None else ""
    if area.low >= _LEAK_FROM or (area.low >= _HINT_FROM and not_better):
        result["verdict"] = "leak"
        alongside = ", and the model is not shown to do better" if not_better else ""
        section.warn(
            f"Shortcut: {what} separate the classes with an AUC of {interval(area)}{alongside}. "
            "The labels leak into how the images were made or collected. Until that is "
            f"explained, the model's AUC of {number(model.estimate)} is no evidence that it looks "
            f"at what is to be diagnosed.{look}"
        )
    elif area.low >= _HINT_FROM:
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


def image_properties(estimator: Any, X: Any) -> pd.DataFrame:
    """Return simple properties of each image, NaN where one does not apply.

    ``X`` is read as the estimator reads it.
    """
    source = images_of(estimator, X)
    with DecodingThreads(min(4, os.cpu_count() or 1)) as pool:
        return pd.DataFrame(
            list(pool.map(lambda row: _properties(source, row), range(len(source))))
        )


def _properties(source: ImageSource, row: int) -> dict[str, float]:
    encoded = source.open(row)
    pixels = as_shown(encoded.decode())
    height, width = pixels.shape[:2]
    gray = pixels.mean(axis=2)
    found = {
        "width": float(width),
        "height": float(height),
        "aspect": width / height,
        "file bytes per pixel": len(encoded.content) / (width * height)
        if isinstance(encoded.content, bytes)
        else np.nan,
        "color": float(np.ptp(pixels, axis=2).mean()),
        "mean brightness": float(gray.mean()),
        "contrast": float(gray.std()),
        "darkest": float(np.quantile(gray, 0.01)),
        "brightest": float(np.quantile(gray, 0.99)),
        "share black": float((gray <= _DARK).mean()),
        "share white": float((gray >= _BRIGHT).mean()),
    }
    side = max(1, round(_CORNER * min(height, width)))
    for vertical, down in (("top", slice(None, side)), ("bottom", slice(-side, None))):
        for horizontal, across in (("left", slice(None, side)), ("right", slice(-side, None))):
            corner = gray[down, across]
            name = f"{vertical} {horizontal} corner"
            found[f"{name}, mean"] = float(corner.mean())
            found[f"{name}, brightest"] = float(corner.max())
            found[f"{name}, contrast"] = float(corner.std())
    return found
