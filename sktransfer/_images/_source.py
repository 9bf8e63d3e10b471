"""Rows of ``X``, one image each: opened once, hashed before decoding; some of them, or views."""

from __future__ import annotations

import copy
import io
import os
import secrets
import stat
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sktransfer._images._decode import (
    decode_bytes,
    image_to_image,
    orientation,
    refuse_truncated_loading,
    tiff_scale,
)
from sktransfer._images._dicom import DicomFrame, DicomOptions, dataset_bytes
from sktransfer._images._formats import is_dicom
from sktransfer._images._preprocess import Preprocessing
from sktransfer._images._rows import (
    is_file,
    is_instance,
    is_missing,
    is_opener,
    is_record,
    rows_of,
    unwrapped,
)
from sktransfer._images._sizes import FREE_MEMORY, bytes_to_convert, check_size
from sktransfer._images._values import (
    CHANNELS,
    OTHER_CHANNELS,
    DecodedImage,
    Percentiles,
    ValueScale,
    array_to_image,
    not_numeric,
    tensor_to_row,
)
from sktransfer._utils import config as _config
from sktransfer._utils.forking import new_lock
from sktransfer._utils.names import quoted, shown, without_credentials
from sktransfer._utils.versions import decoder_versions
from sktransfer.exceptions import ImageDecodeError, SkTransferError

# Two rows may be one Pillow object, and loading one is not safe in two threads at once.
_LOADING = new_lock()

# What is assumed of a row whose size cannot be known before it is read.
_UNKNOWN_SIZE = 32 * 2**20
# Bytes of a file whose decoding takes about as long as to start a thread and wait for its turn.
_SMALL_FILE = 2**19
# How JPEG, PNG, GIF, WebP and BMP begin in base64.
_BASE64 = ("/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR", "Qk")


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """One row, read but not decoded.

    The digest is 16 bytes of blake2b over everything in this row that changes the decoded image.
    The content is the encoded file, the numbers with their channels last, or the loaded image.
    """

    digest: bytes
    content: bytes | np.ndarray | Image.Image
    value_range: ValueScale | None = None
    index: int | None = None  # position of the row, for messages
    source: str | None = None  # its file name or kind, for messages
    dicom: DicomOptions | None = None
    augmentation: Callable[[DecodedImage, int], DecodedImage] | None = None
    seed: int = 0  # which draw of the augmentation

    @property
    def key(self) -> bytes:
        """The digest, also of the versions of optional packages that decode this content."""
        if not isinstance(self.content, bytes):
            return self.digest
        versions = decoder_versions(self.content, is_dicom=is_dicom(self.content))
        if not versions:
            return self.digest
        return blake2b(self.digest + repr(versions).encode(), digest_size=16).digest()

    def decode(self, min_side: int | None = None) -> DecodedImage:
        """Return the image: a Pillow image of mode L or RGB, or float32 in [0, 1].

        With ``min_side`` an encoded JPEG may come at 1/2, 1/4 or 1/8 of its size, so long as its
        shorter side does not fall below this (``Preprocessing.min_decode_side``). An
        ImageDecodeError has the row's index and source.
        """
        content, scale = self.content, self.value_range
        try:
            if isinstance(content, bytes):
                image = decode_bytes(content, scale, min_side, self.dicom)
            elif isinstance(content, np.ndarray):
                image = array_to_image(content, scale)
            else:
                image = image_to_image(content, scale)
        except ImageDecodeError as exc:
            raise ImageDecodeError(exc.reason, self.index, self.source) from exc
        except MemoryError as exc:
            raise self._no_memory("decode", exc) from exc
        except SkTransferError:
            raise
        except Exception as exc:  # a Pillow image may contradict itself in any way
            reason = f"this image cannot be converted: {exc}"
            raise ImageDecodeError(reason, self.index, self.source) from exc
        if self.augmentation is None:
            return image
        try:
            return self.augmentation(image, self.seed)
        except MemoryError as exc:
            raise self._no_memory("augment", exc) from exc

    def prepare(self, preprocessing: Preprocessing) -> np.ndarray:
        """Return the image as the network wants it; a lack of memory is this row's error too."""
        try:
            return preprocessing(self.decode(preprocessing.min_decode_side))
        except ImageDecodeError:
            raise
        except MemoryError as exc:
            raise self._no_memory("prepare", exc) from exc
        except Exception as exc:  # a callable's own: say at which image
            exc.add_note(f"while preparing row {self.index} ({self.source})")
            raise

    def _no_memory(self, what: str, error: MemoryError) -> ImageDecodeError:
        content = self.content
        if isinstance(content, bytes):
            asked = str(error) or f"a file of {len(content):,} bytes"
        else:
            asked = f"{content.shape if isinstance(content, np.ndarray) else content.size} pixels"
        reason = f"there was not enough memory to {what} it ({asked}). {FREE_MEMORY}"
        return ImageDecodeError(reason, self.index, self.source)


