"""acceptance_report: one page on an acceptance test, for those who decide on a site's behalf."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd

from sktransfer._utils.config import import_optional
from sktransfer.metrics import ForestDisplay
from sktransfer.metrics._labels import Interval
from sktransfer.model_selection._acceptance import AcceptanceResult
from sktransfer.report._report import DiagnosticReport
from sktransfer.report._section import NOTHING, Section, interval, level, number

_MOST_LINES = 24  # of a figure of subgroups, which fills a page otherwise


def acceptance_report(result: Any, *, title: str | None = None) -> DiagnosticReport:
    """Write the result of an acceptance test on one page: verdict, numbers of rows, subgroups.

    Parameters
    ----------
    result : AcceptanceResult
        What :func:`~sktransfer.model_selection.acceptance_test` returned.
    title : str or None, default=None
        Title of the page. None: "Acceptance test" with the verdict.

    Returns
    -------
    report : DiagnosticReport
        Report with ``to_html``, ``to_markdown``, ``to_json`` and ``to_dict``, whose parts are
        "verdict", "sample_size" and "subgroups". No names of files or patients are in it.

    Raises
    ------
    MissingDependencyError
        If matplotlib or Jinja2 (extra ``report``) is not installed.

    See Also
    --------
    sktransfer.model_selection.acceptance_test : The test.
    diagnostic_report : The report of a study, with curves, errors and maps.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sktransfer.model_selection import acceptance_test
    >>> from sktransfer.report import acceptance_report
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> clf = LogisticRegression(max_iter=10_000).fit(X[:200], y[:200])
    >>> acceptance_report(acceptance_test(clf, X[200:], y[200:], required={"sensitivity": 0.8}))
    DiagnosticReport('Acceptance test: accepted', 3 parts)
    """
    if not hasattr(result, "requirements"):
        raise TypeError(
            f"result must be what acceptance_test returned; got {type(result).__name__}."
        )
    import_optional("jinja2", extra="report", purpose="acceptance_report")
    import_optional("matplotlib", extra="report", purpose="acceptance_report")
    parts = [_verdict(result), _sample_size(result), _subgroups(result)]
    return DiagnosticReport(
        title or f"Acceptance test: {result.verdict}",
        {part.key: part for part in parts},
        summary=result.summary,
    )


def _verdict(result: AcceptanceResult) -> Section:
    section = Section("verdict", "Verdict", text=[result.rule])
    for text in result.warnings:
        section.warn(text)
    table = result.requirements
    lines = [
        [
            row.requirement,
            f"{row.required:g}",
            interval(Interval(row.estimate, row.low, row.high)),
            f"{row.errors} of {row.n_rows} ({row.of})",
            row.verdict,
        ]
        for row in table.itertuples()
    ]
    section.add_table(
        f"What is required, and what was found ({level(result.confidence_level)} intervals)",
        ["Rate", "Required", "Found", "Wrong", "Verdict"],
        lines,
        "Intervals are exact, and by patient where patients were given.",
    )
    section.data = {"verdict": result.verdict, "requirements": table.to_dict("records")}
    return section


def _sample_size(result: AcceptanceResult) -> Section:
    unit = "rows" if result.n_groups is None else "patients"
    section = Section("sample_size", "Number of patients")
    section.text.append(
        f"Needed for a power of {result.power:g}: as many {unit} that the rate will be accepted "
        "with this probability if it is as expected."
    )
    lines = [
        [
            row.requirement,
            number(row.expected),
            number(row.n_needed, 0),
            str(row.n),
            number(row.n_without_error, 0),
        ]
        for row in result.requirements.itertuples()
    ]
    columns = ["Rate", "Expected", "Needed", "At hand", "At least, without an error"]
    section.add_table("Numbers that count for each rate", columns, lines)
    section.data = {"rows": result.n_rows, "groups": result.n_groups, "power": result.power}
    return section


def _subgroups(result: AcceptanceResult) -> Section:
    section = Section("subgroups", "Subgroups")
    table = result.subgroups
    section.data = {"subgroups": table.to_dict("records")}
    if table.empty:
        section.remark(
            "No subgroups were given. Pass sex, age, view or scanner as subgroups=: a model that "
            "performs well overall may fail a subgroup."
        )
        return section
    lines = [
        [
            f"{row.column}: {row.level}",
            str(row.n_rows),
            row.requirement,
            f"{row.required:g}",
            interval(Interval(row.estimate, row.low, row.high)) if row.n else NOTHING,
        ]
        for row in table.itertuples()
    ]
    columns = ["Subgroup", "Images", "Rate", "Required", "Found"]
    note = "They do not decide. With many subgroups some differ by chance."
    section.add_table("The same rates in subgroups", columns, lines, note)
    for name, own in table.groupby("requirement", sort=False):
        shown = own[own["n"] > 0].head(_MOST_LINES)
        if shown.empty:
            continue
        lines_of = shown.assign(name=shown["column"] + ": " + shown["level"])
        section.add_figure(
            partial(_draw, table=lines_of, name=str(name)),
            alt=f"Intervals of {name} in {len(shown)} subgroups, and a line at what is required.",
            caption=f"{str(name).capitalize()} in subgroups; the line is what is required.",
            size=(6.6, 1.0 + 0.32 * len(shown)),
        )
    return section


def _draw(figure: Any, table: pd.DataFrame, name: str) -> None:
    """Draw the intervals of a rate, with a line at what is required."""
    ForestDisplay.from_intervals(
        table, xlabel=name, reference=table["required"].iloc[0], ax=figure.subplots()
    )
