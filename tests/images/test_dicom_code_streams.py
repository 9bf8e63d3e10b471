"""Compressed DICOM images: what the compressed image says of itself is what is shown."""

from __future__ import annotations

import io
import struct
import warnings

import numpy as np
import pytest
from PIL import Image

from sktransfer._images import _dicom, as_image_source
from sktransfer.datasets import describe_dicom
from sktransfer.exceptions import ImageDecodeError
from sktransfer.preprocessing import DicomOptions

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("gdcm")
jpeg_ls = pytest.importorskip("jpeg_ls")

from pydicom.data import get_testdata_file  # noqa: E402
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.uid import (  # noqa: E402
    JPEG2000,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

# Of what is written wrong on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR")

RED = np.full((48, 40, 3), (220, 60, 30), np.uint8)
RED[:8, :8] = (10, 200, 90)
RED[40:, 30:] = (250, 250, 250)
LABELS = ("RGB", "YBR_FULL", "YBR_FULL_422", "MONOCHROME2", "PALETTE COLOR", "ybr_full", "")


@pytest.fixture(autouse=True)
def corrections_are_reported_again(monkeypatch):
    monkeypatch.setattr(_dicom, "_warned", set())


def file_of(encoded, syntax, label, size=(48, 40), bits=8, **elements):
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.preamble = bytes(128)
    ds.Rows, ds.Columns = size
    ds.SamplesPerPixel = 1 if label.startswith(("MONO", "PAL")) else 3
    ds.PhotometricInterpretation = label
    ds.PlanarConfiguration = 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8 if bits <= 8 else 16, bits, bits - 1
    ds.PixelRepresentation = 0
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    ds.PixelData = encoded if isinstance(encoded, bytes) else encapsulate(encoded)
    ds["PixelData"].is_undefined_length = True
    file = io.BytesIO()
    ds.save_as(file, enforce_file_format=False)
    return file.getvalue()


def shown(data, decoder=None, dicom=None):
    """The image, by one decoder or by the first that can, on the scale of [0, 255]."""
    question = {"ask": "image", "options": (dicom or DicomOptions()).check()}
    if decoder:
        question["decoders"] = [decoder]
    answer, payload = _dicom._ask(question, data)
    assert answer["eight_bit"]
    return np.frombuffer(payload, np.uint8).reshape(answer["shape"]), answer


def by_pillow(array, format_="JPEG", **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, format=format_, **options)
    return file.getvalue()


def bare(jpeg):
    """A JPEG without application markers."""
    at, parts = 2, [jpeg[:2]]
    while jpeg[at + 1] != 0xDA:
        length = 2 + struct.unpack_from(">H", jpeg, at + 2)[0]
        if not 0xE0 <= jpeg[at + 1] <= 0xEF:
            parts.append(jpeg[at : at + length])
        at += length
    return b"".join((*parts, jpeg[at:]))


def with_adobe(jpeg, transform):
    marker = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([transform])
    return jpeg[:2] + marker + jpeg[2:]


def numbered(jpeg):
    """An RGB JPEG whose components are 1, 2 and 3 and no longer R, G and B."""
    data = bytearray(jpeg)
    frame = data.index(b"\xff\xc0")
    scan = data.index(b"\xff\xda")
    assert data[frame + 10 : frame + 19 : 3] == b"RGB"
    data[frame + 10 : frame + 19 : 3] = data[scan + 5 : scan + 11 : 2] = b"\1\2\3"
    return bytes(data)


YCC, YCC_HALF = by_pillow(RED, quality=95, subsampling=0), by_pillow(RED, quality=95)
PLAIN = by_pillow(RED, quality=95, keep_rgb=True)
STREAMS = {
    "YCbCr, JFIF": YCC,
    "YCbCr, Adobe": with_adobe(bare(YCC), 1),
    "YCbCr, JFIF and Adobe": with_adobe(YCC, 1),
    "YCbCr, bare": bare(YCC),
    "YCbCr halved, JFIF": YCC_HALF,
    "YCbCr halved, Adobe": with_adobe(bare(YCC_HALF), 1),
    "YCbCr halved, bare": bare(YCC_HALF),
    "YCbCr, JFIF, fill bytes": YCC[:2] + b"\xff\xff" + YCC[2:],
    "RGB, Adobe": with_adobe(bare(PLAIN), 0),
    "RGB, named": bare(PLAIN),
    "RGB, Adobe, numbered": with_adobe(numbered(bare(PLAIN)), 0),
    "RGB, bare, numbered": numbered(bare(PLAIN)),
}


def is_red(image, tolerance=6):
    """Red, away from edges, where halved chroma bleeds."""
    return np.abs(image[20:30, 12:24].astype(int) - (220, 60, 30)).max() <= tolerance


@pytest.mark.parametrize("decoder", ["gdcm", "pillow"])
@pytest.mark.parametrize("stream", STREAMS)
def test_red_stays_red_whatever_the_label(stream, decoder):
    for label in LABELS:
        image, answer = shown(file_of([STREAMS[stream]], JPEGBaseline8Bit, label), decoder)
        assert image.shape == RED.shape, label
        assert is_red(image), (label, image[24, 16])
        right = label.upper().startswith("YBR" if stream.startswith("YCbCr") else "RGB")
        assert bool(answer["corrections"]) != right, (label, answer["corrections"])


JPEG2000_STREAMS = {
    "transformed": (by_pillow(RED, "JPEG2000", mct=1, no_jp2=True), LABELS),
    "transformed, in a JP2 file": (by_pillow(RED, "JPEG2000", mct=1), LABELS),
    "RGB": (by_pillow(RED, "JPEG2000", mct=0, no_jp2=True), LABELS),
    # Without a transformation nothing but the label says that these are YCbCr.
    "YCbCr": (
        by_pillow(np.asarray(Image.fromarray(RED).convert("YCbCr")), "JPEG2000", mct=0),
        ("YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "ybr_full"),
    ),
}


@pytest.mark.parametrize("decoder", ["gdcm", "pillow", "pylibjpeg"])
@pytest.mark.parametrize("stream", JPEG2000_STREAMS)
def test_red_stays_red_in_jpeg_2000(stream, decoder):
    if decoder == "pylibjpeg":
        pytest.importorskip("openjpeg")
    encoded, labels = JPEG2000_STREAMS[stream]
    for label in (*labels, "YBR_ICT", "YBR_RCT"):
        image, _ = shown(file_of([encoded], JPEG2000Lossless, label), decoder)
        assert is_red(image), (label, image[24, 16])


@pytest.mark.parametrize("decoder", ["gdcm", "pyjpegls"])
@pytest.mark.parametrize("interleaved", [0, 1, 2])
def test_red_stays_red_in_jpeg_ls(interleaved, decoder):
    array = np.ascontiguousarray(RED.transpose(2, 0, 1)) if interleaved == 0 else RED
    encoded = bytes(jpeg_ls.encode_array(array, interleave_mode=interleaved))
    for label in LABELS:
        image, _ = shown(file_of([encoded], JPEGLSLossless, label), decoder)
        assert np.array_equal(image, RED), label
    ycc = np.asarray(Image.fromarray(RED).convert("YCbCr"))
    encoded = bytes(jpeg_ls.encode_array(np.ascontiguousarray(ycc), interleave_mode=2))
    assert is_red(shown(file_of([encoded], JPEGLSLossless, "YBR_FULL"), decoder)[0])


def run_lengths(array, label):
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.Rows, ds.Columns = array.shape[:2]
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.PixelData = array.tobytes()
    ds["PixelData"].VR = "OB"
    ds.SOPInstanceUID = "1.2.3"
    ds.compress(RLELossless, generate_instance_uid=False)
    return file_of(ds.PixelData, RLELossless, label)


def test_red_stays_red_without_a_code_stream():
    """Run lengths and uncompressed pixels say nothing of colors; values may."""
    for label in ("RGB", "YBR_FULL", "", "MONOCHROME2"):
        image, _ = shown(run_lengths(RED, label))
        assert np.array_equal(image, RED), label
    ycc = np.asarray(Image.fromarray(RED).convert("YCbCr"))
    assert is_red(shown(run_lengths(ycc, "YBR_FULL"))[0])


def test_dull_colors_are_told_from_ycbcr():
    """A skin lesion, say: hardly any of its colors would be impossible as YCbCr."""
    rng = np.random.default_rng(0)
    light = rng.normal(0, 14, (48, 40, 1))
    dull = (np.array([150.0, 122, 116]) + light + rng.normal(0, 3, (48, 40, 3))).astype(np.uint8)
    ycc = np.asarray(Image.fromarray(dull).convert("YCbCr"))
    assert np.array_equal(shown(run_lengths(dull, "YBR_FULL"))[0], dull)
    assert np.abs(shown(run_lengths(ycc, "YBR_FULL"))[0].astype(int) - dull).max() <= 3
    bare_rgb = numbered(bare(by_pillow(dull, quality=95, keep_rgb=True)))
    bare_ycc = bare(by_pillow(dull, quality=95, subsampling=0))
    for encoded in (bare_rgb, bare_ycc):
        for label in ("RGB", "YBR_FULL"):
            image, _ = shown(file_of([encoded], JPEGBaseline8Bit, label))
            assert np.abs(image.astype(int) - dull).mean() < 3, label


def test_blanked_areas_of_ycbcr_do_not_make_it_rgb():
    ycc = np.array(Image.fromarray(RED).convert("YCbCr"))
    ycc[:, :10] = 0
    image, answer = shown(run_lengths(ycc, "YBR_FULL"))
    assert is_red(image)
    assert not answer["corrections"]


def test_gray_under_a_color_label_is_gray():
    gray = np.tile(np.arange(40, dtype=np.uint8) * 6, (48, 1))
    for encoded, syntax in (
        (by_pillow(gray, quality=100), JPEGBaseline8Bit),
        (by_pillow(gray, "JPEG2000", no_jp2=True), JPEG2000Lossless),
        (bytes(jpeg_ls.encode_array(gray)), JPEGLSLossless),
    ):
        for label in ("RGB", "YBR_FULL_422", "YBR_RCT"):
            image, answer = shown(file_of([encoded], syntax, label))
            assert image.ndim == 2
            assert np.abs(image.astype(int) - gray).max() <= 2
            assert "the compressed image is gray" in answer["corrections"][0]
    inverted = file_of([bytes(jpeg_ls.encode_array(gray))], JPEGLSLossless, "MONOCHROME1")
    assert np.array_equal(shown(inverted)[0], 255 - gray)


def test_other_numbers_of_components_are_refused():
    cmyk = by_pillow(np.zeros((48, 40, 4), np.uint8)[:, :, :3], quality=90)
    file = io.BytesIO()
    Image.new("CMYK", (40, 48)).save(file, format="JPEG")
    with pytest.raises(ImageDecodeError, match="has 4 components"):
        shown(file_of([file.getvalue()], JPEGBaseline8Bit, "RGB"))
    assert shown(file_of([cmyk], JPEGBaseline8Bit, "RGB"))[0].shape == (48, 40, 3)


def test_corrections_are_warned_of_once_and_described():
    data = file_of([bare(YCC_HALF)], JPEGBaseline8Bit, "RGB")
    with pytest.warns(UserWarning, match=r"RGB, but the compressed image holds YCbCr"):
        assert is_red(np.asarray(as_image_source([data]).open(0).decode()))
    as_image_source([data]).open(0).decode()  # would raise: warnings are errors here
    described = describe_dicom(data)
    assert described["photometric"] == described["shown_as"] == "RGB"
    assert described["compressed_image"] == "JPEG, 3 x 8 bits, YCbCr"
    assert "holds YCbCr" in described["notes"][0]


# --- depth, sign, kind ----------------------------------------------------------------------------


def deep(data, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(as_image_source([data], **options).open(0).decode())


RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


@pytest.mark.parametrize("said", [16, 10, 14, 99])
def test_the_depth_of_the_compressed_image_counts(said):
    twelve = bytes(jpeg_ls.encode_array(RAMP))
    assert twelve[twelve.index(b"\xff\xf7") + 4 :][:1] == b"\x0c"
    data = file_of(
        [twelve], JPEGLSLossless, "MONOCHROME2", (64, 64), 12, BitsStored=said, HighBit=said - 1
    )
    assert np.allclose(deep(data), RAMP / 4095, atol=1e-6)
    assert "has 12 bits" in describe_dicom(data)["notes"][0]


def test_fewer_stored_bits_than_the_compressed_image_has_are_the_scale_while_they_hold_it():
    sixteen = by_pillow(RAMP, "JPEG2000", no_jp2=True)
    data = file_of([sixteen], JPEG2000, "MONOCHROME2", (64, 64), 12)
    assert np.allclose(deep(data), RAMP / 4095, atol=1e-6)
    assert describe_dicom(data)["notes"] == []


def test_eight_bit_jpeg_under_deeper_elements_is_of_eight_bits():
    gray = np.tile(np.arange(40, dtype=np.uint8) * 6, (48, 1))
    data = file_of([by_pillow(gray, quality=100)], JPEGBaseline8Bit, "MONOCHROME2", bits=12)
    image, answer = shown(data)
    assert np.abs(image.astype(int) - gray).max() <= 2
    assert "has 8 bits" in answer["corrections"][0]
    empty = {"BitsAllocated": None, "BitsStored": None, "HighBit": None}
    data = file_of([by_pillow(gray, quality=100)], JPEGBaseline8Bit, "MONOCHROME2", **empty)
    assert np.array_equal(shown(data)[0], image)


@pytest.mark.parametrize("decoder", ["gdcm", "pylibjpeg"])
def test_signed_values_stay_signed_whatever_the_header_says(decoder):
    openjpeg = pytest.importorskip("openjpeg.utils")
    signed = (np.arange(4096, dtype=np.int16) - 2048).reshape(64, 64)
    encoded = openjpeg.encode_array(signed, bits_stored=12)
    for said in (0, 1):
        data = file_of(
            [encoded], JPEG2000Lossless, "MONOCHROME2", (64, 64), 12, PixelRepresentation=said
        )
        question = {"ask": "image", "options": DicomOptions().check(), "decoders": [decoder]}
        answer, payload = _dicom._ask(question, data)
        values = np.frombuffer(payload, answer["dtype"]).reshape(64, 64).astype(np.int64)
        assert np.array_equal(values, signed)
        assert answer["range"] == [-2048, 2047]
        assert bool(answer["corrections"]) == (said == 0)


def test_an_image_of_another_kind_than_the_transfer_syntax_is_decoded_as_what_it_is():
    gray = np.tile(np.arange(40, dtype=np.uint8) * 6, (48, 1))
    for encoded, syntax in (
        (by_pillow(gray, "JPEG2000", no_jp2=True), JPEGBaseline8Bit),
        (by_pillow(gray, quality=100), JPEG2000Lossless),
        (by_pillow(gray, quality=100), JPEGLosslessSV1),
        (bytes(jpeg_ls.encode_array(gray)), JPEGLosslessSV1),
    ):
        image, answer = shown(file_of([encoded], syntax, "MONOCHROME2"))
        assert np.abs(image.astype(int) - gray).max() <= 2
        assert "the transfer syntax is" in answer["corrections"][0]


# --- decoders -------------------------------------------------------------------------------------


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """A function that has a decoder of pydicom's fail in the helper process."""

    def break_(name, how):
        (tmp_path / "sitecustomize.py").write_text(
            "import pydicom.pixels.decoders.base as base\n"
            f"import pydicom.pixels.decoders.{name} as module\n"
            "import pydicom.pixels.decoders as decoders, ctypes, time\n"
            f"def fail(src, runner):\n    {how}\n"
            "for each in vars(decoders).values():\n"
            "    if isinstance(each, base.Decoder):\n"
            f"        if {name!r} in each._available: each._available[{name!r}] = fail\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
        _dicom._POOL.close()

    yield break_
    _dicom._POOL.close()


LOSSLESS = by_pillow(RED, "JPEG2000", mct=1, no_jp2=True)


def test_when_a_decoder_fails_another_decodes(broken):
    broken("gdcm", "raise ValueError('not today')")
    data = file_of([LOSSLESS], JPEG2000Lossless, "YBR_RCT")
    image, answer = shown(data)
    assert np.array_equal(image, RED)
    assert answer["decided"]["decoder"] == "pillow"
    assert "gdcm: not today" in answer["notes"][0]


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="signals")
def test_when_a_decoder_crashes_another_decodes(broken):
    broken("gdcm", "ctypes.string_at(0)")
    data = file_of([LOSSLESS], JPEG2000Lossless, "YBR_RCT")
    described = describe_dicom(data)
    assert described["decoder"] == "pillow"
    assert "gdcm: " in described["notes"][-1]
    assert "SIGSEGV" in described["notes"][-1]
    assert np.array_equal(np.asarray(as_image_source([data]).open(0).decode()), RED)


def test_when_all_decoders_fail_the_error_has_their_reasons():
    damaged = LOSSLESS[:130] + bytes(len(LOSSLESS) - 132) + LOSSLESS[-2:]
    with pytest.raises(ImageDecodeError) as caught:
        shown(file_of([damaged], JPEG2000Lossless, "YBR_RCT"))
    assert "damaged DICOM file" in str(caught.value)


# --- fragments ------------------------------------------------------------------------------------

GRAY = np.tile(np.arange(40, dtype=np.uint8) * 6, (48, 1))
JPEG = by_pillow(GRAY, quality=95)


def item(content):
    return b"\xfe\xff\x00\xe0" + struct.pack("<I", len(content)) + content


EVEN = JPEG + b"\0" * (len(JPEG) % 2)
END = b"\xfe\xff\xdd\xe0" + bytes(4)


def fragments(*parts):
    """A file of these bytes after an empty offset table, without the end marker."""
    data = file_of([EVEN], JPEGBaseline8Bit, "MONOCHROME2")
    return data[: data.index(b"\xfe\xff\x00\xe0")] + item(b"") + b"".join(parts)


def test_fragments_are_joined_and_a_missing_end_is_noted():
    expected, _ = shown(file_of([EVEN], JPEGBaseline8Bit, "MONOCHROME2"))
    in_two = fragments(item(EVEN[:400]), item(EVEN[400:]))
    for data, notes in ((in_two + END, 0), (in_two, 1), (in_two + b"\0" * 64, 1)):
        image, answer = shown(data)
        assert np.array_equal(image, expected)
        assert len(answer["notes"]) == notes
    assert np.abs(expected.astype(int) - GRAY).max() < 12


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
def test_compressed_images_that_are_cut_short_are_refused(keep):
    with pytest.raises(ImageDecodeError, match="truncated: a fragment"):
        shown(fragments(item(EVEN))[: -int(len(EVEN) * (1 - keep))])
    cut = EVEN[: int(len(EVEN) * keep) // 2 * 2]
    with pytest.raises(ImageDecodeError, match="cut short"):
        shown(fragments(item(cut)) + END)
    for stream, syntax in ((LOSSLESS, JPEG2000Lossless),):
        cut = stream[: int(len(stream) * keep)]
        for end in (b"", b"\xff\xd9"):
            with pytest.raises(ImageDecodeError, match="cut short"):
                shown(file_of([cut + end], syntax, "YBR_RCT"))


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEG2000Lossless])
def test_compressed_images_with_a_part_overwritten_are_refused(syntax):
    noise = np.random.default_rng(0).integers(0, 256, (48, 40), dtype=np.uint8)
    whole = by_pillow(noise, "JPEG" if syntax == JPEGBaseline8Bit else "JPEG2000")
    assert shown(file_of([whole], syntax, "MONOCHROME2"))[0].shape == (48, 40)
    for start, stop in ((0.5, 0.9), (0.8, 1)):  # the middle, or all up to the end marker
        start, stop = int(len(whole) * start), int((len(whole) - 2) * stop)
        damaged = whole[:start] + bytes(stop - start) + whole[stop:]
        with pytest.raises(ImageDecodeError, match="damaged"):
            shown(file_of([damaged], syntax, "MONOCHROME2"))


def test_jpeg_that_only_gdcm_reads_is_refused_if_it_is_cut_and_ended():
    for name, label, size, bits in (
        ("SC_rgb_jpeg_gdcm.dcm", "RGB", (100, 100), 8),  # without loss
        ("JPGExtended.dcm", "MONOCHROME2", (1024, 256), 12),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ds = pydicom.dcmread(get_testdata_file(name))
        whole = pydicom.encaps.get_frame(ds.PixelData, 0, number_of_frames=1)
        syntax = ds.file_meta.TransferSyntaxUID
        assert describe_dicom(file_of([whole], syntax, label, size, bits))["decoder"] == "gdcm"
        cut = whole[: len(whole) // 2] + b"\xff\xd9"
        with pytest.raises(ImageDecodeError, match=r"libjpeg: .* data"):
            describe_dicom(file_of([cut], syntax, label, size, bits))


def test_an_image_of_a_million_scans_is_refused():
    file = io.BytesIO()
    Image.fromarray(GRAY).save(file, format="JPEG", progressive=True)
    jpeg = file.getvalue()
    last = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    with pytest.raises(ImageDecodeError, match="more than 50 scans"):
        shown(file_of([jpeg[:-2] + 100 * last + jpeg[-2:]], JPEGBaseline8Bit, "MONOCHROME2"))
    assert (
        np.abs(shown(file_of([jpeg], JPEGBaseline8Bit, "MONOCHROME2"))[0] - GRAY.astype(int)).max()
        < 40
    )


def test_frames_that_are_not_there_are_an_error():
    data = file_of([EVEN, EVEN], JPEGBaseline8Bit, "MONOCHROME2", NumberOfFrames=5)
    with pytest.raises(ImageDecodeError, match="NumberOfFrames is 5"):
        shown(data, dicom=DicomOptions(frame=4))
    data = file_of([EVEN], JPEGBaseline8Bit, "MONOCHROME2", NumberOfFrames=2**31 - 1)
    with pytest.raises(ImageDecodeError, match="NumberOfFrames"):
        shown(data, dicom=DicomOptions(frame=-1))


def test_frames_beyond_those_declared_are_noted():
    other = by_pillow(GRAY[::-1, ::-1].copy(), quality=95)
    data = file_of([EVEN, other + b"\0" * (len(other) % 2)], JPEGBaseline8Bit, "MONOCHROME2")
    image, answer = shown(data)
    assert np.abs(image.astype(int) - GRAY).max() < 12
    assert "more frames" in answer["corrections"][0]


def test_compressed_and_uncompressed_pixels_are_not_taken_for_each_other():
    plain = file_of([EVEN], JPEGBaseline8Bit, "MONOCHROME2")
    swapped = plain.replace(str(JPEGBaseline8Bit).encode(), b"1.2.840.10008.1.2.1\0\0\0")
    with pytest.raises(ImageDecodeError, match="PixelData is in fragments"):
        shown(swapped)
