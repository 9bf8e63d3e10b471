"""
Screening chest X-rays with a guaranteed sensitivity
====================================================

How far may a threshold be raised so that no more than one case in ten is missed, among patients
whom nobody has seen yet? This example goes from a folder of chest X-rays to such a threshold,
split by patient, and checks it on patients who were held out.

The X-rays are the NIH Clinical Center's (ChestX-ray8, Wang et al., CVPR 2017): 500 labeled
pneumonia and 500 without a finding. :ref:`gallery-data` says where to get them. A folder of your
own with one sub-folder per class works in the same way.
"""

# %%
# Read the folder
# ---------------
# A table alongside the images says whose they are. Many patients have several X-rays. On images of
# your own, begin with :func:`~sktransfer.datasets.check_images`, which lists files that cannot be
# read, duplicates, and patients in several classes.
import os
from pathlib import Path

import numpy as np

from sktransfer.datasets import load_image_folder

data = Path(os.environ["SKTRANSFER_EXAMPLE_DATA"])
xrays = load_image_folder(data / "chest_xray_pneumonia")
X, y, patients = xrays.data, xrays.target, xrays.groups
print(f"{len(X)} images of {len(np.unique(patients))} patients: {', '.join(xrays.target_names)}")

# %%
# Split by patient
# ----------------
# With the same ribs on both sides of a split, a network would be rewarded for recognizing them.
# :func:`~sktransfer.model_selection.grouped_train_test_split` keeps each patient on one side;
# :func:`~sktransfer.model_selection.check_leakage` finds those that are on both.
from sktransfer.model_selection import grouped_train_test_split

X_train, X_test, y_train, y_test, patients_train, patients_test = grouped_train_test_split(
    X, y, patients, groups=patients, stratify=y, test_size=0.4, random_state=0
)

# %%
# A pretrained network and a threshold
# ------------------------------------
# The network is frozen: it turns each X-ray into numbers, once, and a logistic regression
# classifies those. ``layer="all"`` takes what every stage of the network sees, which X-rays need
# more than photographs do; ``preprocessing="resize"`` keeps the whole image, because lungs reach
# its edge.
#
# :class:`~sktransfer.model_selection.OperatingPointClassifier` scores the training patients by
# cross-validation and takes the highest threshold at which the sensitivity is at least 0.9 with
# confidence 0.95. ``pos_label`` names the class that must not be missed.
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import PretrainedFeatureExtractor
from sktransfer.model_selection import OperatingPointClassifier

model = make_pipeline(
    PretrainedFeatureExtractor(
        "efficientnet_lite0", layer="all", preprocessing="resize", image_size=160
    ),
    StandardScaler(),
    LogisticRegression(C=0.01, max_iter=2000),
)
clf = OperatingPointClassifier(
    model, target_level=0.9, confidence_level=0.95, pos_label="pneumonia"
)
clf.fit(X_train, y_train, groups=patients_train)
print(f"called pneumonia from a probability of {clf.threshold_:.2f} on")

# %%
# Does it hold on other patients?
# -------------------------------
# The held-out patients took no part in any of this. Intervals take into account that images of a
# patient resemble each other.
from sktransfer.metrics import operating_point

probability = clf.predict_proba(X_test)[:, list(clf.classes_).index("pneumonia")]
point = operating_point(
    y_test, probability, clf.threshold_, pos_label="pneumonia", groups=patients_test
)
print(point)

# %%
# The sensitivity is kept, as guaranteed, and its price is the specificity: two in five of the
# X-rays without a finding are called, too. The curve shows what another target would cost.
import matplotlib.pyplot as plt

from sktransfer.metrics import ReaderStudyDisplay, ScoreDistributionDisplay

figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
ReaderStudyDisplay.from_estimator(
    clf, X_test, y_test, groups=patients_test, name="frozen network", ax=axes[0]
)
axes[0].set_title("ROC curve with its band, and the threshold")
ScoreDistributionDisplay.from_estimator(clf, X_test, y_test, groups=patients_test, ax=axes[1])
axes[1].set(title="Scores of held-out X-rays", ylim=(0, 0.6))

# %%
# Nothing of this is fit for clinical use. The images of the two classes differ in more than the
# lungs, and part of what is measured here is that: see
# :ref:`sphx_glr_auto_examples_evaluating_could_it_be_the_scanner.py`.
#
# :class:`~sktransfer.metrics.ReaderStudyDisplay` also draws readers, and
# :class:`~sktransfer.metrics.ScoreDistributionDisplay` the scores of either class. Where a false
# alarm and a missed case have a price, :func:`~sktransfer.metrics.expected_cost` compares
# thresholds by it.

# sphinx_gallery_thumbnail_path = '_static/gallery/chest_xray_screening_1.webp'
