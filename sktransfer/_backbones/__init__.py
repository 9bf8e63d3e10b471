"""Networks by name: a catalog, their weights, and each of them as a chain of named stages."""

from sktransfer._backbones._catalog import describe_backbone, list_backbones
from sktransfer._backbones._chain import (
    Backbone,
    BackboneProvider,
    BackboneReference,
    InputSpec,
    Layout,
    Neck,
    Stage,
    find_stage,
    with_tensors,
)
from sktransfer._backbones._load import architecture, load_backbone
from sktransfer._backbones._state_dict import (
    check_archive,
    check_kinds,
    check_values,
    load_strict,
    private_seed,
    shortened,
    state_dict_digest,
)

__all__ = [
    "Backbone",
    "BackboneProvider",
    "BackboneReference",
    "InputSpec",
    "Layout",
    "Neck",
    "Stage",
    "architecture",
    "check_archive",
    "check_kinds",
    "check_values",
    "describe_backbone",
    "find_stage",
    "list_backbones",
    "load_backbone",
    "load_strict",
    "private_seed",
    "shortened",
    "state_dict_digest",
    "with_tensors",
]
