"""export_onnx: a fitted classifier of images as one file that onnxruntime runs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.utils import Bunch
from sklearn.utils.validation import check_is_fitted

from sktransfer._frozen import Calibration, calibration_on, digest_of_images, photographs
from sktransfer._images import Preprocessing, as_image_source
from sktransfer._utils.classes import names_of_model
from sktransfer._utils.sklearn_compat import decider
from sktransfer._utils.versions import versions_of
from sktransfer._utils.writing import new_file, written_whole
from sktransfer._version import __version__
from sktransfer.deploy._graph import OPSET, Graph, import_onnx, session_of
from sktransfer.deploy._heads import THRESHOLDS, Heads, cannot, threshold_of
from sktransfer.deploy._identity import model_digest
from sktransfer.deploy._networks import Networks
from sktransfer.deploy._predicting import findings_of, refers

# Images that a file is compared on where none are given, and how far its probabilities may be away
# from the estimator's in the median: more than rounding is a mistake.
_N_COMPARED, _TOLERANCE = 4, 1e-3
_PRECISIONS = ("auto", "float32", "int8")


def export_onnx(
    estimator: Any,
    path: str | os.PathLike[str],
    *,
    precision: str = "auto",
    calibration: Any = None,
    X: Any = None,
    y: Any = None,
) -> Bunch:
    """Write a fitted classifier of images to one ONNX file, from pixels to the decision.

    The file has a graph that resizes, crops and normalizes as the estimator does, runs the network,
    scales, classifies, calibrates and compares with the threshold. A program that reads it needs
    onnxruntime and a decoder of images, and neither torch nor scikit-learn. It is compared with the
    estimator before it is written.

    Read more in the :ref:`User Guide <onnx>`.

    Parameters
    ----------
    estimator : estimator instance
        A fitted :class:`~sktransfer.FineTuneClassifier` or :class:`~sktransfer.TransferClassifier`;
        or a Pipeline of :class:`~sktransfer.PretrainedFeatureExtractor`, scalers, and a linear,
        tree or other classifier that skl2onnx converts. It may be in
        :class:`~sklearn.calibration.CalibratedClassifierCV`,
        :class:`~sktransfer.model_selection.OperatingPointClassifier`, a classifier of scikit-learn
        with a threshold, or a search.
    path : path-like
        The file; ``.onnx`` is customary. Its folder is made if it does not exist.
    precision : {"auto", "float32", "int8"}, default="auto"
        What networks are computed in. "int8": in 8-bit integers, where onnxruntime is faster with
        them. "auto": "int8" for extractors that have it, else float32.
    calibration : sequence of images, default=None
        A hundred or so images like those to come, by which ranges of integers are chosen. None:
        those of the extractor (``calibration``), else cuts of two photographs.
    X : sequence of images, default=None
        Images to compare file and estimator on. None: four photographs.
    y : array-like of shape (n,), default=None
        Labels of ``X``, for the scores of both.

    Returns
    -------
    Bunch
        ``path``, ``precision``, ``opset`` and ``n_bytes`` of the file; ``n_compared`` images, the
        ``max_difference`` of their probabilities, and ``share_equal``, that of equal decisions; in
        integers ``times_as_fast``, measured here on the networks alone, with one thread: 2 or more
        for most of convolutions only;
        with ``y`` also ``score`` of the estimator and ``score_of_file``: the area under the ROC
        curve, or the accuracy for several classes.

    Raises
    ------
    ValueError
        If there is something that cannot be exported: the message names the step. If the file
        would compute other probabilities than the estimator. Or if ``path`` is a folder.
    OSError
        If the file cannot be written, such as in a read-only folder: before the export begins.
    MissingDependencyError
        If a package of the extra ``onnx`` is missing.

    Warns
    -----
    UserWarning
        If ``scaled_decoding`` is on, which is about files and not in the graph.

    Notes
    -----
    The input ``image`` is one decoded image, (height, width, 3) of uint8, of any size. Outputs are
    ``probabilities`` (1, n_classes), float32, and ``decision`` (1,), the position in the classes,
    int64. Classes, threshold, digests (of the weights, of the fitted model as the prediction log
    has it, and of the graph), preprocessing and versions are in the metadata of the model.

    Networks are computed in float32 whatever the extractor's precision was, unless in integers.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn.datasets import load_digits
    >>> from sktransfer import FineTuneClassifier, export_onnx
    >>> X, y = load_digits(n_class=2, return_X_y=True)
    >>> clf = FineTuneClassifier(
    ...     "squeezenet1_1", weights=None, image_size=32, freeze_depth="all", value_range=(0, 16)
    ... ).fit(X[:60], y[:60])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     made = export_onnx(clf, f"{folder}/digits.onnx")
    >>> made.opset, made.precision, made.max_difference < 1e-5
    (18, 'float32', True)
    """
    if precision not in _PRECISIONS:
        raise ValueError(
            f"precision must be one of {', '.join(map(repr, _PRECISIONS))}; got {precision!r}."
        )
    check_is_fitted(estimator)
    new_file(path, "path", "model.onnx")
    _refuse_other_targets(estimator)
    g = Graph()
    networks = Networks(g, precision, None if calibration is None else _calibrate(calibration))
    heads = Heads(g, networks)
    outputs = {
        "probabilities": g.cast(heads.response(estimator, "predict_proba"), np.float32),
        "decision": heads.predicted(estimator),
    }
    for name, value in outputs.items():
        g.rename(value, name)
    networks.add("image")
    n_classes = len(estimator.classes_)
    model = g.model(
        [("image", np.uint8, ["height", "width", 3])],
        [("probabilities", np.float32, [1, n_classes]), ("decision", np.int64, [1])],
        {},
    )
    digest = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    described = _metadata(estimator, networks) | {"digest": f"sha256:{digest}"}
    import_onnx().helper.set_model_props(model, described)
    data = model.SerializeToString()
    found = _compared(estimator, networks, data, X, y)
    with written_whole(path) as temporary:
        temporary.write_bytes(data)
    made = {"path": os.fspath(path), "precision": networks.precision, "opset": OPSET}
    if networks.faster:
        found["times_as_fast"] = min(networks.faster)
    return Bunch(**made, n_bytes=len(data), **found)


def _refuse_other_targets(estimator: Any) -> None:
    """Raise, naming the step, unless each row is predicted as one of several classes."""
    step = decider(estimator)
    if not hasattr(estimator, "classes_"):
        raise cannot(step, "it is no fitted classifier")
    if refers(estimator):
        raise cannot(step, "it leaves rows undecided, and the file always decides")
    lists = isinstance(estimator.classes_, list) or getattr(step, "multilabel_", False)
    if lists or findings_of(estimator) is not None:
        raise cannot(step, "it predicts several findings a row, and the file one class")


def _calibrate(images: Any) -> Callable[[Preprocessing], Calibration]:
    """Return what gives the calibration on some images for a preprocessing."""
    source = partial(as_image_source, images)
    return partial(calibration_on, source, digest_of_images(source()))


def _metadata(estimator: Any, networks: Networks) -> dict[str, str]:
    """Return what the file says of itself, as text or JSON."""
    labels = np.asarray(estimator.classes_).tolist()
    names = names_of_model(estimator) or {label: str(label) for label in labels}
    references = list(dict.fromkeys(reader.reference_ for reader in networks.readers))
    packages = ("onnx", "onnxscript", "skl2onnx", "onnxruntime", "scikit-learn")
    texts = {
        "sktransfer": __version__,
        "estimator": type(estimator).__name__,
        "model": model_digest(estimator),
        "precision": networks.precision,
        "opset": str(OPSET),
    }
    values: dict[str, Any] = {
        "classes": labels,
        "class_names": [names[label] for label in labels],
        "networks": [
            {"name": each.name, "weights": each.weights, "digest": each.digest}
            for each in references
        ],
        "preprocessing": [
            {name: value for name, value in asdict(each).items() if value is not None}
            for each in networks.preprocessings
        ],
        "versions": [*versions_of(*packages, network=(references[0].name, "torch"))],
    }
    inner = decider(estimator)
    if isinstance(inner, THRESHOLDS):
        _, threshold, column, method = threshold_of(inner)
        values["threshold"] = {"of": method, "class": labels[column], "at_least": threshold}
    return texts | {name: json.dumps(value, default=str) for name, value in values.items()}


def _compared(estimator: Any, networks: Networks, data: bytes, X: Any, y: Any) -> dict[str, Any]:
    """Return how far a file's predictions are from the estimator's; raise if it is a mistake."""
    images = [*photographs(_N_COMPARED)] if X is None else X
    session = session_of(data)
    source = as_image_source(images)
    parts = []
    for row in range(len(source)):
        image = source.open(row).decode()
        if isinstance(image, np.ndarray):
            raise ValueError(
                f"Row {row} of X has more than 8 bits, and an ONNX file takes images of 8 bits."
            )
        parts.append(session.run(None, {"image": np.asarray(image.convert("RGB"))}))
    y_proba, decisions = (np.concatenate(each) for each in zip(*parts, strict=True))
    expected = np.asarray(estimator.predict_proba(images))
    labels = np.asarray(estimator.classes_)[decisions]
    apart = np.abs(y_proba - expected).max(axis=1)
    exact = all(
        getattr(each, "precision", "") in ("float32", "float64") for each in networks.readers
    )
    if exact and networks.precision == "float32" and not np.median(apart) <= _TOLERANCE:
        raise ValueError(
            f"The ONNX file of this {type(estimator).__name__} would compute other probabilities, "
            f"by {np.median(apart):.2g} in the median of {len(apart)} images. It was not written."
        )
    found: dict[str, Any] = {
        "n_compared": len(apart),
        "max_difference": float(apart.max()),
        "share_equal": float(np.mean(labels == np.asarray(estimator.predict(images)))),
    }
    if y is not None:
        y, binary = np.asarray(y), len(estimator.classes_) == 2
        for name, rows in (("score", expected), ("score_of_file", y_proba)):
            if binary:
                found[name] = float(roc_auc_score(y == estimator.classes_[1], rows[:, 1]))
            else:
                likeliest = np.asarray(estimator.classes_)[rows.argmax(axis=1)]
                found[name] = float(accuracy_score(y, likeliest))
    return found
