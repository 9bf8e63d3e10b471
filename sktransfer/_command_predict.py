"""``python -m sktransfer predict``: probabilities of images, a row each, for a saved model."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sktransfer._finetune import FineTuneClassifier
from sktransfer._transfer import TransferClassifier
from sktransfer._utils.classes import fitted_steps, names_of_model
from sktransfer._utils.names import shown
from sktransfer._utils.sklearn_compat import decider, own_positive
from sktransfer._utils.writing import new_file, written_whole
from sktransfer.datasets import load_image_folder
from sktransfer.datasets._tables import (
    FILE_COLUMNS,
    check_columns,
    find_column,
    find_file,
    read_table,
)
from sktransfer.datasets._walk import not_an_image
from sktransfer.exceptions import FailedRowsWarning, ImageDecodeError
from sktransfer.report._command import images_of, load_model
from sktransfer.report._scored_rows import threshold_of

# Some rows could not be read; what argparse exits with for a wrong option is 2.
SOME_UNREADABLE = 3
_OWN_COLUMNS = ("image", "predicted", "reason")
_TABLES = {".csv", ".tsv", ".tab", ".txt", ".psv", ".parquet"}


def run_predict(options: argparse.Namespace) -> int:
    """Predict images, write a table, and return the exit status."""
    says = sys.stderr if options.output is None else sys.stdout  # the table may go to a pipe
    output = None if options.output is None else new_file(options.output, "-o", "predictions.csv")
    estimator = load_model(
        options.model, allow_pickle=options.allow_pickle, weights=options.weights
    )
    if not hasattr(estimator, "predict_proba"):
        raise ValueError(
            f"A {type(estimator).__name__} gives no probabilities. Save it inside "
            "sklearn.calibration.CalibratedClassifierCV."
        )
    named = [each for given in options.images for each in _images(given, options.image, says)]
    X = images_of(estimator, pd.Series([image for _, image in named], dtype=object))
    y_proba, reasons = _probabilities(estimator, X)
    readable = np.flatnonzero([not reason for reason in reasons])
    labels = np.asarray(estimator.classes_).tolist()
    names = names_of_model(estimator) or {label: str(label) for label in labels}
    predicted = np.full(len(X), "", dtype=object)
    if len(readable):
        found = np.asarray(estimator.predict(_rows(X, readable))).tolist()
        predicted[readable] = [names[label] for label in found]
    table = pd.DataFrame({"image": [name for name, _ in named]}, dtype=object)
    for place, label in enumerate(labels):
        name = names[label]
        table[f"class {name}" if name in _OWN_COLUMNS else name] = y_proba[:, place]
    table["predicted"], table["reason"] = predicted, reasons
    written = {"index": False, "na_rep": "NaN", "float_format": "%.6g"}
    if output is None:
        table.to_csv(sys.stdout, **written)
    else:
        with written_whole(output) as temporary:
            table.to_csv(temporary, errors="surrogateescape", **written)
    for name in names.values():
        print(f"{shown(name)}: {int((predicted == name).sum())} images", file=says)
    print(_how_decided(estimator, names), file=says)
    for row in np.flatnonzero([bool(reason) for reason in reasons]):
        print(f"not read: {shown(named[row][0])}: {reasons[row]}", file=says)
    if output is not None:
        print(f"wrote {output.absolute()}")
    return 0 if len(readable) == len(X) else SOME_UNREADABLE


def _images(given: str, column: str | None, says: Any) -> Iterator[tuple[str, Any]]:
    """Yield the name and the image of each row that an argument stands for."""
    path = Path(given)
    if path.is_dir():
        folder = load_image_folder(path, labels=None, metadata=None)
        print(f"{shown(given)}: {folder.DESCR}", file=says)
        yield from ((file, file) for file in folder.data["image"])
    elif not path.is_file():
        raise FileNotFoundError(f"There is no file and no folder {given!r}.")
    elif not_an_image(path) and _TABLES & {suffix.lower() for suffix in path.suffixes}:
        frame, base = read_table(path, as_text=[column])
        column = find_column(frame, FILE_COLUMNS) if column is None else column
        if column is None:
            raise ValueError(
                f"{given} has no column {', '.join(FILE_COLUMNS)}; say where the names of files "
                f"are with --image. Its columns are {list(map(str, frame.columns))}."
            )
        check_columns(frame, [column])
        for row, cell in enumerate(frame[column]):
            if isinstance(cell, str):
                yield cell, str(find_file(base, cell, row))
            else:  # an image in the table itself, or nothing
                yield f"{given}, row {row}", cell
    else:
        yield given, given


def _probabilities(estimator: Any, X: Any) -> tuple[np.ndarray, list[str]]:
    """Return probabilities, NaN for rows that cannot be read, and for each row why not, or ""."""
    steps = list(fitted_steps(estimator))
    networks = [step for step in steps if isinstance(step, TransferClassifier)]
    networks = networks or [step for step in steps if isinstance(step, FineTuneClassifier)]
    for network in networks:
        shows_progress = 2 if isinstance(network, TransferClassifier) else 1
        network.set_params(on_error="nan", verbose=shows_progress)
    reasons = np.full(len(X), "", dtype=object)
    y_proba = np.full((len(X), len(estimator.classes_)), np.nan)
    rows = np.arange(len(X))
    while len(rows):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FailedRowsWarning)  # they are in the table
                y_proba[rows] = estimator.predict_proba(_rows(X, rows))
            break
        except ImageDecodeError as error:  # of a pickled estimator, which stops at each such row
            if error.index is None:
                raise
            reasons[rows[error.index]] = error.reason
            rows = np.delete(rows, error.index)
    for network in networks:
        failed = network.failed_rows_
        reasons[rows[failed["row"].to_numpy(dtype=int)]] = failed["reason"].to_numpy()
        network.set_params(verbose=0)
    return y_proba, reasons.tolist()


def _rows(X: Any, rows: np.ndarray) -> Any:
    return X.iloc[rows] if isinstance(X, pd.DataFrame) else [X[row] for row in rows]


def _how_decided(estimator: Any, names: dict[Any, str]) -> str:
    """Return by which rule a class is predicted."""
    inner, positive = decider(estimator), own_positive(estimator)
    labels = np.asarray(estimator.classes_)
    if positive is None or len(labels) != 2:
        return "predicted: the likeliest class (the model holds no threshold)"
    threshold, source = threshold_of(inner, "predict_proba", positive, positive, labels)
    return (
        f"predicted: {shown(names[positive])} where its probability is at least {threshold:.4g}. "
        f"{source}"
    )
