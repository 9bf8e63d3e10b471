"""check_images: what is wrong with a set of images, before anything is trained on it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from joblib import effective_n_jobs
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_consistent_length, column_or_1d

from sktransfer._images import DicomOptions, EncodedImage, as_image_source, encoded_kind
from sktransfer._utils.identifiers import read_groups
from sktransfer._utils.multilabel import is_multilabel, read_indicators
from sktransfer._utils.per_row import as_column
from sktransfer._utils.threads import DecodingThreads
from sktransfer.datasets._audit import LabelAudit, audit_labels
from sktransfer.datasets._near_duplicates import gray_thumbnail, near_copies
from sktransfer.exceptions import ImageDecodeError

_COLUMNS = ["row", "source", "finding", "detail"]

# Between the 1st and the 99th percentile of an image worth looking at lies more of black to white.
_FLAT = 0.05
# A format or mode of at most this part of the images is odd.
_RARE = 0.05
# A shorter side this many times the median's, or one of that, is odd; so is an image this many
# times as elongated as the median.
_SIDE, _ELONGATION = 4.0, 2.0

# So much of the height or of the area in one color, or of rows that are all the same, is odd; black
# and white are what borders and backgrounds are made of, and are odd where they begin in a row.
_REPEATED, _UNIFORM = 0.05, 0.1
# Parts of an image that are looked at for a single color, along each side.
_CELLS = 24
# A pixel is like a color that is so many levels of 0 to 255 away.
_APART = 16

_TRUNCATED = re.compile(
    r"truncated|[Pp]remature|cut short|[Nn]ot enough|unexpected end|ended|end of file"
)


# Row, kind and detail.
_Finding: TypeAlias = tuple[int, str, str]


def check_images(
    X: Any,
    y: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    *,
    image_shape: tuple[int, ...] | None = None,
    value_range: Any = None,
    dicom: DicomOptions | None = None,
    near_duplicates: bool = False,
    label_audit: LabelAudit | bool = False,
    n_jobs: int | None = None,
    verbose: int = 1,
) -> pd.DataFrame:
    """Look for what spoils a study before it begins.

    Every image is decoded once. Found are:

    - ``unreadable`` and ``truncated`` rows, with the reason;
    - ``constant`` and ``near-constant`` images (the middle 98 % of levels within 5 % of the
      range);
    - ``repeated rows`` (at least 5 % of the height, at the beginning or end, are the same row,
      other than black or white; or rows of one color begin or end in the middle of a row) and a
      ``uniform area`` (at least 10 % of the image in one color, other than black or white): what
      is left of an image that was cut or overwritten before it was saved in this format, which no
      decoder can tell. Drawings have them too: look at these images;
    - an ``odd size`` (shorter side more than 4 times the median's, or less than a quarter of it),
      an ``odd shape`` (longer over shorter side more than twice the median's), an ``odd format``
      or ``odd mode`` (that of at most 5 % of the images, when most have another);
    - a ``duplicate``: the very same pixels in an earlier row, however they are encoded. With
      ``y``, a ``conflicting duplicate`` has another label there, and with ``groups`` a ``duplicate
      across groups`` belongs to another patient: split by patient, it may be in both parts;
    - with ``near_duplicates``, a ``near duplicate``: a copy that was saved again, cropped, scaled,
      mirrored, turned by a few degrees or made brighter (see :ref:`label-audit`). It may be a
      ``conflicting near duplicate`` or a ``near duplicate across groups``, too;
    - with ``label_audit``, a ``suspected label``: another class is more probable, the most
      suspicious first. Look at it; most suspected labels of a good set are right (see
      :ref:`label-audit`);
    - a ``group in several classes``: a patient whose images have different labels. That may be
      right, for a disease that comes and goes, or a mistake; the split has to know it.

    Parameters
    ----------
    X : array-like, DataFrame, Series or sequence of images, n rows
        One image a row, in any of the :ref:`accepted forms <accepted-inputs>`.
    y : array-like of shape (n,) or (n, n_labels), or None, default=None
        Class labels.
    groups : array-like of shape (n,) or None, default=None
        What each image belongs to, such as its patient.
    image_shape : tuple of int or None, default=None
        Shape (height, width) or (height, width, channels) of one image in a 2-D ``X``.
    value_range : (float, float), "dtype", "percentile", ("percentile", low, high) or None, \
            default=None
        Values that are black and white, as in :class:`~sktransfer.PretrainedFeatureExtractor`.
    dicom : DicomOptions or None, default=None
        How DICOM files are shown. None: the defaults of
        :class:`~sktransfer.preprocessing.DicomOptions`.
    near_duplicates : bool, default=False
        Whether to look for edited copies, too. It takes about 40 ms an image, and its square from
        some ten thousand images on.
    label_audit : LabelAudit or bool, default=False
        Result of :func:`audit_labels`, or True to audit labels with its defaults, which embeds the
        images.
    n_jobs : int or None, default=None
        Threads that decode. None: 1.
    verbose : int, default=1
        Whether a summary is printed: 0 prints none.

    Returns
    -------
    DataFrame
        A row per finding: "row" (position in ``X``; the first one of a group), "source" (file name
        or kind), "finding", "detail". Empty if nothing was found.

    See Also
    --------
    load_image_folder : Read a folder of images.
    audit_labels : Find labels that are probably wrong.
    sktransfer.model_selection.check_leakage : Compare a training and a test set.

    Examples
    --------
    >>> import numpy as np
    >>> from sktransfer.datasets import check_images
    >>> X = np.random.default_rng(0).integers(0, 256, (6, 16, 16), dtype=np.uint8)
    >>> X[2] = 7
    >>> X[5] = X[0]
    >>> found = check_images(X, y=[0, 1, 0, 1, 0, 1], groups=list("aabbcc"))
    6 images checked.
      1 constant
      1 conflicting duplicate
      3 group in several classes
    >>> found["detail"].tolist()[1]
    'same pixels as row 0, labels 1 and 0; other group'
    """
    source = as_image_source(X, image_shape=image_shape, value_range=value_range, dicom=dicom)
    several = is_multilabel(y)
    labels = _as_texts(y) if several else None if y is None else column_or_1d(as_column(y))
    who = None if groups is None else read_groups(groups)
    check_consistent_length(source, *(each for each in (labels, who) if each is not None))
    if label_audit is True:
        if y is None or dicom is not None:
            raise ValueError(
                "label_audit=True needs labels, and images without dicom=. Otherwise call "
                "audit_labels, and pass what it returns."
            )
        form = {"image_shape": image_shape, "value_range": value_range, "n_jobs": n_jobs}
        label_audit = audit_labels(X, y, groups, near_duplicates=False, **form)

    def look(row: int) -> dict[str, Any]:
        try:
            return {"row": row, **_look(source.open(row), near_duplicates)}
        except ImageDecodeError as error:
            return {"row": row, "error": error.reason}

    with DecodingThreads(effective_n_jobs(n_jobs)) as pool:
        looks = list(pool.map(look, range(len(source))))
    readable = [look for look in looks if "error" not in look]
    found = [
        *_broken([look for look in looks if "error" in look]),
        *_flat(readable),
        *_filled(readable),
        *_odd(readable),
        *_duplicates(readable, labels, who),
        *(_near(readable, labels, who) if near_duplicates else ()),
        *_suspected(label_audit),
        *_mixed_groups(None if several else labels, who),  # findings come and go
    ]
    frame = pd.DataFrame(
        [(row, source.describe(row), finding, detail) for row, finding, detail in found],
        columns=_COLUMNS,
    )
    if verbose:
        print(_summary(frame, len(source)))
    return frame


def _look(encoded: EncodedImage, near: bool) -> dict[str, Any]:
    """Return what is kept of an image once it has been looked at."""
    image = encoded.decode()
    values = np.asarray(image)
    digest = blake2b(f"{values.dtype}{values.shape}".encode(), digest_size=16)
    digest.update(values.tobytes())
    gray = values if values.ndim == 2 else values.mean(axis=2)
    low, high = np.percentile(gray, (1, 99)) / (255 if values.dtype == np.uint8 else 1)
    format_, mode = encoded_kind(encoded.content)
    return {
        "digest": digest.digest(),
        "size": (values.shape[1], values.shape[0]),
        "spread": float(high - low),
        "constant": bool((values == values[0, 0]).all()),
        "rows": _repeated_rows(values),
        "area": _uniform_area(values),
        "format": format_,
        "mode": mode,
        **({"thumbnail": gray_thumbnail(image)} if near else {}),
    }


def _broken(looks: Sequence[dict[str, Any]]) -> Iterator[_Finding]:
    for look in looks:
        kind = "truncated" if _TRUNCATED.search(look["error"]) else "unreadable"
        yield look["row"], kind, look["error"]


def _flat(looks: Sequence[dict[str, Any]]) -> Iterator[_Finding]:
    for look in looks:
        if look["constant"]:
            yield look["row"], "constant", "every pixel is the same"
        elif look["spread"] < _FLAT:
            detail = f"98 % of levels within {look['spread']:.1%} of the range"
            yield look["row"], "near-constant", detail


def _filled(looks: Sequence[dict[str, Any]]) -> Iterator[_Finding]:
    for look in looks:
        if look["rows"] and not look["constant"]:
            yield look["row"], "repeated rows", look["rows"]
        elif look["area"] and not look["constant"]:
            yield look["row"], "uniform area", look["area"]


def _repeated_rows(values: np.ndarray) -> str | None:
    """Say which rows are as decoders and zeroed files fill what is missing."""
    values = values.reshape(*values.shape[:2], -1)
    height, width = values.shape[:2]
    same = (values[1:] == values[:-1]).all(axis=(1, 2))
    ends = [0, *(np.flatnonzero(~same) + 1).tolist(), height]  # where a run of equal rows begins
    top = 255 if values.dtype == np.uint8 else 1
    for begin, end in pairwise(ends):
        n = end - begin
        if n < max(4, _REPEATED / 2 * height) or n == height:
            continue
        row = values[begin]
        color = row[0]
        uniform = bool((row == color).all())
        plain = uniform and _is_plain(color, top)
        if n >= _REPEATED * height and (begin == 0 or end == height) and not plain:
            return f"rows {begin} to {end - 1} of {height} are the same"
        for next_to, beyond in ((begin - 1, begin - 2), (end, end + 1)):
            if not (uniform and 0 <= beyond < height):
                continue
            for step in (-1, 1):  # a file may be upside down
                filled = (values[next_to, ::step] == color).all(axis=1)
                long = width if filled.all() else int(filled.argmin())
                further = values[beyond, ::step][:long]
                if 8 <= long <= width - 8 and _is_apart(further, color, top):
                    return f"{n} rows of one color begin or end in the middle of row {next_to}"
    return None


def _is_plain(color: Any, top: int) -> bool:
    """Return whether a color is black or white, as borders and backgrounds are."""
    levels, rim = np.asarray(color, dtype=float), _APART / 255 * top
    return bool((levels <= rim).all() or (levels >= top - rim).all())


def _is_apart(pixels: np.ndarray, color: np.ndarray, top: int) -> bool:
    """Return whether hardly a pixel is like a color."""
    apart = np.abs(pixels.astype(float) - color.astype(float)).max(axis=1) > _APART / 255 * top
    return bool(apart.mean() > 0.9)


def _uniform_area(values: np.ndarray) -> str | None:
    """Say which color other than black and white makes up much of an image."""
    values = values.reshape(*values.shape[:2], -1)
    side = max(4, min(values.shape[:2]) // _CELLS)
    rows, columns = values.shape[0] // side, values.shape[1] // side
    if rows * columns < 16:
        return None
    cells = values[: rows * side, : columns * side].reshape(rows, side, columns, side, -1)
    first = cells[:, :1, :, :1]
    uniform = (cells == first).all(axis=(1, 3, 4))
    top = 255 if values.dtype == np.uint8 else 1
    colors = Counter(tuple(color) for color in first[:, 0, :, 0][uniform].tolist())
    for color, n in colors.most_common():
        if not _is_plain(color, top):
            share = n / (rows * columns)
            return f"{share:.0%} in one color, {color}" if share >= _UNIFORM else None
    return None


def _odd(looks: Sequence[dict[str, Any]]) -> Iterator[_Finding]:
    if not looks:
        return
    sizes = np.array([look["size"] for look in looks], dtype=float)
    shorter, elongation = sizes.min(axis=1), sizes.max(axis=1) / sizes.min(axis=1)
    usual_side, usual_elongation = np.median(shorter), np.median(elongation)
    for look, side, elongated in zip(looks, shorter, elongation, strict=True):
        row, (width, height) = look["row"], look["size"]
        if max(side / usual_side, usual_side / side) > _SIDE:
            detail = f"{width} x {height}; the median shorter side is {usual_side:g}"
            yield row, "odd size", detail
        if elongated > _ELONGATION * usual_elongation:
            detail = f"{width} x {height}; the median is {usual_elongation:.2f} to 1"
            yield row, "odd shape", detail
    for what in ("format", "mode"):
        counts = Counter(look[what] for look in looks)
        usual, _ = counts.most_common(1)[0]
        for look in looks:
            own = look[what]
            if own != usual and counts[own] <= max(1, _RARE * len(looks)):
                yield look["row"], f"odd {what}", f"{own}; most are {usual}"


def _duplicates(
    looks: Sequence[dict[str, Any]], y: np.ndarray | None, groups: np.ndarray | None
) -> Iterator[_Finding]:
    first: dict[bytes, int] = {}
    for look in looks:
        row = look["row"]
        earlier = first.setdefault(look["digest"], row)
        if earlier == row:
            continue
        yield _copy(row, earlier, "duplicate", "same pixels as", y, groups)


def _near(
    looks: Sequence[dict[str, Any]], y: np.ndarray | None, groups: np.ndarray | None
) -> Iterator[_Finding]:
    unique = list({look["digest"]: look for look in reversed(looks)}.values())[::-1]
    if not unique:
        return
    pairs = near_copies(
        np.stack([look["thumbnail"] for look in unique]),
        np.array([look["size"] for look in unique]),
    )
    for pair in pairs.itertuples():
        row, earlier = unique[pair.row]["row"], unique[pair.duplicate_of]["row"]
        how = f"correlation {pair.correlation:.3f}{', mirrored' * pair.mirrored}, with"
        yield _copy(row, earlier, "near duplicate", how, y, groups)


def _copy(
    row: int,
    earlier: int,
    kind: str,
    how: str,
    y: np.ndarray | None,
    groups: np.ndarray | None,
) -> _Finding:
    """Say that a row is a copy, and what is wrong with that."""
    other = groups is not None and groups[row] != groups[earlier]
    detail = f"{how} row {earlier}"
    if y is not None and y[row] != y[earlier]:
        detail += f", labels {y[row]} and {y[earlier]}{'; other group' * other}"
        return row, f"conflicting {kind}", detail
    return row, f"{kind} across groups" if other else kind, detail


def _as_texts(y: Any) -> np.ndarray:
    """Return several labels a row as one text, "Effusion, Mass?" where the mass is unknown."""
    matrix, names = read_indicators(y)
    texts = [
        ", ".join(
            f"{name}{'?' * bool(np.isnan(value))}"
            for name, value in zip(names.tolist(), row, strict=True)
            if value != 0
        )
        for row in matrix
    ]
    return np.array(texts, dtype=object)


def _suspected(audit: LabelAudit | bool) -> Iterator[_Finding]:
    if not isinstance(audit, LabelAudit):
        return
    for each in audit.table[audit.table["suspected"]].itertuples():
        yield each.row, "suspected label", f"{each.given}; {each.suggested}? ({each.score:.2f})"


def _mixed_groups(y: np.ndarray | None, groups: np.ndarray | None) -> Iterator[_Finding]:
    if y is None or groups is None:
        return
    table = pd.DataFrame({"y": y, "group": groups})
    for name, rows in table.groupby("group", sort=False):
        counts = rows["y"].value_counts(sort=False)
        if len(counts) > 1:
            each = ", ".join(f"{n} of class {label}" for label, n in counts.items())
            yield int(rows.index[0]), "group in several classes", f"group {name}: {each}"


def _summary(frame: pd.DataFrame, n: int) -> str:
    """Return numbers only: summaries end up in logs, and a file may be named after a patient."""
    lines = [f"{n} images checked."]
    counts = frame["finding"].value_counts(sort=False)
    lines += [f"  {count} {finding}" for finding, count in counts.items()]
    return "\n".join(lines if len(counts) else ["".join([lines[0], " Nothing was found."])])
