"""
How many images do I need?
==========================

These are two questions. How many images does it take to *train* a classifier that is
good enough? A learning curve on those that you have answers that. And how many does it take to
*prove* that it is good enough? That is computed without any images, and is often the larger
number.

The images are PneumoniaMNIST: chest X-rays of children, of 28 by 28 pixels (MedMNIST v2, Yang et
al., 2023, CC BY 4.0; see :ref:`gallery-data`).
"""

# %%
# Images to train on
# ------------------
# There are 776 images, half of them with pneumonia.
import os
from pathlib import Path

import numpy as np

data = Path(os.environ["SKTRANSFER_EXAMPLE_DATA"])
with np.load(data / "pneumoniamnist" / "pneumoniamnist.npz") as file:
    images, labels = file["train_images"], file["train_labels"].ravel()
rows = np.concatenate([np.flatnonzero(labels == c)[:388] for c in (0, 1)])
X, y = images[rows], np.array(["normal", "pneumonia"])[labels[rows]]

# %%
# scikit-learn's :class:`~sklearn.model_selection.LearningCurveDisplay` fits the pipeline fifty
# times, five sizes in ten splits. Embeddings are shared by all fits, so that each image goes
# through the network once: :func:`~sktransfer.cache_info` counts them.
import matplotlib.pyplot as plt
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import LearningCurveDisplay, StratifiedShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import PretrainedFeatureExtractor, cache_info, clear_cache

clear_cache()
pipe = make_pipeline(
    PretrainedFeatureExtractor("efficientnet_lite0", preprocessing="resize", image_size=96),
    StandardScaler(),
    LogisticRegression(C=0.01, max_iter=2000),
)
figure, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
curve = LearningCurveDisplay.from_estimator(
    pipe,
    X,
    y,
    train_sizes=[30, 60, 120, 240, 480],
    cv=StratifiedShuffleSplit(10, test_size=0.3, random_state=0),
    scoring="roc_auc",
    score_type="test",
    score_name="ROC AUC",
    ax=ax,
)
ax.lines[0].set_marker("o")
ax.set_xscale("log")
ax.set_xticks(curve.train_sizes, curve.train_sizes)
ax.minorticks_off()
ax.set(xlabel="training images", title="PneumoniaMNIST, frozen EfficientNet-Lite0")
print(f"{cache_info().n_rows} images embedded for 50 fits")

# %%
# What would twice as many bring? Learning curves often follow a power law: the distance from 1
# shrinks by about the same factor with every doubling.
error = 1 - curve.test_scores.mean(axis=1)
slope, intercept = np.polyfit(np.log(curve.train_sizes), np.log(error), 1)
for n in (480, 960, 1920):
    print(f"{n:5} images: ROC AUC {1 - np.exp(intercept + slope * np.log(n)):.3f}")
print(f"each doubling leaves {2**slope:.0%} of the distance from 1")

# %%
# Trust such a line for one or two doublings and no more. If the curve were flat at its end, more
# images like these would not help: a larger image, another network or other patients might.
#
# Images to test on
# -----------------
# Say that the sensitivity must be at least 0.95, with confidence 0.95. Even a classifier that
# misses nobody has to be tested on so many images *with* the disease, one a patient; a few misses
# cost many more:
from sktransfer.metrics import allowed_misses, rows_needed

for misses in (0, 1, 5, 10):
    print(f"{misses:2} missed: {rows_needed(0.95, misses=misses):4} positive images")

# %%
# Read the other way round, :func:`~sktransfer.metrics.allowed_misses` says how many of those at
# hand may be missed. The 390 positive images of the published test set allow for
print(allowed_misses(390, target_level=0.95), "misses")

# %%
# How wide would the interval of a rate be? At a true specificity of 0.8:
from sktransfer.metrics import rate_interval

for n in (50, 200, 800):
    _, low, high = rate_interval(0.8 * n, n)
    print(f"{n:4} healthy patients: {low:.2f} to {high:.2f}")

# sphinx_gallery_thumbnail_path = '_static/gallery/how_many_images_1.webp'
