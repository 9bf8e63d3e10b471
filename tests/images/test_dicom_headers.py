"""DICOM elements that are there but empty, odd or at odds: an image or a named error."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from sktransfer._images import _dicom, as_image_source
from sktransfer.datasets import describe_dicom
from sktransfer.exceptions import ImageDecodeError
from sktransfer.preprocessing import DicomOptions

pydicom = pytest.importorskip("pydicom")

from pydicom.dataelem import DataElement  # noqa: E402
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.sequence import Sequence  # noqa: E402
from pydicom.uid import (  # noqa: E402
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

GONE = ...
STORED = np.arange(2048, dtype=np.int16).reshape(32, 64)
HOUNSFIELD = STORED - 1024.0


@pytest.fixture(autouse=True)
def corrections_are_reported_again(monkeypatch):
    monkeypatch.setattr(_dicom, "_warned", set())


def scan(stored=STORED, syntax=ExplicitVRLittleEndian, **elements):
    """A CT of twelve bits in sixteen, with these elements: a value, (type, value), or GONE."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.preamble = bytes(128)
    ds.Modality = "CT"
    ds.Rows, ds.Columns = stored.shape[:2]
    ds.SamplesPerPixel = 3 if stored.ndim == 3 else 1
    ds.PhotometricInterpretation = "RGB" if stored.ndim == 3 else "MONOCHROME2"
    ds.BitsAllocated = 8 * stored.dtype.itemsize
    ds.BitsStored = 12 if stored is STORED else ds.BitsAllocated
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(stored.dtype.kind == "i")
    if stored is STORED:
        ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
        ds.WindowCenter, ds.WindowWidth = 40, 400
    ds.PixelData = stored.tobytes()
    ds["PixelData"].VR = "OW"
    for keyword, value in elements.items():
        if keyword in ds:
            del ds[keyword]
        if isinstance(value, tuple):
            tag = pydicom.tag.Tag(pydicom.datadict.tag_for_keyword(keyword))
            ds._dict[tag] = DataElement(tag, *value, validation_mode=0)
        elif value is not GONE:
            setattr(ds, keyword, value)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is written wrong on purpose
        ds.save_as(file, enforce_file_format=False)
    return file.getvalue()


def shown(data, dicom=None, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of corrections, which have their own test
        image = np.asarray(as_image_source([data], dicom=dicom, **options).open(0).decode())
    return image / 255 if image.dtype == np.uint8 else image


def window(values, center=40.0, width=400.0):
    return ((values - (center - 0.5)) / (width - 1) + 0.5).clip(0, 1)


def notes(data, dicom=None):
    return " ".join(describe_dicom(data, dicom=dicom)["notes"])


# --- rescaling ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slope", "intercept", "expected"),
    [
        (1, -1024, STORED - 1024.0),
        (None, None, STORED * 1.0),
        (GONE, GONE, STORED * 1.0),
        (GONE, -1024, STORED - 1024.0),
        (None, -1024, STORED - 1024.0),
        (("LO", ""), ("LO", " -1024 "), STORED - 1024.0),
        (2, GONE, STORED * 2.0),
        (2, None, STORED * 2.0),
        (-1, 0, STORED * -1.0),
        (("US", 2), ("SS", -7), STORED * 2.0 - 7),
        (("FD", 0.5), ("UN", b"3.5 "), STORED * 0.5 + 3.5),
        (("DS", [2, 2]), 0, STORED * 2.0),
        (0, 0, STORED * 1.0),
    ],
)
def test_slope_and_intercept_count_by_value_each_for_itself(slope, intercept, expected):
    data = scan(RescaleSlope=slope, RescaleIntercept=intercept)
    assert np.allclose(shown(data), window(expected), atol=1e-6)


@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept"])
@pytest.mark.parametrize(
    "value", [("LO", "abc"), ("FD", float("nan")), ("FD", float("inf")), ("LO", "1\\2")]
)
def test_rescaling_by_what_is_no_number_is_refused_by_name(keyword, value):
    with pytest.raises(ImageDecodeError, match=rf"{keyword} \(0028,105[23]\) is '.*one number"):
        shown(scan(**{keyword: value}))


