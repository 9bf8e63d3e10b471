"""Whether maps can be trusted: X-rays with a letter on the positives, and networks that forget.

    python benchmarks/saliency.py [--networks ...] [--n 100] [--figures docs/_static/saliency]

The first network is that of the curves and figures.

Needs the shared data and weights (``SKTRANSFER_TEST_SHARED``). A letter is stamped on every image
with pneumonia, and a classifier is trained. Maps of held-out patients are asked where they are
strongest (the pointing game), and what deleting and inserting in their order does to the score; how
many of them are called positive without the letter says whether it is what counts. Then the weights
are shuffled, and maps should not stay what they were.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any
from unittest import mock

import matplotlib
import numpy as np
import torch
from _common import (
    Neighbors,
    machine,
    number,
    print_table,
    shared_with_weights,
    workspace,
    write_json,
)
from finetune import BACKBONES, chest, weights_of
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import PretrainedFeatureExtractor
from sktransfer.inspection import (
    DeletionInsertionDisplay,
    SaliencyDisplay,
    saliency_maps,
    saliency_randomization_test,
)
from sktransfer.model_selection import grouped_train_test_split

# Left, top, right and bottom of the letter on images of 320 x 320, inside the network's crop.
BOX = (42, 40, 66, 68)
# Zhang et al. (2018) count a hit up to 15 pixels away, in images of some 500.
MARGIN = 10
METHODS: dict[str, dict[str, Any]] = {
    "gradient": {"smooth": 16},
    "integrated_gradients": {"n_steps": 16},
    "grad_cam": {},
    "occlusion": {"patch": 40, "stride": 20},
}


def stamped(file: str) -> Image.Image:
    """An X-ray with a letter on it."""
    image = Image.open(file).convert("L")
    font = ImageFont.load_default(size=36)
    left, top, *_ = font.getbbox("R")
    ImageDraw.Draw(image).text((BOX[0] - left, BOX[1] - top), "R", fill=235, font=font)
    return image


def task(shared: Path, n: int) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Files, labels, and rows to learn from and to look at, of different patients."""
    X, y, patients = chest(shared)
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.choice(np.flatnonzero(y == label), n, False) for label in (0, 1)])
    learn, look = grouped_train_test_split(
        np.arange(len(rows)), stratify=y[rows], groups=patients[rows], test_size=0.3, random_state=0
    )
    return list(X[rows]), y[rows], learn, look


def opened(files: Any, labels: Any) -> list[Image.Image]:
    """X-rays, those of label 1 with the letter."""
    pairs = zip(files, labels, strict=True)
    return [stamped(file) if label else Image.open(file).convert("L") for file, label in pairs]


def fitted(shared: Path, backbone: str, store: Path, X: Any, y: Any) -> Any:
    weights = weights_of(shared, backbone)
    feat = PretrainedFeatureExtractor(backbone, weights=weights, engine="torch", cache=store)
    return make_pipeline(feat, StandardScaler(), LogisticRegression(C=0.01)).fit(X, y)


def hit(own: np.ndarray) -> bool:
    """Whether the strongest place of a map is at the letter."""
    # Gradients are of single pixels: what a place is worth is what is around it.
    smooth = gaussian_filter(np.nan_to_num(own, nan=0.0), 6)
    row, column = np.unravel_index(smooth.argmax(), smooth.shape)
    left, top, right, bottom = BOX
    inside = left - MARGIN <= column < right + MARGIN and top - MARGIN <= row < bottom + MARGIN
    return bool(inside)


