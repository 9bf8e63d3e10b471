"""Results as DICOM: what a model says of an image as a structured report, its map as an image."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import numpy as np
import pandas as pd

from sktransfer._utils.config import import_optional
from sktransfer._utils.names import shown
from sktransfer._version import __version__
from sktransfer.deploy._identity import model_digest as digest_of
from sktransfer.deploy._predicting import (
    Predictions,
    class_names,
    decision_of,
    in_form_of,
    predictions_of,
)
from sktransfer.exceptions import ImageDecodeError
from sktransfer.inspection import saliency_maps
from sktransfer.inspection._estimator_images import as_shown, image_reader, images_of
from sktransfer.inspection._saliency import MOST_OPAQUE, WHITE_AT

# Codes of ours: designators of coding schemes that nobody registered begin with 99.
_SCHEME = "99SKTRANSFER"
_PRESENT, _ABSENT = ("52101004", "SCT", "Present"), ("2667000", "SCT", "Absent")
_PROCEDURE = ("363679005", "SCT", "Imaging procedure")
# What a report has to have, if empty, and sources often lack.
_MAY_BE_EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"),
    *("StudyDate", "StudyTime", "ReferringPhysicianName"),
)
_REQUIRED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_SERIES_NUMBER = 9900


def dicom_report(
    model: Any,
    source: Any,
    *,
    finding: tuple[str, str, str] | dict[Any, tuple[str, str, str]] | None = None,
    algorithm_name: str = "sktransfer",
    model_digest: str | None = None,
) -> Any:
    """Return what a model says of a DICOM image as a structured report.

    The report is a Comprehensive SR of the template TID 1500, "Measurement Report". It has the
    probability of the finding, the threshold from which on it is called present, the decision, and
    the name, version and digest of the model, and refers to the image. It belongs to the study and
    the patient of the image, whose modules are copied, and has unique identifiers of its own.

    Parameters
    ----------
    model : estimator
        Fitted classifier of images with ``predict_proba``.
    source : str, PathLike or pydicom.Dataset
        The DICOM image.
    finding : tuple of (value, scheme, meaning), dict or None, default=None
        Code of the finding that is looked for, such as ``("60046008", "SCT", "Pleural effusion")``.
        With several findings or classes, a dict with the code of each class. None: codes of a
        private scheme whose meaning is the name of the class.
    algorithm_name : str, default="sktransfer"
        What the model is called in the report.
    model_digest : str or None, default=None
        What identifies the model. None: a sha256 of its networks and of everything it has learned.

    Returns
    -------
    report : highdicom.sr.ComprehensiveSR
        A pydicom dataset; ``report.save_as(path)`` writes it.

    Raises
    ------
    MissingDependencyError
        If highdicom is not installed (extra ``medical``).
    ImageDecodeError
        If the image cannot be read.
    ValueError
        If ``source`` is no DICOM image that can be referred to, or ``finding`` names no class.

    See Also
    --------
    dicom_saliency : The map of an image as a secondary capture.
    prediction_log : A record of every prediction.

    Notes
    -----
    A model with a positive class and a threshold reports that class. Otherwise every class is
    reported, and the predicted one is present. A report is not verified: no person has seen it.

    References
    ----------
    DICOM PS3.16, "Content Mapping Resource", TID 1500 and TID 1501.

    Examples
    --------
    >>> import numpy as np
    >>> from pydicom import examples
    >>> from sktransfer import FineTuneClassifier
    >>> from sktransfer.deploy import dicom_report
    >>> rng = np.random.default_rng(0)
    >>> X = rng.integers(0, 256, size=(8, 32, 32), dtype=np.uint8)
    >>> clf = FineTuneClassifier(
    ...     "squeezenet1_1", weights=None, image_size=32, freeze_depth="all", random_state=0
    ... ).fit(X, ["ill", "well"] * 4)
    >>> report = dicom_report(clf, examples.get_path("mr"))
    >>> report.Modality, report.PatientID
    ('SR', '4MR1')
    """
    sr, hd = _highdicom("highdicom.sr"), _highdicom("highdicom")
    dataset = _referable(source)
    found = predictions_of(model, in_form_of(model, pd.Series([source], dtype=object)))
    if found.reasons[0]:
        raise ImageDecodeError(found.reasons[0], 0, _named(source))
    digest = digest_of(model) if model_digest is None else model_digest
    image = sr.SourceImageForMeasurementGroup(
        referenced_sop_class_uid=dataset.SOPClassUID,
        referenced_sop_instance_uid=dataset.SOPInstanceUID,
        referenced_frame_numbers=_frame(model, dataset),
    )
    algorithm = sr.AlgorithmIdentification(
        name=algorithm_name, version=f"sktransfer {__version__}", parameters=[f"model {digest}"]
    )
    groups = [
        sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(uid=hd.UID(), identifier=said["name"]),
            finding_type=sr.CodedConcept(*said["code"]),
            algorithm_id=algorithm,
            measurements=[_number(sr, name, said[name]) for name in _NUMBERS if name in said],
            qualitative_evaluations=[
                sr.QualitativeEvaluation(
                    name=sr.CodedConcept("decision", _SCHEME, "Decision"),
                    value=sr.CodedConcept(*(_PRESENT if said["present"] else _ABSENT)),
                )
            ],
            source_images=[image],
        )
        for said in _findings(model, found, finding)
    ]
    observer = sr.DeviceObserverIdentifyingAttributes(
        uid=hd.UID(), manufacturer_name="sktransfer", model_name=algorithm_name
    )
    context = sr.ObservationContext(
        observer_device_context=sr.ObserverContext(
            observer_type=sr.CodedConcept("121007", "DCM", "Device"),
            observer_identifying_attributes=observer,
        )
    )
    content = sr.MeasurementReport(
        observation_context=context,
        procedure_reported=sr.CodedConcept(*_PROCEDURE),
        imaging_measurements=groups,
    )
    with _names_as_they_are():
        return sr.ComprehensiveSR(
            evidence=[dataset], content=content, is_complete=True, is_final=True, **_instance(hd, 1)
        )


def dicom_saliency(
    model: Any, source: Any, *, y: Any = None, method: str = "gradient", **kwargs: Any
) -> Any:
    """Return a DICOM image with the map of a model drawn over it, as a secondary capture.

    The map is red where the score of the class depends on the image. The capture belongs to the
    study and the patient of the image, refers to it, and has unique identifiers of its own.

    Parameters
    ----------
    model : estimator
        Fitted classifier of images.
    source : str, PathLike or pydicom.Dataset
        The DICOM image.
    y : label or None, default=None
        The class whose score is explained. None: the predicted class.
    method : {"gradient", "integrated_gradients", "grad_cam", "occlusion"}, default="gradient"
        As for :func:`~sktransfer.inspection.saliency_maps`.
    **kwargs : dict
        Parameters of that method.

    Returns
    -------
    capture : highdicom.sc.SCImage
        A pydicom dataset; ``capture.save_as(path)`` writes it.

    Raises
    ------
    MissingDependencyError
        If highdicom is not installed (extra ``medical``).
    ImageDecodeError
        If the image cannot be read.
    ValueError
        If ``source`` is no DICOM image that can be referred to.

    See Also
    --------
    dicom_report : The decision as a structured report.

    Examples
    --------
    >>> import numpy as np
    >>> from pydicom import examples
    >>> from sktransfer import FineTuneClassifier
    >>> from sktransfer.deploy import dicom_saliency
    >>> rng = np.random.default_rng(0)
    >>> X = rng.integers(0, 256, size=(8, 32, 32), dtype=np.uint8)
    >>> clf = FineTuneClassifier(
    ...     "squeezenet1_1", weights=None, image_size=32, freeze_depth="all", random_state=0
    ... ).fit(X, ["ill", "well"] * 4)
    >>> capture = dicom_saliency(clf, examples.get_path("mr"))
    >>> capture.pixel_array.shape
    (64, 64, 3)
    """
    sc, hd = _highdicom("highdicom.sc"), _highdicom("highdicom")
    dataset = _referable(source)
    X = in_form_of(model, pd.Series([source], dtype=object))
    map_ = saliency_maps(model, X, None if y is None else [y], method=method, **kwargs)[0]
    image = as_shown(images_of(model, X).open(0).decode())
    if map_.shape != image.shape[:2]:
        raise ValueError(
            f"The map has {map_.shape} pixels and the image {image.shape[:2]}: with a callable "
            "preprocessing= nobody knows where in the image the network looks."
        )
    with _names_as_they_are():
        capture = sc.SCImage.from_ref_dataset(
            dataset,
            pixel_array=_overlaid(image, map_),
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            patient_orientation=("L", "P"),  # it wants one; what is known of it follows
            **_instance(hd, 2),
        )
    for name in ("PatientOrientation", "Laterality"):
        setattr(capture, name, dataset.get(name) or "")
    capture.ImageType = ["DERIVED", "SECONDARY"]
    capture.BurnedInAnnotation = dataset.get("BurnedInAnnotation") or "NO"
    capture.SeriesDescription = "Saliency map"
    capture.DerivationDescription = f"saliency map ({method}) by sktransfer {__version__}"
    referred = _pydicom().Dataset()
    referred.ReferencedSOPClassUID = dataset.SOPClassUID
    referred.ReferencedSOPInstanceUID = dataset.SOPInstanceUID
    frames = _frame(model, dataset)
    if frames is not None:
        referred.ReferencedFrameNumber = frames
    capture.SourceImageSequence = [referred]
    return capture


# What is measured: name in a finding -> (code, meaning).
_NUMBERS = {"probability": "Probability", "threshold": "Threshold of the probability"}


def _findings(model: Any, found: Predictions, codes: Any) -> list[dict[str, Any]]:
    """Return what is said of each class that is reported: probability, threshold, decision."""
    names, decision = class_names(model), decision_of(model)
    labels = list(names)
    reported = labels if decision is None else [decision[0]]
    if isinstance(codes, dict):
        unknown = [key for key in codes if key not in names and key not in names.values()]
        if unknown:
            raise ValueError(f"finding has {unknown}; the classes are {list(names.values())}.")
    elif codes is not None:
        if len(reported) > 1:
            raise ValueError(
                f"The model reports {len(reported)} classes, {list(names.values())}; give finding= "
                "a code for each, as a dict."
            )
        codes = {reported[0]: codes}
    predicted = found.labels[0]
    said = []
    for place, label in enumerate(labels):
        if label not in reported:
            continue
        name = names[label]
        own = (f"class {place}", _SCHEME, shown(name)[:64])
        code = tuple((codes or {}).get(label, (codes or {}).get(name, own)))
        if len(code) != 3 or not all(isinstance(part, str) and part for part in code):
            raise ValueError(f"finding of {name!r} has to be (value, scheme, meaning); got {code}.")
        present = bool(predicted[place]) if np.ndim(predicted) else bool(predicted == label)
        one = {"name": shown(name)[:64], "code": code, "present": present}
        one["probability"] = float(found.y_proba[0, place])
        if decision is not None:
            one["threshold"] = decision[1]
        said.append(one)
    return said


def _number(sr: Any, name: str, value: float) -> Any:
    """Return a measurement without a unit."""
    return sr.Measurement(
        name=sr.CodedConcept(name, _SCHEME, _NUMBERS[name]),
        value=value,
        unit=sr.CodedConcept("1", "UCUM", "no units"),
    )


def _highdicom(module: str) -> Any:
    return import_optional(module, extra="medical", purpose="Writing DICOM results")


@contextmanager
def _names_as_they_are() -> Iterator[None]:
    """Keep warnings of how the names of persons are written to those who wrote them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The string .* is unlikely to represent", UserWarning)
        yield


