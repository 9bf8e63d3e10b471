"""Draws docs/_static/report.jpg: parts of a report on NIH chest X-rays, in both themes.

    SKTRANSFER_TEST_SHARED=... python docs/draw_report.py [--chromium chromium] [--keep report.html]

The three readers are simulated. Needs the shared X-rays and weights, and Chromium.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("agg")
from PIL import Image, ImageChops
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import PretrainedFeatureExtractor
from sktransfer.datasets import load_image_folder
from sktransfer.model_selection import OperatingPointClassifier, grouped_train_test_split
from sktransfer.report import DiagnosticReport, diagnostic_report

ROOT = Path(__file__).resolve().parents[1]
IMAGE = ROOT / "docs" / "_static" / "report.jpg"
LARGEST = 300_000
# What each half of the image shows, and how.
HALVES = {"light": ("partition", "baselines"), "dark": ("roc", "failures")}
WIDTH, HEIGHT = 820, 1760


def chest_report(shared: Path) -> DiagnosticReport:
    """A linear model on a frozen ResNet-18, by patient; the readers are simulated."""
    xrays = load_image_folder(shared / "data" / "chest_xray_pneumonia", positive="pneumonia")
    (weights,) = (shared / "weights").glob("resnet18*.pth")
    rows = np.arange(len(xrays.target))
    train, test = grouped_train_test_split(
        rows, groups=xrays.groups, stratify=xrays.target, test_size=0.4, random_state=0
    )
    pipe = make_pipeline(
        PretrainedFeatureExtractor("resnet18", weights=weights),
        StandardScaler(),
        LogisticRegression(C=0.01, max_iter=2000),
    )
    clf = OperatingPointClassifier(pipe, target_level=0.9)
    clf.fit(xrays.data.iloc[train], xrays.target[train], groups=xrays.groups[train])
    rng = np.random.default_rng(0)
    truth = xrays.target[test]
    readers = {
        str(skill): np.where(rng.random(len(test)) < skill, truth, 1 - truth)
        for skill in (0.75, 0.8, 0.85)
    }
    return diagnostic_report(
        clf,
        xrays.data.iloc[test],
        truth,
        groups=xrays.groups[test],
        readers=readers,
        metadata=xrays.frame.iloc[test][["follow_up"]],
        X_train=xrays.data.iloc[train],
        y_train=xrays.target[train],
        groups_train=xrays.groups[train],
        target_names=["no finding", "pneumonia"],
        title="Pneumonia on chest X-rays",
    )


def shot(page: str, parts: tuple[str, ...], theme: str, chromium: str) -> Image.Image:
    """Some parts of a page as they look, without the paper below."""
    shown = ", ".join(f"#{part}" for part in parts)
    hidden = f"main > section:not({shown}), nav {{ display: none; }} h2 {{ margin-top: 1rem; }}"
    if theme == "dark":
        hidden += " header { display: none; }"
    with tempfile.TemporaryDirectory() as folder:
        path, image = Path(folder) / "page.html", Path(folder) / "page.png"
        path.write_text(page.replace("</style>", f"{hidden}</style>"))
        scheme = f"--blink-settings=preferredColorScheme={int(theme == 'light')}"
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", scheme]
        size = f"--window-size={WIDTH},{2 * HEIGHT}"
        subprocess.run(
            [chromium, *flags, size, f"--screenshot={image}", path.as_uri()],
            check=True,
            capture_output=True,
        )
        with Image.open(image) as opened:
            whole = opened.convert("RGB")
    paper = Image.new("RGB", whole.size, whole.getpixel((0, whole.height - 1)))
    end = ImageChops.difference(whole, paper).getbbox()[3]
    return whole.crop((0, 0, WIDTH, min(end + 20, HEIGHT)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chromium", default="chromium")
    parser.add_argument("--keep", metavar="FILE", help="write the whole report there, too")
    options = parser.parse_args()
    shared = Path(os.environ.get("SKTRANSFER_TEST_SHARED", ROOT.parent / "shared"))
    page = chest_report(shared).to_html()
    if options.keep:
        Path(options.keep).write_text(page, encoding="utf-8")
    halves = [shot(page, parts, theme, options.chromium) for theme, parts in HALVES.items()]
    height = max(half.height for half in halves)
    whole = Image.new("RGB", (2 * WIDTH, height))
    for place, half in enumerate(halves):
        whole.paste(
            half.getpixel((0, half.height - 1)), (place * WIDTH, 0, (place + 1) * WIDTH, height)
        )
        whole.paste(half, (place * WIDTH, 0))
    whole.save(IMAGE, quality=66, optimize=True)
    size = IMAGE.stat().st_size
    assert size < LARGEST, f"{size} bytes"
    print(f"wrote {IMAGE}: {whole.size}, {size} bytes")


if __name__ == "__main__":
    main()
