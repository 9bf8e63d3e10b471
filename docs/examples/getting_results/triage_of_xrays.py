"""
Triage: rule out, rule in, or ask somebody
==========================================

A threshold decides every X-ray, also those that nobody could tell. Triage decides where it can be
sure and refers the rest to a person: of the patients with pneumonia no more than one in twenty is
ruled out, of the patients without a finding no more than one in twenty is ruled in. How many X-rays
are left for a person to read?

The X-rays are the NIH Clinical Center's (ChestX-ray8, Wang et al., CVPR 2017): 500 labeled
pneumonia and 500 without a finding. :ref:`gallery-data` says where to get them.
"""

# %%
# Two guarantees
# --------------
# ``max_missed`` is a share of the patients *with* the disease, ``max_false`` one of those *without*
# it. Neither depends on how common the disease is, and each is kept with a probability of 0.95.
# With ``groups`` a patient counts once, as missed where any of its X-rays with pneumonia is ruled
# out.
import os
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import PretrainedFeatureExtractor
from sktransfer.datasets import load_image_folder
from sktransfer.model_selection import TriageClassifier, grouped_train_test_split

xrays = load_image_folder(Path(os.environ["SKTRANSFER_EXAMPLE_DATA"]) / "chest_xray_pneumonia")
X_train, X_test, y_train, y_test, patients_train, patients_test = grouped_train_test_split(
    xrays.data,
    xrays.target,
    xrays.groups,
    groups=xrays.groups,
    stratify=xrays.target,
    test_size=0.4,
    random_state=0,
)
model = make_pipeline(
    PretrainedFeatureExtractor(
        "efficientnet_lite0", layer="all", preprocessing="resize", image_size=160
    ),
    StandardScaler(),
    LogisticRegression(C=0.01, max_iter=2000),
)
clf = TriageClassifier(model, max_missed=0.05, max_false=0.05, pos_label="pneumonia")
clf.fit(X_train, y_train, groups=patients_train)
counts = ["n_rows", "n_correct", "n_referred", "n_released", "n_groups", "n_groups_released"]
clf.triage_[counts]

# %%
# These counts are those of the training patients, each scored by a model that has not seen it.
# *Released* are X-rays, or patients, that were decided to be of the other class.
#
# Patients who were held out
# --------------------------
# :class:`~sktransfer.model_selection.TriageDisplay` counts again on patients who took no part.
from sktransfer.model_selection import TriageDisplay

display = TriageDisplay.from_estimator(
    clf, X_test, y_test, groups=patients_test, name="Held-out patients"
)
print("referred: {:.0%} ({:.0%} to {:.0%})".format(*display.referred))

# %%
# What is referred?
# -----------------
# ``predict`` gives "refer" for these X-rays, and ``decisions`` is a table of all of them. In the
# first row are X-rays that were decided with the highest scores, in the second some that are
# referred, with scores in the middle of those.
import matplotlib.pyplot as plt
from PIL import Image

table = clf.decisions(X_test)
score = table["score of pneumonia"]
sure = score.where(table["decision"] != "refer").nlargest(5).index
middle = score[table["decision"] == "refer"].median()
unsure = (score[table["decision"] == "refer"] - middle).abs().nsmallest(5).index
figure, axes = plt.subplots(2, 5, figsize=(9, 4.2), layout="constrained")
files = np.asarray(X_test["image"] if hasattr(X_test, "columns") else X_test)
for ax, row in zip(axes.ravel(), [*sure, *unsure], strict=True):
    with Image.open(files[row]) as image:
        ax.imshow(image.convert("L").resize((160, 160)), cmap="gray")
    ax.set_title(f"{table['decision'][row]} ({score[row]:.2f})", fontsize=9)
    ax.set_axis_off()

# %%
# A guarantee costs decisions: the stricter it is, the more is referred. It holds for patients like
# these; on X-rays of another hospital it may be void (:ref:`triage`). Nothing of this is fit for
# clinical use.

# sphinx_gallery_thumbnail_path = '_static/gallery/triage_of_xrays_1.webp'
