"""convergence_curve: starts, budgets and sizes; and the small version of the experiment."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator

from sktransfer import FineTuneClassifier
from sktransfer.studies import ConvergenceCurve, ConvergenceDisplay, convergence_curve
from sktransfer.studies._convergence import _rows
from tests.studies.conftest import halves

mpl.use("Agg")


def test_every_start_size_and_budget_is_trained(classifier):
    X, y = load_digits(return_X_y=True)
    X, y = (X.reshape(-1, 8, 8) / 16 * 255).astype(np.uint8)[:120], y[:120] % 2
    curve = convergence_curve(
        classifier(side=16, batch_size=8),
        X,
        y,
        budgets=[2, 12],
        train_sizes=[0.5, 80],
        n_repeats=2,
        test_size=0.25,
        random_state=1,
    )
    table = curve.table
    assert len(table) == 3 * 2 * 2 * 2
    assert set(table["train_size"]) == {45, 80}
    assert table["score"].between(0, 1).all()
    gaps = curve.differences("pretrained", "random")
    assert len(gaps) == 4
    row = gaps[(gaps["train_size"] == 80) & (gaps["budget"] == 12)].iloc[0]
    cell = table[(table["train_size"] == 80) & (table["budget"] == 12)]
    mean = cell.groupby("init")["score"].mean()
    assert row["mean"] == pytest.approx(mean["pretrained"] - mean["random"])


def test_every_image_once_before_any_again():
    rows = _rows(np.arange(10, 20), 25, seed=0)
    assert len(rows) == 25
    assert sorted(rows[:10]) == sorted(rows[10:20]) == list(range(10, 20))
    assert len(set(rows[20:])) == 5
    assert len(set(_rows(np.arange(100), 30, seed=0))) == 30


def test_few_steps_see_every_class(classifier, monkeypatch):
    """Two batches of four, and one image in thirty of the rare class."""
    seen = []
    fit = FineTuneClassifier.fit

    def spy(self, X, y, **rest):
        seen.append(np.asarray(y))
        fitted = fit(self, X, y, **rest)
        assert len(fitted.history[0]["batches"]) == 2
        return fitted

    monkeypatch.setattr(FineTuneClassifier, "fit", spy)
    X = np.random.default_rng(0).integers(0, 256, (120, 8, 8), dtype=np.uint8)
    y = np.where(np.arange(120) % 30, "many", "few")
    clf = classifier(side=16, batch_size=4, validation_fraction=0.25, early_stopping=1)
    convergence_curve(clf, X, y, budgets=[2], inits=["random"], n_repeats=3, scoring="roc_auc")
    assert [len(each) for each in seen] == [8] * 3
    assert all(set(each) == {"few", "many"} for each in seen)


def curve_of(gaps):
    """Mean scores of "pretrained" (0.9) and "random" (0.9 less a gap) by budget."""
    rows = [
        (init, 50, budget, 0, 0.9 - (gap if init == "random" else 0), 1.0)
        for budget, gap in gaps.items()
        for init in ("pretrained", "random")
    ]
    columns = ["init", "train_size", "budget", "seed", "score", "fit_time_s"]
    return ConvergenceCurve(pd.DataFrame(rows, columns=columns))


@pytest.mark.parametrize(
    ("gaps", "expected"),
    [
        ({10: 0.3, 20: 0.005, 40: 0.0}, 20),
        ({10: 0.3, 20: 0.005, 40: 0.2, 80: -0.1}, 80),  # it has to stay caught up
        ({10: 0.3, 20: 0.1}, np.nan),
        ({10: 0.0}, 10),
    ],
)
def test_catch_up(gaps, expected):
    found = curve_of(gaps).catch_up(0.01)
    np.testing.assert_equal(found[50], expected)


def test_time_to_reach():
    found = curve_of({10: 0.3, 20: 0.1}).time_to_reach(0.75)
    assert found.loc[50, "pretrained"] == 10
    assert found.loc[50, "random"] == 20
    assert curve_of({10: 0.3}).time_to_reach(0.75)["random"].isna().all()


def test_display_has_a_line_per_start_and_size():
    display = ConvergenceDisplay.from_curve(curve_of({10: 0.3, 20: 0.1}))
    np.testing.assert_allclose(display.lines_["random", 50].get_ydata(), [0.6, 0.8])
    assert display.ax_.get_xscale() == "log"
    assert [tick.get_text() for tick in display.ax_.get_xticklabels()] == ["10", "20"]
    mpl.pyplot.close(display.figure_)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inits": ["zeros"]}, "inits must be some of"),
        ({"budgets": [0]}, "numbers of steps"),
        ({"budgets": [1.9]}, "numbers of steps"),
        ({"train_sizes": [500]}, "up to 30"),
        ({"n_repeats": 0}, "n_repeats"),
    ],
)
def test_bad_values(classifier, options, message):
    X = np.zeros((40, 8, 8), np.uint8)
    with pytest.raises(ValueError, match=message):
        convergence_curve(classifier(), X, [0, 1] * 20, **options)


@pytest.mark.slow
def test_random_weights_catch_up_on_a_small_task(mnist, classifier):
    """science.md, section 2: pretraining wins early on, and in the end only where data are few.

    By how much it wins in the end with ten images of a digit depends on the digits: by 0.07 to
    0.26 with these, by more than 0.15 in each seed there.
    """
    X, y = mnist
    gaps = []
    for seed in range(4):
        (X_a, y_a), (X_b, y_b), (X_test, y_test) = halves(X, y, seed, 300, 250)
        a = classifier(
            seed, max_epochs=8, freeze_depth=0, module__freeze_batch_norm=False, head__init="random"
        ).fit(X_a, y_a)
        clf = classifier().set_params(backbone=FrozenEstimator(a))
        curve = convergence_curve(
            clf,
            X_b,
            y_b,
            budgets=[20, 320],
            inits=["pretrained", "random"],
            train_sizes=[50, 250, 1250],
            X_test=X_test,
            y_test=y_test,
            random_state=seed,
        )
        gap = curve.differences().set_index(["train_size", "budget"])["mean"]
        print(gap.unstack("budget").round(3))
        gaps.append(gap)
        assert (gap[:, 20] > 0.203).all()  # the least seen there
        assert gap[50, 320] > 0.05
        assert gap[250, 320] < 0.05
        assert gap[1250, 320] < 0.05
    assert np.mean([gap[50, 320] for gap in gaps]) > 0.15
