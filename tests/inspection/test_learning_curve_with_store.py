"""Learning curves with the cache: an image is computed once, over all sizes and folds."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import LearningCurveDisplay, StratifiedShuffleSplit, learning_curve
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor
from tests.counting import Counted, unseen

matplotlib.use("agg")
import matplotlib.pyplot as plt

N = 60


@pytest.fixture
def task():
    return unseen(N)


@pytest.fixture
def counted(tmp_path):
    yield Counted(tmp_path / "log")
    plt.close("all")


@pytest.fixture
def settings(counted):
    return {"weights": None, "image_size": 32, "preprocessing": counted, "engine": "torch"}


def test_every_image_is_embedded_once(task, counted, settings):
    feat = PretrainedFeatureExtractor("squeezenet1_1", **settings)
    pipe = make_pipeline(feat, StandardScaler(), LogisticRegression(max_iter=500))
    sizes = {"train_sizes": [10, 20, 40], "cv": 3, "scoring": "roc_auc"}
    display = LearningCurveDisplay.from_estimator(pipe, *task, score_type="both", **sizes)
    assert counted.n == N
    # The scores are those of the classifier on features that were extracted beforehand.
    features = feat.fit(task[0]).transform(task[0])
    _, train, test = learning_curve(pipe[1:], features, task[1], **sizes)
    np.testing.assert_allclose(display.train_scores, train)
    np.testing.assert_allclose(display.test_scores, test)
    assert counted.n == N


def test_every_image_passes_the_frozen_stages_once_for_training(task, counted, settings):
    clf = FineTuneClassifier(
        "squeezenet1_1", **settings, freeze_depth=-1, max_epochs=2, random_state=0
    )
    display = LearningCurveDisplay.from_estimator(
        clf,
        *task,
        train_sizes=[12, 24],
        cv=StratifiedShuffleSplit(3, test_size=0.4, random_state=0),
        score_type="both",
    )
    assert display.test_scores.shape == (2, 3)
    assert np.isfinite(display.test_scores).all()
    assert counted.n <= N  # some rows are in no part of any split
    again = counted.n
    LearningCurveDisplay.from_estimator(clf, *task, train_sizes=[20, 30], cv=3)
    assert again <= counted.n == N
