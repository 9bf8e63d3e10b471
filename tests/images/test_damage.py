"""Damage that Pillow passes over is found; what only looks like damage is not."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageFile

from sktransfer import PretrainedFeatureExtractor
from sktransfer._images import _damage, as_image_source
from sktransfer._images._damage import check_jpeg as check_read_jpeg
from sktransfer._images._jpeg import read_jpeg
from sktransfer.exceptions import ImageDecodeError


@pytest.fixture(scope="module")
def photo():
    """A smooth image with grain, 200 x 160 pixels."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:160, :200]
    waves = np.stack([np.sin(x / 17 + k) * np.cos(y / 23 - k) * 90 + 128 for k in range(3)], -1)
    return Image.fromarray(np.clip(waves + rng.normal(0, 6, waves.shape), 0, 255).astype(np.uint8))


def file_of(image, format_, **options):
    file = io.BytesIO()
    image.save(file, format=format_, **options)
    return file.getvalue()


def decode(data, min_side=None):
    return as_image_source([data]).open(0).decode(min_side)


def check_jpeg(stream):
    check_read_jpeg(read_jpeg(stream))


def coded_from(jpeg):
    """Where the coded pixels of Pillow's JPEG begin: behind the first scan's header."""
    at = jpeg.index(b"\xff\xda")
    return at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")


JPEGS = {
    "baseline": ("RGB", {}),
    "progressive": ("RGB", {"progressive": True}),
    "restart markers": ("RGB", {"restart_marker_rows": 1}),
    "gray": ("L", {"optimize": True}),
    "CMYK": ("CMYK", {}),
    "4:1:1": ("RGB", {"subsampling": "4:1:1"}),
    "RGB": ("RGB", {"keep_rgb": True}),
}


@pytest.fixture(params=JPEGS)
def jpeg(request, photo):
    mode, options = JPEGS[request.param]
    return file_of(photo.convert(mode), "JPEG", quality=90, **options)


# --- JPEG -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("min_side", [None, 30])
def test_a_jpeg_cut_in_the_middle_and_ended_is_an_error(jpeg, part, min_side):
    start = coded_from(jpeg)
    cut = jpeg[: start + int(part * (len(jpeg) - start))] + b"\xff\xd9"
    Image.open(io.BytesIO(cut)).load()  # Pillow says nothing
    with pytest.raises(ImageDecodeError, match=r"(truncated|damaged) JPEG") as caught:
        decode(cut, min_side)
    assert caught.value.index == 0
    assert caught.value.source == "bytes"


@pytest.mark.parametrize("part", [0.3, 0.6])
def test_a_zeroed_block_inside_a_jpeg_is_an_error(jpeg, part):
    at = coded_from(jpeg) + int(part * len(jpeg))
    at, width = min(at, len(jpeg) - 1600), 1500
    with pytest.raises(ImageDecodeError, match="JPEG"):
        decode(jpeg[:at] + bytes(width) + jpeg[at + width :])


def test_a_jpeg_whose_tail_is_zero_is_an_error(jpeg):
    at = coded_from(jpeg) + (len(jpeg) - coded_from(jpeg)) // 2
    with pytest.raises(ImageDecodeError, match="JPEG"):
        decode(jpeg[:at] + bytes(len(jpeg) - 2 - at) + b"\xff\xd9")


@pytest.mark.parametrize("progressive", [False, True])
def test_zeros_in_place_of_the_last_restart_intervals_are_no_padding(photo, progressive):
    data = file_of(photo, "JPEG", restart_marker_blocks=1, progressive=progressive)
    with pytest.raises(ImageDecodeError, match="damaged JPEG"):
        decode(data[:-102] + bytes(100) + b"\xff\xd9")


def test_bytes_of_many_values_left_over_are_an_error(photo):
    """They tell that the decoder lost its place; what pads a file is all alike."""
    data = file_of(photo, "JPEG", quality=100, subsampling=0)
    with pytest.raises(ImageDecodeError, match=r"damaged JPEG.*extraneous"):
        decode(data[:-2] + bytes(range(1, 101)) + b"\xff\xd9")


