"""A small task and a small network for every test of fine-tuning."""

from __future__ import annotations

import numpy as np
import pytest

from sktransfer import FineTuneClassifier

N, SIDE = 40, 24


@pytest.fixture(scope="session")
def task():
    """Dark and bright noise: easy, and not perfectly so."""
    rng = np.random.default_rng(0)
    y = np.arange(N) % 2
    X = rng.integers(0, 200, (N, SIDE, SIDE, 3)) + 30 * y[:, None, None, None]
    return X.astype(np.uint8), y


@pytest.fixture
def small():
    """A FineTuneClassifier that trains in a second; BatchNorm is in its network."""

    def make(backbone="resnet18", **parameters):
        settings = {"weights": None, "image_size": 32, "max_epochs": 2, "batch_size": 8}
        settings |= {"random_state": 0, "engine": "torch", **parameters}
        return FineTuneClassifier(backbone, **settings)

    return make
