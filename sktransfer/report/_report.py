"""diagnostic_report: what readers of a study ask for, of a model and its test rows."""

from __future__ import annotations

import copy
import datetime
import html
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sktransfer._utils.config import import_optional
from sktransfer._utils.multilabel import is_multilabel
from sktransfer._utils.notebooks import card
from sktransfer._version import __version__
from sktransfer.deploy._predicting import refers
from sktransfer.metrics._labels import Interval
from sktransfer.report._baselines import baselines_section
from sktransfer.report._cards import applied_model_card, hugging_face_metadata
from sktransfer.report._failures_and_maps import failures_section, saliency_section
from sktransfer.report._findings import findings_parts
from sktransfer.report._findings_rows import score_findings
from sktransfer.report._guidelines import LEFT_TO_AUTHORS, REFERENCES, SERVES, card_section
from sktransfer.report._label_audit import labels_section
from sktransfer.report._model import model_section
from sktransfer.report._novelty import novelty_section
from sktransfer.report._partition import partition_section
from sktransfer.report._scored_rows import ScoredRows, score_rows
from sktransfer.report._scores import (
    benefit_section,
    calibration_section,
    distributions_section,
    operating_section,
    roc_section,
)
from sktransfer.report._section import INK, PAPER, Notice, Section, interval, plain
from sktransfer.report._subgroups import subgroups_section
from sktransfer.report._triage import triage_section

# Sections with images of patients, or with paths among parameters: not for a notebook's output.
_NOT_SHOWN = ("model", "labels", "failures", "saliency")
_PAGE = """<details><summary>Sections without images of patients</summary>
<iframe sandbox="" title="{}" srcdoc="{}" style="width: 100%; height: 36em; border: 0"></iframe>
</details>"""
_SALIENCY = ("gradient", "integrated_gradients", "grad_cam", "occlusion", None)


