"""diagnostic_report: its numbers are those of the metrics, and it identifies nobody."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import brier_score_loss
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.svm import LinearSVC

from sktransfer.exceptions import FailedRowsWarning, MissingDependencyError
from sktransfer.metrics import (
    calibration_slope,
    net_benefit,
    operating_point,
    roc_auc_interval,
)
from sktransfer.report import diagnostic_report
from tests.report.conftest import extractor, pipeline, readable

PARTS = [
    *("partition", "model", "roc", "operating", "calibration", "distributions", "benefit"),
    *("subgroups", "baselines", "failures", "saliency", "card"),
]


class Page(HTMLParser):
    """Parser that collects the tags and the text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def everything(report) -> str:
    """Return all text that is written in any format, including text in figures."""
    page = readable(report.to_html())
    assert "<svg" in page
    return "\n".join([page, report.to_markdown(), report.to_json()])


@pytest.fixture(scope="module")
def digits():
    """Return a plain classifier of arrays, and rows it has not seen."""
    X, y = load_digits(return_X_y=True)
    X = X / 16
    clf = LogisticRegression(C=0.001, max_iter=500).fit(X[:900], y[:900] == 8)
    return clf, X[900:1200], y[900:1200]


def test_every_part_names_the_guideline_items_it_serves(report):
    assert list(report.sections) == PARTS
    found = report.to_dict()
    assert set(PARTS) < set(found)
    for part in PARTS:
        assert "CLAIM 2024 item" in found["serves"][part]
    assert json.loads(report.to_json()) == json.loads(json.dumps(found))


def test_figures_are_those_of_the_metrics(report, model, study):
    found = report.to_dict()
    score = model.predict_proba(study.files)[:, list(model.classes_).index("ill")]
    settings = {"pos_label": "ill", "groups": study.groups}
    area = roc_auc_interval(study.y, score, **settings)
    assert found["roc"]["roc_auc"] == pytest.approx(area._asdict())
    point = operating_point(study.y, score, model.threshold_, **settings)
    own = found["operating"]["points"]["The model's threshold"]
    assert (own["tp"], own["fn"], own["fp"], own["tn"]) == (
        *(point.tp, point.fn, point.fp, point.tn),
    )
    for rate in ("sensitivity", "specificity", "ppv", "npv", "positive_likelihood_ratio"):
        assert own[rate] == pytest.approx(getattr(point, rate)._asdict())
    assert found["operating"]["points"]["At one half"]["threshold"] == 0.5
    right = np.mean(model.predict(study.files) == study.y)
    assert found["operating"]["accuracy"]["estimate"] == pytest.approx(right)
    truth = study.y == "ill"
    assert found["calibration"]["brier"] == pytest.approx(brier_score_loss(truth, score))
    slope = calibration_slope(study.y, score, **settings)
    assert found["calibration"]["slope"] == pytest.approx(slope._asdict())
    _, counts = np.unique(study.groups, return_counts=True)
    assert (counts == 2).all()  # so every row weighs the same in the decision curve
    expected = net_benefit(truth, score, found["benefit"]["thresholds"])
    assert found["benefit"]["benefit"] == pytest.approx(expected)


def test_the_numbers_in_the_text_are_those_of_the_dict(report):
    area = report.to_dict()["roc"]["roc_auc"]
    shown = f"{area['estimate']:.3f} ({area['low']:.3f} to {area['high']:.3f})"
    assert shown in report.summary
    assert shown in Page(report.to_html()).text
    assert shown in report.to_markdown()


def test_readers_have_numbers_instead_of_names(report, study):
    found = report.to_dict()["roc"]["readers"]
    assert list(found) == ["Reader 1", "Reader 2", "Average reader"]
    read = np.array([each is not None for each in study.readers["Dr Jones"]])
    expected = operating_point(
        study.y[read],
        study.readers["Dr Jones"][read] == "ill",
        1,
        pos_label="ill",
        groups=study.groups[read],
    )
    assert found["Reader 2"]["sensitivity"] == pytest.approx(expected.sensitivity._asdict())


