"""Images of stripes: upright ones are "healthy", lying ones are "ill", and nothing else tells."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import PretrainedFeatureExtractor
from sktransfer.model_selection import OperatingPointClassifier
from sktransfer.report import diagnostic_report

SIDE = 48


@pytest.fixture(autouse=True)
def pyplot():
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


def stripes(ill: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return noisy stripes of any phase, uint8 of shape (n, SIDE, SIDE)."""
    rng = np.random.default_rng(seed)
    images = []
    for lying in ill:
        wave = 45 * np.sin(np.arange(SIDE) * rng.uniform(0.8, 1.2) + rng.uniform(0, 6))
        lines = np.tile(wave, (SIDE, 1))
        noise = rng.normal(0, rng.uniform(20, 60), (SIDE, SIDE))
        images.append(128 + (lines.T if lying else lines) + noise)
    return np.clip(images, 0, 255).astype(np.uint8)


def marked(images: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Draw a white L in the upper left corner of some images."""
    images = images.copy()
    images[which, 3:12, 3:5] = 255
    images[which, 10:12, 3:9] = 255
    return images


def extractor(**parameters) -> PretrainedFeatureExtractor:
    """Return a small extractor without weights."""
    settings = {"weights": None, "image_size": 48, "layer": "features.3", "cache": False}
    return PretrainedFeatureExtractor("squeezenet1_1", **{**settings, **parameters})


def pipeline():
    return make_pipeline(extractor(), StandardScaler(), LogisticRegression(max_iter=1000))


def cohort(n: int, seed: int) -> SimpleNamespace:
    """Return labels by patient, two images of each, and what is known of them."""
    rng = np.random.default_rng(seed)
    ill = np.repeat(rng.integers(0, 2, n // 2), 2)
    flipped = np.where(rng.random(n) < 0.1, 1 - ill, ill)  # labels are noisy
    return SimpleNamespace(
        y=np.where(flipped, "ill", "healthy"),
        X=stripes(ill, seed),
        groups=np.array([f"PATIENT-{seed}-{i // 2:04d}-x" for i in range(n)]),
        subgroups=pd.DataFrame(
            {"sex": rng.choice(["f", "m"], n), "age": rng.integers(20, 90, n).astype(float)}
        ),
        metadata=pd.DataFrame({"view": rng.choice(["AP", "PA"], n), "dose": rng.normal(size=n)}),
        readers={
            "Dr Smith": np.where(rng.random(n) < 0.8, flipped, 1 - flipped).astype(bool),
            "Dr Jones": np.where(rng.random(n) < 0.9, np.where(flipped, "ill", "healthy"), None),
        },
    )


def readable(page: str) -> str:
    """Return a page with figures decoded to text, and without photographs."""
    page = re.sub(
        r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)",
        lambda found: base64.b64decode(found[1]).decode(),
        page,
    )
    return re.sub(r"data:image/[a-z]+;base64,[A-Za-z0-9+/=]+", "", page)


@pytest.fixture(scope="session")
def train():
    return cohort(160, 1)


@pytest.fixture(scope="session")
def model(train):
    """Return a classifier with a threshold of its own."""
    clf = OperatingPointClassifier(pipeline(), target_level=0.8, pos_label="ill", cv=3)
    return clf.fit(train.X, train.y, groups=train.groups)


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    """Return a test cohort as files that are named like people."""
    found = cohort(120, 2)
    folder: Path = tmp_path_factory.mktemp("ward-seven")
    found.files = [str(folder / f"Doe-Jane-{i:04d}.png") for i in range(120)]
    for file, pixels in zip(found.files, found.X, strict=True):
        Image.fromarray(pixels).save(file)
    return found


@pytest.fixture(scope="session")
def report(model, study, train):
    return diagnostic_report(
        model,
        study.files,
        study.y,
        groups=study.groups,
        readers=study.readers,
        subgroups=study.subgroups,
        metadata=study.metadata,
        X_train=train.X,
        y_train=train.y,
        groups_train=train.groups,
        baselines={"coin": np.random.default_rng(0).random(120)},
        thresholds={"At one half": 0.5},
        card={"intended_use": "Telling <stripes> | apart."},
        n_saliency=2,
    )
