"""``python -m sktransfer accept``: a verdict on a saved model, or how many patients it takes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from sktransfer._utils.classes import names_of_model
from sktransfer._utils.writing import new_file
from sktransfer.deploy._predicting import in_form_of
from sktransfer.model_selection import acceptance_sample_size, acceptance_test
from sktransfer.report._acceptance import acceptance_report
from sktransfer.report._class_names import given_names
from sktransfer.report._command import (
    _SUBGROUPS,
    _WRITERS,
    _columns,
    _labels,
    _positive,
    check_options,
    load_data,
    load_model,
)

# An acceptance test has no model card, which .xml would be.
_PAGES = [suffix for suffix in _WRITERS if suffix != ".xml"]
STATUS = {"accepted": 0, "rejected": 3, "inconclusive": 4}


def run_accept(options: argparse.Namespace) -> int:
    """Print the verdict on a model, or without one the numbers of patients; return the status."""
    required, expected = _rates(options.required, "--required"), _rates(options.expected)
    plan: dict[str, Any] = {"power": options.power, "confidence_level": options.confidence}
    if options.model is None or options.data is None:
        if options.model is not None:
            raise ValueError("There is a model and no data. Give both, or neither for a plan.")
        table = acceptance_sample_size(
            required, expected=expected, prevalence=options.prevalence, **plan
        )
        print(table.to_string(index=False))
        return 0
    outputs = [new_file(name, "-o", "acceptance.html") for name in options.output or []]
    for path in outputs:
        if path.suffix.lower() not in _PAGES:
            raise ValueError(f"-o {path} has to end in {', '.join(_PAGES)}.")
    check_options(options, [options.data])
    estimator = load_model(
        options.model, allow_pickle=options.allow_pickle, weights=options.weights
    )
    data = load_data(options.data, options)
    print(data.DESCR, flush=True)
    names = names_of_model(estimator)
    classes = np.asarray(estimator.classes_).tolist()
    if options.classes is not None:
        names = given_names(options.classes, classes)
    y = _labels(estimator, data, names)
    several = len(classes) > 2 and options.positive is None
    result = acceptance_test(
        estimator,
        in_form_of(estimator, data.data["image"]),
        y,
        required=required,
        groups=data.groups,
        subgroups=_columns(data, options.subgroups, _SUBGROUPS, "--subgroups"),
        expected=expected,
        pos_label=None if several else _positive(options.positive, estimator, names),
        **plan,
    )
    print(result)
    for path in outputs:
        getattr(acceptance_report(result), _WRITERS[path.suffix.lower()])(path)
        print(f"wrote {Path(path).absolute()}")
    return STATUS[result.verdict]


def _rates(given: list[str] | None, option: str = "--expected") -> dict[str, Any]:
    """Return rates by their names; sensitivity:melanoma=.9 is that of a class."""
    found: dict[str, Any] = {}
    for each in given or []:
        name, _, text = each.rpartition("=")
        try:
            level = float(text)
        except ValueError:
            level = float("nan")
        if not name or np.isnan(level):
            raise ValueError(f"{option} {each}: write a rate and a number, as sensitivity=0.9.")
        rate, _, label = name.partition(":")
        if label:
            found.setdefault(rate, {})[label] = level
        else:
            found[rate] = level
    return found
