"""What must become of each of the 58 odd files: the right image, or an error that names it."""

from __future__ import annotations

import csv
import warnings

import numpy as np
import pytest
from PIL import Image

from sktransfer._images import as_image_source, make_preprocessing
from sktransfer.exceptions import ImageDecodeError

COLOR, GRAY, DEEP = "RGB", "L", "deep"

# file -> (kind, width, height), or a part of the error's text
EXPECTED: dict[str, tuple[str, int, int] | str] = {
    "hopper.jpg": (COLOR, 128, 128),
    **{f"hopper_orientation_{i}.jpg": (COLOR, 128, 128) for i in range(2, 9)},
    "truncated_jpeg.jpg": "truncated",
    "truncated_image.png": "truncated",
    "truncated_end_chunk.png": "Truncated",
    "broken.png": "damaged or unsupported PNG",
    "broken_data_stream.png": "damaged or unsupported PNG",
    "unknown_compression_method.png": "compression method",
    "zero_width.gif": "no pixels",
    "negative_size.ppm": "damaged or unsupported PPM",
    "shortfile.bmp": "truncated",
    "badbitcount.bmp": "pixel depth",
    "hopper_unknown_pixel_mode.tif": "unknown pixel mode",
    "crash-1152ec2d1a1a71395b6f2ce6721c38924d025bf3.tif": "damaged or unsupported TIFF",
    "decompression_bomb.gif": "4,364,696,535 pixels",
    "pil_sample_cmyk.jpg": (COLOR, 100, 100),
    "tiff_strip_cmyk_jpeg.tif": (COLOR, 100, 100),
    "hopper_gray.jpg": (GRAY, 128, 128),
    "hopper_bw_500.png": (GRAY, 500, 500),
    "hopper.gif": (COLOR, 128, 128),
    "pil123p.png": (COLOR, 162, 150),
    "transparent.png": (COLOR, 200, 150),
    "transparent.webp": (COLOR, 200, 150),
    "uncompressed_la.png": (GRAY, 128, 128),
    "hopper.Lab.tif": (COLOR, 128, 128),
    "16bit.cropped.tif": (DEEP, 64, 64),
    "12in16bit.tif": (DEEP, 100, 100),
    "hopper_16bit.pgm": (DEEP, 128, 128),
    "i_trns.png": (DEEP, 64, 64),
    "10ct_32bit_128.tiff": "value_range",
    "tiff_16bit_RGB.tiff": (COLOR, 100, 40),
    "chi.gif": (COLOR, 320, 240),
    "dispose_bgnd.gif": (COLOR, 100, 100),
    "multipage.tiff": (COLOR, 10, 10),
    "frozenpond.mpo": (COLOR, 640, 480),
    "hopper.avif": (COLOR, 128, 128),
    "tRNS_null_1x1.png": (COLOR, 1, 1),
    "jfif_unit_cm.jpg": (GRAY, 1, 1),
    "7x13.png": (COLOR, 7, 13),
    "bw_gradient.png": (GRAY, 256, 10),
    "g4-multi.tiff": (GRAY, 3307, 4677),
    "invalid-exif.jpg": (COLOR, 200, 200),
    # Not only its EXIF block is damaged: see test_damage.py.
    "hopper_bad_exif.jpg": "1214 extraneous bytes",
    "junk_jpeg_header.jpg": (COLOR, 1024, 768),
    "hopper_idat_after_image_end.png": (COLOR, 128, 128),
    "00000773_001.png": (COLOR, 1024, 1024),
    "empty.jpg": "empty",
    "text_named.jpg": "text",
    "html_named.png": "web page",
    "png_named.jpg": (COLOR, 128, 128),
    "UPPER_CASE.JPG": (COLOR, 128, 128),
    "no_extension": (COLOR, 128, 128),
}


@pytest.fixture(scope="module")
def odd(shared_data):
    return shared_data / "odd_images"


def decode(path, **options):
    return as_image_source([path], **options).open(0).decode()


def values(image):
    return np.asarray(image).astype(float)


