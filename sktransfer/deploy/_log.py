"""A record of every prediction: when, by which model, of which image, with which result."""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import numpy as np

from sktransfer._utils.names import shown
from sktransfer._utils.sklearn_compat import _num_samples
from sktransfer._utils.versions import versions_by_name
from sktransfer._version import __version__
from sktransfer.deploy._identity import file_digest
from sktransfer.deploy._identity import model_digest as digest_of
from sktransfer.deploy._lines import PAGE, AppendedLines
from sktransfer.deploy._predicting import Predictions, class_names, decision_of, predictions_of
from sktransfer.exceptions import ImageDecodeError
from sktransfer.inspection._estimator_images import image_reader, images_of
from sktransfer.model_selection import OperatingPointClassifier, TriageClassifier
from sktransfer.model_selection._saved_threshold import load_with_threshold

_PACKAGES = ("scikit-learn", "torch", "torchvision", "numpy", "pillow")
# Of more classes than these the likeliest are logged, so that a line stays within a page.
_MOST_CLASSES = 20
# Messages have names in quotes; a name may have quotes in it too.
_QUOTED = re.compile(r"""['"].*['"]""", re.DOTALL)


def prediction_log(
    path: str | os.PathLike[str],
    model: Any,
    *,
    include_identifiers: bool = False,
    model_digest: str | None = None,
) -> LoggedModel:
    """Return a model whose predictions are written to a log before anybody sees them.

    The log is a text file of JSON lines to which one process or many append. Each prediction of an
    image is one line, which is on the disk when ``predict_proba`` or ``predict`` returns: after a
    crash, a kill or a power failure every line is whole, and no prediction that was returned is
    missing. Lines are never changed or removed. Images that cannot be read are logged as well.

    Parameters
    ----------
    path : str or PathLike
        The log, such as ``"log.jsonl"``; made if it does not exist. A file ``path + ".lock"`` next
        to it keeps processes from writing at once.
    model : estimator, str or PathLike
        Fitted classifier with ``predict_proba``, or the path of one that ``save`` wrote.
    include_identifiers : bool, default=False
        Whether lines also have ``name``, the name of the image's file. It may be a patient's.
    model_digest : str, default=None
        What identifies the model in the log. None: the sha256 of the file if ``model`` is a path,
        otherwise a sha256 of the networks in it and of everything that was learned.

    Returns
    -------
    LoggedModel
        The model with ``predict_proba``, ``predict`` and ``close``; a context manager. Its
        ``predictions(X)`` has both, and ``reasons`` why images cannot be read. All other attributes
        are those of ``model``. Several threads may use it.

    Raises
    ------
    ValueError
        If ``path`` is a folder.
    TypeError
        If ``model`` has no ``predict_proba``, or classes for each of several outputs.
    OSError
        If the log cannot be written, such as in a read-only folder: at once where that is known;
        later, no prediction is returned.

    See Also
    --------
    sktransfer.report.diagnostic_report : A report on a model and a test set.

    Notes
    -----
    A line has these fields:

    - ``time``: when the image was predicted, UTC, ISO 8601 with milliseconds;
    - ``model``: digest of the model;
    - ``input``: sha256 of the bytes of the image's file, as ``sha256sum`` prints it; of an array,
      ``blake2b:`` and the digest that the cache has; null if it cannot be read;
    - ``scores``: probability of each class by name (of more than 20, the likeliest), or null;
    - ``threshold``: the least probability of ``positive`` that is predicted as positive; null
      where the likeliest class is predicted;
    - ``decision``: the predicted class, or null;
    - ``novel``: whether the image is unlike those of the training, where the model has a detector
      of novelty; otherwise null;
    - ``error``: why the image could not be read, or null;
    - ``versions``: of sktransfer, scikit-learn, torch, torchvision, numpy and Pillow.

    A process that is killed while it writes leaves its last line whole or not at all, because a
    line never crosses the boundary of two pages of memory; spaces fill the rest of a page. On file
    systems of a network this depends on the server.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> import pandas as pd
    >>> from sktransfer import FineTuneClassifier
    >>> from sktransfer.deploy import prediction_log
    >>> rng = np.random.default_rng(0)
    >>> X = rng.integers(0, 256, size=(8, 32, 32), dtype=np.uint8)
    >>> y = np.array(["ill", "well"] * 4)
    >>> clf = FineTuneClassifier(
    ...     "squeezenet1_1", weights=None, image_size=32, freeze_depth="all", random_state=0
    ... ).fit(X, y)
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "log.jsonl"
    >>> with prediction_log(path, clf) as model:
    ...     labels = model.predict(X[:2])
    >>> log = pd.read_json(path, lines=True)
    >>> log["decision"].tolist() == labels.tolist()
    True
    """
    if isinstance(model, str | os.PathLike):
        digest = file_digest(model) if model_digest is None else model_digest
        model = load_with_threshold((OperatingPointClassifier, TriageClassifier), model, {})
    else:
        digest = digest_of(model) if model_digest is None else model_digest
    if not hasattr(model, "predict_proba"):
        raise TypeError(f"A {type(model).__name__} has no predict_proba, so no score to log.")
    if isinstance(model.classes_, list):
        raise TypeError(
            f"A {type(model).__name__} has classes for each of {len(model.classes_)} outputs. Log "
            "one classifier for each, or one of several labels (MultiLabelLogisticRegression)."
        )
    return LoggedModel(AppendedLines(path), model, digest, include_identifiers)


