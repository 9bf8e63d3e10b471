"""What a notebook shows: results as HTML, links to the documentation, progress bars."""

import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor
from sktransfer._utils.config import DOCUMENTATION
from sktransfer._utils.notebooks import progress_bar
from sktransfer.inspection import DeletionInsertionCurves
from sktransfer.model_selection import (
    BackboneRanking,
    DomainDistance,
    StrategyAdvice,
    plan_search,
)
from sktransfer.model_selection._domain_distance import Threshold
from sktransfer.report import diagnostic_report
from sktransfer.studies import BackboneComparison, ConvergenceCurve, TransferCurve

ROOT = Path(__file__).parents[1]
NAME = "<script>alert(1)</script> & more"


class Elements(HTMLParser):
    """Count the elements of a page, collect its text, and check that every one is closed."""

    def __init__(self, html):
        super().__init__()
        self.opened, self.counts, self.texts, self.frames = [], {}, [], []
        html.encode("utf-8")
        self.feed(html)
        self.close()
        assert self.opened == []

    def handle_starttag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        if tag == "iframe":
            self.frames.append(dict(attrs))
        self.opened.append(tag)

    def handle_endtag(self, tag):
        assert self.opened.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def results():
    """Return a result of each kind, with names that nobody should choose."""
    scores = {"score": [0.75, 0.5], "low": [0.6, 0.4], "high": [0.9, np.nan]}
    ranking = pd.DataFrame({"backbone": NAME, "layer": ["layer1", "embedding"], **scores})
    layers = pd.DataFrame({"layer": [NAME, "b"], "stage": "s", "distance": [0.25, 1234.5]})
    distance = DomainDistance(0.31, Threshold(0.1, 0.2), layers, NAME, "batch_norm", 8)
    evidence = pd.DataFrame({"layer": [NAME, "embedding"], **scores})
    advice = StrategyAdvice(
        *("small and dissimilar", "fine-tune part", ("fine-tune part", "truncate"), 15, distance),
        *(
            evidence,
            ("\udcfc.pt is no Unicode.",),
            (f"Against {NAME}",),
            PretrainedFeatureExtractor(),
        ),
    )
    rows = {"treatment": ["base", "AnB", "AnB"], "depth": [0, 1, 2], "stage": ["", NAME, "b"]}
    transfer = pd.DataFrame({**rows, "seed": 0, "score": [0.6, 0.7, 0.65]})
    steps = {"init": ["pretrained", NAME] * 2, "train_size": 20, "budget": [1, 1, 2, 2]}
    convergence = pd.DataFrame({**steps, "seed": 0, "score": [0.6, 0.5, 0.7, 0.6]})
    compared = pd.DataFrame({"backbone": [NAME], "strategy": "extract", "accuracy": 0.875})
    return [
        BackboneRanking(ranking, "loo_ridge", 40, {}),
        distance,
        advice,
        TransferCurve(transfer),
        ConvergenceCurve(convergence),
        BackboneComparison(compared, {}, np.array([0, 1]), np.zeros(40), None),
        DeletionInsertionCurves(np.linspace(0, 1, 3), *np.full((2, 5, 3), 0.25)),
    ]


@pytest.mark.parametrize("result", results(), ids=lambda each: type(each).__name__)
def test_results_are_tables_in_notebooks_with_every_name_escaped(result):
    html = result._repr_html_()
    page = Elements(html)
    assert type(result).__name__ in page.text
    assert page.counts["table"] == 1
    assert "script" not in page.counts
    if not isinstance(result, DeletionInsertionCurves):
        assert NAME in page.text
    # Colors are the page's own, light or dark.
    assert not re.search(r"(?<!-)\b(color|background)[^;\"]*:", html)


def test_numbers_of_a_table_have_three_digits_and_a_missing_one_is_blank():
    html = results()[0]._repr_html_()
    numbers = re.findall(r"<td>([\d.]*)</td>", html)
    assert numbers == ["0.750", "0.600", "0.900", "0.500", "0.400", ""]
    assert "1,234<" in results()[1]._repr_html_()


def test_a_name_that_is_no_unicode_can_be_shown():
    assert r"\udcfc.pt is no Unicode." in results()[2]._repr_html_()


