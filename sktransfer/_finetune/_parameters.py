"""What FineTuneClassifier's parameters may be, alone and together, and known recipes of them."""

from __future__ import annotations

import difflib
import inspect
import os
from enum import Enum
from numbers import Integral, Real
from typing import Any

from torch import nn

from sktransfer._finetune._adapters import RATES
from sktransfer._finetune._checkpoint import identities
from sktransfer._finetune._optimizers import LOSSES, OPTIMIZERS, SCHEDULES
from sktransfer._images import ImageAugmentation, resolve_augmentation
from sktransfer._utils.sklearn_compat import (
    HasMethods,
    Interval,
    StrOptions,
    validate_parameter_constraints,
)

# Names with "__" are the rare parameters, which the constructor takes as keywords.
CONSTRAINTS: dict[str, list[Any]] = {
    "backbone": [str, os.PathLike, HasMethods("fit"), nn.Module, list, tuple],
    "weights": [str, os.PathLike, Enum, None],
    "freeze_depth": [Integral, str, list, tuple, set, frozenset],
    "trainable": [StrOptions(set(RATES))],
    "head": [StrOptions({"linear"}), list, tuple, callable],
    "augmentation": [str, callable, None],
    "augment_views": [Interval(Integral, 1, None, closed="left"), None],
    "optimizer": [StrOptions(set(OPTIMIZERS)), type],
    "lr": [Interval(Real, 0, None, closed="neither")],
    "weight_decay": [Interval(Real, 0, None, closed="left")],
    "lr_schedule": [StrOptions(set(SCHEDULES))],
    "max_epochs": [Interval(Integral, 0, None, closed="left")],
    "batch_size": [Interval(Integral, 1, None, closed="left")],
    "weight_interpolation": [Interval(Real, 0, 1, closed="both"), StrOptions({"auto"})],
    "validation_fraction": [Interval(Real, 0, 1, closed="neither"), callable, None],
    "early_stopping": [Interval(Integral, 1, None, closed="left"), None],
    "class_weight": [dict, list, StrOptions({"balanced"}), None],
    "loss": [StrOptions(set(LOSSES)), callable],
    "warm_start": ["boolean"],
    "callbacks": [list, StrOptions({"disable"}), None],
    "augmentation__test_time_views": [Interval(Integral, 1, None, closed="left"), None],
    "cache__activation_dtype": [StrOptions({"auto", "float16", "float32"})],
    "cache__disk_budget": [Interval(Integral, 0, None, closed="left"), StrOptions({"auto"})],
    "cache__memory_budget": [Interval(Integral, 0, None, closed="left"), StrOptions({"auto"})],
    "checkpoint__dir": [str, os.PathLike, None],
    "checkpoint__every": [Interval(Integral, 1, None, closed="left")],
    "early_stopping__restore_best": ["boolean"],
    "head__C": [Interval(Real, 0, None, closed="neither")],
    "head__dropout": [Interval(Real, 0, 1, closed="left")],
    "head__epochs": [Interval(Integral, 0, None, closed="left"), None],
    "head__init": [StrOptions({"auto", "logistic", "random"})],
    "head__layers": [StrOptions({"all", "embedding"})],
    "head__lr": [Interval(Real, 0, None, closed="neither"), tuple, list, None],
    "head__optimizer": [StrOptions(set(OPTIMIZERS)), type, None],
    "loss__label_smoothing": [Interval(Real, 0, 1, closed="left")],
    "lr__layer_decay": [Interval(Real, 0, 1, closed="right")],
    "lr_schedule__final": [Interval(Real, 0, 1, closed="both")],
    "lr_schedule__warmup": [Interval(Real, 0, None, closed="left")],
    "module__freeze_batch_norm": ["boolean"],
    "optimizer__ema_decay": [Interval(Real, 0, 1, closed="neither"), None],
    "optimizer__max_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
    "trainable__rank": [Interval(Integral, 1, None, closed="left")],
}
RARE: list[str] = sorted(name for name in CONSTRAINTS if "__" in name)

# Settings of torch's optimizers that parameters of the estimator decide.
_ELSEWHERE = {
    "optimizer__lr": "lr, head__lr and lr__layer_decay",
    "optimizer__weight_decay": "weight_decay",
    "optimizer__params": "freeze_depth",
}


def _by_word(table: dict[str, str]) -> dict[str, str]:
    """Turn what is meant by several words into what each word means."""
    return {word: meant for meant, words in table.items() for word in words.split()}


