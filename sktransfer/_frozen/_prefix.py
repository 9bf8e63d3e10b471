"""The frozen part of a network, ready to run: truncated, folded, on its device, by its engine.

It must not know where images come from, what a cache is, or what is done with the activations.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from sktransfer._backbones import Backbone, BackboneReference
from sktransfer._frozen import _engines
from sktransfer._frozen._folding import fold_batch_norm
from sktransfer._frozen._openvino import OpenVinoEngine
from sktransfer._frozen._taps import (
    DTYPES,
    NetworkInfo,
    Recipe,
    Tap,
    TappedChain,
    TorchEngine,
    exactly,
)
from sktransfer.exceptions import MissingDependencyError


class Engine(Protocol):
    """What runs batches of one shape through one set of taps; several threads may call it."""

    @property
    def name(self) -> str:
        """As it stands in fingerprints."""

    def __call__(self, batch: Tensor) -> list[Tensor]:
        """One tensor (n, d) per tap."""


# Converted chains kept per network, each about as large as the network: a grid over layers needs
# as many as it has layers.
_MAX_ENGINES = 8


class FrozenNetwork:
    """Leading pieces of a network prepared for one recipe; they are never trained or changed.

    Parameters
    ----------
    backbone : Backbone
        Whole network; only copies of its first ``depth`` pieces are kept.
    depth : int
        Number of leading stages; one more than there are stages to keep the neck too.
    recipe : Recipe
    reuse : FrozenNetwork or None
        A shallower one of the same network and recipe, whose pieces are taken over.
    """

    def __init__(
        self,
        backbone: Backbone,
        depth: int,
        recipe: Recipe,
        reuse: FrozenNetwork | None = None,
    ) -> None:
        self.info = NetworkInfo.of(backbone)
        self.recipe = recipe
        self.depth = depth
        # Other engines are given the weights in float32 and round them themselves; what they are
        # compared with is computed in float32 too.
        self._held_as = recipe.dtype if recipe.engine == "torch" else torch.float32
        self._lock = threading.RLock()
        self._engines: OrderedDict[tuple, Engine] = OrderedDict()
        self._widths: dict[tuple[tuple[Tap, ...], int], tuple[int, ...]] = {}
        reused = [] if reuse is None else reuse.pieces
        # A black image runs along, for the folding to watch.
        side = self.info.input_spec.crop_size
        example: Tensor | None = torch.zeros(1, 3, side, side, dtype=torch.float32)
        self.pieces: list[nn.Module] = []
        for index in range(min(depth, len(self.info.stages))):
            own = backbone.stages[index].module
            self.pieces.append(
                reused[index] if index < len(reused) else self._prepare(own, example)
            )
            example = _output(own, example)
        self.neck: tuple[nn.Module, nn.Module] | None = None
        if depth > len(self.info.stages) and backbone.neck is not None:
            neck = backbone.neck
            self.neck = (
                self._prepare(neck.norm, example),
                self._prepare(nn.Sequential(neck.pool, neck.post), None),
            )

    def _prepare(self, module: nn.Module, example: Tensor | None) -> nn.Module:
        prepared = fold_batch_norm(module, example, dtype=self._held_as)
        prepared = prepared.to(device=self.recipe.device, dtype=self._held_as)
        # channels_last is a layout of 4-D weights, not a change of numbers: convolutions are
        # 1.1 to 1.7 times faster with it on CPUs and GPUs alike.
        return prepared.to(memory_format=torch.channels_last)

    @property
    def n_bytes(self) -> int:
        """Bytes of parameters and buffers held, by converted copies too."""
        own = _n_bytes([*self.pieces, *(self.neck or ())])
        with self._lock:
            return own + sum(
                _n_bytes(self.pieces[: max(tap.depth(self.info) for tap in taps)])
                for (taps, *_), engine in self._engines.items()
                if engine.name != "torch" or self._held_as != self.recipe.dtype
            )

    def run(self, batch: Tensor, taps: Sequence[Tap]) -> list[Tensor]:
        """Take ``taps`` out of one pass over a batch.

        Parameters
        ----------
        batch : Tensor of shape (n, 3, side, side)
            Normalized images, float32 or wider, on any device.
        taps : sequence of Tap
            None deeper than ``depth``.

        Returns
        -------
        list of Tensor of shape (n, d)
            In the order of ``taps``, float32 (float64 in that precision), on the device.

        Raises
        ------
        ValueError
            If the recipe's engine is not ``"auto"`` or ``"torch"`` and cannot run these taps.
        """
        return self._engine(tuple(taps), (batch.shape[2], batch.shape[3]))(batch)

    def engine_for(self, taps: Sequence[Tap], side: int) -> str:
        """The engine that runs ``taps`` on images of ``side`` pixels, as in fingerprints.

        It is resolved here if it was not before, which takes a second or so. With ``"auto"`` it is
        remembered, for :func:`sktransfer._frozen.resolved_engine`.

        Raises
        ------
        ValueError
            As :meth:`run`.
        """
        taps = tuple(taps)
        name = self._engine(taps, (side, side)).name
        if self.recipe.engine == "auto":
            # Again, if it was resolved before: the home may be another one by now.
            _engines.remember(_question(self.info.reference, self.recipe, taps, side), name)
        return name

    def widths(self, taps: tuple[Tap, ...], side: int) -> tuple[int, ...]:
        """Columns of each tap for images of ``side`` pixels, found by running a black one."""
        key = (taps, side)
        if key not in self._widths:
            black = torch.zeros(1, 3, side, side, dtype=torch.float32)
            # In torch whatever the engine: its messages are clear where images are too small.
            parts = self._plain(taps)(black)
            self._widths[key] = tuple(part.shape[1] for part in parts)
        return self._widths[key]

    def shape_after(self, stage: int, side: int) -> tuple[int, ...]:
        """Shape of what a stage makes of one image, as ``pooling="raw"`` ravels it."""
        x = torch.zeros(1, 3, side, side, dtype=self._held_as, device=self.recipe.device)
        with torch.inference_mode(), exactly(self.recipe):
            for piece in self.pieces[: stage + 1]:
                x = piece(x)
        return tuple(x.shape[1:])

    def _chain(self, taps: tuple[Tap, ...]) -> TappedChain:
        return TappedChain(self.info, self.pieces, self.neck, taps)

    def _plain(self, taps: tuple[Tap, ...]) -> TorchEngine:
        """Torch on the pieces as they are held."""
        precision = next(name for name, dtype in DTYPES.items() if dtype == self._held_as)
        return TorchEngine(self._chain(taps), Recipe(precision, self.recipe.device))

    def _engine(self, taps: tuple[Tap, ...], shape: tuple[int, int]) -> Engine:
        if self.recipe.engine == "torch":
            return self._plain(taps)
        key = (taps, shape, torch.get_num_threads())
        with self._lock:
            engine = self._engines.get(key)
            if engine is None:
                engine = self._engines[key] = self._resolve(taps, shape)
                while len(self._engines) > _MAX_ENGINES:
                    self._engines.popitem(last=False)
            self._engines.move_to_end(key)
            return engine

    def _resolve(self, taps: tuple[Tap, ...], shape: tuple[int, int]) -> Engine:
        """OpenVINO if it works and agrees with torch; else an error, or torch with ``"auto"``."""
        plain = self._plain(taps)
        batch = _engines.probe(shape)
        reference = plain(batch)  # where torch cannot, the error is torch's
        tolerance = _engines.TOLERANCES[self.recipe.precision]
        found: Engine | None = None
        cause: Exception | None = None
        try:
            with exactly(self.recipe):
                found = OpenVinoEngine(self._chain(taps), shape, self.recipe.precision)
            apart = _engines.distance(found(batch), reference)
            why = f"its numbers are {apart:.1e} away from torch's, more than {tolerance:.0e}"
            agrees = apart <= tolerance
        except Exception as error:  # a converter may fail in any way at all
            why, agrees, cause = str(error).strip() or type(error).__name__, False, error
        if found is None or not agrees:
            if self.recipe.engine != "auto":
                if isinstance(cause, MissingDependencyError):
                    raise cause
                raise _engines.refusal(self.info.reference.name, shape, why) from cause
            found = self._fallen_back(plain)
        if self.recipe.engine == "auto":
            question = _question(self.info.reference, self.recipe, taps, shape[0])
            _engines.remember(question, found.name)
        return found

    def _fallen_back(self, plain: TorchEngine) -> TorchEngine:
        if self._held_as == self.recipe.dtype:
            return plain
        return TorchEngine(copy.deepcopy(plain.chain).to(self.recipe.dtype), self.recipe)


def resolved_engine(
    reference: BackboneReference, recipe: Recipe, taps: Sequence[Tap], side: int
) -> str | None:
    """What :meth:`FrozenNetwork.engine_for` says, without the network; None if only it can tell."""
    if recipe.engine != "auto":
        return recipe.engine
    return _engines.recall(_question(reference, recipe, tuple(taps), side))


def _question(
    reference: BackboneReference, recipe: Recipe, taps: tuple[Tap, ...], side: int
) -> tuple:
    return (reference, recipe.precision, taps, side)


def _n_bytes(modules: Sequence[nn.Module]) -> int:
    return sum(
        t.numel() * t.element_size()
        for module in modules
        for t in (*module.parameters(), *module.buffers())
    )


def _output(module: nn.Module, example: Tensor | None) -> Tensor | None:
    """What ``module`` makes of ``example``, or None where it cannot."""
    if example is None:
        return None
    try:
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            return module(example)
    except Exception:  # then what comes after is run as it is, unfolded
        return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the machine, had no room left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text
