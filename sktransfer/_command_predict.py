"""``python -m sktransfer predict``: probabilities of images, a row each, for a saved model."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sktransfer._images import identify, is_dicom
from sktransfer._utils.config import import_optional
from sktransfer._utils.names import shown
from sktransfer._utils.sklearn_compat import decider
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
from sktransfer.deploy import prediction_log
from sktransfer.deploy._identity import file_digest
from sktransfer.deploy._predicting import (
    Predictions,
    class_names,
    decision_of,
    findings_of,
    in_form_of,
    networks_of,
    predictions_of,
    refers,
)
from sktransfer.report._command import load_model

# Some rows could not be read; what argparse exits with for a wrong option is 2.
SOME_UNREADABLE = 3
_OWN_COLUMNS = ("image", "predicted", "novel", "reason")
_FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_CSV: dict[str, Any] = {"index": False, "na_rep": "NaN", "float_format": "%.6g"}
# Images that are predicted, logged and shown at once.
_PORTION = 256
_TABLES = {".csv", ".tsv", ".tab", ".txt", ".psv", ".parquet"}


def run_predict(options: argparse.Namespace) -> int:
    """Predict images, write a table, and return the exit status."""
    says = sys.stderr if options.output is None else sys.stdout  # the table may go to a pipe
    kind, output = _format_of(options)
    model = load_model(options.model, allow_pickle=options.allow_pickle, weights=options.weights)
    if not hasattr(model, "predict_proba"):
        raise ValueError(
            f"A {type(model).__name__} gives no probabilities. Save it inside "
            "sklearn.calibration.CalibratedClassifierCV."
        )
    for network in networks_of(model):
        network.set_params(on_error="nan", verbose=0)
    predict: Callable[[Any], Predictions] = partial(predictions_of, model)
    with ExitStack() as stack:
        if options.log is not None:
            logged = prediction_log(
                options.log,
                model,
                include_identifiers=options.identifiers,
                model_digest=file_digest(options.model),
            )
            predict = stack.enter_context(logged).predictions
        named = [each for given in options.images for each in _images(given, options.image, says)]
        tables = []
        for rows in _portions(len(named)):
            images = pd.Series([named[row][1] for row in rows], dtype=object)
            table = _table(
                model, [named[row][0] for row in rows], predict(in_form_of(model, images))
            )
            if output is None and kind == "jsonl":
                sys.stdout.write(_json_lines(table))
                sys.stdout.flush()
            tables.append(table)
    table = pd.concat(tables, ignore_index=True)
    if output is not None:
        with written_whole(output) as temporary:
            _write(table, temporary, kind)
    elif kind == "csv":
        table.to_csv(sys.stdout, **_CSV)
    for name in [*class_names(model).values(), *["refer"] * refers(model)]:
        print(f"{shown(name)}: {int((table['predicted'] == name).sum())} images", file=says)
    print(_how_decided(model), file=says)
    failed = table[table["reason"] != ""]
    for name, reason in zip(failed["image"], failed["reason"], strict=True):
        print(f"not read: {shown(name)}: {reason}", file=says)
    if output is not None:
        print(f"wrote {output.absolute()}")
    return SOME_UNREADABLE if len(failed) else 0


def _format_of(options: argparse.Namespace) -> tuple[str, Path | None]:
    """Return the format of the table, and the file that it goes to."""
    if options.output is None:
        if options.format == "parquet":
            raise ValueError("Parquet needs a file: add -o predictions.parquet.")
        return options.format or "csv", None
    output = new_file(options.output, "-o", "predictions.csv")
    kind = options.format or _FORMATS.get(output.suffix.lower(), "csv")
    if kind == "parquet":
        import_optional("pyarrow", extra="parquet", purpose="Writing Parquet")
    return kind, output


def _portions(n: int) -> Iterator[range]:
    """Yield the rows in portions, and say on a terminal how far it is."""
    for low in range(0, max(n, 1), _PORTION):
        yield range(low, min(low + _PORTION, n))
        if n > _PORTION and sys.stderr.isatty():
            end = "\r" if low + _PORTION < n else "\n"
            print(f"{min(low + _PORTION, n):,} of {n:,} images", end=end, file=sys.stderr)


def _table(model: Any, images: list[str], found: Predictions) -> pd.DataFrame:
    """Return a row for each image."""
    table = pd.DataFrame({"image": images}, dtype=object)
    for place, name in enumerate(class_names(model).values()):
        table[f"class {name}" if name in _OWN_COLUMNS else name] = found.y_proba[:, place]
    if found.novel is not None:
        table["novel"] = found.novel
    table["predicted"], table["reason"] = found.predicted, found.reasons
    return table


def _json_lines(table: pd.DataFrame) -> str:
    """Return a JSON object per row; what is not a number is null."""
    lines = []
    for row in table.to_dict("records"):
        known = {
            name: None if isinstance(value, float) and np.isnan(value) else value
            for name, value in row.items()
        }
        known["image"] = shown(str(known["image"]))
        lines.append(json.dumps(known) + "\n")
    return "".join(lines)


def _write(table: pd.DataFrame, path: Path, kind: str) -> None:
    """Write the table to a file."""
    if kind == "parquet":
        table.assign(image=table["image"].map(shown)).to_parquet(path, index=False)
    elif kind == "jsonl":
        path.write_text(_json_lines(table), encoding="utf-8")
    else:
        table.to_csv(path, errors="surrogateescape", **_CSV)


def _images(given: str, column: str | None, says: Any) -> Iterator[tuple[str, Any]]:
    """Yield the name and the image of each row that an argument stands for."""
    path = Path(given)
    if given == "-":
        yield from _from_standard_input()
    elif path.is_dir():
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


def _from_standard_input() -> Iterator[tuple[str, Any]]:
    """Yield the image whose bytes come in, or those whose names do, one on each line."""
    content = sys.stdin.buffer.read()
    # A name may begin as an image does, "BM" say, but has no zero byte.
    if is_dicom(content) or (identify(content) and b"\0" in content[:1024]):
        yield "-", content
        return
    for name in map(os.fsdecode, content.split(b"\0" if b"\0" in content else b"\n")):
        name = name.removesuffix("\r")
        if name.strip():
            yield name, name


def _how_decided(model: Any) -> str:
    """Return by which rule a class is predicted."""
    if refers(model):
        return "predicted: a class where the guarantees of the triage leave one alone, else refer"
    if findings_of(model) is not None:
        chosen = getattr(decider(model), "threshold_", 0.5)
        return f"predicted: every finding whose probability is at least its threshold, {chosen}"
    decision = decision_of(model)
    if decision is None:
        return "predicted: the likeliest class (the model holds no threshold)"
    positive, threshold, source = decision
    name = shown(class_names(model)[positive])
    return f"predicted: {name} where its probability is at least {threshold:.4g}. {source}"
