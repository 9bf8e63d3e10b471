"""What a model says of each image: probabilities, the class, and the reason where there is none."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import FixedThresholdClassifier

from sktransfer._extractor import PretrainedFeatureExtractor
from sktransfer._finetune import FineTuneClassifier
from sktransfer._finetune._targets import Findings
from sktransfer._image_rows import take_rows
from sktransfer._transfer import TransferClassifier
from sktransfer._utils.classes import fitted_steps, names_of_model
from sktransfer._utils.sklearn_compat import _num_samples, decider, own_positive
from sktransfer.exceptions import FailedRowsWarning, ImageDecodeError, NovelImageError
from sktransfer.novelty import NoveltyGate
from sktransfer.novelty._gate import gate_with_rows

_UNLIKE = "it is not like the images that the model was trained on"


@dataclass(frozen=True)
class Predictions:
    """Predictions of n images.

    ``y_proba`` has a column per class, NaN where an image cannot be read; ``labels`` are of those
    that can; ``predicted`` the names of their classes, "" for the others; ``reasons`` why not, or
    "". ``novel`` says which are unlike those of the training; None: nothing looks.
    """

    y_proba: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    reasons: np.ndarray
    novel: np.ndarray | None = None


def predictions_of(estimator: Any, X: Any) -> Predictions:
    """Predict images; those that cannot be read cost no other row its prediction."""
    n = _num_samples(X)
    names, labels = class_names(estimator), np.asarray(estimator.classes_).tolist()
    if refers(estimator):
        names = {**names, decider(estimator).refer_label_: "refer"}
    gate = next((step for step in fitted_steps(estimator) if isinstance(step, NoveltyGate)), None)
    if gate is not None and gate.on_novel == "refer":
        names = {**names, gate.refer_label_: "refer"}
    reasons, predicted = np.full(n, "", dtype=object), np.full(n, "", dtype=object)
    y_proba, rows = np.full((n, len(labels)), np.nan), np.arange(n)
    novel = None if gate is None else np.zeros(n, dtype=bool)
    while len(rows):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FailedRowsWarning)  # they are in the reasons
                y_proba[rows] = estimator.predict_proba(take_rows(X, rows))
        except ImageDecodeError as error:
            if error.index is None:
                raise
            reasons[rows[error.index]] = error.reason
            rows = np.delete(rows, error.index)
            continue
        except NovelImageError:
            refused = novel_rows(estimator, take_rows(X, rows))
            if novel is None or refused is None or not refused.any():
                raise
            novel[rows[refused]], reasons[rows[refused]] = True, _UNLIKE
            rows = rows[~refused]
            continue
        for reader in networks_of(estimator) or _extractors(estimator):  # that give NaN instead
            failed = reader.failed_rows_
            places = rows[failed["row"].to_numpy(dtype=int)]
            reasons[places] = failed["reason"].to_numpy()
            y_proba[places] = np.nan  # an imputer may have made it up
        break
    readable = np.flatnonzero([not reason for reason in reasons])
    found = np.asarray(labels)[:0]
    if len(readable):
        found = np.asarray(estimator.predict(take_rows(X, readable)))
        predicted[readable] = [_name(each, names, labels) for each in found]
        if novel is not None:
            found_novel = novel_rows(estimator, take_rows(X, readable))
            if found_novel is None:
                novel = None
            else:
                novel[readable] = found_novel
    return Predictions(y_proba, found, predicted, reasons, novel)


def novel_rows(estimator: Any, X: Any) -> np.ndarray | None:
    """Return which rows the gate of a model calls novel; None where it has none, or several."""
    found = gate_with_rows(estimator, X)
    return None if found is None else found[0].is_novel(found[1])


def in_form_of(estimator: Any, images: pd.Series) -> Any:
    """Return images in the form that a model was fitted to: a named column, or a list."""
    names = getattr(estimator, "feature_names_in_", None)
    if names is None or len(names) != 1:
        return images.tolist()
    return images.to_frame(names[0])


def networks_of(estimator: Any) -> list[Any]:
    """Return the classifiers of images in a model, which know the rows that they could not read."""
    steps = list(fitted_steps(estimator))
    whole = [step for step in steps if isinstance(step, TransferClassifier)]
    return whole or [step for step in steps if isinstance(step, FineTuneClassifier)]


def _extractors(estimator: Any) -> list[Any]:
    """Return the extractors in a model that give NaN for rows which they cannot read."""
    steps = [
        step for step in fitted_steps(estimator) if isinstance(step, PretrainedFeatureExtractor)
    ]
    return [step for step in steps if step.on_error == "nan"]


def class_names(estimator: Any) -> dict[Any, str]:
    """Return the name of each class, by its label."""
    labels = np.asarray(estimator.classes_).tolist()
    return names_of_model(estimator) or {label: str(label) for label in labels}


def _name(found: Any, names: dict[Any, str], labels: list[Any]) -> str:
    """Return the name of a predicted class; of several findings, all names with bars between."""
    if np.ndim(found):
        return "|".join(names[label] for label, there in zip(labels, found, strict=True) if there)
    label = found.item() if isinstance(found, np.generic) else found
    return names.get(label, str(label))  # a class that no fit has seen: refused, referred


def findings_of(estimator: Any) -> list[Any] | None:
    """Return the names of findings, of a model that predicts several a row; None of any other."""
    steps = [decider(estimator), *fitted_steps(estimator)]
    several = any(
        hasattr(step, "label_names_") or isinstance(getattr(step, "_target", None), Findings)
        for step in steps
    )
    return np.asarray(estimator.classes_).tolist() if several else None


def refers(estimator: Any) -> bool:
    """Return whether an estimator is a TriageClassifier, which leaves rows undecided."""
    return hasattr(decider(estimator), "triage_")


def decision_of(estimator: Any) -> tuple[Any, float, str] | None:
    """Return the class that is predicted from a threshold on, the threshold, and who chose it.

    None: the likeliest class is predicted.
    """
    inner, positive = decider(estimator), own_positive(estimator)
    labels = np.asarray(estimator.classes_)
    several = len(labels) != 2 or np.ndim(getattr(inner, "threshold_", 0.0))
    if positive is None or several or refers(estimator):
        return None
    return positive, *threshold_of(inner, "predict_proba", positive, positive, labels)


def threshold_of(
    estimator: Any, method: str, label: Any, own: Any, labels: np.ndarray
) -> tuple[float, str]:
    """Return the threshold that an estimator decides by, and who chose it."""
    name, fixed = type(estimator).__name__, getattr(estimator, "threshold", None)
    if hasattr(estimator, "operating_point_"):
        constraint = getattr(estimator, "constraint", "sensitivity")
        goal = (
            "the least expected cost"
            if constraint == "cost"
            else f"a {constraint} of at least {estimator.target_level:g}"
        )
        sure = getattr(estimator, "confidence_level", None)
        guarantee = "" if sure is None or constraint == "cost" else f" with confidence {sure:g}"
        chosen = estimator.threshold_
        source = f"{name} chose it before these rows were seen, for {goal}{guarantee}."
    elif hasattr(estimator, "best_threshold_"):
        chosen = estimator.best_threshold_
        best = getattr(estimator, "scoring", "score")
        source = f"{name} chose it on its own training rows, for the best {best}."
    elif isinstance(estimator, FixedThresholdClassifier) and not isinstance(fixed, str):
        chosen, source = fixed, f"{name} was given it."
    else:
        usual = 0.5 if method == "predict_proba" else 0.0
        why = "nobody has chosen one for this task."
        if refers(estimator):
            why = f"{name} itself decides by a threshold for each class, and refers (see Triage)."
        return usual, f"It is the usual {usual:g}: {why}"
    decided = labels[1] if own is None else own
    if decided != label:
        raise ValueError(
            f"The threshold of {name} is one of scores of {decided!s}, and not of {label!s}. "
            f"Report {decided!s} with pos_label= (--positive), or give a threshold for {label!s} "
            "with threshold= (--threshold)."
        )
    return float(chosen), source