def test_subgroups_are_rated_at_the_models_threshold(report, model, study):
    found = report.to_dict()["subgroups"]["subgroups"]
    women = (study.subgroups["sex"] == "f").to_numpy()
    score = model.predict_proba(study.files)[:, list(model.classes_).index("ill")]
    point = operating_point(
        study.y[women],
        score[women],
        model.threshold_,
        pos_label="ill",
        groups=study.groups[women],
    )
    assert found["sex"]["f"]["images"] == women.sum()
    assert found["sex"]["f"]["sensitivity"] == pytest.approx(point.sensitivity._asdict())
    assert len(found["age"]) == 4  # bands
    assert sum(band["images"] for band in found["age"].values()) == len(study.y)


def test_small_subgroups_are_left_out_and_counted(digits):
    clf, X, y = digits
    site = np.array(["A"] * (len(y) - 5) + ["Nobody-knows"] * 5)
    report = diagnostic_report(
        clf, X, y == 8, subgroups={"site": site}, saliency=None, n_failures=0
    )
    found = report.to_dict()["subgroups"]
    assert list(found["subgroups"]["site"]) == ["A"]
    assert found["rows_left_out"] == 5
    assert "Nobody-knows" not in everything(report)


def test_partition_counts_images_and_patients(report, train, study):
    found = report.to_dict()["partition"]
    parts = found["parts"]
    assert parts["test"]["images"] == 120
    assert parts["test"]["patients"] == 60
    assert parts["training"]["images"] == 160
    assert parts["training"]["classes"]["ill"]["images"] == (train.y == "ill").sum()
    assert parts["test"]["prevalence"] == pytest.approx((study.y == "ill").mean())
    assert found["overlap"] == {
        "rows_of_training_patients": 0,
        "training_images": 0,
        "edited_training_images": 0,
    }


def test_patients_and_images_on_both_sides_are_a_warning(model, study, train):
    report = diagnostic_report(
        model,
        study.X,
        study.y,
        groups=study.groups,
        X_train=np.concatenate([train.X, study.X[:3]]),
        y_train=np.concatenate([train.y, study.y[:3]]),
        groups_train=np.concatenate([train.groups, study.groups[:3]]),
        saliency=None,
        n_failures=0,
    )
    # The third image brings its patient's other one with it.
    assert report.to_dict()["partition"]["overlap"] == {
        "rows_of_training_patients": 4,
        "training_images": 3,
        "edited_training_images": 0,
    }
    assert any("3 test images are in training too" in text for text in report.warnings)
    assert any("4 test images are of a patient" in text for text in report.warnings)


def test_no_name_and_no_path_is_written_down(report, study, tmp_path):
    text = everything(report)
    for word in (
        "Doe",
        "Jane",
        "ward-seven",
        "PATIENT-",
        "Dr Smith",
        "Jones",
        str(tmp_path.parent),
    ):
        assert word not in text, word
    for name in (*study.files, *study.groups):
        assert name not in text
        assert name.rsplit("/", 1)[-1] not in text


def test_names_are_written_down_when_asked_for(model, study):
    report = diagnostic_report(
        model,
        study.files,
        study.y,
        readers=study.readers,
        row_names=[f"Doe {i}" for i in range(120)],
        include_identifiers=True,
        saliency=None,
    )
    assert next(iter(report.to_dict()["roc"]["readers"])) == "Dr Smith"
    assert report.sections["failures"].figures


def test_a_file_of_weights_is_named_by_its_digest_only(study, tmp_path):
    secret = tmp_path / "Secret-Patient" / "w.pth"
    secret.parent.mkdir()
    torch.save(torchvision.models.squeezenet1_1().state_dict(), secret)
    pipe = pipeline().set_params(pretrainedfeatureextractor=extractor(weights=str(secret)))
    pipe.fit(study.X, study.y)
    report = diagnostic_report(pipe, study.X, study.y, pos_label="ill", saliency=None, n_failures=0)
    text = everything(report)
    assert "Secret" not in text
    assert pipe[0].reference_.digest in text
    assert pipe[0].reference_.digest.startswith("sha256:")


