"""What FineTuneClassifier's parameters may be, alone (in scikit-learn's terms) and together."""

from __future__ import annotations

import os
from enum import Enum
from numbers import Integral, Real
from typing import Any

from sktransfer._finetune._checkpoint import SILENT, identity
from sktransfer._finetune._head import check_head
from sktransfer._finetune._losses import LOSSES, check_loss
from sktransfer._finetune._optimizers import OPTIMIZERS, SCHEDULES
from sktransfer._images import resolve_augmentation
from sktransfer._utils.sklearn_compat import HasMethods, Interval, StrOptions

CONSTRAINTS: dict[str, list[Any]] = {
    "backbone": [str, os.PathLike, HasMethods("fit")],
    "weights": [str, os.PathLike, Enum, None],
    "freeze_depth": [Integral, str, list, tuple, set, frozenset],
    "head": [StrOptions({"linear"}), list, tuple, callable],
    "head_init": [StrOptions({"auto", "logistic", "random"})],
    "head_C": [Interval(Real, 0, None, closed="neither")],
    "head_epochs": [Interval(Integral, 0, None, closed="left"), None],
    "dropout": [Interval(Real, 0, 1, closed="left")],
    "augmentation": [str, callable, None],
    "augment_views": [Interval(Integral, 1, None, closed="left"), None],
    "test_time_views": [Interval(Integral, 1, None, closed="left"), None],
    "optimizer": [StrOptions(set(OPTIMIZERS)), type],
    "head_optimizer": [StrOptions(set(OPTIMIZERS)), type, None],
    "lr": [Interval(Real, 0, None, closed="neither")],
    "head_lr": [Interval(Real, 0, None, closed="neither"), tuple, list, None],
    "layer_decay": [Interval(Real, 0, 1, closed="right")],
    "weight_decay": [Interval(Real, 0, None, closed="left")],
    "lr_schedule": [StrOptions(set(SCHEDULES))],
    "lr_final": [Interval(Real, 0, 1, closed="both")],
    "warmup_epochs": [Interval(Real, 0, None, closed="left")],
    "max_epochs": [Interval(Integral, 0, None, closed="left")],
    "batch_size": [Interval(Integral, 1, None, closed="left")],
    "max_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
    "freeze_batch_norm": ["boolean"],
    "validation_fraction": [Interval(Real, 0, 1, closed="neither"), None],
    "train_split": [callable, None],
    "early_stopping": [Interval(Integral, 1, None, closed="left"), None],
    "restore_best": ["boolean"],
    "ema_decay": [Interval(Real, 0, 1, closed="neither"), None],
    "class_weight": [dict, StrOptions({"balanced"}), None],
    "label_smoothing": [Interval(Real, 0, 1, closed="left")],
    "loss": [StrOptions(set(LOSSES)), callable],
    "checkpoint_dir": [str, os.PathLike, None],
    "checkpoint_every": [Interval(Integral, 1, None, closed="left")],
    "activation_dtype": [StrOptions({"auto", "float16", "float32"})],
    "memory_budget": [Interval(Integral, 0, None, closed="left"), StrOptions({"auto"})],
    "disk_budget": [Interval(Integral, 0, None, closed="left"), StrOptions({"auto"})],
    "warm_start": ["boolean"],
    "callbacks": [list, StrOptions({"disable"}), None],
}


# Settings of skorch's components that parameters of our own decide.
_ELSEWHERE = {
    "optimizer__lr": "lr, head_lr and layer_decay",
    "optimizer__weight_decay": "weight_decay",
    "optimizer__params": "freeze_depth",
}


def check_together(estimator: Any) -> None:
    """Raise ValueError where parameters that are sound by themselves do not go together."""
    check_head(estimator.head)
    augmentation = resolve_augmentation(estimator.augmentation)
    if estimator.augment_views is not None:
        if augmentation is None:
            raise ValueError(
                f"augment_views={estimator.augment_views} keeps draws of augmentation, which is "
                "None."
            )
        if augmentation.mixes:
            raise ValueError(
                "mixup and cutmix mix the images of each batch again, so there are no views to "
                "keep: leave them out, or set augment_views=None."
            )
    check_loss(estimator.loss, estimator.label_smoothing, estimator.head)
    for name, instead in _ELSEWHERE.items():
        if hasattr(estimator, name):
            raise ValueError(f"{name} would not count: set {instead}.")
    held_out = estimator.validation_fraction is not None or estimator.train_split is not None
    if estimator.early_stopping is not None and not held_out:
        raise ValueError(
            f"early_stopping={estimator.early_stopping} watches the loss on rows held out, and "
            "none are: set validation_fraction, for example to 0.2."
        )
    if estimator.validation_fraction is not None and estimator.train_split is not None:
        raise ValueError("Give validation_fraction or train_split, not both.")
    if estimator.checkpoint_dir is not None:
        for name, value in estimator.get_params(deep=False).items():
            if name not in SILENT and name != "random_state":
                identity(value, name)
    if estimator.checkpoint_dir is not None and not isinstance(estimator.random_state, Integral):
        raise ValueError(
            "checkpoint_dir needs an integer random_state: a training that draws again each "
            f"time cannot be taken up again; got random_state={estimator.random_state!r}."
        )
    pair = isinstance(estimator.head_lr, (tuple, list))
    if pair and not (len(estimator.head_lr) == 2 and all(rate > 0 for rate in estimator.head_lr)):
        raise ValueError(f"head_lr as a pair is two positive rates; got {estimator.head_lr!r}.")
    if estimator.test_time_views not in (None, 1) and estimator.augmentation is None:
        raise ValueError(
            f"test_time_views={estimator.test_time_views} averages draws of augmentation, which is "
            "None."
        )
