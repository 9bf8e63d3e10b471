"""
Look at the errors
==================

No figure says as much about a classifier as an hour with the images that it gets wrong: wrong
labels, images that show something else, and what the errors have in common are all there. Begin
with the most confident errors.

The images are PneumoniaMNIST: chest X-rays of children, of 28 by 28 pixels (MedMNIST v2, Yang et
al., 2023, CC BY 4.0; see :ref:`gallery-data`).
"""

# %%
import os
from pathlib import Path

import numpy as np

data = Path(os.environ["SKTRANSFER_EXAMPLE_DATA"])
names = np.array(["normal", "pneumonia"])
with np.load(data / "pneumoniamnist" / "pneumoniamnist.npz") as file:
    images, labels = file["train_images"], file["train_labels"].ravel()
    X_test, y_test = file["test_images"], names[file["test_labels"].ravel()]
rows = np.concatenate([np.flatnonzero(labels == c)[:388] for c in (0, 1)])
X, y = images[rows], names[labels[rows]]

# %%
# A frozen network and a logistic regression, trained on as many images of each class.
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import PretrainedFeatureExtractor

clf = make_pipeline(
    PretrainedFeatureExtractor(
        "efficientnet_lite0", layer="all", preprocessing="resize", image_size=96
    ),
    StandardScaler(),
    LogisticRegression(C=0.01, max_iter=2000),
).fit(X, y)
print(f"accuracy {clf.score(X_test, y_test):.3f}")

# %%
# A confusion matrix of images
# ----------------------------
# :class:`~sktransfer.inspection.ConfusionExamplesDisplay` puts a typical image into each cell, the
# one of median confidence among those counted there.
import matplotlib.pyplot as plt

from sktransfer.inspection import ConfusionExamplesDisplay, ErrorGalleryDisplay

figure, ax = plt.subplots(figsize=(5, 4.4), layout="constrained")
ConfusionExamplesDisplay.from_estimator(clf, X_test, y_test, ax=ax)
ax.set_title("624 test images")

# %%
# The most confident errors
# -------------------------
# :class:`~sktransfer.inspection.ErrorGalleryDisplay` with ``by_class=True`` has a row for each
# true class: above false alarms, below missed cases. Titles give the row of the test set, so that
# each can be looked up.
figure = plt.figure(figsize=(8, 5), layout="constrained")
errors = ErrorGalleryDisplay.from_estimator(
    clf, X_test, y_test, by_class=True, n_images=8, figure=figure
)
confidence = errors.table.groupby(["y_true", "y_pred"])["confidence"]
confidence.agg(["count", "min", "max"]).round(2)

# %%
# What do they have in common?
# ----------------------------
# Most errors are false alarms. Is there something about those images that can be measured?
# Brightness is the first thing to try.
y_pred = clf.predict(X_test)
brightness = X_test.mean(axis=(1, 2))
figure, ax = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
kinds = {
    "normal, called normal": (y_test == "normal") & (y_pred == "normal"),
    "normal, called pneumonia": (y_test == "normal") & (y_pred == "pneumonia"),
    "pneumonia, called pneumonia": (y_test == "pneumonia") & (y_pred == "pneumonia"),
    "pneumonia, called normal": (y_test == "pneumonia") & (y_pred == "normal"),
}
ax.boxplot([brightness[rows] for rows in kinds.values()], orientation="horizontal", widths=0.6)
ax.set_yticks(range(1, 5), [f"{kind} ({rows.sum()})" for kind, rows in kinds.items()])
ax.invert_yaxis()
ax.set(xlabel="mean gray level", title="Brightness by outcome")

# %%
# There is: false alarms are brighter than other normal images, and missed cases darker than
# other pneumonia. Part of what the classifier goes by is exposure, which depends on the machine.
# An augmentation with ``brightness_range`` makes a fine-tuned network depend on it less.
#
# Are the test images like those of training at all? The false alarms of each say no:
from sklearn.model_selection import cross_val_predict

within = cross_val_predict(clf, X, y, cv=5)
print(
    f"false alarms, training images out of fold: {np.mean(within[y == 'normal'] != 'normal'):.0%}"
)
print(f"false alarms, test images: {np.mean(y_pred[y_test == 'normal'] != 'normal'):.0%}")

# sphinx_gallery_thumbnail_path = '_static/gallery/look_at_the_errors_2.webp'