def test_page_loads_nothing_from_elsewhere(report):
    page = Page(report.to_html())
    kinds = {tag for tag, _ in page.tags}
    assert not kinds & {"script", "link", "iframe", "object", "embed", "base", "form"}
    for tag, attributes in page.tags:
        for name in ("src", "srcset", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/", "#")), (tag, name)
        assert not any(name.startswith("on") for name in attributes)
        if tag == "img":
            assert len(attributes["alt"]) > 20
    assert "url(" not in report.to_html()
    assert "@import" not in report.to_html()
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names))
    for part in PARTS:
        assert part in names


def test_figures_are_drawn_in_both_themes(report):
    figures = [own for part in report.sections.values() for own in part.figures]
    assert {own.name for own in figures} == {
        *("roc", "calibration", "distributions", "benefit", "failures", "saliency")
    }
    for own in figures:
        assert own.light.startswith("data:image/")
        assert own.light != own.dark
    # A browser reads `source` only inside `picture`.
    tags = [tag for tag, _ in Page(report.to_html()).tags]
    places = [place for place, tag in enumerate(tags) if tag == "source"]
    assert len(places) == len(figures)
    assert all(tags[place - 1 : place + 2] == ["picture", "source", "img"] for place in places)


def test_text_is_escaped(study, model):
    names = {"healthy": "<script>alert(1)</script>", "ill": "a|b *c* $\\d{$"}
    report = diagnostic_report(
        model, study.X, study.y, target_names=names, saliency=None, n_failures=0
    )
    page = Page(report.to_html())
    assert not any(tag == "script" for tag, _ in page.tags)
    assert "<script>alert(1)</script>" in page.text
    for line in report.to_markdown().splitlines():
        if "a\\|b" in line and line.startswith("|"):
            assert "\\*c\\*" in line


def test_markdown_tables_are_whole(report):
    width = None
    rows = 0
    for line in report.to_markdown().splitlines():
        if not line.startswith("|"):
            width = None
            continue
        cells = len(re.findall(r"(?<!\\)\|", line)) - 1
        assert width is None or cells == width, line
        width, rows = cells, rows + 1
    assert rows > 60
    assert "Telling \\<stripes\\> \\| apart." in report.to_markdown()


def test_card_lists_what_is_missing(report):
    assert report.to_dict()["card"]["missing"] == [
        "out_of_scope",
        "ethical_considerations",
        "caveats",
    ]
    assert "Neither the model nor this report is a medical device" in Page(report.to_html()).text


def test_files_are_written(report, tmp_path):
    for method, name in (("to_html", "r.html"), ("to_markdown", "r.md"), ("to_json", "r.json")):
        assert getattr(report, method)(tmp_path / name) is None
        assert (tmp_path / name).read_text(encoding="utf-8") == getattr(report, method)()


@pytest.mark.slow
def test_same_report_twice_is_the_same_page(digits):
    clf, X, y = digits
    first, second = (
        diagnostic_report(clf, X, y == 8, saliency=None, n_failures=4) for _ in range(2)
    )
    first.created = second.created = ""
    assert first.to_html() == second.to_html()


@pytest.mark.slow
def test_the_digest_is_that_of_what_was_learned(digits):
    clf, X, y = digits

    def digest(estimator):
        report = diagnostic_report(estimator, X, y == 8, saliency=None, n_failures=0)
        return report.to_dict()["model"]["digests"]["Learned parameters, all steps"]

    other = LogisticRegression(C=0.001, max_iter=500).fit(X[:200], y[:200] == 8)
    assert digest(clf) == digest(clf)
    assert digest(clf) != digest(other)
    assert digest(clf).startswith("sha256:")


