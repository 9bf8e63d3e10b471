"""A fitted TransferClassifier as a file that holds what was learned, and no code.

It must not know how candidates are judged or combined.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

from sktransfer._backbones import BackboneReference, OwnNetwork, check_values
from sktransfer._base import NO_FAILED_ROWS
from sktransfer._extractor import PretrainedFeatureExtractor
from sktransfer._finetune import FineTuneClassifier
from sktransfer._finetune._saving import (
    KEYS,
    OBJECTS,
    common_header,
    decode,
    encode,
    read_class_names,
    read_common,
    read_file,
    restored,
    without_threshold,
    write_sealed,
    written,
    written_found_as,
)
from sktransfer._finetune._targets import Findings, Target
from sktransfer._moving import arrive, forget_folders, given_places, without_folders
from sktransfer._persistence import PackedWeights, found_as_of, is_name
from sktransfer._transfer._candidates import solved_regression
from sktransfer._utils.notebooks import card
from sktransfer._version import __version__
from sktransfer.exceptions import SkTransferError

_OBJECTS = {**OBJECTS, PretrainedFeatureExtractor.__name__: PretrainedFeatureExtractor}
_KEYS = {
    *("schema", "sktransfer", "estimator", "params", "classes", "class_names", "n_features_in"),
    *("feature_names_in", "models", "weights", "best", "temperature", "scoring", "plan"),
    "leaderboard",
}
# What a probe has learned: standardization and regression, in float64.
_LEARNED = ("mean", "var", "scale", "coef", "intercept")
# Parameters of the classifier that its models have too, and that do not change what they learned.
_SETTINGS = ("cache", "device", "n_jobs", "on_error")


class SavingMixin:
    """Saving, loading and pickling of a fitted classifier with ``estimators_``."""

    @property
    def class_names_(self) -> list[str] | None:
        """Names of the classes: labels that are text, or what ``save`` was given; or None."""
        check_is_fitted(self)
        return read_class_names(vars(self)["_class_names"], vars(self)["classes_"])

    @property
    def _members(self) -> list[Any]:
        """The fitted estimators that are averaged, for what looks into estimators."""
        return vars(self).get("estimators_", [])

    def _settings(self) -> dict[str, Any]:
        own = vars(self)
        return {**{n: own[n] for n in _SETTINGS}, "verbose": max(0, int(own["verbose"]) - 1)}

    def _pass_settings_on(self) -> None:
        """Let the members have what was set after ``fit``, such as another device."""
        now, before = self._settings(), vars(self)["_passed_on"]
        changed = {name: value for name, value in now.items() if value != before[name]}
        if changed:
            for model in (*self._members, vars(self)["best_estimator_"]):
                reader = model[0] if isinstance(model, Pipeline) else model
                reader.set_params(**changed)
            self._passed_on = now

    def save(
        self, path: str | os.PathLike[str], *, class_names: Any = None, store_weights: bool = False
    ) -> None:
        """Write parameters and what was learned, as JSON inside a safetensors file.

        A digest of all of it is written too, by which :meth:`load` detects damage and edits.

        Parameters
        ----------
        path : path-like
            The file; ``.safetensors`` is customary. No image's name or pixels are in it.
        class_names : mapping of labels to str, or sequence of str, default=None
            Names of the classes, by label or in the order of ``classes_``, where labels are numbers
            or booleans: :meth:`load` makes them ``class_names_``. None: ``class_names_``.
        store_weights : bool, default=False
            Whether the file holds the pretrained weights of the networks too, so that it is all
            that another machine needs. False: their digests, by which :meth:`load` finds them.

        Raises
        ------
        ValueError
            If a parameter is code or a network is a module of the user's own, which such a file
            cannot hold, or if there is not a name for each class.
        """
        check_is_fitted(self)
        save_classifier(self, path, class_names, store_weights=store_weights)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, weights: Any = None, **params: Any) -> Any:
        """Read what :meth:`save` wrote, and find the pretrained weights; no code is run.

        Parameters
        ----------
        path : path-like
            The file.
        weights : path-like, default=None
            Folder that the pretrained weights are somewhere in, or the file of one network. None:
            they are looked for next to ``path`` and in the usual places (see :ref:`moving`).
            Whatever a file is called, its digest has to be that of the weights in ``fit``.
        **params : dict
            Parameters to take instead of those in the file (``device="cpu"``, say).

        Returns
        -------
        TransferClassifier
            Fitted classifier.

        Raises
        ------
        WeightsNotFoundError
            If there are no pretrained weights of the right digest; the message says where they
            were looked for.
        WeightsMismatchError
            If the file was damaged or edited, is of another kind, or of another version, or if
            ``weights`` is a file with another digest.
        ValueError
            If a parameter is invalid.

        Warns
        -----
        UserWarning
            If the file holds a threshold too, which this estimator does not use.
        """
        clf, operating_point = load_classifier(cls, path, {"weights": weights, **params})
        return without_threshold(clf, path, operating_point)

    @property
    def _repr_html_(self) -> Callable[[], str]:
        """Return what notebooks show: scikit-learn's diagram, and the leaderboard of a fit."""
        shown = super()._repr_html_  # type: ignore[misc]
        return lambda: shown() + self._leaderboard_card()

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        bundle = super()._repr_mimebundle_(**kwargs)  # type: ignore[misc]
        if "text/html" in bundle:
            bundle["text/html"] += self._leaderboard_card()
        return bundle

    def _leaderboard_card(self) -> str:
        if not self._members:
            return ""
        line = (
            f"An image passes through {', '.join(self._networks_of_members())}. Scores "
            f"({vars(self)['scoring_']}) are those of images that the models had not seen."
        )
        return card(type(self).__name__, [line], {"Leaderboard": vars(self)["leaderboard_"]})

    def _networks_of_members(self) -> list[str]:
        """Return the names of the networks that an image passes through."""
        readers = [each[0] if isinstance(each, Pipeline) else each for each in self._members]
        return list(dict.fromkeys(reader.reference_.name for reader in readers))

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())  # type: ignore[call-overload]
        if "_failed_rows" in state:
            state["_failed_rows"] = NO_FAILED_ROWS  # file names may be patients' names
            state.pop("_out_of_fold", None)  # as many rows as there were images
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[misc]
        forget_folders(self)


