"""
Fine-tuning or frozen features?
===============================

A frozen network with a logistic regression takes seconds. Training the network's last stages takes
longer, and may or may not be better. It depends on how many images there are, so this example
measures it for three sizes of training set, and against a classifier without any network.

The images are PneumoniaMNIST: chest X-rays of children, of 28 by 28 pixels (MedMNIST v2, Yang et
al., 2023, CC BY 4.0; from Kermany et al., 2018). :ref:`gallery-data` says where to get them.
"""

# %%
# Half of the training images of each size have pneumonia. The test set is the published one.
import os
from pathlib import Path

import numpy as np

data = Path(os.environ["SKTRANSFER_EXAMPLE_DATA"])
with np.load(data / "pneumoniamnist" / "pneumoniamnist.npz") as file:
    X_all, y_all = file["train_images"], file["train_labels"].ravel()
    X_test, y_test = file["test_images"], file["test_labels"].ravel()
rng = np.random.default_rng(0)
of_class = [rng.permutation(np.flatnonzero(y_all == c)) for c in (0, 1)]


def training_set(n):
    rows = np.concatenate([rows[: n // 2] for rows in of_class])
    return X_all[rows], y_all[rows]


# %%
# Three ways to learn from the same images. The first sees pixels. The second is a probe: with
# ``freeze_depth="all"``, :class:`~sktransfer.FineTuneClassifier` keeps every stage as it is and
# solves the last layer exactly. The third begins there and also trains the last three stages.
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sktransfer import FineTuneClassifier

settings = {"preprocessing": "resize", "image_size": 64, "random_state": 0}
models = {
    "pixels, no network": make_pipeline(
        FunctionTransformer(lambda images: images.reshape(len(images), -1) / 255),
        StandardScaler(),
        LogisticRegression(C=0.001, max_iter=2000),
    ),
    "frozen": FineTuneClassifier("efficientnet_lite0", freeze_depth="all", **settings),
    "last three stages trained": FineTuneClassifier(
        "efficientnet_lite0", freeze_depth=-3, lr=3e-4, max_epochs=8, **settings
    ),
}

# %%
# :func:`~sktransfer.metrics.roc_auc_interval` says how certain each area under the curve is.
import pandas as pd

from sktransfer.metrics import roc_auc_difference, roc_auc_interval

sizes = [40, 160, 640]
found, scores = [], {}
for n in sizes:
    X, y = training_set(n)
    for name, model in models.items():
        scores[name] = model.fit(X, y).predict_proba(X_test)[:, 1]
        found.append(
            {"images": n, "model": name, **roc_auc_interval(y_test, scores[name])._asdict()}
        )
table = pd.DataFrame(found)
table.pivot(index="model", columns="images", values="estimate").round(3)

# %%
import matplotlib.pyplot as plt

figure, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
for shift, (name, rows) in zip((0.95, 1, 1.05), table.groupby("model", sort=False), strict=True):
    below, above = rows["estimate"] - rows["low"], rows["high"] - rows["estimate"]
    ax.errorbar(
        rows["images"] * shift, rows["estimate"], [below, above], marker="o", capsize=3, label=name
    )
ax.set_xscale("log")
ax.set_xticks(sizes, sizes)
ax.minorticks_off()
ax.set(xlabel="training images", ylabel="ROC AUC, 624 test images", title="PneumoniaMNIST")
ax.legend()

# %%
# With 40 images the training of three stages does harm, and even the frozen network is no better
# than pixels: at this size the images are easy and few. With 160 the order begins to turn, and
# with 640 fine-tuning is ahead. Two models that saw the same test images are compared in pairs,
# which is sharper than to look whether their intervals overlap.
names = list(models)
difference = roc_auc_difference(y_test, scores[names[2]], scores[names[1]])
print(f"fine-tuned minus frozen with {n} images: {difference.estimate:+.3f}")
print(f"(95 %: {difference.low:+.3f} to {difference.high:+.3f}), p = {difference.pvalue:.1g}")

# %%
# How a training went is drawn by :class:`~sktransfer.inspection.HistoryDisplay`. With several
# images of a patient, the rows that choose the epoch need
# :class:`~sktransfer.model_selection.GroupedValidSplit`. Two studies go further:
# :func:`~sktransfer.studies.transfer_curve` measures what each stage of a network is worth on
# other images (a :class:`~sktransfer.studies.TransferCurve`, drawn by
# :class:`~sktransfer.studies.TransferCurveDisplay`), and
# :func:`~sktransfer.studies.convergence_curve` whether training from scratch catches up (a
# :class:`~sktransfer.studies.ConvergenceCurve`, drawn by
# :class:`~sktransfer.studies.ConvergenceDisplay`).

# sphinx_gallery_thumbnail_path = '_static/gallery/fine_tuning_or_frozen_1.webp'
