"""Images that once came out wrong, or took a whole run with them."""

from __future__ import annotations

import io
import os
import struct
import zlib

import numpy as np
import pytest
import torchvision
from PIL import Image, TiffImagePlugin

from sktransfer._images import as_image_source, make_preprocessing
from sktransfer.exceptions import ImageDecodeError

SETTINGS = {
    "crop_size": 32,
    "resize_size": 40,
    "interpolation": "bilinear",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
}


def open_one(row, **settings):
    return as_image_source([row], **settings).open(0)


def encoded(image, format_, **options):
    stream = io.BytesIO()
    image.save(stream, format_, **options)
    return stream.getvalue()


def tiff16(photometric):
    levels = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[262] = photometric
    data = bytearray(encoded(Image.fromarray(levels), "TIFF", tiffinfo=info))
    # Pillow writes "black is zero" whatever it is told: change the tag's value in place.
    at = data.find(struct.pack("<HHI", 262, 3, 1))
    data[at + 8 : at + 10] = struct.pack("<H", photometric)
    return bytes(data)


def test_the_digest_of_an_opened_tiff_holds_the_meaning_of_its_levels():
    ordinary, inverted = (
        open_one(Image.open(io.BytesIO(tiff16(photometric)))) for photometric in (1, 0)
    )
    assert ordinary.digest != inverted.digest
    np.testing.assert_allclose(ordinary.decode(), 1 - inverted.decode(), atol=1e-6)


def test_byte_order_of_an_array_does_not_matter():
    levels = np.arange(64, dtype=np.uint16).reshape(1, 8, 8) * 1000
    for order in ("<u2", ">u2"):
        image = as_image_source(levels.astype(order)).open(0).decode()
        np.testing.assert_allclose(image, levels[0] / 65535, rtol=1e-6)


def test_half_a_png_is_not_an_image_wherever_it_was_cut():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(pixels), "PNG")
    open_one(data).decode()
    for cut in range(100, len(data) - 20, 997):
        for rest in (b"", bytes(len(data) - cut)):
            with pytest.raises(ImageDecodeError):
                open_one(data[:cut] + rest).decode()


def test_a_pillow_image_that_contradicts_itself_is_one_bad_row():
    palette = Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).convert("P")
    palette.info["transparency"] = b"\x00\xff"
    bilevel = palette.convert("1")
    bilevel.info["transparency"] = b"\x00\xff"
    for row in (bilevel, Image.new("RGB", (0, 5))):
        with pytest.raises(ImageDecodeError, match="row 0"):
            open_one(row).decode()


def png(bits, color_type, scanlines, key):
    """A PNG by hand, since Pillow writes neither 2-bit gray nor 16-bit color."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    width = 2
    header = struct.pack(">IIBBBBB", width, 1, bits, color_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"tRNS", key)
        + chunk(b"IDAT", zlib.compress(b"\0" + scanlines))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("bits", "line"), [(2, 0b01_00_0000), (4, 0b0001_0000)])
def test_a_transparent_gray_of_few_bits_becomes_white(bits, line):
    data = png(bits, 0, bytes([line]), struct.pack(">H", 1))
    image = np.asarray(open_one(data).decode())
    assert image.tolist() == [[255, 0]]  # level 1 is transparent: white paper


def test_a_transparent_color_of_sixteen_bits_is_not_guessed():
    pixels = struct.pack(">6H", 0x3401, 0x7802, 0xBC03, 0, 0, 0)
    data = png(16, 2, pixels, struct.pack(">3H", 0x34, 0x78, 0xBC))
    image = np.asarray(open_one(data).decode())
    assert image[0, 0].tolist() == [0x34, 0x78, 0xBC]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageDecodeError, match="not a regular file"):
        open_one(tmp_path / "pipe.png")


def test_a_file_too_long_to_be_an_image_is_not_read(tmp_path):
    with open(tmp_path / "sparse.jpg", "wb") as file:
        file.truncate(2**30 + 1)
    with pytest.raises(ImageDecodeError, match="1,073,741,825 bytes"):
        open_one(tmp_path / "sparse.jpg")


def test_torchvisions_preset_takes_deep_images_and_equals_itself():
    preset = torchvision.models.ResNet18_Weights.DEFAULT.transforms()
    mine = make_preprocessing(**SETTINGS, preprocessing=preset)
    image = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (301, 257, 3), dtype=np.uint8)
    )
    assert (mine.to_batch([mine(image)])[0] == preset(image)).all()
    deep = np.asarray(image, dtype=np.float32) / 255
    assert abs(mine.to_batch([mine(deep)])[0] - preset(image)).max() < 0.05
    assert mine.fingerprint is not None
