"""Draws docs/_static/idea.png and idea_dark.png, the image of the idea; run it after a change."""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

LIGHT = {
    "paper": "#ffffff",
    "ink": "#222222",
    "pale": "#6b6b6b",
    "cut": "#c62828",
    "frozen": "#cfe2f3",
    "left out": "#f0f0f0",
    "yours": "#d9ead3",
}
# The paper is that of the theme in the dark.
DARK = {
    "paper": "#14181e",
    "ink": "#e6e9ec",
    "pale": "#9aa4ae",
    "cut": "#ff7b6b",
    "frozen": "#1f4566",
    "left out": "#22272e",
    "yours": "#2b4a32",
}


def draw(colors):
    figure = Figure(figsize=(7.6, 3.5), dpi=200, facecolor=colors["paper"])
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, 15.2), ylim=(0, 7))
    ax.set_axis_off()

    def box(x, y, width, height, text, fill, dashed=False):
        ax.add_patch(
            FancyBboxPatch(
                (x, y),
                width,
                height,
                boxstyle="round,pad=0,rounding_size=0.15",
                facecolor=colors[fill],
                edgecolor=colors["pale" if dashed else "ink"],
                linestyle="--" if dashed else "-",
                linewidth=1.2,
            )
        )
        ax.text(
            x + width / 2,
            y + height / 2,
            text,
            ha="center",
            va="center",
            fontsize=11.5,
            linespacing=1.3,
            color=colors["pale" if dashed else "ink"],
        )

    def arrow(start, end, dashed=False):
        ax.add_patch(
            FancyArrowPatch(
                start,
                end,
                arrowstyle="-|>",
                mutation_scale=13,
                color=colors["pale" if dashed else "ink"],
                linestyle="--" if dashed else "-",
            )
        )

    box(0.15, 3.4, 2.75, 1.8, "images\n(files, arrays,\nDataFrame)", "paper")
    arrow((2.9, 4.3), (3.6, 4.3))
    box(3.6, 3.4, 1.9, 1.8, "stage 1", "frozen")
    arrow((5.5, 4.3), (6.2, 4.3))
    box(6.2, 3.4, 1.9, 1.8, "stage 2", "frozen")
    arrow((8.1, 4.3), (9.3, 4.3), dashed=True)
    box(9.3, 3.4, 1.9, 1.8, "stage 3", "left out", dashed=True)
    arrow((11.2, 4.3), (11.9, 4.3), dashed=True)
    box(11.9, 3.4, 3.1, 1.8, "its own\nclassifier", "left out", dashed=True)
    ax.plot([8.6, 8.6], [2.6, 6.0], color=colors["cut"], linewidth=2.2)
    ax.text(8.6, 6.25, "cut: layer=…", ha="center", fontsize=12, color=colors["cut"])
    ax.text(5.85, 5.45, "frozen: runs once per image", ha="center", size=11, color=colors["ink"])
    ax.text(12.1, 5.45, "neither run nor kept", ha="center", size=11, color=colors["pale"])
    arrow((7.15, 3.4), (7.15, 2.0))
    box(3.6, 0.3, 4.5, 1.7, "embeddings\n(kept for the next fold)", "frozen")
    arrow((8.1, 1.15), (8.9, 1.15))
    box(8.9, 0.3, 6.1, 1.7, "any scikit-learn estimator,\nsearch, calibration, threshold", "yours")
    return figure


if __name__ == "__main__":
    for name, colors in (("idea.png", LIGHT), ("idea_dark.png", DARK)):
        draw(colors).savefig(Path(__file__).parent / "_static" / name)