# Names that other libraries have for a parameter: Keras, torch, fastai, scikit-learn, Lightning.
_MEANT = _by_word({
    "backbone": "model base_model arch architecture network net model_name encoder module",
    "weights": "pretrained checkpoint_path",
    "freeze_depth": "trainable_layers freeze freeze_layers frozen fine_tune_at freeze_to "
    "n_frozen layers_to_freeze unfreeze unfreeze_layers",
    "head": "include_top classifier top dense hidden_layer_sizes",
    "head__dropout": "dropout dropout_rate drop_rate ps",
    "head__epochs": "freeze_epochs",
    "augmentation": "augment augmenter transform transforms data_augmentation aug_transforms",
    "augmentation__test_time_views": "tta n_tta test_time_views",
    "optimizer": "opt opt_func solver",
    "optimizer__momentum": "momentum",
    "optimizer__betas": "betas beta_1 beta_2",
    "optimizer__max_grad_norm": "clipnorm clipvalue max_norm gradient_clip_val global_clipnorm",
    "optimizer__ema_decay": "ema use_ema ema_momentum",
    "lr": "learning_rate learning_rate_init eta eta0 base_lr lr_max initial_learning_rate",
    "weight_decay": "decay l2 wd alpha reg kernel_regularizer",
    "lr_schedule": "scheduler lr_scheduler schedule learning_rate_schedule",
    "lr_schedule__warmup": "warmup_epochs",
    "lr_schedule__final": "min_lr final_lr eta_min",
    "max_epochs": "epochs n_epochs num_epochs nb_epoch nb_epochs max_iter n_epoch",
    "batch_size": "bs batch minibatch_size train_batch_size",
    "validation_fraction": "validation_split validation_data val_split val_size valid_pct "
    "test_size train_split",
    "weight_interpolation": "wise_ft wiseft wise_ft_alpha interpolation interpolation_alpha soup",
    "trainable": "peft peft_type peft_config lora use_lora lora_config adapter ssf bn_only "
    "norm_only bias_only train_bn",
    "trainable__rank": "rank lora_rank lora_r lora_dim",
    "early_stopping": "patience n_iter_no_change",
    "early_stopping__restore_best": "restore_best_weights save_best_only load_best",
    "class_weight": "class_weights",
    "loss": "criterion loss_fn loss_func objective",
    "checkpoint__dir": "checkpoint checkpoints checkpoint_dir save_dir dirname",
    "checkpoint__every": "save_freq save_period",
    "image_size": "input_shape target_size img_size size input_size",
    "precision": "amp fp16 bf16 mixed_precision dtype",
    "n_jobs": "workers num_workers",
    "random_state": "seed random_seed",
})  # fmt: skip
_WITHOUT = _by_word({
    "the classes are those of y in fit": "classes num_classes n_classes n_out",
    "cross_validate and searches take scoring=, callbacks skorch's EpochScoring": "metrics scoring",
    "what trainable='lora' adds counts as it is, and lr takes the place of its scale": "lora_alpha "
    "lora_scale lora_dropout",
    "rows are shuffled in each epoch, and all seen": "shuffle steps_per_epoch",
    "the network's own pooling is kept; PretrainedFeatureExtractor has others": "pooling",
})  # fmt: skip
# Values that other libraries have for one of ours, in lower case without signs.
_OTHER_VALUES = _by_word({
    "cross_entropy": "categoricalcrossentropy sparsecategoricalcrossentropy ce crossentropyloss "
    "logloss",
    "binary_cross_entropy": "binarycrossentropy bce bceloss bcewithlogitsloss bcewithlogits",
    "cumulative_link": "cumulativelink cumulativelogit ordinal proportionalodds coral corn pom",
    "cosine": "cosineannealing cosineannealinglr cosinedecay",
    "plateau": "reducelronplateau reduceonplateau",
    "one_cycle": "onecycle onecyclelr fitonecycle",
    "step": "steplr multisteplr piecewiseconstant",
    "float16": "fp16 half mixed 16mixed mixedfloat16",
    "bfloat16": "bf16 bf16mixed mixedbfloat16",
})  # fmt: skip

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
        "head__layers": "embedding",
        "head__init": "random",
        "head__optimizer": "rmsprop",
        "head__epochs": 10,
        "head__lr": (1e-3, 1e-4),
        "optimizer": "momentum",
        "lr": 1e-4,
        "weight_decay": 0.0,
        "lr_schedule": "constant",
        "max_epochs": 10,
        "weight_interpolation": 1.0,  # what was trained is kept as it is
    },
    # A common recipe for medical images: Adam with a rate that falls to a tenth after a warm-up,
    # L2, early stopping, the best weights, and with checkpoint__dir a checkpoint every ten epochs.
    # Two of its usual parts are left out, since they spoil probabilities: a rate of 1e-3, which is
    # for new layers and undoes the solved head in its first epoch, and balanced class weights.
    "medical": {
        "augmentation": "medical",
        "optimizer": "adam",
        "lr": 1e-4,
        "lr_schedule": "linear",
        "lr_schedule__final": 0.1,
        "lr_schedule__warmup": 1.0,
        "weight_decay": 1e-4,
        "max_epochs": 30,
        "validation_fraction": 0.2,
        "early_stopping": 10,
        "early_stopping__restore_best": True,
        "checkpoint__every": 10,
    },
}


