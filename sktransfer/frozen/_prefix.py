"""The frozen part of a network, ready to run: truncated, folded, on its device, with taps.

It must not know where pictures come from, what a cache is, or what is done with the activations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sktransfer.backbones import Backbone, BackboneReference, InputSpec, Layout
from sktransfer.frozen._folding import fold_batch_norm
from sktransfer.frozen._pooling import pool

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True)
class StageInfo:
    """What is known of a stage without holding its tensors."""

    name: str
    layout: Layout
    n_prefix_tokens: int


@dataclass(frozen=True)
class NetworkInfo:
    """What is known of a network without holding its tensors."""

    reference: BackboneReference
    stages: tuple[StageInfo, ...]
    input_spec: InputSpec
    n_features: int
    neck_kind: str
    neck_has_post: bool
    embedding_trained: bool

    @property
    def last_map(self) -> str:
        """Name of the last stage whose output still has positions."""
        return [stage.name for stage in self.stages if stage.layout != "NC"][-1]

    @classmethod
    def of(cls, backbone: Backbone) -> NetworkInfo:
        """Read it off a whole (not truncated) backbone."""
        neck = backbone.neck  # None where the weights were published without what makes it
        return cls(
            reference=backbone.reference,
            stages=tuple(
                StageInfo(stage.name, stage.layout, stage.n_prefix_tokens)
                for stage in backbone.stages
            ),
            input_spec=backbone.input_spec,
            n_features=backbone.n_features,
            neck_kind="none" if neck is None else neck.kind,
            neck_has_post=neck is not None and not isinstance(neck.post, nn.Identity),
            embedding_trained=backbone.embedding_trained,
        )


@dataclass(frozen=True)
class Tap:
    """One thing to take out of the network.

    Parameters
    ----------
    stage : int or None
        Index of the stage whose output is wanted; None for the end of the chain.
    pooling : str or None
        A pooling of :func:`sktransfer.frozen.pool`; None for the network's own way to its
        embedding (needs ``stage=None``).
    """

    stage: int | None
    pooling: str | None

    def depth(self, info: NetworkInfo) -> int:
        """How many leading pieces of the chain have to run; the neck counts as the last one."""
        return len(info.stages) + 1 if self.stage is None else self.stage + 1


@dataclass(frozen=True)
class Recipe:
    """How the frozen part is to be run: everything but the network and the taps."""

    precision: str = "float32"
    device: str = "cpu"
    engine: str = "torch"

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.precision]


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
        self._widths: dict[tuple[tuple[Tap, ...], int], tuple[int, ...]] = {}
        reused = [] if reuse is None else reuse.pieces
        # A black picture runs along, for the folding to watch.
        side = self.info.input_spec.crop_size
        example: Tensor | None = torch.zeros(1, 3, side, side, dtype=torch.float32)
        self.pieces: list[nn.Module] = []
        for index in range(min(depth, len(self.info.stages))):
            own = backbone.stages[index].module
            self.pieces.append(
                reused[index] if index < len(reused) else self._prepare(own, example)
            )
            example = _output(own, example)
        self.neck_norm: nn.Module | None = None
        self.neck_rest: nn.Module | None = None
        if depth > len(self.info.stages) and backbone.neck is not None:
            neck = backbone.neck
            self.neck_norm = self._prepare(neck.norm, example)
            self.neck_rest = self._prepare(nn.Sequential(neck.pool, neck.post), None)

    def _prepare(self, module: nn.Module, example: Tensor | None) -> nn.Module:
        prepared = fold_batch_norm(module, example, dtype=self.recipe.dtype)
        prepared = prepared.to(device=self.recipe.device, dtype=self.recipe.dtype)
        # channels_last is a layout of 4-D weights, not a change of numbers: convolutions are
        # 1.1 to 1.7 times faster with it on CPUs and GPUs alike.
        return prepared.to(memory_format=torch.channels_last)

    @property
    def n_bytes(self) -> int:
        """Bytes of parameters and buffers held."""
        held: list[nn.Module] = list(self.pieces)
        held += [part for part in (self.neck_norm, self.neck_rest) if part is not None]
        return sum(
            t.numel() * t.element_size()
            for part in held
            for t in (*part.parameters(), *part.buffers())
        )

    def run(self, batch: Tensor, taps: Sequence[Tap]) -> list[Tensor]:
        """Take ``taps`` out of one pass over a batch.

        Parameters
        ----------
        batch : Tensor of shape (n, 3, side, side)
            Normalised pictures, float32 or wider, on any device.
        taps : sequence of Tap
            None deeper than ``depth``.

        Returns
        -------
        list of Tensor of shape (n, d)
            In the order of ``taps``, float32 (float64 in that precision), on the device.
        """
        with torch.inference_mode(), _exactly(self.recipe):
            x = batch.to(
                device=self.recipe.device,
                dtype=self.recipe.dtype,
                memory_format=torch.channels_last,
                non_blocking=True,
            )
            wanted = [tap.depth(self.info) for tap in taps]
            out: dict[int, Tensor] = {}
            for index in range(min(max(wanted), len(self.pieces))):
                x = self.pieces[index](x)
                for position, tap in enumerate(taps):
                    # Pooled or copied at once: the next stage may begin with an in-place ReLU.
                    if tap.stage == index:
                        out[position] = self._tap(x, tap)
            for position, tap in enumerate(taps):
                if tap.stage is None:
                    out[position] = self._end(x, tap)
            return [out[position] for position in range(len(taps))]

    def widths(self, taps: tuple[Tap, ...], side: int) -> tuple[int, ...]:
        """Columns of each tap for pictures of ``side`` pixels, found by running a black one."""
        key = (taps, side)
        if key not in self._widths:
            parts = self.run(torch.zeros(1, 3, side, side, dtype=torch.float32), taps)
            self._widths[key] = tuple(part.shape[1] for part in parts)
        return self._widths[key]

    def _tap(self, x: Tensor, tap: Tap) -> Tensor:
        assert tap.stage is not None
        assert tap.pooling is not None
        stage = self.info.stages[tap.stage]
        return pool(x, tap.pooling, layout=stage.layout, n_prefix_tokens=stage.n_prefix_tokens)

    def _end(self, x: Tensor, tap: Tap) -> Tensor:
        assert self.neck_norm is not None
        assert self.neck_rest is not None
        x = self.neck_norm(x)
        if tap.pooling is None:
            return pool(self.neck_rest(x), "flatten", layout="NC")
        last = self.info.stages[-1]
        return pool(x, tap.pooling, layout=last.layout, n_prefix_tokens=last.n_prefix_tokens)


def _output(module: nn.Module, example: Tensor | None) -> Tensor | None:
    """What ``module`` makes of ``example``, or None where it cannot."""
    if example is None:
        return None
    try:
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            return module(example)
    except Exception:  # then what comes after is run as it is, unfolded
        return None


@contextmanager
def _exactly(recipe: Recipe) -> Iterator[None]:
    """Keep other precisions out of a run: a caller's autocast, and TF32, which CUDA has on."""
    kind = recipe.device.split(":")[0]
    with torch.autocast(kind, enabled=False):
        if kind == "cuda" and recipe.precision == "float32":
            with torch.backends.cudnn.flags(
                enabled=torch.backends.cudnn.enabled,
                benchmark=False,
                deterministic=torch.backends.cudnn.deterministic,
                allow_tf32=False,
            ):
                yield
        else:
            yield


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the machine, had no room left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text
