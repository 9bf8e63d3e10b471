"""Hostile DICOM files: limits before expansion, refusals by name, crashes in another process."""

from __future__ import annotations

import io
import os
import signal
import struct
import subprocess
import sys
import textwrap
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from sktransfer import PretrainedFeatureExtractor
from sktransfer._images import _dicom, _helper_process, as_image_source
from sktransfer._images._helper_process import HelperError, HelperPool, HelperStartError
from sktransfer._utils import config as _config
from sktransfer.exceptions import ImageDecodeError, MissingDependencyError, SkTransferError

HANDLER = '''
"""Does what it is asked to do to a process."""
import ctypes, time

def answer(question, data):
    what = question["do"]
    if what == "crash":
        ctypes.string_at(0)
    if what == "hang":
        while True:
            pass
    if what == "sleep":
        time.sleep(60)
    if what == "eat":
        return {}, bytes(question["bytes"])
    if what == "print":
        print("native libraries print")
    if what == "pid":
        import os
        return {"pid": os.getpid(), "argument": question["argument"]}, data
    return {"n": len(data)}, data[::-1]
'''


@pytest.fixture
def pool(tmp_path, monkeypatch):
    (tmp_path / "handler_for_test.py").write_text(HANDLER)
    monkeypatch.syspath_prepend(tmp_path)
    pool = HelperPool("handler_for_test:answer", 2**29)
    yield pool
    pool.close()


def ask(pool, do, data=b"abc", seconds=1, **more):
    return pool.ask({"do": do, **more}, data, seconds=seconds, at_most=2**28)


def test_a_helper_answers_and_is_used_again(pool):
    assert ask(pool, "echo") == ({"n": 3}, bytearray(b"cba"))
    pids = {ask(pool, "pid", argument=i)[0]["pid"] for i in range(5)}
    assert len(pids) == 1
    assert os.getpid() not in pids
    big = os.urandom(5_000_000)
    assert ask(pool, "echo", big)[1] == big[::-1]
    assert ask(pool, "print")[1] == b"cba"


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_crash_is_an_error_and_the_next_question_is_answered(pool):
    for _ in range(2):
        with pytest.raises(HelperError, match="SIGSEGV"):
            ask(pool, "crash")
        assert ask(pool, "echo")[1] == b"cba"


@pytest.mark.skipif(os.name != "posix", reason="limits of the system")
def test_time_and_memory_are_limited(pool):
    ask(pool, "echo")
    start = time.monotonic()
    with pytest.raises(HelperError, match="too long"):
        ask(pool, "hang")
    assert time.monotonic() - start < 20
    assert "memory" in ask(pool, "eat", bytes=2**30)[0]["error"]
    assert ask(pool, "echo")[1] == b"cba"


@pytest.mark.slow
def test_one_that_sleeps_is_stopped_by_the_clock(pool, monkeypatch):
    start = time.monotonic()
    with pytest.raises(HelperError, match="too long"):
        ask(pool, "sleep", seconds=-1)  # 10 + 5 * -1 seconds of patience
    assert time.monotonic() - start < 30


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_one_that_died_while_idle_is_replaced(pool):
    first = ask(pool, "pid", argument=0)[0]["pid"]
    os.kill(first, signal.SIGKILL)
    time.sleep(0.1)
    assert ask(pool, "pid", argument=1)[0]["pid"] != first


def test_one_that_cannot_be_started_is_not_the_files_fault(tmp_path, monkeypatch):
    pool = HelperPool("no_such_module:answer", 2**29)
    with pytest.raises(HelperStartError, match="can be started"):
        ask(pool, "echo")
    scan = tmp_path / "scan"
    scan.write_bytes(bytes(128) + b"DICM" + bytes(40))
    monkeypatch.setattr(_dicom, "_POOL", pool)
    with pytest.raises(SkTransferError, match="Reading DICOM files: no helper") as caught:
        as_image_source([scan]).open(0).decode()
    assert not isinstance(caught.value, ImageDecodeError)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(tmp_path / "nowhere"))
        with pytest.raises(HelperStartError, match="nowhere"):
            ask(pool, "echo")


def test_threads_have_helpers_of_their_own(pool):
    with ThreadPoolExecutor(3) as threads:
        answers = list(threads.map(lambda i: ask(pool, "pid", argument=i)[0], range(30)))
    assert [answer["argument"] for answer in answers] == list(range(30))
    assert len({answer["pid"] for answer in answers}) <= 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
