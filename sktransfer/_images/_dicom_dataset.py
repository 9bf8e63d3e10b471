"""A pydicom ``Dataset`` of the user's as the bytes of a file; it must not decode any.

pydicom is imported where a row shows that the user has done so.
"""

from __future__ import annotations

import io
import sys
from typing import Any

from sktransfer.exceptions import ImageDecodeError

# Groups of a dataset that say what its pixels look like; nobody's name is among them.
_PIXEL_GROUPS = (0x0028, 0x2050, 0x5200, 0x7FE0)


def is_dataset(row: Any) -> bool:
    """Whether a row is a pydicom ``Dataset``."""
    pydicom = sys.modules.get("pydicom")  # not imported: then it cannot be
    return pydicom is not None and isinstance(row, pydicom.Dataset)


def dataset_bytes(dataset: Any) -> bytes:
    """A pydicom ``Dataset`` as a file of its pixels and what they need, without the patient.

    Raises
    ------
    ImageDecodeError
        If it cannot be written.
    """
    import pydicom

    kept = pydicom.Dataset()
    try:
        for tag in dataset.keys():  # noqa: SIM118 - it iterates over elements
            if tag.group in _PIXEL_GROUPS:
                kept.add(dataset[tag])
        given = getattr(dataset, "file_meta", None)
        syntax = None if given is None else given.get("TransferSyntaxUID")
        if syntax is None:
            implicit, little = dataset.original_encoding
            syntax = (
                pydicom.uid.ImplicitVRLittleEndian
                if implicit
                else pydicom.uid.ExplicitVRLittleEndian
                if little in (None, True)
                else pydicom.uid.ExplicitVRBigEndian
            )
        kept.preamble = bytes(128)
        kept.file_meta = pydicom.dataset.FileMetaDataset()
        kept.file_meta.TransferSyntaxUID = syntax
        file = io.BytesIO()
        kept.save_as(file, enforce_file_format=False)
    except Exception as exc:  # a dataset may hold anything
        raise ImageDecodeError(f"this pydicom Dataset cannot be read: {exc}") from exc
    return file.getvalue()