def test_a_slope_of_zero_and_numbers_beyond_all_measure_are_refused():
    with pytest.raises(ImageDecodeError, match=r"RescaleSlope \(0028,1053\) is 0"):
        shown(scan(RescaleSlope=0))
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        with pytest.raises(ImageDecodeError, match=rf"{keyword} .*1e\+300"):
            shown(scan(**{keyword: ("FD", 1e300)}))


def test_a_large_intercept_does_not_round_the_image_away():
    data = scan(RescaleIntercept=("FD", 1e10), WindowCenter=GONE)
    assert np.allclose(np.diff(shown(data).ravel()) * 4095, 1, atol=1e-3)


# --- windows and tables ---------------------------------------------------------------------------

BITS = (HOUNSFIELD + 3072) / 4095  # without a window, twelve signed bits, rescaled


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"WindowCenter": None}, None),
        ({"WindowWidth": GONE}, None),
        ({"WindowWidth": 0}, None),
        ({"WindowWidth": -400}, None),
        ({"WindowWidth": 0.9}, None),
        ({"WindowWidth": ("LO", "abc")}, None),
        ({"WindowWidth": ("FD", float("nan"))}, None),
        ({"WindowCenter": ["", 40], "WindowWidth": ["", 400]}, (40, 400)),
        ({"WindowCenter": [-600, 40], "WindowWidth": [0, 400]}, (40, 400)),
        ({"WindowCenter": [-600, 40], "WindowWidth": ["", 400]}, (40, 400)),
        ({"WindowCenter": [40, 50, 60], "WindowWidth": 400}, (40, 400)),
        ({"WindowCenter": ("LO", "\\40"), "WindowWidth": ("LO", "400\\400")}, (40, 400)),
        ({"WindowCenter": ("US", 40), "WindowWidth": ("FL", 400.0)}, (40, 400)),
    ],
)
def test_the_next_usable_window_is_applied_else_none(elements, expected):
    data = scan(**elements)
    assert np.allclose(shown(data), BITS if expected is None else window(HOUNSFIELD, *expected))
    described = describe_dicom(data)
    assert ("none" in described["window"]) == (expected is None)


def test_an_unusable_window_that_was_asked_for_is_noted():
    data = scan(WindowCenter=[40, 0, -600], WindowWidth=[400, 0, 1500])
    second = DicomOptions(voi_index=1)
    assert np.allclose(shown(data, second), window(HOUNSFIELD, -600, 1500))
    assert "number 1 of its windows is not usable: number 2" in notes(data, second)
    with pytest.raises(ImageDecodeError, match="voi_index=3 was asked for, and the file has 3"):
        shown(data, DicomOptions(voi_index=3))


@pytest.mark.parametrize("function", ["", "linear", " LINEAR ", "BOGUS", GONE])
def test_window_functions_are_linear_unless_they_are_another(function):
    data = scan(VOILUTFunction=function if function is GONE else ("LO", function))
    assert np.allclose(shown(data), window(HOUNSFIELD), atol=1e-6)
    assert ("BOGUS" in notes(data)) == (function == "BOGUS")


def test_exact_windows_may_be_narrow():
    exact = {"VOILUTFunction": ("CS", "linear_exact")}
    data = scan(WindowCenter=40, WindowWidth=0.5, **exact)
    assert np.allclose(shown(data), ((HOUNSFIELD - 40) / 0.5 + 0.5).clip(0, 1), atol=1e-6)
    data = scan(WindowCenter=40, WindowWidth=400, **exact)
    assert np.allclose(shown(data), ((HOUNSFIELD - 40) / 400 + 0.5).clip(0, 1), atol=1e-6)
    one = scan(WindowCenter=40, WindowWidth=1)
    assert np.array_equal(shown(one), HOUNSFIELD > 39.5)


