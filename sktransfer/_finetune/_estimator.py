"""FineTuneClassifier: what a user sees of fine-tuning; how a fit runs is in ``_fitting``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.utils import Bunch
from sklearn.utils.validation import check_is_fitted
from skorch import NeuralNetClassifier
from torch.utils.data import Dataset

from sktransfer._backbones import (
    Backbone,
    OwnNetwork,
    architecture,
    check_archive,
    check_kinds,
    check_values,
)
from sktransfer._base import (
    NO_FAILED_ROWS,
    ImageInputMixin,
    LogitsMixin,
    derived_seed,
    n_decoding_threads,
    resolve_device,
)
from sktransfer._finetune._activations import Prefix
from sktransfer._finetune._datasets import ImageRows, LabeledRows
from sktransfer._finetune._fitting import make_prefix, run_fit
from sktransfer._finetune._labels import Rows, a_fifth, read_labels
from sktransfer._finetune._network import Suffix, make_head, whole_backbone
from sktransfer._finetune._parameters import CONSTRAINTS, PRESETS, unknown_keyword
from sktransfer._finetune._phases import HEAD, TEST_VIEWS
from sktransfer._finetune._saving import (
    learned_bytes,
    learned_tensors,
    load_estimator,
    packed_weights,
    read_class_names,
    save_estimator,
    without_threshold,
)
from sktransfer._finetune._skorch import TrainingNet
from sktransfer._finetune._targets import KINDS_DIFFER, Findings, Grades, Target
from sktransfer._finetune._training import range_test, read_range_test
from sktransfer._frozen import NetworkSource
from sktransfer._images import DicomOptions, ImageSource, portions, resolve_augmentation
from sktransfer._moving import arrive_from_pickle, places_of
from sktransfer._persistence import found_source, tuned_backbone
from sktransfer._utils.config import free_memory
from sktransfer._utils.multilabel import is_multilabel
from sktransfer._utils.threads import DecodingThreads
from sktransfer.exceptions import ImageDecodeError, WeightsMismatchError

# Fewest rows that are predicted at once, however little memory there is.
_LEAST_ROWS = 32
# What a pickle does not carry: it is made again from what was learned.
_REMADE = (
    *("_prefix_", "_module_", "optimizer_", "criterion_", "callbacks_", "_order", "_scaler"),
    *("virtual_params_", "init_context_", "_default_callbacks", "_head_plan", "_places"),
)


class FineTuneClassifier(ImageInputMixin, TrainingNet, NeuralNetClassifier):
    """Keep the first stages of a pretrained network frozen, and train the rest on your images.

    The frozen stages run once per image, and their output is kept (see :ref:`extract-once`). Then
    the head is solved exactly, as a logistic regression on all layers of the network, and from
    there the stages after the cut are trained together with it [1]_. The result lies between the
    two, as near to the solved head as unseen rows ask for (``weight_interpolation``). With
    everything frozen, the solved head is all there is: a linear probe.

    It is a :class:`~skorch.classifier.NeuralNetClassifier`: ``history_``, callbacks,
    ``partial_fit``, ``module_`` and parameters such as ``optimizer__momentum`` are as skorch users
    know them.

    Read more in the :ref:`User Guide <finetune>`.

    Parameters
    ----------
    backbone : str, path-like, estimator, torch.nn.Module or list, default="resnet50"
        Name of a network, as for :class:`PretrainedFeatureExtractor`; or, for a transfer in two
        steps, one that was fine-tuned: a file of :meth:`save`, or ``FrozenEstimator(fitted)``; or a
        module of your own, or its stages (see :ref:`own-modules`).
    weights : str, path-like, torchvision weights enum member or None, default="default"
        Which weights, as for :class:`PretrainedFeatureExtractor`. None draws random ones, the
        honest baseline of training from scratch.
    freeze_depth : int, str or collection, default="auto"
        Number of leading stages kept frozen: 0 trains everything, the number of stages or
        ``"all"`` trains the head alone, -1 trains the last stage and the head. ``"auto"`` trains
        the last stages that together do 15 % of the network's multiply-adds, so that it means the
        same for every network (:ref:`how-deep`). A stage name: up to and including it. A list,
        tuple or set of stages: these are trained and no others, wherever they are (surgical
        fine-tuning [2]_). Frozen stages stay in inference mode, take no gradient, and are in no
        optimizer.
    trainable : {"all", "affine", "lora"}, default="all"
        Which weights of the trained stages are trained: all of them; gain and bias of the layers
        that normalize, or where there are none, a scale and shift of what convolutions return; or
        updates of low rank of the linear layers, for transformers (see :ref:`trainable`).
    head : "linear", tuple of int or callable, default="linear"
        What comes after the embedding: a linear layer; hidden layers of these sizes, each with
        ReLU, and a linear layer; or a callable (n_features, n_classes) -> ``torch.nn.Module``.
    augmentation : str, ImageAugmentation, callable or None, default=None
        Random changes of the images in training, drawn again in each epoch: ``"light"``,
        ``"standard"``, ``"medical"``, an :class:`~sktransfer.preprocessing.ImageAugmentation`, or a
        callable that takes an image. Held-out rows and predictions have none.
    augment_views : int or None, default=None
        Draw that many views of each training image once, run them through the frozen part once,
        and show one of them per epoch, all in turn. None: new draws in each epoch, which have to be
        run through the frozen part each time.
    optimizer : str or torch.optim.Optimizer subclass, default="adamw"
        ``"sgd"``, ``"momentum"``, ``"nesterov"``, ``"rmsprop"``, ``"adagrad"``, ``"adam"`` or
        ``"adamw"``. More settings as ``optimizer__betas=...``.
    lr : float, default=3e-5
        Learning rate of the last stage. Low, so that a few hundred images do not undo what the
        solved head depends on; thousands bear 1e-4.
    weight_decay : float, default=0.01
        Decay of weights; biases and the parameters of norms have none.
    lr_schedule : str, default="cosine"
        ``"constant"``, ``"cosine"``, ``"linear"`` (both to ``lr_schedule__final``), ``"step"`` (to
        a tenth after a half and after three quarters), ``"one_cycle"``, ``"plateau"`` (to a tenth
        after three epochs without a better loss).
    max_epochs : int, default=10
        Epochs in which the stages after the cut are trained.
    batch_size : int, default=32
        Images per step.
    weight_interpolation : "auto" or float, default="auto"
        How far the weights go from the solved head to what training made of them: 0 keeps the
        probe, 1 what was trained, 0.5 is half way (WiSE-FT [3]_). ``"auto"`` chooses by rows that
        were not trained on, and keeps the probe unless training is better beyond doubt (see
        :ref:`weight-interpolation`).
    validation_fraction : float, callable or None, default=None
        Share of the rows held out in ``fit``, stratified by class; with ``groups``, whole groups.
        Copies of an image are never on both sides. A callable splits like skorch's ``train_split``:
        ``skorch.dataset.ValidSplit``, :class:`~sktransfer.model_selection.GroupedValidSplit`.
    early_stopping : int or None, default=None
        End after that many epochs without a better loss on the rows held out.
    class_weight : dict, list, "balanced" or None, default=None
        Weights of the classes, as in scikit-learn. Of several findings, a dict has for a finding
        the weight of rows that have it, ``{0: ..., 1: ...}`` or ``"balanced"``.
    loss : str or callable, default="cross_entropy"
        ``"cross_entropy"``, of several findings ``"binary_cross_entropy"``; ``"focal"``, of either;
        or ``"cumulative_link"``. A callable returns a torch loss of logits and labels. Settings as
        ``loss__gamma=2``.
        ``"cumulative_link"`` is for classes that have an order, such as grades of a disease: a
        score, and thresholds between neighbors (:ref:`grades`). The order is that of
        ``pandas.Categorical(ordered=True)`` as ``y``, or else sorted.
    preprocessing : {"weights", "resize", "pad"} or callable, default="weights"
        How an image becomes the network's input, as for :class:`PretrainedFeatureExtractor`.
    image_size : int or None, default=None
        Side of that input, in pixels; None: the one that belongs to the weights.
    image_shape : tuple of int or None, default=None
        Shape of an image, if each row of ``X`` holds its pixels.
    value_range : (float, float), "dtype", "percentile", tuple or None, default=None
        What counts as black and white, as for :class:`PretrainedFeatureExtractor`.
    dicom : DicomOptions or None, default=None
        How DICOM files are rendered.
    scaled_decoding : bool, default=False
        Whether large JPEGs are decoded at a fraction of their size.
    device : str or torch.device, default="auto"
        Where to compute; ``"auto"`` takes a GPU if there is one.
    precision : {"float32", "tf32", "float64", "bfloat16", "float16"}, default="float32"
        Of computation. ``"bfloat16"`` and ``"float16"`` train in mixed precision, ``"tf32"`` lets
        GPUs multiply in TF32, which they otherwise do not.
    engine : {"auto", "torch", "openvino"}, default="auto"
        What runs the frozen part, as for :class:`PretrainedFeatureExtractor`.
    cache : bool or path-like, default=True
        Where the store keeps activations for other fits: memory, a directory, or nowhere.
    on_error : {"raise", "nan"}, default="raise"
        What a row that cannot be read does. With ``"nan"``, ``fit`` leaves it out,
        ``predict_proba`` gives NaN for it, and ``predict`` raises.
    n_jobs : int or None, default=None
        Threads that decode; None: as many as torch may use.
    store_weights : bool, default=False
        Whether pickles and files of :meth:`save` hold the pretrained weights too, which makes them
        independent of other files.
    warm_start : bool, default=False
        Whether ``fit`` trains the present weights further. Another ``freeze_depth`` unfreezes more
        stages then, or freezes some again (:ref:`gradual-unfreezing`); ``history_`` continues.
    callbacks : list, "disable" or None, default=None
        skorch callbacks.
    random_state : int, RandomState instance or None, default=None
        Decides everything that is drawn. Global random states are left alone.
    verbose : int, default=0
        1 prints a line per epoch and shows the progress of the frozen pass.
    **kwargs
        Settings of skorch's and torch's components (``optimizer__*``, ``loss__*``,
        ``callbacks__*``, ``iterator_train__*``, ``iterator_valid__*``), and the rare parameters:

        - ``augmentation__test_time_views`` (None): average the logits of that many views in
          predictions: the image as it is, and draws of ``augmentation``.
        - ``cache__activation_dtype`` ("auto"): what activations at the cut are rounded to and kept
          in, ``"float16"`` or ``"float32"``. ``"auto"`` is float16, half the bytes (probabilities
          of a given network move by less than 2e-4, and by up to 2e-3 if its head was solved on few
          images), and float64 in that ``precision``. The pooled layers that the head sees are not
          rounded, nor are draws of ``augmentation`` that nothing keeps.
        - ``cache__memory_budget``, ``cache__disk_budget`` ("auto"): bytes of memory, and of
          temporary files, that the activations of a ``fit`` may take; ``"auto"`` is half of what is
          free, to each process. Beyond both, a warning, and the frozen part is run in every epoch.
          With a directory as ``cache`` that has space for them they are read from there instead of
          a file.
        - ``checkpoint__dir`` (None): directory for the state of training; a ``fit`` of the same
          task resumes from there.
        - ``checkpoint__every`` (10): epochs between states in ``checkpoint__dir``.
        - ``early_stopping__restore_best`` (True): keep the weights of the best epoch, if rows are
          held out.
        - ``head__init`` ("auto"): ``"logistic"`` solves a linear head by logistic regression
          first, ``"random"`` is the classic start. ``"auto"`` solves a head that is linear.
        - ``head__C`` (0.01): inverse strength of the L2 penalty of that regression, on standardized
          columns.
        - ``head__epochs`` (None): epochs in which the head alone is trained first. None: 0 after
          ``"logistic"``, else 5.
        - ``head__optimizer`` (None): optimizer of these epochs. None: ``optimizer``.
        - ``head__layers`` ("all"): what the head sees of the network: every stage, average-pooled,
          and the embedding, side by side, as ``PretrainedFeatureExtractor(layer="all")`` gives
          them, standardized by the images of training; or the ``"embedding"`` alone.
        - ``head__lr`` (None): rate of the head; a pair: in the epochs of the head alone, and after.
          None: ten times ``lr``, and ``lr`` for a head that was solved.
        - ``head__dropout`` (0.0): share of units dropped before each linear layer of the head.
        - ``loss__label_smoothing`` (0.0): share of each label that is spread over all classes.
        - ``lr__layer_decay`` (1.0): the rate of each stage is that of the next one times this.
        - ``lr_schedule__warmup`` (0.0): epochs in which the rates rise to what they are.
        - ``lr_schedule__final`` (0.0): the share of the rates that "cosine", "linear" and
          "one_cycle" end with.
        - ``module__freeze_batch_norm`` (True): whether BatchNorm of trained stages normalizes with
          the statistics it was published with.
        - ``trainable__rank`` (8): rank of the updates of ``trainable="lora"``.
        - ``optimizer__ema_decay`` (None): keep a moving average of the weights over steps, for
          example 0.99.
        - ``optimizer__max_grad_norm`` (None): clip gradients to this norm.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels, sorted; or names of findings, in the order of their columns.
    class_names_ : list of str or None
        Names of the classes: labels that are text, or what ``save`` was given; None if unknown.
    ordered_classes_ : ndarray of shape (n_classes,)
        With ``loss="cumulative_link"``, class labels from the lowest grade on.
    module_ : torch.nn.Module
        Stages after the cut, neck and head.
    history_ : skorch.history.History
        ``train_loss``, ``train_acc``, ``valid_loss``, ``valid_acc`` and more, per epoch; the
        learning rate of its last step as ``lr`` (the largest) and ``lr_by_stage``.
    reference_ : BackboneReference
        Name, weights and digest of the network.
    freeze_depth_ : int
        How many leading stages are kept frozen and run once per image.
    weight_interpolation_ : float
        How far the weights went: 0 is the solved head, 1 what was trained.
    interpolation_losses_ : dict or None
        Log loss of rows that were not trained on, by how far the weights go; None where
        ``weight_interpolation`` was not chosen by it.
    n_epochs_, best_epoch_ : int
        Epochs trained, and the one with the lowest loss.
    train_indices_, valid_indices_ : ndarray of int
        Rows of ``fit`` that were trained on and held out.
    failed_rows_ : DataFrame
        Rows of the last call that could not be read: ``row``, ``source``, ``reason``.
    n_features_in_, feature_names_in_
        Number and names of the columns, if ``X`` has any.

    See Also
    --------
    PretrainedFeatureExtractor : Embed images for any classifier; nothing is trained.
    sktransfer.model_selection.freeze_depth_curve : Compute scores over ``freeze_depth``.

    References
    ----------
    .. [1] Kumar, A., Raghunathan, A., Jones, R., Ma, T., & Liang, P. (2022). "Fine-tuning can
       distort pretrained features and underperform out-of-distribution". ICLR.
    .. [2] Lee, Y., et al. (2023). "Surgical fine-tuning improves adaptation to distribution
       shifts". ICLR.
    .. [3] Wortsman, M., et al. (2022). "Robust fine-tuning of zero-shot models". CVPR.

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
    device: Any
    _prefix_: Prefix

    def __init__(
        self,
        backbone: Any = "resnet50",
        *,
        weights: Any = "default",
        freeze_depth: Any = "auto",
        trainable: str = "all",
        head: Any = "linear",
        augmentation: Any = None,
        augment_views: int | None = None,
        optimizer: Any = "adamw",
        lr: float = 3e-5,
        weight_decay: float = 0.01,
        lr_schedule: str = "cosine",
        max_epochs: int = 10,
        batch_size: int = 32,
        weight_interpolation: Any = "auto",
        validation_fraction: Any = None,
        early_stopping: int | None = None,
        class_weight: Any = None,
        loss: Any = "cross_entropy",
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
        on_error: str = "raise",
        n_jobs: int | None = None,
        store_weights: bool = False,
        warm_start: bool = False,
        callbacks: Any = None,
        random_state: Any = None,
        verbose: int = 0,
        **kwargs: Any,
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.freeze_depth = freeze_depth
        self.trainable = trainable
        self.head = head
        self.augmentation = augmentation
        self.augment_views = augment_views
        self.optimizer = optimizer
        self.lr = lr
        self.weight_decay = weight_decay
        self.lr_schedule = lr_schedule
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.weight_interpolation = weight_interpolation
        self.validation_fraction = validation_fraction
        self.early_stopping = early_stopping
        self.class_weight = class_weight
        self.loss = loss
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
        self.on_error = on_error
        self.n_jobs = n_jobs
        self.store_weights = store_weights
        self.warm_start = warm_start
        self.callbacks = callbacks
        self.random_state = random_state
        self.verbose = verbose
        self._store_keywords(kwargs)

    @classmethod
    def preset(cls, name: str, **params: Any) -> FineTuneClassifier:
        """Return an estimator with a known recipe.

        Parameters
        ----------
        name : {"recommended", "keras2016", "medical"}
            ``"recommended"``: the defaults, with a fifth held out to choose the epoch by.
            ``"keras2016"``: Inception v3 with a hidden layer of 1024, RMSprop for the head, then
            SGD with momentum for the stages after Mixed_7a. ``"medical"``: augmentation that
            keeps anatomy (``augmentation="medical"``), Adam from 1e-4 linearly to 1e-5 with an
            epoch of warm-up, L2 of 1e-4, up to 30 epochs, a fifth held out, early stopping after
            10 epochs, the best weights, checkpoints every 10 epochs. Classes are not weighted, so
            that probabilities fit the share of each class; thresholds are chosen by
            :class:`~sktransfer.model_selection.OperatingPointClassifier`.
        **params : dict
            Parameters that differ from the recipe's.

        Returns
        -------
        FineTuneClassifier
            It is not fitted.

        Raises
        ------
        ValueError
            If there is no such recipe.

        Examples
        --------
        >>> from sktransfer import FineTuneClassifier
        >>> clf = FineTuneClassifier.preset("medical", backbone="resnet18", max_epochs=20)
        >>> clf.lr, clf.max_epochs, clf.augmentation, clf.class_weight
        (0.0001, 20, 'medical', None)
        """
        if name not in PRESETS:
            raise ValueError(
                f"There is no preset {name!r}; use one of {', '.join(sorted(PRESETS))}."
            )
        return cls(**{**PRESETS[name], **params})

    # --- learning --------------------------------------------------------------------------------

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None, **kwargs: Any
    ) -> FineTuneClassifier:
        """Train on images.

        Parameters
        ----------
        X : array-like, DataFrame, Series or sequence of images, n rows
            In any of the :ref:`accepted forms <accepted-inputs>`.
        y : array-like of shape (n,) or (n, n_labels), or sequence of sets
            Labels of any kind; or several findings a row, NaN where unknown (:ref:`findings`).
        sample_weight : array-like of shape (n,), default=None
            Weights of the rows.
        groups : array-like of shape (n,), default=None
            Patients, say: rows of one group are not divided between training and validation.
        **kwargs
            What Keras' ``fit`` takes, such as ``epochs``: refused, with the parameter that it is.

        Returns
        -------
        self : FineTuneClassifier
            Fitted estimator.

        Raises
        ------
        TypeError
            If there is no such keyword.
        ValueError
            If a parameter or the data are invalid; the message says what is expected.
        ImageDecodeError
            For the first row that cannot be read, with ``on_error="raise"``.

        Warns
        -----
        UserWarning
            If ``weight_interpolation="auto"`` keeps the solved head because training destroyed what
            the network knew, or because there are too few rows to say whether training helps.
        """
        for name in kwargs:
            raise TypeError(unknown_keyword(name, self._get_param_names()))
        resume = self.warm_start and self.initialized_
        run_fit(self, X, y, sample_weight, groups, resume=resume)
        return self

    def partial_fit(
        self,
        X: Any,
        y: Any,
        classes: Any = None,
        sample_weight: Any = None,
        groups: Any = None,
    ) -> FineTuneClassifier:
        """Train the present weights for ``max_epochs`` more; the first call is a ``fit``.

        Parameters
        ----------
        X : array-like, DataFrame, Series or sequence of images, n rows
            In any of the :ref:`accepted forms <accepted-inputs>`.
        y : array-like of shape (n,) or (n, n_labels), or sequence of sets
            Labels.
        classes : array-like, default=None
            All classes there will be, at the first call. None: those of ``y``.
        sample_weight : array-like of shape (n,), default=None
            Weights of the rows.
        groups : array-like of shape (n,), default=None
            Groups that are not to be divided between training and validation.

        Returns
        -------
        self : FineTuneClassifier
            Fitted estimator.
        """
        resume = self.initialized_
        run_fit(self, X, y, sample_weight, groups, resume=resume, classes=classes)
        return self

    def find_lr(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        groups: Any = None,
        *,
        lr_min: float = 1e-7,
        lr_max: float = 1.0,
        n_steps: int = 100,
        n_runs: int = 3,
    ) -> Bunch:
        """Look for a learning rate: train clones while the rate rises, and watch the loss.

        The frozen part is run once; this estimator is left as it is. See :ref:`learning-rate` for
        how the suggestion is found and how good it is, and
        :class:`~sktransfer.inspection.LearningRateDisplay` for the plot.

        Parameters
        ----------
        X : array-like, DataFrame, Series or sequence of images, n rows
            In any of the :ref:`accepted forms <accepted-inputs>`.
        y : array-like of shape (n,) or (n, n_labels), or sequence of sets
            Labels.
        sample_weight : array-like of shape (n,), default=None
            Weights of the rows.
        groups : array-like of shape (n,), default=None
            Groups that are not to be divided between training and validation.
        lr_min, lr_max : float, default=1e-7, 1.0
            First and last rate of a run.
        n_steps : int, default=100
            Batches of a run.
        n_runs : int, default=3
            Runs, each with the rows in another order, of which the median counts.

        Returns
        -------
        Bunch
            ``suggestion``, the rate to set as ``lr``, NaN if there is none; ``lr`` and ``loss``,
            ndarrays of shape (n_steps,), NaN once most runs diverged; ``runs``, the loss of each
            run; ``start``, the loss before training; ``valid_loss`` and ``valid_start``, those of a
            fifth of the rows (256 at most) that is held out, at some of the rates (NaN elsewhere).

        Raises
        ------
        ValueError
            If a parameter is invalid, or nothing has a learning rate because the head is all there
            is to train and is solved exactly.

        Warns
        -----
        UserWarning
            If the curve does not say what the rate should be: no descent, a suggestion at an end of
            the range of rates, or rows held out that are told apart no better than by chance, as
            with labels that have nothing to do with the images. The message says what to do.
        """
        if not 0 < lr_min < lr_max:
            raise ValueError(f"lr_min must lie between 0 and lr_max; got {lr_min} and {lr_max}.")
        if n_steps < 10 or n_runs < 1:
            raise ValueError(
                "n_steps must be 10 or more for a curve, and n_runs 1 or more; got "
                f"{n_steps} and {n_runs}."
            )
        net = clone(self).set_params(
            **dict.fromkeys(("early_stopping", "checkpoint__dir", "callbacks")),
            validation_fraction=a_fifth,
            warm_start=False,
            verbose=0,
        )
        rates = np.geomspace(lr_min, lr_max, n_steps)
        found: list[dict[str, np.ndarray]] = []

        def test(net: Any, drawn: LabeledRows, held_out: Any, *_: Any, **__: Any) -> None:
            found.append(range_test(net, drawn, held_out, rates, n_runs))

        run_fit(net, X, y, sample_weight, groups, resume=False, train=test)
        if not found:
            raise ValueError(
                f"With freeze_depth={self.freeze_depth!r} the head is all there is to train, and "
                "it is solved exactly: there is no learning rate to find. Freeze less."
            )
        return Bunch(**read_range_test(rates, found[0]))

    def _read_rows(
        self, y: Any, source: ImageSource, sample_weight: Any, groups: Any, classes: Any
    ) -> Rows:
        """Return ``y`` as its target encodes it; ``classes`` None: those that there are in it."""
        before = self._target if classes is not None and self.initialized_ else None
        if before is not None and isinstance(before, Findings) != is_multilabel(y):
            raise ValueError(KINDS_DIFFER)
        given = (y, source, sample_weight, groups, classes, self)
        rows = read_labels(*given, several=True)[0]
        if self.loss == Grades.loss and type(rows.target) is Target:
            rows.target = Grades.of(rows.target, y, classes, before)
        return rows

    # --- predicting ------------------------------------------------------------------------------

    @property
    def classes_(self) -> np.ndarray:
        """Class labels, sorted."""
        if "_target" not in vars(self):
            raise AttributeError(f"This {type(self).__name__} is not fitted yet: no classes_.")
        return self._target.classes

    @property
    def ordered_classes_(self) -> np.ndarray:
        """Class labels from the lowest grade on."""
        target = vars(self).get("_target")
        if not isinstance(target, Grades):
            raise AttributeError("There is an order only after a fit with loss='cumulative_link'.")
        return target.classes[np.argsort(target.ranks)]

    @property
    def class_names_(self) -> list[str] | None:
        """Names of the classes in the order of ``classes_``, if they are known."""
        return read_class_names(vars(self).get("_class_names"), self.classes_)

    @property
    def freeze_depth_(self) -> int:
        """How many leading stages are kept frozen and run once per image."""
        check_is_fitted(self)
        return self._prefix.cut.depth

    def __sklearn_is_fitted__(self) -> bool:
        return self.initialized_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        graded = self.loss == Grades.loss
        tags.classifier_tags.multi_label = not graded
        tags.classifier_tags.poor_score = graded  # of classes without an order, as in its checks
        return tags

    decision_function = LogitsMixin.decision_function
    predict_proba = LogitsMixin.predict_proba
    predict = LogitsMixin.predict
    score = LogitsMixin.score

    def _logits(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        parts = [part.detach().cpu().double().numpy() for part in self.forward_iter(X)]
        logits = np.concatenate(parts)
        lost = np.flatnonzero(~np.isfinite(logits.max(axis=1)))
        if len(lost) and len(lost := np.setdiff1d(lost, self._failed_rows["row"])):
            raise FloatingPointError(
                f"The network computes NaN or infinity for {len(lost)} row(s), the first is row "
                f"{lost[0]}, whose images can be read: its weights or its precision "
                f"({self._made_with['precision']}) are at fault. Fit again, in float32 or bfloat16 "
                "if this is float16, or load the model from its file again."
            )
        return logits

    def forward_iter(self, X: Any, training: bool = False, device: str = "cpu") -> Iterator[Any]:
        """Compute the logits of rows batch by batch, as skorch does.

        Parameters
        ----------
        X : array-like, DataFrame, Series, sequence of images or Dataset, n rows
            In any of the :ref:`accepted forms <accepted-inputs>`.
        training : bool, default=False
            Whether the module is in training mode.
        device : str, default="cpu"
            Where logits are put.

        Yields
        ------
        Tensor
            Logits of some rows.
        """
        check_is_fitted(self)
        if isinstance(X, Dataset):
            yield from TrainingNet.forward_iter(self, X, training=training, device=device)
            return
        source = self._image_source(X, reset=False)
        at_once = len(source)
        if (
            self._prefix.cut.depth > 0 and at_once > _LEAST_ROWS
        ):  # as many rows as have activations that fit in memory
            budget = self.cache__memory_budget
            fit = free_memory() // 2 if budget == "auto" else int(budget)
            at_once = max(_LEAST_ROWS, fit // self._prefix.row_bytes)
        failures: list[ImageDecodeError] = []
        n_views = self.augmentation__test_time_views or 1
        n_threads = source.n_threads(n_decoding_threads(self.n_jobs))
        with DecodingThreads(n_threads) as pool:
            for some in portions(source, at_once):
                rows = [self._unlabeled(some, pool.map, failures)]
                rows += [self._drawn(some, view, pool.map) for view in range(1, n_views)]
                batches = [TrainingNet.forward_iter(self, d, training) for d in rows]
                for views in zip(*batches, strict=True):
                    yield torch.stack([logits.double() for logits in views]).mean(0).to(device)
                failures += getattr(rows[0], "failures", [])
        self._note_failures(failures, len(source), "given NaN")

    def get_dataset(self, X: Any, y: Any = None) -> Any:
        """Return a dataset of images that were brought to the cut, for skorch's callbacks.

        Parameters
        ----------
        X : array-like, DataFrame, Series, sequence of images or Dataset, n rows
            In any of the :ref:`accepted forms <accepted-inputs>`.
        y : None
            Ignored.

        Returns
        -------
        Dataset
            Its labels are of no meaning.
        """
        if isinstance(X, Dataset):
            return X
        source = self._image_source(X, reset=False)
        failures: list[ImageDecodeError] = []
        dataset = self._unlabeled(source, map, failures)  # read when no pool of ours lives any more
        self._note_failures(failures, len(source), "given NaN")
        return dataset

    def _unlabeled(
        self, source: ImageSource, map_: Any, failures: list[ImageDecodeError]
    ) -> LabeledRows:
        """Return rows as they are, and add those that cannot be read to ``failures``."""
        if self._prefix.cut.depth == 0:
            return self._drawn(source, None, map_)
        activations, failed = replace(self._prefix).extract(
            source,
            cache=self.cache,
            n_threads=n_decoding_threads(self.n_jobs),
            on_error=self.on_error,
            progress=bool(self.verbose),
            total_bytes=len(source) * self._prefix.row_bytes,
        )
        failures += failed
        n = len(source)
        return LabeledRows(activations, np.arange(n), np.zeros(n, dtype=np.int64), np.ones(n))

    def _drawn(self, source: ImageSource, view: int | None, map_: Any) -> ImageRows:
        """Return rows as a draw of the augmentation has them; None: as they are."""
        n = len(source)
        augmentation = None if view is None else resolve_augmentation(self.augmentation)
        seed = derived_seed(self._seed, TEST_VIEWS)
        drawn = (source, self._prefix, augmentation, seed, map_)
        labeled = (np.arange(n), np.zeros(n, dtype=np.int64), np.ones(n))
        dataset = ImageRows(*drawn, *labeled, on_error=self.on_error, by_content=view is not None)
        dataset.epoch = view or 0
        return dataset

    # --- the two parts of the network ------------------------------------------------------------

    @property
    def device_(self) -> str:
        """The device that is computed on."""
        return resolve_device(self.device, self._made_with["precision"])

    def _found(self) -> NetworkSource:
        """Return the network that was fitted, to be found again."""
        return found_source(self.reference_, self._packed, self._found_as, places_of(self))

    @property
    def _prefix(self) -> Prefix:
        """The frozen part; looked for again after unpickling."""
        if "_prefix_" not in vars(self) or self._prefix_.device != self.device_:
            source = self._found()
            self._prefix_ = make_prefix(self, source, whole_backbone(source))
        return self._prefix_

    @property
    def module_(self) -> Suffix:
        """The part that was trained: stages after the cut, neck and head."""
        if "_module_" not in vars(self):
            if "_learned" not in vars(self):
                raise AttributeError(f"This {type(self).__name__} is not fitted yet: no module_.")
            self.initialize_module(learned_tensors(self))
            self._module_.eval()
        return self._module_

    def initialize_module(self, learned: dict[str, torch.Tensor] | None = None) -> Any:
        """Make the part that is trained, with a random head or as it was learned.

        Parameters
        ----------
        learned : dict or None, default=None
            Tensors by name, as of :meth:`save`.

        Returns
        -------
        self : FineTuneClassifier
            The same estimator.
        """
        if learned is None and ("_prefix_" not in vars(self) or "_target" not in vars(self)):
            raise AttributeError(
                f"{type(self).__name__} learns from X and y how large its network is; call fit, or "
                "partial_fit with classes=, instead of initialize."
            )
        prefix, made = self._prefix_ if learned is None else self._prefix, self._made_with
        if learned is None or prefix.cut.surgical or isinstance(self._found_as, OwnNetwork):
            backbone = whole_backbone(prefix.source)
        else:
            backbone = architecture(self.reference_.name, weights=self.reference_.weights)
        of_head = (made["head__dropout"], derived_seed(self._seed, HEAD), self._target.link())
        head = make_head(made["head"], prefix.n_inputs, self._target.width, *of_head)
        module = Suffix(
            backbone,
            prefix.cut,
            head,
            freeze_batch_norm=made["module__freeze_batch_norm"],
            shape=prefix.shape,
            pooled=prefix.pooled,
        )
        for part in module.modules():  # of an architecture alone; its values come next
            if any(t.is_meta for t in (*part.parameters(False), *part.buffers(False))):
                part.to_empty(device="cpu", recurse=False)
        dtype = torch.float64 if made["precision"] == "float64" else torch.float32
        # A layout, not a change of numbers: convolutions need not bring their weights into the one
        # that images have, in every step.
        module.to(device=self.device_, dtype=dtype).to(memory_format=torch.channels_last)
        if learned is not None:
            module.restore(learned, f"this {type(self).__name__}")
        self._module_ = module.to(self.device_)
        return self

    def _make_ready_to_resume(self) -> None:
        """Make what training needs as parameters are now; moments of the same optimizer stay."""
        self.module_.to(self.device_)
        before = vars(self).get("optimizer_")
        self._initialize_virtual_params()
        self._initialize_callbacks()
        self.initialize_criterion()
        self.initialize_optimizer()
        if type(before) is type(self.optimizer_):
            self.optimizer_.state.update(before.state)

    # --- keeping ---------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        state = dict(BaseEstimator.__getstate__(self))
        if self.initialized_:
            # As bytes of a safetensors file: reading them runs no code.
            state["_learned"] = learned_bytes(self)
            state["_failed_rows"] = NO_FAILED_ROWS  # file names may be patients' names
            state["_packed"] = packed_weights(self)
        return {name: value for name, value in state.items() if name not in _REMADE}

    def __setstate__(self, state: dict[str, Any]) -> None:
        TrainingNet.__setstate__(self, state)
        if self.initialized_:
            arrive_from_pickle(self)

    def to_backbone(self) -> Backbone:
        """Return the fine-tuned network without its head, for another estimator to start from.

        Returns
        -------
        Backbone
            All stages, the trained ones among them.
        """
        check_is_fitted(self)
        return tuned_backbone(whole_backbone(self._found()), self.reference_, self.module_.saved())

    def load_params(self, *args: Any, **kwargs: Any) -> None:
        """Load what ``save_params`` wrote, as skorch does, into a fitted estimator.

        Parameters
        ----------
        *args, **kwargs
            As for :meth:`skorch.net.NeuralNet.load_params`.

        Raises
        ------
        WeightsMismatchError
            If a file is damaged, or its tensors cannot be weights; nothing is changed then.
        """
        check_is_fitted(self)

        def check(module: Any, tensors: dict[str, torch.Tensor], *_: Any) -> None:
            own = module.state_dict()
            # Torch would find out after it has filled the others.
            wrong = [n for n in own if n not in tensors or tensors[n].shape != own[n].shape]
            if wrong:
                raise WeightsMismatchError(
                    f"The file of save_params is of another network: {wrong[0]!r} is missing in it "
                    "or has another shape."
                )
            check_kinds(tensors, "the file of save_params", own)
            check_values(tensors, "the file of save_params")

        hook = self.module_.register_load_state_dict_pre_hook(check)
        given, self.device = self.device, self.device_  # "auto" is no device of torch's
        try:
            for file in (*args, *kwargs.values()):
                if isinstance(file, (str, os.PathLike)):
                    check_archive(file, file)
            TrainingNet.load_params(self, *args, **kwargs)
        finally:
            hook.remove()
            self.device = given

    def save(self, path: str | os.PathLike[str], *, class_names: Any = None) -> None:
        """Write parameters and what was learned, as JSON inside a safetensors file.

        A digest of all of it is written too, by which :meth:`load` detects damage and edits.

        Parameters
        ----------
        path : path-like
            The file; ``.safetensors`` is customary. No image's name or pixels are in it.
        class_names : mapping of labels to str, or sequence of str, default=None
            Names of the classes, by label or in the order of ``classes_``, where labels are numbers
            or booleans: :meth:`load` makes them ``class_names_``, and ``python -m sktransfer
            report`` finds the classes of folders by them. None: ``class_names_``.

        Raises
        ------
        ValueError
            If a parameter is code (a callable, a class, callbacks), which such a file cannot hold,
            or if there is not a name for each class; the message names it.
        """
        check_is_fitted(self)
        save_estimator(self, path, class_names)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, weights: Any = None, **params: Any
    ) -> FineTuneClassifier:
        """Read what :meth:`save` wrote, and find the pretrained weights; no code is run.

        Parameters
        ----------
        path : path-like
            The file.
        weights : path-like, default=None
            File of the pretrained weights, or a folder that it is somewhere in. None: they are
            looked for next to ``path`` and in the usual places (see :ref:`moving`). Whatever the
            file is called, its digest has to be that of the weights in ``fit``.
        **params : dict
            Parameters to take instead of those in the file (``device="cpu"``, say).

        Returns
        -------
        FineTuneClassifier
            Fitted estimator.

        Raises
        ------
        WeightsNotFoundError
            If there are no pretrained weights of the right digest; the message says where they
            were looked for.
        WeightsMismatchError
            If the file was damaged or edited, is of another kind, or of another version, or if
            ``weights`` is a file with another digest.
        ValueError
            If a parameter is invalid.

        Warns
        -----
        UserWarning
            If the file holds a threshold too, which this estimator does not use.
        """
        net, operating_point = load_estimator(cls, path, {"weights": weights, **params})
        return without_threshold(net, path, operating_point)
