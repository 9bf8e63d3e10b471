"""Encoded files made on the spot: orientation, alpha, palette, depth, damage, size, format."""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from sktransfer._images import as_image_source
from sktransfer._utils import config as _config
from sktransfer.exceptions import ImageDecodeError, SkTransferError


def scene(width=60, height=40):
    """A color image without any symmetry."""
    y, x = np.mgrid[:height, :width]
    planes = [x * 255 // width, y * 255 // height, (x + 2 * y) * 255 // (width + 2 * height)]
    return Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8))


def encode(image, format_, **options):
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def decode(data, **options):
    return as_image_source([data], **options).open(0).decode()


def pixels(image):
    return np.asarray(image).astype(int)


LOSSLESS = {
    "PNG": {},
    "BMP": {},
    "TIFF": {},
    "PPM": {},
    "TGA": {},
    "WEBP": {"lossless": True},
    "JPEG2000": {"irreversible": False},
}


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("format_", LOSSLESS)
def test_every_accepted_format_is_decoded(format_, mode):
    pil_image = scene().convert(mode)
    image = decode(encode(pil_image, format_, **LOSSLESS[format_]))
    expected = pil_image.convert("RGB") if format_ == "WEBP" else pil_image  # WebP knows no gray
    assert image.mode == expected.mode
    assert np.array_equal(pixels(image), pixels(expected))


@pytest.mark.parametrize("format_", ["JPEG", "GIF", "ICO"])
def test_formats_that_change_the_image_equal_pillow(format_):
    data = encode(scene(32, 32), format_)
    with Image.open(io.BytesIO(data)) as image:
        expected = image.convert("RGB")
    assert np.array_equal(pixels(decode(data)), pixels(expected))


# -- orientation -----------------------------------------------------------------------------------


def exif(orientation):
    block = Image.Exif()
    block[0x0112] = orientation
    return block


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("format_", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_exif_orientation_is_applied_once(format_, options, orientation):
    data = encode(scene(), format_, exif=exif(orientation), **options)
    with Image.open(io.BytesIO(data)) as pil_image:
        expected = ImageOps.exif_transpose(pil_image)
    image = decode(data)
    assert image.size == ((60, 40) if orientation < 5 else (40, 60))
    assert np.array_equal(pixels(image), pixels(expected))
    # The same file opened by the user.
    opened = Image.open(io.BytesIO(data))
    assert np.array_equal(pixels(as_image_source([opened]).open(0).decode()), pixels(expected))


def test_orientation_is_applied_to_sixteen_bit_files():
    levels = np.arange(600, dtype=np.uint16).reshape(20, 30) * 100
    data = encode(Image.fromarray(levels), "PNG", exif=exif(6))
    assert np.allclose(decode(data), np.rot90(levels, -1) / 65535)


def test_orientation_in_xmp_alone_is_applied():
    packet = b'<x:xmpmeta><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
    data = encode(scene(), "JPEG", xmp=packet)
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(pixels(decode(data)), pixels(image.rotate(180)))


@pytest.mark.parametrize("cut", range(0, 40, 3))
def test_damaged_exif_is_no_reason_to_lose_the_image_or_to_warn(cut):
    block = exif(6).tobytes()
    data = encode(scene(), "JPEG", exif=block[: len(block) - cut])
    assert sorted(decode(data).size) == [40, 60]


# -- alpha, palette, color ------------------------------------------------------------------------


def with_alpha():
    image = scene()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def test_alpha_is_composited_over_white():
    pil_image = with_alpha()
    values = pixels(pil_image)
    alpha = values[..., 3:] / 255
    expected = values[..., :3] * alpha + 255 * (1 - alpha)
    for format_ in ("PNG", "TIFF", "TGA", "WEBP"):
        options = {"lossless": True, "exact": True} if format_ == "WEBP" else {}
        image = decode(encode(pil_image, format_, **options))
        assert image.mode == "RGB"
        assert np.abs(pixels(image) - expected).max() <= 1, format_


def test_color_under_full_transparency_does_not_show():
    image = Image.new("RGBA", (10, 10), (200, 0, 0, 0))
    assert (pixels(decode(encode(image, "PNG"))) == 255).all()


def test_gray_with_alpha_stays_gray():
    pil_image = with_alpha().convert("LA")
    image = decode(encode(pil_image, "PNG"))
    assert image.mode == "L"
    gray, alpha = pixels(pil_image)[..., 0], pixels(pil_image)[..., 1] / 255
    assert np.abs(pixels(image) - (gray * alpha + 255 * (1 - alpha))).max() <= 1


def test_transparent_palette_entries_become_white():
    pil_image = scene().quantize(16)
    index = int(np.asarray(pil_image)[0, 0])
    for transparency in (index, bytes(0 if i == index else 255 for i in range(16))):
        image = decode(encode(pil_image, "PNG", transparency=transparency))
        hidden = np.asarray(pil_image) == index
        assert (pixels(image)[hidden] == 255).all()
        assert np.array_equal(pixels(image)[~hidden], pixels(pil_image.convert("RGB"))[~hidden])


def test_a_color_declared_transparent_becomes_white():
    pil_image = Image.new("RGB", (4, 4), (1, 2, 3))
    pil_image.putpixel((0, 0), (9, 9, 9))
    image = decode(encode(pil_image, "PNG", transparency=(1, 2, 3)))
    assert image.getpixel((1, 1)) == (255, 255, 255)
    assert image.getpixel((0, 0)) == (9, 9, 9)
    gray = decode(encode(pil_image.convert("L"), "PNG", transparency=9))
    assert gray.mode == "L"
    assert gray.getpixel((0, 0)) == 255


def test_tga_whose_alpha_is_declared_meaningless():
    image = scene()
    image.putalpha(0)
    data = bytearray(encode(image, "TGA"))
    data[17] &= 0xF0  # no attribute bits
    assert np.array_equal(pixels(decode(bytes(data))), pixels(scene()))


def test_other_color_spaces_become_rgb():
    cmyk = encode(scene().convert("CMYK"), "JPEG", quality=95)
    assert decode(cmyk).mode == "RGB"
    assert np.abs(pixels(decode(cmyk)) - pixels(scene())).mean() < 8
    bilevel = decode(encode(scene().convert("1"), "PNG"))
    assert bilevel.mode == "L"
    assert set(np.unique(bilevel)) == {0, 255}


@pytest.mark.parametrize("format_", ["GIF", "TIFF", "WEBP"])
def test_the_first_frame_is_taken(format_):
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "blue", "lime")]
    options = {"lossless": True} if format_ == "WEBP" else {}
    data = encode(frames[0], format_, save_all=True, append_images=frames[1:], **options)
    assert decode(data).getpixel((5, 5)) == (255, 0, 0)