def _pydicom() -> Any:
    return import_optional("pydicom", extra="medical", purpose="Writing DICOM results")


def _instance(hd: Any, number: int) -> dict[str, Any]:
    """Return what makes an instance new."""
    return {
        "series_instance_uid": hd.UID(),
        "series_number": _SERIES_NUMBER + number,
        "sop_instance_uid": hd.UID(),
        "instance_number": 1,
        "manufacturer": "sktransfer",
    }


def _referable(source: Any) -> Any:
    """Return the header of a DICOM image, what may be empty filled in; raise if it names none."""
    pydicom = _pydicom()
    if isinstance(source, pydicom.Dataset):
        dataset = copy(source)
    else:
        try:
            dataset = pydicom.dcmread(source, stop_before_pixels=True)
        except pydicom.errors.InvalidDicomError as error:
            raise ValueError(
                f"{_named(source)} is no DICOM file, so nothing refers to it."
            ) from error
    missing = [name for name in _REQUIRED if not dataset.get(name)]
    if missing:
        raise ValueError(
            f"{_named(source)} has no {', '.join(missing)}; a result could not refer to it."
        )
    for name in _MAY_BE_EMPTY:
        if name not in dataset:
            setattr(dataset, name, "")
    return dataset


def _frame(model: Any, dataset: Any) -> list[int] | None:
    """Return the number of the frame that is looked at, where there are several; from 1."""
    n = int(dataset.get("NumberOfFrames") or 1)
    if n < 2:
        return None
    options = getattr(image_reader(model), "dicom", None)
    frame = 0 if options is None else options.frame
    return [n // 2 + 1 if frame == "middle" else frame % n + 1]


def _named(source: Any) -> str:
    named = isinstance(source, str | os.PathLike)
    return shown(os.path.basename(source)) if named else "the dataset"


def _overlaid(image: np.ndarray, map_: np.ndarray) -> np.ndarray:
    """Return an image (h, w, 3), uint8, that is red where the map is large."""
    strength = np.abs(np.nan_to_num(map_))
    most = float(np.percentile(strength, WHITE_AT)) or 1.0
    opacity = (MOST_OPAQUE * np.clip(strength / most, 0, 1))[:, :, None]
    drawn = (1 - opacity) * image + opacity * np.array([1.0, 0.0, 0.0])
    return (drawn * 255).round().astype(np.uint8)
