"""
Which network, and which of its layers?
=======================================

A list of networks is long, and trying each of them with fine-tuning takes days. Ranking their
frozen features takes one pass over the images per network, all layers included. Here
EfficientNet-Lite0 with its ImageNet weights competes at two image sizes with networks that were
never trained: whoever is not better than those has no use for the pretraining.

The images are PneumoniaMNIST: chest X-rays of children, of 28 by 28 pixels (MedMNIST v2, Yang et
al., 2023, CC BY 4.0; see :ref:`gallery-data`).
"""

# %%
import os
from pathlib import Path

import numpy as np

data = Path(os.environ["SKTRANSFER_EXAMPLE_DATA"])
with np.load(data / "pneumoniamnist" / "pneumoniamnist.npz") as file:
    images, labels = file["train_images"], file["train_labels"].ravel()
rows = np.concatenate([np.flatnonzero(labels == c)[:200] for c in (0, 1)])
X, y = images[rows], np.array(["normal", "pneumonia"])[labels[rows]]

# %%
# :func:`~sktransfer.model_selection.rank_backbones` takes names, or extractors with settings of
# their own. ``weights=None`` is a network with random weights. By default it ranks networks by all
# their layers side by side; ``layers="each"`` looks into them.
from sktransfer import PretrainedFeatureExtractor
from sktransfer.model_selection import BackboneRankingDisplay, rank_backbones


def candidate(name, size, **params):
    return PretrainedFeatureExtractor(name, image_size=size, preprocessing="resize", **params)


ranking = rank_backbones(
    X,
    y,
    {
        "EfficientNet-Lite0, 64 px": candidate("efficientnet_lite0", 64),
        "EfficientNet-Lite0, 128 px": candidate("efficientnet_lite0", 128),
        "random ResNet-18, 64 px": candidate("resnet18", 64, weights=None),
        "random SqueezeNet, 64 px": candidate("squeezenet1_1", 64, weights=None),
    },
    layers="each",
    scoring="roc_auc",
)
best = ranking.table.sort_values("score", ascending=False)
best[["backbone", "layer", "score", "low", "high"]].head(6).round(3)

# %%
# The score is that of a ridge regression, each image predicted from all others; its interval comes
# from resampling images. The plot adds what a layer costs, on a machine that did other things too.
import matplotlib.pyplot as plt

figure, ax = plt.subplots(figsize=(7.4, 4.8), layout="constrained")
BackboneRankingDisplay.from_ranking(ranking, ax=ax)
ax.set_title("400 images of PneumoniaMNIST")

# %%
# The deepest layer is seldom the best for images unlike photographs: here the middle of the
# network is, at both sizes, and 128 pixels add nothing to 64. The networks that were never trained
# come close. On images of 28 pixels most of the score needs no pretraining, and only this baseline
# tells.
#
# A ranking narrows a choice and does not replace a test: the best of many is a little lucky. So
# the best layer is compared with the embedding, the usual choice, and with all layers side by side
# on images that took no part.
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer.metrics import roc_auc_interval

with np.load(data / "pneumoniamnist" / "pneumoniamnist.npz") as file:
    X_test, y_test = file["test_images"], file["test_labels"].ravel()
trained = best[best["backbone"].str.startswith("EfficientNet")].iloc[0]
size = int(trained["backbone"].split()[-2])
for layer in (trained["layer"], "embedding", "all"):
    pipe = make_pipeline(
        candidate("efficientnet_lite0", size, layer=None if layer == "embedding" else layer),
        StandardScaler(),
        LogisticRegression(C=0.01, max_iter=2000),
    )
    score = pipe.fit(X, y).predict_proba(X_test)[:, 1]
    area, low, high = roc_auc_interval(y_test, score)
    print(f"{layer:10} ROC AUC {area:.3f} (95 %: {low:.3f} to {high:.3f})")

# %%
# :func:`~sktransfer.list_backbones` lists the networks that there are.
# :class:`~sktransfer.model_selection.BackboneRanking` is what the ranking returns, and
# :class:`~sktransfer.model_selection.BackboneRankingDisplay` draws it. The score is
# :func:`~sktransfer.model_selection.loo_ridge_score`; others are
# :func:`~sktransfer.model_selection.knn_score`, :func:`~sktransfer.model_selection.logme_score`,
# :func:`~sktransfer.model_selection.h_score`, and, for networks with a classifier of their own,
# :func:`~sktransfer.model_selection.leep_score` and :func:`~sktransfer.model_selection.nce_score`.
# Whether your images are like those of the pretraining is measured by
# :func:`~sktransfer.model_selection.domain_distance` (a
# :class:`~sktransfer.model_selection.DomainDistance`), and
# :func:`~sktransfer.model_selection.recommend_strategy` makes a recommendation of it (a
# :class:`~sktransfer.model_selection.StrategyAdvice`).
# :func:`~sktransfer.studies.compare_backbones` tests a few networks on the same folds (a
# :class:`~sktransfer.studies.BackboneComparison`).

# sphinx_gallery_thumbnail_path = '_static/gallery/choose_a_network_1.webp'
