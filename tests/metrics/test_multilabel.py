"""Measures of several labels: scikit-learn's on the rows that are known, with honest intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    log_loss,
    recall_score,
    roc_auc_score,
)
from sklearn.multiclass import OneVsRestClassifier

from sktransfer.metrics import (
    MultilabelRocDisplay,
    multilabel_report,
    multilabel_score,
    roc_auc_interval,
)
from sktransfer.metrics._multilabel import MEASURES

LABELS = ["Effusion", "Mass", "Hernia"]


def _rows(seed=0, n=300, unknown=0.2):
    rng = np.random.default_rng(seed)
    y = (rng.random((n, 3)) < [0.4, 0.2, 0.1]).astype(float)
    proba = (1 / (1 + np.exp(1 - rng.normal(1.5 * y)))).round(2)  # with ties
    y[rng.random(y.shape) < unknown] = np.nan
    return y, proba


def test_each_label_has_the_measures_of_scikit_learn_on_the_rows_where_it_is_known():
    y, proba = _rows()
    report = multilabel_report(y, proba, labels=LABELS, n_resamples=50)
    for place, label in enumerate(LABELS):
        known = ~np.isnan(y[:, place])
        true, own = y[known, place], proba[known, place]
        row = report.loc[label]
        assert row["n"] == known.sum()
        assert row["n_positive"] == true.sum()
        for name, expected in {
            "roc_auc": roc_auc_score(true, own),
            "average_precision": average_precision_score(true, own),
            "log_loss": log_loss(true, own),
            "brier_score": brier_score_loss(true, own),
            "sensitivity": recall_score(true, own >= 0.5),
            "specificity": recall_score(true, own >= 0.5, pos_label=0),
        }.items():
            assert row[name] == pytest.approx(expected)
            assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
        area = roc_auc_interval(true, own)
        assert row[["roc_auc", "roc_auc_low", "roc_auc_high"]].tolist() == list(area)
    for name in MEASURES:
        assert report[name].iloc[:3].mean() == pytest.approx(report.loc["macro average", name])


def test_scores_of_rows_where_a_label_is_unknown_change_nothing():
    y, proba = _rows()
    other = np.where(np.isnan(y), 1 - proba, proba)
    pd.testing.assert_frame_equal(multilabel_report(y, proba), multilabel_report(y, other))
    for measure in MEASURES:
        assert multilabel_score(y, proba, measure=measure) == pytest.approx(
            multilabel_score(y, other, measure=measure)
        )


def test_one_score_is_the_mean_of_the_labels_that_have_both_kinds_of_rows():
    y, proba = _rows(unknown=0)
    assert multilabel_score(y, proba) == pytest.approx(roc_auc_score(y, proba))
    y[:, 2] = 0
    each = multilabel_score(y, proba, average=None)
    assert np.isnan(each[2])
    assert multilabel_score(y, proba) == pytest.approx(each[:2].mean())
    report = multilabel_report(y, proba)
    assert np.isnan(report.loc[2, "roc_auc"])
    assert report.loc["macro average", "roc_auc"] == pytest.approx(each[:2].mean())


def test_thresholds_belong_to_labels_and_groups_widen_intervals():
    y, proba = _rows(unknown=0)
    cuts = dict(zip(LABELS, [0.2, 0.5, 0.7], strict=True))
    report = multilabel_report(y, proba, labels=LABELS, threshold=cuts)
    for place, (label, cut) in enumerate(cuts.items()):
        assert report.loc[label, "threshold"] == cut
        found = recall_score(y[:, place], proba[:, place] >= cut)
        assert report.loc[label, "sensitivity"] == pytest.approx(found)
    same = report.drop(columns=[c for c in report if c.endswith(("_low", "_high"))])
    three = np.tile(np.arange(300), 3)
    copies = multilabel_report(
        np.tile(y, (3, 1)), np.tile(proba, (3, 1)), labels=LABELS, threshold=cuts, groups=three
    )
    pd.testing.assert_frame_equal(
        copies[same.columns].drop(columns=["n", "n_positive"]),
        same.drop(columns=["n", "n_positive"]),
    )
    for name in ("roc_auc", "average_precision", "brier_score"):
        wide, narrow = (
            (table[f"{name}_high"] - table[f"{name}_low"]).iloc[3] for table in (copies, report)
        )
        assert wide == pytest.approx(narrow, rel=0.25)


@pytest.mark.slow
def test_intervals_of_means_cover_with_ten_positives_a_label():
    hits = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        shared = 0.6 * rng.normal(size=(200, 2, 1))
        own = shared + 0.8 * rng.normal(size=(200, 2, 5))
        y = (own[:, 0] > 1.645).astype(float)
        mean = multilabel_report(y, 1.5 * y + own[:, 1], n_resamples=200).loc["macro average"]
        hits.append(mean["roc_auc_low"] <= 0.8556 <= mean["roc_auc_high"])  # Phi(1.5 / sqrt(2))
    assert 0.88 <= np.mean(hits) <= 0.99


def test_scores_that_are_no_probabilities_have_no_losses_and_perfect_ones_an_interval():
    y = np.repeat([[1, 0], [0, 1]], 20, axis=0)
    report = multilabel_report(y, 3.0 * y - 1)
    assert report[["log_loss", "brier_score"]].isna().all(axis=None)
    assert (report[["roc_auc", "average_precision"]] == 1).all(axis=None)
    assert (report[["roc_auc_low", "average_precision_low"]] > 0.8).all(axis=None)
    assert (report[["roc_auc_low", "average_precision_low"]] < 1).all(axis=None)


def test_what_does_not_fit_is_an_error():
    y, proba = _rows()
    with pytest.raises(ValueError, match="column for each of 3"):
        multilabel_report(y, proba[:, :2])
    with pytest.raises(ValueError, match="NaN in 1 of"):
        multilabel_score(y, np.where(np.arange(300)[:, None] == 5, np.nan, proba))
    with pytest.raises(ValueError, match="measure"):
        multilabel_score(y, proba, measure="accuracy")


@pytest.mark.parametrize(
    "estimator",
    [OneVsRestClassifier(LogisticRegression()), RandomForestClassifier(5, random_state=0)],
)
def test_a_curve_for_each_label_from_matrices_and_lists_of_probabilities(estimator):
    pytest.importorskip("matplotlib").use("Agg")
    y, proba = _rows(unknown=0)
    frame = pd.DataFrame(y.astype(int), columns=LABELS)
    estimator.fit(proba, frame.to_numpy())
    display = MultilabelRocDisplay.from_estimator(estimator, proba, frame, threshold=0.5)
    assert list(display.curves) == LABELS
    texts = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert [text.split(" ")[0] for text in texts] == LABELS
    assert len(display.ax_.lines) == 6  # and the points of the thresholds
