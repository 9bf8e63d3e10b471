"""FineTuneRegressor: numbers instead of classes, on the same fit."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from sklearn.base import RegressorMixin
from sklearn.model_selection import GroupKFold
from skorch import NeuralNetRegressor
from torch import Tensor, nn
from torch.nn.functional import huber_loss, l1_loss, mse_loss

from sktransfer._base import ImageInputMixin
from sktransfer._finetune._estimator import FineTuneClassifier
from sktransfer._finetune._fitting import run_fit
from sktransfer._finetune._labels import Rows, read_rows
from sktransfer._finetune._parameters import CONSTRAINTS, unknown_keyword
from sktransfer._finetune._saving import load_estimator, save_estimator
from sktransfer._finetune._skorch import TrainingNet
from sktransfer._finetune._targets import KINDS, Target, Units
from sktransfer._images import DicomOptions, ImageSource
from sktransfer._utils.logistic import FLOOR
from sktransfer._utils.per_row import check_present
from sktransfer._utils.ridge import ABSOLUTE, center_and_scale, solve_ridge
from sktransfer._utils.sklearn_compat import Interval, StrOptions, _check_y

LOSSES = ("squared_error", "absolute_error", "huber")


class NumberLoss(nn.Module):
    """Average a loss of standardized numbers, times the row's weight, over a batch.

    ``delta`` is the residual beyond which Huber's loss [1]_ is that of absolute errors.

    References
    ----------
    .. [1] Huber, P. J. (1964). "Robust estimation of a location parameter". Annals of Mathematical
       Statistics, 35(1), 73-101.
    """

    def __init__(self, loss: str = "squared_error", delta: float = 1.35) -> None:
        super().__init__()
        self.loss = loss
        self.delta = delta

    def each(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the loss of every number."""
        if self.loss == "huber":
            return huber_loss(outputs, target, reduction="none", delta=self.delta)
        return (mse_loss if self.loss == "squared_error" else l1_loss)(
            outputs, target, reduction="none"
        )

    def forward(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the loss of a batch."""
        each = self.each(outputs, target.to(outputs))
        return (each if weight is None else each * weight.to(each)).mean()


@dataclass(frozen=True)
class Numbers(Target):
    """Numbers, a column each, standardized in training.

    ``classes`` number the columns; ``flat`` says whether ``y`` had one and no second dimension.
    """

    center: np.ndarray | None
    scale: np.ndarray | None
    flat: bool
    criterion: NumberLoss

    dtype: ClassVar[Any] = np.float64

    @property
    def loss(self) -> str:  # type: ignore[override]
        """The loss, for each of which a linear head is solved."""
        return self.criterion.loss

    def loss_named(self, loss: str) -> str:
        """Return the loss as it is called."""
        return loss

    @property
    def robust(self) -> bool:
        """Whether a few wild numbers must not decide."""
        return self.criterion.loss != "squared_error"

    def lacking(self, y: np.ndarray) -> str:
        """Say nothing: one row has a mean."""
        return ""

    def weighed(self, y: np.ndarray, weight: np.ndarray, class_weight: Any) -> Numbers:
        """Return these numbers with center and scale of rows of training, the first time."""
        if self.center is not None:
            return self
        center, scale = center_and_scale(y, weight, robust=self.robust)
        return replace(self, center=center, scale=scale)

    def encoded(self, y: np.ndarray) -> np.ndarray:
        """Return standardized numbers."""
        return (y - self.center) / self.scale

    def row_weights(self, y: np.ndarray, weight: np.ndarray, class_weight: Any) -> np.ndarray:
        """Return the weights of rows as they are."""
        return weight

    def named(self, y: np.ndarray) -> np.ndarray:
        """Return numbers in the unit and the form that ``y`` had."""
        numbers = y * self.scale + self.center
        return numbers[:, 0] if self.flat else numbers

    def strata(self, y: np.ndarray) -> np.ndarray:
        """Return the same for all rows: splits are not stratified."""
        return np.zeros(len(y), dtype=int)

    def halves(
        self, y: np.ndarray, units: np.ndarray, seed: int
    ) -> list[tuple[np.ndarray, np.ndarray]] | None:
        """Divide rows into two halves; return for each its rows and the others."""
        if units.max() < 1:
            return None
        folds = GroupKFold(2, shuffle=True, random_state=seed)
        return list(folds.split(y, groups=units))

    def solve(
        self,
        embeddings: np.ndarray,
        y: np.ndarray,
        weight: np.ndarray,
        C: Any,
        units: Units | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return coefficients (n_targets, d) and intercepts for standardized numbers.

        ``C`` is the penalty, or "auto".
        """
        huber = {"squared_error": None, "absolute_error": ABSOLUTE, "huber": self.criterion.delta}
        return solve_ridge(
            embeddings,
            y,
            weight,
            np.arange(len(y)) if C != "auto" or units is None else units(),
            penalty=None if C == "auto" else float(C),
            huber=huber[self.criterion.loss],
            floor=FLOOR,
        )[:2]

    def of_loss(self, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the numbers of a batch, and the weight of each."""
        return y, weight[:, None]

    def shares(self, y: Tensor) -> Tensor:
        """Return numbers as they are."""
        return y

    def mean_loss(self, outputs: Tensor, y: Tensor) -> float:
        """Return the unweighted mean loss."""
        return float(self.log_losses(outputs.numpy(), y.numpy()).mean())

    def affinity(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return how near the outputs of each row are to the numbers of each other, (n, n)."""
        return -(torch.cdist(outputs, y.to(outputs)) ** 2)

    def log_losses(self, logits: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the loss of each row, the mean over its numbers; finite, however wrong it is."""
        outputs, wanted = map(torch.from_numpy, (logits, y))
        each: np.ndarray = self.criterion.each(outputs, wanted).numpy().mean(axis=1)
        worst = float(np.finfo(np.float32).max)
        return np.nan_to_num(each, nan=worst, posinf=worst).clip(max=worst)

    def scaled_losses(self, logits: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Return the loss of each row; numbers have no temperature."""
        return self.log_losses(logits, y)

    def decision(self, logits: np.ndarray) -> np.ndarray:
        """Return what ``predict`` does."""
        return self.predicted(logits)

    def predicted(self, logits: np.ndarray) -> np.ndarray:
        """Return the numbers that the outputs mean."""
        return self.named(logits)

    def written(self) -> dict[str, Any]:
        """Return the numbers as JSON has them."""
        return {
            "kind": "numbers",
            "center": None if self.center is None else self.center.tolist(),
            "scale": None if self.scale is None else self.scale.tolist(),
            "flat": self.flat,
            "loss": self.criterion.loss,
            "delta": float(self.criterion.delta),
        }

    @classmethod
    def read(cls, written: dict[str, Any]) -> Numbers:
        """Return what :meth:`written` was of; raise ValueError for what no fit has found."""
        center, scale = (np.asarray(written[name], dtype=float) for name in ("center", "scale"))
        sound = center.ndim == 1 and center.shape == scale.shape and len(center) > 0
        if not sound or not np.isfinite([center, scale]).all() or not (scale > 0).all():
            raise ValueError(f"its numbers have the scale {written['scale']!r}.")
        criterion = NumberLoss(str(written["loss"]), float(written["delta"]))
        return cls(np.arange(len(center)), center, scale, bool(written["flat"]), criterion)


KINDS["numbers"] = Numbers


class FineTuneRegressor(ImageInputMixin, TrainingNet, NeuralNetRegressor):
    """Keep the first stages of a pretrained network frozen, and train the rest to predict numbers.

    It is :class:`FineTuneClassifier` for numbers, such as the age of a patient or a measurement.
    The frozen stages run once per image; the head is solved exactly, as a ridge regression on all
    layers of the network whose penalty is chosen by leaving out each row (each of the ``groups``
    and all copies of an image); and from there the stages after the cut are trained together with
    it, as far as unseen rows ask for. Numbers are standardized within.

    It is a :class:`~skorch.regressor.NeuralNetRegressor`: ``history_``, callbacks, ``partial_fit``,
    ``module_`` and parameters such as ``optimizer__momentum`` are as skorch users know them.

    Read more in the :ref:`User Guide <numbers>`.

    Parameters
    ----------
    backbone : str, path-like, estimator, torch.nn.Module or list, default="resnet50"
        Network, as for :class:`FineTuneClassifier`.
    weights : str, path-like, torchvision weights enum member or None, default="default"
        Which weights, as for :class:`FineTuneClassifier`.
    freeze_depth : int, str or collection, default="auto"
        Which stages are kept frozen, as for :class:`FineTuneClassifier`; ``"all"`` is a ridge
        regression on frozen features.
    trainable : {"all", "affine", "lora"}, default="all"
        Which weights of the trained stages are trained, as for :class:`FineTuneClassifier`.
    head : "linear", tuple of int or callable, default="linear"
        What comes after the embedding, as for :class:`FineTuneClassifier`; a callable takes
        (n_features, n_targets).
    augmentation : str, ImageAugmentation, callable or None, default=None
        Random changes of the images in training. Leave out what changes the number: an image that
        was made brighter has another brightness.
    augment_views : int or None, default=None
        How many views of each image are drawn once and kept; None: new draws in each epoch.
    optimizer : str or torch.optim.Optimizer subclass, default="adamw"
        The optimizer, as for :class:`FineTuneClassifier`.
    lr : float, default=3e-5
        Learning rate of the last stage. Targets are standardized, so it does not depend on the
        unit of ``y``.
    weight_decay : float, default=0.01
        Decay of weights; biases and the parameters of norms have none.
    lr_schedule : str, default="cosine"
        Schedule of the rate, as for :class:`FineTuneClassifier`.
    max_epochs : int, default=10
        Epochs in which the stages after the cut are trained.
    batch_size : int, default=32
        Images per step.
    weight_interpolation : "auto" or float, default="auto"
        How far the weights go from the solved head to what training made of them, by the loss of
        rows that were not trained on; see :class:`FineTuneClassifier`.
    validation_fraction : float, callable or None, default=None
        Share of the rows held out in ``fit``; with ``groups``, whole groups. Copies of an image are
        never on both sides. Or a callable as for :class:`FineTuneClassifier`.
    early_stopping : int or None, default=None
        End after that many epochs without a better loss on the rows held out.
    loss : {"squared_error", "absolute_error", "huber"} or callable, default="squared_error"
        The loss of standardized numbers. The absolute error predicts a median; Huber's is squared
        up to ``loss__delta`` (1.35) and absolute beyond. With these two, "standardized" is by the
        median and the median deviation, and a linear head is solved for the loss, so that a few
        wild numbers in ``y`` decide nothing. A callable returns a torch loss of outputs and
        standardized numbers.
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
        Of computation.
    engine : {"auto", "torch", "openvino"}, default="auto"
        What runs the frozen part.
    cache : bool or path-like, default=True
        Where the store keeps activations for other fits: memory, a directory, or nowhere.
    on_error : {"raise", "nan"}, default="raise"
        What a row that cannot be read does. With ``"nan"``, ``fit`` leaves it out and ``predict``
        gives NaN for it.
    n_jobs : int or None, default=None
        Threads that decode; None: as many as torch may use.
    store_weights : bool, default=False
        Whether pickles and files of :meth:`save` hold the pretrained weights too.
    warm_start : bool, default=False
        Whether ``fit`` trains the present weights further.
    callbacks : list, "disable" or None, default=None
        skorch callbacks.
    random_state : int, RandomState instance or None, default=None
        Decides everything that is drawn.
    verbose : int, default=0
        1 prints a line per epoch and shows the progress of the frozen pass.
    **kwargs
        Settings of skorch's and torch's components, and the rare parameters of
        :class:`FineTuneClassifier`, without ``head__C`` and ``loss__label_smoothing``. Its own:

        - ``head__alpha`` ("auto"): penalty of the ridge regression that a linear head is solved
          by, on standardized columns, as in :class:`~sklearn.linear_model.Ridge`; ``"auto"``
          chooses it for each target by leaving rows out.
        - ``head__init`` ("auto"): ``"ridge"`` solves a linear head first, ``"random"`` is the
          classic start. ``"auto"`` solves a head that is linear.

    Attributes
    ----------
    module_ : torch.nn.Module
        Stages after the cut, neck and head; its outputs are standardized numbers.
    target_mean_, target_scale_ : ndarray of shape (n_targets,)
        What outputs are standardized by: mean and standard deviation of ``y`` in training, or with
        the robust losses its median and 1.48 times the median distance from that.
    history_ : skorch.history.History
        ``train_loss``, ``valid_loss`` and more, per epoch, of standardized numbers.
    reference_ : BackboneReference
        Name, weights and digest of the network.
    freeze_depth_ : int
        How many leading stages are kept frozen and run once per image.
    weight_interpolation_ : float
        How far the weights went: 0 is the solved head, 1 what was trained.
    interpolation_losses_ : dict or None
        Loss of rows that were not trained on, by how far the weights go; None where
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
    FineTuneClassifier : Predict classes; with ``loss="cumulative_link"`` grades.
    PretrainedFeatureExtractor : Embed images for any regressor; nothing is trained.

    Examples
    --------
    Random weights, so that nothing has to be downloaded; leave ``weights`` out for the real ones.

    >>> from sklearn.datasets import load_digits
    >>> from sktransfer import FineTuneRegressor
    >>> X, _ = load_digits(return_X_y=True)
    >>> ink = X.mean(axis=1)
    >>> reg = FineTuneRegressor(
    ...     "squeezenet1_1", weights=None, image_size=32, value_range=(0, 16),
    ...     freeze_depth="all", random_state=0,
    ... ).fit(X[:200], ink[:200])
    >>> reg.score(X[200:300], ink[200:300]) > 0.8
    True
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **ImageInputMixin._image_parameter_constraints,
        **{
            name: allowed
            for name, allowed in CONSTRAINTS.items()
            if name not in ("class_weight", "head__C", "loss__label_smoothing")
        },
        "loss": [StrOptions(set(LOSSES)), callable],
        "head__alpha": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
        "head__init": [StrOptions({"auto", "ridge", "random"})],
    }
    head__alpha: Any = "auto"
    class_weight = None
    class_names_ = None
    _has_accuracy: ClassVar[bool] = False
    _named_loss: ClassVar[Any] = NumberLoss
    _head_penalty: ClassVar[str] = "head__alpha"

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
        loss: Any = "squared_error",
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

    # The fit, the network and what is kept of it know nothing of classes: they are the same
    # functions. A class of their own between would be one more for a reader to look through.
    find_lr = FineTuneClassifier.find_lr
    freeze_depth_ = FineTuneClassifier.freeze_depth_
    forward_iter = FineTuneClassifier.forward_iter
    get_dataset = FineTuneClassifier.get_dataset
    device_ = FineTuneClassifier.device_
    module_ = FineTuneClassifier.module_
    initialize_module = FineTuneClassifier.initialize_module
    to_backbone = FineTuneClassifier.to_backbone
    load_params = FineTuneClassifier.load_params
    _logits = FineTuneClassifier._logits
    _unlabeled = FineTuneClassifier._unlabeled
    _drawn = FineTuneClassifier._drawn
    _found = FineTuneClassifier._found
    _prefix = FineTuneClassifier._prefix
    _make_ready_to_resume = FineTuneClassifier._make_ready_to_resume
    __sklearn_is_fitted__ = FineTuneClassifier.__sklearn_is_fitted__
    __getstate__ = FineTuneClassifier.__getstate__
    __setstate__ = FineTuneClassifier.__setstate__

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = True
        return tags

    # --- learning --------------------------------------------------------------------------------

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None, **kwargs: Any
    ) -> FineTuneRegressor:
        """Train on images.

        Parameters
        ----------
        X : array-like, DataFrame, Series or sequence of images, n rows
            In any of the :ref:`accepted forms <accepted-inputs>`.
        y : array-like of shape (n,) or (n, n_targets)
            Numbers, finite.
        sample_weight : array-like of shape (n,), default=None
            Weights of the rows.
        groups : array-like of shape (n,), default=None
            Patients, say: rows of one group are not divided between training and validation, and
            are left out together where the penalty of the head is chosen.
        **kwargs
            What Keras' ``fit`` takes, such as ``epochs``: refused, with the parameter that it is.

        Returns
        -------
        self : FineTuneRegressor
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
        run_fit(self, X, y, sample_weight, groups, resume=self.warm_start and self.initialized_)
        return self

    def partial_fit(
        self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None
    ) -> FineTuneRegressor:
        """Train the present weights for ``max_epochs`` more; the first call is a ``fit``.

        Numbers stay standardized as in the first call.

        Parameters
        ----------
        X : array-like, DataFrame, Series or sequence of images, n rows
            In any of the :ref:`accepted forms <accepted-inputs>`.
        y : array-like of shape (n,) or (n, n_targets)
            Numbers, finite.
        sample_weight : array-like of shape (n,), default=None
            Weights of the rows.
        groups : array-like of shape (n,), default=None
            Groups that are not to be divided between training and validation.

        Returns
        -------
        self : FineTuneRegressor
            Fitted estimator.
        """
        run_fit(self, X, y, sample_weight, groups, resume=self.initialized_)
        return self

    def _read_rows(
        self, y: Any, source: ImageSource, sample_weight: Any, groups: Any, classes: Any
    ) -> Rows:
        """Return ``y`` as columns of numbers; of a fit that resumes, standardized as before."""
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None."
            )
        try:
            if np.asarray(y).dtype.kind in "mM":
                raise ValueError("y holds dates; convert them, such as to days since the first.")
            numbers = _check_y(check_present(y), multi_output=True, y_numeric=True, estimator=self)
            columns = np.asarray(numbers, dtype=np.float64).reshape(len(numbers), -1)
        except (TypeError, ValueError) as error:
            said = str(error).strip().rstrip(".").replace("label", "number")
            raise ValueError(f"{said}. {_what_is_no_number(y)}".strip()) from error
        criterion = NumberLoss()
        if isinstance(self.loss, str):
            criterion = NumberLoss(self.loss, **self.get_params_for("loss"))
        kind = np.arange(columns.shape[1]), None, None, numbers.ndim == 1, criterion
        target = Numbers(*kind)
        if classes is not None:
            before = self._target
            if len(before.classes) != columns.shape[1]:
                raise ValueError(
                    f"y has {columns.shape[1]} columns of numbers, and the network was trained for "
                    f"{len(before.classes)}. Fit from scratch (warm_start=False)."
                )
            assert isinstance(before, Numbers)
            target = replace(target, center=before.center, scale=before.scale)
        return read_rows(columns, source, sample_weight, groups, target)

    # --- predicting ------------------------------------------------------------------------------

    @property
    def target_mean_(self) -> np.ndarray:
        """What outputs of the network are deviations from."""
        return self._standard("center")

    @property
    def target_scale_(self) -> np.ndarray:
        """What outputs of the network are multiples of."""
        return self._standard("scale")

    def _standard(self, name: str) -> np.ndarray:
        if not self.initialized_:
            raise AttributeError(f"This {type(self).__name__} is not fitted yet: no target_mean_.")
        return getattr(self._target, name)

    def predict(self, X: Any) -> np.ndarray:
        """Predict the numbers of images.

        Parameters
        ----------
        X : array-like, DataFrame, Series or sequence, n rows
            In any of the forms that ``fit`` accepts.

        Returns
        -------
        ndarray of shape (n,) or (n, n_targets), float64
            Numbers in the unit and shape of ``y``. NaN for rows that cannot be read, with
            ``on_error="nan"``.
        """
        outputs = self._logits(X)
        return self._target.predicted(outputs)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Compute the coefficient of determination R2 of predictions, the mean over targets.

        Parameters
        ----------
        X : array-like, DataFrame, Series or sequence, n rows
            In any of the forms that ``fit`` accepts, all of which can be read.
        y : array-like of shape (n,) or (n, n_targets)
            True numbers.
        sample_weight : array-like of shape (n,), default=None
            Weights of the rows.

        Returns
        -------
        float
            1 for predictions without an error, 0 for those that are no better than the mean.
        """
        return RegressorMixin.score(self, X, y, sample_weight)

    @property
    def predict_proba(self) -> Any:
        """Raise an AttributeError, so that nobody takes numbers for probabilities."""
        raise AttributeError(f"{type(self).__name__} has no predict_proba: it predicts numbers.")

    # --- keeping ---------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write parameters and what was learned, as JSON inside a safetensors file.

        Parameters
        ----------
        path : path-like
            The file; ``.safetensors`` is customary. No image's name or pixels are in it.

        Raises
        ------
        ValueError
            If a parameter is code, which such a file cannot hold; the message names it.
        """
        save_estimator(self, path, None)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, weights: Any = None, **params: Any
    ) -> FineTuneRegressor:
        """Read what :meth:`save` wrote, and find the pretrained weights; no code is run.

        Parameters
        ----------
        path : path-like
            The file.
        weights : path-like, default=None
            File of the pretrained weights, or a folder that it is somewhere in. None: they are
            looked for as by :meth:`FineTuneClassifier.load`.
        **params : dict
            Parameters to take instead of those in the file (``device="cpu"``, say).

        Returns
        -------
        FineTuneRegressor
            Fitted estimator.

        Raises
        ------
        WeightsNotFoundError
            If there are no pretrained weights of the right digest.
        WeightsMismatchError
            If the file was damaged or edited, or is of another version.
        ValueError
            If a parameter is invalid, or the file holds another kind of estimator.
        """
        return load_estimator(cls, path, {"weights": weights, **params})[0]


def _what_is_no_number(y: Any) -> str:
    """Return where ``y`` is infinite or no number, and what to do."""
    rows = np.asarray(y, dtype=object)
    for place in np.ndindex(rows.shape):
        if pd.isna(rows[place]):
            continue
        try:
            if np.isfinite(float(rows[place])):
                continue
            advice = "Leave such rows out."
        except (TypeError, ValueError):
            advice = "Convert the column (pandas.to_numeric); FineTuneClassifier predicts classes."
        return f"FineTuneRegressor predicts numbers; row {place[0]} has {rows[place]!r}. {advice}"
    return ""