def test_the_table_covers_the_folder(odd):
    with open(odd / "index.csv", newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert set(rows) == set(EXPECTED)
    assert len(EXPECTED) == 58
    for name, row in rows.items():
        if row["pillow_result"] != "ok":
            assert isinstance(EXPECTED[name], str), name


@pytest.mark.parametrize("name", EXPECTED)
def test_each_file_ends_as_it_should(name, odd):
    expected = EXPECTED[name]
    source = as_image_source(["not opened", odd / name])
    if isinstance(expected, str):
        with pytest.raises(ImageDecodeError, match=expected) as caught:
            source.open(1).decode()
        assert (caught.value.index, caught.value.source) == (1, name)
        assert str(caught.value).startswith(f"row 1 ({name}): ")
        return
    kind, width, height = expected
    image = source.open(1).decode()
    if kind == DEEP:
        assert image.dtype == np.float32
        assert image.shape == (height, width)
        assert 0 <= image.min() <= image.max() <= 1
    else:
        assert (image.mode, image.size) == (kind, (width, height))


def test_all_together_give_one_batch_each_in_its_place(odd):
    preprocess = make_preprocessing(
        crop_size=64, resize_size=64, interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3
    )
    names = [name for name, expected in EXPECTED.items() if not isinstance(expected, str)]
    source = as_image_source([odd / name for name in names])
    together = preprocess.to_batch([preprocess(source.open(i).decode()) for i in range(len(names))])
    assert together.shape == (42 - 2, 3, 64, 64)
    for i, name in enumerate(names):
        alone = preprocess.to_batch([preprocess(decode(odd / name))])[0]
        assert np.allclose(together[i], alone, atol=1e-6), name


@pytest.mark.parametrize("orientation", range(2, 9))
def test_orientation_is_applied(orientation, odd):
    upright = values(decode(odd / "hopper.jpg"))
    turned = values(decode(odd / f"hopper_orientation_{orientation}.jpg"))
    assert np.abs(turned - upright).mean() < 5


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("hopper.gif", 12), ("hopper.Lab.tif", 5), ("png_named.jpg", 5), ("UPPER_CASE.JPG", 0)],
)
def test_the_same_image_in_other_encodings_is_the_same(name, tolerance, odd):
    difference = values(decode(odd / name)) - values(decode(odd / "hopper.jpg"))
    assert np.abs(difference).mean() <= tolerance


def test_cmyk_has_its_true_colors(odd):
    # The same image from two encoders, one of which inverts.
    jpeg, tiff = (
        values(decode(odd / n)) for n in ("pil_sample_cmyk.jpg", "tiff_strip_cmyk_jpeg.tif")
    )
    assert np.abs(jpeg - tiff).mean() < 10


@pytest.mark.parametrize(
    "name", ["transparent.png", "transparent.webp", "pil123p.png", "uncompressed_la.png"]
)
def test_alpha_is_shown_over_white(name, odd):
    with Image.open(odd / name) as image:
        rgba = values(image.convert("RGBA"))
    alpha = rgba[..., 3:] / 255
    expected = rgba[..., :3] * alpha + 255 * (1 - alpha)
    assert alpha.min() < 1
    got = values(decode(odd / name).convert("RGB"))
    assert np.abs(got - expected).max() <= 1


@pytest.mark.parametrize(
    ("name", "maximum"),
    [("16bit.cropped.tif", 65535), ("12in16bit.tif", 65535), ("hopper_16bit.pgm", 65535)],
)
def test_sixteen_bits_keep_their_levels(name, maximum, odd):
    with Image.open(odd / name) as pil_image:
        levels = np.asarray(pil_image).astype(int)
    image = decode(odd / name)
    assert np.allclose(image * maximum, levels, atol=0.01)
    assert len(np.unique(image)) == len(np.unique(levels))
    narrower = decode(odd / name, value_range=(0, int(levels.max())))
    assert narrower.max() == 1
    assert len(np.unique(narrower)) == len(np.unique(levels))


def test_a_transparent_level_of_sixteen_bits_becomes_white(odd):
    with Image.open(odd / "i_trns.png") as pil_image:
        levels = np.asarray(pil_image).astype(int)
        transparent = pil_image.info["transparency"]
    image = decode(odd / "i_trns.png")
    assert (image[levels == transparent] == 1).all()
    opaque = levels != transparent
    assert np.allclose(image[opaque] * 65535, levels[opaque], atol=0.01)


def test_a_float_slice_needs_its_range(odd):
    with Image.open(odd / "10ct_32bit_128.tiff") as pil_image:
        levels = np.asarray(pil_image)
    image = decode(odd / "10ct_32bit_128.tiff", value_range=(-4, 4))
    assert np.allclose(image, (levels + 4) / 8, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["chi.gif", "dispose_bgnd.gif", "multipage.tiff", "frozenpond.mpo"]
)
def test_the_first_frame_is_taken(name, odd):
    with Image.open(odd / name) as image:
        rgba = values(image.convert("RGBA"))
    alpha = rgba[..., 3:] / 255
    expected = rgba[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(values(decode(odd / name)) - expected).max() <= 1


def test_outcomes_do_not_depend_on_the_warnings_filter(odd):
    for action in ("error", "ignore"):
        with warnings.catch_warnings():
            warnings.simplefilter(action)
            for name, expected in EXPECTED.items():
                try:
                    decode(odd / name)
                except ImageDecodeError:
                    assert isinstance(expected, str), (action, name)
                else:
                    assert not isinstance(expected, str), (action, name)
