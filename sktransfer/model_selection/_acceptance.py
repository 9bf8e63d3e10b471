"""acceptance_test: whether a model keeps at a site what is required, before it goes live."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import indexable
from sklearn.utils.validation import check_is_fitted

from sktransfer._utils.classes import class_text, names_of_model, positive_class
from sktransfer._utils.identifiers import read_groups
from sktransfer._utils.notebooks import card
from sktransfer._utils.sklearn_compat import _safe_indexing, own_positive
from sktransfer.datasets._levels import LEAST_ROWS, levels_of, read_columns
from sktransfer.metrics import roc_auc_interval
from sktransfer.metrics._labels import Interval, among, check_labels, check_level
from sktransfer.metrics._rates import rate_of
from sktransfer.model_selection._acceptance_plan import (
    OF,
    PER_CLASS,
    Requirement,
    expected_rate,
    least_rows,
    read_required,
    rows_for_power,
)


@dataclass(frozen=True)
class AcceptanceResult:
    """Result of an acceptance test; :func:`acceptance_test` says what is in it."""

    verdict: str
    requirements: pd.DataFrame = field(repr=False)
    subgroups: pd.DataFrame = field(repr=False)
    confidence_level: float
    power: float
    n_rows: int
    n_groups: int | None
    n_unreadable: int

    @property
    def accepted(self) -> bool:
        """Whether the verdict is "accepted"."""
        return self.verdict == "accepted"

    @property
    def rule(self) -> str:
        """The rule that decided, in words; it does not depend on the data."""
        return (
            f"Accepted: the whole {100 * self.confidence_level:g} % interval of every rate lies at "
            "or above what is required. Rejected: that of some rate lies below. Inconclusive: "
            "anything else, and more patients are needed."
        )

    @property
    def summary(self) -> str:
        """The verdict in a sentence, with what decided."""
        rows = f"{self.n_rows} rows" + (f" of {self.n_groups} groups" if self.n_groups else "")
        why = [
            f"{row.requirement} {row.estimate:.3f} ({row.low:.3f} to {row.high:.3f}) of "
            f"{row.required:g} required: {row.verdict}"
            for row in self.requirements.itertuples()
        ]
        return f"{self.verdict.capitalize()} on {rows}. {'; '.join(why)}."

    @property
    def warnings(self) -> list[str]:
        """What must not be overlooked: unreadable rows, too few patients, failing subgroups."""
        found = []
        if self.n_unreadable:
            found.append(
                f"{self.n_unreadable} rows could not be read, or were refused as novel, "
                "and count as errors."
            )
        for row in self.requirements.itertuples():
            if row.n < row.n_needed:
                unit = "rows" if self.n_groups is None else "groups"
                found.append(
                    f"{row.requirement}: {row.n} {unit} count ({row.of}), and {row.n_needed:.0f} "
                    f"are needed for a power of {self.power:g} if the rate is {row.expected:g}."
                )
        low = self.subgroups[self.subgroups["high"] < self.subgroups["required"]]
        for row in low.itertuples():
            found.append(
                f"{row.column}: {row.level}: {row.requirement} is below what is required "
                f"({row.estimate:.3f}, {row.low:.3f} to {row.high:.3f})."
            )
        return found

    def __str__(self) -> str:
        return "\n".join([self.summary, *(f"Warning: {text}" for text in self.warnings)])

    def _repr_html_(self) -> str:
        tables = {"Requirements": self.requirements}
        if len(self.subgroups):
            tables["Subgroups"] = self.subgroups
        lines = [self.summary, self.rule]
        return card(type(self).__name__, lines, tables, alerts=self.warnings)


def acceptance_test(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    required: Mapping[str, Any],
    groups: Any = None,
    subgroups: Any = None,
    expected: Mapping[str, float] | None = None,
    power: float = 0.8,
    confidence_level: float = 0.95,
    pos_label: Any = None,
) -> AcceptanceResult:
    """Test on a site's own images whether a model keeps what is required, before it goes live.

    The rule is fixed beforehand: "accepted" if the intervals of all rates lie at or above what is
    required, "rejected" if that of one lies below it, else "inconclusive". Read more in the
    :ref:`User Guide <acceptance>`.

    Parameters
    ----------
    estimator : estimator instance
        Fitted classifier, which decides by its own threshold (``predict``).
    X : collection of images, n rows
        Images of the site that the model has not seen, of consecutive patients.
    y : array-like of shape (n,)
        True labels.
    required : mapping of str to float, or to a mapping
        The least rates: "sensitivity", "specificity", "ppv", "npv", "accuracy", "roc_auc", and
        with groups "group_sensitivity" and "group_specificity", of patients all of whose rows are
        called correctly. With more than two classes a number is required of each class against the
        rest, ``{"sensitivity": {"melanoma": 0.9}}`` of those named.
    groups : array-like of shape (n,) or None, default=None
        Patients: intervals then take into account that their images are alike.
    subgroups : DataFrame, mapping of str to array-like of shape (n,), or None, default=None
        Columns such as sex, age, site or view. They are tabulated and do not decide.
    expected : mapping of str to float, or None, default=None
        What each rate is thought to be, for the numbers that are needed. None: halfway between
        what is required and 1.
    power : float, default=0.8
        Probability with which each rate should be accepted, if it is as expected.
    confidence_level : float, default=0.95
        Level of the two-sided intervals.
    pos_label : int, float, bool, str or None, default=None
        The positive class of two, by its label or its name. None: that of the model's threshold,
        else 1, where the labels are 0 and 1 or -1 and 1.

    Returns
    -------
    result : AcceptanceResult
        Frozen dataclass that prints as text, and has the attributes

        - ``verdict``: "accepted", "rejected" or "inconclusive"; ``accepted``: whether it is that;
        - ``rule``, ``summary``, ``warnings``: in words, the rule, the verdict, and what must not be
          overlooked;
        - ``requirements``: DataFrame with a row for each, with ``requirement``, ``required``,
          ``estimate``, ``low``, ``high``, ``verdict`` ("met", "not met", "open"), ``of`` (which
          rows count), ``n_rows`` of these with their ``errors``, ``n`` (groups, or rows without
          groups), ``expected``, ``n_needed`` and ``n_without_error``, as
          :func:`acceptance_sample_size` has them;
        - ``subgroups``: DataFrame with the same of each level of each column;
        - ``n_rows``, ``n_groups``, ``n_unreadable``, ``confidence_level``, ``power``.

    Raises
    ------
    ValueError
        If a requirement is unknown, lies outside of 0 to 1 or has no rows, or labels are unknown.

    See Also
    --------
    acceptance_sample_size : How many patients it takes, before there are any.
    sktransfer.report.acceptance_report : One page of the result.

    Notes
    -----
    A bad model, one of whose rates is what is required or less, is accepted in at most
    ``(1 - confidence_level) / 2`` of all tests. A good one is rejected in at most that share for
    each requirement. Whoever adds patients until a test is accepted gives that up: the number is
    fixed beforehand.

    A row that the model cannot read counts as an error, whatever its class: that is what it is at
    the site.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sktransfer.model_selection import acceptance_test
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> clf = LogisticRegression(max_iter=10_000).fit(X[:200], y[:200])
    >>> print(acceptance_test(clf, X[200:], y[200:], required={"sensitivity": 0.8}))
    Accepted on 369 rows. sensitivity 0.89... (0.8... to 0.9...) of 0.8 required: met.
    """
    check_level(confidence_level)
    check_level(power, "power")
    X, y = indexable(X, check_labels(y, name="y"))
    patients = None if groups is None else read_groups(groups, n=len(y))
    check_is_fitted(estimator)
    classes = np.asarray(estimator.classes_)
    names = names_of_model(estimator)
    unknown = np.setdiff1d(y, classes)
    if len(unknown):
        raise ValueError(
            f"y has labels that the model does not know: {unknown[:5].tolist()}; its classes are "
            f"{classes.tolist()}."
        )
    if len(classes) == 2 or pos_label is not None:
        own = own_positive(estimator) if pos_label is None else pos_label
        wanted = (positive_class(classes, own, names=names),)
    else:
        wanted = tuple(classes.tolist())
    several = len(wanted) > 1
    asked = read_required(required, names, classes if several else None, wanted)
    decided = _decide(estimator, X, y, patients, wanted, {each.name for each in asked})
    rows = []
    for each in asked:
        everything = np.arange(len(y))
        found, counted = _rate(each, decided, everything, confidence_level)
        if counted["n"] == 0:
            raise ValueError(
                f"{each.name}: no rows are {_of(each, several)}, so that it is of none."
            )
        guess = expected_rate(each, expected)
        rows.append(
            {
                **_described(each, several, names),
                **found._asdict(),
                "verdict": _judged(found, each.level),
                "of": _of(each, several),
                **counted,
                "expected": guess,
                "n_needed": rows_for_power(each.level, guess, power, confidence_level),
                "n_without_error": least_rows(each, confidence_level),
            }
        )
    judged = [row["verdict"] for row in rows]
    verdict = "rejected" if "not met" in judged else "inconclusive"
    return AcceptanceResult(
        verdict="accepted" if set(judged) == {"met"} else verdict,
        requirements=pd.DataFrame(rows),
        subgroups=_by_subgroup(asked, decided, subgroups, confidence_level, several, names),
        confidence_level=confidence_level,
        power=power,
        n_rows=len(y),
        n_groups=None if patients is None else len(np.unique(patients)),
        n_unreadable=int((~decided.readable).sum()),
    )


@dataclass(frozen=True)
class _Decided:
    """What a model decided on rows; ``score`` has a column for each class, if it was asked for."""

    y: np.ndarray
    called: np.ndarray
    readable: np.ndarray
    groups: np.ndarray | None
    score: np.ndarray | None
    classes: np.ndarray


def _decide(
    estimator: Any,
    X: Any,
    y: np.ndarray,
    groups: np.ndarray | None,
    wanted: tuple[Any, ...],
    names: set[str],
) -> _Decided:
    """Let a model decide by its own threshold; rows without a score are not readable."""
    method = next(
        (each for each in ("predict_proba", "decision_function") if hasattr(estimator, each)), None
    )
    score = None
    readable = np.ones(len(y), dtype=bool)
    if method is not None:
        score = np.asarray(getattr(estimator, method)(X), dtype=float)
        score = np.column_stack([-score, score]) if score.ndim == 1 else score
        if len(score) != len(y):
            raise ValueError(f"y has {len(y)} labels for {len(score)} rows of X.")
        readable = ~np.isnan(score).any(axis=1)
    elif "roc_auc" in names:
        raise TypeError(f"roc_auc needs scores, which {type(estimator).__name__} does not give.")
    if not readable.any():
        raise ValueError(f"None of the {len(y)} rows could be read.")
    called = np.empty(len(y), dtype=object)
    rows = X if readable.all() else _safe_indexing(X, np.flatnonzero(readable))
    called[readable] = np.asarray(estimator.predict(rows)).tolist()
    classes = np.asarray(estimator.classes_)
    if score is not None and not readable.all():  # the worst that it could have been
        right = y[:, None] == classes[None, :]
        score[~readable] = np.where(right, score[readable].min() - 1, score[readable].max() + 1)[
            ~readable
        ]
    if score is not None and len(wanted) == 1:
        score = score[:, np.flatnonzero(classes == wanted[0])[0]]
    return _Decided(y, called, readable, groups, score, classes)


def _rate(
    each: Requirement, decided: _Decided, rows: np.ndarray, confidence_level: float
) -> tuple[Interval, dict[str, int]]:
    """Return a rate on some rows with its interval, and what it is of: rows, patients, errors.

    A row that was not readable is on the wrong side of whatever it counts for.
    """
    y, called, readable = decided.y[rows], decided.called[rows], decided.readable[rows]
    groups = among(decided.groups, rows)
    units = np.arange(len(rows)) if groups is None else groups
    if each.name == "roc_auc":
        assert decided.score is not None
        several = decided.score.ndim == 2
        given = {"labels": decided.classes} if several else {"pos_label": each.label}
        if len(np.unique(y)) < (len(decided.classes) if several else 2):
            return Interval(np.nan, 0.0, 1.0), {"n": 0, "n_rows": 0, "errors": 0}
        found = roc_auc_interval(
            y, decided.score[rows], groups=groups, confidence_level=confidence_level, **given
        )
        return found, _counted(units, ~readable)
    truth, called_so = y == each.label, called == each.label
    kind = each.name.removeprefix("group_")
    own, right = {
        "sensitivity": (truth, called_so),
        "specificity": (~truth, readable & ~called_so),
        "ppv": (called_so, truth),
        "npv": (readable & ~called_so, ~truth),
        "accuracy": (np.ones(len(y), dtype=bool), called == y),
    }[kind]
    right, units = right[own].astype(bool), units[own]
    found = rate_of(right, among(groups, own), confidence_level)
    if kind != each.name:  # patients all of whose rows are called correctly
        names, codes = np.unique(units, return_inverse=True)
        all_right = np.bincount(codes, weights=~right, minlength=len(names)) == 0
        found = rate_of(all_right, None, confidence_level)
    return found, _counted(units, ~right)


def _counted(units: np.ndarray, wrong: np.ndarray) -> dict[str, int]:
    """Return the numbers of patients, of rows, and of errors among these."""
    return {"n": len(np.unique(units)), "n_rows": len(units), "errors": int(wrong.sum())}


def _by_subgroup(
    asked: list[Requirement],
    decided: _Decided,
    given: Any,
    confidence_level: float,
    several: bool,
    names: Mapping[Any, str] | None,
) -> pd.DataFrame:
    """Return each requirement on each level of each column; small levels are left out."""
    columns = {} if given is None else read_columns(given, len(decided.y), "subgroups")
    rows = []
    for column in columns:
        for level, own in levels_of(columns[column], str(column)).items():
            if len(own) < LEAST_ROWS:
                continue
            for each in asked:
                found, counted = _rate(each, decided, own, confidence_level)
                described = _described(each, several, names)
                place = {"column": str(column), "level": str(level)}
                rows.append({**place, **described, **found._asdict(), **counted})
    known = ["column", "level", "requirement", "required", *Interval._fields]
    return pd.DataFrame(rows, columns=[*known, "n", "n_rows", "errors"])


def _described(each: Requirement, several: bool, names: Mapping[Any, str] | None) -> dict[str, Any]:
    of = f" of {class_text(each.label, names)}" if several and each.name in PER_CLASS else ""
    return {"requirement": each.name + of, "required": each.level}


def _of(each: Requirement, several: bool) -> str:
    """Return in words which rows a rate is of."""
    if not several or each.name not in PER_CLASS:
        return OF.get(each.name, "all")
    return {
        "positive": "of the class",
        "negative": "of other classes",
        "called positive": "called so",
        "called negative": "called otherwise",
    }[OF[each.name]]


def _judged(found: Interval, level: float) -> str:
    """Return whether an interval lies at or above a level, below it, or on both sides."""
    return "met" if found.low >= level else "not met" if found.high < level else "open"