# -- depth -----------------------------------------------------------------------------------------


LEVELS = (np.arange(1200, dtype=np.uint16).reshape(30, 40) * 54) + 7


@pytest.mark.parametrize("format_", ["PNG", "TIFF", "JPEG2000"])
def test_sixteen_bit_gray_keeps_its_levels(format_):
    data = encode(Image.fromarray(LEVELS), format_)
    image = decode(data)
    assert image.dtype == np.float32
    assert image.shape == (30, 40)
    assert np.allclose(image, LEVELS / 65535, rtol=0, atol=1e-6)


def test_big_endian_tiff_has_the_same_levels():
    data = encode(Image.fromarray(LEVELS.astype(">u2")), "TIFF")
    assert np.allclose(decode(data), LEVELS / 65535, rtol=0, atol=1e-6)


def test_value_range_scales_sixteen_bit_files():
    levels = LEVELS // 16
    data = encode(Image.fromarray(levels), "PNG")
    assert np.allclose(decode(data, value_range=(0, 4095)), levels / 4095, atol=1e-6)
    with pytest.raises(ImageDecodeError, match=r"from 0 to .*value_range=\(0, 1000\) was given"):
        decode(data, value_range=(0, 1000))


def test_value_range_leaves_eight_bit_files_alone():
    data = encode(scene(), "PNG")
    assert np.array_equal(pixels(decode(data, value_range=(0, 4095))), pixels(scene()))


def pgm(levels, maximum):
    header = f"P5 {levels.shape[1]} {levels.shape[0]} {maximum}\n".encode()
    return header + levels.astype(">u2").tobytes()


@pytest.mark.parametrize("maximum", [1023, 4095, 65535])
def test_pgm_has_the_depth_it_declares(maximum):
    levels = LEVELS.astype(int) % (maximum + 1)
    data = pgm(levels, maximum)
    assert np.allclose(decode(data), levels / maximum, atol=1e-6)
    # value_range speaks of the numbers in the file, not of those Pillow stretches them to.
    assert np.allclose(decode(data, value_range=(0, 2 * maximum)), levels / maximum / 2, atol=1e-6)


def test_twelve_bit_tiff_is_white_at_its_own_maximum():
    levels = LEVELS[:, :40] % 4096
    flat = levels.reshape(-1, 2).astype(int)
    packed = np.stack(
        [flat[:, 0] >> 4, (flat[:, 0] & 15) << 4 | flat[:, 1] >> 8, flat[:, 1] & 255], axis=1
    )
    strip = packed.astype(np.uint8).tobytes()
    tags = [(256, 40), (257, 30), (258, 12), (259, 1), (262, 1), (277, 1), (278, 30)]
    tags += [(273, 8), (279, len(strip))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags))
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    data = struct.pack("<2sHI", b"II", 42, 8 + len(strip)) + strip + directory
    assert np.allclose(decode(data), levels / 4095, atol=1e-6)