@dataclass(eq=False, repr=False)
class ImageSource:
    """The rows of ``X``, one image each, in order; made by :func:`as_image_source`.

    Nothing is read before :meth:`open` is called, and a row that fails affects no other. Safe to
    use from several threads; picklable if its rows are.

    ``rows`` are paths, bytes, Pillow images, pydicom datasets, arrays (H, W[, C]) or tensors
    ([C,] H, W), or one array of shape (n, H, W[, C]). ``value_range`` is black and white of arrays
    and of files deeper than 8 bits; ``n_columns`` how many columns ``X`` has if it is
    two-dimensional, for scikit-learn's bookkeeping.
    """

    rows: Sequence[Any] | np.ndarray
    value_range: ValueScale | None = None
    n_columns: int | None = None
    dicom: DicomOptions | None = None
    # Bytes of the largest file that was opened elsewhere, as far as any were.
    _largest: int = field(default=0, init=False)

    # Whether a digest says what the image is, in another source too.
    lasting = True

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:  # no path, no pixel: it may end up in a log
        return f"{type(self).__name__}({len(self)} rows, value_range={self.value_range})"

    def number(self, i: int) -> int:
        """Return what row ``i`` is called in messages."""
        return i

    def describe(self, i: int) -> str:
        """Return a few words for messages: the file's name, or the kind of the row."""
        row = self.rows[i]
        if isinstance(row, np.ndarray | torch.Tensor):
            return "array" if isinstance(row, np.ndarray) else "tensor"
        if is_record(row) and row.get("path"):  # its bytes have no name
            row = row["path"]
        row = unwrapped(row)
        if isinstance(row, str | os.PathLike):
            path = os.fsdecode(row)
            return shown(Path(without_credentials(path) if "://" in path else path).name)
        if isinstance(row, bytes | bytearray | memoryview):
            return "bytes"
        if isinstance(row, Image.Image):
            return "PIL image"
        if is_opener(row):
            inside = isinstance(row, zipfile.Path)
            return shown(Path(row.name if inside else without_credentials(row.path)).name)
        if is_file(row):
            name = getattr(row, "name", None)  # a number where it was opened as one
            return shown(Path(name).name) if isinstance(name, str) else "file"
        return type(row).__name__

    def size(self, i: int) -> int:
        """Return about how many bytes opening row ``i`` will take, without reading it."""
        if isinstance(self.rows[i], np.ndarray):
            return 0  # it is there
        row = unwrapped(self.rows[i])
        try:
            if isinstance(row, str | os.PathLike):
                return os.stat(row).st_size
            if isinstance(row, zipfile.Path):
                return row.root.getinfo(row.at).file_size
        except (OSError, ValueError, KeyError):  # opening it will say what is wrong
            return 0
        if is_opener(row) and self._largest:
            # Asking for it would be another request. As the others: many at once hide the time
            # that an object store takes to answer.
            return 2 * self._largest
        if is_opener(row) or is_file(row) or is_instance(row, "pydicom", "Dataset"):
            return _UNKNOWN_SIZE
        return 0  # it is there

    def n_threads(self, most: int) -> int:
        """Return how many threads are to decode: none for one small image, which is faster."""
        return 0 if len(self) == 1 and self.size(0) <= _SMALL_FILE else most

    def open(self, i: int) -> EncodedImage:
        """Read row ``i`` and take its digest, without decoding it.

        An ImageDecodeError, if there is nothing to read, has the row's index and source.
        """
        i = range(len(self.rows))[i]
        row, dicom = self.rows[i], self.dicom
        if isinstance(row, DicomFrame):
            given = {} if dicom is None else dicom.get_params()
            dicom = DicomOptions(**{**given, "frame": row.frame})
        try:
            content, header, data = _read(row, self.value_range, dicom)
        except ImageDecodeError as exc:
            raise ImageDecodeError(exc.reason, i, self.describe(i)) from exc
        except MemoryError as exc:
            reason = f"there was not enough memory to read it. {FREE_MEMORY}"
            raise ImageDecodeError(reason, i, self.describe(i)) from exc
        if is_opener(row):
            self._largest = max(self._largest, len(data))
        digest = blake2b(header.encode(), digest_size=16)
        digest.update(data)
        source = self.describe(i)
        return EncodedImage(digest.digest(), content, self.value_range, i, source, dicom)


