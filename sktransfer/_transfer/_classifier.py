"""TransferClassifier: images and labels in, the best answer that the networks at hand can give.

It must not know how probes are solved or networks are trained.
"""

from __future__ import annotations

import os
import warnings
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.pipeline import Pipeline
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from sktransfer._base import NO_FAILED_ROWS, ImageInputMixin, LogitsMixin, seed_from
from sktransfer._extractor import PretrainedFeatureExtractor
from sktransfer._finetune._labels import read_labels
from sktransfer._scoring.networks import named_networks, on_this_machine
from sktransfer._transfer._candidates import (
    Candidate,
    Task,
    embed,
    fitted_extractors,
    frozen_candidates,
    outputs_of,
)
from sktransfer._transfer._ensemble import best_of, choose, combine, leaderboard, scoring_of
from sktransfer._transfer._plan import Plan
from sktransfer._transfer._saving import SavingMixin
from sktransfer._utils.sklearn_compat import FrozenEstimator, HasMethods, Interval, _fit_context
from sktransfer.exceptions import FailedRowsWarning, ImageDecodeError

# Parameters of networks that are given by name; an extractor that is given has its own.
_SHARED = (
    *("preprocessing", "image_size", "image_shape", "value_range"),
    *("device", "cache", "n_jobs"),
)


