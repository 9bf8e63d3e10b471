"""Where a network is cut and what is taken out: ``layer`` and ``pooling`` to taps, their widths and
their fingerprints. It must not know estimators, images or stores.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral

import numpy as np

from sktransfer._backbones import find_stage
from sktransfer._frozen._prefix import FrozenNetwork, is_out_of_memory, resolved_engine
from sktransfer._frozen._taps import NetworkInfo, Recipe, Tap

# Part of every fingerprint: raised when the same parameters come to mean other numbers.
_NUMBERS_VERSION = 1

# Stages by name or index; None is the end of the chain.
Layers = str | int | None | Sequence[str | int | None]


@dataclass(frozen=True)
class Plan:
    """A network's description and what is taken out of it."""

    info: NetworkInfo
    taps: tuple[Tap, ...]

    @property
    def depth(self) -> int:
        """How many leading pieces of the chain have to run; the neck counts as the last one."""
        return max(tap.depth(self.info) for tap in self.taps)


def make_plan(info: NetworkInfo, layer: Layers, pooling: str) -> Plan:
    """What ``layer`` and ``pooling`` ask for.

    Parameters
    ----------
    info : NetworkInfo
    layer : str, int, None or a sequence of these
        Stages by name or index; None for the embedding.
    pooling : str
        One of the poolings; ``"avg"`` with ``layer=None`` means the network's own way.

    Raises
    ------
    UnknownStageError
        If there is no such stage.
    ValueError
        If the pooling is not possible there; the message says what is.
    """
    layers: Sequence[str | int | None]
    layers = list(layer) if isinstance(layer, list | tuple) else [layer]  # type: ignore[list-item]
    if not layers:
        raise ValueError("layer is an empty list; name at least one stage, or leave it None.")
    taps = []
    for each in layers:
        if isinstance(each, bool) or not (each is None or isinstance(each, str | Integral)):
            raise ValueError(
                f"layer names stages by str or int (None is the embedding), one or a list of them; "
                f"got {each!r} of type {type(each).__name__}."
            )
        if each is None:
            taps.append(Tap(None, _end_pooling(info, pooling)))
            continue
        name = info.reference.name
        index = find_stage(name, [stage.name for stage in info.stages], each)
        stage = info.stages[index]
        if pooling == "cls" and not stage.n_prefix_tokens:
            raise ValueError(
                f"pooling='cls' needs a class token, and stage {stage.name!r} of {name} has none; "
                "use 'avg', 'max', 'avgmax', 'gem' or 'flatten'."
            )
        taps.append(Tap(index, pooling))
    if len(set(taps)) < len(taps):
        raise ValueError(f"layer names the same stage twice: {layer!r}.")
    return Plan(info, tuple(taps))


def _end_pooling(info: NetworkInfo, pooling: str) -> str | None:
    name = info.reference.name
    if not info.embedding_trained:
        raise ValueError(
            f"The weights {info.reference.weights} of {name} hold trained convolutions only: the "
            f"layers that make its embedding are untrained. Name a layer, for example "
            f"layer={info.last_map!r}."
        )
    if pooling == "avg" or (pooling == "cls" and info.neck_kind == "cls"):
        return None
    if pooling == "cls" or info.neck_has_post or info.neck_kind == "none":
        raise ValueError(
            f"pooling={pooling!r} does not go with layer=None for {name}, whose embedding has its "
            f"own way of pooling. Leave pooling='avg' for that, or name a layer, for example "
            f"layer={info.stages[-1].name!r}."
        )
    return pooling


def measure_widths(network: FrozenNetwork, plan: Plan, *, side: int) -> tuple[int, ...]:
    """Columns of each tap, found by running one black image.

    Raises
    ------
    ValueError
        If the network cannot run on images of that side.
    """
    try:
        return network.widths(plan.taps, side)
    except (RuntimeError, ValueError, AssertionError) as error:
        if is_out_of_memory(error):
            raise
        name, own = plan.info.reference.name, plan.info.input_spec.crop_size
        raise ValueError(
            f"{name} cannot run on images of {side} x {side} pixels ({error}); its weights were "
            f"made for {own} x {own}."
        ) from error


def resolve(plan: Plan, recipe: Recipe, side: int, network: Callable[[], FrozenNetwork]) -> Recipe:
    """``recipe`` with the engine that really runs; ``network`` is asked only if nothing else knows.

    Raises
    ------
    ValueError
        If the engine was asked for by name and cannot run the network.
    """
    engine = resolved_engine(plan.info.reference, recipe, plan.taps, side)
    if engine is None:
        engine = network().engine_for(plan.taps, side)
    return replace(recipe, engine=engine)


def fingerprints(
    plan: Plan, preprocessing: str | None, recipe: Recipe, dtypes: Sequence[np.dtype]
) -> tuple[bytes, ...] | None:
    """Of each tap, everything but the image that changes its numbers.

    Parameters
    ----------
    plan : Plan
    preprocessing : str or None
        Fingerprint of what makes the network's input from an image; None if there is no telling,
        and then there are no fingerprints.
    recipe : Recipe
        With the engine that really runs, as :func:`resolve` gives it: not ``"auto"``.
    dtypes : sequence of numpy dtype
        What the numbers of each tap are rounded to.
    """
    if recipe.engine == "auto":
        raise ValueError("engine='auto' has to be resolved before there are fingerprints.")
    if preprocessing is None:
        return None
    reference = plan.info.reference
    # Kernels of another kind of device round differently; its number does not matter.
    shared = (
        _NUMBERS_VERSION,
        reference.name,
        reference.digest,
        preprocessing,
        recipe.precision,
        recipe.engine,
        recipe.device.split(":")[0],
    )
    parts = [
        (*shared, tap.stage, tap.pooling, np.dtype(dtype).str)
        for tap, dtype in zip(plan.taps, dtypes, strict=True)
    ]
    return tuple(hashlib.blake2b(repr(p).encode(), digest_size=16).digest() for p in parts)
