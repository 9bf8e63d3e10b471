"""What is known of a network, what is taken out of it, and plain torch doing so.

It must not know other engines, where images come from, or where networks are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sktransfer._backbones import Backbone, BackboneReference, InputSpec, Layout
from sktransfer._frozen._pooling import pool

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
        A pooling of :func:`sktransfer._frozen.pool`, or ``"raw"``: all of it, raveled as it is;
        None for the network's own way to its embedding (needs ``stage=None``).
    """

    stage: int | None
    pooling: str | None

    def depth(self, info: NetworkInfo) -> int:
        """How many leading pieces of the chain have to run; the neck counts as the last one."""
        return len(info.stages) + 1 if self.stage is None else self.stage + 1


@dataclass(frozen=True)
class Recipe:
    """How the frozen part is to be run: everything but the network and the taps.

    ``engine`` is as :func:`sktransfer._frozen.resolve_engine` gives it; with ``"auto"`` it is
    resolved for each network, taps and side when they are run.
    """

    precision: str = "float32"
    device: str = "cpu"
    engine: str = "torch"

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.precision]


class TappedChain(nn.Module):
    """Leading pieces of a network and what is taken out of them, as one module.

    Parameters
    ----------
    info : NetworkInfo
    pieces : sequence of nn.Module
        The stages; no more of them are used than the deepest tap needs.
    neck : pair of nn.Module, or None
        What comes before the neck's pooling and from there on, if the end of the chain is tapped.
    taps : sequence of Tap
    """

    def __init__(
        self,
        info: NetworkInfo,
        pieces: Sequence[nn.Module],
        neck: tuple[nn.Module, nn.Module] | None,
        taps: Sequence[Tap],
    ) -> None:
        super().__init__()
        deepest = max(tap.depth(info) for tap in taps)
        ends = any(tap.stage is None for tap in taps)
        self.info = info
        self.taps = tuple(taps)
        self.pieces = nn.ModuleList(pieces[:deepest])
        self.neck = nn.ModuleList(neck if ends and neck is not None else ())

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        out: dict[int, Tensor] = {}
        for index, piece in enumerate(self.pieces):
            x = piece(x)
            for position, tap in enumerate(self.taps):
                # Pooled or copied at once: the next stage may begin with an in-place ReLU.
                if tap.stage == index:
                    out[position] = self._pool(x, tap, self.info.stages[index])
        for position, tap in enumerate(self.taps):
            if tap.stage is None:
                out[position] = self._end(x, tap)
        return tuple(out[position] for position in range(len(self.taps)))

    def _end(self, x: Tensor, tap: Tap) -> Tensor:
        norm, rest = self.neck
        x = norm(x)
        if tap.pooling is None:
            return pool(rest(x), "flatten", layout="NC")
        return self._pool(x, tap, self.info.stages[-1])

    @staticmethod
    def _pool(x: Tensor, tap: Tap, stage: StageInfo) -> Tensor:
        assert tap.pooling is not None
        return pool(x, tap.pooling, layout=stage.layout, n_prefix_tokens=stage.n_prefix_tokens)


class TorchEngine:
    """Plain torch: channels_last, whatever the device.

    Parameters
    ----------
    chain : TappedChain
        On the recipe's device and in its precision.
    recipe : Recipe
    """

    name = "torch"

    def __init__(self, chain: TappedChain, recipe: Recipe) -> None:
        self.chain = chain
        self._recipe = recipe

    def __call__(self, batch: Tensor) -> list[Tensor]:
        with torch.inference_mode(), exactly(self._recipe):
            x = batch.to(
                device=self._recipe.device,
                dtype=self._recipe.dtype,
                memory_format=torch.channels_last,
                non_blocking=True,
            )
            return list(self.chain(x))


@contextmanager
def exactly(recipe: Recipe) -> Iterator[None]:
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