class DiagnosticReport:
    """Report of :func:`diagnostic_report`, which can be written to files.

    Parameters
    ----------
    title : str
        Title of the report.
    sections : dict of str to Section
        The parts: "partition", "model", "roc", "operating", "calibration", "distributions",
        "benefit", "subgroups", "baselines", "failures", "saliency", "card"; also "triage",
        "novelty" and "labels" where they were asked for. Each has ``title``, ``text``, ``notices``,
        ``tables``, ``figures`` and ``data``.
    summary : str or None, default=None
        What was found in one sentence. None: the number of images and the main rates.

    Attributes
    ----------
    created : str
        Date and time (UTC).

    See Also
    --------
    diagnostic_report : Make a report of a model and its test rows.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sktransfer.report import diagnostic_report
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = LogisticRegression(max_iter=1000).fit(X[:900] / 16, y[:900] == 8)
    >>> report = diagnostic_report(
    ...     clf, X[900:1000] / 16, y[900:1000] == 8, target_names=["other", "eight"],
    ...     pos_label=True, saliency=None,
    ... )
    >>> report
    DiagnosticReport('Diagnostic report: eight against other', 12 parts)
    >>> report.to_html().startswith("<!DOCTYPE html>")
    True
    """

    def __init__(
        self, title: str, sections: dict[str, Section], *, summary: str | None = None
    ) -> None:
        self.title = title
        self.sections = sections
        self.summary = _summary(sections) if summary is None else summary
        now = datetime.datetime.now(datetime.UTC)
        self.created = now.strftime("%Y-%m-%d %H:%M UTC")

    def __repr__(self) -> str:
        return f"DiagnosticReport({self.title!r}, {len(self.sections)} parts)"

    def _repr_html_(self) -> str:
        main = self.sections.get("operating") or next(iter(self.sections.values()))
        rows = main.tables[0]
        shown = copy.copy(self)
        shown.sections = {k: each for k, each in self.sections.items() if k not in _NOT_SHOWN}
        page = html.escape(str(shown.to_html()))  # a page of its own: styles stay apart
        rest = _PAGE.format(html.escape(self.title), page)
        return card(
            self.title,
            [self.summary, 'to_html("report.html") writes all, with images of patients.'],
            {rows.caption: pd.DataFrame(rows.rows, columns=rows.columns)},
            alerts=self.warnings,
            rest=rest,
        )

    @property
    def warnings(self) -> list[str]:
        """Return what must not be overlooked: swapped classes, overlap, shortcuts, failed maps."""
        return [
            notice.text
            for key, section in self.sections.items()
            if key != "card"
            for notice in section.notices
            if notice.warning
        ]

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str | None:
        """Write one page with everything in it: light, dark, printable, without any script.

        Parameters
        ----------
        path : path-like or None, default=None
            File to write. None returns the text.

        Returns
        -------
        text : str or None
            The page, if there is no ``path``.
        """
        return _written(_rendered(self, "report.html.j2"), path)

    def to_markdown(self, path: str | os.PathLike[str] | None = None) -> str | None:
        """Write text and tables, without images.

        Parameters
        ----------
        path : path-like or None, default=None
            File to write. None returns the text.

        Returns
        -------
        text : str or None
            The text, if there is no ``path``.
        """
        return _written(_rendered(self, "report.md.j2"), path)

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers, in types that JSON has; None where there is no number.

        Returns
        -------
        numbers : dict
            Keys "title", "created", "summary", "warnings", "serves", and a dict for each part.
        """
        return {
            "title": self.title,
            "created": self.created,
            "summary": self.summary,
            "warnings": self.warnings,
            "serves": {key: SERVES[key] for key in self.sections if key in SERVES},
            **{key: plain(section.data) for key, section in self.sections.items()},
        }

    def to_hugging_face(self, path: str | os.PathLike[str] | None = None) -> str | None:
        """Write the report as a model card of the Hugging Face Hub: a ``README.md`` with metadata.

        Metadata are the library, the task, tags and the main measures; the rest is
        :meth:`to_markdown`, with the model card first.

        Parameters
        ----------
        path : path-like or None, default=None
            File to write, ``README.md`` in the repository of the model. None returns the text.

        Returns
        -------
        text : str or None
            The text, if there is no ``path``.

        Raises
        ------
        ValueError
            If this is the page of an acceptance test, which has no model card.
        """
        self._check_card()
        ordered = copy.copy(self)
        first = {"card": self.sections["card"], "model": self.sections["model"]}
        ordered.sections = {**first, **self.sections}
        text = hugging_face_metadata(self) + _rendered(ordered, "report.md.j2")
        return _written(text, path)

    def to_chai(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        fields: Mapping[str, str] | None = None,
    ) -> str | None:
        """Write the applied model card of the Coalition for Health AI (schema v0.2) as XML.

        Parameters
        ----------
        path : path-like or None, default=None
            File to write. None returns the text.
        fields : mapping of str to str, or None, default=None
            Texts of elements that no program can know, such as ``"ModelDeveloper"``,
            ``"DeveloperContact"`` or ``"FundingSource"``; they also replace what the report says.
            Others read "Not stated.".

        Returns
        -------
        text : str or None
            The text, if there is no ``path``.

        Raises
        ------
        ValueError
            If the card has no such field, or this is the page of an acceptance test.
        """
        self._check_card()
        return _written(applied_model_card(self, fields), path)

    def _check_card(self) -> None:
        """Raise if there is nothing to write a model card of."""
        if "card" not in self.sections:
            raise ValueError(
                "The page of an acceptance test has no model card; diagnostic_report has one."
            )

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str | None:
        """Write the numbers of :meth:`to_dict` as JSON.

        Parameters
        ----------
        path : path-like or None, default=None
            File to write. None returns the text.

        Returns
        -------
        text : str or None
            The text, if there is no ``path``.
        """
        return _written(json.dumps(self.to_dict(), indent=1, allow_nan=False), path)


def diagnostic_report(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    groups: Any = None,
    readers: Any = None,
    subgroups: Any = None,
    metadata: Any = None,
    X_train: Any = None,
    y_train: Any = None,
    groups_train: Any = None,
    baselines: Mapping[str, Any] | None = None,
    threshold: float | None = None,
    thresholds: Mapping[str, float] | None = None,
    pos_label: Any = None,
    target_names: Any = None,
    card: Mapping[str, str] | None = None,
    title: str | None = None,
    confidence_level: float = 0.95,
    n_failures: int = 8,
    label_audit: Any = None,
    saliency: str | None = "gradient",
    n_saliency: int = 4,
    images: bool = True,
    include_identifiers: bool = False,
    row_names: Any = None,
    model_digest: str | None = None,
    random_state: int = 0,
) -> DiagnosticReport:
    """Evaluate a classifier of images on rows it has not seen, as reporting guidelines ask for.

    Everything is computed here; the report can then be written to several files. Each part names
    the items of CLAIM 2024 [1]_, TRIPOD+AI [2]_ and STARD-AI [3]_ it serves.

    Read more in the :ref:`User Guide <report>`.

    Parameters
    ----------
    estimator : estimator instance
        Fitted classifier. If it has a threshold of its own, as
        :class:`~sktransfer.model_selection.OperatingPointClassifier` and
        :class:`~sklearn.model_selection.FixedThresholdClassifier` have, that is used.
    X : collection of images, n rows
        Test rows, in any of the :ref:`accepted forms <accepted-inputs>`.
    y : array-like of shape (n,) or (n, n_labels), or list of sets
        True labels. Of several labels a row (1, 0, or NaN where one is unknown) the report has
        every label by itself, and their means. It then has no readers, distributions, net benefit
        and maps.
    groups : array-like of shape (n,) or None, default=None
        Patients. All intervals then take into account that images of a patient are similar. Only
        counts of patients are written down.
    readers : mapping of str to array-like of shape (n,), DataFrame or None, default=None
        Labels that each expert gave the rows; missing where an expert did not read a row.
    subgroups : DataFrame, mapping of str to array-like of shape (n,), or None, default=None
        Columns such as sex, age, site or view. Numbers with many values are cut into four bands;
        levels of fewer than ten rows are left out.
    metadata : DataFrame, mapping of str to array-like of shape (n,), or None, default=None
        What is known of each image alongside its pixels. A model that sees nothing else is a
        baseline; names of columns are written down, values are not.
    X_train : collection of images or None, default=None
        Images that the model was trained on, to find images that are in both parts.
    y_train, groups_train : array-like or None, default=None
        Labels and patients of the training rows, to find patients that are in both parts.
    baselines : mapping of str to array-like of shape (n,), or None, default=None
        Scores of further models on the same rows, such as a linear one on frozen features.
    threshold : float or None, default=None
        Least score of a row that is predicted positive; of several labels a row, also a sequence or
        a mapping of labels to these. None: the estimator's own, else 0.5 for probabilities and 0
        for other scores.
    thresholds : mapping of str to float, or None, default=None
        Further thresholds for the table of operating points, not chosen on these rows.
    pos_label : int, float, bool, str or None, default=None
        The positive class, by its label or its name. None: that of the estimator's threshold, else
        1, where the labels are 0 and 1 or -1 and 1. Other classes leave a doubt and it must be
        given; of more than two it is compared with the rest.
    target_names : mapping, sequence or None, default=None
        Names of the classes, by label or in the order of ``estimator.classes_``. None: those that
        the model was saved with (``class_names_``), else the labels. ``target_names`` of a Bunch
        fit a model of its ``target``; names that are the labels in another order are refused.
    card : mapping of str to str, or None, default=None
        Text for the model card: "model_details", "intended_use", "out_of_scope", "factors",
        "metrics", "evaluation_data", "training_data", "quantitative_analyses",
        "ethical_considerations", "caveats".
    title : str or None, default=None
        Title of the report. None: the names of the classes.
    confidence_level : float, default=0.95
        Level of all intervals.
    n_failures : int, default=8
        Number of images in the gallery of errors, and of labels that are shown.
    label_audit : LabelAudit, bool, array-like of shape (n, n_classes) or None, default=None
        Labels that are probably wrong, which make a section: a result of
        :func:`~sktransfer.datasets.audit_labels`, of these rows or of others; True to audit these
        rows with the network of the model; or probabilities of these rows, by models that have not
        seen them. None: no such section.
    saliency : {"gradient", "integrated_gradients", "grad_cam", "occlusion"} or None, \
            default="gradient"
        Method of the maps. Where it is not possible, occlusion is used.
    n_saliency : int, default=4
        Number of images with maps.
    images : bool, default=True
        Whether images are shown. They may have names burned into them, which are not detected.
    include_identifiers : bool, default=False
        Whether names of readers, paths among parameters, and ``row_names`` are written down.
    row_names : array-like of shape (n,) or None, default=None
        Names of rows in the gallery of errors, with ``include_identifiers``. None: their numbers.
    model_digest : str or None, default=None
        Digest of the file that the model was loaded from, to be written down.
    random_state : int, default=0
        Seed of bootstraps, folds, the forests of the baselines, and the sanity test.

    Returns
    -------
    report : DiagnosticReport
        Report with ``to_html``, ``to_markdown``, ``to_json`` and ``to_dict``.

    Raises
    ------
    MissingDependencyError
        If matplotlib or Jinja2 (extra ``report``) is not installed.
    TypeError, ValueError
        If the estimator is no classifier with scores, or a parameter does not fit.
    ImageDecodeError
        For the first unreadable row; with ``on_error="nan"`` such rows are left out and counted.

    See Also
    --------
    sktransfer.metrics.ReaderStudyDisplay : Plot the ROC curve alone.
    sktransfer.model_selection.check_leakage : Find images and patients on both sides of a split.

    References
    ----------
    .. [1] Tejani, A. S., et al. (2024). "Checklist for Artificial Intelligence in Medical Imaging
       (CLAIM): 2024 update". Radiology: Artificial Intelligence, 6(4), e240300.
    .. [2] Collins, G. S., et al. (2024). "TRIPOD+AI statement". BMJ, 385, e078378.
    .. [3] Sounderajah, V., et al. (2025). "The STARD-AI reporting guideline". Nature Medicine, 31,
       3283-3289.
    .. [4] Mitchell, M., et al. (2019). "Model cards for model reporting". FAT*.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sktransfer.report import diagnostic_report
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = LogisticRegression(max_iter=1000).fit(X[:900] / 16, y[:900] == 8)
    >>> report = diagnostic_report(
    ...     clf, X[900:] / 16, y[900:] == 8, target_names=["other", "eight"], saliency=None
    ... )
    >>> report.to_dict()["roc"]["roc_auc"]["estimate"] > 0.9
    True
    """
    import_optional("jinja2", extra="report", purpose="diagnostic_report")
    import_optional("matplotlib", extra="report", purpose="diagnostic_report")
    if saliency not in _SALIENCY:
        raise ValueError(f"saliency must be one of {_SALIENCY}; got {saliency!r}.")
    last = card_section(card)  # before anything takes time
    naming = {"groups": groups, "target_names": target_names, "threshold": threshold}
    naming["confidence_level"] = confidence_level
    training = {"X_train": X_train, "y_train": y_train, "groups_train": groups_train}
    if is_multilabel(y):
        _check_single(
            readers=readers,
            thresholds=thresholds,
            baselines=baselines,
            pos_label=pos_label,
            label_audit=label_audit,
        )
        found = score_findings(estimator, X, y, random_state=random_state, **naming)
        usual, parts = findings_parts(
            found,
            training=training,
            metadata=metadata,
            subgroups=subgroups,
            digest=model_digest,
            n_failures=n_failures,
            images=images,
            names=_row_names(found.all, row_names) if include_identifiers else None,
            random_state=random_state,
        )
        return DiagnosticReport(title or usual, {part.key: part for part in [*parts, last]})
    rows = score_rows(estimator, X, y, pos_label=pos_label, **naming)
    names = _row_names(rows, row_names) if include_identifiers else None
    labels = []
    if label_audit is not None and label_audit is not False:
        shown = {"target_names": target_names, "n_images": n_failures, "images": images}
        labels = [labels_section(estimator, label_audit, X, y, groups, **shown)]
    curve = roc_section(rows, readers, identify=include_identifiers, random_state=random_state)
    area, novelty = curve.data["roc_auc"], rows.novelty
    parts = [
        partition_section(rows, **training),
        model_section(estimator, identify=include_identifiers, file_digest=model_digest),
        curve,
        operating_section(rows, thresholds),
        *([triage_section(rows)] if refers(estimator) else []),
        *([] if novelty is None else [novelty_section(rows, novelty, random_state=random_state)]),
        calibration_section(rows),
        distributions_section(rows),
        benefit_section(rows),
        subgroups_section(rows, subgroups),
        baselines_section(rows, area, metadata, baselines, random_state=random_state),
        *labels,
        failures_section(rows, n_failures, images=images, identify=names),
        saliency_section(rows, saliency, n_saliency, images=images, random_state=random_state),
        last,
    ]
    _add_first_notice(parts[0], rows, area)
    return DiagnosticReport(
        title or f"Diagnostic report: {rows.positive} against {rows.negative}",
        {part.key: part for part in parts},
    )


def _check_single(**given: Any) -> None:
    """Refuse what is for one label a row."""
    if unused := [name for name, value in given.items() if value is not None]:
        raise ValueError(
            f"{unused[0]}= is for one label a row, and these rows have several. Report a label by "
            "itself, or leave it out."
        )


def _row_names(rows: ScoredRows, given: Any) -> Any:
    return [f"row {row}" for row in range(rows.n_given)] if given is None else given


def _add_first_notice(section: Section, rows: ScoredRows, area: Interval) -> None:
    """Write, before anything else, that scores point the wrong way."""
    if area.high < 0.5:
        text = (
            f"The AUC is {interval(area)}, below 0.5 with its whole interval: the model gives "
            f"{rows.negative} higher scores than {rows.positive}. Probably labels or classes are "
            f"swapped, so that nothing below means what it says. The model's classes are "
            f"{rows.classes.tolist()}, and {rows.pos_label!s} was taken for {rows.positive}."
        )
        section.notices.insert(0, Notice(text, warning=True))


def _summary(sections: dict[str, Section]) -> str:
    test = sections["partition"].data["parts"]["test"]
    people = "" if test["patients"] is None else f" of {test['patients']} patients"
    mean = sections["operating"].data.get("mean")
    if mean is not None:
        return (
            f"{test['images']} test images{people}, {len(test['classes'])} findings. Means over "
            f"findings: AUC {interval(sections['roc'].data['roc_auc'])}; at the thresholds "
            f"sensitivity {interval(mean['sensitivity'])} and specificity "
            f"{interval(mean['specificity'])}."
        )
    point = next(iter(sections["operating"].data["points"].values()))
    return (
        f"{test['images']} test images{people}, {100 * test['prevalence']:.0f} % of them "
        f"{point.pos_label} (the positive class). AUC {interval(sections['roc'].data['roc_auc'])}; "
        f"at the threshold sensitivity {interval(point.sensitivity)} and specificity "
        f"{interval(point.specificity)}."
    )


def _written(text: str, path: str | os.PathLike[str] | None) -> str | None:
    if path is None:
        return text
    Path(path).write_text(text, encoding="utf-8")
    return None


def _rendered(report: DiagnosticReport, template: str) -> str:
    """Fill a template of this package; in HTML everything is escaped."""
    jinja2 = import_optional("jinja2", extra="report", purpose="Writing a report")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sktransfer.report"),
        autoescape=lambda name: name is not None and ".html." in name,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = _markdown
    return environment.get_template(template).render(
        report=report,
        sections=list(report.sections.values()),
        serves=SERVES,
        left_to_authors=LEFT_TO_AUTHORS,
        references=REFERENCES,
        version=__version__,
        paper=PAPER,
        ink=INK,
    )


def _markdown(text: str) -> str:
    """Escape text so that nothing of it is markup, on one line."""
    flat = " ".join(str(text).split())
    return "".join(f"\\{each}" if each in "\\|*_`<>[]#" else each for each in flat)
