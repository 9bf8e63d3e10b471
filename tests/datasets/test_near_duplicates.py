"""Copies are found however they were edited, and images that only look alike are not copies."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_images

from sktransfer.datasets import check_images, load_image_folder
from sktransfer.datasets._near_duplicates import near_copies
from sktransfer.exceptions import LeakageWarning
from sktransfer.model_selection import check_leakage

SIDE = 160
QUARTERS = [(left, top, left + 28, top + 28) for left in (0, 28) for top in (0, 28)]
EDITS = {
    "saved again": lambda image: image,
    "cropped": lambda image: image.crop((10, 22, 140, 150)),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "scaled": lambda image: image.resize((70, 70)),
    "squashed": lambda image: image.resize((110, 160)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.25),
    "turned": lambda image: image.rotate(6),
    "turned by a quarter": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "upside down": lambda image: image.transpose(Image.Transpose.ROTATE_180),
    "mirrored and cropped": lambda image: image.crop((0, 0, 135, 135)).transpose(
        Image.Transpose.FLIP_LEFT_RIGHT
    ),
}


def saved(image, quality=60):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


@pytest.fixture(scope="module")
def photos():
    """Parts of two photographs, none of which overlap."""
    parts = [
        Image.fromarray(photo[top : top + SIDE, left : left + SIDE])
        for photo in load_sample_images().images
        for top in (40, 220)
        for left in (0, 160, 320, 480)
    ]
    return [part for part in parts if np.asarray(part.convert("L")).std() > 20]


def near(frame):
    return frame[frame["finding"].str.contains("near duplicate")]


@pytest.mark.parametrize("edit", EDITS)
def test_edited_copies_are_found_and_nothing_else(photos, edit):
    X = [saved(photo, 95) for photo in photos]
    X += [saved(EDITS[edit](photo)) for photo in photos[:5]]
    found = near(check_images(X, near_duplicates=True, verbose=0))
    n = len(photos)
    assert found["row"].tolist() == list(range(n, n + 5))
    for place, detail in enumerate(found["detail"]):
        assert f"with row {place}" in detail
        assert ("mirrored" in detail) == ("mirrored" in edit)


def test_copies_of_small_images_are_found_however_small_they_get(photos):
    whole = [photo.resize((56, 56)).crop(box) for photo in photos[:6] for box in QUARTERS]
    whole = [image for image in whole if np.asarray(image.convert("L")).std() > 25]
    X = [*whole, *(image.resize((12, 12)) for image in whole[:4])]
    found = near(check_images(X, near_duplicates=True, verbose=0))
    n = len(whole)
    assert found["row"].tolist() == list(range(n, n + 4))


def test_smooth_images_that_only_look_alike_are_no_copies():
    ramps = [np.add.outer(k * np.arange(64.0), np.arange(64.0)) for k in (-0.5, 0.2, 1, 2)]
    noise = np.random.default_rng(0).normal(0, 4, (4, 64, 64))
    levels = [128 + 20 * (ramp - ramp.mean()) / ramp.std() for ramp in ramps]
    thumbnails = np.clip(levels + noise, 0, 255).astype(np.uint8)
    assert near_copies(thumbnails, np.full((4, 2), 64)).empty


def test_copies_are_found_only_if_they_are_asked_for(photos):
    assert near(check_images([photos[0], EDITS["scaled"](photos[0])], verbose=0)).empty


def test_labels_and_patients_of_copies_are_compared(photos):
    X = [*photos[:4], *(EDITS["mirrored"](photo) for photo in photos[:3]), photos[3]]
    y, groups = [0, 1, 0, 1, 0, 1, 1, 1], list("abcdaxcd")
    found = check_images(X, y, groups, near_duplicates=True, verbose=0)
    assert found.loc[found["row"] > 3, ["row", "finding"]].to_numpy().tolist() == [
        [7, "duplicate"],  # of equal pixels, and reported once
        [4, "near duplicate"],
        [5, "near duplicate across groups"],
        [6, "conflicting near duplicate"],
    ]
    assert found["detail"].iloc[-2].endswith("labels 1 and 0")


def test_no_and_few_and_plain_images_are_no_copies():
    plain = np.full((3, 64, 64), 9, np.uint8)
    sizes = np.full((3, 2), 64)
    assert near_copies(plain, sizes).empty
    noise = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)
    assert near_copies(noise, sizes).empty
    assert near_copies(noise[:1], sizes[:1]).empty


def test_xrays_of_one_patient_are_no_copies_and_edited_ones_are(shared_data):
    xrays = load_image_folder(shared_data / "chest_xray_pneumonia", positive="pneumonia")
    _, place, counts = np.unique(xrays.groups, return_inverse=True, return_counts=True)
    rows = np.argsort(-counts[place], kind="stable")[:60]
    paths = np.asarray(xrays.data).ravel()
    X = [Image.open(paths[row]).convert("L") for row in rows]
    firsts = np.unique(place[rows], return_index=True)[1]  # one of each patient
    pairs = list(zip(firsts, EDITS, strict=False))
    X += [EDITS[edit](X[first].resize((SIDE, SIDE))) for first, edit in pairs]
    found = near(check_images(X, near_duplicates=True, verbose=0))
    assert len(pairs) > 5
    assert found["row"].tolist() == list(range(60, 60 + len(pairs)))
    assert all(
        detail.endswith(f"with row {first}")
        for detail, (first, _) in zip(found["detail"], pairs, strict=True)
    )


def test_a_test_image_that_is_an_edited_training_image_is_leakage(photos):
    train, test = photos[:6], [photos[8], EDITS["mirrored"](photos[2]), photos[3]]
    assert check_leakage(train, test, on_leak="ignore")["what"].tolist() == ["image"]
    with pytest.warns(LeakageWarning, match="1 of 3 test rows are of an edited image"):
        found = check_leakage(train, test, near_duplicates=True)
    assert found.to_numpy().tolist() == [[1, 2, "near duplicate"], [2, 3, "image"]]
