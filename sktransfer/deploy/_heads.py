"""What comes after a network in an ONNX graph: scalers, classifiers, calibration, thresholds.

Linear classifiers and calibration are computed in float64. Other steps of scikit-learn are
converted by skl2onnx, and compared on random rows.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import FixedThresholdClassifier, TunedThresholdClassifierCV
from sklearn.pipeline import FeatureUnion, Pipeline

from sktransfer._finetune import FineTuneClassifier
from sktransfer._finetune._targets import Target
from sktransfer._transfer import TransferClassifier
from sktransfer._utils.sklearn_compat import is_linear_classifier, own_positive
from sktransfer.deploy._graph import ML_OPSET, OPSET, Graph, import_onnx, session_of
from sktransfer.deploy._networks import READERS, Networks
from sktransfer.model_selection import OperatingPointClassifier
from sktransfer.novelty import NoveltyGate

# Classifiers with one threshold; others that decide on scores have more to say than a class.
THRESHOLDS = (OperatingPointClassifier, TunedThresholdClassifierCV, FixedThresholdClassifier)
# Rows on which a converted step is compared, and the share of them that has to agree: a tree may
# jump on rounding.
_N_ROWS, _SHARE = 32, 0.9
_ONE_COLUMN = np.array([1])


# What a tree of HistGradientBoostingClassifier is made of, in ONNX and in scikit-learn.
_TREE_FIELDS = {
    "nodes_featureids": "feature_idx",
    "nodes_values": "num_threshold",
    "nodes_truenodeids": "left",
    "nodes_falsenodeids": "right",
}
_TREE = (
    *("nodes_treeids", "nodes_nodeids", "nodes_modes", *_TREE_FIELDS),
    *("target_treeids", "target_nodeids", "target_ids", "target_weights"),
)


def cannot(step: Any, why: str = "", name: str | None = None) -> ValueError:
    """Make the error for a step that cannot be exported."""
    called = type(step).__name__ if name is None else f"step {name!r} ({type(step).__name__})"
    return ValueError(
        f"{called} cannot be exported to ONNX{f': {why}' if why else ''}. What can be: a "
        "FineTuneClassifier, a TransferClassifier, or a Pipeline of PretrainedFeatureExtractor, "
        "scalers and what else skl2onnx converts, and a classifier; inside CalibratedClassifierCV, "
        "OperatingPointClassifier and scikit-learn's classifiers with a threshold, or not."
    )


class Heads:
    """Adds the responses of fitted estimators to a graph, of shape (1, columns), in float64.

    ``X`` is the name of features that an estimator is given; None: the image.
    """

    def __init__(self, g: Graph, networks: Networks) -> None:
        self._g, self._networks = g, networks

    def response(self, estimator: Any, method: str, X: str | None = None) -> str:
        """Return what a method gives; "decision_function" of two classes is (1, 1)."""
        if isinstance(estimator, FrozenEstimator):
            return self.response(estimator.estimator, method, X)
        if isinstance(estimator, (FineTuneClassifier, TransferClassifier)):
            if X is not None:
                raise cannot(estimator, "something precedes the step that reads images")
            if type(estimator._target) is not Target:
                raise cannot(estimator, "its target is not one class of several a row")
            logits = self._logits(estimator)
            if method == "predict_proba":
                return self._g("Softmax", logits, axis=1)
            difference = np.array([[-1.0], [1.0]])
            binary = len(estimator.classes_) == 2
            return self._g("MatMul", logits, difference) if binary else logits
        if isinstance(estimator, Pipeline):
            *steps, (_, last) = estimator.steps
            return self.response(last, method, self._features(steps, X))
        if isinstance(estimator, CalibratedClassifierCV):
            members = estimator.calibrated_classifiers_
            parts = [self._calibrated(each, X) for each in members]
            return self._g("Div", self._g("Sum", *parts), float(len(parts)))
        if isinstance(estimator, THRESHOLDS):
            return self.response(_thresholded(estimator), method, X)
        if hasattr(estimator, "best_estimator_"):  # of a search
            return self.response(estimator.best_estimator_, method, X)
        if isinstance(estimator, NoveltyGate):
            raise cannot(estimator, "the file would predict any image; export its estimator_")
        if X is None:
            raise cannot(estimator, "it is given images, and not what an extractor makes of them")
        if method == "decision_function" and _is_linear(estimator):
            weights = np.atleast_2d(np.asarray(estimator.coef_, np.float64)).T
            product = self._g("MatMul", X, weights)
            return self._g("Add", product, np.asarray(estimator.intercept_, np.float64).ravel())
        logistic = isinstance(estimator, (LogisticRegression, LinearDiscriminantAnalysis))
        if logistic and method == "predict_proba":
            raw = self.response(estimator, "decision_function", X)
            return self._probabilities(raw, len(estimator.classes_) == 2)
        if isinstance(estimator, HistGradientBoostingClassifier):
            raw = self._boosted(estimator, X)
            binary = len(estimator.classes_) == 2
            return raw if method == "decision_function" else self._probabilities(raw, binary)
        if not hasattr(estimator, method):
            raise cannot(estimator, "it gives no probabilities; put it into CalibratedClassifierCV")
        return self._converted(estimator, method, X)

    def predicted(self, estimator: Any, X: str | None = None) -> str:
        """Return the position of the predicted class in ``classes_``, of shape (1,)."""
        g = self._g
        if isinstance(estimator, FrozenEstimator):
            return self.predicted(estimator.estimator, X)
        if isinstance(estimator, Pipeline):
            *steps, (_, last) = estimator.steps
            return self.predicted(last, self._features(steps, X))
        if isinstance(estimator, THRESHOLDS):
            inner, threshold, column, method = threshold_of(estimator)
            score = self.response(inner, method, X)
            if method == "predict_proba":
                score = self._column(score, column)
            elif column == 0:
                score = g("Neg", score)
            reached = g("Reshape", g("GreaterOrEqual", score, threshold), _ONE_COLUMN)
            return g("Where", reached, np.array([column]), np.array([1 - column]))
        if hasattr(estimator, "best_estimator_") and not isinstance(estimator, TransferClassifier):
            return self.predicted(estimator.best_estimator_, X)
        own = isinstance(estimator, (FineTuneClassifier, TransferClassifier))
        if not own and hasattr(estimator, "decision_function"):
            decision = self.response(estimator, "decision_function", X)
            if len(estimator.classes_) == 2:
                return g.cast(g("Reshape", g("Greater", decision, 0.0), _ONE_COLUMN), np.int64)
            return g("ArgMax", decision, axis=1, keepdims=0)
        return g("ArgMax", self.response(estimator, "predict_proba", X), axis=1, keepdims=0)

    def _column(self, rows: str, column: int) -> str:
        return self._g("Slice", rows, np.array([column]), np.array([column + 1]), _ONE_COLUMN)

    # --- features ---------------------------------------------------------------------------------

    def _features(self, steps: list[tuple[str, Any]], X: str | None) -> str | None:
        """Return what the steps of a Pipeline before its last make of ``X``."""
        for name, step in steps:
            if step is None or (isinstance(step, str) and step == "passthrough"):
                continue
            if hasattr(step, "fit_resample"):  # works in fit alone
                continue
            X = self._transformed(step, X, name)
        return X

    def _transformed(self, step: Any, X: str | None, name: str) -> str:
        if isinstance(step, FrozenEstimator):
            return self._transformed(step.estimator, X, name)
        if isinstance(step, Pipeline):
            found = self._features(step.steps, X)
            if found is None:
                raise cannot(step, "it does nothing", name)
            return found
        if isinstance(step, FeatureUnion) and X is None:
            if step.transformer_weights:
                raise cannot(step, "it has transformer_weights", name)
            parts = [self._transformed(each, X, own) for own, each in step.transformer_list]
            return self._g("Concat", *parts, axis=1)
        if X is None:
            if not isinstance(step, READERS) or isinstance(step, FineTuneClassifier):
                raise cannot(step, "it is given images, and only an extractor reads them", name)
            return self._networks.rows(step)
        return self._converted(step, "transform", X, name)

    def _converted(self, step: Any, method: str, X: str, name: str | None = None) -> str:
        """Return what a step of scikit-learn makes of features, converted by skl2onnx."""
        try:
            model, place, dtype, column = _convert(step, method)
        except ValueError as error:
            raise cannot(step, str(error), name) from error.__cause__
        outputs = self._g.insert(model, self._g.cast(X, dtype), name=type(step).__name__)
        found = self._g.cast(self._g("Reshape", outputs[place], np.array([1, -1])), np.float64)
        return found if column is None else self._column(found, column)

    # --- classifiers ------------------------------------------------------------------------------

    def _logits(self, estimator: Any) -> str:
        """Return what softmax makes probabilities of, a column for each class."""
        g = self._g
        if isinstance(estimator, FineTuneClassifier):
            return self._networks.rows(estimator)
        parts = []
        for member, weight in zip(estimator.estimators_, estimator.weights_, strict=True):
            decision = self.response(member, "decision_function")
            if len(estimator.classes_) == 2:
                half = g("Mul", decision, 0.5)
                decision = g("Concat", g("Neg", half), half, axis=1)
            parts.append(g("Mul", g("LogSoftmax", decision, axis=1), float(weight)))
        total = g("Div", g("Sum", *parts), float(estimator.temperature_))
        return g("LogSoftmax", total, axis=1)

    def _probabilities(self, decision: str, binary: bool) -> str:
        """Return the probabilities of a decision that is log-odds."""
        g = self._g
        if not binary:
            return g("Softmax", decision, axis=1)
        return g("Sigmoid", g("Concat", g("Neg", decision), decision, axis=1))

    def _boosted(self, estimator: Any, X: str) -> str:
        """Return the sums of the trees of HistGradientBoostingClassifier."""
        if estimator.is_categorical_ is not None:
            raise cannot(estimator, "it has categorical features")
        columns: dict[str, Any] = {name: [] for name in _TREE}
        for number, trees in enumerate(estimator._predictors):
            for target, tree in enumerate(trees):
                nodes = tree.nodes
                leaf = nodes["is_leaf"].astype(bool)
                n, own = len(nodes), number * len(trees) + target
                columns["nodes_treeids"] += [own] * n
                columns["nodes_nodeids"] += range(n)
                columns["nodes_modes"] += np.where(leaf, "LEAF", "BRANCH_LEQ").tolist()
                for name, field in _TREE_FIELDS.items():
                    columns[name] += np.where(leaf, 0, nodes[field]).tolist()
                places = np.flatnonzero(leaf).tolist()
                columns["target_treeids"] += [own] * len(places)
                columns["target_nodeids"] += places
                columns["target_ids"] += [target] * len(places)
                columns["target_weights"] += nodes["value"][leaf].tolist()
        for name in ("nodes_values", "target_weights"):
            columns[f"{name}_as_tensor"] = self._g.tensor(np.array(columns.pop(name)))
        n_targets = len(estimator._predictors[0])
        trees = ("TreeEnsembleRegressor", X)
        raw = self._g(*trees, domain="ai.onnx.ml", n_targets=n_targets, **columns)
        return self._g(
            "Add", self._g.cast(raw, np.float64), np.ravel(estimator._baseline_prediction)
        )

    def _calibrated(self, member: Any, X: str | None) -> str:
        """Return the probabilities of a member of a CalibratedClassifierCV."""
        g, inner, n_classes = self._g, member.estimator, len(member.classes)
        raw = hasattr(inner, "decision_function")
        scores = self.response(inner, "decision_function" if raw else "predict_proba", X)
        if member.method == "temperature":
            beta = float(member.calibrators[0].beta_)
            if not raw:
                scores = g("Log", g("Add", g("Max", scores, 0.0), 1e-12))
            elif n_classes == 2:
                scores = g("Concat", g("Neg", scores), scores, axis=1)
            return g("Softmax", g("Mul", scores, beta), axis=1)
        if n_classes == 2:
            scores = scores if raw else self._column(scores, 1)
        parts = []
        for place, calibrator in enumerate(member.calibrators):
            score = scores if n_classes == 2 else self._column(scores, place)
            parts.append(self._step(score, calibrator, member.method))
        if n_classes == 2:
            return g("Concat", g("Sub", 1.0, parts[0]), parts[0], axis=1)
        # A fold may have lacked a class.
        places = np.searchsorted(member.classes, inner.classes_)
        found = g("MatMul", g("Concat", *parts, axis=1), np.eye(n_classes)[places])
        total = g("ReduceSum", found, _ONE_COLUMN, keepdims=1)
        none = g("Equal", total, 0.0)
        return g("Where", none, 1.0 / n_classes, g("Div", found, g("Where", none, 1.0, total)))

    def _step(self, score: str, calibrator: Any, method: str) -> str:
        """Return the probability that a calibrator makes of a score."""
        g = self._g
        if method == "sigmoid":
            line = g("Add", g("Mul", score, float(-calibrator.a_)), float(-calibrator.b_))
            return g("Sigmoid", line)
        x, y = (
            np.asarray(each, np.float64)
            for each in (calibrator.X_thresholds_, calibrator.y_thresholds_)
        )
        if len(x) == 1:
            return g("Add", g("Mul", score, 0.0), float(y[0]))
        way = g("Div", g("Sub", score, x[:-1]), np.diff(x))
        climbed = g("Mul", g("Max", 0.0, g("Min", way, 1.0)), np.diff(y))
        return g("Add", g("ReduceSum", climbed, _ONE_COLUMN, keepdims=1), float(y[0]))


def _convert(step: Any, method: str) -> tuple[Any, int, Any, int | None]:
    """Return the model of a step that computes a method, with which output, dtype and column.

    Raises ValueError where skl2onnx cannot, or where what it makes computes something else.
    """
    convert = import_onnx("skl2onnx").convert_sklearn
    types = import_onnx("skl2onnx.common.data_types")
    import_onnx("onnxruntime")  # if it is missing, no converter is to blame
    place = 0 if method == "transform" else 1
    options = {"zipmap": False} if place else {}
    if method == "decision_function":
        options["raw_scores"] = True
    n_features = step.n_features_in_
    rows = np.random.default_rng(0).standard_normal((_N_ROWS, n_features)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names of features, say
        expected = np.asarray(getattr(step, method)(rows.astype(np.float64)))
    why, cause = "skl2onnx makes a model of it that computes something else", None
    # Not every converter knows float64.
    for kind, dtype in ((types.DoubleTensorType, np.float64), (types.FloatTensorType, np.float32)):
        try:
            model = convert(
                step,
                initial_types=[("X", kind([None, n_features]))],
                options={id(step): options} if options else None,
                target_opset={"": OPSET, "ai.onnx.ml": ML_OPSET},
            )
            session = session_of(model.SerializeToString())
            found = np.asarray(session.run(None, {"X": rows.astype(dtype)})[place])
        except Exception as error:  # whatever a converter raises
            lines = str(error).strip().splitlines() or [type(error).__name__]
            why, cause = f"skl2onnx says {lines[0]}", error
            continue
        found = found.reshape(_N_ROWS, -1)
        if expected.ndim == 2:
            if _agree(found, expected):
                return model, place, dtype, None
            continue
        for column in range(found.shape[1]):
            if _agree(found[:, [column]], expected[:, None]):
                return model, place, dtype, column
    raise ValueError(why) from cause


def _agree(found: np.ndarray, expected: np.ndarray) -> bool:
    """Return whether nearly all rows are the same numbers."""
    if found.shape != expected.shape:
        return False
    close = np.isclose(found, expected, rtol=1e-3, atol=1e-4).all(axis=1)
    return bool(close.mean() >= _SHARE)


def threshold_of(estimator: Any) -> tuple[Any, float, int, str]:
    """Return the estimator whose scores a threshold decides on, it, its class and the method."""
    inner = _thresholded(estimator)
    methods = estimator._get_response_method()
    methods = [methods] if isinstance(methods, str) else methods
    method = next(each for each in methods if hasattr(inner, each))
    found = [
        getattr(estimator, each, None) for each in ("threshold_", "best_threshold_", "threshold")
    ]
    threshold = next(each for each in found if each is not None)
    if threshold == "auto":
        threshold = 0.5 if method == "predict_proba" else 0.0
    positive, classes = own_positive(estimator), np.asarray(estimator.classes_)
    column = 1 if positive is None else int(np.flatnonzero(classes == positive)[0])
    return inner, float(threshold), column, method


def _thresholded(estimator: Any) -> Any:
    return getattr(estimator, "estimator_", estimator.estimator)


def _is_linear(estimator: Any) -> bool:
    return is_linear_classifier(estimator) and hasattr(estimator, "coef_")