def test_sound_jpeg_files_are_decoded_as_pillow_does(jpeg):
    expected = Image.open(io.BytesIO(jpeg))
    expected = expected if expected.mode in ("L", "RGB") else expected.convert("RGB")
    np.testing.assert_array_equal(np.asarray(decode(jpeg)), np.asarray(expected))
    assert np.asarray(decode(jpeg, 30)).shape[:2] == (40, 50)


def test_a_progressive_jpeg_without_its_last_scans_is_an_error(photo):
    data = file_of(photo, "JPEG", progressive=True)
    at = data.index(b"\xff\xda")
    ends = []
    while (at := data.find(b"\xff\xda", at + 1)) >= 0:
        tables = data.rfind(b"\xff\xc4", 0, at)  # the scan's own tables stand before it
        ends.append(tables)
    assert len(ends) == 9
    for end in ends:  # whole scans, and no warning of libjpeg's
        with pytest.raises(ImageDecodeError, match="its last scans"):
            decode(data[:end] + b"\xff\xd9")


def segment(code, body):
    return b"\xff" + bytes([code]) + struct.pack(">H", len(body) + 2) + body


def odd_but_sound(data):
    """What cameras, phones and scanners write, and libjpeg warns of or passes over."""
    start = coded_from(data)
    end = len(data) - 2
    frame = data.index(b"\xff\xc0")
    parameters = start - 3
    return {
        "a film behind the end": data + b"\0\0\0\x18ftypmp42" + bytes(5000) + b"\xff\xd8\xff\xe1",
        "a second image behind the end": data + data[: len(data) // 2],
        "text behind the end": data + b"SEFH and a trailer of a phone \xff\xd0",
        "a revision of JFIF to come": data.replace(b"JFIF\0\x01", b"JFIF\0\x07"),
        "an unknown color transform": data[:2] + segment(0xEE, b"Adobe\0d\0\0\0\0\x09") + data[2:],
        "a damaged color profile": data[:2] + segment(0xE2, b"ICC_PROFILE\0\x05\x02x") + data[2:],
        "junk between segments": data[:frame] + b"junk" + data[frame:],
        "fill bytes before a marker": data[:frame] + b"\xff\xff\xff" + data[frame:],
        "an image in the description": data[:2] + segment(0xE1, data[: len(data) // 3]) + data[2:],
        "no parameters of the scan": data[:parameters] + b"\x11\x11\x11" + data[start:],
        "a stray byte before the end": data[:end] + b"\x7f" + data[end:],
        "two stray bytes before the end": data[:end] + b"\x12\x34" + data[end:],
        "zeros up to a sector's end": data[:end] + bytes(40) + data[end:],
        "0xff up to a sector's end": data[:end] + b"\xff" * 400 + data[end:],
    }


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_what_cameras_write_around_the_pixels_is_no_damage(photo, mode):
    data = file_of(photo.convert(mode), "JPEG")
    expected = np.asarray(Image.open(io.BytesIO(data)))
    for name, odd in odd_but_sound(data).items():
        try:
            found = np.asarray(decode(odd))
        except ImageDecodeError as error:
            pytest.fail(f"{name}: {error}")
        np.testing.assert_array_equal(found, expected, err_msg=name)


def test_restart_intervals_below_the_image_are_no_damage(photo):
    """Scanners that do not know how long the page is write more than the header says."""
    data = bytearray(file_of(photo, "JPEG", restart_marker_rows=1))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 7] = (96).to_bytes(2, "big")  # of 160
    assert np.asarray(decode(bytes(data))).shape == (96, 200, 3)


def test_a_flat_image_is_no_damage():
    """Its coded pixels are zeros where the tables are made for it."""
    for color in (0, 128, 255):
        flat = Image.new("L", (1500, 1500), color)
        flat.paste(40, (0, 0, 700, 20))
        for options in ({"optimize": True}, {"progressive": True}, {"quality": 10}):
            decode(file_of(flat, "JPEG", **options))
        for options in ({"method": 0}, {"quality": 10}, {"lossless": True}):
            decode(file_of(flat.convert("RGB"), "WEBP", **options))
        decode(file_of(flat, "JPEG2000"))
        decode(file_of(flat.convert("1"), "TIFF", compression="group4"))


def test_streams_are_checked_by_themselves(photo):
    """As the decoder of DICOM does: a stream may be padded."""
    data = file_of(photo, "JPEG")
    check_jpeg(data)
    check_jpeg(data + b"\0")
    with pytest.raises(ImageDecodeError, match="premature end"):
        check_jpeg(data[: len(data) // 2] + b"\xff\xd9\0")
    for nothing in (b"", b"\xff\xd8", b"\xff\xd8\xff\xda", data[:200]):
        check_jpeg(nothing)  # no pixels: whoever decodes it says so


def test_a_lossless_jpeg_is_never_given_to_the_strict_decoder(photo, monkeypatch):
    """It would write beyond its buffer; nor may one hide among other frames."""
    pydicom = pytest.importorskip("pydicom")
    files = Path(pydicom.__file__).parent / "data" / "test_files"
    dataset = pydicom.dcmread(files / "SC_rgb_jpeg_gdcm.dcm")
    (stream,) = pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1)
    at = stream.index(b"\xff\xc3")
    other = file_of(photo, "JPEG")
    frame = other[other.index(b"\xff\xc0") :][:19]

    def no_more(*_, **__):
        raise AssertionError("decoded")

    monkeypatch.setattr("simplejpeg.decode_jpeg", no_more)
    check_jpeg(stream)
    check_jpeg(stream[:at] + frame + stream[at:])
    check_jpeg(stream[:-2] + frame + b"\xff\xd9")
    with pytest.raises(AssertionError, match="decoded"):
        check_jpeg(other)


# --- other formats --------------------------------------------------------------------------------


def zeroed(data, start, width):
    return data[:start] + bytes(width) + data[start + width :]


@pytest.mark.parametrize("options", [{"quality": 80}, {"quality": 80, "method": 0}])
def test_a_zeroed_tail_of_a_lossy_webp_is_an_error(photo, options):
    data = file_of(photo, "WEBP", **options)
    for part in (0.3, 0.6, 0.9):
        at = int(part * len(data))
        with pytest.raises(ImageDecodeError, match=r"damaged WebP.*zero"):
            decode(zeroed(data, at, len(data) - at))


def test_a_zeroed_frame_of_an_animated_webp_is_an_error(photo):
    data = file_of(photo, "WEBP", save_all=True, append_images=[photo.rotate(90)])
    decode(data)
    with pytest.raises(ImageDecodeError, match="WebP"):
        decode(zeroed(data, data.index(b"VP8 ") + 300, 500))


def test_a_zeroed_block_of_a_jpeg_2000_is_an_error(photo):
    for options in ({}, {"no_jp2": True}, {"tile_size": (64, 64), "num_resolutions": 4}):
        data = file_of(photo, "JPEG2000", **options)
        decode(data)
        with pytest.raises(ImageDecodeError, match="JPEG 2000"):
            decode(zeroed(data, len(data) // 2, 3000))


def test_a_zeroed_block_of_an_avif_is_an_error(photo):
    pytest.importorskip("PIL._avif")
    data = file_of(photo, "AVIF", quality=90)
    decode(data)
    with pytest.raises(ImageDecodeError, match=r"damaged AVIF.*zero"):
        decode(zeroed(data, len(data) // 2, 400))
    described = file_of(photo, "AVIF", exif=b"Exif\0\0II*\0\x08\0\0\0" + bytes(900))
    decode(described)


def test_a_zeroed_block_of_a_heif_is_an_error(photo):
    heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    heif.from_pillow(photo).save(file, quality=90)
    data = file.getvalue()
    decode(data)
    with pytest.raises(ImageDecodeError, match=r"damaged HEIF.*zero"):
        decode(zeroed(data, len(data) // 2, 400))


TIFFS = {
    "jpeg": {"compression": "jpeg"},
    "deflate": {"compression": "tiff_adobe_deflate"},
    "lzw": {"compression": "tiff_lzw"},
    "packbits": {"compression": "packbits"},
}


@pytest.mark.parametrize("name", TIFFS)
def test_a_zeroed_block_of_a_tiff_is_an_error(photo, name):
    data = file_of(photo, "TIFF", **TIFFS[name])
    decode(data)
    with pytest.raises(ImageDecodeError, match=r"TIFF|JPEG"):
        decode(zeroed(data, len(data) // 3, len(data) // 6))


def test_a_zeroed_block_of_a_fax_is_an_error(photo):
    data = file_of(photo.convert("1"), "TIFF", compression="group4")
    decode(data)
    with pytest.raises(ImageDecodeError, match="damaged TIFF"):
        decode(zeroed(data, len(data) // 3, 300))


def test_zeros_behind_the_end_of_a_fax_are_no_damage(photo):
    """Scanners pad strips to the end of a sector."""
    data = file_of(photo.convert("1"), "TIFF", compression="group4")
    with Image.open(io.BytesIO(data)) as image:
        (at,), (length,) = image.tag_v2[273], image.tag_v2[279]
    padded = bytearray(data + data[at : at + length] + bytes(512))
    (start,) = struct.unpack_from("<I", data, 4)
    for entry in range(start + 2, start + 2 + 12 * data[start], 12):
        (tag,) = struct.unpack_from("<H", data, entry)
        if tag in (273, 279):
            value = len(data) if tag == 273 else length + 512
            struct.pack_into("<HII", padded, entry + 2, 4, 1, value)
    np.testing.assert_array_equal(np.asarray(decode(bytes(padded))), np.asarray(decode(data)))


def test_a_png_inside_an_icon_has_its_checksum_looked_at(photo):
    data = bytearray(file_of(photo, "ICO", sizes=[(128, 128)]))
    at = data.index(b"IDAT") + 4
    length = int.from_bytes(data[at - 8 : at - 4], "big")
    pixels = bytearray(zlib.decompress(data[at : at + length]))
    pixels[len(pixels) // 2 :] = bytes(len(pixels) - len(pixels) // 2)
    other = zlib.compress(pixels)
    assert len(other) < length
    data[at : at + length] = other.ljust(length, b"\0")
    with pytest.raises(ImageDecodeError, match="checksum"):
        decode(bytes(data))


@pytest.mark.parametrize(
    "format_", ["PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000", "PPM", "TGA", "ICO"]
)
def test_a_file_cut_in_the_middle_is_an_error_in_every_format(photo, format_):
    data = file_of(photo, format_)
    decode(data)
    for length in (*range(20, 160, 7), *(int(part * len(data)) for part in (0.2, 0.5, 0.8, 0.95))):
        with pytest.raises(ImageDecodeError) as caught:
            decode(data[:length])
        assert "unpack" not in str(caught.value)


# --- where it is looked for -----------------------------------------------------------------------


def test_a_damaged_row_is_named_and_the_others_keep_their_place(photo, tmp_path):
    paths = []
    for i in range(4):
        data = file_of(photo.rotate(90 * i), "JPEG")
        paths.append(tmp_path / f"scan{i}.jpg")
        paths[i].write_bytes(data if i != 2 else data[: len(data) // 2] + b"\xff\xd9")
    options = {"weights": None, "image_size": 32, "cache": False, "random_state": 0}
    feat = PretrainedFeatureExtractor("squeezenet1_1", **options)
    with pytest.raises(ImageDecodeError, match=r"row 2 \(scan2\.jpg\): truncated JPEG"):
        feat.fit_transform(paths)
    feat.set_params(on_error="nan")
    with pytest.warns(UserWarning, match="1 "):
        rows = feat.fit_transform(paths)
    assert np.isnan(rows).all(axis=1).tolist() == [False, False, True, False]


def test_rows_that_are_in_the_store_are_not_checked_again(photo, monkeypatch):
    data = file_of(photo, "JPEG")
    feat = PretrainedFeatureExtractor(
        "squeezenet1_1", weights=None, image_size=32, cache=True, random_state=0
    )
    first = feat.fit_transform([data])

    def no_more(*_):
        raise AssertionError("checked again")

    monkeypatch.setattr("sktransfer._images._decode.check_coded_pixels", no_more)
    np.testing.assert_array_equal(feat.transform([data]), first)
    feat.transform(np.asarray(photo)[None])  # arrays have no coded pixels


def test_no_global_state_of_pillow_is_changed(photo):
    data = file_of(photo, "JPEG")
    before = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
    decode(data)
    assert before == (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS)


# --- real images ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_no_sound_image_is_refused(shared_data, monkeypatch):
    """Every image that can be decoded without the check, but one that is damaged in truth."""
    files = [path for path in sorted(shared_data.rglob("*")) if path.is_file()]
    files = [path for path in files if path.suffix not in (".csv", ".md", ".npz")]
    assert len(files) > 1700
    refused = {}
    for path in files:
        try:
            as_image_source([path]).open(0).decode()
        except ImageDecodeError as error:
            refused[path] = error.reason
    monkeypatch.setattr("sktransfer._images._decode.check_coded_pixels", lambda *_: None)
    wrongly = set()
    for path in refused:
        try:
            as_image_source([path]).open(0).decode()
        except ImageDecodeError:
            continue
        wrongly.add(path.name)
    assert wrongly == {"hopper_bad_exif.jpg"}


def test_the_one_file_refused_although_its_index_calls_it_sound_is_damaged(shared_data):
    """It was made of a black and white image that is there too: half of it is something else."""
    odd = shared_data / "odd_images"
    with Image.open(odd / "hopper_bad_exif.jpg") as image:
        found = np.asarray(image).astype(int)
    with Image.open(odd / "hopper_bw_500.png") as image:
        original = np.asarray(image.convert("L")).astype(int)
    apart = np.abs(found - original)
    assert apart[:, :40].mean() < 20  # each row of blocks begins correctly
    assert apart[:, 200:].mean() > 90  # and goes astray
    with pytest.raises(ImageDecodeError, match="damaged JPEG"):
        decode((odd / "hopper_bad_exif.jpg").read_bytes())


def test_a_sound_jpeg_is_decoded_once_and_to_the_pixels_of_pillow(jpeg, monkeypatch):
    with Image.open(io.BytesIO(jpeg)) as image:
        expected = np.asarray(image.convert("RGB" if image.mode == "CMYK" else image.mode))
        whole = image.mode != "CMYK"
    times, decoder = [], simplejpeg.decode_jpeg
    monkeypatch.setattr(
        simplejpeg, "decode_jpeg", lambda *a, **k: times.append(1) or decoder(*a, **k)
    )
    by_pillow, load = [], ImageFile.ImageFile.load
    monkeypatch.setattr(
        ImageFile.ImageFile, "load", lambda self: by_pillow.append(bool(self.tile)) or load(self)
    )
    decode(jpeg)  # the decoders have been compared by now
    times.clear(), by_pillow.clear()
    found = np.asarray(decode(jpeg))
    np.testing.assert_array_equal(found, expected)
    assert len(times) == 1
    assert any(by_pillow) != whole


def test_where_the_decoders_disagree_pillow_has_the_last_word(jpeg, monkeypatch):
    expected = np.asarray(decode(jpeg))
    monkeypatch.setattr(_damage, "_decoders_agree", lambda: False)
    decoder = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *a, **k: decoder(*a, **k) // 2)
    np.testing.assert_array_equal(np.asarray(decode(jpeg)), expected)
