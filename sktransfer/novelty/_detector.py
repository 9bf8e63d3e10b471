"""NoveltyDetector: embeddings of images, and how far they are from those of ``fit``."""

from __future__ import annotations

import os
import warnings
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, OutlierMixin, clone
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn

from sktransfer._base import NO_FAILED_ROWS, ImageInputMixin, on_host
from sktransfer._scoring.networks import layer_columns, one_network
from sktransfer._utils.config import API_PAGE
from sktransfer._utils.identifiers import read_groups
from sktransfer._utils.resampling import members
from sktransfer._utils.sklearn_compat import HasMethods, Interval, StrOptions, _fit_context
from sktransfer.exceptions import ImageDecodeError
from sktransfer.novelty._distances import StageDistance, normalized, stages_of
from sktransfer.novelty._drift import DriftReport, Reference, drift_between
from sktransfer.novelty._saving import load_detector, save_detector

_LEAST = np.finfo(np.float64).tiny


class NoveltyDetector(OutlierMixin, BaseEstimator):
    """Detect images that are not like those of ``fit``: novel, or out of distribution.

    A photograph among X-rays, an X-ray that is inverted or turned, and one of another device all
    have probabilities from a classifier, and they mean nothing. This estimator compares their
    embeddings with those of ``fit``, stage by stage: early stages of a network see sharpness,
    contrast and direction, and late ones what is shown. No labels are used.

    It follows scikit-learn's detectors of outliers: ``predict`` is 1 for images like those of
    ``fit``, and -1 for novel ones. :class:`NoveltyGate` puts it in front of a classifier.

    Read more in the :ref:`User Guide <novelty>`.

    Parameters
    ----------
    backbone : network or None, default=None
        What embeds the images: a name, a saved file, a fine-tuned network, or a
        :class:`~sktransfer.PretrainedFeatureExtractor` for other weights and ways to read images.
        Embeddings are those of all layers, unless the extractor names others; where a classifier
        has used them, they are taken from the store. None: the rows of ``X`` are features already.
    widths : sequence of int or None, default=None
        Where ``X`` is features, how many columns each stage has, in order. None: all columns are
        one stage. Ignored with a ``backbone``, whose stages are known.
    normalize : bool or "auto", default="auto"
        Whether the features of each stage get signed square roots and length 1 [4]_, so that strong
        activations do not hide weak ones. ``"auto"``: with ``backbone`` or ``widths``.
    false_alarm_rate : float, default=0.05
        Share of images *like* those of ``fit`` that is called novel all the same.
    on_error : {"raise", "nan"}, default="raise"
        An image that cannot be read raises :class:`~sktransfer.exceptions.ImageDecodeError`. With
        ``"nan"`` ``fit`` leaves it out, and its scores are NaN. The extractor's own ``on_error`` is
        replaced by this.

    Attributes
    ----------
    offset_ : float
        ``decision_function`` is ``score_samples`` minus this.
    extractor_ : PretrainedFeatureExtractor or None
        The fitted extractor.
    stage_names_ : list of str
        Names of the stages.
    failed_rows_ : DataFrame
        Rows of the last call that could not be read: ``row``, ``source``, ``reason``.
    n_features_in_, feature_names_in_
        Number and names of the columns, if ``X`` is a table of numbers.

    See Also
    --------
    NoveltyGate : Refuse novel images in front of a classifier.
    sktransfer.model_selection.domain_distance : Distance from what a network was trained on.

    Notes
    -----
    The distance in a stage is that of Mahalanobis, with a covariance that is shrunk towards a
    multiple of the identity [1]_ [2]_. Each row of ``fit`` has a distance from the *other* rows
    (with ``groups``, from those of other patients) in closed form, without a fit for each. Their
    logarithms are standardized in each stage, and the largest counts. The threshold is the order
    statistic of these scores that a new image like them exceeds with probability
    ``false_alarm_rate``, as in conformal prediction [3]_. It holds for images that are exchangeable
    with those of ``fit``, and on average over fits: with few rows, the rate of one fit varies.

    References
    ----------
    .. [1] Lee, Lee, Lee, Shin: A simple unified framework for detecting out-of-distribution samples
       and adversarial attacks. NeurIPS (2018).
    .. [2] Rippel, Mertens, Merhof: Modeling the distribution of normal data in pre-trained deep
       features for anomaly detection. ICPR (2020).
    .. [3] Barber, Candès, Ramdas, Tibshirani: Predictive inference with the jackknife+. Annals of
       Statistics 49 (2021).
    .. [4] Perronnin, Sánchez, Mensink: Improving the Fisher kernel for large-scale image
       classification. ECCV (2010).

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from sktransfer import PretrainedFeatureExtractor
    >>> from sktransfer.novelty import NoveltyDetector
    >>> digits = load_digits().images[:120].astype(np.uint8) * 16
    >>> noise = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    >>> net = PretrainedFeatureExtractor("squeezenet1_1", weights=None, image_size=32)
    >>> detector = NoveltyDetector(net).fit(digits[:100])
    >>> detector.predict(noise).tolist() == [-1] * 20
    True
    >>> bool((detector.predict(digits[100:]) == 1).mean() > 0.8)
    True
    """

    # Groups are for the calibration itself, and need not be requested.
    __metadata_request__fit: ClassVar = {"groups": True}

    _doc_link_module = "sktransfer"
    _doc_link_template = API_PAGE
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "backbone": [str, os.PathLike, HasMethods("fit"), nn.Module, list, tuple, None],
        "widths": ["array-like", None],
        "normalize": ["boolean", StrOptions({"auto"})],
        "false_alarm_rate": [Interval(Real, 0, 0.5, closed="neither")],
        "on_error": [StrOptions({"raise", "nan"})],
    }
    _note_failures: Any = ImageInputMixin._note_failures
    failed_rows_: Any = ImageInputMixin.failed_rows_

    def __init__(
        self,
        backbone: Any = None,
        *,
        widths: Any = None,
        normalize: bool | str = "auto",
        false_alarm_rate: float = 0.05,
        on_error: str = "raise",
    ) -> None:
        self.backbone = backbone
        self.widths = widths
        self.normalize = normalize
        self.false_alarm_rate = false_alarm_rate
        self.on_error = on_error

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None, groups: ArrayLike | None = None) -> NoveltyDetector:
        """Embed images, and learn where they are and how far each is from the others.

        Parameters
        ----------
        X : array-like, DataFrame, Series or sequence of images, n rows
            Images in any of the :ref:`accepted forms <accepted-inputs>`, or features.
        y : None
            Ignored.
        groups : array-like of shape (n,) or None, default=None
            Groups, such as patients: each row is judged without those of its own group. Without
            them, images of a patient who has several make the threshold too low.

        Returns
        -------
        self : NoveltyDetector
            Fitted detector.

        Raises
        ------
        ImageDecodeError
            For the first row that cannot be read, with ``on_error="raise"``.
        ValueError
            If there are fewer than two rows or groups, or ``widths`` are not those of the columns.

        Warns
        -----
        UserWarning
            If there are too few rows for ``false_alarm_rate``, which then is ``1 / (n + 1)``.
        """
        rows = self._embed(X, reset=True)
        there = np.isfinite(rows).all(axis=1)
        if there.sum() < 2:
            raise ValueError(
                f"Found array with {int(there.sum())} sample(s) while a minimum of 2 is required "
                f"by {type(self).__name__}: it compares rows with each other."
            )
        codes = None
        if groups is not None:
            names = read_groups(groups, n=len(rows))[there]
            codes = np.unique(names, return_inverse=True)[1]
        rows = rows[there]
        units = members(np.arange(len(rows)) if codes is None else codes)
        fits = [StageDistance.fit(rows[:, own], units) for own in self._stages]
        self._fitted = [stage for stage, _ in fits]
        left_out = np.log(np.maximum(np.stack([each for _, each in fits], axis=1), _LEAST))
        self._center, self._spread = left_out.mean(axis=0), left_out.std(axis=0)
        self._spread[self._spread == 0] = 1.0
        self._scores = np.sort(((left_out - self._center) / self._spread).max(axis=1))
        self._reference = Reference.of(rows, codes)
        self._find_offset()
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """Compute how much each row is like those of ``fit``: higher is more alike.

        Parameters
        ----------
        X : array-like, DataFrame, Series or sequence, n rows
            As for :meth:`fit`.

        Returns
        -------
        scores : ndarray of shape (n,), float64
            Minus the largest standardized distance of any stage; NaN for rows that cannot be read,
            with ``on_error="nan"``.
        """
        return self._scored(self._embed(X, reset=False))

    def decision_function(self, X: Any) -> np.ndarray:
        """Compute ``score_samples`` minus ``offset_``: negative for novel rows.

        Parameters
        ----------
        X : array-like, DataFrame, Series or sequence, n rows
            As for :meth:`fit`.

        Returns
        -------
        decision : ndarray of shape (n,), float64
            NaN for rows that cannot be read, with ``on_error="nan"``.
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """Predict which rows are novel.

        Parameters
        ----------
        X : array-like, DataFrame, Series or sequence, n rows
            As for :meth:`fit`.

        Returns
        -------
        ndarray of shape (n,), int
            1 for rows like those of ``fit``, -1 for novel ones.

        Raises
        ------
        ImageDecodeError
            If a row cannot be read, whatever ``on_error`` says.
        """
        decision = self.decision_function(X)
        refuse_lost(self, decision)
        return np.where(decision >= 0, 1, -1)

    def p_values(self, X: Any) -> np.ndarray:
        """Compute the share of images like those of ``fit`` that are as far out as each row.

        Parameters
        ----------
        X : array-like, DataFrame, Series or sequence, n rows
            As for :meth:`fit`.

        Returns
        -------
        ndarray of shape (n,), float64
            Conformal p values, at least ``1 / (n_fit + 1)``; NaN for rows that cannot be read.
        """
        score = -self.score_samples(X)
        n = len(self._scores)
        p = (1 + n - np.searchsorted(self._scores, score, side="left")) / (n + 1)
        return np.where(np.isnan(score), np.nan, p)

    def drift_report(
        self,
        X: Any,
        *,
        groups: ArrayLike | None = None,
        random_state: int | np.random.RandomState | None = 0,
    ) -> DriftReport:
        """Test whether images are from where those of ``fit`` are from.

        Parameters
        ----------
        X : array-like, DataFrame, Series or sequence, n rows
            As for :meth:`fit`; some dozens of new images.
        groups : array-like of shape (n,) or None, default=None
            Their patients, where ``fit`` had patients; they are taken for other ones.
        random_state : int, RandomState instance or None, default=0
            Seed of the 999 permutations of the two-sample test.

        Returns
        -------
        DriftReport
            p value of the test, and how many images are novel.
        """
        rows = self._embed(X, reset=False)
        decision = self._scored(rows) - self.offset_
        there = np.isfinite(decision)
        codes = None if groups is None else read_groups(groups, n=len(rows))[there]
        rate = max(self.false_alarm_rate, 1 / (len(self._scores) + 1))
        return drift_between(
            self._reference,
            rows[there],
            codes,
            novel=decision[there] < 0,
            false_alarm_rate=rate,
            random_state=random_state,
        )

    def save(self, path: str | os.PathLike[str], *, store_weights: bool = False) -> None:
        """Write parameters and what was learned, as JSON inside a safetensors file.

        Parameters
        ----------
        path : path-like
            The file; ``.safetensors`` is customary. It holds features of up to 512 images of
            ``fit``, which :meth:`drift_report` compares with, and no names or pixels.
        store_weights : bool, default=False
            Whether the file holds the pretrained weights too. False: their digest, by which
            :meth:`load` finds them.

        Raises
        ------
        ValueError
            If a parameter is code, which such a file cannot hold.
        """
        check_is_fitted(self, "offset_")
        save_detector(self, path, store_weights=store_weights)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, weights: Any = None, **params: Any
    ) -> NoveltyDetector:
        """Read what :meth:`save` wrote, and find the pretrained weights; no code is run.

        Parameters
        ----------
        path : path-like
            The file.
        weights : path-like, default=None
            File or folder of the pretrained weights. None: they are looked for next to ``path``
            and in the usual places (see :ref:`moving`).
        **params : dict
            Parameters to take instead of those in the file. A fit is needed to change the rate.

        Returns
        -------
        NoveltyDetector
            Fitted detector.

        Raises
        ------
        WeightsNotFoundError
            If there are no pretrained weights of the right digest.
        WeightsMismatchError
            If the file was damaged or edited, or ``weights`` is another file.
        ValueError
            If the file holds another estimator, or a parameter is invalid.
        """
        return load_detector(cls, path, weights, params)

    def _embed(self, X: Any, *, reset: bool) -> np.ndarray:
        """Return features of rows; those of rows that cannot be read are NaN."""
        if not reset:
            check_is_fitted(self, "offset_")
        if reset:
            self._failed_rows = NO_FAILED_ROWS
            self.extractor_ = None
            if self.backbone is not None:
                for name in ("n_features_in_", "feature_names_in_"):  # left from an earlier fit
                    self.__dict__.pop(name, None)
                self._fit_extractor(X)
        if self.extractor_ is not None:
            rows = on_host(self.extractor_.transform(X))
            self._failed_rows = self.extractor_.failed_rows_
            return self._normalized(np.asarray(rows, dtype=np.float64))
        finite = "allow-nan" if self.on_error == "nan" else True
        rows = validate_data(self, X, reset=reset, dtype=np.float64, ensure_all_finite=finite)
        if reset:
            self._stages, self.stage_names_ = self._given_stages(rows.shape[1])
        lost = np.flatnonzero(np.isnan(rows).any(axis=1))
        failures = [ImageDecodeError("it has NaN.", int(row)) for row in lost]
        self._note_failures(failures, len(rows), "given NaN")
        return self._normalized(rows)

    def _normalized(self, rows: np.ndarray) -> np.ndarray:
        wanted = self.normalize
        if wanted == "auto":
            wanted = self.backbone is not None or self.widths is not None
        return normalized(rows, self._stages) if wanted else rows

    def _fit_extractor(self, X: Any) -> None:
        extractor = clone(one_network(self.backbone)[1])
        extractor.set_params(on_error=self.on_error, output="numpy")
        if extractor.layer is None:
            extractor.set_params(layer="all")
        self.extractor_ = extractor.fit(X)
        for name in ("n_features_in_", "feature_names_in_"):  # of a table of pixels
            if hasattr(extractor, name):
                setattr(self, name, getattr(extractor, name))
        columns = layer_columns(extractor)
        self.stage_names_ = ["embedding" if name is None else name for name, _ in columns]
        self._stages = [own for _, own in columns]

    def _given_stages(self, n_columns: int) -> tuple[list[slice], list[str]]:
        widths = [n_columns] if self.widths is None else np.asarray(self.widths)
        kinds = np.asarray(widths)
        if kinds.ndim != 1 or kinds.dtype.kind not in "iu" or (kinds < 1).any():
            raise ValueError(f"widths must be numbers of columns, each at least 1; got {widths!r}.")
        if kinds.sum() != n_columns:
            raise ValueError(f"widths add up to {kinds.sum()}; X has {n_columns} columns.")
        names = ["features"] if len(kinds) == 1 else [f"stage {i}" for i in range(len(kinds))]
        return stages_of(kinds.tolist()), names

    def _scored(self, rows: np.ndarray) -> np.ndarray:
        """Return minus the largest standardized distance of any stage, for features of rows."""
        out = np.full((len(rows), len(self._stages)), np.nan)
        there = np.isfinite(rows).all(axis=1)
        if there.any():
            for i, (own, stage) in enumerate(zip(self._stages, self._fitted, strict=True)):
                out[there, i] = np.log(np.maximum(stage.distance(rows[there, own]), _LEAST))
        return -((out - self._center) / self._spread).max(axis=1)

    def _find_offset(self) -> None:
        n = len(self._scores)
        place = int(np.ceil((1 - self.false_alarm_rate) * (n + 1)))
        if place > n:
            warnings.warn(
                f"A false-alarm rate of {self.false_alarm_rate:g} takes at least "
                f"{int(np.ceil(1 / self.false_alarm_rate)) - 1} rows in fit; with {n} it is "
                f"{1 / (n + 1):.3f}.",
                stacklevel=3,
            )
        self.offset_ = -float(self._scores[min(place, n) - 1])

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "_failed_rows" in state:
            state["_failed_rows"] = NO_FAILED_ROWS  # file names may be patients' names
        return state

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.allow_nan = self.on_error == "nan"
        return tags


def refuse_lost(estimator: Any, scores: np.ndarray) -> None:
    """Raise an error where a row has no score: a broken image is neither usual nor novel."""
    lost = np.flatnonzero(np.isnan(scores))
    if not len(lost):
        return
    failed = getattr(estimator, "failed_rows_", NO_FAILED_ROWS)
    own = failed[failed["row"] == lost[0]]
    reason = "it cannot be read." if own.empty else own["reason"].iloc[0]
    raise ImageDecodeError(
        f"{len(lost)} row(s) have no prediction ({reason}); score_samples gives NaN for them. "
        "Leave them out, or repair the files.",
        int(lost[0]),
        None if own.empty else own["source"].iloc[0],
    )