class _DerivedSource(ImageSource):
    """Images made of another source's rows; errors name them by their number there."""

    def __init__(self, source: ImageSource, rows: Sequence[int] | np.ndarray) -> None:
        super().__init__(rows, source.value_range)
        self._source = source

    def number(self, i: int) -> int:
        """Return what the original row is called in messages."""
        return self._source.number(int(self.rows[i]))

    def describe(self, i: int) -> str:
        """Return the source's description of the original row."""
        return self._source.describe(int(self.rows[i]))

    def size(self, i: int) -> int:
        """Return what opening the original row will take."""
        return self._source.size(int(self.rows[i]))


class ImageSelection(_DerivedSource):
    """Some rows of a source."""

    def open(self, i: int) -> EncodedImage:
        """Open the row in the source."""
        return self._source.open(int(self.rows[i]))


def portions(source: ImageSource, n: int) -> Iterator[ImageSelection]:
    """Yield all rows of a source, ``n`` at a time."""
    for low in range(0, len(source), n):
        yield ImageSelection(source, range(low, min(low + n, len(source))))


class ImageViews(_DerivedSource):
    """Several draws of each image: row ``i * n_views + k`` is draw ``k`` of row ``i``.

    A draw depends on the seed (not negative) and on the image's content, not on its row: the same
    images have the same views in every fold.
    """

    def __init__(self, source: ImageSource, augmentation: Any, n_views: int, seed: int) -> None:
        super().__init__(source, np.repeat(np.arange(len(source)), n_views))
        self._augmentation = augmentation
        self._n_views = n_views
        self.lasting = augmentation.fingerprint is not None
        self._header = repr(("view", augmentation.fingerprint, seed)).encode() + bytes([0])
        # There is no telling what a callable does: what it gave once is not what it gives again.
        self._token = b"" if self.lasting else secrets.token_bytes(16)

    def open(self, i: int) -> EncodedImage:
        """Read a row; its digest is of the image and the draw."""
        row, view = divmod(range(len(self))[i], self._n_views)
        encoded = self._source.open(row)
        drawn = self._header + encoded.digest + view.to_bytes(8, "little")
        return replace(
            encoded,
            digest=blake2b(drawn + self._token, digest_size=16).digest(),
            augmentation=self._augmentation,
            seed=int.from_bytes(blake2b(drawn, digest_size=8).digest(), "little"),
        )


def as_image_source(
    X: Any,
    *,
    image_shape: tuple[int, ...] | None = None,
    value_range: tuple[float, float] | tuple[str, float, float] | str | None = None,
    dicom: DicomOptions | None = None,
) -> ImageSource:
    """Return the rows of images in any accepted form of ``X``.

    The digest of a row is the same whichever way the same bytes or the same array come, so that
    copies of an image are recognized.

    ``X`` has one image a row:

    - a list, tuple, object array, Series, or one column of an array or DataFrame (of pandas, polars
      or pyarrow), of paths, ``bytes`` of encoded files, records of bytes and path, open files,
      Pillow images, pydicom datasets, arrays (H, W[, C]) or tensors ([C,] H, W). A string is
      always a path; nothing is fetched. Files in archives or elsewhere come as ``zipfile.Path`` or
      as ``OpenFile`` of the user's own ``fsspec.open``;
    - numbers of shape (n, H, W) or (n, H, W, C), C being 1, 3 or 4;
    - a tensor of shape (n, C, H, W);
    - numbers of shape (n, pixels), flattened rows of ``image_shape``, of which one may be -1; it is
      inferred for square gray or RGB images.

    ``value_range`` is black and white of arrays (not of booleans), and of gray files deeper than 8
    bits. None means 0 to 255 for integers, 0 to 65535 for uint16, 0 to 1 for floats, and for files
    what they declare; "dtype" all that an integer type can hold. Values outside are an error.
    "percentile" or ("percentile", low, high) scales each image by its own percentiles.
    """
    scale: ValueScale | None = None
    ends: tuple[float, ...] | None = None
    given: Any = (value_range,) if isinstance(value_range, str) else value_range
    match given:
        case None | Percentiles():
            scale = given
        case ("dtype",):
            scale = "dtype"
        case ("percentile",):
            scale = Percentiles()
        case ("percentile", Real() as low, Real() as high) if 0 <= float(low) < float(high) <= 100:
            scale = Percentiles(float(low), float(high))
        case (str(), *_):
            ends = ()
        case numbers:
            try:
                ends = tuple(float(number) for number in numbers)
            except (TypeError, ValueError):
                ends = ()
    if ends is not None:
        if len(ends) != 2 or not np.isfinite(ends).all() or ends[0] >= ends[1]:
            raise ValueError(
                "value_range must be None or two finite numbers (lowest, highest) with lowest < "
                'highest, for example (0, 4095), or one of "dtype" (all that an integer type can '
                'hold), "percentile" (each image from its 1st to its 99th percentile) and, with '
                f'other percentiles, ("percentile", 0.5, 99.5); got {value_range!r}.'
            )
        scale = (ends[0], ends[1])
    if dicom is not None:
        dicom.check()
    rows, n_columns = rows_of(X, image_shape, scale)
    return ImageSource(rows, scale, n_columns, dicom)