def test_report_says_where_the_threshold_comes_from(digits, model, study):
    clf, X, y = digits

    def found(estimator, **settings):
        report = diagnostic_report(estimator, X, y == 8, saliency=None, n_failures=0, **settings)
        own = report.to_dict()["operating"]
        return own["points"]["The model's threshold"]["threshold"], own["threshold_source"]

    assert found(clf) == (0.5, "It is the usual 0.5: nobody has chosen one for this task.")
    fixed = FixedThresholdClassifier(clf, threshold=0.2).fit(X, y == 8)
    assert found(fixed)[0] == 0.2
    assert found(clf, threshold=0.3) == (0.3, "It was given to the report.")
    report = diagnostic_report(model, study.X, study.y, saliency=None, n_failures=0)
    assert "a sensitivity of at least 0.8" in report.to_dict()["operating"]["threshold_source"]
    assert report.to_dict()["operating"]["points"]["The model's threshold"]["threshold"] == (
        model.threshold_
    )


def test_the_first_of_two_classes_may_be_the_positive_one(digits):
    clf, X, y = digits
    report = diagnostic_report(
        clf,
        X,
        y == 8,
        pos_label=False,
        target_names=["other", "eight"],
        saliency=None,
        n_failures=0,
    )
    expected = roc_auc_interval(y != 8, clf.predict_proba(X)[:, 0])
    assert report.to_dict()["roc"]["roc_auc"] == pytest.approx(expected._asdict())
    assert "other against eight" in report.title


def test_model_without_probabilities_has_no_calibration(digits):
    _, X, y = digits
    clf = LinearSVC().fit(X[:150], y[:150] == 8)
    report = diagnostic_report(clf, X[150:], y[150:] == 8, saliency=None)
    found = report.to_dict()
    expected = roc_auc_interval(y[150:] == 8, clf.decision_function(X[150:]))
    assert found["roc"]["roc_auc"] == pytest.approx(expected._asdict())
    assert found["operating"]["points"]["The model's threshold"]["threshold"] == 0.0
    assert "no probabilities" in report.sections["calibration"].notices[0].text
    assert found["benefit"] == {}


def test_one_of_several_classes_is_compared_with_the_rest(digits):
    _, X, y = digits
    clf = LogisticRegression(max_iter=500).fit(X[:150], y[:150])
    with pytest.raises(ValueError, match="one of them against the rest: say which with pos_label="):
        diagnostic_report(clf, X[150:], y[150:])
    report = diagnostic_report(clf, X[150:], y[150:], pos_label=8, saliency=None, n_failures=0)
    expected = roc_auc_interval(y[150:] == 8, clf.predict_proba(X[150:])[:, 8])
    assert report.to_dict()["roc"]["roc_auc"] == pytest.approx(expected._asdict())
    assert "8 against not 8" in report.title


def test_rows_that_cannot_be_read_are_left_out_and_counted(study):
    nan = pipeline().set_params(
        pretrainedfeatureextractor=extractor(on_error="nan"),
        logisticregression=PassesNaN(max_iter=1000),
    )
    nan.fit(study.X, study.y)
    X = [*study.files[:60], b"no image", *study.files[60:]]
    y = np.insert(study.y.astype(object), 60, "ill")
    groups = np.insert(study.groups.astype(object), 60, "nobody")
    with pytest.warns(FailedRowsWarning):
        report = diagnostic_report(
            nan, X, y.astype(str), groups=groups, pos_label="ill", saliency=None
        )
    test = report.to_dict()["partition"]["parts"]["test"]
    assert (test["images"], test["unreadable"], test["patients"]) == (120, 1, 60)


