"""
Search for similar images
=========================

"Show me more like this one": the features of a pretrained network are near each other where images
look alike, without any label and without any training. This example cuts scikit-learn's two
photographs, a temple and a flower, into patches, and searches among them.
"""

# %%
# Each photograph has 427 by 640 pixels, which makes 60 patches of 64 by 64.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_images

photographs = load_sample_images().images
size = 64
patches, origin = [], []
for number, photograph in enumerate(photographs):
    for top in range(0, photograph.shape[0] - size + 1, size):
        for left in range(0, photograph.shape[1] - size + 1, size):
            patches.append(photograph[top : top + size, left : left + size])
            origin.append(["temple", "flower"][number])
X, origin = np.stack(patches), np.array(origin)

figure, axes = plt.subplots(1, 2, figsize=(8, 2.9), layout="constrained")
for ax, photograph in zip(axes, photographs, strict=True):
    ax.imshow(photograph)
    ax.set_xticks(range(0, 640, size), [])
    ax.set_yticks(range(0, 427, size), [])
    ax.grid(color="white", linewidth=0.5)
figure.suptitle(f"{len(X)} patches of two photographs")

# %%
# The network was trained on photographs, so its last layer is a good place to compare them. There
# is nothing to fit but the weights to load.
from sktransfer import PretrainedFeatureExtractor
from sktransfer.inspection import similar_images

features = PretrainedFeatureExtractor(
    "efficientnet_lite0", preprocessing="resize", image_size=96
).fit(X)

# %%
# Four patches ask for those like them: the roof, the sky, the petals, and the leaves behind them.
queries = [13, 5, 85, 64]
neighbors = similar_images(features, X, queries, n_neighbors=6)
figure, axes = plt.subplots(len(queries), 7, figsize=(8, 4.9), layout="constrained")
for query, row_of_axes in zip(queries, axes, strict=True):
    rows = [query, *neighbors.loc[neighbors["query"] == query, "row"]]
    for ax, row in zip(row_of_axes, rows, strict=True):
        ax.imshow(X[row])
        ax.set_axis_off()
axes[0, 0].set_title("query")
axes[0, 1].set_title("nearest", loc="left")

# %%
# How often is the nearest patch from the same photograph? Compared with the mean color of a patch,
# the network knows more than color.
everything = np.arange(len(X))
nearest = similar_images(features, X, everything, n_neighbors=1)["row"]
print(f"network: {np.mean(origin[nearest] == origin):.0%} from the same photograph")

from sklearn.neighbors import NearestNeighbors

color = X.mean(axis=(1, 2))
_, found = NearestNeighbors(n_neighbors=2).fit(color).kneighbors(color)
print(f"mean color: {np.mean(origin[found[:, 1]] == origin):.0%}")

# %%
# The same search finds near-duplicates across a split, and other images of one patient. A map of
# all images at once is :class:`~sktransfer.inspection.EmbeddingDisplay`.
from sktransfer.inspection import EmbeddingDisplay

figure, ax = plt.subplots(figsize=(7, 5.4), layout="constrained")
EmbeddingDisplay.from_estimator(features, X, origin, thumbnails=True, thumbnail_size=30, ax=ax)
ax.set_title("t-SNE of the patches")
plt.show()
# sphinx_gallery_thumbnail_number = 2