def _read(
    row: Any, scale: ValueScale | None, dicom: DicomOptions | None
) -> tuple[bytes | np.ndarray | Image.Image, str, Any]:
    """Return the content of one row, and what its digest is of: a header and a buffer."""
    if isinstance(row, np.ndarray | torch.Tensor):
        array = tensor_to_row(row) if isinstance(row, torch.Tensor) else row
        if np.ma.is_masked(array):
            raise ImageDecodeError("pixels of this array are masked; fill them: row.filled(value).")
        shape = array.shape
        if array.dtype.kind not in "buif":
            raise ImageDecodeError(not_numeric(array))
        if array.ndim not in (2, 3) or 0 in shape:
            raise ImageDecodeError(
                f"an array of shape {shape} is not an image; expected (height, width) or "
                "(height, width, channels), none of them 0."
            )
        if array.ndim == 3 and shape[2] not in CHANNELS:
            hint = " It looks channels-first: use array.transpose(1, 2, 0)."
            raise ImageDecodeError(
                f"an array of shape {shape} has {shape[2]} channels on its last axis; expected 1 "
                f"(gray), 3 (RGB) or 4 (RGBA).{hint if shape[0] in CHANNELS else OTHER_CHANNELS}"
            )
        if array.ndim == 3 and array.shape[2] == 1:  # the same image as (H, W)
            array = array[:, :, 0]
        header = f"array|{(array.dtype.str, array.shape, scale)!r}|"
        return array, header, np.ascontiguousarray(array)
    row = unwrapped(row)
    if isinstance(row, Image.Image):
        header = _pillow_header(row, scale)
        return row, header, row.tobytes()
    if isinstance(row, str | os.PathLike):
        data = read_file(row)
    elif isinstance(row, bytes | bytearray | memoryview):
        data = bytes(row)
    elif is_opener(row):
        data = _read_opened(row)
    elif is_file(row):
        data = _read_open_file(row)
    elif is_instance(row, "pydicom", "Dataset"):
        data = dataset_bytes(row)
    elif is_missing(row):
        raise ImageDecodeError(f"there is no image in this row (it holds {row!r}).")
    else:
        raise ImageDecodeError(
            f"a row must be a path, bytes, an open file, a Pillow image, a pydicom dataset, an "
            f"array or a tensor; got {type(row).__name__}."
        )
    # How DICOM files are shown concerns these alone.
    shown = (scale, (dicom or DicomOptions()).fingerprint) if is_dicom(data) else scale
    return data, f"file|{shown!r}|", data