class LoggedModel:
    """A model that logs what it predicts; made by :func:`prediction_log`."""

    def __init__(
        self, lines: AppendedLines, model: Any, digest: str, include_identifiers: bool
    ) -> None:
        self._lines = lines
        self._model = model
        self._include_identifiers = include_identifiers
        decision = decision_of(model)
        names = class_names(model)
        self._names = [names[label] for label in np.asarray(model.classes_).tolist()]
        self._fixed = {
            "model": digest,
            "threshold": None if decision is None else decision[1],
            "positive": None if decision is None else names[decision[0]],
            "versions": {"sktransfer": __version__, **versions_by_name(*_PACKAGES)},
        }

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._model, name)

    def __enter__(self) -> LoggedModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the log."""
        self._lines.close()

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return what the model's ``predict_proba`` returns, logged."""
        found = self.predictions(X)
        return self._model.predict_proba(X) if any(found.reasons) else found.y_proba

    def predict(self, X: Any) -> np.ndarray:
        """Return what the model's ``predict`` returns, logged."""
        found = self.predictions(X)
        # It says in its own way which rows it cannot read.
        return self._model.predict(X) if any(found.reasons) else found.labels

    def predictions(self, X: Any) -> Predictions:
        """Predict all images that can be read, and log every row."""
        found = predictions_of(self._model, X)
        inputs, names = self._inputs(X, _num_samples(X))
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._lines.append(
            self._line(time, row, found, inputs[row], names[row]) for row in range(len(inputs))
        )
        return found

    def _inputs(self, X: Any, n: int) -> tuple[list[str | None], list[str | None]]:
        """Return the digest and the name of each image; None where it cannot be read."""
        if image_reader(self._model) is None:  # columns of numbers
            rows = np.asarray(X)
            return [f"sha256:{sha256(row.tobytes()).hexdigest()}" for row in rows], [None] * n
        source = images_of(self._model, X)
        digests: list[str | None] = []
        for row in range(n):
            try:
                image = source.open(row)
            except ImageDecodeError:
                digests.append(None)
                continue
            content = image.content
            if isinstance(content, bytes):
                digests.append(f"sha256:{sha256(content).hexdigest()}")
            else:
                digests.append(f"blake2b:{image.digest.hex()}")
        return digests, [source.describe(row) for row in range(n)]

    def _line(
        self, time: str, row: int, found: Predictions, digest: str | None, name: str | None
    ) -> bytes:
        """Return one line of the log."""
        reason = found.reasons[row]
        if not self._include_identifiers:
            reason = _without_names(reason, name)
        scores = None
        if not reason and not np.isnan(found.y_proba[row]).any():  # a gate gives no score
            order = np.argsort(-found.y_proba[row], kind="stable")[:_MOST_CLASSES]
            scores = {self._names[k]: float(found.y_proba[row][k]) for k in sorted(order)}
        record = {
            "time": time,
            "input": digest,
            "scores": scores,
            "decision": None if reason else found.predicted[row],
            "novel": None if found.novel is None else bool(found.novel[row]),
            "error": reason or None,
            **self._fixed,
        }
        if self._include_identifiers:
            record["name"] = None if name is None else shown(name)
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        if len(line) > PAGE:  # names of classes as long as sentences
            record |= {"scores": None, "decision": str(record["decision"])[:200]}
            line = json.dumps(record).encode() + b"\n"
        return line


def _without_names(reason: str, name: str | None) -> str:
    """Return why an image cannot be read, without the name of its file."""
    kept = _QUOTED.sub("'...'", reason)
    if name is None or name in ("array", "tensor", "bytes"):
        return kept
    return "the file cannot be read" if name in kept else kept