def unknown_parameter(name: str, estimator: Any) -> str:
    """Say that there is no such parameter, and list those there are."""
    flat = [each for each in estimator._get_param_names() if "__" not in each]
    rare, passed_on = estimator._rare, estimator.prefixes_
    prefix, separator, rest = name.partition("__")
    alike = [each for each in rare if separator and each.startswith(f"{prefix}__")]
    if rest and _MEANT.get(rest, "").startswith(f"{prefix}__"):
        alike = [_MEANT[rest]]
    plain = "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
    if not alike:
        words = {word: word for word in (*flat, *rare)}
        words |= {
            word: meant
            for word, meant in _MEANT.items()
            if (meant in words or meant not in CONSTRAINTS) and (len(word) > 4 or word == plain)
        }
        ends = [each for each in rare if each.partition("__")[2] == plain]
        close = [plain] if plain in words else difflib.get_close_matches(plain, words, 3)
        alike = [words[word] for word in close] + (ends if plain not in words else [])
    hint = f" Did you mean {' or '.join(dict.fromkeys(alike))}?" if alike else ""
    if name in _WITHOUT:
        hint = f" Leave it out: {_WITHOUT[name]}."
    moves = ImageAugmentation._get_param_names()
    if name in moves:
        hint = f" It is a parameter of augmentation: augmentation=ImageAugmentation({name}=...)."
    elif prefix == "augmentation" and rest in moves:
        hint = (
            " augmentation has to be an object with parameters, for example "
            "ImageAugmentation.preset('light'); a name alone, a function or None has none."
        )
    components = ", ".join(f"{each}__*" for each in sorted(passed_on))
    return (
        f"Invalid parameter {name!r} for {type(estimator).__name__}.{hint} Its parameters are "
        f"{', '.join(flat)}; the rare ones {', '.join(rare)}; and settings of skorch's and torch's "
        f"components {components}."
    )


def unknown_keyword(name: str, known: list[str]) -> str:
    """Say that ``fit`` has no such keyword, and which parameter is meant."""
    meant = _MEANT.get(name, name)
    hint = f": set {meant} in the constructor or by set_params" if meant in [*known, *RARE] else ""
    if name == "validation_data":
        hint += ", to a share or to a callable that says which rows are held out"
    return f"fit() got an unexpected keyword argument {name!r}{hint}."


def _check_words(given: dict[str, Any], constraints: dict[str, list[Any]]) -> None:
    """Refuse a value that another library has for one of ours, with ours."""
    if isinstance(given["lr"], (slice, tuple, list)):
        raise ValueError(
            f"lr={given['lr']!r} has to be one rate, that of the last stage. "
            "lr__layer_decay=0.7 multiplies it by 0.7 for each stage before it."
        )
    if isinstance(given["trainable"], bool):
        raise ValueError(
            f"trainable={given['trainable']} is not known: it says which weights of the trained "
            "stages change: 'all', 'affine' or 'lora'. Which stages are trained is freeze_depth: 0 "
            "trains all of them, 'all' none."
        )
    if isinstance(given["weights"], dict):
        raise ValueError(
            "weights has to be a file, and got a dict of tensors: save it with torch.save(tensors, "
            "'file.pth'), and give weights='file.pth'."
        )
    for name, value in given.items():
        options = constraints.get(name, [])
        words = {each for option in options for each in getattr(option, "options", ())}
        words = {each for each in words if isinstance(each, str)}
        if not isinstance(value, str) or not words or value in words or str in options:
            continue
        plain = "".join(letter for letter in value.lower() if letter.isalnum())
        ours = {each.replace("_", ""): each for each in words}
        close = difflib.get_close_matches(plain, ours, 1)
        meant = _OTHER_VALUES.get(plain, ours[close[0]] if close else None)
        if meant in words:
            raise ValueError(
                f"{name}={value!r} is not known. Did you mean {meant!r}? There are "
                f"{', '.join(map(repr, sorted(words)))}."
            )