def table(descriptor, data, kind="OW"):
    item = Dataset()
    for keyword, vr, value in (("LUTDescriptor", "US", descriptor), ("LUTData", kind, data)):
        if value is not GONE:
            tag = pydicom.tag.Tag(pydicom.datadict.tag_for_keyword(keyword))
            item._dict[tag] = DataElement(tag, vr, value, validation_mode=0)
    return Sequence([item])


SQUARES = (np.arange(256) ** 2 // 16).astype(np.uint16)


@pytest.mark.parametrize(
    ("descriptor", "data", "kind"),
    [
        ([256, 0, 12], SQUARES.tobytes(), "OW"),
        ([256, 0, 12], SQUARES.tolist(), "US"),
        ([256, 0, 12], SQUARES.tobytes(), "UN"),
    ],
)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("keyword", ["VOILUTSequence", "ModalityLUTSequence"])
def test_tables_are_applied_in_whatever_type_they_come(keyword, syntax, descriptor, data, kind):
    stored = np.arange(256, dtype=np.uint16).reshape(16, 16)
    made = scan(stored, syntax, **{keyword: table(descriptor, data, kind)})
    assert np.allclose(shown(made), SQUARES[stored] / 4095, atol=1e-6)


@pytest.mark.parametrize(
    "sequence",
    [
        Sequence([]),
        Sequence([Dataset()]),
        table([256, 0, 12], GONE),
        table(GONE, SQUARES.tobytes()),
        table([256, 0], SQUARES.tobytes()),
        table([256, 0, 12], b""),
        table([256, 0, 0], SQUARES.tobytes()),
    ],
)
def test_tables_that_are_none_give_way_to_what_else_there_is(sequence):
    data = scan(VOILUTSequence=sequence, ModalityLUTSequence=sequence)
    assert np.allclose(shown(data), window(HOUNSFIELD), atol=1e-6)
    assert ("no usable table" in notes(data)) == bool(len(sequence))


def test_short_tables_go_on_with_their_last_entry():
    stored = np.arange(256, dtype=np.uint16).reshape(16, 16)
    data = scan(stored, VOILUTSequence=table([256, 0, 12], SQUARES[:100].tobytes()))
    expected = SQUARES[stored.clip(0, 99)] / 4095
    assert np.allclose(shown(data), expected, atol=1e-6)
    assert "256 entries, and LUTData has 100" in notes(data)


def test_tables_of_eight_bits_with_many_entries_are_applied():
    ramp = np.arange(4096, dtype=np.uint16)
    entries = (ramp // 16).astype(np.uint8)
    data = scan(ramp.reshape(64, 64), VOILUTSequence=table([4096, 0, 8], entries.tobytes()))
    assert np.allclose(shown(data) * 255, entries.reshape(64, 64), atol=1e-4)


# --- what the pixels are --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("elements", "expected", "noted"),
    [
        ({"PhotometricInterpretation": ("CS", "monochrome2 ")}, 1, ""),
        ({"PhotometricInterpretation": ("CS", "Monochrome1")}, -1, ""),
        ({"PhotometricInterpretation": GONE}, 1, "taken as MONOCHROME2"),
        ({"PhotometricInterpretation": ""}, 1, "taken as MONOCHROME2"),
        ({"PresentationLUTShape": "INVERSE"}, -1, "the lowest value is white"),
        ({"PresentationLUTShape": ("CS", "inverse")}, -1, "the lowest value is white"),
        ({"PresentationLUTShape": "IDENTITY"}, 1, ""),
        ({"PresentationLUTShape": ""}, 1, ""),
        (
            {"PresentationLUTShape": "INVERSE", "PhotometricInterpretation": "MONOCHROME1"},
            -1,
            "",
        ),
        (
            {"PresentationLUTShape": "IDENTITY", "PhotometricInterpretation": "MONOCHROME1"},
            -1,
            "MONOCHROME1 and PresentationLUTShape IDENTITY",
        ),
        ({"SamplesPerPixel": GONE}, 1, "SamplesPerPixel is empty: taken as 1"),
        ({"PlanarConfiguration": ("US", 7)}, 1, "taken as 0"),
        ({"NumberOfFrames": ("IS", "")}, 1, ""),
        ({"NumberOfFrames": ("IS", "0")}, 1, "taken as 1"),
        ({"NumberOfFrames": ("US", 1)}, 1, ""),
        ({"PixelPaddingValue": ("SS", "")}, 1, ""),
        ({"PixelAspectRatio": ("IS", ["1", ""])}, 1, ""),
        ({"SmallestImagePixelValue": ("LO", "x")}, 1, ""),
        ({"Rows": ("DS", "32")}, 1, ""),
        ({"SpecificCharacterSet": ("CS", "NO SUCH SET")}, 1, ""),
        ({"PatientName": ("PN", b"\xff\xfe\xe9")}, 1, ""),
        ({"HighBit": GONE}, 1, ""),
        ({"HighBit": 7}, 1, "HighBit is 7, and ignored"),
        ({"HighBit": 15}, 1, "HighBit is 15, and ignored"),
    ],
)
def test_elements_that_say_what_pixels_are_count_by_value(elements, expected, noted):
    data = scan(**elements)
    image = window(HOUNSFIELD)
    assert np.allclose(shown(data), image if expected == 1 else 1 - image, atol=1e-6)
    assert (noted in notes(data)) if noted else (notes(data) == "")


def test_missing_signs_and_depths_are_taken_as_usual_and_noted():
    plain = {"WindowCenter": GONE, "RescaleIntercept": GONE}
    assert np.allclose(shown(scan(PixelRepresentation=GONE, **plain)), STORED / 4095, atol=1e-6)
    assert "PixelRepresentation is empty: taken as 0" in notes(scan(PixelRepresentation=GONE))
    for bits in (GONE, 0, 17, ("US", 65535)):
        data = scan(BitsStored=bits, HighBit=GONE, PixelRepresentation=0, **plain)
        assert np.allclose(shown(data), STORED / 65535, atol=1e-6)
        assert "taken as BitsAllocated, 16" in notes(data)


def test_values_above_their_bits_are_cleaned_of_them():
    overlaid = (STORED.astype(np.uint16) % 4096) | 0x8000
    plain = {"BitsStored": 12, "HighBit": 11}
    data = scan(overlaid, **plain)
    assert np.allclose(shown(data), STORED / 4095, atol=1e-6)
    assert "the bits above are left out" in notes(data)
    high = scan((STORED * 16).astype(np.uint16), BitsStored=12, HighBit=15)
    assert np.allclose(shown(high), STORED / 4095, atol=1e-6)
    assert "HighBit is 15" in notes(high)


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"Rows": None}, r"Rows \(0028,0010\) is empty"),
        ({"Columns": ("LO", "wide")}, r"Columns \(0028,0011\) is 'wide'"),
        ({"Rows": ("FD", 31.5)}, "31.5, and should be an integer"),
        ({"BitsAllocated": None}, r"BitsAllocated \(0028,0100\) is empty"),
        ({"BitsAllocated": ("US", 12)}, r"BitsAllocated \(0028,0100\) is 12"),
        ({"BitsStored": ("LO", "twelve")}, r"BitsStored \(0028,0101\) is 'twelve'"),
        ({"PhotometricInterpretation": ("CS", "HSV")}, "'HSV', which is not read"),
        ({"SamplesPerPixel": 3}, "3 samples per pixel .* 'MONOCHROME2'"),
        ({"NumberOfFrames": ("LO", "many")}, r"NumberOfFrames \(0028,0008\) is 'many'"),
        ({"NumberOfFrames": 5}, "not as many as it says"),
        ({"Rows": 33}, "not as many as it says"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "its palette .* cannot be used"),
        ({"PixelData": GONE}, "no PixelData"),
    ],
)
def test_what_makes_no_image_is_refused_by_name(elements, message):
    with pytest.raises(ImageDecodeError, match=message):
        shown(scan(**elements))


