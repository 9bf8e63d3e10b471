"""Memory and work of one image: measured in a process of its own, and refused beyond a limit."""

from __future__ import annotations

import io
import re
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from sktransfer import PretrainedFeatureExtractor
from sktransfer._images import _source, as_image_source
from sktransfer._images._preprocess import Preprocessing
from sktransfer._utils import config as _config
from sktransfer.exceptions import FailedRowsWarning, ImageDecodeError

# What a process may take for one image: the limit, and the file, strips and buffers beside it.
ALLOWED = _config.MAX_DECODED_BYTES + 40_000_000


def encode(image, format_, **options):
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def decode(data, min_side=None, **options):
    return as_image_source([data], **options).open(0).decode(min_side)


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, bits=8, color=2, before=b""):
    """A PNG of zeros, of whatever size."""
    row = (width * bits * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color] + 7) // 8 + 1
    packer, body = zlib.compressobj(1), b""
    for top in range(0, height, 100):
        body += packer.compress(bytes(row * min(100, height - top)))
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    parts = (chunk(b"IHDR", header), before, chunk(b"IDAT", body + packer.flush()))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def webp(width, height):
    bits = (width - 1) | (height - 1) << 14
    body = b"\x2f" + struct.pack("<I", bits) + b"\x88\x88\x08\x00"
    chunks = b"WEBPVP8L" + struct.pack("<I", len(body)) + body + b"\x00" * (len(body) % 2)
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


PALETTE = chunk(b"PLTE", bytes(range(6))) + chunk(b"tRNS", b"\x00\x80")

# -- memory ----------------------------------------------------------------------------------------

MEASURE = """
import resource, sys
from sktransfer._images import as_image_source
from PIL import Image
import io
small = io.BytesIO(); Image.new("RGB", (9, 9)).save(small, "PNG")
as_image_source([small.getvalue()]).open(0).decode()
data = open(sys.argv[1], "rb").read()
def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024
open("/proc/self/clear_refs", "w").write("5")
before = peak()
try:
    as_image_source([data]).open(0).decode()
    print("decoded", peak() - before)
except Exception as error:
    print(type(error).__name__, peak() - before)
"""

SIDE = 9459  # squared, just below the limit of 89 megapixels
LARGE = {
    "gray png": (lambda: png(SIDE, SIDE, color=0), "decoded"),
    "rgb png": (lambda: png(SIDE, SIDE), "decoded"),
    "rgba png": (lambda: png(SIDE, SIDE, color=6), "ImageDecodeError"),
    "rgba png within": (lambda: png(7800, 7800, color=6), "decoded"),
    "palette with alpha": (lambda: png(SIDE, SIDE, color=3, before=PALETTE), "decoded"),
    "16-bit png": (lambda: png(SIDE, SIDE, bits=16, color=0), "ImageDecodeError"),
    "16-bit png within": (lambda: png(7800, 7800, bits=16, color=0), "decoded"),
    "int32 tiff": (lambda: encode(Image.new("I", (7800, 7800)), "TIFF"), "decoded"),
    "webp of 34 bytes": (lambda: webp(SIDE, SIDE), "ImageDecodeError"),
    "webp within": (lambda: webp(5400, 5400), "decoded"),
    "progressive jpeg": (
        lambda: encode(Image.new("RGB", (8300, 8300)), "JPEG", progressive=True),
        "decoded",
    ),
    "cmyk jpeg": (lambda: encode(Image.new("CMYK", (7800, 7800)), "JPEG"), "decoded"),
    "gif with alpha": (
        lambda: encode(Image.new("P", (SIDE, SIDE)), "GIF", transparency=0),
        "decoded",
    ),
    "tiff of one strip": (
        lambda: encode(
            Image.new("RGB", (8300, 8300)),
            "TIFF",
            compression="tiff_adobe_deflate",
            strip_size=3 * 8300**2,
        ),
        "decoded",
    ),
    "jpeg 2000": (lambda: encode(Image.new("RGB", (5000, 5000)), "JPEG2000"), "decoded"),
    "avif": (lambda: encode(Image.new("RGB", (6800, 6800)), "AVIF", speed=10), "decoded"),
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", LARGE)
def test_no_accepted_image_takes_more_memory_than_is_stated(name, tmp_path):
    make, outcome = LARGE[name]
    (tmp_path / "image").write_bytes(make())
    run = [sys.executable, "-c", MEASURE, str(tmp_path / "image")]
    got, taken = subprocess.run(
        run, capture_output=True, text=True, check=True, timeout=1150
    ).stdout.split()
    assert got == outcome
    assert int(taken) < (ALLOWED if got == "decoded" else 150_000_000)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (png(300, 300, bits=16, color=0), "16-bit gray"),
        (encode(Image.new("I", (300, 300)), "TIFF"), "32-bit gray"),
        (encode(Image.new("RGBA", (300, 300)), "PNG"), "alpha"),
        (encode(Image.new("CMYK", (300, 300)), "JPEG"), "CMYK"),
        (encode(Image.new("RGB", (300, 300)), "WEBP"), "WebP"),
        (encode(Image.new("RGB", (300, 300)), "JPEG", progressive=True), "progressive"),
        (encode(Image.new("RGB", (300, 300)), "JPEG2000"), "JPEG 2000"),
        (encode(Image.new("RGB", (300, 300)), "AVIF"), "AVIF"),
        (encode(Image.new("RGB", (300, 300)), "ICO", sizes=[(200, 200)]), "ICO"),
    ],
)
def test_the_limit_is_in_bytes_of_the_decoder_and_all_copies(data, kind, monkeypatch):
    assert decode(data) is not None
    monkeypatch.setattr(_config, "MAX_DECODED_BYTES", 300 * 300 * 4)  # enough for plain RGB
    assert decode(encode(Image.new("RGB", (300, 300)), "PNG")).size == (300, 300)
    with pytest.raises(ImageDecodeError, match=r"takes .* MB of memory, more than the"):
        decode(data)


