"""
Calibration and decision curves
===============================

A classifier may rank patients well and still say 0.9 where six in ten are sick. This example looks
at the calibration of a fine-tuned network, improves it, and asks the question behind it: would
anybody be better off acting on these probabilities than treating everybody, or nobody?

The images are PneumoniaMNIST: chest X-rays of children, of 28 by 28 pixels (MedMNIST v2, Yang et
al., 2023, CC BY 4.0; see :ref:`gallery-data`).
"""

# %%
# Two fifths of the published test set are for the calibration, the others test it.
import os
from pathlib import Path

import numpy as np
from sklearn.model_selection import train_test_split

data = Path(os.environ["SKTRANSFER_EXAMPLE_DATA"])
with np.load(data / "pneumoniamnist" / "pneumoniamnist.npz") as file:
    X_all, y_all = file["train_images"], file["train_labels"].ravel()
    X_new, y_new = file["test_images"], file["test_labels"].ravel()
rows = np.random.default_rng(0).permutation(len(X_all))[:600]
X_train, y_train = X_all[rows], y_all[rows]
X_held, X_test, y_held, y_test = train_test_split(
    X_new, y_new, stratify=y_new, test_size=0.6, random_state=0
)
print(
    f"with pneumonia: {y_train.mean():.0%} of the training images, {y_test.mean():.0%} of the test"
)

# %%
# As often, training and test images were not collected in the same way: pneumonia is more frequent
# among the training images. The network learns that, too.
from sktransfer import FineTuneClassifier

network = FineTuneClassifier(
    "efficientnet_lite0",
    freeze_depth=-3,
    lr=3e-4,
    max_epochs=8,
    preprocessing="resize",
    image_size=64,
    random_state=0,
).fit(X_train, y_train)

# %%
# Platt's scaling, a logistic regression of the labels on the scores, is fitted to images that the
# network has not seen. The network itself stays as it is: it is frozen for scikit-learn.
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

calibrated = CalibratedClassifierCV(FrozenEstimator(network), method="sigmoid")
calibrated.fit(X_held, y_held)
probability = {
    "as trained": network.predict_proba(X_test)[:, 1],
    "calibrated": calibrated.predict_proba(X_test)[:, 1],
}

# %%
# The ranking is the same, the probabilities are not. A slope below 1 says that they are too
# extreme, an intercept below 0 that they are too high: as trained, nearly all of them are above
# 0.9.
from sklearn.metrics import brier_score_loss, roc_auc_score

from sktransfer.metrics import calibration_intercept, calibration_slope

for name, p in probability.items():
    print(
        f"{name}: ROC AUC {roc_auc_score(y_test, p):.3f}, "
        f"Brier score {brier_score_loss(y_test, p):.3f}, "
        f"slope {calibration_slope(y_test, p).estimate:.2f}, "
        f"intercept {calibration_intercept(y_test, p).estimate:+.2f}"
    )

# %%
# :class:`~sktransfer.metrics.CalibrationIntervalDisplay` has the interval of every bin: few images
# say little.
import matplotlib.pyplot as plt

from sktransfer.metrics import CalibrationIntervalDisplay

figure, axes = plt.subplots(1, 2, figsize=(8.8, 4.4), layout="constrained")
for ax, (name, p) in zip(axes, probability.items(), strict=True):
    CalibrationIntervalDisplay.from_predictions(y_test, p, n_bins=6, name=name, ax=ax)
    ax.set_title(name)

# %%
# Is it of use?
# -------------
# :class:`~sktransfer.metrics.DecisionCurveDisplay` draws the net benefit. It counts the true
# positives and takes off the false ones at the rate at which one would exchange them. Whoever
# would rather see nine healthy children than miss one with pneumonia acts from a probability of
# 0.1 on, and at that threshold the network is hardly better than to act on everybody. At 0.5 it
# is, and more so once calibrated. Where a curve is not above both other lines, one does as well
# without the network.
from sktransfer.metrics import DecisionCurveDisplay, net_benefit

figure, ax = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
for name, p in probability.items():
    DecisionCurveDisplay.from_predictions(y_test, p, name=name, ax=ax)
ax.set_title("Net benefit on PneumoniaMNIST")
thresholds = [0.1, 0.3, 0.5]
for name, p in probability.items():
    print(
        name,
        dict(zip(thresholds, net_benefit(y_test, p, thresholds).round(3).tolist(), strict=True)),
    )

# sphinx_gallery_thumbnail_path = '_static/gallery/calibration_and_benefit_2.webp'
