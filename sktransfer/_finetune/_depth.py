"""``freeze_depth`` to what is frozen and what is trained; it must not know tensors."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from sktransfer._backbones import find_stage
from sktransfer._frozen import NetworkInfo


@dataclass(frozen=True)
class Cut:
    """Where a network is cut for training.

    Parameters
    ----------
    depth : int
        Leading stages that are frozen and run once per image. The number of stages: the whole
        network is, its neck included, and the head alone is trained.
    trained : frozenset of int
        Indices of the stages that are trained; the others after ``depth`` are frozen too, but run
        in every step (surgical fine-tuning).
    n_stages : int
    """

    depth: int
    trained: frozenset[int]
    n_stages: int

    @property
    def head_only(self) -> bool:
        """Whether nothing but the head is trained."""
        return not self.trained

    @property
    def surgical(self) -> bool:
        """Whether stages after the cut are frozen too."""
        return self.trained != frozenset(range(self.depth, self.n_stages))


def resolve_freeze_depth(freeze_depth: Any, info: NetworkInfo) -> Cut:
    """What ``freeze_depth`` means for a network.

    Parameters
    ----------
    freeze_depth : int, str or collection of str or int
        A number of leading stages kept frozen (from the end, if negative); the name of the last
        frozen stage; ``"all"``; or a collection of the stages that are trained.
    info : NetworkInfo

    Raises
    ------
    UnknownStageError
        If there is no such stage.
    ValueError
        If it is none of these, or out of range.
    """
    names = [stage.name for stage in info.stages]
    n, name = len(names), info.reference.name
    if isinstance(freeze_depth, str):
        if freeze_depth == "all":
            return Cut(n, frozenset(), n)
        return _suffix(find_stage(name, names, freeze_depth) + 1, n)
    if isinstance(freeze_depth, Integral) and not isinstance(freeze_depth, bool):
        depth = int(freeze_depth)
        if not -n <= depth <= n:
            raise ValueError(
                f"freeze_depth={freeze_depth} is out of range: {name} has {n} stages, so it is "
                f"from 0 (train everything) to {n} (train the head alone), or from -{n} to -1 "
                f"(train that many stages and the head). The stages: {', '.join(names)}."
            )
        return _suffix(depth if depth >= 0 else n + depth, n)
    if isinstance(freeze_depth, Collection) and not isinstance(freeze_depth, (bytes, dict)):
        trained = frozenset(_index(name, names, each) for each in freeze_depth)
        return Cut(min(trained, default=n), trained, n)
    raise ValueError(
        f"freeze_depth is a number of stages, the name of the last frozen stage, 'all', or a list "
        f"of the stages to train; got {freeze_depth!r} of type {type(freeze_depth).__name__}."
    )


def _suffix(depth: int, n: int) -> Cut:
    return Cut(depth, frozenset(range(depth, n)), n)


def _index(network: str, names: list[str], stage: Any) -> int:
    if isinstance(stage, bool) or not isinstance(stage, (str, Integral)):
        raise ValueError(
            f"freeze_depth as a collection names stages to train, by str or int; got {stage!r}."
        )
    return find_stage(network, names, stage if isinstance(stage, str) else int(stage))