def test_strips_give_the_same_pixels_as_the_whole(monkeypatch):
    from sktransfer._images import _decode, _values

    rng = np.random.default_rng(0)
    deep = rng.integers(0, 65536, (40, 30), dtype=np.uint16)
    rgba = Image.fromarray(rng.integers(0, 256, (40, 30, 4), dtype=np.uint8))
    palette = rgba.convert("RGB").quantize(16)
    files = [
        encode(Image.fromarray(deep), "PNG"),
        encode(Image.fromarray(deep.astype(np.float32) / 65535), "TIFF"),
        encode(rgba, "PNG"),
        encode(rgba.convert("LA"), "PNG"),
        encode(palette, "PNG", transparency=3),
    ]
    whole = [np.asarray(decode(data)) for data in files]
    scaled = np.asarray(decode(files[0], value_range="percentile"))
    monkeypatch.setattr(_decode, "_STRIP_PIXELS", 100)
    monkeypatch.setattr(_values, "_CHUNK_BYTES", 1000)
    for data, expected in zip(files, whole, strict=True):
        assert np.array_equal(np.asarray(decode(data)), expected)
    assert np.array_equal(np.asarray(decode(files[0], value_range="percentile")), scaled)
    with pytest.raises(ImageDecodeError, match=rf"from {deep.min()} to {deep.max()}"):
        decode(files[0], value_range=(5000, 6000))
    holed = deep.astype(np.float32) / 65535
    holed[39, 29] = np.nan
    with pytest.raises(ImageDecodeError, match="contains NaN"):
        decode(encode(Image.fromarray(holed), "TIFF"))


def test_a_photograph_of_108_megapixels_is_read_at_a_fraction():
    data = encode(Image.new("RGB", (12_000, 9_000), (200, 30, 30)), "JPEG")
    with pytest.raises(
        ImageDecodeError, match=r"108,000,000 pixels.*scaled_decoding=True reads it"
    ):
        decode(data)
    parameters = {"weights": None, "image_size": 32, "cache": None}
    rows = PretrainedFeatureExtractor(
        "squeezenet1_1", **parameters, scaled_decoding=True
    ).fit_transform([data])
    small = encode(Image.new("RGB", (1_500, 1_125), (200, 30, 30)), "JPEG")
    expected = PretrainedFeatureExtractor("squeezenet1_1", **parameters).fit_transform([small])
    assert np.allclose(rows, expected, rtol=1e-3, atol=1e-5)


# -- a lack of memory ------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["open", "decode", "convert", "prepare"])
def test_a_lack_of_memory_is_the_error_of_one_row(step, monkeypatch):
    images = [encode(Image.new("RGB", (40, 40 + i)), "PNG") for i in range(3)]

    def fails(function, at):
        def called(*args, **kwargs):
            size = getattr(args[at], "size", None)
            if args[at] == images[1] or size == (40, 41):
                raise MemoryError
            return function(*args, **kwargs)

        return called

    target = {
        "open": (_source, "_read", 0),
        "decode": (_source, "decode_bytes", 0),
        "convert": ("sktransfer._images._decode", "image_to_image", 0),
        "prepare": (Preprocessing, "__call__", 1),
    }[step]
    module = sys.modules[target[0]] if isinstance(target[0], str) else target[0]
    monkeypatch.setattr(module, target[1], fails(getattr(module, target[1]), target[2]))
    extractor = PretrainedFeatureExtractor(
        "squeezenet1_1", weights=None, image_size=32, on_error="nan", cache=None
    )
    with pytest.warns(FailedRowsWarning):
        rows = extractor.fit_transform(images)
    assert np.isnan(rows).all(axis=1).tolist() == [False, True, False]
    (failure,) = extractor.failed_rows_.itertuples()
    assert "not enough memory" in str(failure)
    if step == "convert":
        assert "40 x 41 pixels" in str(failure)
    with pytest.raises(ImageDecodeError, match=r"row 1 .*not enough memory"):
        extractor.set_params(on_error="raise").fit_transform(images)