class OnlyPredicts(ClassifierMixin, BaseEstimator):
    """Classifier without scores."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return self.classes_[np.zeros(len(X), int)]


class PassesNaN(LogisticRegression):
    """Classifier that predicts NaN for rows with NaN."""

    def predict_proba(self, X):
        whole = ~np.isnan(X).any(axis=1)
        found = np.full((len(X), 2), np.nan)
        found[whole] = super().predict_proba(X[whole])
        return found


def test_saliency_is_reported_with_its_sanity_test(report):
    found = report.to_dict()["saliency"]
    assert found["method"] == "gradient"
    assert found["sanity"]["steps"][0]["randomized"] == "classifier"
    assert isinstance(found["sanity"]["passed"], bool)
    (table,) = report.sections["saliency"].tables
    assert len(table.rows) == len(found["sanity"]["steps"])
    if not found["sanity"]["passed"]:
        assert any("do not interpret them" in text for text in report.warnings)


def test_a_map_that_fails_its_sanity_test_is_a_warning(digits, model, study, monkeypatch):
    steps = pd.DataFrame({"randomized": ["classifier"], "correlation": [0.9], "similarity": [0.9]})
    monkeypatch.setattr(
        "sktransfer.report._failures_and_maps.saliency_randomization_test",
        lambda *args, **kwargs: SimpleNamespace(table=steps, passed=False, max_correlation=0.5),
    )
    report = diagnostic_report(model, study.X, study.y, n_failures=0, n_saliency=1)
    assert any("do not interpret them" in text for text in report.warnings)


def test_occlusion_replaces_methods_without_gradient(digits):
    _, X, y = digits
    clf = RandomForestClassifier(20, random_state=0).fit(X[:150], y[:150] == 8)
    report = diagnostic_report(clf, X[150:], y[150:] == 8, n_saliency=2)
    assert report.to_dict()["saliency"]["method"] == "occlusion"
    notices = [notice.text for notice in report.sections["saliency"].notices]
    assert "gradient is not possible" in notices[0]
    assert [figure.name for figure in report.sections["saliency"].figures] == ["saliency"]


def test_images_are_left_out_on_request(digits):
    clf, X, y = digits
    report = diagnostic_report(clf, X, y == 8, images=False, saliency="occlusion", n_saliency=1)
    assert "image/webp" not in report.to_html()
    assert report.to_dict()["failures"]["errors"] > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"y": np.zeros(300)}, "all of one class"),
        ({"y": np.arange(300) % 3}, "labels that the estimator does not know: .2."),
        ({"y": np.ones(5, bool)}, "5 labels for 300 rows"),
        ({"groups": np.arange(5)}, "groups has 5 entries for 300 rows"),
        ({"pos_label": 7}, "pos_label=7 is not one of the classes"),
        ({"readers": {"A": np.ones(5, bool)}}, "has 5 rows for 300 rows of X"),
        ({"readers": {"A": np.full(300, 9)}}, "9 is not one of the classes"),
        ({"subgroups": {"site": np.arange(300).astype(str)}}, "at most 12 are tabulated"),
        ({"subgroups": {"site": ["a"]}}, "subgroup 'site' has 1 rows"),
        ({"metadata": {"site": ["a"]}}, "metadata 'site' has 1 rows"),
        ({"card": {"intended": "x"}}, "card has no heading 'intended'; it may have model_details"),
        ({"saliency": "lime"}, "saliency must be one of"),
        ({"target_names": ["a"]}, "target_names must be a different name for each"),
        ({"baselines": {"b": [0.5]}}, "baseline 'b' has 1 rows"),
        ({"y_train": [True, False], "groups_train": [1]}, "groups_train has 1 entries"),
    ],
)
def test_inconsistent_input_raises(digits, settings, message):
    clf, X, y = digits
    given = {"y": y == 8, "saliency": None, "n_failures": 0, **settings}
    with pytest.raises(ValueError, match=message):
        diagnostic_report(clf, X, **given)


@pytest.mark.parametrize("name", ["subgroups", "metadata"])
def test_columns_need_names(digits, name):
    clf, X, y = digits
    with pytest.raises(TypeError, match=f"{name} must be a DataFrame, or a mapping"):
        diagnostic_report(clf, X, y == 8, saliency=None, n_failures=0, **{name: [1, 2]})


def test_estimators_without_classes_or_scores_raise(digits):
    _, X, y = digits
    with pytest.raises(TypeError, match="LinearRegression has no classes_"):
        diagnostic_report(LinearRegression().fit(X, y), X, y)
    silent = OnlyPredicts().fit(X, y == 8)
    with pytest.raises(TypeError, match="neither predict_proba nor decision_function"):
        diagnostic_report(silent, X, y == 8)


def test_missing_jinja2_names_the_extra(digits, monkeypatch):
    clf, X, y = digits
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingDependencyError, match=r"sktransfer\[report\]"):
        diagnostic_report(clf, X, y == 8)