def save_classifier(
    clf: Any,
    path: str | os.PathLike[str],
    class_names: Any,
    operating_point: dict[str, Any] | None = None,
    *,
    store_weights: bool = False,
) -> None:
    """Write a fitted classifier, and a threshold for it; see ``TransferClassifier.save``."""
    clf._pass_settings_on()  # the file has those of the members
    given = without_folders(clf.get_params(deep=False))
    given["backbones"] = _named(given["backbones"])
    params = {name: encode(value, name, _OBJECTS) for name, value in given.items()}
    models = list(clf.estimators_)
    best = [number for number, model in enumerate(models) if model is clf.best_estimator_]
    if not best:
        best = [len(models)]
        models.append(clf.best_estimator_)
    header = {
        **common_header(clf, params, class_names),
        "models": [],
        "weights": [float(weight) for weight in clf.weights_],
        "best": best[0],
        "temperature": float(clf.temperature_),
        "scoring": clf.scoring_,
        "plan": encode(clf.plan_, "plan_"),
        "leaderboard": [[str(n), own.tolist()] for n, own in clf.leaderboard_.items()],
    }
    tensors: dict[str, torch.Tensor] = {}
    for number, model in enumerate(models):
        if isinstance(model, Pipeline):
            entry, own = _written_probe(model, store_weights)
        else:
            entry, own = written(model, None, store_weights=store_weights)
        header["models"].append(entry)
        tensors |= {f"{number}.{name}": tensor for name, tensor in own.items()}
    write_sealed(path, header, tensors, operating_point)


def _named(backbones: Any) -> Any:
    """Return the parameter ``backbones`` with names of files, and no folders."""
    if isinstance(backbones, Mapping):
        return {str(key): _named(each) for key, each in backbones.items()}
    if isinstance(backbones, (list, tuple)):
        return [_named(each) for each in backbones]
    is_path = isinstance(backbones, (str, os.PathLike)) and not is_name(backbones)
    return Path(backbones).name if is_path else backbones


