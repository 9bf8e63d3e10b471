"""Where a network is cut, and the part after the cut: the stages that are trained, and the head.

It must not know estimators, images, or where activations come from.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sktransfer._backbones import Backbone, describe_stages, find_stage, load_strict, private_seed
from sktransfer._frozen import LayerOutput, NetworkInfo, NetworkSource, all_outputs, pool
from sktransfer._utils.forking import new_lock
from sktransfer._utils.logistic import FLOOR

# The last stages that together have this share of the multiply-adds are trained by default: the
# last one of a ResNet or a ConvNeXt, several of networks that are divided more finely.
_TRAINED_SHARE = 0.15

# A column counts at most this many times as far from its center as in any row that was trained on.
_FARTHEST = 2.0
# A step of Adam moves every weight by the rate, and so a logit by as much as there are columns:
# more of them than these are made smaller, so that one rate suits all widths.
_MOST_COLUMNS = 512

_BATCH_NORMS = nn.modules.batchnorm._BatchNorm

# The last whole network that was loaded: the next fold or candidate copies its stages.
_last: dict[tuple, Backbone] = {}
_last_lock = new_lock()


@dataclass(frozen=True)
class Cut:
    """Where a network is cut for training.

    At a ``depth`` of ``n_stages`` the whole network is frozen, its neck included, and the head
    alone is trained. Stages after ``depth`` that are not ``trained`` are frozen too, but run in
    every step (surgical fine-tuning). So are stages that an earlier fit trained and this one does
    not: what they ``learned`` stays part of what is learned.
    """

    depth: int  # leading stages that are frozen and run once per image
    trained: frozenset[int]  # indices of stages
    n_stages: int
    learned: frozenset[int] = frozenset()  # those that earlier fits have trained

    def after(self, learned: frozenset[int]) -> Cut:
        """Return the same cut of a network some of whose stages have been trained already."""
        return replace(self, depth=min(self.depth, *learned), learned=learned)

    @property
    def surgical(self) -> bool:
        """Whether stages after the cut are frozen too."""
        return self.trained | self.learned != frozenset(range(self.depth, self.n_stages))

    @property
    def packed_depth(self) -> int:
        """How many stages hold what was not trained, counting the neck as one."""
        # Frozen stages after the cut are not among what is learned.
        return self.n_stages + 1 if self.surgical or not self.trained else self.depth


def default_depth(backbone: Backbone) -> int:
    """Return how many stages ``freeze_depth="auto"`` keeps frozen."""
    table = describe_stages(backbone)
    costs = table["gmacs"].to_numpy()
    if not costs.sum() > 0:  # of operations that are not counted
        costs = table["n_parameters"].to_numpy()
    left = costs[::-1].cumsum()[::-1] / costs.sum()  # of a stage and all after it
    return int((left >= _TRAINED_SHARE).sum()) - 1


def resolve_freeze_depth(
    freeze_depth: Any, info: NetworkInfo, default: Callable[[], int] = int
) -> Cut:
    """Resolve what ``freeze_depth`` means for a network; ``default`` counts for "auto"."""
    names = [stage.name for stage in info.stages]
    n, name = len(names), info.reference.name
    if isinstance(freeze_depth, str):
        if freeze_depth in ("all", "auto"):
            depth = n if freeze_depth == "all" else default()
        else:
            depth = find_stage(name, names, freeze_depth) + 1
    elif isinstance(freeze_depth, Integral) and not isinstance(freeze_depth, bool):
        depth = int(freeze_depth)
        if not -n <= depth <= n:
            raise ValueError(
                f"freeze_depth={freeze_depth} is out of range: {name} has {n} stages, so it is "
                f"from 0 (train everything) to {n} (train the head alone), or from -{n} to -1 "
                f"(train that many stages and the head). The stages: {', '.join(names)}. A stage "
                "has many of the layers that Keras counts: the first 249 of Inception v3 are those "
                "through 'Mixed_7a'."
            )
        depth += n if depth < 0 else 0
    elif isinstance(freeze_depth, Collection) and not isinstance(freeze_depth, (bytes, dict)):
        for each in freeze_depth:
            if isinstance(each, bool) or not isinstance(each, (str, Integral)):
                raise ValueError(
                    f"freeze_depth as a collection names stages to train, by str or int; got "
                    f"{each!r}."
                )
        wanted = [each if isinstance(each, str) else int(each) for each in freeze_depth]
        trained = frozenset(find_stage(name, names, each) for each in wanted)
        return Cut(min(trained, default=n), trained, n)
    else:
        raise ValueError(
            f"freeze_depth is 'auto', a number of stages, the name of the last frozen stage, "
            f"'all', or a list of the stages to train; got {freeze_depth!r} of type "
            f"{type(freeze_depth).__name__}."
        )
    return Cut(depth, frozenset(range(depth, n)), n)


def head_inputs(which: str, backbone: Backbone) -> tuple[tuple[LayerOutput, ...], list[int]]:
    """Return what a head of ``head__layers`` sees of a network, side by side, and the widths."""
    embedding = (LayerOutput(None, None),)
    if which == "embedding":
        return embedding, [backbone.n_features]
    table = describe_stages(backbone)
    outputs = all_outputs(NetworkInfo.of(backbone), table["output_shape"])
    widths = [*table["n_features"], backbone.n_features]
    return outputs, [int(widths[-1 if each.stage is None else each.stage]) for each in outputs]


def whole_backbone(source: NetworkSource) -> Backbone:
    """Return the network of ``source`` with all its stages; do not change it."""
    with _last_lock:
        found = _last.get(source.key)
    if found is None:
        # Not under the lock: a network that was fine-tuned itself is loaded by coming here again.
        found = source.load()
        with _last_lock:
            _last.clear()
            _last[source.key] = found
    return found


class Part(NamedTuple):
    """A stage or the neck: its stage's index, its names for users and in files, its module."""

    stage: int
    name: str
    key: str
    module: nn.Module
    trained: bool