def test_sixteen_bit_tiff_whose_white_is_zero_is_inverted():
    data = encode(Image.fromarray(LEVELS), "TIFF")
    at = data.index(struct.pack("<HHI", 262, 3, 1))
    inverted = data[: at + 8] + struct.pack("<H", 0) + data[at + 10 :]
    assert np.allclose(decode(inverted), 1 - LEVELS / 65535, atol=1e-6)


def test_floats_follow_the_rules_for_arrays():
    values = np.linspace(0, 1, 600, dtype=np.float32).reshape(20, 30)
    assert np.allclose(decode(encode(Image.fromarray(values), "TIFF")), values)
    data = encode(Image.fromarray(values * 4000 - 1000), "TIFF")
    with pytest.raises(ImageDecodeError, match=r"from -1000 to 3000 .*value_range"):
        decode(data)
    assert np.allclose(decode(data, value_range=(-1000, 3000)), values, atol=1e-6)
    values[3, 3] = np.nan
    with pytest.raises(ImageDecodeError, match="contains NaN"):
        decode(encode(Image.fromarray(values), "TIFF"))


def test_thirty_two_bit_integers_need_a_range():
    levels = np.arange(600, dtype=np.int32).reshape(20, 30) * 1000
    data = encode(Image.fromarray(levels), "TIFF")
    with pytest.raises(ImageDecodeError, match="value_range"):
        decode(data)
    assert np.allclose(decode(data, value_range=(0, 600_000)), levels / 600_000, atol=1e-6)


def png(width, height, *, bits=8, color=2, data=b""):
    def chunk(kind, body):
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_sixteen_bit_color_refuses_a_range_it_cannot_honor():
    rows = b"".join(b"\x00" + struct.pack(">6H", *range(0, 60_000, 10_000)) for _ in range(2))
    data = png(2, 2, bits=16, data=rows)
    assert decode(data).getpixel((1, 0))[2] == 50_000 >> 8
    gray_and_alpha = png(1, 1, bits=16, color=4, data=bytes(5))
    for deep in (data, gray_and_alpha, b"P6 1 1 4095\n" + struct.pack(">3H", 1, 2, 3)):
        with pytest.raises(ImageDecodeError, match="16 bits a channel"):
            decode(deep, value_range=(0, 4095))


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"hello, this is no image at all", "text"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b'<?xml version="1.0"?><svg/>', "SVG"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"%PDF-1.7", "PDF"),
        (b"PK\x03\x04" + bytes(30), "ZIP"),
        (b"\x93NUMPY\x01\x00", "npy"),
        (b"\x00\x00\x00\x1cftypavif" + bytes(30), "AVIF"),
        (b"\x00\x00\x00\x1cftypheic" + bytes(30), "HEIF"),
        (b"\x00\x00\x00\x1cftypmp42" + bytes(30), "MP4"),
        (bytes(128) + b"DICM" + bytes(40), "DICOM.*how it is encoded"),
        (b"II*\x00" + bytes(124) + b"DICM" + bytes(40), "DICOM"),
        (b"8BPS" + bytes(40), "Photoshop"),
        (bytes(range(200, 240)), "none of the formats"),
        (bytes(100), "none of the formats"),
    ],
)
def test_files_that_are_no_images_are_refused_by_what_they_are(data, message):
    with pytest.raises(ImageDecodeError, match=rf"row 0 \(bytes\): .*{message}") as caught:
        decode(data)
    assert caught.value.index == 0
    assert caught.value.source == "bytes"


def test_a_format_off_the_list_is_refused_though_pillow_reads_it():
    for format_ in ("PCX", "SGI"):
        with pytest.raises(ImageDecodeError):
            decode(encode(scene(), format_))


@pytest.mark.parametrize(
    ("format_", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        *LOSSLESS.items(),
        ("GIF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", {"compression": "jpeg"}),
        ("ICO", {"bitmap_format": "bmp", "sizes": [(64, 64)]}),
        ("TGA", {"compression": "tga_rle"}),
    ],
)
def test_a_file_cut_short_never_gives_half_an_image(format_, options):
    rng = np.random.default_rng(0)
    pil_image = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encode(pil_image, format_, **options)
    whole = pixels(decode(data))
    for share in (0.02, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.995):
        cut = data[: int(len(data) * share)]
        try:
            image = decode(cut)
        except ImageDecodeError:
            continue
        assert np.array_equal(pixels(image), whole), share  # only trailing bytes were missing


