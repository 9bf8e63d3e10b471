"""Scales of numbers: declared, of the type, of each image's own percentiles."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from sktransfer._images import as_image_source
from sktransfer.exceptions import ImageDecodeError


def decode(row, **options):
    values = np.asarray(as_image_source([row], **options).open(0).decode())
    return values / 255 if values.dtype == np.uint8 else values


def encoded(array, format_):
    file = io.BytesIO()
    Image.fromarray(array).save(file, format=format_)
    return file.getvalue()


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "int32", "uint32", "uint8", ">i2"])
def test_dtype_scales_to_all_that_the_type_can_hold(dtype):
    info = np.iinfo(dtype)
    levels = np.linspace(info.min, info.max, 48).astype(dtype).reshape(6, 8)
    expected = (levels.astype(float) - info.min) / (float(info.max) - info.min)
    assert np.allclose(decode(levels, value_range="dtype"), expected, atol=1e-6)
    batch = as_image_source(levels[None], value_range="dtype")
    assert np.allclose(
        np.asarray(batch.open(0).decode()) / (255 if dtype == "uint8" else 1), expected, atol=1e-6
    )


def test_dtype_changes_nothing_for_floats_and_files():
    floats = np.linspace(0, 1, 12).reshape(3, 4)
    assert np.array_equal(decode(floats, value_range="dtype"), decode(floats))
    with pytest.raises(ImageDecodeError, match=r"\[0, 1\]"):
        decode(floats * 2, value_range="dtype")
    twelve = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    for format_ in ("PNG", "TIFF"):
        file = encoded(twelve, format_)
        assert np.array_equal(decode(file, value_range="dtype"), decode(file))


@pytest.mark.parametrize("kind", ["int16", "uint16", "float32", "float64"])
@pytest.mark.parametrize(
    ("named", "ends"), [("percentile", (1, 99)), (("percentile", 5, 80.5), (5, 80.5))]
)
def test_percentiles_are_of_each_image(kind, named, ends):
    rng = np.random.default_rng(0)
    X = (rng.normal(0, 3000, (3, 20, 30)) + 5000).clip(0).astype(kind)
    source = as_image_source(X, value_range=named)
    for i, values in enumerate(X.astype(float)):
        low, high = np.percentile(values, ends)
        expected = ((values - low) / (high - low)).clip(0, 1)
        assert np.allclose(source.open(i).decode(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("array", "format_"),
    [
        (np.arange(600, dtype=np.uint16).reshape(20, 30) + 700, "PNG"),
        (np.arange(600, dtype=np.uint16).reshape(20, 30) + 700, "TIFF"),
        (np.arange(600, dtype=np.float32).reshape(20, 30) - 300, "TIFF"),
        (np.arange(600, dtype=np.int32).reshape(20, 30) - 300, "TIFF"),
    ],
)
def test_percentiles_scale_deep_files(array, format_):
    low, high = np.percentile(array.astype(float), (1, 99))
    expected = ((array - low) / (high - low)).clip(0, 1)
    got = decode(encoded(array, format_), value_range="percentile")
    assert np.allclose(got, expected, atol=1e-6)


def test_a_scale_of_percentiles_does_not_move_with_the_image():
    """Exposure and gain leave no trace: what it is for, and what it costs."""
    levels = np.random.default_rng(1).integers(0, 1000, (16, 16))
    one = decode(levels.astype(np.int32), value_range="percentile")
    other = decode((levels * 7 + 300).astype(np.int32), value_range="percentile")
    assert np.allclose(one, other, atol=1e-6)


def test_percentiles_accept_images_of_hardly_any_levels():
    assert not decode(np.full((4, 4), 900, np.int32), value_range="percentile").any()
    dot = np.zeros((40, 40), np.int32)
    dot[3, 3] = 500  # one pixel in 1600: both percentiles are 0
    assert np.array_equal(decode(dot, value_range="percentile"), dot / 500)
    with pytest.raises(ImageDecodeError, match="NaN"):
        decode(np.full((4, 4), np.nan), value_range="percentile")


def test_opacity_is_not_scaled_with_the_colors():
    rng = np.random.default_rng(2)
    color = rng.integers(0, 4000, (10, 12, 3)).astype(np.uint16)
    alpha = rng.integers(0, 65536, (10, 12, 1)).astype(np.uint16)
    low, high = np.percentile(color, (1, 99))
    scaled = ((color - low) / (high - low)).clip(0, 1)
    expected = scaled * (alpha / 65535) + 1 - alpha / 65535
    got = decode(np.concatenate([color, alpha], axis=2), value_range="percentile")
    assert np.allclose(got, expected, atol=1e-5)


def test_shallow_files_and_booleans_have_their_own_scale():
    shallow = np.arange(100, dtype=np.uint8).reshape(10, 10)
    for named in ("percentile", "dtype"):
        assert np.array_equal(decode(encoded(shallow, "PNG"), value_range=named), shallow / 255)
        assert np.array_equal(decode(shallow > 50, value_range=named), (shallow > 50).astype(float))
    # An array is what its owner declares.
    assert decode(shallow, value_range="percentile").max() == 1


def test_scales_hold_for_tensors():
    X = torch.arange(96, dtype=torch.int16).reshape(2, 3, 4, 4) - 48
    source = as_image_source(X, value_range="percentile")
    assert source.open(0).decode().max() == source.open(1).decode().max() == 1
    assert as_image_source(X, value_range="dtype").open(0).decode().shape == (4, 4, 3)


def test_a_scale_is_part_of_the_digest():
    X = np.arange(64, dtype=np.uint16).reshape(1, 8, 8)
    scales = [None, "dtype", "percentile", ("percentile", 0, 99), (0, 63)]
    assert len({as_image_source(X, value_range=scale).open(0).digest for scale in scales}) == 5
    named = ("percentile", 1, 99)
    digests = {as_image_source(X, value_range=s).open(0).digest for s in ("percentile", named)}
    assert len(digests) == 1


@pytest.mark.parametrize(
    "bad",
    [
        "minmax",
        ("percentile", 5),
        ("percentile", 99, 1),
        ("percentile", "1", "99"),
        ("dtype", 1),
        ("percentile", -1, 50),
        ("percentile", 0, 101),
        (),
    ],
)
def test_bad_names_of_scales_are_refused(bad):
    with pytest.raises(ValueError, match=r"value_range must be None or two finite.*percentile"):
        as_image_source(np.zeros((1, 4, 4)), value_range=bad)
