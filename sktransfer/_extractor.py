"""PretrainedFeatureExtractor: images in, embeddings of a frozen pretrained network out.

It must not know classifiers, skorch, or how images are decoded and weights are found.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn import get_config
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from sktransfer._base import (
    NO_FAILED_ROWS,
    ImageInputMixin,
    n_decoding_threads,
    resolve_device,
    seed_from,
)
from sktransfer._dask import is_lazy, lazy_transform, stand_in
from sktransfer._frozen import (
    DTYPES,
    POOLINGS,
    REGISTRY,
    Calibration,
    FrozenExtractor,
    LayerOutput,
    NetworkInfo,
    NetworkSource,
    calibration_on,
    digest_of_images,
    resolve_engine,
    resolve_layers,
)
from sktransfer._images import DicomOptions, ImageSource, Preprocessing, as_image_source
from sktransfer._moving import arrive_from_pickle, places_of
from sktransfer._persistence import PackedWeights, found_source, request_source
from sktransfer._utils.names import answers
from sktransfer._utils.sklearn_compat import (
    HasMethods,
    StrOptions,
    _fit_context,
    _get_output_config,
)

# Names that Keras, timm and others have.
_MEANT = {
    "backbone": "model base_model model_name arch architecture network encoder",
    "weights": "pretrained",
    "layer": "layers layer_name output_layer out_indices return_nodes features_only",
    "pooling": "global_pool",
    "image_size": "input_shape target_size img_size input_size",
    "precision": "dtype fp16 amp half",
    "n_jobs": "num_workers workers",
    "output": "return_tensors return_type array_namespace",
    "random_state": "seed",
    "Leave it out: the output layer is always taken off": "include_top num_classes classes",
    "Leave it out: nothing is trained; FineTuneClassifier(freeze_depth=) trains": "trainable "
    "freeze freeze_depth",
}


class PretrainedFeatureExtractor(ImageInputMixin, TransformerMixin, BaseEstimator):
    """Turn images into the embeddings of a frozen pretrained network.

    Nothing is trained: ``fit`` finds the weights, checks their digest and resolves where the
    network is cut; ``transform`` runs each distinct image through it once. Clones, folds and
    candidates of a search share one network and one store of embeddings in a process, so a grid
    over the classifier's parameters embeds every image once.

    Read more in the :ref:`User Guide <extractor>`.

    Parameters
    ----------
    backbone : str, path-like, estimator, torch.nn.Module or list, default="resnet50"
        Name of a network: any of :func:`sktransfer.list_backbones`, or ``"timm/NAME"``. Or one that
        was fine-tuned: a file of :meth:`FineTuneClassifier.save`, or ``FrozenEstimator(fitted)``.
        Or a module of your own that is a chain of stages, or a list of these (see
        :ref:`own-modules`).
    weights : str, path-like, torchvision weights enum member or None, default="default"
        ``"default"`` is the publisher's best. The name of an enum member (``"IMAGENET1K_V1"``)
        chooses among several. A path to a ``.pth`` or ``.safetensors`` file gives these tensors to
        the architecture, transforms and build options of the default. None: random weights drawn
        from ``random_state`` (a baseline). Files are looked for in ``SKTRANSFER_WEIGHTS_DIR``,
        then in torch's hub cache, then downloaded.
    layer : str, int, sequence of these, "all" or None, default=None
        Where to cut. None: the embedding, which is the input of the network's last linear layer
        (the pooled last map where there is none, the class token of a transformer). A stage name
        or index of :func:`sktransfer.describe_backbone`: the pooled output of that stage; what
        lies after it is neither run nor kept. A list: several stages in one pass, side by side.
        ``"all"``: every stage and the embedding, the best features for a linear classifier of
        scaled columns (see :ref:`all-layers`).
    pooling : {"avg", "max", "avgmax", "gem", "flatten", "cls"}, default="avg"
        How a stage's positions become one vector: mean, maximum, the mean of both, generalized
        mean with p = 3 [1]_, none (every position kept), or the class token of a transformer. With
        ``layer=None``, ``"avg"`` means the network's own way to its embedding, and the others
        are possible where that way is an average over positions. With ``layer="all"``, stages are
        pooled as said here (all but ``"flatten"`` is possible), and the embedding is the network's.
    preprocessing : {"weights", "resize", "pad"} or callable, default="weights"
        ``"weights"`` is the transform the weights were published with (shorter side resized, center
        cropped). ``"resize"`` squashes the whole image into the square; ``"pad"`` fits it in and
        fills the rest with black, so that nothing is cropped away. A callable takes one image
        (``PIL.Image.Image``, or float32 array for images deeper than 8 bit) and returns the
        network's input, a float tensor of shape (3, height, width).
    image_size : int or None, default=None
        Side in pixels of the square given to the network; None for that of the weights.
    image_shape : tuple of int or None, default=None
        Shape of one image in a 2-D ``X`` whose rows are raveled images: (height, width) or
        (height, width, channels), one of them may be -1. None: inferred for square images.
    value_range : (low, high), "dtype", "percentile", ("percentile", low, high) or None, \
            default=None
        Values that mean black and white in numeric images and in files deeper than 8 bit. None:
        0 to 255 for integers (0 to 65535 for uint16), 0 to 1 for floats; ``"dtype"``: all that the
        integer type can hold; ``"percentile"``: each image from its own 1st to its 99th
        percentile.
    dicom : DicomOptions or None, default=None
        Frame and window of DICOM files. None: the first frame, as the file says it is to be shown.
    scaled_decoding : bool, default=False
        Whether JPEGs more than twice as large as needed are decoded at a half, a quarter or an
        eighth of their size: several times faster for photographs, and embeddings change a little
        (see :ref:`scale`).
    batch_size : int or "auto", default="auto"
        Images per pass. If the device runs out of memory, it is halved for the rest of the call.
    device : str or torch.device, default="auto"
        ``"auto"`` is CUDA, then Apple's MPS, then the CPU.
    precision : {"float32", "tf32", "float64", "bfloat16", "float16", "int8"}, \
            default="float32"
        What the network computes in. Embeddings are float32, or float64 with ``"float64"``.
        ``"float32"`` is that on GPUs too; ``"tf32"`` lets them multiply in TF32 (see :ref:`gpu`).
        ``"int8"`` (CPU; extra ``openvino``) quantizes the network once per machine, in a minute or
        two, and is the fastest by far; see :ref:`int8` for what it costs.
    calibration : collection of images or None, default=None
        With ``precision="int8"``, and ignored otherwise: images that the ranges of its activations
        are found on, in any of the :ref:`accepted forms <accepted-inputs>`. A hundred will do; of
        more than 256, as many are taken evenly. None: cuts of scikit-learn's sample photographs.
    engine : {"auto", "torch", "openvino"}, default="auto"
        What runs the network. ``"auto"`` is OpenVINO on CPUs where it is installed (extra
        ``openvino``), can run the network and agrees with torch, else torch (see :ref:`engines`).
    cache : bool, path-like or None, default=True
        True keeps embeddings in memory for the next call: bounded, shared by the estimators of a
        process; worker processes that it starts share a private temporary directory. A path keeps
        them in that directory too, for other processes and another day (see
        :ref:`extract-once`). False or None keeps nothing.
    on_error : {"raise", "nan"}, default="raise"
        A row that cannot be read raises :class:`~sktransfer.exceptions.ImageDecodeError` naming
        it, or gives a row of NaN, one warning, and an entry in ``failed_rows_``.
    n_jobs : int or None, default=None
        Threads that read and decode. None: as many as torch uses.
    random_state : int, RandomState instance or None, default=0
        Seed of the weights when ``weights=None``.
    store_weights : bool, default=False
        Whether a pickle of the fitted estimator carries the weights. Otherwise it carries their
        digest, and they are found again on the machine that loads it.
    output : {"auto", "numpy", "torch"}, default="auto"
        ``"torch"`` gives embeddings as a tensor on the device, for estimators that compute there
        under scikit-learn's ``config_context(array_api_dispatch=True)`` (see :ref:`array-api`).
        ``"auto"`` is ``"numpy"``, but follows scikit-learn's convention in such a context: for
        images in a tensor, a tensor on its device.
    verbose : int or bool, default=0
        1 shows a progress bar with the throughput and, once, which engine ``"auto"`` is.

    Attributes
    ----------
    reference_ : BackboneReference
        Name, weights and digest of the network.
    n_features_out_ : int
        Number of columns of the output.
    failed_rows_ : DataFrame
        Rows of the last ``transform`` that could not be read: ``row``, ``source``, ``reason``.
        Never pickled.
    n_features_in_ : int
        Number of columns of ``X`` in ``fit``, where ``X`` has columns.
    feature_names_in_ : ndarray of str
        Names of the columns of ``X`` in ``fit``, where ``X`` is a DataFrame.

    See Also
    --------
    sktransfer.list_backbones : The networks there are.
    sktransfer.describe_backbone : The stages of one.
    sktransfer.datasets.load_image_folder : A folder of class sub-folders as X and y.

    Notes
    -----
    The network always runs in inference mode, with BatchNorm folded into the convolutions. In
    float32 on a CPU its embeddings agree with torchvision's own to 1e-5 (per-row L2, relative),
    whatever the batch size and the order of the rows.

    References
    ----------
    .. [1] Radenović, F., Tolias, G., & Chum, O. (2018). "Fine-tuning CNN image retrieval with no
       human annotation". IEEE TPAMI, 41(7), 1655-1668.

    Examples
    --------
    Random weights, so that nothing has to be downloaded; leave ``weights`` out for the real ones.

    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sktransfer import PretrainedFeatureExtractor
    >>> X, y = load_digits(return_X_y=True)
    >>> feat = PretrainedFeatureExtractor(
    ...     "squeezenet1_1", weights=None, image_size=32, value_range=(0, 16)
    ... )
    >>> feat.fit_transform(X[:10]).shape
    (10, 512)

    All layers take the same pass, and are the better features for a classifier:

    >>> pipe = make_pipeline(
    ...     feat.set_params(layer="all"), StandardScaler(), LogisticRegression(C=0.01)
    ... )
    >>> pipe.fit(X[:50], y[:50]).predict(X[50:60]).shape
    (10,)
    >>> pipe[0].n_features_out_
    2624
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **ImageInputMixin._image_parameter_constraints,
        "backbone": [str, os.PathLike, HasMethods("fit"), torch.nn.Module, list, tuple],
        "weights": [str, os.PathLike, Enum, None],
        "layer": [str, Integral, list, tuple, None],
        "pooling": [StrOptions(set(POOLINGS))],
        "output": [StrOptions({"auto", "numpy", "torch"})],
        "precision": [StrOptions({*DTYPES, "int8"})],
        "calibration": [HasMethods("__len__"), None],
    }

    @answers(_MEANT)
    def __init__(
        self,
        backbone: Any = "resnet50",
        *,
        weights: Any = "default",
        layer: str | int | Sequence[str | int] | None = None,
        pooling: str = "avg",
        preprocessing: Any = "weights",
        image_size: int | None = None,
        image_shape: tuple[int, ...] | None = None,
        value_range: tuple[float, float] | tuple[str, float, float] | str | None = None,
        dicom: DicomOptions | None = None,
        scaled_decoding: bool = False,
        batch_size: int | str = "auto",
        device: str | torch.device = "auto",
        precision: str = "float32",
        calibration: Any = None,
        engine: str = "auto",
        cache: bool | None = True,
        on_error: str = "raise",
        n_jobs: int | None = None,
        random_state: int | np.random.RandomState | None = 0,
        store_weights: bool = False,
        output: str = "auto",
        verbose: int = 0,
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.layer = layer
        self.pooling = pooling
        self.preprocessing = preprocessing
        self.image_size = image_size
        self.image_shape = image_shape
        self.value_range = value_range
        self.dicom = dicom
        self.scaled_decoding = scaled_decoding
        self.batch_size = batch_size
        self.device = device
        self.precision = precision
        self.calibration = calibration
        self.engine = engine
        self.cache = cache
        self.on_error = on_error
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.store_weights = store_weights
        self.output = output
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> PretrainedFeatureExtractor:
        """Find the network and resolve where it is cut. No image is decoded.

        Parameters
        ----------
        X : array-like, DataFrame, Series or sequence of images, n rows
            In any of the :ref:`accepted forms <accepted-inputs>`.
        y : None
            Ignored.

        Returns
        -------
        self : PretrainedFeatureExtractor
            Fitted extractor.

        Raises
        ------
        UnknownBackboneError, UnknownStageError
            If there is no such network or stage; the message lists what there is.
        WeightsNotFoundError, WeightsMismatchError
            If the weights cannot be found, or are not what they should be.
        """
        if type(X).__module__.startswith("dask") and is_lazy(X):
            X = stand_in(X)
        self._image_source(X, reset=True)
        seed = seed_from(self.random_state) if self.weights is None else 0
        source = request_source(self.backbone, self.weights, seed, self.image_size)
        self._packed = self._calibrated = None
        if self.precision == "int8" and self.calibration is not None:
            form = (self.image_shape, self.value_range, self.dicom)
            digest = digest_of_images(self._calibration_images())
            self._calibrated = (self.calibration, form, digest)
        self._cut(source)
        if self.store_weights:
            self._packed = self._pack(source)
        self._found_as = source.found_as
        self.reference_ = self._info.reference
        return self

    def _cut(self, source: NetworkSource) -> None:
        """Resolve where a network is cut, and what comes out there."""
        info = REGISTRY.info(source)
        self._outputs = self._resolve(source, info)
        frozen = self._frozen(source, info)
        network = frozen.network()
        self._info = network.info
        self._widths = network.widths(self._outputs, frozen.preprocessing.size)
        self.n_features_out_ = sum(self._widths)
        self._failed_rows = NO_FAILED_ROWS

    def transform(self, X: Any) -> Any:
        """Embed every row of ``X``.

        Parameters
        ----------
        X : array-like, DataFrame, Series or sequence of images, n rows
            In any of the :ref:`accepted forms <accepted-inputs>`.

        Returns
        -------
        embeddings : ndarray or Tensor of shape (n, d), float32 or float64
            Row i belongs to row i of ``X``. A DataFrame after ``set_output(transform="pandas")``,
            a tensor with ``output="torch"``, and a lazy Dask DataFrame for a Dask collection of
            paths (see :ref:`scale`).

        Raises
        ------
        ImageDecodeError
            For the first row that cannot be read, with ``on_error="raise"``.
        ValueError
            If both a tensor and a DataFrame are asked for.
        """
        check_is_fitted(self)
        tensor_on = self._tensor_on(X)
        if type(X).__module__.startswith("dask") and is_lazy(X):
            return lazy_transform(self, X)
        images = self._image_source(X, reset=False)
        source = self._found()
        frozen = self._frozen(source, self._info)
        frozen.widths = self._widths
        if self.verbose and self.engine == "auto":
            frozen.say_engine()
        rows, failures = frozen.extract(
            images,
            cache=self.cache,
            batch_size=self.batch_size,
            n_threads=n_decoding_threads(self.n_jobs),
            on_error=self.on_error,
            progress=bool(self.verbose),
        )
        if failures or len(self._failed_rows):
            self._note_failures(failures, len(rows), "given NaN")
        # In one copy, of what the store has too: hits and misses are the same numbers.
        return rows if tensor_on is None else torch.from_numpy(rows).to(tensor_on)

    def _tensor_on(self, X: Any) -> str | torch.device | None:
        """Return the device of the output, None for an array; raise if it cannot be a tensor."""
        if self.output == "auto":
            dispatched = isinstance(X, torch.Tensor) and get_config()["array_api_dispatch"]
            return X.device if dispatched else None
        if self.output == "numpy":
            return None
        container = _get_output_config("transform", self)["dense"]
        if container != "default":
            raise ValueError(
                f"output='torch' gives a tensor, and set_output(transform={container!r}) asks for "
                "a DataFrame. Use output='numpy' with it, or set_output(transform='default')."
            )
        if is_lazy(X):
            raise ValueError(
                "X is a Dask collection, whose embeddings are a lazy DataFrame; output='torch' "
                "gives a tensor. Use output='numpy', or call .compute() on X first."
            )
        return resolve_device(self.device, self.precision)

    def _resolve(self, source: NetworkSource, info: NetworkInfo) -> tuple[LayerOutput, ...]:
        """Return what is taken out of the network."""
        if self.layer != "all":
            return resolve_layers(info, self.layer, self.pooling)
        device = resolve_device(self.device, self.precision)
        return REGISTRY.all_outputs(
            source,
            self.pooling,
            precision=self.precision,
            device=device,
            engine=resolve_engine(self.engine, self.precision, device),
            calibration=self._calibration(self._preprocessing_for(info.input_spec)),
        )

    def _calibration(self, preprocessing: Preprocessing) -> Calibration | None:
        """Return the images to quantize on, if that is to be done."""
        if self.precision != "int8":
            return None
        if self.calibration is None:
            return calibration_on(None, "", preprocessing)
        form = (self.image_shape, self.value_range, self.dicom)
        known, known_form, digest = getattr(self, "_calibrated", None) or (None, None, "")
        if known is not self.calibration or known_form != form:
            digest = digest_of_images(self._calibration_images())
        return calibration_on(self._calibration_images, digest, preprocessing)

    def _calibration_images(self) -> ImageSource:
        """Return the user's own images for quantizing."""
        if isinstance(self.calibration, (str, bytes, os.PathLike)):
            raise ValueError(
                f"calibration has to be a collection of images; got a single "
                f"{type(self.calibration).__name__}. Put it in a list, with a hundred others."
            )
        try:
            return as_image_source(
                self.calibration,
                image_shape=self.image_shape,
                value_range=self.value_range,
                dicom=self.dicom,
            )
        except Exception as error:  # which speaks of X
            error.add_note("while reading the images of calibration=")
            raise

    def _pack(self, source: NetworkSource) -> PackedWeights:
        """Return the weights down to where the network is cut."""
        depth = self._info.depth(self._outputs)
        return PackedWeights.pack(source.load(), self._info.reference, depth)

    def _found(self) -> NetworkSource:
        """Return the network that was fitted, to be found again."""
        return found_source(self.reference_, self._packed, self._found_as, places_of(self))

    def _frozen(self, source: NetworkSource, info: NetworkInfo) -> FrozenExtractor:
        """Return what brings images to the layers, with the present parameters."""
        device = resolve_device(self.device, self.precision)
        preprocessing = self._preprocessing_for(info.input_spec)
        dtype = np.dtype(np.float64 if self.precision == "float64" else np.float32)
        return FrozenExtractor(
            source,
            info,
            self._outputs,
            preprocessing,
            dtypes=(dtype,) * len(self._outputs),
            precision=self.precision,
            device=device,
            engine=resolve_engine(self.engine, self.precision, device),
            calibration=self._calibration(preprocessing),
        )

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return names of the columns: network, stage, position (``resnet18_layer2_012``).

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Ignored: a column is not made of a column of ``X``.

        Returns
        -------
        names : ndarray of shape (d,), str objects
            One per column of the output.
        """
        check_is_fitted(self)
        network = self._info.reference.name.replace("/", "_")
        names: list[str] = []
        for output, width in zip(self._outputs, self._widths, strict=True):
            stage = "" if output.stage is None else f"_{self._info.stages[output.stage].name}"
            digits = len(str(width - 1))
            names += [f"{network}{stage}_{i:0{digits}d}" for i in range(width)]
        return np.asarray(names, dtype=object)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())  # not the estimator's own
        if "_failed_rows" in state:
            if self.store_weights and self._packed is None:  # set after fit
                self._packed = self._pack(self._found())
            state["_packed"] = self._packed if self.store_weights else None
            state["_failed_rows"] = NO_FAILED_ROWS  # file names may be patients' names
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_failed_rows" in state:
            arrive_from_pickle(self)
            self.__dict__.setdefault("calibration", None)  # of an earlier version
            self._info = replace(self._info, reference=self.reference_)
        self.__dict__.setdefault("output", "auto")  # a pickle from before it was there

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        # Lists of paths are accepted too, but scikit-learn's checks read `one_d_array` and `string`
        # as "only that" and would no longer feed 2-D numbers.
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = []
        return tags
