"""Draws docs/_static/label_audit.png: the most suspicious labels of the shared NIH X-rays.

SKTRANSFER_TEST_SHARED=... python docs/draw_audit.py
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from draw_idea import LIGHT
from matplotlib.figure import Figure

from sktransfer.datasets import audit_labels, load_image_folder

FILE = Path(__file__).resolve().parent / "_static" / "label_audit.png"
N_CHANGED, N_IMAGES = 20, 12


def draw() -> Figure:
    folder = Path(os.environ["SKTRANSFER_TEST_SHARED"]) / "data" / "chest_xray_pneumonia"
    found = load_image_folder(folder, positive="pneumonia")
    labels = np.array(["no finding", "pneumonia"])[np.asarray(found.target)]
    changed = np.random.default_rng(0).choice(len(labels), N_CHANGED, replace=False)
    labels[changed] = np.where(labels[changed] == "pneumonia", "no finding", "pneumonia")
    audit = audit_labels(found.data, labels, found.groups, near_duplicates=False)
    figure = Figure(figsize=(9, 4.6), dpi=110, facecolor=LIGHT["paper"], layout="constrained")
    audit.plot(N_IMAGES, figure=figure)
    for axes, row in zip(audit.axes_, audit.table["row"], strict=False):
        if row in changed:
            axes.set_title(f"{axes.get_title(loc='left')} \N{BLACK STAR}", fontsize=8, loc="left")
    return figure


if __name__ == "__main__":
    draw().savefig(FILE)