# -- work ------------------------------------------------------------------------------------------


def progressive(n_more, size=(64, 64), thumbnail=b""):
    data = encode(Image.new("RGB", size, (9, 80, 7)), "JPEG", progressive=True)
    last = [found.start() for found in re.finditer(rb"\xff\xda", data)][-1]
    head = data[:2] + thumbnail
    return head + data[2:-2] + data[last:-2] * n_more + b"\xff\xd9"


def test_scans_of_a_jpeg_are_counted_before_it_is_decoded():
    assert decode(progressive(0)).size == (64, 64)
    with pytest.raises(ImageDecodeError, match=r"101 scans .*at most 100"):
        decode(progressive(5_000))
    large = progressive(90, (6000, 6000))
    before = time.process_time()
    with pytest.raises(ImageDecodeError, match=r"scans or more of 36,000,000 pixels"):
        decode(large)
    assert time.process_time() - before < 1


def test_scans_inside_of_thumbnails_and_comments_do_not_count():
    fake = b"\xff\xda\x00\x02" * 10_000
    block = b"\xff\xe1" + struct.pack(">H", len(fake) + 2) + fake
    assert decode(progressive(0, thumbnail=block)).size == (64, 64)
    assert decode(progressive(0) + fake).size == (64, 64)  # what follows the end


def scene_noise():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


SOUND_JPEG = encode(scene_noise(), "JPEG")
GIF_HEAD = b"GIF89a" + struct.pack("<HH", 8, 8) + b"\x00\x00\x00"
GIF_FRAME = b"\x2c" + struct.pack("<HHHH", 0, 0, 8, 8) + b"\x00\x02\x02\x4c\x01\x00\x3b"


def exif(n):
    block = b"\xff\xe1\xff\xffExif\x00\x00" + bytes(65_527)
    return SOUND_JPEG[:2] + block * n + SOUND_JPEG[2:]


def strips(n):
    tags = [(256, 4, 1, 8), (257, 4, 1, n), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(273, 4, n, 8), (277, 3, 1, 1), (278, 4, 1, 1), (279, 4, n, 8)]
    at = 8 + 4 * n
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\x00" + struct.pack("<I", at) + bytes(4 * n) + struct.pack("<H", 9) + entries


BUSY = {
    "gif of blocks": GIF_HEAD + b"\x21\xfe\x00" * 3_000_000 + GIF_FRAME,
    "gif of junk": GIF_HEAD + bytes(10_000_000) + GIF_FRAME,
    "png of chunks": png(8, 8, before=chunk(b"teSt", b"") * 1_000_000),
    "jpeg of segments": SOUND_JPEG[:2] + b"\xff\xe5\x00\x02" * 3_000_000 + SOUND_JPEG[2:],
    "jpeg of padding": SOUND_JPEG[:2] + b"\xff" * 10_000_000 + SOUND_JPEG[2:],
    "jpeg of junk": SOUND_JPEG[:20] + bytes(10_000_000) + SOUND_JPEG[20:],
    "tiff of strips": strips(2_000_000),
}


@pytest.mark.parametrize("name", BUSY)
def test_files_made_to_keep_the_decoder_busy_are_refused_at_once(name):
    before = time.process_time()
    with pytest.raises(ImageDecodeError, match=r"more than 200,000 .*keep the decoder busy"):
        decode(BUSY[name])
    assert time.process_time() - before < 2


def test_segments_that_are_joined_one_by_one_are_counted():
    assert decode(exif(3)).size == (64, 64)
    with pytest.raises(ImageDecodeError, match="busy"):
        decode(exif(201))


def test_tags_that_share_one_block_of_data_are_refused():
    entries = b"".join(struct.pack("<HHII", 40_000 + i, 1, 90_000, 8) for i in range(100))
    at = 8 + 100_000
    data = b"II*\x00" + struct.pack("<I", at) + bytes(100_000) + struct.pack("<H", 100) + entries
    with pytest.raises(ImageDecodeError, match="claim more bytes"):
        decode(data)