def test_long_tables_show_their_ends_and_say_how_many_rows_there_are():
    table = pd.DataFrame({"layer": [f"layer {i}" for i in range(300)]})
    page = Elements(BackboneRanking(table, "knn", 9, {})._repr_html_())
    assert "(300 rows)" in page.text
    assert "layer 299" in page.text
    assert page.counts["tr"] < 30


def test_a_plan_says_what_it_needs():
    X, y = load_digits(return_X_y=True)
    clf = FineTuneClassifier(
        "squeezenet1_1", weights=None, image_size=32, value_range=(0, 16), random_state=0
    )
    plan = plan_search(GridSearchCV(clf, {"freeze_depth": ["all", -1]}, cv=3), X[:60], y[:60])
    page = Elements(plan._repr_html_())
    assert "2 candidates" in page.text
    assert "features.11" in page.text
    assert repr(plan) == f"SearchPlan(n_candidates=2, n_bytes={plan.n_bytes})"


def test_a_report_is_a_page_of_its_own_without_images_of_patients():
    X, y = load_digits(return_X_y=True)
    clf = LogisticRegression(max_iter=1000).fit(X[:900] / 16, y[:900] == 8)
    report = diagnostic_report(
        *(clf, X[900:1000] / 16, y[900:1000] == 8),
        target_names=["other", "<b>eight</b>"],
        pos_label=True,
        saliency=None,
    )
    assert "data:image/webp" in report.to_html()
    html = report._repr_html_()
    assert "image/webp" not in html
    page = Elements(html)
    assert report.summary in page.text
    assert "b" not in page.counts  # <b>
    assert page.counts["iframe"] == 1
    (frame,) = page.frames
    assert frame["sandbox"] == ""
    assert frame["srcdoc"].startswith("<!DOCTYPE html>")
    assert "data:image/svg+xml" in frame["srcdoc"]
    assert "failures" in report.sections  # as it was


def public_estimators():
    """Return every public estimator with the name that the API reference has it under."""
    found, module = [], ""
    for line in (ROOT / "docs" / "api.rst").read_text().splitlines():
        if line.startswith((".. module::", ".. currentmodule::")):
            module = line.split()[-1]
        elif re.fullmatch(r" +\w+", line):
            value = getattr(importlib.import_module(module), line.strip())
            if inspect.isclass(value) and issubclass(value, BaseEstimator):
                found.append((f"{module}.{line.strip()}", value))
    return found


def test_diagrams_link_to_the_page_of_the_estimator():
    estimators = public_estimators()
    assert len(estimators) >= 7
    for name, value in estimators:
        required = inspect.signature(value).parameters.get("estimator")
        given = [] if required is None else [LogisticRegression()]
        link = f"{DOCUMENTATION}generated/{name}.html"
        assert value(*given)._get_doc_link() == link
        assert link in value(*given)._repr_html_()

    class Own(FineTuneClassifier):
        pass

    assert Own()._get_doc_link() == ""  # has no page there


def test_the_address_of_the_documentation_is_the_one_that_packaging_has():
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    assert urls["Documentation"] == DOCUMENTATION


def test_a_notebook_without_ipywidgets_gets_a_bar_of_text_and_no_warning():
    code = (
        "import sys, types\n"
        "shell = types.ModuleType('IPython')\n"
        "shell.get_ipython = lambda: object()\n"
        "sys.modules |= {'IPython': shell, 'ipykernel.zmqshell': types.ModuleType('z')}\n"
        "sys.modules |= {'ipywidgets': None, 'IPython.html': None}\n"
        "from sktransfer._utils.notebooks import progress_bar\n"
        "with progress_bar('resnet18', total=2) as bar: bar.update(2)\n"
        "with progress_bar(None, total=2) as bar: bar.update(2)\n"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr.count("2/2") == 1
    assert "resnet18" in done.stderr


def test_workers_show_no_bars_of_their_own():
    def is_silent():  # defined here: a worker that imports this file takes seconds
        with progress_bar("resnet18", total=1) as bar:
            return bar.disable

    assert not is_silent()
    assert joblib.Parallel(n_jobs=2)(joblib.delayed(is_silent)() for _ in range(2)) == [True, True]
