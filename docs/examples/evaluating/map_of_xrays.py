"""
A map of the images: PCA and t-SNE of a network's features
==========================================================

Images that a network finds similar are near each other in the space of its features. Projected to
two dimensions, that space shows whether the classes separate at all, where the misclassified
images lie, and which images are neighbors.

The images are PneumoniaMNIST: chest X-rays of children, of 28 by 28 pixels (MedMNIST v2, Yang et
al., 2023, CC BY 4.0; see :ref:`gallery-data`).
"""

# %%
import os
from pathlib import Path

import numpy as np

data = Path(os.environ["SKTRANSFER_EXAMPLE_DATA"])
with np.load(data / "pneumoniamnist" / "pneumoniamnist.npz") as file:
    images, labels = file["test_images"], file["test_labels"].ravel()
rows = np.concatenate([np.flatnonzero(labels == c)[:200] for c in (0, 1)])
X, y = images[rows], np.array(["normal", "pneumonia"])[labels[rows]]

# %%
# Predictions are made out of fold, so that each comes from a model that has not seen the image.
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import PretrainedFeatureExtractor

pipe = make_pipeline(
    PretrainedFeatureExtractor("efficientnet_lite0", preprocessing="resize", image_size=96),
    StandardScaler(),
    LogisticRegression(C=0.01, max_iter=2000),
)
y_pred = cross_val_predict(pipe, X, y, cv=5)
features = pipe.fit(X, y)[:-1]
print(f"accuracy out of fold {accuracy_score(y, y_pred):.3f}")

# %%
# :class:`~sktransfer.inspection.EmbeddingDisplay` draws two projections of the same 1280 features.
# PCA is linear: distances mean something, but two components hold only a part of the variance.
# t-SNE keeps neighbors together, and nothing else: the gaps between groups, their sizes and the
# axes mean nothing. Rings are misclassified images.
import matplotlib.pyplot as plt
from sklearn.decomposition import PCA

from sktransfer.inspection import EmbeddingDisplay

pca = PCA(2, random_state=0)
figure, axes = plt.subplots(1, 2, figsize=(8.8, 4.2), layout="constrained")
EmbeddingDisplay.from_estimator(features, X, y, y_pred=y_pred, embedding=pca, ax=axes[0])
axes[0].set_title("PCA")
axes[0].get_legend().remove()
EmbeddingDisplay.from_estimator(features, X, y, y_pred=y_pred, ax=axes[1])
axes[1].set_title("t-SNE")
print(f"PCA: {pca.fit(features.transform(X)).explained_variance_ratio_.sum():.0%} of the variance")

# %%
# The images themselves say what lies where: hazy lungs on one side, dark and clear ones on the
# other.
figure, ax = plt.subplots(figsize=(7.4, 5.6), layout="constrained")
EmbeddingDisplay.from_estimator(
    features,
    X,
    y,
    y_pred=y_pred,
    thumbnails=True,
    thumbnail_size=24,
    overlap=False,
    ax=ax,
)
ax.set_title("t-SNE with thumbnails; thick black frames are misclassified")

# %%
# A question about one image needs no map. :func:`~sktransfer.inspection.similar_images` looks for
# its neighbors in the full space. Here are those of three misclassified X-rays with their true
# classes: neighbors of the other class say that the image looks like it to the network.
from sktransfer.inspection import similar_images

wrong = np.flatnonzero(y != y_pred)[[1, 2, -1]]
neighbors = similar_images(features, X, wrong, n_neighbors=5)
figure, axes = plt.subplots(3, 6, figsize=(7.4, 4.2), layout="constrained")
for query, ax in zip(wrong, axes, strict=True):
    shown = [query, *neighbors.loc[neighbors["query"] == query, "row"]]
    for place, (row, one) in enumerate(zip(shown, ax, strict=True)):
        one.imshow(X[row], cmap="gray")
        one.set_title(f"{'query: ' if place == 0 else ''}{y[row]}", fontsize=9)
        one.set_axis_off()

# sphinx_gallery_thumbnail_path = '_static/gallery/map_of_xrays_2.webp'
