"""Networks of timm under the names ``"timm/NAME"``, where timm is installed.

How a network is cut into stages is in ``_timm_stages``.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from sktransfer._backbones._chain import Backbone, BackboneReference, InputSpec
from sktransfer._backbones._state_dict import (
    check_kinds,
    check_values,
    private_seed,
    read_state_dict,
    shortened,
    state_dict_digest,
)
from sktransfer._backbones._timm_stages import cut
from sktransfer._backbones._weights_files import (
    WeightsFile,
    checkpoints_directory,
    default_or_path,
    digest_in_name,
    find_weights_file,
    open_weights_path,
)
from sktransfer._utils import config as _config
from sktransfer.exceptions import (
    UnknownBackboneError,
    WeightsDownloadError,
    WeightsMismatchError,
    WeightsNotFoundError,
)

PREFIX = "timm/"
# In the order in which the hub's repositories offer them.
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "lanczos")
# Columns of the catalog that only a network that has been built could fill.
_UNKNOWN = ("n_parameters", "n_features", "n_stages", "gmacs", "imagenet_top1", "download_mb")


def names() -> list[str]:
    """Return timm's names with the prefix."""
    return [PREFIX + name for name in _timm().list_models()]


def load(
    name: str, weights: Any = "default", seed: int | None = 0, file: WeightsFile | None = None
) -> Backbone:
    """Load ``"timm/NAME"`` or ``"timm/NAME.TAG"``, with the arguments of ``load_backbone``."""
    if weights is None:
        network = _build(name, seed)
        reference = BackboneReference(name, None, seed, state_dict_digest(network))
        return _as_backbone(network, reference)
    hint = f'; another tag is another name, such as "{PREFIX}NAME.TAG"'
    file, kept = default_or_path(name, weights, lambda: _default_file(name), file, hint)
    tensors = read_state_dict(file)
    network = _build(name, 0, tensors, file.path)
    check_kinds(tensors, file.path, network.state_dict())
    check_values(network.state_dict(), file.path)
    return _as_backbone(network, BackboneReference(name, kept, None, file.digest, file.size))


def architecture(name: str, weights: object = "default") -> Backbone:
    """Return the chain for its stages, shapes and sizes; its numbers mean nothing.

    It is on the CPU, unlike the other providers': how it can be cut is found out by running it.
    """
    return _as_backbone(_build(name, 0), BackboneReference(name, None, 0, "meta"))


def file_here(name: str, weights: object = "default") -> Path | None:
    """Return where the published weights are on this machine, or None."""
    return _file_here(_pretrained_cfg(name), _plain(name))


def catalog_rows() -> list[dict[str, object]]:
    """Return one row per network, with the little that is known without building it."""
    timm = _timm()
    families = {
        PREFIX + plain: module
        for module in timm.list_modules()
        for plain in timm.list_models(module=module)
    }
    rows: list[dict[str, object]] = []
    for name in names():
        cfg = _pretrained_cfg(name)
        rows.append(
            {
                **dict.fromkeys(_UNKNOWN, float("nan")),
                "name": name,
                "provider": "timm",
                "family": families[name],
                "image_size": cfg["input_size"][-1],
                "default_weights": _published_name(cfg),
                "available_offline": _file_here(cfg, _plain(name)) is not None,
            }
        )
    return rows


def _timm() -> ModuleType:
    return _config.import_optional("timm", extra="timm", purpose='A backbone named "timm/NAME"')


def _plain(name: str) -> str:
    return name.removeprefix(PREFIX)


def _pretrained_cfg(name: str) -> dict[str, Any]:
    """Return what timm records of a network's published weights and of their transform."""
    timm, plain = _timm(), _plain(name)
    try:
        cfg = timm.get_pretrained_cfg(plain, allow_unregistered=True)
    except RuntimeError as error:  # the network is known, the tag behind the dot is not
        known = timm.list_pretrained(plain.split(".")[0] + ".*")
        raise UnknownBackboneError(
            f"timm has no weights {plain!r}. It has: "
            f"{', '.join(PREFIX + each for each in known) or 'none of that network'}."
        ) from error
    return {} if cfg is None else cfg.to_dict()


def _build(
    name: str,
    seed: int | None,
    state_dict: dict[str, torch.Tensor] | None = None,
    source: Path | None = None,
) -> Any:
    timm = _timm()
    plain = _plain(name)
    # create_model would take "hf-hub:USER/REPO" too and run with what it finds there.
    if not timm.is_model(plain) or ":" in plain:
        close = timm.list_models(f"*{plain.split('.')[0].split('_')[0]}*")[:3]
        hint = f" Similar names: {', '.join(PREFIX + c for c in close)}." if close else ""
        raise UnknownBackboneError(
            f"The installed timm {timm.__version__} has no network {plain!r}.{hint} "
            "timm.list_models(pretrained=True) lists all of them."
        )
    loaded = {} if state_dict is None else {"state_dict": state_dict}
    try:
        with private_seed(seed), torch.device("cpu"):
            # Handed over as tensors, the weights go through timm's own renaming of old names.
            network = timm.create_model(
                plain, pretrained=state_dict is not None, pretrained_cfg_overlay=loaded or None
            )
    except (RuntimeError, KeyError) as exc:
        if state_dict is None:
            raise
        raise WeightsMismatchError(
            f"The tensors of {source} do not fit {name}: {shortened(exc)} They must come from "
            "this architecture with its published number of classes."
        ) from exc
    network.pretrained_cfg.pop("state_dict", None)  # or the tensors would be kept twice
    return network.eval().requires_grad_(False)


