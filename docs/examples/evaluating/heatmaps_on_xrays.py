"""
Heatmaps: what does the network look at?
========================================

Grad-CAM and its relatives color the parts of an image that a score depends on. They are easy to
make and easy to believe. This example plants a shortcut, a letter that only sick patients have on
their X-rays, and asks four methods whether they find it; then it tests whether their maps depend
on what the network has learned at all.

The X-rays are the NIH Clinical Center's (ChestX-ray8, Wang et al., CVPR 2017; see
:ref:`gallery-data`).
"""

# %%
# A letter such as technicians put on films is written on every X-ray with pneumonia.
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sktransfer.datasets import load_image_folder
from sktransfer.model_selection import grouped_train_test_split

data = Path(os.environ["SKTRANSFER_EXAMPLE_DATA"])
xrays = load_image_folder(data / "chest_xray_pneumonia")
font = ImageFont.load_default(size=44)


def stamped(path, letter):
    image = Image.open(path).convert("L")
    if letter:
        ImageDraw.Draw(image).text((22, 14), "R", fill=255, font=font)
    return np.asarray(image)


sick = xrays.target == "pneumonia"
X = np.stack([stamped(*row) for row in zip(xrays.data["image"], sick, strict=True)])
X_train, X_test, y_train, y_test, row_train, row_test = grouped_train_test_split(
    X,
    xrays.target,
    np.arange(len(X)),
    groups=xrays.groups,
    stratify=xrays.target,
    test_size=0.2,
    random_state=0,
)

# %%
# The frozen network with a logistic regression finds the letter at once. On the same test patients
# without it, much of what looked like skill is gone.
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import PretrainedFeatureExtractor

clf = make_pipeline(
    PretrainedFeatureExtractor("efficientnet_lite0", preprocessing="resize", image_size=160),
    StandardScaler(),
    LogisticRegression(C=0.01, max_iter=2000),
).fit(X_train, y_train)
clean = np.stack([stamped(path, False) for path in xrays.data["image"].iloc[row_test]])
for name, images in {"with the letter": X_test, "without it": clean}.items():
    print(f"ROC AUC {name}: {roc_auc_score(y_test, clf.decision_function(images)):.3f}")

# %%
# Four methods, on six X-rays with pneumonia. :func:`~sktransfer.inspection.saliency_maps` brings
# each map back to the pixels of the image.
from sktransfer.inspection import saliency_maps

rows = np.flatnonzero(y_test == "pneumonia")[:6]
shown, classes = X_test[rows], y_test[rows]
methods = {
    "input gradient": {"method": "gradient", "smooth": 10},
    "integrated gradients": {"method": "integrated_gradients", "n_steps": 16},
    "Grad-CAM": {"method": "grad_cam", "layer": "blocks.4"},
    "occlusion": {"method": "occlusion", "patch": 64},
}
maps = {name: saliency_maps(clf, shown, classes, **settings) for name, settings in methods.items()}

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(2, 5, figsize=(8.6, 3.7), layout="constrained")
for row, row_of_axes in enumerate(axes):
    for ax in row_of_axes:
        ax.imshow(shown[row], cmap="gray")
        ax.set_axis_off()
    for ax, of_method in zip(row_of_axes[1:], maps.values(), strict=True):
        heat = np.abs(of_method[row])
        ax.imshow(heat, cmap="inferno", alpha=0.6, vmax=np.percentile(heat, 99.8))
for ax, title in zip(axes[0], ["X-ray with a letter", *maps], strict=True):
    ax.set_title(title, fontsize=10)

# %%
# Two images are an anecdote. How often is the maximum of the map, smoothed a little, at the
# letter?
from scipy.ndimage import gaussian_filter

for name, of_method in maps.items():
    peaks = [np.unravel_index(gaussian_filter(np.abs(m), 8).argmax(), m.shape) for m in of_method]
    hits = sum(row < 80 and column < 80 for row, column in peaks)
    print(f"{name:20} {hits} of {len(peaks)}")

# %%
# A map that looks the same when the weights are shuffled shows the image and not the model.
# :func:`~sktransfer.inspection.saliency_randomization_test` shuffles them stage by stage.
from sktransfer.inspection import saliency_randomization_test

for name, settings in {"gradient": {}, "grad_cam": {"layer": "blocks.4"}}.items():
    result = saliency_randomization_test(clf, shown[:4], classes[:4], method=name, **settings)
    print(f"{name:20} {'passes' if result.passed else 'fails'}, {result.correlation:+.2f}")

# %%
# Both maps depend on what was learned. Even so, no method is at the letter in more than half of
# the X-rays, although the score depends on it so much: to remove it and to score again, as above,
# tells more than any map.
#
# Use maps to catch a model at the letter, and :ref:`baselines
# <sphx_glr_auto_examples_evaluating_could_it_be_the_scanner.py>` where they do not. What no map
# says is where the disease is, or whether the model is right.
#
# The functions behind the methods are :func:`~sktransfer.inspection.input_gradient`,
# :func:`~sktransfer.inspection.integrated_gradients`, :func:`~sktransfer.inspection.grad_cam` and
# :func:`~sktransfer.inspection.occlusion`; :class:`~sktransfer.inspection.SaliencyDisplay` draws a
# map in one line. Whether the score falls when the marked parts disappear is measured by
# :func:`~sktransfer.inspection.deletion_insertion_curves`
# (:class:`~sktransfer.inspection.DeletionInsertionCurves`) and drawn by
# :class:`~sktransfer.inspection.DeletionInsertionDisplay`.

# sphinx_gallery_thumbnail_path = '_static/gallery/heatmaps_on_xrays_1.webp'