def edges(decision: Any, batch: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """How steep the image is, whatever the network."""
    down, across = torch.gradient(batch.mean(1), dim=(1, 2))
    return (down**2 + across**2).sqrt()


def times_input(decision: Any, batch: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """The gradient times the image, which is half an image."""
    batch = batch.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(decision(batch).sum(), batch)
    return (gradient * batch).sum(1).detach()


class GuidedReLU(torch.autograd.Function):
    """Lets through what is positive, on the way there and on the way back."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, most: float) -> torch.Tensor:
        ctx.open = (x > 0) & (x < most)
        return x.clamp(0, most)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient.clamp(min=0) * ctx.open, None


def guided(decision: Any, batch: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Guided backpropagation, of which Adebayo et al. (2018) found that it shows the image."""
    batch = batch.clone().requires_grad_()
    with (
        mock.patch.object(torch.nn.ReLU, "forward", lambda _, x: GuidedReLU.apply(x, torch.inf)),
        mock.patch.object(torch.nn.ReLU6, "forward", lambda _, x: GuidedReLU.apply(x, 6.0)),
    ):
        (gradient,) = torch.autograd.grad(decision(batch).sum(), batch)
    return gradient.abs().amax(1)


def forgetting(clf: Any, X: Any, name: str, seeds: int) -> list[dict[str, Any]]:
    """What is left of the maps of every method while the network forgets, for some draws."""
    coarse = {
        "gradient": {"smooth": 4},
        "integrated_gradients": {"n_steps": 8},
        "grad_cam": {},
        "occlusion": {"patch": 56, "stride": 56},
    }
    ways: list[tuple[str, Any, dict[str, Any]]] = [
        *((each, each, settings) for each, settings in coarse.items()),
        ("plain gradient", "gradient", {}),
        ("gradient x input", times_input, {}),
        ("guided backpropagation", guided, {}),
        ("edges of the image", edges, {}),
    ]
    rows = []
    for label, method, settings in ways:
        for seed in range(seeds):
            test = saliency_randomization_test(clf, X, method=method, random_state=seed, **settings)
            table = test.table
            rows.append({"network": name, "map": label, "seed": seed, **table.iloc[-1].to_dict()})
            rows[-1] |= {"classifier": table["correlation"].iloc[0]}
            rows[-1] |= {"half": test.correlation}
            print(name, label, seed, table["correlation"].round(2).tolist(), flush=True)
    return rows


def draw(clf: Any, X: Any, display: DeletionInsertionDisplay, folder: Path) -> None:
    """The figures of the user guide."""
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    figure = plt.figure(figsize=(10.4, 5.0), layout="constrained")
    parts = figure.subfigures(2, 2, wspace=0.04).ravel()
    for part, (method, settings) in zip(parts, METHODS.items(), strict=True):
        SaliencyDisplay.from_estimator(clf, X, [1], method=method, figure=part, **settings)
        part.axes[0].set_title(f'method="{method}"', fontsize="small")
    _save(figure, folder / "saliency_maps.png")
    _save(display.figure_, folder / "saliency_curves.png")


def _save(figure: Any, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=80)
    # Without the last bits, which nobody sees, half the size.
    pixels = np.asarray(Image.open(buffer).convert("RGB"))
    rounded = (pixels.astype(int) + 4) // 8 * 8
    Image.fromarray(rounded.clip(0, 255).astype(np.uint8)).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(BACKBONES))
    parser.add_argument("--n", type=int, default=100, help="images of each class")
    parser.add_argument("--n-forgetting", type=int, default=4, help="images; 0 leaves it out")
    parser.add_argument("--seeds", type=int, default=2, help="draws of the forgetting")
    parser.add_argument("--n-look", type=int, default=30, help="held-out positives to look at")
    parser.add_argument("--n-curves", type=int, default=12, help="images of the curves")
    parser.add_argument("--figures", type=Path, help="folder to draw into")
    parser.add_argument("--results", type=Path, help="folder of the JSON file")
    args = parser.parse_args()
    shared = shared_with_weights()
    description, neighbors = machine(), Neighbors()
    files, y, learn, look = task(shared, args.n)
    pointing: list[dict[str, Any]] = []
    forgotten: list[dict[str, Any]] = []
    areas: list[dict[str, Any]] = []
    matplotlib.use("Agg")
    with workspace() as folder:
        for place, backbone in enumerate(args.networks):
            store = folder / backbone
            learned = opened([files[row] for row in learn], y[learn])
            clf = fitted(shared, backbone, store, learned, y[learn])
            seen = [files[row] for row in look if y[row]][: args.n_look]
            labels = [1] * len(seen)
            positives = opened(seen, labels)
            bare = opened(seen, [0] * len(seen))
            worth = clf.decision_function(positives) - clf.decision_function(bare)
            facts = {
                "network": backbone,
                "n": len(seen),
                "accuracy": clf.score(opened([files[row] for row in look], y[look]), y[look]),
                # Of those with the letter, and of the same images without it.
                "called positive": float(clf.predict(positives).mean()),
                "called positive without": float(clf.predict(bare).mean()),
                # In log-odds.
                "letter worth": float(worth.mean()),
            }
            maps = {
                method: saliency_maps(clf, positives, labels, method=method, **settings)
                for method, settings in METHODS.items()
            }
            for method, own in maps.items():
                hits = [hit(each) for each in own]
                pointing.append({**facts, "map": method, "hits": float(np.mean(hits))})
            if args.n_forgetting:
                forgotten += forgetting(clf, positives[: args.n_forgetting], backbone, args.seeds)
            if place == 0:
                few = {name: own[: args.n_curves] for name, own in maps.items()}
                display = DeletionInsertionDisplay.from_estimator(
                    clf,
                    positives[: args.n_curves],
                    labels[: args.n_curves],
                    maps={**few, "random": "random"},
                )
                areas = [
                    {
                        "network": backbone,
                        "map": name,
                        "n": len(curves.deletion),
                        "deletion": float(curves.deletion_area.mean()),
                        "insertion": float(curves.insertion_area.mean()),
                    }
                    for name, curves in display.curves.items()
                ]
                if args.figures is not None:
                    draw(clf, positives[:1], display, args.figures)
    known = ("accuracy", "called positive", "called positive without", "letter worth")
    print_table(
        "The strongest place is at the letter",
        ("network", "accuracy", "positive", "without", "worth", "map", "images", "hits"),
        [
            (
                r["network"],
                *(number(r[k]) for k in known),
                r["map"],
                str(r["n"]),
                number(r["hits"]),
            )
            for r in pointing
        ],
    )
    print_table(
        "Rank correlation with the map of the model as it was",
        ("network", "map", "seed", "classifier", "all", "half", "SSIM", "flat"),
        [
            (
                r["network"],
                r["map"],
                str(r["seed"]),
                *(
                    number(r[k])
                    for k in ("classifier", "correlation", "half", "similarity", "flat")
                ),
            )
            for r in forgotten
        ],
    )
    print_table(
        "Areas under curves",
        ("network", "map", "images", "deletion", "insertion"),
        [
            (r["network"], r["map"], str(r["n"]), number(r["deletion"]), number(r["insertion"]))
            for r in areas
        ],
    )
    content = {
        "machine": description,
        "others_share": neighbors.share(),
        "pointing": pointing,
        "areas": areas,
        "forgetting": forgotten,
    }
    write_json("saliency", content, args.results)


if __name__ == "__main__":
    main()
