"""FineTuneClassifier: what a user sees of fine-tuning; how it runs is in ``_fitting``."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from sktransfer._base import ImageInputMixin
from sktransfer._finetune._constraints import CONSTRAINTS, check_together
from sktransfer._finetune._parameters import Parameters
from sktransfer._finetune._predicting import Predicting
from sktransfer._finetune._presets import preset
from sktransfer._finetune._saving import Saving
from sktransfer._images import DicomOptions


class FineTuneClassifier(Parameters, Saving, Predicting):
    """Keep the first stages of a pretrained network frozen, and train the rest on your images.

    The frozen stages run once per image, and what they give is kept (see :ref:`extract-once`).
    Then the head is solved exactly, as a logistic regression on the network's embeddings, and from
    there the stages after the cut are trained together with it [1]_. With everything frozen, the
    solved head is all there is: a linear probe.

    It is a :class:`skorch.NeuralNetClassifier`: ``history_``, callbacks, ``partial_fit``,
    ``module_`` and parameters such as ``optimizer__momentum`` are as skorch users know them.

    Read more in the :ref:`User Guide <finetune>`.

    Parameters
    ----------
    backbone : str, path-like or estimator, default="resnet50"
        Name of a network, as for :class:`PretrainedFeatureExtractor`; or, for a transfer in two
        steps, one that was fine-tuned: a file of :meth:`save`, or ``FrozenEstimator(fitted)``.
    weights : str, path-like, torchvision weights enum member or None, default="default"
        As there. None: random weights, the honest baseline of training from scratch.
    freeze_depth : int, str or collection, default=-1
        Number of leading stages kept frozen: 0 trains everything, the number of stages or
        ``"all"`` trains the head alone, -1 trains the last stage and the head. A stage name: up to
        and including it. A list, tuple or set of stages: these are trained and no others, wherever
        they are (surgical fine-tuning [2]_). Frozen stages stay in inference mode, take no
        gradient, and are in no optimizer.
    head : "linear", tuple of int or callable, default="linear"
        What comes after the embedding: a linear layer; hidden layers of these sizes, each with
        ReLU, and a linear layer; or a callable (n_features, n_classes) -> ``torch.nn.Module``.
    head_init : {"auto", "logistic", "random"}, default="auto"
        ``"logistic"`` solves a linear head by logistic regression on the embeddings before
        anything else is trained. ``"random"`` is the classic start. ``"auto"`` is
        ``"logistic"`` where the head is linear.
    head_C : float, default=0.003
        Inverse strength of the L2 penalty of that logistic regression, on standardized embeddings.
    head_epochs : int or None, default=None
        Epochs in which the head alone is trained first. None: 0 after ``"logistic"``, else 5.
    dropout : float, default=0.0
        Before each linear layer of the head.
    augmentation : str, ImageAugmentation, callable or None, default=None
        What is done at random to the images in training, again in each epoch, and only there:
        ``"light"``, ``"standard"``, ``"medical"``, an :class:`ImageAugmentation`, or a callable
        that takes an image.
    augment_views : int or None, default=None
        Draw that many views of each training image once, run them through the frozen part once,
        and show one of them per epoch, all in turn. None: new draws in each epoch, which have to be
        run through the frozen part each time.
    test_time_views : int or None, default=None
        Average the logits of that many views in predictions: the image as it is, and draws of
        ``augmentation``.
    optimizer : str or torch.optim.Optimizer subclass, default="adamw"
        ``"sgd"``, ``"momentum"``, ``"nesterov"``, ``"rmsprop"``, ``"adagrad"``, ``"adam"``,
        ``"adamw"``. More settings as ``optimizer__betas=...``.
    head_optimizer : str, torch.optim.Optimizer subclass or None, default=None
        Of the epochs of the head alone. None: as ``optimizer``.
    lr : float, default=3e-5
        Learning rate of the last stage. Low, so that a few hundred images do not undo what the
        solved head stands on; thousands bear 1e-4.
    head_lr : float, (float, float) or None, default=None
        Of the head; a pair: in the epochs of the head alone, and after. None: ten times ``lr``, and
        ``lr`` for a head that was solved, which larger steps would only lead away.
    layer_decay : float, default=1.0
        The rate of each stage is that of the next one times this.
    weight_decay : float, default=0.01
        Of weights; biases and the parameters of norms have none.
    lr_schedule : str, default="cosine"
        ``"constant"``, ``"cosine"``, ``"linear"`` (both to ``lr_final``), ``"step"`` (to a tenth
        after a half and after three quarters), ``"one_cycle"``, ``"plateau"`` (to a tenth after
        three epochs without a better loss).
    lr_final : float, default=0.0
        Where "cosine", "linear" and "one_cycle" end, as a share of the rates.
    warmup_epochs : float, default=0.0
        Epochs in which the rates rise to what they are.
    max_epochs : int, default=10
    batch_size : int, default=32
    max_grad_norm : float or None, default=None
        Gradients of a larger norm are shortened to it.
    freeze_batch_norm : bool, default=True
        Whether BatchNorm of trained stages normalizes with the statistics it was published with.
        A few hundred images in small batches are a poor replacement for them.
    validation_fraction : float or None, default=None
        Share of the rows held out in ``fit``, stratified by class; with ``groups``, whole groups.
        Copies of an image are never on both sides.
    train_split : callable or None, default=None
        skorch's way to hold rows out, such as ``skorch.dataset.ValidSplit``.
    early_stopping : int or None, default=None
        End after that many epochs without a better loss on the rows held out.
    restore_best : bool, default=True
        Keep the weights of the best epoch, where rows are held out to tell.
    ema_decay : float or None, default=None
        Keep a moving average of the weights over steps, for example 0.99.
    class_weight : dict, "balanced" or None, default=None
    label_smoothing : float, default=0.0
    loss : {"cross_entropy", "focal"} or callable, default="cross_entropy"
        A callable gives a torch loss of logits and labels. Settings as ``loss__gamma=2``.
    checkpoint_dir : path-like or None, default=None
        Directory for the state of training; a ``fit`` of the same task goes on from there.
    checkpoint_every : int, default=10
        Epochs between states.
    preprocessing, image_size, image_shape, value_range, dicom, scaled_decoding
        As for :class:`PretrainedFeatureExtractor`.
    device, precision, engine, cache, on_error, n_jobs, store_weights
        As there. ``precision="bfloat16"`` and ``"float16"`` train in mixed precision. With
        ``on_error="nan"``, ``fit`` leaves rows that cannot be read out, ``predict_proba`` gives NaN
        for them, and ``predict`` raises.
    activation_dtype : {"auto", "float16", "float32"}, default="auto"
        What activations at the cut are rounded to and kept in, whether they are cached or not.
        ``"auto"`` is float16, half the bytes (probabilities of a given network move by less than
        2e-4, and by up to 2e-3 if its head was solved on few images), and float64 in that
        ``precision``. Embeddings, with everything frozen, are not rounded, nor are draws of
        ``augmentation`` that nothing keeps.
    memory_budget, disk_budget : int or "auto", default="auto"
        Bytes of memory, and of temporary files, that the activations of a ``fit`` may take;
        ``"auto"`` is half of what is free, to each process. Beyond both, a warning, and the frozen
        part is run in every epoch. With a directory as ``cache`` that has room for them they are
        read from there instead of a file.
    warm_start : bool, default=False
        Whether ``fit`` goes on from the present weights.
    callbacks : list or None, default=None
        skorch callbacks.
    random_state : int, RandomState instance or None, default=None
        Decides everything that is drawn. Global random states are left alone.
    verbose : int, default=0
        1 prints a line per epoch and shows the progress of the frozen pass.
    **skorch_kwargs
        ``optimizer__*``, ``loss__*``, ``iterator_train__*``, ``iterator_valid__*`` and
        ``callbacks__*``.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    module_ : torch.nn.Module
        Stages after the cut, neck and head.
    history_ : skorch.history.History
        ``train_loss``, ``train_acc``, ``valid_loss``, ``valid_acc`` and more, per epoch.
    reference_ : BackboneReference
        Name, weights and digest of the network.
    n_epochs_, best_epoch_ : int
        Epochs trained, and the one with the lowest loss.
    train_indices_, valid_indices_ : ndarray of int
        Rows of ``fit`` that were trained on and held out.
    failed_rows_ : DataFrame
        Rows of the last call that could not be read: ``row``, ``source``, ``reason``.
    n_features_in_, feature_names_in_
        Where ``X`` has columns.

    References
    ----------
    .. [1] Kumar, A., Raghunathan, A., Jones, R., Ma, T., & Liang, P. (2022). "Fine-tuning can
       distort pretrained features and underperform out-of-distribution". ICLR.
    .. [2] Lee, Y., et al. (2023). "Surgical fine-tuning improves adaptation to distribution
       shifts". ICLR.

    Examples
    --------
    Random weights, so that nothing has to be downloaded; leave ``weights`` out for the real ones.

    >>> from sklearn.datasets import load_digits
    >>> from sktransfer import FineTuneClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = FineTuneClassifier(
    ...     "squeezenet1_1", weights=None, image_size=32, value_range=(0, 16),
    ...     freeze_depth=-1, max_epochs=2, random_state=0,
    ... ).fit(X[:100], y[:100])
    >>> clf.predict_proba(X[100:103]).shape
    (3, 10)
    >>> len(clf.history_)
    2
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **ImageInputMixin._image_parameter_constraints,
        **CONSTRAINTS,
    }

    def __init__(
        self,
        backbone: Any = "resnet50",
        *,
        weights: Any = "default",
        freeze_depth: Any = -1,
        head: Any = "linear",
        head_init: str = "auto",
        head_C: float = 0.003,
        head_epochs: int | None = None,
        dropout: float = 0.0,
        augmentation: Any = None,
        augment_views: int | None = None,
        test_time_views: int | None = None,
        optimizer: Any = "adamw",
        head_optimizer: Any = None,
        lr: float = 3e-5,
        head_lr: Any = None,
        layer_decay: float = 1.0,
        weight_decay: float = 0.01,
        lr_schedule: str = "cosine",
        lr_final: float = 0.0,
        warmup_epochs: float = 0.0,
        max_epochs: int = 10,
        batch_size: int = 32,
        max_grad_norm: float | None = None,
        freeze_batch_norm: bool = True,
        validation_fraction: float | None = None,
        train_split: Any = None,
        early_stopping: int | None = None,
        restore_best: bool = True,
        ema_decay: float | None = None,
        class_weight: Any = None,
        label_smoothing: float = 0.0,
        loss: Any = "cross_entropy",
        checkpoint_dir: Any = None,
        checkpoint_every: int = 10,
        preprocessing: Any = "weights",
        image_size: int | None = None,
        image_shape: tuple[int, ...] | None = None,
        value_range: tuple[float, float] | tuple[str, float, float] | str | None = None,
        dicom: DicomOptions | None = None,
        scaled_decoding: bool = False,
        device: str | torch.device = "auto",
        precision: str = "float32",
        engine: str = "auto",
        cache: Any = True,
        activation_dtype: str = "auto",
        memory_budget: int | str = "auto",
        disk_budget: int | str = "auto",
        on_error: str = "raise",
        n_jobs: int | None = None,
        store_weights: bool = False,
        warm_start: bool = False,
        callbacks: Any = None,
        random_state: Any = None,
        verbose: int = 0,
        **skorch_kwargs: Any,
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.freeze_depth = freeze_depth
        self.head = head
        self.head_init = head_init
        self.head_C = head_C
        self.head_epochs = head_epochs
        self.dropout = dropout
        self.augmentation = augmentation
        self.augment_views = augment_views
        self.test_time_views = test_time_views
        self.optimizer = optimizer
        self.head_optimizer = head_optimizer
        self.lr = lr
        self.head_lr = head_lr
        self.layer_decay = layer_decay
        self.weight_decay = weight_decay
        self.lr_schedule = lr_schedule
        self.lr_final = lr_final
        self.warmup_epochs = warmup_epochs
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.max_grad_norm = max_grad_norm
        self.freeze_batch_norm = freeze_batch_norm
        self.validation_fraction = validation_fraction
        self.train_split = train_split
        self.early_stopping = early_stopping
        self.restore_best = restore_best
        self.ema_decay = ema_decay
        self.class_weight = class_weight
        self.label_smoothing = label_smoothing
        self.loss = loss
        self.checkpoint_dir = checkpoint_dir
        self.checkpoint_every = checkpoint_every
        self.preprocessing = preprocessing
        self.image_size = image_size
        self.image_shape = image_shape
        self.value_range = value_range
        self.dicom = dicom
        self.scaled_decoding = scaled_decoding
        self.device = device
        self.precision = precision
        self.engine = engine
        self.cache = cache
        self.activation_dtype = activation_dtype
        self.memory_budget = memory_budget
        self.disk_budget = disk_budget
        self.on_error = on_error
        self.n_jobs = n_jobs
        self.store_weights = store_weights
        self.warm_start = warm_start
        self.callbacks = callbacks
        self.random_state = random_state
        self.verbose = verbose
        self._store_component_settings(skorch_kwargs)

    @classmethod
    def preset(cls, name: str, **params: Any) -> FineTuneClassifier:
        """A known recipe.

        Parameters
        ----------
        name : {"recommended", "keras2016", "medical"}
            ``"recommended"``: the defaults, with a fifth held out to choose the epoch by.
            ``"keras2016"``: Inception v3 with a hidden layer of 1024, RMSprop for the head, then
            SGD with momentum for the stages after Mixed_7a. ``"medical"``: Adam from 1e-3 to 1e-4
            with warm-up, L2, early stopping, augmentation that keeps anatomy.
        **params : dict
            Parameters that differ from the recipe's.

        Returns
        -------
        FineTuneClassifier
            Not fitted.
        """
        return cls(**preset(name, params))

    # --- learning --------------------------------------------------------------------------------

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None
    ) -> FineTuneClassifier:
        """Train on images.

        Parameters
        ----------
        X : array-like, DataFrame, Series or sequence of images, n rows
            In any of the :ref:`accepted forms <accepted-inputs>`.
        y : array-like of shape (n,)
            Labels of any kind.
        sample_weight : array-like of shape (n,) or None
        groups : array-like of shape (n,) or None
            Patients, say: rows of one group are not divided between training and validation.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a parameter or the data make no sense; the message says what would.
        ImageDecodeError
            For the first row that cannot be read, with ``on_error="raise"``.
        """
        self._check_parameters()
        go_on = self.warm_start and self.initialized_
        known = self._classes if go_on else None
        rows = self._read(X, y, sample_weight, groups, known, reset=True)
        if not go_on:
            self._start()
        self._run(rows, X, y, go_on=go_on)
        return self

    def partial_fit(
        self,
        X: Any,
        y: Any,
        classes: Any = None,
        sample_weight: Any = None,
        groups: Any = None,
    ) -> FineTuneClassifier:
        """Go on training from the present weights for ``max_epochs``; the first call is a ``fit``.

        Parameters
        ----------
        X, y, sample_weight, groups
            As for :meth:`fit`.
        classes : array-like or None
            All classes there will be, at the first call. None: those of ``y``.

        Returns
        -------
        self
        """
        self._check_parameters()
        first = not self.initialized_
        rows = self._read(
            X, y, sample_weight, groups, classes if first else self._classes, reset=first
        )
        if first:
            self._start()
        self._run(rows, X, y, go_on=not first, declared=classes is not None)
        return self

    def _check_parameters(self) -> None:
        self._validate_params()
        check_together(self)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags
