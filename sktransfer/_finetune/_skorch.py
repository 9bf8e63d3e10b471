"""A skorch net with scikit-learn's rules for parameters, and the steps that skorch's loop calls.

It must not know images or backbones: it is given datasets and a module.
"""

from __future__ import annotations

import copy
import multiprocessing
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from skorch import NeuralNet
from skorch.callbacks import Callback, EpochTimer, LRScheduler, PassthroughScoring, PrintLog
from skorch.utils import to_numpy
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from sktransfer._finetune._adapters import RATES
from sktransfer._finetune._network import Standardized, Suffix
from sktransfer._finetune._optimizers import PerRowLoss, WeightedLoss, make_optimizer
from sktransfer._finetune._parameters import CONSTRAINTS, unknown_parameter
from sktransfer._finetune._targets import CumulativeLink, Target
from sktransfer._finetune._training import TrainingStopped, raised_by_code, within_memory
from sktransfer._frozen import float32_products

_HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class TrainingNet(NeuralNet):
    """A skorch net whose constructor stores parameters and does nothing else.

    skorch takes every attribute without a trailing underscore for a parameter, accepts any
    ``prefix__name``, and re-initializes a fitted net when one is set; scikit-learn wants
    constructors that only store, errors for unknown names, and nothing done before ``fit``. What
    skorch's constructor would set besides is here as class attributes.
    """

    # Whose settings are handed on, whatever they are called.
    prefixes_: ClassVar[list[str]] = [
        *("iterator_train", "iterator_valid", "callbacks", "optimizer", "loss")
    ]
    cuda_dependent_attributes_: ClassVar[list[str]] = []
    _modules: ClassVar[list[str]] = ["module"]
    _criteria: ClassVar[list[str]] = ["criterion"]
    _optimizers: ClassVar[list[str]] = ["optimizer"]
    _params_to_validate: frozenset[str] = frozenset()
    history_: Any = None
    initialized_ = False
    virtual_params_: ClassVar[dict[str, Any]] = {}

    module = Suffix
    criterion = WeightedLoss
    iterator_train = DataLoader
    iterator_valid = DataLoader
    dataset = Dataset
    predict_nonlinearity = "auto"
    compile = False
    use_caching = "auto"
    torch_load_kwargs = None
    classes = None
    phase_ = "all"  # or "head", while the head is trained alone
    callbacks: Any
    callbacks_: list[tuple[str, Callback]]
    criterion_: Any = None  # a pickle does not carry it
    _default_callbacks: Any = ()  # made with each net's callbacks
    # Whether the head is solved, its linear layer if it is only that, and its rate alone.
    _head_plan: tuple[bool, nn.Linear | None, float]
    _made_with: dict[str, Any]
    _target: Target  # what y is of
    device: Any
    _scaler: torch.amp.GradScaler | None = None
    _rows_at_once: int | None = None
    _has_accuracy: ClassVar[bool] = True  # whether predictions are right or wrong
    _named_loss: ClassVar[Any] = WeightedLoss  # of a ``loss`` that is a name
    _head_penalty: ClassVar[str] = "head__C"  # the parameter that a head is solved with

    # --- parameters ------------------------------------------------------------------------------

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = CONSTRAINTS

    # The defaults of the rare parameters, which the constructor takes as keywords.
    augmentation__test_time_views: int | None = None
    cache__activation_dtype: str = "auto"
    cache__disk_budget: int | str = "auto"
    cache__memory_budget: int | str = "auto"
    checkpoint__dir: Any = None
    checkpoint__every: int = 10
    early_stopping__restore_best: bool = True
    head__C: float = 0.01  # noqa: N815 - scikit-learn's C
    head__dropout: float = 0.0
    head__epochs: int | None = None
    head__init: str = "auto"
    head__layers: str = "all"
    head__lr: Any = None
    head__optimizer: Any = None
    loss__label_smoothing: float = 0.0
    lr__layer_decay: float = 1.0
    lr_schedule__final: float = 0.0
    lr_schedule__warmup: float = 0.0
    module__freeze_batch_norm: bool = True
    optimizer__ema_decay: float | None = None
    optimizer__max_grad_norm: float | None = None
    trainable__rank: int = 8

    __setattr__ = object.__setattr__
    __delattr__ = object.__delattr__
    __repr__ = BaseEstimator.__repr__
    __setstate__ = BaseEstimator.__setstate__
    get_metadata_routing = BaseEstimator.get_metadata_routing

    def _store_keywords(self, keywords: dict[str, Any]) -> None:
        """Keep rare parameters and settings such as ``optimizer__momentum``; refuse any other."""
        for name, value in keywords.items():
            # scikit-learn tries the name of the catch-all itself on every constructor, which must
            # not raise. ``fit`` does.
            if name != "kwargs" and not self._is_prefixed(name):
                raise TypeError(self._unknown(name))
            setattr(self, name, value)

    def _is_prefixed(self, name: str) -> bool:
        prefix, _, rest = name.partition("__")
        return name in self._rare or (bool(rest) and prefix in self.prefixes_)

    def _unknown(self, name: str) -> str:
        return unknown_parameter(name, self)

    @property
    def _rare(self) -> list[str]:
        """Names of the rare parameters."""
        return sorted(name for name in self._parameter_constraints if "__" in name)

    def _get_param_names(self) -> list[str]:
        """Return the names of the constructor, and those with a prefix that were given."""
        signature = BaseEstimator._get_param_names.__func__(type(self))
        given = [name for name in vars(self) if "__" in name or name == "kwargs"]
        return [*signature, *sorted(given)]

    def get_params(self, deep: bool = True, **kwargs: Any) -> dict[str, Any]:
        """Return the parameters.

        Parameters
        ----------
        deep : bool, default=True
            Whether to return those of estimators among the parameters and the rare parameters with
            their defaults too. Without, rare parameters are returned where they were given.
        **kwargs : dict
            Ignored; skorch passes some.

        Returns
        -------
        dict
            Parameter names and values.
        """
        params = BaseEstimator.get_params(self, deep=deep)
        return {**{name: getattr(self, name) for name in self._rare}, **params} if deep else params

    def set_params(self, **params: Any) -> Any:
        """Set parameters, which count from the next ``fit`` on.

        Parameters
        ----------
        **params : dict
            Own ones, rare ones (``head__C``), nested ones (``augmentation__rotation_range``) and
            settings of components (``optimizer__momentum``).

        Returns
        -------
        self : FineTuneClassifier
            The same estimator.

        Raises
        ------
        ValueError
            If there is no such parameter.
        """
        own = {}
        for name, value in params.items():
            prefix = name.partition("__")[0]
            nested = hasattr(params.get(prefix, getattr(self, prefix, None)), "set_params")
            if self._is_prefixed(name) and (name in self._rare or not nested):
                setattr(self, name, value)
            elif nested or name in self._get_param_names():
                own[name] = value
            else:
                raise ValueError(self._unknown(name))
        BaseEstimator.set_params(self, **own)
        return self

    # --- what skorch asks for --------------------------------------------------------------------

    check_is_fitted = check_is_fitted

    def initialize(self) -> TrainingNet:
        """Make the module, the loss, the optimizer and the callbacks again.

        Returns
        -------
        self : FineTuneClassifier
            The same estimator.
        """
        self.check_training_readiness()
        self._initialize_virtual_params()
        self._initialize_callbacks()
        for part in ("module", "criterion", "optimizer"):
            with self._current_init_context(part):
                getattr(self, f"initialize_{part}")()
        self.history_ = None
        self._initialize_history()
        self.initialized_ = True
        return self

    def initialize_criterion(self) -> TrainingNet:
        """Make the loss.

        Returns
        -------
        self : FineTuneClassifier
            The same estimator.
        """
        settings = self.get_params_for("loss")
        if isinstance(self.loss, str):
            made: nn.Module = self._named_loss(self._target.loss_named(self.loss), **settings)
        else:
            if settings.get("weight") is not None:
                settings["weight"] = _weight_of_classes(settings["weight"], self._target.classes)
            made = copy.deepcopy(self.loss(**settings))  # what a factory gives twice is not shared
            made = made if isinstance(made, self._named_loss) else PerRowLoss(made)
        self.criterion_ = made.to(self.device_)
        return self

    def initialize_optimizer(self, triggered_directly: Any = None) -> TrainingNet:
        """Make the optimizer, with a group of parameters per stage that is trained.

        Parameters
        ----------
        triggered_directly : None
            Ignored; skorch passes it.

        Returns
        -------
        self : FineTuneClassifier
            The same estimator.
        """
        module, rates = self.module_, self.head__lr
        without = (nn.Dropout, Standardized, CumulativeLink)
        layers: list[Any] = [m for m in module.head.children() if not isinstance(m, without)]
        linear = layers[0] if len(layers) == 1 and isinstance(layers[0], nn.Linear) else None
        linear = None if linear is None or linear.bias is None else linear
        first = self.head__init
        solved = linear is not None if first == "auto" else first != "random"
        if rates is None:
            rates = self.lr * 10, self.lr * (1 if solved else 10)
        alone, together = rates if isinstance(rates, (tuple, list)) else (rates, rates)
        self._head_plan = solved, linear, alone
        last = module.cut.n_stages - 1
        rate = self.lr * RATES[self.trainable]
        blocks = [
            (part.name, part.module, rate * self.lr__layer_decay ** (last - part.stage))
            for part in module.parts
            if part.trained
        ]
        blocks.append(("head", module.head, together))
        settings = self.get_params_for("optimizer")
        self.optimizer_ = make_optimizer(self.optimizer, blocks, self.weight_decay, settings)
        # Small gradients vanish in float16, whose range is short; not in bfloat16.
        half = self.precision == "float16"
        self._scaler = torch.amp.GradScaler(torch.device(self.device_).type) if half else None
        self._rows_at_once = None
        return self

    def _head_optimizer(self) -> torch.optim.Optimizer:
        """Return an optimizer of the head alone."""
        blocks = [("head", self.module_.head, self._head_plan[2])]
        if self.head__optimizer is not None:
            return make_optimizer(self.head__optimizer, blocks, self.weight_decay, {})
        settings = self.get_params_for("optimizer")
        return make_optimizer(self.optimizer, blocks, self.weight_decay, settings)

    def _initialize_callbacks(self) -> TrainingNet:
        """Make callbacks as skorch does; scores are of class labels, datasets hold codes."""
        self._default_callbacks = [
            ("epoch_timer", EpochTimer()),
            ("train_loss", PassthroughScoring(name="train_loss", on_train=True)),
            ("valid_loss", PassthroughScoring(name="valid_loss")),
        ]
        if self._has_accuracy:
            acc = {"lower_is_better": False}
            train_acc = PassthroughScoring("train_acc", on_train=True, **acc)
            self._default_callbacks[1:1] = [("batch_acc", BatchAccuracy())]
            self._default_callbacks[3:3] = [("train_acc", train_acc)]
            self._default_callbacks.append(("valid_acc", PassthroughScoring("valid_acc", **acc)))
        given = self.callbacks
        if self.verbose and given != "disable":
            self._default_callbacks.append(("print_log", PrintLog(["lr_by_stage"], floatfmt=".4g")))
        # skorch's "disable" would leave no losses in the history; only the printing goes.
        self.callbacks = None if given == "disable" else given
        try:
            super()._initialize_callbacks()
        finally:
            self.callbacks = given
        known = {name for name, _ in self.callbacks_}
        for setting in self.get_params_for("callbacks"):
            if setting.partition("__")[0] not in known:
                raise ValueError(
                    f"callbacks__{setting}: there is no callback of that name; there are "
                    f"{', '.join(sorted(known))}."
                )
        for name, callback in self.callbacks_:
            if isinstance(callback, LRScheduler):
                raise ValueError(
                    f"callbacks: {name!r} would not count, since every step sets the rates again. "
                    "Leave LRScheduler out, and set lr_schedule, lr_schedule__final and "
                    "lr_schedule__warmup."
                )
            watched = getattr(callback, "monitor", None)
            if self.validation_fraction is None and str(watched).startswith("valid_"):
                raise ValueError(
                    f"callbacks: {name!r} watches {watched!r}, of held-out rows, and there are "
                    "none. Set validation_fraction, for example to 0.2, or watch 'train_loss'."
                )
        self._tell_callbacks()
        return self

    def _tell_callbacks(self) -> None:
        """Let scoring callbacks see ``y`` as it was given."""
        for _, callback in self.callbacks_:
            extractor = getattr(callback, "target_extractor", None)
            if extractor is to_numpy or isinstance(extractor, LabelsOfCodes):
                callback.target_extractor = LabelsOfCodes(self._target)

    def notify(self, method_name: str, **cb_kwargs: Any) -> None:
        """Call a method of every callback, one of which may end the training.

        Parameters
        ----------
        method_name : str
            Such as ``"on_epoch_end"``.
        **cb_kwargs : dict
            What the method is given.
        """
        try:
            super().notify(method_name, **cb_kwargs)
        except KeyError as error:
            if "not found in history" not in str(error):
                raise
            recorded = ", ".join(sorted(name for name in self.history[-1] if name != "batches"))
            raise ValueError(
                f"callbacks: one of them watches what is not recorded ({error.args[0]}). There are "
                f"{recorded}."
            ) from error
        except KeyboardInterrupt as error:
            if raised_by_code(error):
                raise TrainingStopped from error
            raise

    def get_all_learnable_params(self) -> Iterator[tuple[str, Tensor]]:
        """Yield names and parameters that take gradients."""
        for name, parameter in self.module_.named_parameters():
            if parameter.requires_grad:
                yield name, parameter

    def infer(self, x: Any, **fit_params: Any) -> Tensor:
        """Compute the logits of a batch, float32 or wider whatever the precision.

        Parameters
        ----------
        x : dict or Tensor
            Activations at the cut, or a dict with them as ``"x"``.
        **fit_params : dict
            Ignored; skorch may pass some.

        Returns
        -------
        Tensor of shape (n, n_classes)
            Logits.
        """
        x = (x["x"] if isinstance(x, Mapping) else torch.as_tensor(x)).to(self.device_)
        forward = self.module_.head if self.phase_ == "head" else self.module_
        precision = self._made_with["precision"]
        half = _HALF.get(precision)
        if half is None:
            context: Any = nullcontext()
        else:
            context = torch.autocast(torch.device(self.device_).type, dtype=half)
            x = x.float()

        def run(rows: slice) -> Tensor:
            """Return the logits of some rows."""
            with context, float32_products(precision, self.device_):
                logits = forward(x[rows])
            return logits.float() if logits.dtype in _HALF.values() else logits

        # With gradients, `train_step_single` divides the batch.
        whole = torch.is_grad_enabled() or not len(x)
        return run(slice(None)) if whole else torch.cat(within_memory(self, run, len(x)))

    def get_loss(
        self, y_pred: Tensor, y_true: Tensor, X: Any = None, training: bool = False
    ) -> Any:
        """Compute the loss of a batch, weighted by row.

        Parameters
        ----------
        y_pred : Tensor of shape (n, n_classes)
            Logits.
        y_true : Tensor of shape (n,)
            Codes of the classes.
        X : dict or None
            The batch: ``"weight"`` of its rows and, if they were mixed, their ``"target"``.
        training : bool, default=False
            Ignored; skorch passes it.

        Returns
        -------
        Tensor
            One number.
        """
        batch = X if isinstance(X, Mapping) else {}
        target = batch.get("target", y_true)
        # Apple's GPUs have no float64.
        target = target.to(y_pred if target.is_floating_point() else y_pred.device)
        weight = batch.get("weight", torch.ones(len(target))).to(self.device_)
        return self.criterion_(y_pred, *self._target.of_loss(target, weight))

    def train_step_single(self, batch: Any, **fit_params: Any) -> dict[str, Any]:
        """Compute the loss and the gradients of a batch, and clip these if asked to.

        Parameters
        ----------
        batch : (dict, Tensor)
            Inputs and labels.
        **fit_params : dict
            Ignored; skorch may pass some.

        Returns
        -------
        dict
            ``"loss"`` and ``"y_pred"``.
        """
        self._set_training(True)
        inputs, labels = batch
        n = len(labels)

        def gradients(rows: slice) -> dict[str, Any]:
            """Return loss and logits of some rows, whose share of the gradients is added up."""
            if rows.start == 0:
                self._zero_grad_optimizer()  # of an attempt that did not fit into memory
            some, own = {name: tensor[rows] for name, tensor in inputs.items()}, labels[rows]
            logits = self.infer(some)
            loss = self.get_loss(logits, own, X=some, training=True)
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"The training loss became {loss.item()} in epoch {len(self.history)}: the "
                    "learning rate is too high for this network and data. Lower lr (now "
                    f"{self.lr}) or head__lr, set optimizer__max_grad_norm, or set "
                    "lr_schedule__warmup."
                )
            share = len(own) / n
            scaled = loss * share
            with float32_products(self._made_with["precision"], self.device_):
                (scaled if self._scaler is None else self._scaler.scale(scaled)).backward()
            return {"loss": loss.detach() * share, "y_pred": logits.detach()}

        parts = within_memory(self, gradients, n)
        loss = torch.stack([part["loss"] for part in parts]).sum()
        step = {"loss": loss, "y_pred": torch.cat([part["y_pred"] for part in parts])}
        if self.optimizer__max_grad_norm is not None:
            if self._scaler is not None:
                self._scaler.unscale_(self.optimizer_)
            parameters = [p for group in self.optimizer_.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.optimizer__max_grad_norm)
        return step

    def _step_optimizer(self, step_fn: Any) -> None:
        if self._scaler is None:
            super()._step_optimizer(step_fn)
            return
        step_fn()
        self._scaler.step(self.optimizer_)
        self._scaler.update()

    def get_iterator(self, dataset: Any, training: bool = False) -> Any:
        """Return the batches of a dataset, in an order of its own when training.

        Parameters
        ----------
        dataset : Dataset
            Whose items are whole batches.
        training : bool, default=False
            Whether to shuffle.

        Returns
        -------
        DataLoader
            The batches.
        """
        kind = "iterator_train" if training else "iterator_valid"
        own = self.get_params_for(kind)
        # Even without workers, an iteration draws a seed, from the global state if from no other.
        settings = {
            "batch_size": self.batch_size,
            "collate_fn": tuple,  # (inputs, labels) as they are: items are whole batches
            "generator": torch.Generator(),
            **own,
        }
        if settings.get("num_workers") and "fork" in multiprocessing.get_all_start_methods():
            # Rows are not pickled: joblib's workers, and Python from 3.14 on, would else do that.
            settings.setdefault("multiprocessing_context", "fork")
        if training:
            self._order = torch.Generator()
            rest = len(dataset) % settings["batch_size"]
            self._set_training(True)
            # A batch of one has no variance for BatchNorm to take.
            lonely = rest == 1 and len(dataset) > 1 and self.module_.normalizes_batches()
            order = {"shuffle": True, "generator": self._order, "drop_last": lonely}
            settings = {**settings, **order, **own}
        return getattr(self, kind)(dataset, **settings)


class BatchAccuracy(Callback):
    """Write the accuracy of every batch into the history."""

    def on_batch_end(
        self, net: Any, batch: Any = None, training: bool = False, **kwargs: Any
    ) -> None:
        """Compare predictions with labels."""
        accuracy = net._target.correct(kwargs["y_pred"], batch[1])
        net.history.record_batch("train_acc" if training else "valid_acc", accuracy)


class LabelsOfCodes:
    """Turn codes into class labels, for skorch's scoring callbacks."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def __call__(self, codes: Any) -> np.ndarray:
        """Return the labels of a batch."""
        return self.target.named(to_numpy(codes))


def _weight_of_classes(weight: Any, classes: np.ndarray) -> Tensor:
    """Return ``loss__weight`` as torch's losses take it, a number for each class."""
    numbers = torch.as_tensor(weight, dtype=torch.float32)
    if numbers.shape != (len(classes),) or not ((numbers >= 0) & numbers.isfinite()).all():
        raise ValueError(
            f"loss__weight needs one positive number for each class of {classes.tolist()}, in this "
            f"order; got {numbers.tolist()!r:.80}. class_weight takes a dict of labels instead."
        )
    return numbers