def read_file(path: str | os.PathLike) -> bytes:
    """Return the content of a file.

    Raises ImageDecodeError if there is none, it is too long for an image, or it is a pipe or a
    device.
    """
    try:
        # A pipe would keep `open` waiting for a writer, and a device may never end.
        with open(path, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ImageDecodeError(f"{os.fsdecode(path)!r} is not a regular file.")
            if status.st_size > _config.MAX_FILE_BYTES:
                raise ImageDecodeError(
                    f"the file has {status.st_size:,} bytes, more than the "
                    f"{_config.MAX_FILE_BYTES:,} that are read."
                )
            return file.read()
    except (OSError, ValueError) as exc:  # ValueError: a NUL character in the name
        raise ImageDecodeError(_why_unread(os.fsdecode(path), exc)) from exc


def _why_unread(name: str, error: Exception) -> str:
    """Return what is wrong with a path that could not be read, or is none."""
    called = quoted(name)
    if name.startswith("data:") or (len(name) > 100 and name.startswith(_BASE64)):
        return (
            "this text is an image in base64, and strings are paths. Pass its bytes: "
            "base64.b64decode(text.split(',')[-1])."
        )
    if name.startswith("file:"):
        return (
            f"strings are paths, and {called} is an address. Pass the path in it: "
            "urllib.request.url2pathname(urllib.parse.urlsplit(address).path)."
        )
    if "://" in name[:12]:
        called = quoted(without_credentials(name))
        return (
            f"strings are paths and nothing is fetched: download {called} first, or pass what "
            "opens it, fsspec.open(address)."
        )
    if isinstance(error, FileNotFoundError):
        hint = "" if os.path.isabs(name) else " (relative to the working directory)."
        if name.startswith("~"):
            hint = " (~ is not replaced: use os.path.expanduser)."
        return f"no such file: {called}{hint}"
    text = str(error)
    return f"the file cannot be read: {error.strerror if len(text) > 500 else text}"  # type: ignore[attr-defined]


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _read_opened(row: Any) -> bytes:
    """Return the content of what the user's own library opens, in an archive or elsewhere."""
    limit, called = _config.MAX_FILE_BYTES, ""
    options: dict[str, Any] = {}
    if not isinstance(row, zipfile.Path):
        # An OpenFile notes what it has open, and several rows, or threads, may have the same one.
        row, options = copy.copy(row), row.fs.storage_options
        row.mode = "rb"
        called = f" ({quoted(without_credentials(row.full_name, options))})"
    failure: tuple[str, Exception | None] | None = None
    try:
        with row.open("rb") if isinstance(row, zipfile.Path) else row as file:
            data = file.read(limit + 1)
    except MemoryError:
        raise
    except Exception as exc:  # whatever that library raises
        said = without_credentials(str(exc), options)
        # With its cause the keys to a store, which a library may quote, would be in the traceback.
        failure = said, exc if said == str(exc) else None
    if failure is not None:  # raised here, it has no context, which some pickle with an error
        raise ImageDecodeError(f"the file cannot be read{called}: {failure[0]}") from failure[1]
    if len(data) > limit:
        raise ImageDecodeError(f"the file has more than the {limit:,} bytes that are read.")
    return data


def _read_open_file(file: Any) -> bytes:
    """Return the whole content of an open file, and leave it at the position where it was."""
    limit = _config.MAX_FILE_BYTES
    if getattr(file, "closed", False):
        raise ImageDecodeError("the file is closed. Open it again, or pass its path or its bytes.")
    if isinstance(file, io.TextIOBase):
        raise ImageDecodeError(
            "the file is open as text. Open it in binary mode: open(path, 'rb')."
        )
    try:
        with _LOADING:  # another row may be the same file
            position = file.tell()
            file.seek(0)
            data = file.read(limit + 1)
            file.seek(position)
    except MemoryError:
        raise
    except Exception as exc:  # a pipe or an answer of a server, which can be read once
        raise ImageDecodeError(
            f"the open file cannot be read from its start: {exc}. Pass its bytes, file.read()."
        ) from exc
    if len(data) > limit:
        raise ImageDecodeError(f"the file has more than the {limit:,} bytes that are read.")
    return bytes(data)


def _pillow_header(image: Image.Image, scale: ValueScale | None) -> str:
    """Load a Pillow image, and return what its digest is of besides its pixels."""
    needed = image.width * image.height * bytes_to_convert(image.mode, orientation(image) != 1)
    check_size(image.size, needed)
    if getattr(image, "tile", None):  # opened, but its pixels not read yet
        refuse_truncated_loading()
    try:
        with _LOADING:
            image.load()
    except (MemoryError, ImageDecodeError):
        raise
    except Exception as exc:  # a lazily opened file may turn out damaged in any way
        if getattr(getattr(image, "fp", None), "closed", True):
            raise ImageDecodeError(
                "the file of this Pillow image was closed before its pixels were read. Call "
                "image.load() inside the `with` block, or pass the path."
            ) from exc
        raise ImageDecodeError(f"damaged image: {exc}") from exc
    palette = image.getpalette("RGBA") if image.mode in ("P", "PA") else None
    header = (
        *(image.mode, image.size, image.format if image.mode == "I" else None),
        *(orientation(image), image.info.get("transparency"), palette, scale),
        *tiff_scale(image),
    )
    return f"image|{header!r}|"
