"""Real X-rays with a letter on the positives: maps point at it, and pass or fail as they should."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import PretrainedFeatureExtractor
from sktransfer.inspection import (
    deletion_insertion_curves,
    saliency_maps,
    saliency_randomization_test,
)

pytestmark = pytest.mark.slow

# Left, top, right, bottom on 320 x 320, and how far away still counts (Zhang et al., 2018: 15).
BOX, MARGIN = (42, 40, 66, 68), 10


def stamped(image):
    font = ImageFont.load_default(size=36)
    left, top, *_ = font.getbbox("R")
    ImageDraw.Draw(image).text((BOX[0] - left, BOX[1] - top), "R", fill=235, font=font)
    return image


@pytest.fixture(scope="module")
def study(shared_data, shared_weights):
    """Return a classifier of X-rays, and positives of patients it has not seen."""
    folder = shared_data / "chest_xray_pneumonia"
    table = pd.read_csv(folder / "metadata.csv")
    # One image for each patient.
    table = table.sample(frac=1, random_state=0).drop_duplicates("patient_id")
    parts = [own.head(60) for _, own in table.groupby("label")]
    images, labels = [], []
    for part in parts:
        for file, label in zip(part["file"], part["label"], strict=True):
            image = Image.open(folder / file).convert("L")
            images.append(stamped(image) if label == "pneumonia" else image)
            labels.append(label)
    learn = np.arange(len(labels)) % 60 < 45
    (weights,) = shared_weights.glob("squeezenet1_0*.pth")
    feat = PretrainedFeatureExtractor(
        "squeezenet1_0", weights=str(weights), engine="torch", cache=False
    )
    clf = make_pipeline(feat, StandardScaler(), LogisticRegression(C=0.01))
    clf.fit([p for p, own in zip(images, learn, strict=True) if own], np.array(labels)[learn])
    positives = [
        image
        for image, label, own in zip(images, labels, learn, strict=True)
        if label == "pneumonia" and not own
    ]
    assert len(positives) == 15
    return clf, positives


# Not integrated gradients: see the table of the user guide's page.
METHODS = {
    "gradient": {"smooth": 8},
    "grad_cam": {},
    "occlusion": {"patch": 40, "stride": 20},
}


@pytest.mark.parametrize(("method", "settings"), METHODS.items(), ids=METHODS)
def test_maps_point_at_the_letter(study, method, settings):
    """The letter with its margin covers 0.03 of what the network sees."""
    clf, positives = study
    positives = positives[:8] if method == "occlusion" else positives  # 225 windows each
    labels = ["pneumonia"] * len(positives)
    hits = []
    for own in saliency_maps(clf, positives, labels, method=method, **settings):
        smooth = gaussian_filter(np.nan_to_num(own), 6)
        row, column = np.unravel_index(smooth.argmax(), smooth.shape)
        hits.append(
            BOX[0] - MARGIN <= column < BOX[2] + MARGIN and BOX[1] - MARGIN <= row < BOX[3] + MARGIN
        )
    assert np.mean(hits) > 0.5


def test_deleting_the_letter_first_is_faster_than_chance(study):
    clf, positives = study
    labels = ["pneumonia"] * 5
    own, chance = (
        deletion_insertion_curves(clf, positives[:5], labels, maps=maps, n_steps=12)
        for maps in ("grad_cam", "random")
    )
    assert own.deletion_area.mean() < chance.deletion_area.mean() - 0.1


@pytest.mark.parametrize("method", ["gradient", "grad_cam"])
def test_gradient_and_grad_cam_pass_with_pretrained_weights(study, method):
    clf, positives = study
    result = saliency_randomization_test(clf, positives[:3], method=method)
    assert result.passed
    assert result.correlation < 0.5


def test_edges_fail_with_pretrained_weights(study):
    clf, positives = study

    def edges(decision, batch, codes):
        return batch.mean(1).diff(dim=2).abs()

    result = saliency_randomization_test(clf, positives[:2], method=edges)
    assert not result.passed
    assert result.correlation == pytest.approx(1)


class GuidedReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.clamp(min=0) * (ctx.saved_tensors[0] > 0)


def test_guided_backpropagation_fails_with_pretrained_weights(study, monkeypatch):
    """Adebayo et al. (2018): it depends on the first layers and hardly on later ones."""
    clf, positives = study
    monkeypatch.setattr(torch.nn.ReLU, "forward", lambda _, x: GuidedReLU.apply(x))

    def guided(decision, batch, codes):
        batch = batch.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(decision(batch).sum(), batch)
        return gradient.abs().amax(1)

    result = saliency_randomization_test(clf, positives[:3], method=guided)
    assert not result.passed