class Suffix(nn.Module):
    """What comes after the cut: some stages, the neck, the head.

    Frozen stages stay in eval mode and take no gradient whatever ``train`` and ``requires_grad_``
    are told.

    ``freeze_batch_norm`` says whether BatchNorm in trained stages keeps the statistics it was
    published with; its scale and shift are trained all the same. ``shape`` is that of one image's
    activation at the cut, after which, in the same row, come the pooled outputs of stages before it
    that the head sees. ``pooled`` are the stages after the cut that it sees, before the embedding.
    """

    def __init__(
        self,
        backbone: Backbone,
        cut: Cut,
        head: nn.Module,
        *,
        freeze_batch_norm: bool,
        shape: tuple[int, ...],
        pooled: Collection[int] = (),
    ) -> None:
        super().__init__()
        self.cut = cut
        self.shape = shape
        self.freeze_batch_norm = freeze_batch_norm
        own = dict(enumerate(backbone.stages[cut.depth :], cut.depth))
        self.stage_names = {i: stage.name for i, stage in own.items()}
        self.pooled = {f"stage{i}": (own[i].layout, own[i].n_prefix_tokens) for i in pooled}
        self.stages = nn.ModuleDict(
            {f"stage{i}": copy.deepcopy(stage.module) for i, stage in own.items()}
        )
        # Frozen whole, the network returns its embedding: the neck was run before the cut.
        self.neck = copy.deepcopy(backbone.neck) if own else None
        self.head = head
        self.parts = [
            Part(i, name, f"stages.stage{i}", self.stages[f"stage{i}"], i in cut.trained)
            for i, name in self.stage_names.items()
        ]
        if self.neck is not None:  # its parameters are the last stage's
            last = cut.n_stages - 1
            self.parts.append(Part(last, "neck", "neck", self.neck, last in cut.trained))
        for part in self.parts:
            part.module.requires_grad_(part.trained)
        self.head.requires_grad_(True)
        self.train()

    @property
    def dtype(self) -> torch.dtype:
        """The head's: float64 where it was solved exactly and nothing else is trained."""
        return next(self.head.parameters()).dtype

    def forward(self, x: Tensor, *, head: bool = True) -> Tensor:
        """Return logits, (n, n_classes), of raveled activations; or, without, the head's input."""
        n, x = math.prod(self.shape), x.flatten(1)
        seen, x = [x[:, n:]], x[:, :n].reshape(len(x), *self.shape)
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        trained = next(self.stages.parameters(), None)
        if trained is not None:  # activations may be kept in fewer bits than are computed in
            x = x.to(trained.dtype)
        for name, stage in self.stages.items():
            x = stage(x)
            if name in self.pooled:
                seen.append(pool(x, "avg", *self.pooled[name]))
        if self.neck is not None:
            x = self.neck(x).flatten(1)
        dtype = next(self.head.parameters()).dtype
        x = torch.cat([each.to(dtype) for each in (*seen, x)], dim=1)
        return self.head(x) if head else x

    def train(self, mode: bool = True) -> Suffix:
        """Set the mode; what is frozen stays in eval mode."""
        if not mode and not any(module.training for module in self.modules()):
            return self  # as before each batch that is predicted
        super().train(mode)
        for part in self.parts:
            if not part.trained:
                part.module.eval()
            elif self.freeze_batch_norm:
                for module in part.module.modules():
                    if isinstance(module, _BATCH_NORMS):
                        module.eval()
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Suffix:
        """Set whether what is trained takes gradients; what is frozen does not."""
        super().requires_grad_(requires_grad)
        for part in self.parts:
            if not part.trained:
                part.module.requires_grad_(False)
        return self

    def learned(self) -> dict[str, Tensor]:
        """Return the tensors that training may have changed, by name, where they are."""
        return {
            f"{prefix}.{name}": tensor.detach()
            for prefix, module in self._learned_modules.items()
            for name, tensor in module.state_dict().items()
        }

    def saved(self) -> dict[str, Tensor]:
        """Return the tensors of :meth:`learned` as a file holds them."""
        return {name: tensor.cpu().contiguous() for name, tensor in self.learned().items()}

    def restore(self, tensors: dict[str, Tensor], source: Any = None) -> None:
        """Put back what :meth:`learned` returned; if it comes from a ``source``, check it.

        Without, parts of which there is nothing stay as they are.
        """
        for prefix, module in self._learned_modules.items():
            own = {
                name.removeprefix(f"{prefix}."): tensor
                for name, tensor in tensors.items()
                if name.startswith(f"{prefix}.")
            }
            floating = [tensor.dtype for tensor in own.values() if tensor.is_floating_point()]
            if prefix == "head" and floating:
                module.to(floating[0])
            if source is None:
                if own:
                    module.load_state_dict(own)
            else:
                load_strict(module, own, source=f"{source} ({prefix})")

    @property
    def _learned_modules(self) -> dict[str, nn.Module]:
        own = self.cut.trained | self.cut.learned
        return {part.key: part.module for part in self.parts if part.stage in own} | {
            "head": self.head
        }

    def normalizes_batches(self) -> bool:
        """Return whether a part in training mode normalizes with the statistics of a batch."""
        return any(isinstance(m, _BATCH_NORMS) and m.training for m in self.modules())