def test_pixel_data_that_is_too_long_is_noted_and_too_short_refused():
    data = scan()
    assert np.array_equal(shown(data + bytes(999)), shown(data))
    two = scan(PixelData=("OW", STORED.tobytes() * 2))
    assert np.array_equal(shown(two), shown(data))
    assert "longer than 1 frames of 64 x 32" in notes(two)
    for cut in (1, 2, 100, 4000):
        with pytest.raises(ImageDecodeError, match="truncated"):
            shown(data[:-cut])
        with pytest.raises(ImageDecodeError, match="truncated"):
            shown(scan(PixelData=("OW", STORED.tobytes()[: -cut - cut % 2])))


COLORS = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)


def test_colors_without_a_label_or_their_number_are_read():
    for elements in (
        {"PhotometricInterpretation": GONE},
        {"SamplesPerPixel": None},
        {"PhotometricInterpretation": ("CS", "rgb")},
        {"PhotometricInterpretation": "YBR_FULL"},  # which random colors are not
        {"RescaleSlope": ("LO", "abc")},  # of no account to colors
        {"PixelRepresentation": 1},
    ):
        assert np.array_equal(shown(scan(COLORS, **elements)) * 255, COLORS), elements


def test_pairs_of_pixels_share_their_chroma_where_there_are_bytes_for_no_more():
    halved = np.tile(np.array([104, 104, 86, 210], np.uint8), 8 * 3)  # red
    for label in ("YBR_FULL_422", "YBR_FULL"):
        data = scan(COLORS, PhotometricInterpretation=label, PixelData=("OB", halved.tobytes()))
        assert np.abs(shown(data) * 255 - (219, 60, 30)).max() < 2
        assert ("there are pixels for" in notes(data)) == (label == "YBR_FULL")
    full = np.tile(np.array([104, 86, 210], np.uint8), 48)
    data = scan(COLORS, PhotometricInterpretation="YBR_FULL_422", PixelData=("OB", full.tobytes()))
    assert np.abs(shown(data) * 255 - (219, 60, 30)).max() < 2


