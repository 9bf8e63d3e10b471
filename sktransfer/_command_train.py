"""``python -m sktransfer train``: a model file from a folder or a table of labeled images."""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.frozen import FrozenEstimator

from sktransfer._transfer import TransferClassifier
from sktransfer._utils.classes import positive_class
from sktransfer._utils.identifiers import read_groups
from sktransfer._utils.names import shown
from sktransfer._utils.splitting import units_per_class
from sktransfer._utils.writing import new_file
from sktransfer.exceptions import FailedRowsWarning
from sktransfer.metrics import multilabel_report, roc_auc_interval, rows_needed
from sktransfer.model_selection import OperatingPointClassifier
from sktransfer.model_selection._guarantee import highest_level, no_certainty
from sktransfer.model_selection._out_of_fold import own_label_scores, own_scores
from sktransfer.report._class_names import labels_of, listed
from sktransfer.report._command import check_options, load_data

N_FOLDS = 5  # of TransferClassifier
_N_TIMED = 8
# Whole numbers of more values, with fewer rows each, are ages or counts and no codes of classes.
_MOST_CODES, _LEAST_ROWS = 12, 10


def run_train(options: argparse.Namespace) -> None:
    """Train a TransferClassifier, print how good it is, and write it to a file."""
    check_options(options, [options.data])
    output = new_file(options.output, "-o", "model.safetensors")
    constraint = "specificity" if options.sensitivity is None else "sensitivity"
    level = options.specificity if options.sensitivity is None else options.sensitivity
    data = load_data(options.data, options, several=True)
    if isinstance(data.target, pd.DataFrame):
        return _train_findings(data, options, output)
    y, positive = _target(np.asarray(data.target), options.positive, asked=level is not None)
    _print_rows(data, y)
    n_folds = _number_of_folds(y, data.groups)
    goal = {
        "constraint": constraint,
        "target_level": level,
        "confidence_level": _confidence(options.confidence),
        "pos_label": positive,
    }
    if level is not None:
        _check_attainable(goal, y, data.groups)

    clf, keep = _fitted(data, y, options)
    groups = None if data.groups is None else data.groups[keep]
    n_folds = min(n_folds, _number_of_folds(y[keep], groups))
    if level is not None:
        _check_attainable(goal, y[keep], groups)
    _print_choice(clf, data.data.iloc[keep])
    print(f"{len(keep)} images, scores of {n_folds}-fold cross-validation:")
    scored = np.flatnonzero(np.isfinite(clf._out_of_fold).all(axis=1))
    groups = None if data.groups is None else data.groups[scored]
    _print_auc(y[scored], np.exp(clf._out_of_fold[scored]), groups)
    if level is None:
        clf.save(output, store_weights=options.store_weights)
        print("  No threshold: the likeliest class will be predicted. " + _advice(clf.classes_))
    else:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This threshold is")  # printed with it
            screen = _with_threshold(clf, y, data.groups, goal)
        _print_threshold(screen, "images" if data.groups is None else "groups")
        screen.save(output, store_weights=options.store_weights)
    _print_next(output, options)
    return None


def _train_findings(data: Any, options: argparse.Namespace, output: Path) -> None:
    """Train on several findings a row, print how good each is, and write the model."""
    y, name = data.target, options.output
    if options.positive is not None or (options.sensitivity, options.specificity) != (None, None):
        raise ValueError(
            f"The rows have several findings, {listed(list(y))}: --positive, --sensitivity and "
            "--specificity are for classes that exclude each other. Train without them; "
            "OperatingPointClassifier chooses a threshold for each finding in Python: "
            f"OperatingPointClassifier(TransferClassifier.load({name!r}), cv='prefit', "
            "target_level=0.9).fit(X, y) with other images than these."
        )
    print(data.DESCR)
    for finding, own in y.items():
        counts = f"{(own == 1).sum()} images with it, {(own == 0).sum()} without"
        print(f"  {shown(str(finding))}: {counts}, {own.isna().sum()} unknown")
    _print_groups(data.groups)
    clf, keep = _fitted(data, y, options)
    _print_choice(clf, data.data.iloc[keep])
    scored, proba = own_label_scores(clf, ["predict_proba"])
    groups = None if data.groups is None else data.groups[scored]
    table = multilabel_report(y.iloc[scored], proba, groups=groups)
    print(f"{len(keep)} images, scores of cross-validation:")
    how = "" if groups is None else ", by group"
    for finding, row in table.iterrows():
        auc, low, high = row[["roc_auc", "roc_auc_low", "roc_auc_high"]]
        what = f"ROC AUC of {shown(str(finding))}" if finding in y else "Mean over findings"
        print(f"  {what}: {auc:.3f} (95 % interval {low:.3f} to {high:.3f}{how})")
    clf.save(output, store_weights=options.store_weights)
    _print_next(output, options)


