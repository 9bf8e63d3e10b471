"""Known recipes as parameters; each entry says where it comes from, and nothing runs here."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # The defaults, with the best epoch by a held-out fifth.
    "recommended": {"validation_fraction": 0.2},
    # "Building powerful image classification models using very little data" and the Keras
    # documentation's Inception v3 example (Chollet, 2016): a hidden layer of 1024, RMSprop for the
    # head alone, then SGD with momentum for the top two blocks (its first 249 layers are frozen,
    # which is everything through Mixed_7a).
    "keras2016": {
        "backbone": "inception_v3",
        "freeze_depth": "Mixed_7a",
        "head": (1024,),
        "head_init": "random",
        "head_optimizer": "rmsprop",
        "head_epochs": 10,
        "head_lr": (1e-3, 1e-4),
        "optimizer": "momentum",
        "lr": 1e-4,
        "weight_decay": 0.0,
        "lr_schedule": "constant",
        "max_epochs": 10,
    },
    # The recipe of the course on medical images: Adam from 1e-3 to 1e-4 after a warm-up, L2, early
    # stopping, the best weights, a checkpoint (with checkpoint_dir) every ten epochs.
    "medical": {
        "augmentation": "medical",
        "optimizer": "adam",
        "lr": 1e-3,
        "head_lr": 1e-3,
        "lr_schedule": "linear",
        "lr_final": 0.1,
        "warmup_epochs": 1.0,
        "weight_decay": 1e-4,
        "max_epochs": 30,
        "validation_fraction": 0.2,
        "early_stopping": 10,
        "restore_best": True,
        "checkpoint_every": 10,
        "class_weight": "balanced",
    },
}


def preset(name: str, params: dict[str, Any]) -> dict[str, Any]:
    """Parameters of a recipe, those in ``params`` taking precedence.

    Raises
    ------
    ValueError
        If there is no such recipe.
    """
    if name not in PRESETS:
        raise ValueError(f"There is no preset {name!r}; there are {', '.join(sorted(PRESETS))}.")
    return {**PRESETS[name], **params}
