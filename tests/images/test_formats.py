"""AVIF and HEIF, and what TIFF may hold: right, or refused by what it is."""

from __future__ import annotations

import copy
import io
import struct
import sys
import zlib

import numpy as np
import PIL
import pytest
from PIL import AvifImagePlugin, Image

from sktransfer._images import as_image_source
from sktransfer._utils import config as _config
from sktransfer.exceptions import ImageDecodeError, MissingDependencyError

# -- AVIF and HEIF ---------------------------------------------------------------------------------


def smooth(mode="RGB"):
    y, x = np.mgrid[:40, :60]
    color = Image.fromarray(np.stack([x * 4, y * 6, x + 2 * y], axis=-1).astype(np.uint8))
    if mode == "RGBA":
        color.putalpha(Image.fromarray((x * 4).astype(np.uint8)))
    return color if mode == "RGBA" else color.convert(mode)


@pytest.fixture(params=["AVIF", "HEIF"])
def encode_as(request, monkeypatch):
    """A function that encodes an image; nothing stays registered with Pillow."""
    if request.param == "HEIF":
        heif = pytest.importorskip("pillow_heif")
        for registry in ("OPEN", "SAVE", "SAVE_ALL", "MIME", "EXTENSION", "ID"):
            monkeypatch.setattr(Image, registry, copy.copy(getattr(Image, registry)))
        heif.register_heif_opener()
    elif not AvifImagePlugin.SUPPORTED:
        pytest.skip("Pillow without AVIF")

    def encode(image, **options):
        buffer = io.BytesIO()
        image.save(buffer, request.param, **{"quality": 95, **options})
        return buffer.getvalue()

    return encode


def decode(data, **options):
    return as_image_source([data], **options).open(0).decode()


def distance(image, expected):
    assert (image.mode, image.size) == (expected.mode, expected.size)
    return np.abs(np.asarray(image).astype(float) - np.asarray(expected)).mean()


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_avif_and_heif_are_decoded(encode_as, mode):
    image = smooth(mode)
    expected = image
    if mode == "RGBA":
        expected = Image.new("RGB", image.size, "white")
        expected.paste(image, mask=image.getchannel("A"))
    decoded = decode(encode_as(image))
    if mode == "L":  # Pillow reads gray AVIF as color before version 12
        decoded = decoded.convert("L")
    assert distance(decoded, expected) < 2


def test_avif_and_heif_are_turned_once(encode_as):
    image = smooth()
    block = Image.Exif()
    block[0x0112] = 6
    turned = smooth().transpose(Image.Transpose.ROTATE_270)
    assert distance(decode(encode_as(image, exif=block.tobytes())), turned) < 8  # not turned: 60


def test_the_first_image_of_a_sequence_is_taken(encode_as):
    data = encode_as(smooth(), save_all=True, append_images=[smooth().rotate(180)])
    assert distance(decode(data), smooth()) < 2


def test_avif_and_heif_cut_short_are_errors(encode_as):
    data = encode_as(smooth())
    for share in (0.1, 0.5, 0.9, 0.99):
        with pytest.raises(ImageDecodeError):
            decode(data[: int(len(data) * share)])


@pytest.mark.parametrize("brand", [b"mif1", b"msf1", b"miaf"])
def test_the_brand_of_the_container_alone_is_enough(encode_as, brand):
    data = encode_as(smooth())
    assert distance(decode(data[:8] + brand + data[12:]), smooth()) < 2


def test_avif_and_heif_sizes_are_checked_before_they_are_decoded(encode_as, monkeypatch):
    data = encode_as(smooth())
    monkeypatch.setattr(_config, "MAX_IMAGE_PIXELS", 2399)
    with pytest.raises(ImageDecodeError, match="60 x 40"):
        decode(data)


def test_ten_bits_of_heif_are_eight_and_take_no_range():
    heif = pytest.importorskip("pillow_heif")
    deep = (np.asarray(smooth()).astype(np.uint16) * 4).tobytes()
    buffer = io.BytesIO()
    heif.from_bytes("RGB;10", (60, 40), deep).save(buffer, quality=95)
    assert distance(decode(buffer.getvalue()), smooth()) < 2
    with pytest.raises(ImageDecodeError, match="more than 8 bits"):
        decode(buffer.getvalue(), value_range=(0, 1023))


