"""DicomOptions and DicomFrame: what is wanted of a DICOM file. It must not read any."""

from __future__ import annotations

import os
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar

from sklearn.base import BaseEstimator

from sktransfer._utils.sklearn_compat import StrOptions, validate_parameter_constraints

# Part of every digest: raised when the same file and options come to give other pixels.
_VERSION = 1


class DicomOptions(BaseEstimator):
    """How DICOM files are shown: which frame, through which window.

    An object of parameters: it is given to an estimator as ``dicom``, and a search reaches into it
    with ``dicom__window``. Files of other formats are not concerned.

    Read more in the :ref:`User Guide <dicom>`.

    Parameters
    ----------
    frame : int or "middle", default=0
        Frame of files that have several; negative numbers count from the last.
    window : (float, float) or None, default=None
        Center and width, in the units of the modality (Hounsfield units for CT), instead of what
        the file says: ``(40, 400)`` for soft tissue. What lies outside is black or white.
    voi : bool, default=True
        Whether the file's own VOI table or window is applied. Without, or where the file has none,
        its values are scaled from the lowest to the highest that its bits can hold, or by
        ``value_range`` of the estimator.
    voi_index : int, default=0
        Which, of several that a file has.
    prefer_lut : bool, default=True
        Of a table and a window, take the table.

    See Also
    --------
    sktransfer.datasets.dicom_table : One row per file of a folder.

    Examples
    --------
    >>> from sktransfer import PretrainedFeatureExtractor
    >>> from sktransfer.preprocessing import DicomOptions
    >>> lungs = DicomOptions(window=(-600, 1500))
    >>> PretrainedFeatureExtractor("resnet18", dicom=lungs).get_params()["dicom__window"]
    (-600, 1500)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "frame": [Integral, StrOptions({"middle"})],
        "window": [tuple, list, None],
        "voi": ["boolean"],
        "voi_index": [Integral],
        "prefer_lut": ["boolean"],
    }

    def __init__(
        self,
        *,
        frame: int | str = 0,
        window: tuple[float, float] | None = None,
        voi: bool = True,
        voi_index: int = 0,
        prefer_lut: bool = True,
    ) -> None:
        self.frame = frame
        self.window = window
        self.voi = voi
        self.voi_index = voi_index
        self.prefer_lut = prefer_lut

    def check(self) -> dict[str, Any]:
        """The parameters as plain values.

        Raises
        ------
        ValueError
            If one makes no sense; the message says what would.
        """
        validate_parameter_constraints(
            self._parameter_constraints, self.get_params(deep=False), type(self).__name__
        )
        window = None if self.window is None else _check_window(self.window)
        if self.voi_index < 0:
            raise ValueError(f"voi_index counts from 0; got {self.voi_index}.")
        return {
            "frame": self.frame if isinstance(self.frame, str) else int(self.frame),
            "window": window,
            "voi": bool(self.voi),
            "voi_index": int(self.voi_index),
            "prefer_lut": bool(self.prefer_lut),
        }

    @property
    def fingerprint(self) -> str:
        """A text that is equal if and only if the pixels are."""
        return f"dicom{(_VERSION, *sorted(self.check().items()))}"


def _check_window(window: Any) -> tuple[float, float]:
    valid = len(window) == 2 and all(isinstance(value, Real) for value in window)
    if not valid or not window[1] >= 1:
        raise ValueError(
            f"window is (center, width) with a width of at least 1, for example (40, 400); got "
            f"{window!r}."
        )
    return float(window[0]), float(window[1])


@dataclass(frozen=True)
class DicomFrame(os.PathLike):
    """One frame of a DICOM file, as a row of ``X``; it overrides ``DicomOptions.frame``.

    Parameters
    ----------
    path : str
    frame : int

    Examples
    --------
    >>> import os
    >>> from sktransfer._images import DicomFrame
    >>> os.fspath(DicomFrame("heart.dcm", 3))
    'heart.dcm'
    """

    path: str
    frame: int

    def __fspath__(self) -> str:
        return os.fspath(self.path)
