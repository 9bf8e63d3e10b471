"""Networks by name: a catalogue, their weights, and each of them as a chain of named stages."""

from sktransfer.backbones._catalogue import describe_backbone, list_backbones
from sktransfer.backbones._chain import (
    Backbone,
    BackboneReference,
    InputSpec,
    Layout,
    Neck,
    Stage,
    find_stage,
)
from sktransfer.backbones._load import architecture, load_backbone
from sktransfer.backbones._state_dict import load_strict, state_dict_digest, tensor_bytes
from sktransfer.backbones._tuned import BackboneProvider, with_tensors

__all__ = [
    "Backbone",
    "BackboneProvider",
    "BackboneReference",
    "InputSpec",
    "Layout",
    "Neck",
    "Stage",
    "architecture",
    "describe_backbone",
    "find_stage",
    "list_backbones",
    "load_backbone",
    "load_strict",
    "state_dict_digest",
    "tensor_bytes",
    "with_tensors",
]