def _fitted(
    data: Any, y: Any, options: argparse.Namespace
) -> tuple[TransferClassifier, np.ndarray]:
    """Return a classifier that is fitted, and the rows that could be read; print the others."""
    clf = TransferClassifier(
        options.backbone,
        time_budget=options.time_budget,
        on_error="nan",
        random_state=0,
        verbose=2 if options.time_budget is None else 1,  # epochs of every fold are too many lines
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FailedRowsWarning)  # the rows are printed
        clf.fit(data.data, y, groups=data.groups)
    failed = clf.failed_rows_
    for _, row in failed.iterrows():
        print(f"  left out {shown(row['source'])}: {row['reason']}")
    clf.set_params(on_error="raise", verbose=0)
    return clf, np.setdiff1d(np.arange(len(y)), failed["row"].to_numpy(dtype=int))


def _print_next(output: Path, options: argparse.Namespace) -> None:
    print(f"wrote {output.absolute()}")
    print(f"Next: python -m sktransfer predict {options.output} NEW_IMAGES -o predictions.csv")


def _print_choice(clf: TransferClassifier, X: Any) -> None:
    """Print the candidates, the networks that are kept, and what an image costs with them."""
    table = clf.leaderboard_
    columns = {"candidate": "", clf.scoring_: "{:.3f}", "log_loss": "{:.3f}", "member": ""}
    table = table.rename(columns={"score": clf.scoring_})[list(columns)]
    for name, form in columns.items():
        if form:
            table[name] = table[name].map(form.format)
    table["member"] = np.where(table["member"], "yes", "")
    table.iloc[0, -1] = ""
    table["candidate"] = table["candidate"].map(shown)
    print(table.to_string(index=False))
    few = X.iloc[:_N_TIMED]
    cache = clf.cache
    clf.set_params(cache=None).predict_proba(few)  # networks are loaded
    start = time.perf_counter()
    clf.predict_proba(few)
    milliseconds = 1000 * (time.perf_counter() - start) / len(few)
    clf.set_params(cache=cache)
    names = clf._networks_of_members()
    print(
        f"One image costs a pass through {len(names)} network{'s' * (len(names) > 1)} "
        f"({', '.join(names)}): {milliseconds:.0f} ms here."
    )


def _with_threshold(
    clf: TransferClassifier, y: np.ndarray, groups: np.ndarray | None, goal: dict[str, Any]
) -> OperatingPointClassifier:
    """Return the threshold of a fitted classifier by the rows that it scored out of fold."""
    screen = OperatingPointClassifier(FrozenEstimator(clf), cv="prefit", **goal)
    screen.estimator_ = screen.estimator
    scored, score = own_scores(clf, ["predict_proba"], goal["pos_label"])
    patients = None if groups is None else read_groups(groups)
    return screen._decide(screen._labels(y), patients, scored, score, refitted=True)


def _target(target: np.ndarray, given: str | None, *, asked: bool) -> tuple[np.ndarray, Any]:
    """Return labels, and the positive class; of more than two classes, it against the others."""
    classes = np.unique(target).tolist()
    _refuse_numbers(target, classes)
    if len(classes) < 2:
        raise ValueError(
            f"There is only one class, {str(classes[0])!r}; a classifier needs two or more. Put "
            "the images of each class into a sub-folder of its own."
        )
    if given is None:
        return target, positive_class(classes, option="--positive ") if asked else None
    try:
        positive = labels_of([given], classes, None)[given]
    except ValueError as error:
        raise ValueError(
            f"--positive {given!r} is not one of the classes {listed(classes)}."
        ) from error
    if len(classes) == 2:
        return target, positive
    return np.where(target == positive, str(positive), f"not {positive}").astype(object), str(
        positive
    )


def _refuse_numbers(target: np.ndarray, values: list[Any]) -> None:
    if target.dtype.kind not in "iuf":
        return
    many = len(values) > max(_MOST_CODES, len(target) / _LEAST_ROWS)
    if many or (target % 1).any():
        raise ValueError(
            f"The labels are {len(values)} numbers, {values[0]:g} to {values[-1]:g}, and `train` "
            "learns classes. FineTuneRegressor predicts numbers, in Python: "
            "FineTuneRegressor().fit(X, y), with X, y = load_image_table(..., return_X_y=True). "
            "Grades are classes in an order, FineTuneClassifier(loss='cumulative_link'). Codes of "
            "classes have to be words here, such as 'type 20'; name another column with --target."
        )


def _print_groups(groups: Any) -> None:
    if groups is None:
        print(
            "  No table says which images are of one patient. If some are, the figures below are "
            "too good: name the column with --groups."
        )


