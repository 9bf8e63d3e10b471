"""A fitted NoveltyDetector as a file that holds what was learned, and no code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sktransfer._backbones import check_values
from sktransfer._base import NO_FAILED_ROWS
from sktransfer._extractor import PretrainedFeatureExtractor
from sktransfer._finetune._saving import OBJECTS, decode, encode, read_file, write_sealed
from sktransfer._moving import without_folders
from sktransfer._persistence import SCHEMA
from sktransfer._scoring.networks import layer_columns
from sktransfer._transfer._saving import blaming, find_networks, read_extractor, written_extractor
from sktransfer._version import __version__
from sktransfer.novelty._distances import StageDistance, stages_of
from sktransfer.novelty._drift import Reference

_OBJECTS = {**OBJECTS, PretrainedFeatureExtractor.__name__: PretrainedFeatureExtractor}
_KEYS = {
    *("schema", "sktransfer", "estimator", "params", "n_features_in", "feature_names_in"),
    *("extractor", "stage_widths", "stage_names", "offset", "n_units"),
}
_ARRAYS = ("_center", "_spread", "_scores")
_REFERENCE = ("rows", "unit", "center", "scale")


def save_detector(
    detector: Any, path: str | os.PathLike[str], *, store_weights: bool = False
) -> None:
    """Write a fitted detector; see ``NoveltyDetector.save``."""
    params = without_folders(detector.get_params(deep=False))
    names = getattr(detector, "feature_names_in_", None)
    entry: dict[str, Any] | None = None
    packed: dict[str, torch.Tensor] = {}
    if detector.extractor_ is not None:
        entry, packed = written_extractor(detector.extractor_, store_weights)
    header = {
        "schema": SCHEMA,
        "sktransfer": __version__,
        "estimator": type(detector).__name__,
        "params": {name: encode(value, name, _OBJECTS) for name, value in params.items()},
        "n_features_in": getattr(detector, "n_features_in_", None),
        "feature_names_in": None if names is None else list(names),
        "extractor": entry,
        "stage_widths": [own.stop - own.start for own in detector._stages],
        "stage_names": detector.stage_names_,
        "offset": detector.offset_,
        "n_units": detector._reference.n_units,
    }
    arrays = {name: getattr(detector, name) for name in _ARRAYS}
    for number, stage in enumerate(detector._fitted):
        arrays |= {f"{number}.{name}": array for name, array in stage.arrays.items()}
    arrays |= {f"reference.{n}": getattr(detector._reference, n) for n in _REFERENCE}
    tensors = {n: torch.from_numpy(np.ascontiguousarray(a)) for n, a in arrays.items()}
    write_sealed(path, header, tensors | packed, None)


def load_detector(
    cls: Any, path: str | os.PathLike[str], weights: Any, params: dict[str, Any]
) -> Any:
    """Read what :func:`save_detector` wrote, and find the network."""
    cls(**params)._validate_params()  # before the file is held to be at fault
    header, tensors, _ = read_file(cls, path, keys=_KEYS)
    check_values(tensors, path)
    with blaming(path):
        own = without_folders({n: decode(v, _OBJECTS) for n, v in header["params"].items()})
        detector = cls(**{**own, **params})
        detector._validate_params()
        detector._failed_rows, detector.extractor_ = NO_FAILED_ROWS, None
        if header["n_features_in"] is not None:
            detector.n_features_in_ = int(header["n_features_in"])
        if header["feature_names_in"] is not None:
            detector.feature_names_in_ = np.asarray(header["feature_names_in"], dtype=object)
        if header["extractor"] is not None:
            settings = {"on_error": detector.on_error}
            detector.extractor_ = read_extractor(header["extractor"], tensors, settings, detector)
        detector.offset_ = float(header["offset"])
        detector.stage_names_ = [str(name) for name in header["stage_names"]]
        detector._stages = stages_of([int(width) for width in header["stage_widths"]])
    if detector.extractor_ is not None:
        find_networks([detector.extractor_], weights, Path(path).absolute().parent)
    with blaming(path):
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        _read_arrays(detector, arrays, int(header["n_units"]))
    return detector


def _read_arrays(detector: Any, arrays: dict[str, np.ndarray], n_units: int) -> None:
    """Set what was learned; raise ValueError where shapes do not go together."""
    for name in _ARRAYS:
        setattr(detector, name, arrays[name])
    rows, unit, center, scale = (arrays[f"reference.{name}"] for name in _REFERENCE)
    detector._reference = Reference(rows, unit, center, scale, n_units)
    detector._fitted = [
        StageDistance({name: arrays[f"{number}.{name}"] for name in StageDistance.NAMES})
        for number in range(len(detector._stages))
    ]
    n_columns = detector._stages[-1].stop
    detector._scored(np.zeros((1, n_columns)))
    shapes = {detector._center.shape, detector._spread.shape, (len(detector.stage_names_),)}
    sound = shapes == {(len(detector._stages),)} and len(detector._reference.center) == n_columns
    if detector.extractor_ is not None:
        columns = [own for _, own in layer_columns(detector.extractor_)]
        sound = sound and columns == detector._stages
    if not sound or not len(detector._scores):
        raise ValueError("its arrays are not those of one detector.")