def test_what_cannot_be_read_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(MissingDependencyError, match=r"sktransfer\[heif\]"):
        decode(b"\x00\x00\x00\x18ftypheic" + bytes(40))
    monkeypatch.setattr(AvifImagePlugin, "SUPPORTED", False)
    with pytest.raises(ImageDecodeError, match="this build of Pillow cannot read"):
        decode(b"\x00\x00\x00\x18ftypavif" + bytes(40))


def test_nothing_is_registered_with_pillow():
    heif = pytest.importorskip("pillow_heif")
    before = dict(Image.OPEN)
    buffer = io.BytesIO()
    heif.from_pillow(smooth()).save(buffer)
    decode(buffer.getvalue())
    assert before == Image.OPEN


# -- TIFF ------------------------------------------------------------------------------------------


def tiff(values, photometric=1, kind=1, order="<", planar=1, packed=False, **more):
    """A TIFF of one strip (one for each plane), written without Pillow."""
    height, width = values.shape[:2]
    n, bits = values.shape[2] if values.ndim == 3 else 1, values.dtype.itemsize * 8
    values = values.astype(values.dtype.newbyteorder(order))
    planes = np.moveaxis(values, -1, 0) if planar == 2 else [values]
    parts = [plane.tobytes() for plane in planes]
    parts = [zlib.compress(part) for part in parts] if packed else parts
    tags = {256: [width], 257: [height], 258: [bits] * n, 259: [8 if packed else 1]}
    tags |= {262: [photometric], 277: [n], 278: [height], 284: [planar], 339: [kind] * n}
    offsets = np.cumsum([8, *map(len, parts)])
    tags |= {273: [int(o) for o in offsets[:-1]], 279: [len(part) for part in parts]}
    tags |= {int(tag[1:]): value for tag, value in more.items()}
    body = b"".join(parts)
    body += b"\0" * (len(body) % 2)
    directory, heap = b"", b""
    beyond = 8 + len(body) + 2 + 12 * len(tags) + 4
    for tag, numbers in sorted(tags.items()):
        value = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(value) > 4:
            value, heap = struct.pack(order + "I", beyond + len(heap)), heap + value
        directory += struct.pack(order + "HHI", tag, 4, len(numbers)) + value
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(body))
    return head + body + struct.pack(order + "H", len(tags)) + directory + bytes(4) + heap


GRID = np.arange(600).reshape(20, 30)
COLOR = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
SIGNED = (GRID % 256 - 128).astype(np.int8)
both_orders = pytest.mark.parametrize("order", ["<", ">"])
both_ways = pytest.mark.parametrize("packed", [False, True])


@both_orders
@both_ways
@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "f4"])
def test_numbers_of_a_tiff_are_those_of_the_array(dtype, order, packed):
    values = {"i1": SIGNED, "f4": GRID / 599}.get(dtype, GRID * 100 - 30_000).astype(dtype)
    data = tiff(values, kind=3 if dtype == "f4" else 2, order=order, packed=packed)
    ends = (0, 1) if dtype == "f4" else (-30_000, 30_000)
    expected = np.asarray(decode(values, value_range=ends))
    assert np.array_equal(decode(data, value_range=ends), expected)
    if dtype != "f4":
        whole = as_image_source([values], value_range="dtype").open(0).decode()
        assert np.array_equal(decode(data, value_range="dtype"), whole)
        with pytest.raises(ImageDecodeError, match=rf"{values.dtype} values from {values.min()} "):
            decode(data)


@both_ways
def test_unsigned_numbers_of_32_bits_are_unsigned(packed):
    values = (GRID * 7_158_278).astype(np.uint32)
    data = tiff(values, packed=packed)
    assert np.allclose(decode(data, value_range=(0, 2**32)), values / 2**32)


def test_signed_numbers_of_8_bits_are_gray_levels_where_none_is_negative():
    values = (GRID % 128).astype(np.int8)
    image = decode(tiff(values, kind=2))
    assert image.mode == "L"
    assert np.array_equal(np.asarray(image), values)