class Standardized(nn.Module):
    """Inputs of a head, centered, scaled and bounded column by column.

    Columns of all layers differ in size by orders of magnitude, on which steps of one rate act very
    unequally. And one that hardly varies in training may be a thousand deviations away in images
    of another kind: it is scaled as if it varied by a share of the others, and none counts as
    farther than twice the farthest that training has seen.
    """

    center: Tensor
    scale: Tensor
    limit: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(n_features))
        self.register_buffer("limit", torch.full((n_features,), torch.finfo(torch.float32).max))

    @torch.no_grad()
    def measure(self, rows: np.ndarray, weight: np.ndarray) -> None:
        """Take the three of rows; those of weight 0 count nowhere."""
        rows, share = rows[weight > 0], weight[weight > 0] / weight.sum()
        center = share @ rows
        deviation = np.sqrt(share @ (rows - center) ** 2)
        # With the floor of the solver: its penalty and the steps of training see the same columns.
        useful = deviation > 1e-12 * np.maximum(np.abs(center), 1.0)
        scale = np.ones_like(deviation)
        if useful.any():
            scale = 1.0 / np.maximum(deviation, FLOOR * np.median(deviation[useful]))
        scale *= min(1.0, _MOST_COLUMNS / len(scale))
        limit = _FARTHEST * np.abs(rows - center).max(axis=0) * scale
        for name, value in (("center", center), ("scale", scale), ("limit", limit)):
            getattr(self, name).copy_(torch.from_numpy(value))

    @torch.no_grad()
    def absorb(self, linear: nn.Linear, weight: np.ndarray, bias: np.ndarray) -> None:
        """Set the layer that comes next to what it is to be for inputs as they were."""
        center, scale = (each.double().cpu().numpy() for each in (self.center, self.scale))
        linear.weight.copy_(torch.from_numpy(weight / scale))
        linear.bias.copy_(torch.from_numpy(bias + weight @ center))

    def forward(self, x: Tensor) -> Tensor:
        z = (x - self.center) * self.scale
        if self.training and len(z):
            with torch.no_grad():
                torch.maximum(self.limit, _FARTHEST * z.abs().amax(0), out=self.limit)
        bounded = torch.maximum(torch.minimum(z, self.limit), -self.limit)
        return bounded + 0 * z  # infinity stays no number


def make_head(
    head: Any,
    n_features: int,
    n_classes: int,
    dropout: float,
    seed: int,
    link: nn.Module | None = None,
) -> nn.Sequential:
    """Make a head with random weights; torch's global generator is left alone.

    Its inputs are :class:`Standardized`, which changes nothing until it has measured rows.
    ``"linear"`` is one linear layer; (1024, 256) two hidden layers with ReLU before it. A callable
    takes (n_features, n_classes) and returns a module. Dropout is before each linear layer, and
    ``link`` after the last one.
    """
    ending = [] if link is None else [link]
    with private_seed(seed):
        if callable(head):
            made = head(n_features, n_classes)
            if not isinstance(made, nn.Module):
                raise ValueError(
                    "head(n_features, n_classes) must return a torch.nn.Module; it returned "
                    f"{made!r}."
                )
            # A copy: what a factory gives twice must not be trained twice.
            return nn.Sequential(Standardized(n_features), copy.deepcopy(made), *ending)
        widths = [n_features, *(() if isinstance(head, str) else head), n_classes]
        layers: list[nn.Module] = [Standardized(n_features)]
        for i, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
            layers += [nn.ReLU()] if i else []
            layers += [nn.Dropout(dropout)] if dropout else []
            layers.append(nn.Linear(n_in, n_out))
        return nn.Sequential(*layers, *ending)
