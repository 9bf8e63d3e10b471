"""DICOM files: what pydicom's own functions say is what comes out, or an error that names it."""

from __future__ import annotations

import csv
import io
import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sktransfer._images import (
    DicomFrame,
    ImageViews,
    as_image_source,
)
from sktransfer.exceptions import ImageDecodeError
from sktransfer.preprocessing import DicomOptions, ImageAugmentation

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("gdcm")

from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut  # noqa: E402
from pydicom.sequence import Sequence  # noqa: E402

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"

FAILS = {
    "MR_truncated.dcm": "probably truncated",
    "no_meta.dcm": "without its header",
    "rtplan.dcm": r"without an image in it \(RTPLAN\)",
}


def decode(row, dicom=None, **options):
    image = as_image_source([row], dicom=dicom, **options).open(0).decode()
    values = np.asarray(image)
    return values / 255 if values.dtype == np.uint8 else values


def read(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(path)


def oracle(ds, frame=0):
    """By pydicom's functions, and the ranges that the standard gives (PS3.3 C.11.2.1)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stored = ds.pixel_array
    if int(ds.get("NumberOfFrames", 1)) > 1:
        stored = stored[frame]
    if ds.PhotometricInterpretation == "PALETTE COLOR":
        colors = apply_color_lut(stored, ds)
        return (colors >> (8 * colors.dtype.itemsize - 8)) / 255
    bits = int(ds.BitsStored)
    if stored.ndim == 3:
        return (stored >> (bits - 8)) / 255
    low, high = (
        (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if ds.PixelRepresentation else (0, 2**bits - 1)
    )
    values = apply_modality_lut(stored, ds)
    if "RescaleSlope" in ds:
        low, high = (end * ds.RescaleSlope + ds.RescaleIntercept for end in (low, high))
    if "VOILUTSequence" in ds:
        low, high = 0, 2 ** ds.VOILUTSequence[0].LUTDescriptor[2] - 1
    shown = (apply_voi_lut(values, ds) - float(low)) / (high - low)
    return 1 - shown if ds.PhotometricInterpretation == "MONOCHROME1" else shown


@pytest.fixture(scope="module")
def folder(shared_data):
    return shared_data / "dicom"


def test_every_shared_file_equals_its_oracle_or_fails_as_listed(folder):
    with open(folder / "index.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 17
    for row in rows:
        name = row["file"]
        if row["pixel_result"] != "ok":
            with pytest.raises(ImageDecodeError, match=FAILS[name]) as caught:
                decode(folder / name)
            assert (caught.value.index, caught.value.source) == (0, name)
            continue
        got, expected = decode(folder / name), oracle(read(folder / name))
        assert got.shape == expected.shape, name
        assert np.abs(got - expected).max() < 1e-6, name
        assert np.ptp(got) > 0, name
    assert {row["file"] for row in rows if row["pixel_result"] != "ok"} == set(FAILS)


def test_decoding_a_shared_file_takes_less_than_500_mb(folder):
    """Decoding any of them takes less than 500 MB in the process that does it."""
    from sktransfer._images._dicom import _POOL

    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc here")
    _POOL.close()
    for path in sorted(folder.glob("*.dcm")):
        if path.name not in FAILS:
            decode(path)
    (helper,) = _POOL._idle
    status = Path(f"/proc/{helper._process.pid}/status").read_text()
    (peak,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    assert peak / 1024 < 500


# Of every transfer syntax that is read, with a decoder that is not ours for the oracle.
COMPRESSED = {
    "693_J2KI.dcm": "pylibjpeg",
    "JPEG2000.dcm": "pylibjpeg",
    "J2K_pixelrep_mismatch.dcm": "pylibjpeg",
    "MR_small_jp2klossless.dcm": "pylibjpeg",
    "examples_jpeg2k.dcm": "pylibjpeg",
    "GDCMJ2K_TextGBR.dcm": "pylibjpeg",
    "SC_rgb_gdcm_KY.dcm": "pylibjpeg",
    "JPEGLSNearLossless_08.dcm": "pyjpegls",
    "JPEGLSNearLossless_16.dcm": "pyjpegls",
    "MR_small_jpeg_ls_lossless.dcm": "pyjpegls",
    "SC_rgb_jls_lossy_line.dcm": "pyjpegls",
    "SC_rgb_jls_lossy_sample.dcm": "pyjpegls",
    "SC_rgb_dcmtk_+eb+cr.dcm": "pillow",
    "SC_rgb_dcmtk_+eb+cy+n2.dcm": "pillow",
    "SC_rgb_dcmtk_+eb+cy+np.dcm": "pillow",
    "SC_rgb_jpeg_app14_dcmd.dcm": "pillow",
    "SC_rgb_small_odd_jpeg.dcm": "pillow",
    "examples_ybr_color.dcm": "pillow",
    "SC_rgb_rle_16bit_2frame.dcm": "",
    "SC_rgb_rle.dcm": "",
    "SC_rgb_rle_32bit.dcm": "",
    "SC_ybr_full_422_uncompressed.dcm": "",
    "SC_rgb_small_odd_big_endian.dcm": "",
    "liver_1frame.dcm": "",
    "MR_small_implicit.dcm": "",
}


@pytest.mark.parametrize("name", COMPRESSED)
def test_compressed_transfer_syntaxes_equal_another_decoder(name):
    ds = read(SHIPPED / name)
    if COMPRESSED[name] in ("pylibjpeg", "pyjpegls"):
        pytest.importorskip("openjpeg" if COMPRESSED[name] == "pylibjpeg" else "jpeg_ls")
    ds.pixel_array_options(decoding_plugin=COMPRESSED[name])
    assert np.abs(decode(SHIPPED / name) - oracle(ds)).max() < 1e-6


def test_lossless_jpeg_is_exact():
    """The same bars as in another file without compression."""
    lossless = read(SHIPPED / "SC_rgb_jpeg_gdcm.dcm")
    assert lossless.file_meta.TransferSyntaxUID == pydicom.uid.JPEGLosslessSV1
    plain = decode(SHIPPED / "SC_rgb_rle.dcm")
    assert np.array_equal(decode(SHIPPED / "SC_rgb_jpeg_gdcm.dcm"), plain)


def test_twelve_bit_jpeg_is_decoded():
    """Two values read off in a viewer, and the same scan as JPEG 2000, both of which lose much."""
    ds = read(SHIPPED / "JPEG-lossy.dcm")
    assert (ds.file_meta.TransferSyntaxUID, ds.BitsStored) == (pydicom.uid.JPEGExtended12Bit, 12)
    got = decode(SHIPPED / "JPEG-lossy.dcm", DicomOptions(voi=False)) * 4095
    assert np.allclose(got, np.rint(got), atol=1e-3)
    other = read(SHIPPED / "JPEG2000.dcm").pixel_array.astype(float)
    assert np.corrcoef(got.ravel(), other.ravel())[0, 1] > 0.95
    assert (round(got[420, 140]), round(got[230, 120])) == (244, 95)
    assert got.max() > 255


# --- files made for the test --------------------------------------------------------------------


def made(stored, **elements):
    """A file of these stored values."""
    stored = np.asarray(stored)
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = "1.2.3"
    ds.SOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    ds.PatientName = "Somebody^Known"
    color = stored.ndim >= 3 and stored.shape[-1] == 3
    frames = stored.ndim == (4 if color else 3)
    ds.Rows, ds.Columns = stored.shape[1:3] if frames else stored.shape[:2]
    if frames:
        ds.NumberOfFrames = len(stored)
    ds.SamplesPerPixel = 3 if color else 1
    ds.PhotometricInterpretation = "RGB" if color else "MONOCHROME2"
    if color:
        ds.PlanarConfiguration = 0
    if stored.dtype == np.float32:
        ds.BitsAllocated = 32
        ds.FloatPixelData = stored.tobytes()
    else:
        ds.BitsAllocated = ds.BitsStored = 8 * stored.dtype.itemsize
        ds.PixelRepresentation = int(stored.dtype.kind == "i")
        ds.PixelData = stored.tobytes() + b"\0" * (stored.nbytes % 2)
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    if "BitsStored" in ds:
        ds.HighBit = ds.BitsStored - 1
    return ds


def as_bytes(ds):
    file = io.BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue()


def ramp(dtype, n=64, height=8):
    info = np.iinfo(dtype)
    return np.linspace(info.min, info.max, n * height).astype(dtype).reshape(height, n)


def test_without_a_window_the_bits_are_the_scale():
    stored = np.arange(512, dtype=np.uint16).reshape(8, 64) * 8
    twelve = as_bytes(made(stored, BitsStored=12))
    assert np.allclose(decode(twelve), stored / 4095, atol=1e-6)
    signed = ramp(np.int16)
    assert np.allclose(decode(as_bytes(made(signed))), (signed + 32768.0) / 65535, atol=1e-6)


def test_monochrome1_is_inverted():
    gray = ramp(np.uint8)
    assert np.array_equal(
        decode(as_bytes(made(gray, PhotometricInterpretation="MONOCHROME1"))), (255 - gray) / 255
    )
    deep = ramp(np.uint16)
    for window in ({}, {"WindowCenter": 30000, "WindowWidth": 10000}):
        upright = decode(as_bytes(made(deep, **window)))
        inverted = decode(as_bytes(made(deep, PhotometricInterpretation="MONOCHROME1", **window)))
        assert np.allclose(inverted, 1 - upright, atol=1e-6)


def test_images_of_few_bits_fill_the_scale():
    levels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    assert np.allclose(decode(as_bytes(made(levels, BitsStored=4))) * 15, levels, atol=0.03)
    bits = np.random.default_rng(0).integers(0, 2, (8, 16), dtype=np.uint8)
    packed = np.packbits(bits, axis=None, bitorder="little")
    ds = made(bits, BitsAllocated=1, BitsStored=1, PixelData=packed.tobytes())
    assert np.array_equal(decode(as_bytes(ds)), bits)


def test_the_chosen_window_is_applied():
    hounsfield = ramp(np.int16) // 16  # -2048 to 2047
    ds = made(
        hounsfield + 1024,
        RescaleSlope=1,
        RescaleIntercept=-1024,
        WindowCenter=[40, -600],
        WindowWidth=[400, 1500],
    )
    data = as_bytes(ds)

    def window(center, width):  # PS3.3 C.11.2.1.2.1
        return (((hounsfield - (center - 0.5)) / (width - 1)) + 0.5).clip(0, 1)

    assert np.allclose(decode(data), window(40, 400), atol=1e-6)
    assert np.allclose(decode(data, DicomOptions(voi_index=1)), window(-600, 1500), atol=1e-6)
    assert np.allclose(decode(data, DicomOptions(window=(300, 2000))), window(300, 2000), atol=1e-6)
    plain = decode(data, DicomOptions(voi=False))
    assert np.allclose(plain * 65535 - 32768 - 1024, hounsfield, atol=0.01)
    declared = decode(data, DicomOptions(voi=False), value_range=(-2048, 2047))
    assert np.allclose(declared, (hounsfield + 2048) / 4095, atol=1e-6)
    # A window decides by itself; the declared range is of values that go through none.
    assert np.array_equal(decode(data, value_range=(-2048, 2047)), decode(data))
    with pytest.raises(ImageDecodeError, match=r"value_range=\(0, 100\)"):
        decode(data, DicomOptions(voi=False), value_range=(0, 100))
    with pytest.raises(ImageDecodeError, match="voi_index=2 was asked for, and the file has 2"):
        decode(data, DicomOptions(voi_index=2))


def test_sigmoid_windows_and_falling_slopes_are_applied():
    stored = ramp(np.uint16)
    sigmoid = {"WindowCenter": 30000, "WindowWidth": 20000, "VOILUTFunction": "SIGMOID"}
    assert np.allclose(
        decode(as_bytes(made(stored, **sigmoid))),
        1 / (1 + np.exp(-4 * (stored - 30000.0) / 20000)),
        atol=1e-5,
    )
    falling = made(stored, RescaleSlope=-2, RescaleIntercept=5)
    assert np.allclose(decode(as_bytes(falling)), 1 - stored / 65535, atol=1e-6)


def test_modality_and_voi_tables_are_applied():
    stored = np.arange(256, dtype=np.uint16).reshape(16, 16)
    squares = (np.arange(256) ** 2 // 16).astype(np.uint16)  # 12 bits
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [256, 0, 12], squares.astype("<u2").tobytes()
    item.ModalityLUTType = "US"
    by_voi = made(stored, BitsStored=12, VOILUTSequence=Sequence([item]))
    by_modality = made(stored, BitsStored=12, ModalityLUTSequence=Sequence([item]))
    for ds in (by_voi, by_modality):
        assert np.allclose(decode(as_bytes(ds)), squares[stored] / 4095, atol=1e-6)
    by_voi.WindowCenter, by_voi.WindowWidth = 100, 50
    data = as_bytes(by_voi)
    assert np.allclose(decode(data), squares[stored] / 4095, atol=1e-6)
    window = (((stored - 99.5) / 49) + 0.5).clip(0, 1)
    assert np.allclose(decode(data, DicomOptions(prefer_lut=False)), window, atol=1e-6)


def test_color_of_sixteen_bits_keeps_the_upper_eight():
    colors = np.random.default_rng(1).integers(0, 65536, (9, 7, 3), dtype=np.uint16)
    assert np.array_equal(decode(as_bytes(made(colors))), (colors >> 8) / 255)


def test_the_chosen_frame_is_shown():
    stored = np.random.default_rng(2).integers(0, 256, (5, 6, 8), dtype=np.uint8)
    data = as_bytes(made(stored))
    for frame in (0, 3, 4, -1, -5):
        assert np.array_equal(decode(data, DicomOptions(frame=frame)), stored[frame] / 255)
    assert np.array_equal(decode(data, DicomOptions(frame="middle")), stored[2] / 255)
    for frame in (5, -6):
        with pytest.raises(ImageDecodeError, match=f"frame {frame} .*the file has 5"):
            decode(data, DicomOptions(frame=frame))


def test_frames_of_an_enhanced_file_have_windows_of_their_own():
    stored = np.stack([ramp(np.uint16)] * 2)

    def group(center):
        item, outer = Dataset(), Dataset()
        item.WindowCenter, item.WindowWidth = center, 1000
        outer.FrameVOILUTSequence = Sequence([item])
        return outer

    shared, rescale = Dataset(), Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept = 1, -100
    shared.PixelValueTransformationSequence = Sequence([rescale])
    data = as_bytes(
        made(
            stored,
            SharedFunctionalGroupsSequence=Sequence([shared]),
            PerFrameFunctionalGroupsSequence=Sequence([group(20000), group(50000)]),
        )
    )
    for frame, center in enumerate((20000, 50000)):
        expected = ((ramp(np.uint16) - 100.0 - (center - 0.5)) / 999 + 0.5).clip(0, 1)
        assert np.allclose(decode(data, DicomOptions(frame=frame)), expected, atol=1e-6)


def test_float_pixels_need_a_range_as_all_floats_do():
    stored = np.linspace(-3, 5, 64, dtype=np.float32).reshape(8, 8)
    data = as_bytes(made(stored))
    with pytest.raises(ImageDecodeError, match="value_range"):
        decode(data)
    assert np.allclose(decode(data, value_range=(-3, 5)), (stored + 3) / 8, atol=1e-6)


def test_percentiles_are_of_the_one_image():
    stored = np.arange(10000, dtype=np.uint16).reshape(100, 100)
    data = as_bytes(made(stored, BitsStored=15))
    assert decode(data).max() < 0.4
    low, high = np.percentile(stored, (1, 99))
    expected = ((stored - low) / (high - low)).clip(0, 1)
    assert np.allclose(decode(data, value_range="percentile"), expected, atol=1e-6)


# --- forms of X ---------------------------------------------------------------------------------


def test_a_dataset_is_a_row_like_its_file(folder):
    for name in (
        "RG1_J2KI.dcm",
        "CT_small.dcm",
        "MR_small_bigendian.dcm",
        "vlut_04.dcm",
        "examples_palette.dcm",
        "image_dfl.dcm",
        "MR_small_RLE.dcm",
        "emri_small.dcm",
    ):
        ds = read(folder / name)
        assert np.array_equal(decode(ds), decode(folder / name)), name
    column = pd.DataFrame({"scan": [ds, read(folder / "CT_small.dcm")]})
    source = as_image_source(column)
    assert (len(source), source.n_columns, source.describe(0)) == (2, 1, "FileDataset")
    assert np.array_equal(source.open(0).decode(), decode(ds))
    with pytest.raises(TypeError, match=r"Wrap it in a list"):
        as_image_source(ds)


def test_a_dataset_made_in_memory_is_a_row():
    ds = made(ramp(np.uint16), WindowCenter=1000, WindowWidth=500)
    assert np.array_equal(decode(ds), decode(as_bytes(ds)))
    del ds.file_meta
    ds.set_original_encoding(is_implicit_vr=True, is_little_endian=True)
    assert decode(ds).shape == (8, 64)


def test_nobodys_name_leaves_a_dataset():
    from sktransfer._images._dicom import dataset_bytes

    assert b"Known" not in dataset_bytes(made(ramp(np.uint8)))


def test_frames_of_one_file_can_be_rows(tmp_path):
    stored = np.random.default_rng(3).integers(0, 256, (3, 6, 8), dtype=np.uint8)
    path = tmp_path / "heart.dcm"
    path.write_bytes(as_bytes(made(stored)))
    source = as_image_source(pd.DataFrame({"image": [DicomFrame(str(path), i) for i in (2, 0)]}))
    assert source.describe(0) == "heart.dcm"
    assert np.array_equal(np.asarray(source.open(0).decode()), stored[2])
    assert np.array_equal(np.asarray(source.open(1).decode()), stored[0])
    assert source.open(0).digest != source.open(1).digest
    assert source.open(1).digest == as_image_source([path]).open(0).digest


def test_dicom_is_recognized_by_content_not_by_name(tmp_path):
    (tmp_path / "scan.jpg").write_bytes(as_bytes(made(ramp(np.uint8))))
    assert np.array_equal(decode(tmp_path / "scan.jpg"), ramp(np.uint8) / 255)
    with open(tmp_path / "photo.dcm", "wb") as file:
        from PIL import Image

        Image.fromarray(ramp(np.uint8)).save(file, format="PNG")
    assert np.array_equal(decode(tmp_path / "photo.dcm"), ramp(np.uint8) / 255)


def test_options_are_part_of_what_a_dicom_image_is_and_of_no_other():
    def digest(row, dicom):
        return as_image_source([row], dicom=dicom).open(0).digest

    scan = as_bytes(made(ramp(np.uint16)))
    others = [
        DicomOptions(window=(0, 10)),
        DicomOptions(voi=False),
        DicomOptions(frame="middle"),
        DicomOptions(prefer_lut=False),
        DicomOptions(voi_index=1),
    ]
    assert len({digest(scan, each) for each in (None, *others)}) == 6
    assert digest(scan, None) == digest(scan, DicomOptions())
    png = io.BytesIO()
    from PIL import Image

    Image.fromarray(ramp(np.uint8)).save(png, format="PNG")
    assert len({digest(png.getvalue(), each) for each in (None, *others)}) == 1


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"frame": "last"}, "'frame' parameter"),
        ({"frame": 1.5}, "'frame' parameter"),
        ({"window": (40, 0)}, "width of at least 1"),
        ({"window": (40,)}, "center, width"),
        ({"window": 40}, "'window' parameter"),
        ({"voi_index": -1}, "counts from 0"),
        ({"voi": "yes"}, "'voi' parameter"),
    ],
)
def test_bad_options_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        as_image_source([b""], dicom=DicomOptions(**bad))


def test_rows_can_be_decoded_in_many_threads(folder):
    from concurrent.futures import ThreadPoolExecutor

    names = ["nih_chest_test1.dcm", "CT_small.dcm", "vlut_04.dcm", "examples_palette.dcm"] * 6
    source = as_image_source([folder / name for name in names])
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda i: np.asarray(source.open(i).decode()), range(len(names))))
    for name, image in zip(names, images, strict=True):
        assert np.array_equal(image, np.asarray(as_image_source([folder / name]).open(0).decode()))


def test_no_file_is_needed_twice(folder):
    """A path and its bytes are one image to the store."""
    path = folder / "CT_small.dcm"
    digests = {as_image_source([row]).open(0).digest for row in (path, path.read_bytes())}
    assert len(digests) == 1
    assert os.fspath(path).endswith(".dcm")


def test_views_of_a_file_are_of_its_frame_and_window():
    stored = np.stack([ramp(np.uint16), ramp(np.uint16)[::-1]])
    data = as_bytes(made(stored))
    source = as_image_source([data], dicom=DicomOptions(frame=1, window=(30000, 5000)))
    views = ImageViews(source, ImageAugmentation(), 2, seed=0)  # which changes nothing
    for i in range(2):
        assert np.allclose(views.open(i).decode(), source.open(0).decode(), atol=1e-6)