def test_lengths_that_look_like_types_are_lengths():
    """Of 18,000 bytes and no type: the length begins with the letters P and F."""
    gray = np.random.default_rng(0).integers(0, 256, (180, 100), dtype=np.uint8)
    assert (18_000).to_bytes(4, "little")[:2] == b"PF"
    assert np.array_equal(shown(scan(gray, ImplicitVRLittleEndian)) * 255, gray)


@pytest.mark.parametrize("frame", [0, 1, 4])
def test_frames_of_single_bits_need_not_begin_with_a_byte(frame):
    bits = np.random.default_rng(0).integers(0, 2, (5, 7, 9), dtype=np.uint8)
    packed = np.packbits(bits.ravel(), bitorder="little").tobytes()
    elements = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0, "NumberOfFrames": 5}
    data = scan(bits[0], PixelData=("OB", packed), **elements)
    assert np.array_equal(shown(data, DicomOptions(frame=frame)), bits[frame])


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_files_that_do_not_say_how_they_are_encoded_are_taken_as_uncompressed(syntax):
    data = scan(syntax=syntax)
    bare = data[:132] + data[data.index(b"\x08\x00\x60\x00") :]
    assert np.allclose(shown(bare), window(HOUNSFIELD), atol=1e-6)
    assert "TransferSyntaxUID is empty" in notes(bare)


