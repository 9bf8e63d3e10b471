"""Draws docs/_static/bags.png: which X-ray of a patient decides, from the shared NIH X-rays.

SKTRANSFER_TEST_SHARED=... python docs/draw_bags.py
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
from draw_idea import LIGHT
from matplotlib.figure import Figure
from PIL import Image

from sktransfer import PretrainedFeatureExtractor
from sktransfer.bags import BagClassifier, make_bags
from sktransfer.datasets import load_image_folder

FILE = Path(__file__).resolve().parent / "_static" / "bags.png"
N_IMAGES, N_PATIENTS, EVERY = 4, 4, 3
FOR, AGAINST = "#b2402f", "#1f6fb2"


def bags_of_patients() -> tuple[pd.Series, np.ndarray]:
    """Patients with two or more X-rays, all of one class."""
    folder = Path(os.environ["SKTRANSFER_TEST_SHARED"]) / "data" / "chest_xray_pneumonia"
    found = load_image_folder(folder, positive="pneumonia")
    table = pd.DataFrame({"y": found.target, "patient": found.groups})
    of_patient = table.groupby("patient")["y"]
    kept = (of_patient.transform("nunique") == 1) & (of_patient.transform("size") > 1)
    paths = np.asarray(found.data["image"] if hasattr(found.data, "columns") else found.data)
    bags = make_bags(paths[kept], table["y"][kept], groups=table["patient"][kept])
    return bags.data, bags.target


def draw() -> Figure:
    X, y = bags_of_patients()
    shown = np.flatnonzero(X.map(len) == N_IMAGES)
    shown = np.sort(np.concatenate([shown[y[shown] == c][: N_PATIENTS // 2] for c in (1, 0)]))
    rest = np.setdiff1d(np.arange(len(X)), shown)
    model = BagClassifier(PretrainedFeatureExtractor("efficientnet_lite0", layer="all"))
    scores = model.fit(X.iloc[rest], y[rest]).image_scores(X.iloc[shown])
    probability = model.predict_proba(X.iloc[shown])[:, 1]
    largest = scores["contribution"].abs().max()
    figure = Figure(figsize=(7.6, 8.4), dpi=110, facecolor=LIGHT["paper"], layout="constrained")
    axes = figure.subplots(
        2 * N_PATIENTS, N_IMAGES, gridspec_kw={"height_ratios": [8, 1] * N_PATIENTS}
    )
    for row, bag in enumerate(shown):
        own = scores[scores["bag"] == row].set_index("image")["contribution"]
        for place, path in enumerate(X.iloc[bag]):
            image, bar = axes[2 * row, place], axes[2 * row + 1, place]
            with Image.open(path) as opened:
                image.imshow(opened.convert("L").resize((224, 224)), cmap="gray")
            image.set(xticks=[], yticks=[])
            value = own[place]
            bar.barh([0], [value], color=FOR if value > 0 else AGAINST)
            bar.axvline(0, color=LIGHT["pale"], linewidth=0.8)
            bar.set(xlim=(-1.1 * largest, 1.1 * largest), yticks=[], xticks=[])
            bar.set_xlabel(f"{value:+.2f}", fontsize=8)
            bar.spines[:].set_visible(False)
        truth = "pneumonia" if y[bag] else "no finding"
        axes[2 * row, 0].set_ylabel(f"{truth}\npredicted {probability[row]:.2f}", fontsize=9)
    return figure


if __name__ == "__main__":
    draw().savefig(FILE)