@pytest.mark.parametrize("format_", ["JPEG", "GIF", "TIFF", "WEBP", "ICO", "JPEG2000", "PPM"])
def test_random_damage_is_an_image_decode_error_or_an_image(format_):
    data = np.frombuffer(encode(scene(), format_), dtype=np.uint8)
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about damaged TIFF tags
        for _ in range(60):
            damaged = data.copy()
            at = rng.integers(0, min(len(data), 400), 4)
            damaged[at] = rng.integers(0, 256, 4)
            try:
                decode(damaged.tobytes())
            except ImageDecodeError:
                continue


def test_nothing_is_decoded_while_pillow_hides_truncation(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = encode(scene(), "PNG")
    with pytest.raises(SkTransferError, match="LOAD_TRUNCATED_IMAGES"):
        as_image_source([Image.open(io.BytesIO(data))]).open(0)
    with pytest.raises(SkTransferError, match="LOAD_TRUNCATED_IMAGES") as caught:
        decode(data)
    assert not isinstance(caught.value, ImageDecodeError)  # on_error="nan" must not swallow it


# -- size limit ------------------------------------------------------------------------------------


def gif(screen, frame):
    header = b"GIF89a" + struct.pack("<HH", *screen) + b"\x00\x00\x00"
    descriptor = b"\x2c" + struct.pack("<HHHH", 0, 0, *frame) + b"\x00"
    return header + b"\x21\xf9\x04\x08\x00\x00\x00\x00" + descriptor + b"\x02\x02\x4c\x01\x00\x3b"


def ico(width, height):
    inner = png(width, height)
    entry = struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(inner), 22)
    return struct.pack("<HHH", 0, 1, 1) + entry + inner


def tiff(width, height, tile=None):
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (277, 1), (339, 1)]
    if tile:
        tags += [(322, tile), (323, tile), (324, 8), (325, 8)]
    else:
        tags += [(273, 8), (278, height), (279, 8)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags))
    return b"II*\x00\x10\x00\x00\x00" + bytes(8) + struct.pack("<H", len(tags)) + entries + bytes(4)


BMP = encode(Image.new("1", (8, 8)), "BMP")
BOMBS = {
    # 10,000 x 10,000: Pillow would warn. 30,000 x 30,000: Pillow would raise an error of its own.
    "png": png(10_000, 10_000),
    "huge png": png(30_000, 30_000),
    "gif": gif((10_000, 10_000), (10, 10)),
    "gif frame": gif((10, 10), (10_000, 10_000)),
    "huge gif frame": gif((10, 10), (60_000, 60_000)),
    "ico": ico(10_000, 10_000),
    "huge ico": ico(30_000, 30_000),
    "ppm": b"P6 10000 10000 255\n",
    "bmp": BMP[:18] + struct.pack("<ii", 10_000, 10_000) + BMP[26:],
    "tiff": tiff(10_000, 10_000),
    "huge tiff": tiff(60_000, 60_000),
    "tiff tile": tiff(16, 16, tile=10_000),
    "tga": b"\0\0\2" + bytes(9) + struct.pack("<HHBB", 10_000, 10_000, 24, 0),
}


@pytest.mark.parametrize("name", BOMBS)
def test_too_many_pixels_are_refused_without_a_warning(name):
    with pytest.raises(ImageDecodeError, match=r"pixels, more than the 89,478,485"):
        decode(BOMBS[name])


def test_bombs_in_many_threads_neither_warn_nor_change_anything():
    sound = encode(scene(), "PNG")
    data = [*BOMBS.values(), sound] * 8
    source = as_image_source(data)
    filters, limit = list(warnings.filters), Image.MAX_IMAGE_PIXELS
    barrier = threading.Barrier(8)

    def work(offset):
        barrier.wait(60)
        outcomes = []
        for i in range(offset, len(data), 8):
            try:
                outcomes.append(source.open(i).decode().size == (60, 40))
            except ImageDecodeError:
                outcomes.append(data[i] is not sound)
        return outcomes

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with ThreadPoolExecutor(8) as pool:
            outcomes = [outcome for part in pool.map(work, range(8)) for outcome in part]
    assert len(outcomes) == len(data)
    assert all(outcomes)
    assert not seen
    assert warnings.filters == filters
    assert limit == Image.MAX_IMAGE_PIXELS


def test_the_limit_holds_when_pillows_own_is_switched_off(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(ImageDecodeError, match="pixels"):
        decode(BOMBS["huge png"])


def test_the_size_limit_is_the_configured_one(monkeypatch):
    monkeypatch.setattr(_config, "MAX_IMAGE_PIXELS", 2399)
    with pytest.raises(ImageDecodeError, match="60 x 40"):
        decode(encode(scene(), "PNG"))
    with pytest.raises(ImageDecodeError, match="60 x 40"):
        decode(scene())
    monkeypatch.setattr(_config, "MAX_IMAGE_PIXELS", 2400)
    assert decode(encode(scene(), "PNG")).size == (60, 40)
