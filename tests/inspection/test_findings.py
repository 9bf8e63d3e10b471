"""Maps of one of several findings."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.pipeline import make_pipeline

from sktransfer import (
    FineTuneClassifier,
    MultiLabelLogisticRegression,
    PretrainedFeatureExtractor,
    TransferClassifier,
)
from sktransfer.inspection import SaliencyDisplay, saliency_maps

NETWORK = {"weights": None, "image_size": 32}


@pytest.fixture(scope="module")
def task():
    rng = np.random.default_rng(0)
    Y = rng.random((24, 2)) < 0.5
    X = rng.integers(60, 120, (24, 32, 32, 3))
    X[:, :16, :16] += (100 * Y[:, 0])[:, None, None, None]
    X[:, 16:, 16:] += (100 * Y[:, 1])[:, None, None, None]
    return X.astype(np.uint8), pd.DataFrame(Y.astype(float), columns=["upper", "lower"])


def fitted(kind, task):
    if kind == "fine-tuned":
        clf = FineTuneClassifier("squeezenet1_1", freeze_depth="all", random_state=0, **NETWORK)
    elif kind == "pipeline":
        features = PretrainedFeatureExtractor("squeezenet1_1", layer="all", **NETWORK)
        clf = make_pipeline(features, MultiLabelLogisticRegression())
    else:
        networks = [
            PretrainedFeatureExtractor(name, **NETWORK)
            for name in ("squeezenet1_1", "squeezenet1_0")
        ]
        clf = TransferClassifier(networks, random_state=0)
    return clf.fit(*task)


@pytest.mark.parametrize("kind", ["fine-tuned", "pipeline", "average"])
def test_a_map_is_of_the_logit_of_the_finding_that_is_named(kind, task):
    X, _ = task
    clf = fitted(kind, task)
    upper, lower, both = (
        saliency_maps(clf, X[:2], y, method="integrated_gradients", n_steps=16)
        for y in ("upper", "lower", ["upper", "lower"])
    )
    np.testing.assert_allclose(both[0], upper[0])
    np.testing.assert_allclose(both[1], lower[1])
    if kind == "fine-tuned":
        alone = saliency_maps(
            fitted(kind, (X, task[1]["lower"])),
            X[:2],
            1.0,
            method="integrated_gradients",
            n_steps=16,
        )
        np.testing.assert_allclose(alone[1], lower[1], atol=1e-4 * np.nanmax(np.abs(lower[1])))
    covered = saliency_maps(clf, X[:1], "lower", method="occlusion", patch=16, stride=16)
    assert covered[0].shape == (32, 32)
    with pytest.raises(ValueError, match="'middle', which is none of the classes"):
        saliency_maps(clf, X[:1], "middle")


def test_the_display_names_the_finding(task):
    X, _ = task
    display = SaliencyDisplay.from_estimator(fitted("fine-tuned", task), X[:2], "lower")
    assert display.titles == ["lower", "lower"]
