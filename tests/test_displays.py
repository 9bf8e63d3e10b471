"""Every display keeps scikit-learn's conventions, and stands in the guide with an image."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor
from sktransfer.preprocessing import ImageAugmentation

matplotlib.use("agg")
import matplotlib.pyplot as plt

DOCS = Path(__file__).parents[1] / "docs"
PACKAGES = ("inspection", "metrics", "model_selection", "studies")
FACTORIES = (
    "from_estimator",
    "from_predictions",
    "from_cv_results",
    "from_curve",
    "from_ranking",
    "from_augmentation",
    "from_intervals",
)
LARGEST = 450_000  # bytes: drawn for fine screens, some of X-rays
X, y = load_digits(return_X_y=True)
X, y = X[:40], y[:40] % 2
SCORE = np.random.default_rng(0).random(40)


def displays():
    found = {}
    for package in PACKAGES:
        public = importlib.import_module(f"sktransfer.{package}")
        for name in public.__all__:
            if name.endswith("Display"):
                found[name] = getattr(public, name)
    return found


DISPLAYS = displays()
each = pytest.mark.parametrize("name", DISPLAYS)


def squeeze(**params):
    settings = {"weights": None, "image_size": 32, "value_range": (0, 16), "engine": "torch"}
    return PretrainedFeatureExtractor("squeezenet1_1", **settings, **params)


def tuned():
    return FineTuneClassifier(
        "squeezenet1_1",
        weights=None,
        image_size=32,
        value_range=(0, 16),
        engine="torch",
        freeze_depth="all",
        random_state=0,
    ).fit(X, y)


def linear():
    return LogisticRegression(C=1e-3).fit(X, y)


DEPTHS = pd.DataFrame(
    {
        "depth": [0, 1],
        "stage": ["-", "all"],
        "mean_score": [0.7, 0.8],
        "low": [0.6, 0.7],
        "high": [0.8, 0.9],
        "seconds": [2.0, 1.0],
    }
)
RANKING = pd.DataFrame(
    {
        "backbone": ["a", "a"],
        "layer": ["layer1", "embedding"],
        "score": [0.7, 0.8],
        "low": [0.6, 0.7],
        "high": [0.8, 0.9],
        "images_per_s": [90.0, 40.0],
        "pareto": [True, True],
    }
)
TRANSFER = pd.DataFrame(
    {
        "treatment": ["base", "AnB"],
        "depth": [0, 1],
        "seed": 0,
        "stage": ["", "layer1"],
        "score": 0.7,
    }
)
CONVERGENCE = pd.DataFrame(
    {"init": "random", "train_size": 50, "budget": [20, 40], "seed": 0, "score": [0.7, 0.8]}
)
FOUND = {
    "lr": np.geomspace(1e-6, 1e-2, 5),
    "loss": np.array([0.7, 0.69, 0.5, 0.4, np.nan]),
    "runs": np.array([[0.7, 0.69, 0.5, 0.4, np.nan]]),
    "start": 0.7,
    "suggestion": 1e-4,
    "valid_loss": np.array([0.8, np.nan, 0.7, np.nan, np.nan]),
    "valid_start": 0.8,
}
# How each is made; a display that is new has to be named here, and may not be forgotten below.
MADE = {
    "AugmentationDisplay": lambda cls: cls.from_augmentation(
        ImageAugmentation(rotation_range=9), X, value_range=(0, 16)
    ),
    "BackboneRankingDisplay": lambda cls: cls(table=RANKING, metric="loo_ridge").plot(),
    "CalibrationIntervalDisplay": lambda cls: cls.from_predictions(y, SCORE),
    "ConfusionExamplesDisplay": lambda cls: cls.from_predictions(y, SCORE, X),
    "ConfusionPairDisplay": lambda cls: cls.from_predictions(y, y, readers={"expert": 1 - y}),
    "ConvergenceDisplay": lambda cls: cls(table=CONVERGENCE).plot(),
    "DecisionCurveDisplay": lambda cls: cls.from_predictions(y, SCORE),
    "DeletionInsertionDisplay": lambda cls: cls.from_estimator(
        linear(), X[:2], y[:2], maps=("random",), n_steps=2, image_shape=(8, 8)
    ),
    "EmbeddingDisplay": lambda cls: cls.from_estimator(squeeze().fit(X), X, y, embedding=PCA(2)),
    "ErrorGalleryDisplay": lambda cls: cls.from_predictions(y, SCORE, X),
    "ForestDisplay": lambda cls: cls.from_intervals({"a": (0.8, 0.7, 0.9), "b": (0.6, 0.5, 0.7)}),
    "FreezeDepthDisplay": lambda cls: cls(curve=DEPTHS).plot(),
    "HistoryDisplay": lambda cls: cls.from_estimator(tuned()),
    "LearningRateDisplay": lambda cls: cls.from_result(FOUND),
    "MultilabelRocDisplay": lambda cls: cls.from_predictions(
        np.column_stack([y, 1 - y]), np.column_stack([SCORE, SCORE]), threshold=0.5
    ),
    "ReaderStudyDisplay": lambda cls: cls.from_predictions(y, SCORE, band=False),
    "SaliencyDisplay": lambda cls: cls.from_estimator(
        linear(), X[:1], y[:1], method="occlusion", patch=4, stride=4, image_shape=(8, 8)
    ),
    "ScoreDistributionDisplay": lambda cls: cls.from_predictions(y, SCORE),
    "TransferCurveDisplay": lambda cls: cls(table=TRANSFER).plot(),
    "TriageDisplay": lambda cls: cls.from_predictions(y, np.where(SCORE > 0.6, y, -1)),
}


@pytest.fixture(autouse=True)
def _no_windows(monkeypatch):
    def show(*args, **kwargs):
        pytest.fail("a display must not call show")

    monkeypatch.setattr(plt, "show", show)
    yield
    plt.close("all")


def test_every_display_is_tested_here():
    assert len(DISPLAYS) >= 15
    assert set(MADE) == set(DISPLAYS)


@each
def test_constructors_take_keywords_and_plot_takes_axes(name):
    cls = DISPLAYS[name]
    assert any(hasattr(cls, factory) for factory in FACTORIES)
    _, *parameters = inspect.signature(cls.__init__).parameters.values()
    assert parameters
    assert all(parameter.kind == parameter.KEYWORD_ONLY for parameter in parameters)
    plot = inspect.signature(cls.plot).parameters
    # One set of axes, or as many as there are panels.
    assert {"ax", "figure"} & set(plot)
    assert all(plot[where].default is None for where in ("ax", "figure") if where in plot)
    for factory in FACTORIES:
        if hasattr(cls, factory):
            assert inspect.ismethod(getattr(cls, factory)), f"{factory} is a classmethod"
            assert getattr(cls, factory).__doc__


@each
def test_a_display_plots_again_from_its_attributes(name):
    cls = DISPLAYS[name]
    display = MADE[name](cls)
    assert isinstance(display, cls)
    plt.close("all")
    names = list(inspect.signature(cls.__init__).parameters)[1:]
    again = cls(**{each: getattr(display, each) for each in names})
    assert not plt.get_fignums(), "nothing is drawn before plot"
    assert not [each for each in vars(again) if each.endswith("_")]
    assert again.plot() is again
    assert plt.get_fignums()
    axes = [again.ax_] if hasattr(again, "ax_") else list(np.ravel(again.axes_))
    assert axes
    for ax in axes:
        assert isinstance(ax, Axes)
        assert ax.figure is again.figure_
    again.figure_.draw_without_rendering()
    # Elsewhere, where it is told to.
    before = set(plt.get_fignums())
    figure = plt.figure()
    if "figure" in inspect.signature(cls.plot).parameters:
        assert again.plot(figure=figure).figure_ is figure
    else:
        ax = figure.subplots()
        again.plot(ax=ax)
        assert getattr(again, "ax_", ax) is ax
        assert again.figure_ is figure
    assert set(plt.get_fignums()) == before | {figure.number}


@each
def test_stands_in_the_reference_and_the_guide_with_an_image(name):
    assert re.search(rf"^   {name}$", (DOCS / "api.rst").read_text(), re.M)
    guide = (DOCS / "user_guide" / "displays.rst").read_text()
    # A section of its own, from its heading to the next.
    section = re.search(rf"^{name}\n~+\n(.*?)(?=^\w+\n[~=-]+\n|\Z)", guide, re.M | re.S)
    assert section, f"docs/user_guide/displays.rst has no section {name}"
    files = re.findall(r"^\.\. (?:image|figure):: (\S+)$", section[1], re.M)
    assert files, f"docs/user_guide/displays.rst has no image of {name}"
    alternatives = re.findall(r"^   :alt: (.+)$", section[1], re.M)
    assert len(alternatives) == len(files)
    assert all(len(words) > 20 for words in alternatives)
    others = [
        path
        for path in (DOCS / "user_guide").glob("*.rst")
        if path.name != "displays.rst" and name in path.read_text()
    ]
    assert others, f"no page of the user guide says when to use {name}"
    for file in files:
        path = (DOCS / "user_guide" / file).resolve()
        assert path.stat().st_size < LARGEST
        with Image.open(path) as image:
            assert min(image.size) > 200
            # An image, and not a blank one.
            assert np.asarray(image.convert("L")).std() > 5
