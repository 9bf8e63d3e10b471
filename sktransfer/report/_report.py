"""diagnostic_report: everything a reader of a study asks for, of a model and its test rows.

It must not know how any part is computed.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sktransfer._utils.config import import_optional
from sktransfer.report._baselines import baselines as _baselines
from sktransfer.report._card import card as _card
from sktransfer.report._document import Section, interval, plain
from sktransfer.report._examples import failures
from sktransfer.report._examples import saliency as _saliency
from sktransfer.report._guidelines import SERVES
from sktransfer.report._model import model
from sktransfer.report._partition import partition
from sktransfer.report._performance import operating, roc
from sktransfer.report._probabilities import benefit, calibration, distributions
from sktransfer.report._render import render
from sktransfer.report._rows import score_rows
from sktransfer.report._subgroups import subgroups as _subgroups

_SALIENCY = ("gradient", "integrated_gradients", "grad_cam", "occlusion", None)


class DiagnosticReport:
    """What :func:`diagnostic_report` found, ready to be written down.

    Attributes
    ----------
    title : str
    created : str
        Date and time, UTC.
    summary : str
        The figures that everybody asks for first.
    sections : dict of str to Section
        The parts: "partition", "model", "roc", "operating", "calibration", "distributions",
        "benefit", "subgroups", "baselines", "failures", "saliency", "card". Each has ``title``,
        ``text``, ``notices``, ``tables``, ``figures`` and ``data``.
    """

    def __init__(self, title: str, sections: dict[str, Section]) -> None:
        self.title = title
        self.sections = sections
        self.summary = _summary(sections)
        now = datetime.datetime.now(datetime.UTC)
        self.created = now.strftime("%Y-%m-%d %H:%M UTC")

    def __repr__(self) -> str:
        return f"DiagnosticReport({self.title!r}, {len(self.sections)} parts)"

    @property
    def warnings(self) -> list[str]:
        """What a reader must not overlook: overlap, shortcuts, maps that fail their test."""
        return [
            notice.text
            for key, section in self.sections.items()
            if key != "card"
            for notice in section.notices
            if notice.warning
        ]

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str | None:
        """One file with everything in it: no script, nothing fetched; light, dark, printable.

        Parameters
        ----------
        path : path-like or None, default=None
            The file. None returns the text.

        Returns
        -------
        str or None
        """
        return _written(render(self, "report.html.j2"), path)

    def to_markdown(self, path: str | os.PathLike[str] | None = None) -> str | None:
        """Text and tables, without images.

        Parameters
        ----------
        path : path-like or None, default=None
            The file. None returns the text.

        Returns
        -------
        str or None
        """
        return _written(render(self, "report.md.j2"), path)

    def to_dict(self) -> dict[str, Any]:
        """The numbers, in types that JSON has; None where there is no number.

        Returns
        -------
        dict
            "title", "created", "summary", "warnings", "serves", and a dict for each part.
        """
        return {
            "title": self.title,
            "created": self.created,
            "summary": self.summary,
            "warnings": self.warnings,
            "serves": {key: str(SERVES[key]) for key in self.sections},
            **{key: plain(section.data) for key, section in self.sections.items()},
        }

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str | None:
        """:meth:`to_dict` as JSON.

        Parameters
        ----------
        path : path-like or None, default=None
            The file. None returns the text.

        Returns
        -------
        str or None
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
    saliency: str | None = "gradient",
    n_saliency: int = 4,
    images: bool = True,
    include_identifiers: bool = False,
    row_names: Any = None,
    model_digest: str | None = None,
    random_state: int = 0,
) -> DiagnosticReport:
    """Judge a classifier of images on rows it has not seen, as reporting guidelines ask for.

    Everything is computed here; the report that comes back only writes it down. Each part says
    which items of CLAIM 2024, TRIPOD+AI and STARD-AI it serves.

    Read more in the :ref:`User Guide <report>`.

    Parameters
    ----------
    estimator : estimator instance
        Fitted classifier. A threshold of its own counts (:class:`~sktransfer.\
OperatingPointClassifier`, :class:`~sklearn.model_selection.FixedThresholdClassifier`).
    X : collection of images, n rows
        Test rows, in any of the :ref:`accepted forms <accepted-inputs>`.
    y : array-like of shape (n,)
        True labels.
    groups : array-like of shape (n,) or None, default=None
        Patients. All intervals then take into account that their images are alike. Only counts
        of them are written down.
    readers : mapping of str to array-like of shape (n,), DataFrame or None, default=None
        The label that each expert gave each row; missing where one did not read it.
    subgroups : DataFrame, mapping of str to array-like of shape (n,), or None, default=None
        Sex, age, site, view. Numbers of many values are cut into four bands; levels of fewer than
        ten rows are left out.
    metadata : DataFrame, mapping of str to array-like of shape (n,), or None, default=None
        What is known of each image alongside its pixels. A model that sees nothing else is a
        baseline; values are not written down, names of columns are.
    X_train, y_train, groups_train : default=None
        What the model was trained on, for the table of partitions and to look for images and
        patients that are in both.
    baselines : mapping of str to array-like of shape (n,), or None, default=None
        Scores of further models on the same rows, such as a linear one on frozen features.
    threshold : float or None, default=None
        From which score on a row is called positive. None: the estimator's own, else 0.5 of
        probabilities and 0 of other scores.
    thresholds : mapping of str to float, or None, default=None
        Further ones for the table of operating points. They should not be chosen on these rows.
    pos_label : int, float, bool, str or None, default=None
        The positive class. None: that of the estimator's threshold, else the last of two. Of more
        than two classes it has to be given, and is taken against the rest.
    target_names : mapping, sequence or None, default=None
        Names of the classes, by label or in the order of ``estimator.classes_``.
    card : mapping of str to str, or None, default=None
        Text for the model card: "model_details", "intended_use", "out_of_scope", "factors",
        "metrics", "evaluation_data", "training_data", "quantitative_analyses",
        "ethical_considerations", "caveats".
    title : str or None, default=None
    confidence_level : float, default=0.95
        Level of all intervals.
    n_failures : int, default=8
        Images in the gallery of errors.
    saliency : {"gradient", "integrated_gradients", "grad_cam", "occlusion"} or None, \
            default="gradient"
        How maps are made. Where that is not possible, occlusion takes its place.
    n_saliency : int, default=4
        Images with maps.
    images : bool, default=True
        Whether images are shown. They may have names burned into them, which no program sees.
    include_identifiers : bool, default=False
        Whether names of readers, paths among parameters, and ``row_names`` are written down.
    row_names : array-like of shape (n,) or None, default=None
        What to call rows in the gallery of errors, with ``include_identifiers``. None: their
        numbers.
    model_digest : str or None, default=None
        Digest of the file that the model was loaded from, to be written down.
    random_state : int, default=0
        Of bootstraps, folds, the forests of the baselines, and the sanity test.

    Returns
    -------
    DiagnosticReport
        With ``to_html``, ``to_markdown``, ``to_json`` and ``to_dict``.

    Raises
    ------
    MissingDependencyError
        Without matplotlib or Jinja2 (extra ``report``).
    TypeError, ValueError
        If the estimator is no classifier with scores, or something does not fit.
    ImageDecodeError
        For the first row that cannot be read; rows without a score (``on_error="nan"``) are left
        out and counted.

    See Also
    --------
    sktransfer.metrics.ReaderStudyDisplay : The ROC curve alone.
    sktransfer.model_selection.check_leakage : Images and patients on both sides of a split.

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
    >>> report.to_html().startswith("<!DOCTYPE html>")
    True
    """
    import_optional("jinja2", extra="report", purpose="diagnostic_report")
    import_optional("matplotlib", extra="report", purpose="diagnostic_report")
    if saliency not in _SALIENCY:
        raise ValueError(f"saliency must be one of {_SALIENCY}; got {saliency!r}.")
    last = _card(card)  # before anything takes time
    rows = score_rows(
        estimator,
        X,
        y,
        groups=groups,
        pos_label=pos_label,
        target_names=target_names,
        threshold=threshold,
        confidence_level=confidence_level,
    )

    names = row_names if include_identifiers else None
    if names is None and include_identifiers:
        names = [f"row {row}" for row in range(rows.n_given)]
    curve = roc(rows, readers, identify=include_identifiers, random_state=random_state)
    area = curve.data["roc_auc"]
    parts = [
        partition(rows, X_train=X_train, y_train=y_train, groups_train=groups_train),
        model(estimator, identify=include_identifiers, file_digest=model_digest),
        curve,
        operating(rows, thresholds),
        calibration(rows),
        distributions(rows),
        benefit(rows),
        _subgroups(rows, subgroups),
        _baselines(rows, area, metadata, baselines, random_state=random_state),
        failures(rows, n_failures, images=images, identify=names),
        _saliency(rows, saliency, n_saliency, images=images, random_state=random_state),
        last,
    ]
    return DiagnosticReport(
        title or f"Diagnostic report: {rows.positive} against {rows.negative}",
        {part.key: part for part in parts},
    )


def _summary(sections: dict[str, Section]) -> str:
    test = sections["partition"].data["parts"]["test"]
    people = "" if test["patients"] is None else f" of {test['patients']} patients"
    point = next(iter(sections["operating"].data["points"].values()))
    return (
        f"{test['images']} test images{people}, {100 * test['prevalence']:.0f} % of them "
        f"{point.pos_label}. AUC {interval(sections['roc'].data['roc_auc'])}; at the threshold "
        f"sensitivity {interval(point.sensitivity)} and specificity {interval(point.specificity)}."
    )


def _written(text: str, path: str | os.PathLike[str] | None) -> str | None:
    if path is None:
        return text
    Path(path).write_text(text, encoding="utf-8")
    return None