def _as_backbone(network: Any, reference: BackboneReference) -> Backbone:
    spec = input_spec(network)
    return Backbone(reference, spec, *cut(network, spec.crop_size))


def input_spec(network: Any) -> InputSpec:
    """Return what timm's evaluation transform does, as numbers."""
    from timm.data import resolve_model_data_config

    config = resolve_model_data_config(network)
    channels, height, width = config["input_size"]
    if channels != 3 or height != width:
        raise UnknownBackboneError(
            f"{PREFIX}{network.pretrained_cfg.get('architecture')} takes images of shape "
            f"{tuple(config['input_size'])}; only square ones with three channels are supported."
        )
    interpolation = config["interpolation"]
    return InputSpec(
        crop_size=height,
        resize_size=math.floor(height / config["crop_pct"]),
        # "random" is for training; timm itself falls back on bilinear.
        interpolation=interpolation if interpolation in _INTERPOLATIONS else "bilinear",
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        resize_mode="squash" if config["crop_mode"] == "squash" else "shortest",
    )


def _default_file(name: str) -> WeightsFile:
    cfg = _pretrained_cfg(name)
    if not (cfg.get("hf_hub_id") or cfg.get("url")):
        _build(name, 0)  # raises if the name is unknown, which is the likelier reason
        raise WeightsNotFoundError(
            f"timm publishes no weights for {name}. Give weights= a file, or None for random "
            "weights; timm.list_models(pretrained=True) lists the names that have some."
        )
    path = _file_here(cfg, _plain(name))
    if path is None:
        path = _from_network(cfg, name)
    if digest_in_name(path.name):  # it is checked
        return find_weights_file(path.name, url=cfg.get("url"))
    file = open_weights_path(path)
    # The hub's cache keeps big files under the sha256 it was told.
    announced = path.resolve().name
    if _SHA256.fullmatch(announced) and announced != file.sha256:
        raise WeightsMismatchError(
            f"{path} is damaged: its sha256 is {file.sha256}, the hub announced {announced}. "
            "Delete it to have it downloaded again."
        )
    return file


def _published_name(cfg: dict[str, Any]) -> str | None:
    tag = cfg.get("tag")
    return f"{cfg['architecture']}.{tag}" if tag else cfg.get("architecture")


def _local_names(cfg: dict[str, Any], plain: str) -> list[str]:
    """Return the names under which somebody may have put the weights into a folder."""
    stems = dict.fromkeys(s for s in (plain, _published_name(cfg)) if s)
    found = [f"{stem}{suffix}" for stem in stems for suffix in (".safetensors", ".pth", ".bin")]
    if cfg.get("url"):
        found.append(str(cfg["url"]).rpartition("/")[2])
    return found


def _file_here(cfg: dict[str, Any], plain: str) -> Path | None:
    for directory in (_config.weights_directory(), checkpoints_directory()):
        if directory is None:
            continue
        for filename in _local_names(cfg, plain):
            if (directory / filename).is_file():
                return directory / filename
    return _in_hub_cache(cfg)


def _in_hub_cache(cfg: dict[str, Any]) -> Path | None:
    if not cfg.get("hf_hub_id"):
        return None
    from huggingface_hub import try_to_load_from_cache

    for filename in _hub_files(cfg):
        found = try_to_load_from_cache(cfg["hf_hub_id"], filename)
        if isinstance(found, str):
            return Path(found)
    return None


def _hub_files(cfg: dict[str, Any]) -> tuple[str, ...]:
    named = cfg.get("hf_hub_filename")
    return (named,) if named else _HUB_FILES


def _from_network(cfg: dict[str, Any], name: str) -> Path:
    if not cfg.get("hf_hub_id"):
        url = str(cfg["url"])
        return find_weights_file(url.rpartition("/")[2], url=url).path
    if _config.offline():
        raise _not_found(cfg, name, f"{_config.OFFLINE_VARIABLE} is set, which forbids downloads")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    for filename in _hub_files(cfg):
        try:
            return Path(hf_hub_download(cfg["hf_hub_id"], filename))
        except LocalEntryNotFoundError as exc:  # no connection
            raise _not_found(cfg, name, "the hub cannot be reached") from exc
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, OSError) as exc:
            raise WeightsDownloadError(
                f"The download of {filename} of {cfg['hf_hub_id']} failed: {shortened(exc)}"
            ) from exc
    raise _not_found(cfg, name, f"{cfg['hf_hub_id']} offers none of {', '.join(_hub_files(cfg))}")


def _not_found(cfg: dict[str, Any], name: str, reason: str) -> WeightsNotFoundError:
    first = _local_names(cfg, _plain(name))[0]
    return WeightsNotFoundError(
        f"The weights of {name} are not on this machine, and {reason}. On a machine with network, "
        f"fetch {_hub_files(cfg)[0]!r} of the hub repository {cfg['hf_hub_id']!r} and put it as "
        f"{first!r} into a folder named by {_config.WEIGHTS_DIR_VARIABLE}, or into "
        f"{checkpoints_directory()}; weights=PATH takes it from anywhere."
    )
