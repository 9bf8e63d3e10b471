"""Draws docs/_static/numbers.png: marks counted in synthetic images, with conformal intervals.

python docs/draw_numbers.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from draw_idea import LIGHT
from mapie.regression import SplitConformalRegressor
from matplotlib.figure import Figure

from sktransfer import FineTuneRegressor

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "benchmarks"))
from numbers_and_grades import synthetic  # noqa: E402

FILE = HERE / "_static" / "numbers.png"
N_FIT, N_CONFORMALIZE, N_SHOWN = 200, 100, 6
COUNTS = (0, 2, 4, 6, 9, 12)


def draw() -> Figure:
    X, _, marks = synthetic(N_FIT + N_CONFORMALIZE + 100)
    rest = slice(N_FIT, N_FIT + N_CONFORMALIZE)
    reg = FineTuneRegressor("efficientnet_lite0", freeze_depth="all", random_state=0)
    reg.fit(_flat(X[:N_FIT]), marks[:N_FIT])
    intervals = SplitConformalRegressor(reg, confidence_level=0.9, prefit=True)
    intervals.conformalize(_flat(X[rest]), marks[rest])
    shown = [rest.stop + np.flatnonzero(marks[rest.stop :] == count)[0] for count in COUNTS]
    predicted, bounds = intervals.predict_interval(_flat(X[shown]))
    figure = Figure(figsize=(9, 2.6), dpi=110, facecolor=LIGHT["paper"], layout="constrained")
    axes = figure.subplots(2, N_SHOWN, gridspec_kw={"height_ratios": [5, 1]})
    for place, row in enumerate(shown):
        image, line = axes[:, place]
        image.imshow(X[row], cmap="gray", vmin=0, vmax=255)
        image.set(xticks=[], yticks=[])
        low, high = bounds[place, :, 0]
        line.plot([low, high], [0, 0], color="#1f6fb2", linewidth=5, solid_capstyle="butt")
        line.plot(predicted[place], 0, "|", color=LIGHT["paper"], markersize=10)
        line.plot(marks[row], 0.7, "v", color="#b2402f", markersize=6)
        line.set(xlim=(-1, 14), ylim=(-0.6, 1.4), xticks=[0, 6, 12], yticks=[])
        line.set_title(f"{marks[row]} marks: {predicted[place]:.1f}", fontsize=9)
        line.tick_params(labelsize=8)
        line.spines[["left", "right", "top"]].set_visible(False)
    return figure


def _flat(X: np.ndarray) -> np.ndarray:
    return X.reshape(len(X), -1)


if __name__ == "__main__":
    draw().savefig(FILE)
    print(f"written: {FILE}")
