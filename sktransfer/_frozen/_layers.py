"""What is taken out of a network: its layers, how their positions are pooled, and the module that
computes several of them in one pass. It must not know where networks are kept or how they are run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from sktransfer._backbones import Backbone, BackboneReference, InputSpec, Layout, Stage, find_stage

Pooling = Literal["avg", "max", "avgmax", "gem", "flatten", "cls"]
POOLINGS: tuple[str, ...] = get_args(Pooling)

# Radenović, Tolias & Chum (2018) learn p per network and start from 3; a frozen network has
# nothing to learn it from, so the starting point is the value.
_GEM_POWER = 3.0
_GEM_FLOOR = 1e-6

# Columns that all layers of a network have together at most: the widest embedding has 7,392.
MAX_ALL_WIDTH = 8192


class LayerOutput(NamedTuple):
    """One thing to take out of a network: the pooled output of a stage, or of the whole chain."""

    stage: int | None  # None: the end of the chain
    # One of POOLINGS, or "raw": all of it, raveled; None: the network's own way to its embedding.
    pooling: str | None


class StageInfo(NamedTuple):
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
    # Whether the embedding is what pooling="avg" makes of the last stage, and nothing else.
    embedding_is_mean: bool = False

    @classmethod
    def of(cls, backbone: Backbone) -> NetworkInfo:
        """Describe a whole (not truncated) backbone."""
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
            embedding_is_mean=neck is not None and _is_mean(neck, backbone.stages[-1]),
        )

    @property
    def last_map(self) -> str:
        """Name of the last stage whose output still has positions."""
        return [stage.name for stage in self.stages if stage.layout != "NC"][-1]

    @property
    def n_trained(self) -> int:
        """How many leading stages hold trained weights."""
        if self.embedding_trained:
            return len(self.stages)
        return [stage.name for stage in self.stages].index(self.last_map) + 1

    def depth(self, outputs: Sequence[LayerOutput]) -> int:
        """Return how many leading stages must run for ``outputs``; the neck is one more."""
        return max(len(self.stages) + 1 if o.stage is None else o.stage + 1 for o in outputs)


def resolve_layers(
    info: NetworkInfo, layer: str | int | Sequence[str | int | None] | None, pooling: str
) -> tuple[LayerOutput, ...]:
    """Resolve what the parameters ``layer`` and ``pooling`` of an estimator ask for.

    Raises UnknownStageError if there is no such stage, and ValueError if the pooling is not
    possible there; the messages say what is.
    """
    layers: Sequence[str | int | None]
    layers = list(layer) if isinstance(layer, list | tuple) else [layer]  # type: ignore[list-item]
    if not layers:
        raise ValueError("layer is an empty list; name at least one stage, or leave it None.")
    name, outputs = info.reference.name, []
    for each in layers:
        if isinstance(each, bool) or not (each is None or isinstance(each, str | Integral)):
            raise ValueError(
                f"layer names stages by str or int (None is the embedding), one or a list of them; "
                f"got {each!r} of type {type(each).__name__}."
            )
        if each is None:
            if not info.embedding_trained:
                raise ValueError(
                    f"The weights {info.reference.weights} of {name} hold trained convolutions "
                    "only: the layers that make its embedding are untrained. Name a layer, for "
                    f"example layer={info.last_map!r}."
                )
            own = pooling == "avg" or (pooling == "cls" and info.neck_kind == "cls")
            if not own and (pooling == "cls" or info.neck_has_post or info.neck_kind == "none"):
                raise ValueError(
                    f"pooling={pooling!r} does not go with layer=None for {name}, whose embedding "
                    "has its own way of pooling. Leave pooling='avg' for that, or name a layer, "
                    f"for example layer={info.stages[-1].name!r}."
                )
            outputs.append(LayerOutput(None, None if own else pooling))
            continue
        index = find_stage(name, [stage.name for stage in info.stages], each)
        stage = info.stages[index]
        if pooling == "cls" and not stage.n_prefix_tokens:
            raise ValueError(
                f"pooling='cls' needs a class token, and stage {stage.name!r} of {name} has none; "
                "use 'avg', 'max', 'avgmax', 'gem' or 'flatten'."
            )
        outputs.append(LayerOutput(index, pooling))
    if len(set(outputs)) < len(outputs):
        raise ValueError(f"layer names the same stage twice: {layer!r}.")
    return tuple(outputs)


def all_outputs(
    info: NetworkInfo, shapes: Sequence[Sequence[int]], pooling: str = "avg"
) -> tuple[LayerOutput, ...]:
    """Return what all layers of a network are: each stage, pooled, and then the embedding.

    ``shapes`` are those of one image after each stage. The last stage is left out where the
    embedding is the same numbers, and so is what was never trained. Beyond ``MAX_ALL_WIDTH``
    columns, stages are left out evenly: of each resolution, every second, third, ... is kept,
    counted back from its last; then, if need be, every second, third, ... of these last ones.
    """
    if pooling == "flatten":
        raise ValueError(
            "pooling='flatten' does not go with layer='all': every position of every stage is "
            "millions of columns. Use 'avg', 'max', 'avgmax' or 'gem', or name a layer."
        )
    stages = info.stages[: info.n_trained]
    end = (LayerOutput(None, None),) if info.embedding_trained else ()
    room = MAX_ALL_WIDTH - (info.n_features if end else 0)
    widths, places = [], []
    for stage, shape in zip(stages, shapes, strict=False):
        channels = 0 if stage.layout in ("NCHW", "NC") else -1
        widths.append(shape[channels])
        places.append(math.prod(shape) // shape[channels])
    # Of each stage, how many of its resolution come after it; and of resolutions, after its own.
    behind = [places[index + 1 :].count(place) for index, place in enumerate(places)]
    above = [behind[index + 1 :].count(0) for index in range(len(stages))]
    same = bool(end) and info.embedding_is_mean and (pooling == "avg" or stages[-1].layout == "NC")
    listed = range(len(stages) - same)
    steps = [(step, 1) for step in range(1, len(stages) + 1)]
    steps += [(len(stages), step) for step in range(2, len(stages) + 2)]
    kept: list[int] = []
    for within, among in steps:
        kept = [i for i in listed if behind[i] % within == 0 and above[i] % among == 0]
        if sum(widths[index] for index in kept) <= room:
            break
    else:
        kept = [] if end else [listed[-1]]
    return (*(resolve_layers(info, kept, pooling) if kept else ()), *end)


def _is_mean(neck: nn.Module, last: Stage) -> bool:
    """Return whether a neck does nothing but average over the positions of the last stage."""
    sizes = {"NCHW": (8, 3, 4), "NHWC": (3, 4, 8), "NLC": (last.n_prefix_tokens + 6, 8), "NC": (8,)}
    x = torch.arange(float(2 * math.prod(sizes[last.layout]))).sin()  # no random state is touched
    x = x.reshape(2, *sizes[last.layout])
    mean = pool(x, "avg", last.layout, last.n_prefix_tokens)
    try:
        with torch.inference_mode():
            made = neck(x)
    except Exception:  # it has weights, of another width
        return False
    return made.shape == mean.shape and torch.allclose(made, mean, rtol=1e-5, atol=1e-6)


def pool(x: Tensor, how: str, layout: Layout = "NCHW", n_prefix_tokens: int = 0) -> Tensor:
    """Pool an activation over its positions, to (n, d) in float32 or float64; never a view.

    ``"avgmax"`` is the mean of the average and the maximum (timm's name for it), ``"gem"`` the
    generalized mean with p = 3; ``"flatten"`` keeps every position, channel by channel as in
    (c, h, w). ``"raw"`` ravels the activation as it is, whatever its layout. A vector per image
    ("NC") has no positions. Tokens ahead of the patches ("NLC") are no positions either, and only
    ``"cls"`` reads the first of them.
    """
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    if how == "raw":
        return x.to(wide).flatten(1).clone()
    if layout == "NC":
        return x.to(wide, copy=True)
    if how == "cls":
        return x[:, 0].to(wide, copy=True)
    if layout == "NCHW":
        positions = x.flatten(2)
    elif layout == "NHWC":
        positions = x.flatten(1, 2).transpose(1, 2)
    else:
        positions = x[:, n_prefix_tokens:].transpose(1, 2)
    # Sums over positions overflow float16 and lose digits in bfloat16: widen first.
    positions = positions.to(wide)
    if how == "flatten":
        return positions.flatten(1).clone()
    if how == "avg":
        return positions.mean(2)
    if how == "max":
        return positions.amax(2)
    if how == "avgmax":
        return 0.5 * (positions.mean(2) + positions.amax(2))
    if how == "gem":
        powered = positions.clamp(min=_GEM_FLOOR).pow(_GEM_POWER)
        return powered.mean(2).pow(1.0 / _GEM_POWER)
    raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}; got {how!r}.")


class LayerOutputs(nn.Module):
    """Leading stages of a network that return the outputs of several layers, (n, d) each.

    ``neck`` is what comes before the neck's pooling and from there on; of it and of ``stages`` no
    more is used than the deepest output needs.
    """

    def __init__(
        self,
        info: NetworkInfo,
        stages: Sequence[nn.Module],
        neck: Sequence[nn.Module] | None,
        outputs: Sequence[LayerOutput],
    ) -> None:
        super().__init__()
        ends = any(output.stage is None for output in outputs)
        self.info = info
        self.outputs = tuple(outputs)
        self.stages = nn.ModuleList(stages[: info.depth(outputs)])
        self.neck = nn.ModuleList(neck if ends and neck is not None else ())

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        found: dict[LayerOutput, Tensor] = {}
        for index, module in enumerate(self.stages):
            x = module(x)
            stage = self.info.stages[index]
            for output in self.outputs:
                # Pooled or copied at once: the next stage may begin with an in-place ReLU.
                if output.stage == index and output.pooling is not None:
                    found[output] = pool(x, output.pooling, stage.layout, stage.n_prefix_tokens)
        if len(self.neck):
            norm, rest = self.neck
            x, stage = norm(x), self.info.stages[-1]
            for output in self.outputs:
                if output.stage is None and output.pooling is None:
                    found[output] = pool(rest(x), "flatten", "NC")
                elif output.stage is None and output.pooling is not None:
                    found[output] = pool(x, output.pooling, stage.layout, stage.n_prefix_tokens)
        return tuple(found[output] for output in self.outputs)
