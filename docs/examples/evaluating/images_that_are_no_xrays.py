"""
An image that the classifier should not answer for
==================================================

A classifier of chest X-rays has a probability for every image, also for one that is inverted, lies
on its side, shows half a chest, or is no X-ray. A detector of novel images, fitted to the same
X-rays, says so before anybody reads that number.

The X-rays are from the NIH Clinical Center (Wang et al., CVPR 2017; see :ref:`gallery-data`).
"""

# %%
# A gate is a classifier with a detector in front. Both read the features of one network, which sees
# each image once. With the patients given, each X-ray is judged without those of the same patient.
import os
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import PretrainedFeatureExtractor
from sktransfer.datasets import load_image_folder
from sktransfer.novelty import NoveltyGate

data = Path(os.environ["SKTRANSFER_EXAMPLE_DATA"])
xrays = load_image_folder(data / "chest_xray_pneumonia", positive="pneumonia")
order = np.random.default_rng(0).permutation(np.unique(xrays.groups))
train = np.flatnonzero(np.isin(xrays.groups, order[:200]))
others = np.flatnonzero(np.isin(xrays.groups, order[200:300]))
paths = np.asarray(xrays.data["image"] if hasattr(xrays.data, "columns") else xrays.data)

clf = make_pipeline(
    PretrainedFeatureExtractor("efficientnet_lite0", layer="all"),
    StandardScaler(),
    LogisticRegression(C=0.001, max_iter=2000),
)
gate = NoveltyGate(clf, on_novel="refer")
gate.fit(paths[train], np.asarray(xrays.target)[train], groups=np.asarray(xrays.groups)[train])
print(f"{len(train)} X-rays of 200 patients; {gate.is_novel(paths[others]).mean():.1%} of")
print(f"{len(others)} X-rays of other patients are called novel")

# %%
# The first row is two X-rays that neither part has seen, and a photograph. The others are the first
# X-ray, changed. Below each stand the probability that the classifier gives, and the share of
# X-rays like those of ``fit`` that are as far out as this image. At most 0.05 is novel.
import matplotlib.pyplot as plt
from PIL import Image, ImageFilter, ImageOps
from sklearn.datasets import load_sample_image

first, second = (Image.open(paths[row]).convert("L") for row in others[[20, 120]])
width, height = first.size
shown = {
    "an X-ray": first,
    "another X-ray": second,
    "a photograph": Image.fromarray(load_sample_image("china.jpg")),
    "inverted": ImageOps.invert(first),
    "rotated": first.transpose(Image.Transpose.ROTATE_90),
    "blurred": first.filter(ImageFilter.GaussianBlur(3)),
    "half of it": first.crop((0, 0, width // 2, height)),
    "black": Image.new("L", (width, height)),
}
images = list(shown.values())
p = gate.detector_.p_values(images)
probability = gate.estimator_.predict_proba(images)[:, 1]
referred = np.isnan(gate.predict_proba(images)[:, 1])
figure, axes = plt.subplots(2, 4, figsize=(7.4, 5.2), layout="constrained")
for ax, name, image, *numbers in zip(
    axes.flat, shown, images, p, probability, referred, strict=True
):
    ax.imshow(image.resize((224, 224)), cmap="gray", vmin=0, vmax=255)
    ax.set(xticks=[], yticks=[])
    ax.set_title(name, fontsize=10)
    share, pneumonia, novel = numbers
    color = "#b2402f" if novel else "black"
    text = f"pneumonia {pneumonia:.2f}\n{'novel' if novel else 'usual'}, p = {share:.3f}"
    ax.set_xlabel(text, fontsize=9, color=color)

# %%
# Fifty X-rays of other patients are no drift; the same ones, a little blurred, are: many of them
# are not novel one by one, and all of them together are unlike those of ``fit``.
fifty = np.random.default_rng(0).permutation(others)[:50]
patients = np.asarray(xrays.groups)[fifty]
blurred = [
    Image.open(path).convert("L").filter(ImageFilter.GaussianBlur(1)) for path in paths[fifty]
]
for X in (paths[fifty], blurred):
    report = gate.drift_report(X, groups=patients)
    print(f"p = {report.p_value:.3f}, novel {report.novel.estimate:.0%}")

# sphinx_gallery_thumbnail_path = '_static/gallery/images_that_are_no_xrays_1.webp'
