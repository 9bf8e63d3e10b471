"""Draws docs/_static/idea.png, the image of the idea; run it after changing it."""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

BLUE, GRAY, GREEN, INK = "#cfe2f3", "#eeeeee", "#d9ead3", "#333333"


def box(ax, x, y, width, height, text, color, dashed=False):
    ax.add_patch(
        FancyBboxPatch(
            (x, y),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.12",
            facecolor=color,
            edgecolor="#999999" if dashed else INK,
            linestyle="--" if dashed else "-",
            linewidth=1.1,
        )
    )
    ax.text(
        x + width / 2,
        y + height / 2,
        text,
        ha="center",
        va="center",
        fontsize=9.5,
        color="#888888" if dashed else INK,
    )


def arrow(ax, start, end, color=INK, dashed=False):
    ax.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=11,
            color=color,
            linestyle="--" if dashed else "-",
        )
    )


figure = Figure(figsize=(9.6, 3.3), dpi=150)
ax = figure.add_axes((0, 0, 1, 1))
ax.set(xlim=(0, 19.2), ylim=(0, 6.6))
ax.set_axis_off()

box(ax, 0.3, 3.4, 2.5, 1.6, "images\n(files, arrays,\nDataFrame)", "white")
arrow(ax, (2.8, 4.2), (3.5, 4.2))
for i in range(5):
    kept = i < 3
    box(
        ax,
        3.5 + 2.1 * i,
        3.4,
        1.6,
        1.6,
        f"stage {i + 1}",
        BLUE if kept else GRAY,
        dashed=not kept,
    )
    if i < 4:
        arrow(
            ax,
            (5.1 + 2.1 * i, 4.2),
            (5.6 + 2.1 * i, 4.2),
            INK if i < 2 else "#aaaaaa",
            dashed=i >= 2,
        )
box(ax, 14.4, 3.4, 1.9, 1.6, "classifier", GRAY, dashed=True)
arrow(ax, (13.5, 4.2), (14.4, 4.2), "#aaaaaa", dashed=True)
ax.plot([9.55, 9.55], [2.5, 5.9], color="tab:red", linewidth=1.8)
ax.text(9.55, 6.1, "cut: layer=…", ha="center", fontsize=10, color="tab:red")
ax.text(6.4, 5.4, "frozen: once per distinct image", ha="center", fontsize=10, color="#1f4e79")
ax.text(13.0, 5.4, "neither run nor kept", ha="center", fontsize=10, color="#888888")
arrow(ax, (9.3, 3.4), (9.3, 1.9))
box(ax, 5.2, 0.5, 5.0, 1.4, "embeddings\n(kept for the next fold)", BLUE)
arrow(ax, (10.2, 1.2), (11.2, 1.2))
box(
    ax,
    11.2,
    0.5,
    7.5,
    1.4,
    "any scikit-learn estimator: LogisticRegression,\nSVC, imbalanced-learn, calibration, search",
    GREEN,
)
figure.savefig(Path(__file__).parent / "_static" / "idea.png")