def _print_rows(data: Any, y: np.ndarray) -> None:
    print(data.DESCR)
    units = units_per_class(y, data.groups)
    for label, count in zip(*np.unique(y, return_counts=True), strict=True):
        of = "" if data.groups is None else f" of {units[label]} groups"
        print(f"  {shown(str(label))}: {count} images{of}")
    _print_groups(data.groups)


def _number_of_folds(y: np.ndarray, groups: np.ndarray | None) -> int:
    for label, n in units_per_class(y, groups).items():
        if n < 2:
            what = "readable images" if groups is None else "groups of readable images"
            raise ValueError(
                f"Class {str(label)!r} has {n} {what}; cross-validation needs at least 2 of each "
                "class, and figures of any use need dozens. Add images, or leave the class out."
            )
    return min(N_FOLDS, *units_per_class(y, groups).values())


def _confidence(given: str) -> float | None:
    if given == "none":
        return None
    try:
        confidence = float(given)
    except ValueError:
        confidence = np.nan
    if not 0 < confidence < 1:
        raise ValueError(f"--confidence is between 0 and 1, such as 0.95, or none; got {given!r}.")
    return confidence


def _check_attainable(goal: dict[str, Any], y: np.ndarray, groups: np.ndarray | None) -> None:
    """Raise where there are too few rows for a threshold, before the images are read."""
    constraint, level, confidence = (
        goal[name] for name in ("constraint", "target_level", "confidence_level")
    )
    if not 0 < level <= 1:
        raise ValueError(
            f"--{constraint} {level:g}: a rate is a fraction above 0 and at most 1; 95 % is 0.95."
        )
    positive = goal["pos_label"]
    units = units_per_class(y, groups)
    (negative,) = units.keys() - {positive}
    label = positive if constraint == "sensitivity" else negative
    what = "images" if groups is None else "groups"
    if level == 1:
        rows = f"{units[label]} {what} of {str(label)!r}"
        raise ValueError(
            f"--{constraint} 1: {no_certainty(constraint, rows, units[label], confidence)}"
        )
    if confidence is None:
        return
    needed = rows_needed(level, confidence_level=confidence)
    if units[label] < needed:
        raise ValueError(
            f"A {constraint} of at least {level:g} for {str(positive)!r} cannot be guaranteed with "
            f"confidence {confidence:g}: that takes {needed} {what} of {str(label)!r}, and there "
            f"are {units[label]}. Add images, ask for less (--{constraint} "
            f"{highest_level(units[label], confidence):g}), be less sure (--confidence 0.8, or "
            "none for a point estimate), or leave out the threshold."
        )


def _print_auc(y: np.ndarray, y_proba: np.ndarray, groups: np.ndarray | None) -> None:
    classes = np.unique(y).tolist()
    how = "" if groups is None else ", by group"
    if len(classes) == 2:
        areas = [roc_auc_interval(y, y_proba[:, 1], groups=groups, pos_label=classes[1])]
        names = [f"{shown(str(classes[0]))} against {shown(str(classes[1]))}"]
    else:
        areas = roc_auc_interval(y, y_proba, groups=groups, labels=classes, average=None)
        names = [f"{shown(str(label))} against the others" for label in classes]
    for name, area in zip(names, areas, strict=True):
        print(
            f"  ROC AUC of {name}: {area.estimate:.3f} "
            f"(95 % interval {area.low:.3f} to {area.high:.3f}{how})"
        )
    if len(classes) > 2:
        print(f"  Accuracy: {np.mean(np.asarray(classes)[y_proba.argmax(axis=1)] == y):.3f}")


def _advice(classes: np.ndarray) -> str:
    """Return the options that store a threshold."""
    names = " or ".join(repr(shown(str(label))) for label in classes.tolist()[:5])
    return f"For one, add --positive {names}, the finding, and --sensitivity 0.95."


def _print_threshold(clf: OperatingPointClassifier, units: str) -> None:
    point, name = clf.operating_point_, repr(shown(str(clf.pos_label_)))
    rates = ", ".join(
        f"{what} {rate.estimate:.3f} ({rate.low:.3f} to {rate.high:.3f})"
        for what, rate in (("sensitivity", point.sensitivity), ("specificity", point.specificity))
    )
    print(f"  {name} where its probability is at least {clf.threshold_:.4g}: {rates}")
    if clf.confidence_level is None:
        print(
            f"  The {clf.constraint} is at least {clf.target_level:g} on these {units}; on new "
            "ones it falls short about every second time."
        )
    else:
        print(
            f"  With confidence {clf.confidence_level:g}, the {clf.constraint} for {name} is at "
            f"least {clf.target_level:g} on new {units} like these."
        )
    if point.warning is not None:
        print(f"warning: {point.warning}")
