"""A network that somebody fine-tuned, as a backbone; it must not know who did, or how."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from sktransfer._backbones._chain import Backbone
from sktransfer._backbones._state_dict import state_dict_digest


@runtime_checkable
class BackboneProvider(Protocol):
    """What has a network of its own to give, when it is fitted."""

    def to_backbone(self) -> Backbone:
        """The network, with all its stages; a copy, or never changed again."""


def with_tensors(backbone: Backbone, tensors: Mapping[str, Tensor]) -> Backbone:
    """A copy of ``backbone`` in which some stages, and maybe the neck, hold other tensors.

    Parameters
    ----------
    backbone : Backbone
    tensors : mapping of str to Tensor
        Named as in :meth:`Backbone.modules` (``stage4.0.conv1.weight``, ``neck.norm.bias``); every
        part that is named is named whole. Others than stages and neck are left out.

    Returns
    -------
    Backbone
        Without classifier; its digest is of all its tensors.
    """
    tuned = replace(
        backbone,
        stages=tuple(replace(s, module=copy.deepcopy(s.module)) for s in backbone.stages),
        neck=copy.deepcopy(backbone.neck),
        classifier=None,
    )
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = tensor
    modules: dict[str, Any] = dict(tuned.modules().items())
    for part, own in parts.items():
        if part in modules:
            modules[part].load_state_dict(own)
    tuned.modules().eval().requires_grad_(False)
    reference = replace(backbone.reference, digest=state_dict_digest(tuned.modules()))
    return replace(tuned, reference=reference)
