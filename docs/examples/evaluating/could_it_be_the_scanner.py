"""
Could it be the scanner? Baselines that never see the anatomy
=============================================================

A classifier of X-rays scores well. Has it learned the disease, or the machine, the year, and the
letters in the corner? Two baselines answer that: one sees what is known of each image but not the
image, the other sees brightness and corners but no lungs. If they come close, the score is worth
little elsewhere.

The X-rays are the NIH Clinical Center's (ChestX-ray8, Wang et al., CVPR 2017; see
:ref:`gallery-data`). Their two classes were drawn from different ranges of patients.
"""

# %%
import os
from pathlib import Path

import numpy as np

from sktransfer.datasets import load_image_folder

data = Path(os.environ["SKTRANSFER_EXAMPLE_DATA"])
xrays = load_image_folder(data / "chest_xray_pneumonia")
X, y, patients = xrays.data, xrays.target, xrays.groups

# %%
# What could give the label away without any lung in it? The follow-up number says how often a
# patient has been there. The number of the patient says when the first visit was.
known = np.column_stack([xrays.frame["follow_up"], patients.astype(int)])

# %%
# Of the image itself, the second baseline sees only its overall brightness and contrast, and four
# corners of 32 by 32 pixels, where markers and the edge of the film are.
from PIL import Image


def properties(path):
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("L"), float)
    corners = [c for rows in (pixels[:32], pixels[-32:]) for c in (rows[:, :32], rows[:, -32:])]
    return [f(part) for part in (pixels, *corners) for f in (np.mean, np.std)]


looks = np.array([properties(path) for path in X["image"]])

# %%
# All are scored out of fold, by patient.
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import PretrainedFeatureExtractor
from sktransfer.metrics import roc_auc_interval

forest = RandomForestClassifier(300, min_samples_leaf=5, random_state=0)
network = make_pipeline(
    PretrainedFeatureExtractor(
        "efficientnet_lite0", layer="all", preprocessing="resize", image_size=160
    ),
    StandardScaler(),
    LogisticRegression(C=0.01, max_iter=2000),
)
tried = {
    "follow-up and patient number": (forest, known),
    "follow-up number alone": (forest, known[:, :1]),
    "brightness and corners": (forest, looks),
    "network": (network, X),
}
by_patient = StratifiedGroupKFold(5, shuffle=True, random_state=0)
scores, areas = {}, {}
for name, (model, rows) in tried.items():
    scores[name] = cross_val_predict(
        model, rows, y, groups=patients, cv=by_patient, method="predict_proba"
    )[:, 1]
    areas[name] = roc_auc_interval(y, scores[name], groups=patients, pos_label="pneumonia")
    print(f"{name:29} ROC AUC {areas[name].estimate:.2f}")

# %%
import matplotlib.pyplot as plt

figure, ax = plt.subplots(figsize=(7, 2.8), layout="constrained")
for place, (name, area) in enumerate(areas.items()):
    color = "tab:blue" if name == "network" else "tab:orange"
    ax.plot([area.low, area.high], [place, place], color=color, linewidth=3)
    ax.plot(area.estimate, place, "o", color=color, markersize=9)
ax.axvline(0.5, color="gray", linestyle="--")
ax.set_yticks(range(len(areas)), areas)
ax.set(xlabel="ROC AUC with its 95 % interval", title="A network, and baselines without anatomy")

# %%
# Two numbers from a table, which contain nothing about lungs, do nearly as well as the network: on
# this collection, its area is little evidence that it has learned pneumonia. Nor does this prove
# the opposite, since the network does not see the table. Could it tell the number of a patient from
# the image? Let it predict that instead of the disease, within one class:
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from sklearn.model_selection import GroupKFold

sick = y == "pneumonia"
recent = np.log(known[sick, 1])
regression = make_pipeline(*(step for _, step in network.steps[:2]), RidgeCV(np.logspace(2, 6, 9)))
guess = cross_val_predict(regression, X[sick], recent, groups=patients[sick], cv=GroupKFold(5))
print(f"number of the patient, from the image alone: R2 {r2_score(recent, guess):.2f}")

# %%
# It cannot, so it is not the number that it has learned. But brightness and corners, which it does
# see, are already two thirds of the way from 0.5 to its score: the images of the two classes
# differ in more than the lungs. How much of the rest is pneumonia, this collection cannot say.
#
# :func:`~sktransfer.report.diagnostic_report` makes a
# :class:`~sktransfer.report.DiagnosticReport`, which has both baselines (``metadata=``), and warns
# where they come close. The remedy is better data: both classes from the same patients, machines
# and years, and a hospital held out instead of a fold.

# sphinx_gallery_thumbnail_path = '_static/gallery/could_it_be_the_scanner_1.webp'
