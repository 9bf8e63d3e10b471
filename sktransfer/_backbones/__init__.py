"""Networks by name: a catalog, their weights, and each of them as a chain of named stages."""

from sktransfer._backbones._catalog import describe_backbone, describe_stages, list_backbones
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
from sktransfer._backbones._load import architecture, find_again, load_backbone
from sktransfer._backbones._modules import OWN, OwnNetwork, is_own
from sktransfer._backbones._random_weights import draw_again, with_measured_scales
from sktransfer._backbones._state_dict import (
    check_archive,
    check_kinds,
    check_values,
    load_strict,
    private_seed,
    shortened,
    state_dict_digest,
)
from sktransfer._backbones._weights_files import (
    WeightsFile,
    digest_of,
    find_by_digest,
    looks_like_path,
    name_of,
    search_folders,
)

__all__ = [
    "OWN",
    "Backbone",
    "BackboneProvider",
    "BackboneReference",
    "InputSpec",
    "Layout",
    "Neck",
    "OwnNetwork",
    "Stage",
    "WeightsFile",
    "architecture",
    "check_archive",
    "check_kinds",
    "check_values",
    "describe_backbone",
    "describe_stages",
    "digest_of",
    "draw_again",
    "find_again",
    "find_by_digest",
    "find_stage",
    "is_own",
    "list_backbones",
    "load_backbone",
    "load_strict",
    "looks_like_path",
    "name_of",
    "private_seed",
    "search_folders",
    "shortened",
    "state_dict_digest",
    "with_measured_scales",
    "with_tensors",
]