@pytest.mark.parametrize("color", [(255, 0, 255), (148, 0, 211), (255, 105, 180), (0, 0, 255)])
def test_shades_of_one_color_in_ycbcr_stay_that_color(color):
    """Of violet, all three components rise and fall together, as those of RGB do."""
    shades = (np.linspace(0, 1, 48).reshape(8, 6, 1) * color).astype(np.uint8)
    ycc = np.asarray(Image.fromarray(shades).convert("YCbCr"))
    data = scan(ycc, PhotometricInterpretation="YBR_FULL")
    assert np.abs(shown(data) * 255 - shades).max() <= 3
    assert notes(data) == ""


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_palettes_are_read_in_either_order_of_bytes(order):
    entries = np.random.default_rng(0).integers(0, 65536, (3, 64), dtype=np.uint16)
    stored = np.arange(64, dtype=np.uint8).reshape(8, 8)
    elements = {"PhotometricInterpretation": "PALETTE COLOR"}
    for color, each in zip(("Red", "Green", "Blue"), entries, strict=True):
        elements[f"{color}PaletteColorLookupTableDescriptor"] = [64, 0, 16]
        data = each.astype(order).tobytes()
        elements[f"{color}PaletteColorLookupTableData"] = ("OW", data)
    syntax = ExplicitVRLittleEndian if order == "<u2" else ExplicitVRBigEndian
    made = scan(stored, syntax, **elements, PixelData=("OB", stored.tobytes()))
    assert np.array_equal(shown(made) * 255, entries.T[stored] >> 8)


def test_frames_fall_back_on_what_is_said_of_all_of_them():
    stored = np.stack([STORED, STORED])

    def group(**elements):
        item, outer = Dataset(), Dataset()
        for keyword, value in elements.items():
            setattr(item, keyword, value)
        outer.FrameVOILUTSequence = Sequence([item])
        return outer

    groups = {
        "SharedFunctionalGroupsSequence": Sequence([group(WindowCenter=100, WindowWidth=300)]),
        "PerFrameFunctionalGroupsSequence": Sequence([group(WindowCenter=None, WindowWidth=None)]),
    }
    data = scan(
        STORED, NumberOfFrames=2, PixelData=("OW", stored.tobytes()), WindowCenter=GONE, **groups
    )
    for frame in (0, 1):
        expected = window(HOUNSFIELD, 100, 300)
        assert np.allclose(shown(data, DicomOptions(frame=frame)), expected, atol=1e-6)
    assert "ends before this frame" in notes(data, DicomOptions(frame=1))


# --- what was decided -----------------------------------------------------------------------------


def test_a_reading_is_described():
    described = describe_dicom(scan(WindowCenter=[40, -600], WindowWidth=[400, 1500]))
    assert described.to_dict() == {
        "transfer_syntax": "Explicit VR Little Endian",
        "compressed_image": "",
        "decoder": "",
        "rows": 32,
        "columns": 64,
        "frames": 1,
        "frame": 0,
        "photometric": "MONOCHROME2",
        "shown_as": "MONOCHROME2",
        "bits": 12,
        "signed": True,
        "rescale": "slope 1, intercept -1024",
        "window": "center 40, width 400, LINEAR, window 0 of 2",
        "inverted": False,
        "notes": [],
    }
    asked = describe_dicom(scan(), dicom=DicomOptions(voi=False))
    assert asked["window"] == "none"
    with pytest.raises(ImageDecodeError, match="no DICOM file"):
        describe_dicom(b"\x89PNG and so on")
    with pytest.raises(ImageDecodeError, match="is empty"):
        describe_dicom(scan(Rows=None))


def test_what_contradicts_a_header_is_warned_of_once():
    data = scan(PhotometricInterpretation=GONE)
    with pytest.warns(UserWarning, match=r"PhotometricInterpretation is empty.*describe_dicom"):
        as_image_source([data]).open(0).decode()
    as_image_source([data]).open(0).decode()  # a warning would be an error here
    as_image_source([scan(RescaleSlope=GONE)]).open(0).decode()  # the standard's default


def test_a_dataset_with_odd_elements_is_a_row_like_its_file():
    data = scan(SmallestImagePixelValue=("LO", "x"), PixelRepresentation=GONE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = pydicom.dcmread(io.BytesIO(data))
        assert np.array_equal(shown(ds), shown(data))