def _written_probe(
    pipeline: Pipeline, store_weights: bool
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    extractor, scaler, probe = (step for _, step in pipeline.steps)
    entry, packed = written_extractor(extractor, store_weights)
    entry["estimator"] = [name for name, _ in pipeline.steps]
    entry["n_seen"] = int(np.max(scaler.n_samples_seen_))
    entry["C"] = float(probe.C)
    arrays = (scaler.mean_, scaler.var_, scaler.scale_, probe.coef_, probe.intercept_)
    tensors = {
        name: torch.from_numpy(np.ascontiguousarray(array, dtype=np.float64))
        for name, array in zip(_LEARNED, arrays, strict=True)
    }
    return entry, tensors | packed


def written_extractor(
    extractor: PretrainedFeatureExtractor, store_weights: bool
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return a fitted extractor as an entry of a header, and the weights that it carries."""
    params = without_folders(extractor.get_params(deep=False))
    if isinstance(extractor._found_as, OwnNetwork):
        kind = type(extractor._found_as.module).__name__
        raise ValueError(
            f"The network {kind} is a module of your own, whose code a file of save cannot hold. "
            "Pickle the estimator (loading a pickle runs code, so only load what you trust)."
        )
    packed = extractor._packed
    if packed is None and (store_weights or extractor.store_weights):
        packed = extractor._pack(extractor._found())
    params["store_weights"] = packed is not None
    entry = {
        "params": {name: encode(value, name, _OBJECTS) for name, value in params.items()},
        "reference": vars(extractor.reference_),
        "found_as": written_found_as(extractor._found_as),
        "packed": None if packed is None else packed.depth,
    }
    return entry, {} if packed is None else packed.tensors


def load_classifier(
    cls: Any, path: str | os.PathLike[str], params: dict[str, Any]
) -> tuple[Any, dict[str, Any] | None]:
    """Read a fitted classifier, and the threshold that was saved with it, if there is one."""
    params = dict(params)
    weights = params.pop("weights", None)  # where they are, and no parameter
    cls(**params)._validate_params()  # before the file is held to be at fault
    header, tensors, operating_point = read_file(cls, path, keys=_KEYS)
    check_values(tensors, path)
    with blaming(path):
        own = without_folders({n: decode(v, _OBJECTS) for n, v in header["params"].items()})
        clf = cls(**{**own, **params})
        clf._validate_params()
        clf._target, clf._class_names = read_common(clf, header)
        clf.classes_ = clf._target.classes
        clf._failed_rows, clf._passed_on = NO_FAILED_ROWS, clf._settings()
        _read_choice(clf, header)
        entries = list(header["models"])
    settings = {name: value for name, value in clf._settings().items() if name in params}
    models: list[Any] = []
    for number, entry in enumerate(entries):
        start = f"{number}."
        learned = {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
        with blaming(path):
            if isinstance(entry["estimator"], list):
                models.append(_read_probe(entry, learned, settings, clf))
                continue
            if set(entry) - {"packed"} != KEYS:
                raise ValueError(f"model {number} is no saved FineTuneClassifier.")
        models.append(restored(FineTuneClassifier, entry, learned, path, settings))
    readers = [model[0] if isinstance(model, Pipeline) else model for model in models]
    find_networks(readers, weights, Path(path).absolute().parent)
    with blaming(path):
        for model in models:
            if isinstance(model, Pipeline):
                _check_probe(model, clf._target)
            elif not np.array_equal(model.classes_, clf.classes_):
                raise ValueError("a network has other classes.")
        clf.estimators_ = models[: len(clf.weights_)]
        clf.best_estimator_ = models[header["best"]]
    return clf, operating_point


@contextmanager
def blaming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what goes wrong with the content of a file into an error that names it."""
    try:
        yield
    except SkTransferError:
        raise
    except (TypeError, KeyError, AttributeError, ValueError, IndexError, OverflowError) as error:
        raise ValueError(
            f"{path} holds something that sktransfer {__version__} cannot make an estimator "
            f"of: {error}"
        ) from error


def _read_choice(clf: Any, header: dict[str, Any]) -> None:
    """Set what was chosen: weights, temperature, plan and leaderboard."""
    clf.weights_ = np.asarray(header["weights"], dtype=np.float64)
    clf.temperature_, clf.scoring_ = float(header["temperature"]), str(header["scoring"])
    clf.plan_ = decode(header["plan"])
    clf.leaderboard_ = pd.DataFrame(dict(header["leaderboard"]))
    sound = clf.weights_.ndim == 1 and 0 < len(clf.weights_) <= len(header["models"])
    if not (sound and (clf.weights_ >= 0).all() and np.isclose(clf.weights_.sum(), 1)):
        raise ValueError(f"weights {header['weights']!r} are not shares of its models.")
    if not 0 < clf.temperature_ < np.inf:
        raise ValueError(f"temperature {clf.temperature_!r} is no positive number.")
    if not 0 <= header["best"] < len(header["models"]):
        raise ValueError(f"there is no model {header['best']!r}.")


def _read_probe(
    entry: dict[str, Any], tensors: dict[str, torch.Tensor], settings: dict[str, Any], clf: Any
) -> Pipeline:
    """Return the pipeline of an entry, whose network is not found yet."""
    extractor = read_extractor(entry, tensors, settings, clf)
    if any(tensors[name].dtype != torch.float64 for name in _LEARNED):
        raise ValueError("a probe is not in float64.")
    mean, var, scale, coef, intercept = (tensors[name].numpy() for name in _LEARNED)
    scaler = StandardScaler()
    scaler.mean_, scaler.var_, scaler.scale_ = mean, var, scale
    scaler.n_features_in_, scaler.n_samples_seen_ = mean.shape[0], int(entry["n_seen"])
    probe = solved_regression(clf._target, coef, intercept, entry["C"])
    names = [str(name) for name in entry["estimator"]]
    return Pipeline(list(zip(names, (extractor, scaler, probe), strict=True)))


def read_extractor(
    entry: dict[str, Any], tensors: dict[str, torch.Tensor], settings: dict[str, Any], owner: Any
) -> PretrainedFeatureExtractor:
    """Return the extractor of an entry, with the columns of its owner; its network is not found."""
    params = {name: decode(value, _OBJECTS) for name, value in entry["params"].items()}
    extractor = PretrainedFeatureExtractor(**{**without_folders(params), **settings})
    extractor._validate_params()
    extractor.reference_ = BackboneReference(**entry["reference"])
    extractor._found_as = found_as_of(entry["found_as"])
    extractor._packed = PackedWeights.of_file(entry, tensors)
    for name in ("n_features_in_", "feature_names_in_"):
        if hasattr(owner, name):
            setattr(extractor, name, getattr(owner, name))
    return extractor


def _check_probe(pipeline: Pipeline, target: Target) -> None:
    """Raise where numbers of columns or classes do not go together."""
    extractor, scaler, probe = (step for _, step in pipeline.steps)
    pair = target.n_outputs == 2 and not isinstance(target, Findings)
    width, n_rows = extractor.n_features_out_, 1 if pair else target.n_outputs
    wanted = [(width,)] * 3 + [(n_rows, width), (n_rows,)]
    learned = (scaler.mean_, scaler.var_, scaler.scale_, probe.coef_, probe.intercept_)
    if [array.shape for array in learned] != wanted or not (scaler.scale_ > 0).all():
        raise ValueError(
            f"a probe is not one of {width} columns of {extractor.reference_.name} for "
            f"{len(target.classes)} classes."
        )


def find_networks(readers: list[Any], weights: Any, folder: Path) -> None:
    """Let the networks be found; a file that is given may be that of one of them."""
    refused: list[Exception] = []
    for reader in readers:
        places: tuple[Path, ...] = ()
        try:
            places = given_places(weights, reader)
        except (SkTransferError, ValueError) as error:
            refused.append(error)
        reader._places = (*places, folder)
    if len(refused) == len(readers):
        raise refused[0]
    for reader in readers:
        if arrive(reader) is not None:
            reader._found().load()  # by a download, or an error that says what is missing
        if isinstance(reader, PretrainedFeatureExtractor):
            reader._cut(reader._found())