def test_compressed_text_and_chains_of_pages_are_bounded():
    bomb = zlib.compress(bytes(20_000_000))
    text = chunk(b"zTXt", b"Comment\x00\x00" + bomb) * 10
    with pytest.raises(ImageDecodeError):
        decode(png(8, 8, before=text))
    page = bytearray(encode(Image.new("L", (8, 8), 9), "TIFF"))
    (start,) = struct.unpack_from("<I", page, 4)
    (n,) = struct.unpack_from("<H", page, start)
    struct.pack_into("<I", page, start + 2 + 12 * n, start)  # the next page is this one
    assert decode(bytes(page)).getpixel((0, 0)) == 9


# -- sizes that the header hides -------------------------------------------------------------------


def ico(inner, bits=32, entries=1, first=None):
    """An icon of one image, whose directory says nothing about its size."""
    offset = 6 + 16 * entries
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, bits, len(inner), offset)
    rest = struct.pack("<BBBBHHII", 8, 8, 0, 0, 1, 8, 10, 2**31) * (entries - 1)
    return struct.pack("<HHH", 0, 1, entries) + (first or entry) + rest + inner


def dib(width, height, core=False):
    if core:  # of OS/2, with sides of two bytes
        return struct.pack("<IHHHH", 12, width, height, 1, 24)
    return struct.pack("<IiiHHIIiiII", 40, width, height, 1, 32, 0, 0, 0, 0, 0, 0)


HIDDEN = {
    "png": ico(png(9_000, 9_000, color=0)),
    "png, another entry cut": ico(png(9_000, 900, color=0)[:60], entries=3),
    "second header in the png": ico(
        png(20, 20, before=chunk(b"IHDR", struct.pack(">IIBBBBB", 9_000, 9_000, 8, 2, 0, 0, 0)))
    ),
    "bmp": ico(dib(9_000, 18_000)),
    "bmp upside down": ico(dib(9_000, -9_000)),
    "bmp of os/2": ico(dib(60_000, 60_000, core=True), bits=24),
    "gif after junk": GIF_HEAD
    + b"\x00\x21\xf9\x04\x08\x00\x00\x00\x00"
    + b"\x2c"
    + struct.pack("<HHHH", 0, 0, 60_000, 60_000)
    + b"\x00\x02\x02\x4c\x01\x00\x3b",
    "gif after an empty block": GIF_HEAD
    + b"\x21\xaa\x00\x01\x00\x00"
    + b"\x2c"
    + struct.pack("<HHHH", 50_000, 50_000, 60_000, 60_000)
    + b"\x00\x02\x02\x4c\x01\x00\x3b",
    "webp canvas": b"RIFF\x00\x01\x00\x00WEBPVP8X\x0a\x00\x00\x00"
    + bytes(4)
    + (29_999).to_bytes(3, "little") * 2
    + bytes(40),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_a_size_that_the_header_hides_is_seen(name):
    with pytest.raises(ImageDecodeError, match=r"accepted|no pixels|damaged or unsupported"):
        decode(HIDDEN[name])


@pytest.mark.parametrize("name", ["png", "second header in the png", "bmp", "gif after junk"])
def test_a_hidden_size_is_named(name):
    with pytest.raises(ImageDecodeError, match=r"60000|9000"):
        decode(HIDDEN[name])


def jpeg2000(width, height, tile, **options):
    """A JPEG 2000 file whose codestream is larger than the size in front of it."""
    data = bytearray(encode(Image.new("RGB", (64, 64)), "JPEG2000", **options))
    at = data.find(b"\xff\x4f\xff\x51") + 8
    struct.pack_into(">II", data, at, width, height)
    struct.pack_into(">II", data, at + 16, tile, tile)
    return bytes(data)


def test_the_codestream_of_jpeg_2000_is_what_counts():
    assert decode(jpeg2000(64, 64, 64)).size == (64, 64)
    with pytest.raises(ImageDecodeError, match="60000 x 60000"):
        decode(jpeg2000(60_000, 60_000, 60_000))
    with pytest.raises(ImageDecodeError, match=r"takes .* MB"):  # one tile, three components
        decode(jpeg2000(6_000, 6_000, 6_000))
    with pytest.raises(ImageDecodeError, match=r"takes .* MB"):  # a list of tiny code blocks
        decode(jpeg2000(4_000, 4_000, 4_000, codeblock_size=(4, 4)))
    small_blocks = encode(Image.new("RGB", (64, 64), (9, 80, 7)), "JPEG2000", codeblock_size=(4, 4))
    assert decode(small_blocks).getpixel((0, 0)) == (9, 80, 7)