class TransferClassifier(SavingMixin, LogitsMixin, ImageInputMixin, ClassifierMixin, BaseEstimator):
    """Classify images with the pretrained networks at hand, combined as the data say.

    Nothing has to be set: ``TransferClassifier().fit(paths, y, groups=patients)``. Every network
    embeds each image once; logistic regressions on all its layers, and on its embedding, are
    cross-fitted; the networks' log-probabilities are averaged, and one temperature makes
    probabilities of them. With a ``time_budget`` the best networks are fine-tuned too. No row is
    judged by a model or by a choice that has seen it.

    Read more in the :ref:`User Guide <front-door>`.

    Parameters
    ----------
    backbones : network, sequence of networks, mapping of names to networks, or None, default=None
        A network is a name (:func:`sktransfer.list_backbones`), a saved file, a fitted
        :class:`FineTuneClassifier`, or a :class:`PretrainedFeatureExtractor` for other weights and
        ways to read images; what that leaves at its default is as here. The keys of a mapping are
        the names in tables. None: every network whose weights are on this machine; none is
        downloaded.
    time_budget : float, dict or None, default=None
        None: networks stay frozen. Seconds that ``fit`` may take: what does not fit is left out,
        and what is left after the frozen networks is used to fine-tune the best of them. A fit
        stops between steps, so that a step that is slower than its beginning was may exceed the
        budget, by a tenth or a few seconds; the fastest network is used whatever it takes. A dict:
        ``plan_`` of a fitted classifier, whose steps are repeated; on the same data and machine
        they give the same bits.
    preprocessing : {"weights", "resize", "pad"} or callable, default="weights"
        How an image becomes a network's input, as for :class:`PretrainedFeatureExtractor`.
    image_size : int or None, default=None
        Side of that input, in pixels; None: the one that belongs to the weights.
    image_shape : tuple of int or None, default=None
        Shape of an image, if each row of ``X`` holds its pixels.
    value_range : (float, float), "dtype", "percentile", tuple or None, default=None
        What counts as black and white, as for :class:`PretrainedFeatureExtractor`.
    device : str or torch.device, default="auto"
        Where to compute; ``"auto"`` takes a GPU if there is one.
    cache : bool, path-like or None, default=True
        Where activations are kept for other fits: memory, a directory, or nowhere.
    on_error : {"raise", "nan"}, default="raise"
        What a row that cannot be read does. With ``"nan"``, ``fit`` leaves it out,
        ``predict_proba`` gives NaN for it, and ``predict`` raises.
    n_jobs : int or None, default=None
        Threads that decode; None: as many as torch may use.
    random_state : int, RandomState instance or None, default=None
        Decides folds and all that is drawn in training.
    verbose : int, default=0
        1 prints the networks, what the time is expected to be enough for, and what is done; 2 also
        the progress of each network.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels, sorted; or names of findings, in the order of their columns.
    class_names_ : list of str or None
        Names of the classes: labels that are text, or what ``save`` was given; None if unknown.
    leaderboard_ : DataFrame
        A row for this classifier, the first, and for each candidate, least log loss first:
        ``candidate``; ``score``, ``low``, ``high``: ``scoring_`` and its 95 % interval over
        resampled rows (groups); ``log_loss``; ``n_rows`` that these are of, all predicted by models
        that had not seen them; ``seconds``: of the whole fit, and of a candidate beyond the pass
        that its network's candidates share; ``member``, whether it is averaged. In the first row,
        members, weights and temperature were chosen on the other folds.
    scoring_ : str
        What ``score`` is: "roc_auc" for two classes, and for several findings, whose mean it is,
        else "accuracy".
    best_estimator_ : Pipeline or FineTuneClassifier
        The single candidate with the least log loss, fitted to all rows: an extractor,
        :class:`~sklearn.preprocessing.StandardScaler` and
        :class:`~sklearn.linear_model.LogisticRegression`, or a fine-tuned network.
    estimators_ : list of Pipeline and FineTuneClassifier
        The members, fitted to all rows.
    weights_ : ndarray of shape (n_members,)
        Their weights in the average of log-probabilities.
    temperature_ : float
        What that average is divided by.
    plan_ : dict
        The steps of the fit, for ``time_budget`` and for JSON, with expected and actual seconds.
    failed_rows_ : DataFrame
        Rows of the last call that could not be read: ``row``, ``source``, ``reason``.
    n_features_in_, feature_names_in_
        Number and names of the columns, if ``X`` has any.

    See Also
    --------
    PretrainedFeatureExtractor : Embed images for any classifier.
    FineTuneClassifier : Train one network.
    sktransfer.model_selection.rank_backbones : Rank networks without fitting a model.

    Notes
    -----
    A prediction runs every member's network once; members of one network share the pass.

    Candidates of a network are logistic regressions (C=0.01, standardized columns) on all its
    layers, each averaged over positions, and on its embedding. The first is taken, unless the
    second or the average of both has a log loss lower by 1.5 standard errors. Networks have equal
    weights: the average of networks that err differently beats the best of them, and weights that
    are fitted to a few hundred rows lose part of that. Left out are networks whose log loss is
    worse than the best one's by more than three standard errors. A fine-tuned network joins the
    average, or takes the place of its probe, where the log loss is less for it. The temperature is
    that of Guo et al. [1]_, fitted to predictions for held-out rows.

    Folds do not divide groups or copies of an image; groups that share an image count as one. A
    class that is in one group only, or has one row, is always trained on and never judged. A given
    network that was fine-tuned on some of these rows has seen their labels: its scores are too
    good.

    References
    ----------
    .. [1] Guo, C., Pleiss, G., Sun, Y., & Weinberger, K. Q. (2017). "On calibration of modern
       neural networks". ICML.

    Examples
    --------
    Random weights, so that nothing has to be downloaded; leave ``backbones`` out for the real
    networks at hand.

    >>> from sklearn.datasets import load_digits
    >>> from sktransfer import PretrainedFeatureExtractor, TransferClassifier
    >>> X, y = load_digits(n_class=2, return_X_y=True)
    >>> network = PretrainedFeatureExtractor("squeezenet1_1", weights=None, image_size=32)
    >>> clf = TransferClassifier(network, value_range=(0, 16), random_state=0)
    >>> clf.fit(X[:60], y[:60]).predict_proba(X[60:63]).shape
    (3, 2)
    >>> clf.leaderboard_["candidate"].tolist()[0]
    'TransferClassifier'
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **{
            name: ImageInputMixin._image_parameter_constraints[name]
            for name in (*_SHARED, "on_error", "random_state", "verbose")
        },
        "backbones": [
            *(None, str, os.PathLike, list, tuple, dict, HasMethods("fit"), torch.nn.Module),
        ],
        "time_budget": [Interval(Real, 0, None, closed="neither"), dict, None],
    }
    dicom = None
    scaled_decoding = False

    def __init__(
        self,
        backbones: Any = None,
        *,
        time_budget: float | dict[str, Any] | None = None,
        preprocessing: Any = "weights",
        image_size: int | None = None,
        image_shape: tuple[int, ...] | None = None,
        value_range: Any = None,
        device: str | torch.device = "auto",
        cache: Any = True,
        on_error: str = "raise",
        n_jobs: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.backbones = backbones
        self.time_budget = time_budget
        self.preprocessing = preprocessing
        self.image_size = image_size
        self.image_shape = image_shape
        self.value_range = value_range
        self.device = device
        self.cache = cache
        self.on_error = on_error
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None
    ) -> TransferClassifier:
        """Fit candidates, choose among them and combine them.

        Parameters
        ----------
        X : array-like, DataFrame, Series or sequence of images, n rows
            In any of the :ref:`accepted forms <accepted-inputs>`.
        y : array-like of shape (n,) or (n, n_labels), or sequence of sets
            Labels of any kind; or several findings a row, NaN where unknown (:ref:`findings`).
        sample_weight : array-like of shape (n,), default=None
            Weights of the rows, which count in solving, training, choosing and scores.
        groups : array-like of shape (n,), default=None
            Patients, say: rows of one group are in one fold.

        Returns
        -------
        self : TransferClassifier
            Fitted estimator.

        Raises
        ------
        ValueError
            If a parameter or the data are invalid, or if there are no networks; the message says
            what to do.
        ImageDecodeError
            For the first row that cannot be read, with ``on_error="raise"``.

        Warns
        -----
        UserWarning
            If a class cannot be held out, so that no score counts it; if the time budget is not
            enough for one network, which is then exceeded.
        """
        plan = Plan.read(self.time_budget, seed_from(self.random_state), int(self.verbose))
        named = self._networks(plan)
        source = self._image_source(X, reset=True)
        rows, self.classes_ = read_labels(
            y, source, sample_weight, groups, None, self, several=True
        )
        self._target = rows.target
        task = Task(X, rows.y, rows.weight, rows.groups, rows.target, plan.seed)
        self._failed_rows, self._class_names = NO_FAILED_ROWS, None
        self._passed_on = self._settings()
        candidates: list[Candidate] = []
        for name, extractor in plan.networks(named, X, len(source)).items():
            if not plan.affords(name, candidates):
                break
            fitted = fitted_extractors(extractor, X)
            widest = next(iter(fitted.values()))
            F = embed(widest, X)
            if self.verbose and widest.engine == "auto":
                widest._frozen(widest._found(), widest._info).say_engine()
            if not candidates:
                failed = widest.failed_rows_
                told = rows.kept[rows.weight[rows.kept] > 0]
                rows.kept = np.setdiff1d(told, failed["row"])
                self._note_failed_rows(failed, len(F), "left out of fit")
                task.assign_folds(rows.kept, rows.digests)
            candidates += frozen_candidates(name, fitted, F, task)
        ranked = sorted(candidates, key=lambda each: each.log_loss(task))
        candidates += plan.fine_tuned(named, ranked, task)
        ensemble = choose(candidates, task)
        self.scoring_ = scoring_of(rows.target)
        self.temperature_ = ensemble.temperature
        self._out_of_fold = ensemble.out_of_fold
        members = np.flatnonzero(ensemble.weights)
        self.estimators_ = [candidates[each].model for each in members]
        self.weights_ = ensemble.weights[members]
        self.best_estimator_ = candidates[best_of(candidates, task)].model
        self.plan_ = plan.record()
        self.leaderboard_ = leaderboard(candidates, ensemble, task, self.plan_["seconds"])
        return self

    def _networks(self, plan: Plan) -> dict[str, PretrainedFeatureExtractor]:
        """Return an extractor of every network, with the parameters of this estimator."""
        backbones = self.backbones
        if backbones is None:
            backbones = on_this_machine() if plan.given is None else plan.given["backbones"]
        named = named_networks(backbones)
        usual = PretrainedFeatureExtractor().get_params(deep=False)
        for extractor in named.values():
            if hasattr(extractor.backbone, "fit"):  # clones are to keep what it has learned
                inner = getattr(extractor.backbone, "estimator", extractor.backbone)
                extractor.backbone = FrozenEstimator(inner)
            for name in _SHARED:
                if repr(getattr(extractor, name)) == repr(usual[name]):
                    extractor.set_params(**{name: getattr(self, name)})
            quiet = max(0, int(self.verbose) - 1)
            extractor.set_params(on_error=self.on_error, verbose=quiet, output="numpy")
        return named

    def _note_failed_rows(self, failed: Any, n: int, what: str) -> None:
        errors: list[ImageDecodeError] = []
        if len(failed):  # to read an empty table takes a millisecond too
            listed = failed[["reason", "row", "source"]].itertuples(index=False, name=None)
            errors = [ImageDecodeError(*each) for each in listed]
        self._note_failures(errors, n, what)

    def _logits(self, X: Any) -> np.ndarray:
        """Return tempered log-probabilities, or logits; NaN for rows that cannot be read."""
        check_is_fitted(self)
        parts: list[np.ndarray] = []
        embedded: dict[str, np.ndarray] = {}
        failed = NO_FAILED_ROWS
        n = len(self._image_source(X, reset=False))
        self._pass_settings_on()
        for model in self.estimators_:
            reader = model[0] if isinstance(model, Pipeline) else model
            found = np.full((n, len(self.classes_)), np.nan)
            if isinstance(model, Pipeline):
                # Of members of one network that differ in the layers only, the first has them all.
                given = {n: v for n, v in vars(reader).items() if "_" not in (n[0], n[-1])}
                given["layer"] = "all" if reader.layer is None else reader.layer
                network = repr((reader.reference_.digest, given))
                if network not in embedded:
                    embedded[network] = embed(reader, X)
                F = embedded[network][:, -reader.n_features_out_ :]
                read = np.isfinite(F).all(axis=1)
                if read.any():
                    found[read] = outputs_of(model[1:].decision_function(F[read]), self._target)
            else:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", FailedRowsWarning)
                    found[:] = outputs_of(model.decision_function(X), self._target)
            failed = reader._failed_rows if len(reader._failed_rows) else failed
            parts.append(found)
        self._note_failed_rows(failed, n, "given NaN")
        return combine(parts, self.weights_, self.temperature_, self._target)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.classifier_tags.multi_label = True
        return tags