def check_parameters(estimator: Any) -> None:
    """Raise an error where a parameter is unknown or invalid, or parameters contradict others."""
    if "kwargs" in vars(estimator):
        raise TypeError(estimator._unknown("kwargs"))
    given = {name: getattr(estimator, name) for name in estimator._get_param_names()}
    constraints = estimator._parameter_constraints
    try:
        validate_parameter_constraints(constraints, given, type(estimator).__name__)
    except ValueError:
        _check_words(given, constraints)
        raise
    _check_components(estimator)
    augmentation = resolve_augmentation(estimator.augmentation)
    asked = {"augment_views": estimator.augment_views}
    if estimator.augmentation__test_time_views != 1:  # the image as it is needs no augmentation
        asked["augmentation__test_time_views"] = estimator.augmentation__test_time_views
    for name, n_views in asked.items():
        if n_views is not None and augmentation is None:
            raise ValueError(
                f"{name}={n_views} needs draws of augmentation, which is None: set augmentation, "
                f"for example to 'light', or leave {name} out."
            )
    if estimator.augment_views is not None and augmentation is not None and augmentation.mixes:
        raise ValueError(
            f"augment_views={estimator.augment_views} keeps views of each image, but mixup and "
            "cutmix mix the images of each batch: leave them out, or set augment_views=None."
        )
    if estimator.early_stopping is not None and estimator.validation_fraction is None:
        raise ValueError(
            f"early_stopping={estimator.early_stopping} watches the loss on held-out rows, and "
            "there are none: set validation_fraction, for example to 0.2."
        )
    rank = estimator.trainable__rank
    if estimator.trainable != "lora" and rank != type(estimator).trainable__rank:
        raise ValueError(
            f"trainable__rank={rank} is the rank of updates of "
            f"trainable='lora', and trainable is {estimator.trainable!r}: leave it out, or set "
            "trainable='lora'."
        )
    rates = estimator.head__lr
    if isinstance(rates, (tuple, list)) and not (len(rates) == 2 and all(r > 0 for r in rates)):
        raise ValueError(
            "head__lr is one positive rate or a pair of them (while the head is trained alone, and "
            f"after that); got {rates!r}."
        )
    if estimator.checkpoint__dir is None:
        return
    identities(estimator)
    if not isinstance(estimator.random_state, Integral):
        raise ValueError(
            "checkpoint__dir needs an integer random_state: a training with other random draws "
            f"each time cannot be resumed; got random_state={estimator.random_state!r}."
        )


def _check_components(estimator: Any) -> None:
    """Refuse what makes no head or loss, and settings that do not exist or would not count."""
    head, loss, optimizer = estimator.head, estimator.loss, estimator.optimizer
    for name, given in (("head", head), ("loss", loss)):
        if isinstance(given, nn.Module):
            raise ValueError(
                f"{name} is a module, {type(given).__name__}, that every fit would train further: "
                "give what makes one, a class or a function."
            )
    sizes = isinstance(head, (list, tuple)) and all(
        isinstance(size, Integral) and not isinstance(size, bool) and int(size) > 0 for size in head
    )
    if not (sizes or head == "linear" or (callable(head) and not isinstance(head, str))):
        raise ValueError(
            "head must be 'linear', a tuple of hidden layer sizes such as (1024,), or a callable "
            f"(n_features, n_classes) -> module; got {head!r}."
        )
    # skorch's default. Of logits it has no lower bound: training would run away from the labels.
    if isinstance(loss, type) and issubclass(loss, nn.NLLLoss) and not callable(head):
        raise ValueError(
            "loss=NLLLoss is of log-probabilities, and the head gives logits: use "
            "loss='cross_entropy', or a head of your own that ends in LogSoftmax."
        )
    for name, instead in _ELSEWHERE.items():
        if name in vars(estimator):
            raise ValueError(f"{name} would not count: set {instead} instead.")
    made_by = {
        "optimizer": OPTIMIZERS[optimizer][0] if isinstance(optimizer, str) else optimizer,
        "loss": estimator._named_loss if isinstance(loss, str) else loss,
    }
    for component, make in made_by.items():
        try:
            accepted = inspect.signature(make).parameters
        except (TypeError, ValueError):  # built in: torch's own message has to do
            continue
        if any(each.kind is each.VAR_KEYWORD for each in accepted.values()):
            continue
        for setting in estimator.get_params_for(component):
            if (component, setting) == ("loss", "weight") and setting not in accepted:
                raise ValueError(
                    "loss__weight is not a setting of this loss: set class_weight, to 'balanced' "
                    "or to a dict {label: weight}."
                )
            if setting not in accepted and f"{component}__{setting}" not in estimator._rare:
                raise ValueError(
                    f"{component}__{setting} is not a setting of {make.__name__}; it has "
                    f"{', '.join(accepted)}."
                )