def test_a_forked_child_has_helpers_of_its_own(tmp_path):
    code = f"""
        import os, sys
        sys.path.insert(0, {str(tmp_path)!r})
        from importlib.util import module_from_spec, spec_from_file_location
        spec = spec_from_file_location("helper", {_helper_process.__file__!r})
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        HelperPool = module.HelperPool
        pool = HelperPool("handler_for_test:answer", 2**29)
        what = {{"do": "pid", "argument": 0}}
        ask = lambda: pool.ask(what, b"", seconds=1, at_most=9)[0]["pid"]
        first = ask()
        child = os.fork()
        if not child:
            os._exit(int(ask() == first or ask() == first))
        assert ask() == first
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    (tmp_path / "handler_for_test.py").write_text(HANDLER)
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=1150,
    )
    assert (result.returncode, result.stderr) == (0, "")


# --- files --------------------------------------------------------------------------------------

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("gdcm")

from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402


def decode(data):
    return as_image_source([data]).open(0).decode()


def file_of(syntax, pixels=b"", raw=None, **elements):
    ds = Dataset()
    ds.Rows = ds.Columns = 64
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    ds.PixelData = pixels
    ds["PixelData"].VR = "OB"
    if syntax.is_encapsulated:
        ds.PixelData = pydicom.encaps.encapsulate([pixels])
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.preamble = bytes(128)
    file = io.BytesIO()
    ds.save_as(file, enforce_file_format=False)
    return file.getvalue()


@pytest.mark.parametrize(
    "uid",
    [
        pydicom.uid.MPEG2MPML,
        pydicom.uid.MPEG4HP41,
        pydicom.uid.HEVCMP51,
        pydicom.uid.UID("1.2.840.10008.1.2.4.94"),  # JPIP: pixels behind an address
        pydicom.uid.UID("1.2.840.10008.1.2.4.95"),
        pydicom.uid.SMPTEST211020UncompressedProgressiveActiveVideo,
    ],
)
def test_other_transfer_syntaxes_are_refused_by_name(uid):
    with pytest.raises(ImageDecodeError) as caught:
        decode(file_of(uid, b"\xff\xd8" + bytes(30)))
    assert uid.name in str(caught.value)
    assert uid.name != str(uid)


def test_a_private_transfer_syntax_is_refused():
    data = file_of(pydicom.uid.JPEGBaseline8Bit, bytes(64))
    own = str(pydicom.uid.JPEGBaseline8Bit).encode()
    assert data.count(own) == 1
    with pytest.raises(ImageDecodeError, match=r"private: 1\.2\.826"):
        decode(data.replace(own, b"1.2.826.0.1.3680043.99"))


def deflated(header, pixels_bytes):
    """A file whose pixel data is that many zeros, deflated to a thousandth."""
    plain = file_of(pydicom.uid.ExplicitVRLittleEndian, **header)
    start = plain.index(b"\x08\x00") if b"\x08\x00" in plain else plain.index(b"\x28\x00")
    meta_end = plain.index(struct.pack("<HH", 0x28, 0x2))
    body = plain[meta_end:]
    body = body[: body.index(b"\xe0\x7f\x10\x00")]
    body += b"\xe0\x7f\x10\x00OB\0\0" + struct.pack("<I", pixels_bytes)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = packer.compress(body)
    for _ in range(pixels_bytes // 2**20):
        packed += packer.compress(bytes(2**20))
    packed += packer.compress(bytes(pixels_bytes % 2**20)) + packer.flush()
    head = file_of(pydicom.uid.DeflatedExplicitVRLittleEndian, **header)
    own = head.index(str(pydicom.uid.DeflatedExplicitVRLittleEndian).encode())
    assert start > 0
    return head[: own + 22] + packed


def test_deflated_files_within_what_they_declare_are_read():
    image = decode(deflated({"Rows": 6000, "Columns": 6000}, 36_000_000))
    assert image.size == (6000, 6000)
    assert not np.asarray(image).any()


def test_decompression_bombs_are_refused():
    frames = {"Rows": 1000, "Columns": 1000, "NumberOfFrames": 300}
    bomb = deflated(frames, 300_000_000)
    assert len(bomb) < 400_000
    with pytest.raises(ImageDecodeError, match=r"more than the 178,\d{3},\d{3} bytes.*bomb"):
        decode(bomb)
    with pytest.raises(ImageDecodeError, match="bomb"):
        decode(deflated({"Rows": 10, "Columns": 10}, 300_000_000))
    with pytest.raises(ImageDecodeError, match="cut short"):
        decode(deflated({"Rows": 6000, "Columns": 6000}, 36_000_000)[:-5000])


def test_impossible_sizes_are_refused():
    with pytest.raises(ImageDecodeError, match=r"60000 x 60000 = 3,600,000,000 pixels"):
        decode(file_of(pydicom.uid.ExplicitVRLittleEndian, bytes(64), Rows=60000, Columns=60000))
    with pytest.raises(ImageDecodeError, match="no pixels"):
        decode(file_of(pydicom.uid.ExplicitVRLittleEndian, bytes(64), Rows=0))
    for syntax in (pydicom.uid.RLELossless, pydicom.uid.ExplicitVRLittleEndian):
        with pytest.raises(ImageDecodeError):
            decode(file_of(syntax, bytes(64), Rows=9000, Columns=9000))


def test_a_compressed_frame_of_another_size_is_refused():
    from PIL import Image

    for format_, syntax in (
        ("JPEG", pydicom.uid.JPEGBaseline8Bit),
        ("JPEG2000", pydicom.uid.JPEG2000Lossless),
    ):
        file = io.BytesIO()
        Image.new("L", (64, 64)).save(file, format=format_)
        assert decode(file_of(syntax, file.getvalue())).size == (64, 64)
        file = io.BytesIO()
        Image.new("L", (5000, 4000)).save(file, format=format_)
        with pytest.raises(ImageDecodeError, match="of 5000 x 4000 pixels, and should be of 64"):
            decode(file_of(syntax, file.getvalue()))
    with pytest.raises(ImageDecodeError, match="has no size"):
        decode(file_of(pydicom.uid.JPEGBaseline8Bit, b"\xff\xd8" + b"\0" * 62))


def test_what_is_no_gray_or_color_is_refused():
    for change in (
        {"PhotometricInterpretation": "CMYK"},
        {"SamplesPerPixel": 4},
        {"PhotometricInterpretation": "RGB"},
        {"BitsAllocated": 12},
    ):
        with pytest.raises(ImageDecodeError, match=r"which is not read|make no image"):
            decode(file_of(pydicom.uid.ExplicitVRLittleEndian, bytes(4096), **change))


SEQUENCE = struct.pack("<HH", 0x8, 0x1140) + b"SQ\0\0"
ITEM, ITEM_END, SEQUENCE_END = (
    struct.pack("<HH", 0xFFFE, each) for each in (0xE000, 0xE00D, 0xE0DD)
)
UNDEFINED = b"\xff" * 4


def with_header(elements):
    """A plain file with these bytes in front of the elements of its image."""
    plain = file_of(pydicom.uid.ExplicitVRLittleEndian, bytes(4096))
    at = plain.index(struct.pack("<HH", 0x28, 0x2))
    return plain[:at] + elements + plain[at:]


def test_sequences_without_end_are_refused():
    def nested(n):
        begin = (SEQUENCE + UNDEFINED + ITEM + UNDEFINED) * n
        return begin + (ITEM_END + bytes(4) + SEQUENCE_END + bytes(4)) * n

    assert decode(with_header(nested(50))).size == (64, 64)
    with pytest.raises(ImageDecodeError, match="nested too deep"):
        decode(with_header(nested(5000)))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="limits of the system")
def test_headers_that_take_long_to_read_are_refused():
    items = (ITEM + bytes(4)) * 500_000
    data = with_header(SEQUENCE + UNDEFINED + items + SEQUENCE_END + bytes(4))
    with pytest.raises(ImageDecodeError, match="takes too long to read"):
        decode(data)


@pytest.mark.parametrize(
    ("package", "syntax"),
    [("pydicom", pydicom.uid.ExplicitVRLittleEndian), ("gdcm", pydicom.uid.JPEGLosslessSV1)],
)
def test_without_the_extra_the_error_says_which(package, syntax, tmp_path, monkeypatch):
    """Not an ImageDecodeError: the file is not to blame, and no row is to be passed over."""
    scan = file_of(syntax, LOSSLESS_JPEG if syntax.is_encapsulated else bytes(4096))
    (tmp_path / f"{package}.py").write_text("raise ImportError('not here')")
    feat = PretrainedFeatureExtractor("squeezenet1_1", weights=None, on_error="nan").fit([scan])
    _dicom._POOL.close()  # its helpers have the old path
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        patch.setitem(sys.modules, package, None)
        with pytest.raises(MissingDependencyError, match=rf"'{package}'.*sktransfer\[medical\]"):
            feat.transform([scan])
    _dicom._POOL.close()


# Frame header alone: enough to ask for a decoder.
LOSSLESS_JPEG = b"\xff\xd8\xff\xc3\0\x0b\x08\0\x40\0\x40\x01\x01\x11\0\xff\xd9"


def test_limits_are_those_of_the_configuration(monkeypatch):
    monkeypatch.setattr(_config, "MAX_IMAGE_PIXELS", 4000)
    with pytest.raises(ImageDecodeError, match="4,000 that are accepted"):
        decode(file_of(pydicom.uid.ExplicitVRLittleEndian, bytes(4096)))
    assert issubclass(MissingDependencyError, ImportError)