@both_orders
def test_sixteen_bits_in_32_need_the_range_that_the_error_names(order):
    levels = (GRID * 100).astype(np.int32)
    data = tiff(levels, kind=2, order=order)
    with pytest.raises(ImageDecodeError, match=r"value_range=\(0, 65535\)"):
        decode(data)
    decoded = decode(data, value_range=(0, 65535))
    assert np.array_equal(np.rint(decoded * 65535), levels)


@both_orders
@both_ways
@pytest.mark.parametrize("planar", [1, 2])
def test_color_of_a_tiff_is_right_or_refused(order, packed, planar):
    data = tiff(COLOR, 2, order=order, planar=planar, packed=packed)
    assert np.array_equal(np.asarray(decode(data)), COLOR)
    deep = tiff(COLOR.astype(np.uint16) * 257, 2, order=order, planar=planar, packed=packed)
    if planar == 2 and not packed:  # Pillow reads garbage
        with pytest.raises(ImageDecodeError, match="separate planes"):
            decode(deep)
    else:
        assert np.array_equal(np.asarray(decode(deep)), COLOR)


def test_subsampled_color_without_compression_is_refused():
    half = COLOR[:10]  # as many bytes as 20 rows subsampled by two both ways have
    # Before version 12 Pillow reads no such file, whatever its sampling.
    reads = int(PIL.__version__.split(".")[0]) >= 12
    with pytest.raises(ImageDecodeError, match="subsampled color" if reads else "truncated"):
        decode(tiff(half, 6, _257=[20]))
    if reads:
        expected = Image.frombytes("YCbCr", COLOR.shape[1::-1], COLOR.tobytes()).convert("RGB")
        assert np.array_equal(np.asarray(decode(tiff(COLOR, 6, _530=[1, 1]))), expected)


def test_white_may_be_zero_in_any_depth():
    for values, kind in (((GRID / 599).astype(np.float32), 3), ((GRID % 256).astype(np.uint8), 1)):
        normal, inverted = tiff(values, 1, kind), tiff(values, 0, kind)
        white = 1 if kind == 3 else 255
        assert np.allclose(np.asarray(decode(inverted)), white - np.asarray(decode(normal)))


@pytest.mark.parametrize("more", [{"_258": [10]}, {"_258": [14]}, {"_339": [4]}])
def test_depths_that_pillow_does_not_read_name_another_reader(more):
    with pytest.raises(ImageDecodeError, match="tifffile"):
        decode(tiff(GRID.astype(np.uint16), **more))


def pages(first, second):
    """A TIFF of two pages."""
    start = len(first)
    (at,) = struct.unpack_from("<I", second, 4)
    (n,) = struct.unpack_from("<H", second, at)
    data = bytearray(first + second)
    for i in range(n):
        entry = start + at + 2 + 12 * i
        if struct.unpack_from("<H", data, entry)[0] == 273:
            data[entry + 8 : entry + 12] = struct.pack("<I", start + 8)
    (own,) = struct.unpack_from("<I", first, 4)
    (n,) = struct.unpack_from("<H", first, own)
    struct.pack_into("<I", data, own + 2 + 12 * n, start + at)
    return bytes(data)


def test_a_first_page_that_is_a_thumbnail_is_passed_over():
    small, large = np.zeros((5, 5), np.uint8), np.full((20, 30), 77, np.uint8)
    assert decode(pages(tiff(small, _254=[0]), tiff(large, _254=[0]))).size == (5, 5)
    assert decode(pages(tiff(small, _254=[1]), tiff(large, _254=[0]))).size == (30, 20)
    assert decode(tiff(large, _254=[1])).size == (30, 20)
    with pytest.raises(ImageDecodeError, match=r"only a thumbnail .*raw file"):
        decode(tiff(small, _254=[1], _330=[8]))


@pytest.mark.parametrize("maximum", [1023, 4095])
def test_deep_pgm_is_read_as_it_is(maximum):
    values = np.random.default_rng(0).integers(0, maximum + 1, (20, 30)).astype(">u2")
    data = b"P5 30 20 %d\n" % maximum + values.tobytes()
    assert np.array_equal(decode(data), (values / maximum).astype(np.float32))
    beyond = values.copy()
    beyond[0, 0] = maximum + 1
    with pytest.raises(ImageDecodeError, match=f"to {maximum + 1} were found"):
        decode(b"P5 30 20 %d\n" % maximum + beyond.tobytes())
