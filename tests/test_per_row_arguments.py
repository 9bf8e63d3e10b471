"""Arguments with a value for each row are positional, in whatever container they come."""

from __future__ import annotations

import dataclasses
import inspect
from itertools import count
from operator import attrgetter

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_validate

from sktransfer import (
    FineTuneClassifier,
    PretrainedFeatureExtractor,
    bags,
    datasets,
    inspection,
    metrics,
    model_selection,
    novelty,
    report,
    studies,
)

RNG = np.random.default_rng(0)
N = 48
Y = np.arange(N) % 2
IMAGES = RNG.integers(0, 200, (N, 16, 16, 3)).astype(np.uint8)
IMAGES[Y == 1] += 40
SCORE = np.clip(0.25 + 0.3 * Y + RNG.normal(0, 0.2, N), 0.01, 0.99)
OTHER = np.clip(SCORE + RNG.normal(0, 0.1, N), 0.01, 0.99)
PATIENTS = np.arange(N) // 2 % 12 + 100
WEIGHTS = RNG.uniform(0.5, 2, N)
CALLED = (SCORE > 0.5).astype(int)
READINGS = np.where(RNG.random(N) < 0.8, Y, 1 - Y)
AGE = 40 + 20 * Y + RNG.normal(0, 5, N)
SEX = np.where(RNG.random(N) < 0.5, "F", "None")
FEATURES = RNG.normal(size=(N, 6)) + Y[:, None]
BAGS = [FEATURES[i : i + 1 + i % 2] for i in range(N)]
LABELS = np.stack([Y, READINGS], axis=1)
LABEL_SCORES = np.stack([SCORE, OTHER], axis=1)
THETA = np.stack([1 - SCORE, SCORE], axis=1)
LINEAR = LogisticRegression().fit(FEATURES, Y)
EXTRACTOR = PretrainedFeatureExtractor("resnet18", weights=None, image_size=32)
PIXEL_ROWS = IMAGES.reshape(N, -1) / 255
PIXELS = LogisticRegression(C=1e-4, max_iter=50).fit(PIXEL_ROWS, Y)


def tuner(**settings):
    known = {"weights": None, "image_size": 32, "max_epochs": 1, "random_state": 0}
    return FineTuneClassifier("squeezenet1_1", **(known | settings))


def folds():
    return cross_validate(
        LogisticRegression(), FEATURES, Y, cv=4, return_estimator=True, return_indices=True
    )


def display(kind, method, **given):
    """Return what a display of one kind computes."""

    def call(w):
        values = {k: w(v) if np.ndim(v) == 1 else v for k, v in given.items()}
        return getattr(getattr(metrics, kind), method)(**values)

    return call


PREDICTIONS = {"y_true": Y, "y_score": SCORE, "groups": PATIENTS}
PROBABLE = {"y_true": Y, "y_proba": SCORE, "groups": PATIENTS}
CV = {"X": FEATURES, "groups": PATIENTS}
DISPLAYS = ["CalibrationInterval", "DecisionCurve", "ReaderStudy", "ScoreDistribution"]


def triage():
    return model_selection.TriageClassifier(
        LogisticRegression(), max_missed=0.4, max_false=0.4, confidence_level=None, cv=3
    )


FAST = {
    "metrics.calibration_intercept": lambda w: metrics.calibration_intercept(
        w(Y), w(SCORE), groups=w(PATIENTS)
    ),
    "metrics.multilabel_report": lambda w: metrics.multilabel_report(
        LABELS, LABEL_SCORES, groups=w(PATIENTS), n_resamples=20
    ),
    "metrics.MultilabelRocDisplay.from_predictions": lambda w: (
        metrics.MultilabelRocDisplay.from_predictions(
            LABELS, LABEL_SCORES, groups=w(PATIENTS)
        ).report
    ),
    "datasets.audit_labels": lambda w: (
        datasets.audit_labels(FEATURES, w(Y), w(PATIENTS), near_duplicates=False).table
    ),
    "metrics.calibration_slope": lambda w: metrics.calibration_slope(
        w(Y), w(SCORE), groups=w(PATIENTS)
    ),
    "metrics.expected_cost": lambda w: metrics.expected_cost(
        w(Y), w(CALLED), cost_matrix=[[0, 1], [5, 0]], sample_weight=w(WEIGHTS)
    ),
    "metrics.net_benefit": lambda w: metrics.net_benefit(
        w(Y), w(SCORE), [0.2, 0.5], sample_weight=w(WEIGHTS)
    ),
    "metrics.operating_point": lambda w: metrics.operating_point(
        w(Y), w(SCORE), 0.5, groups=w(PATIENTS)
    ),
    "metrics.roc_auc_difference": lambda w: metrics.roc_auc_difference(
        w(Y), w(SCORE), w(OTHER), groups=w(PATIENTS)
    ),
    "metrics.roc_auc_interval": lambda w: metrics.roc_auc_interval(
        w(Y), w(SCORE), groups=w(PATIENTS), n_resamples=50
    ),
    "metrics.sensitivity_at_specificity": lambda w: metrics.sensitivity_at_specificity(
        w(Y), w(SCORE), specificity=0.8
    ),
    "metrics.specificity_at_sensitivity": lambda w: metrics.specificity_at_sensitivity(
        w(Y), w(SCORE), sensitivity=0.8
    ),
    "metrics.CalibrationIntervalDisplay.from_predictions": display(
        "CalibrationIntervalDisplay", "from_predictions", **PROBABLE
    ),
    "metrics.DecisionCurveDisplay.from_predictions": display(
        "DecisionCurveDisplay", "from_predictions", **PROBABLE, sample_weight=WEIGHTS
    ),
    "metrics.ScoreDistributionDisplay.from_predictions": display(
        "ScoreDistributionDisplay", "from_predictions", **PREDICTIONS
    ),
    "metrics.ReaderStudyDisplay.from_predictions": lambda w: (
        metrics.ReaderStudyDisplay.from_predictions(
            w(Y), w(SCORE), groups=w(PATIENTS), readers={"a": w(READINGS), "b": w(CALLED)}
        )
    ),
    "metrics.ConfusionPairDisplay.from_predictions": lambda w: (
        metrics.ConfusionPairDisplay.from_predictions(
            w(Y), w(CALLED), readers={"a": w(READINGS), "b": w(CALLED)}, pool=True
        )
    ),
    "metrics.ConfusionPairDisplay.from_estimator": lambda w: (
        metrics.ConfusionPairDisplay.from_estimator(
            LINEAR, FEATURES, w(Y), readers={"a": w(READINGS)}
        )
    ),
    **{
        f"metrics.{kind}Display.from_estimator": display(
            f"{kind}Display", "from_estimator", estimator=LINEAR, y=Y, X=FEATURES
        )
        for kind in DISPLAYS
    },
    **{
        f"metrics.{kind}Display.from_cv_results": (
            lambda w, kind=kind: getattr(metrics, f"{kind}Display").from_cv_results(
                folds(), FEATURES, w(Y), groups=w(PATIENTS)
            )
        )
        for kind in DISPLAYS
    },
    "model_selection.OperatingPointClassifier.fit": lambda w: (
        model_selection.OperatingPointClassifier(
            LogisticRegression(), target_level=0.6, confidence_level=None, cv=3
        )
        .fit(FEATURES, w(Y), groups=w(PATIENTS), sample_weight=w(WEIGHTS))
        .threshold_
    ),
    "model_selection.OutOfFoldTransformer.fit": lambda w: model_selection.OutOfFoldTransformer(
        LogisticRegression(), cv=3
    ).fit_transform(FEATURES, w(Y), groups=w(PATIENTS), sample_weight=w(WEIGHTS)),
    "bags.BagClassifier.fit": lambda w: (
        bags.BagClassifier().fit(BAGS, w(Y), sample_weight=w(WEIGHTS)).predict_proba(BAGS)
    ),
    "bags.BagClassifier.score": lambda w: (
        bags.BagClassifier().fit(BAGS, Y).score(BAGS, w(Y), sample_weight=w(WEIGHTS))
    ),
    "novelty.NoveltyDetector.fit": lambda w: (
        novelty.NoveltyDetector().fit(FEATURES, groups=w(PATIENTS)).score_samples(FEATURES)
    ),
    "novelty.NoveltyGate.fit": lambda w: (
        novelty.NoveltyGate(LogisticRegression())
        .fit(FEATURES, w(Y), groups=w(PATIENTS), sample_weight=w(WEIGHTS))
        .decision_function(FEATURES)
    ),
    "novelty.NoveltyGate.score": lambda w: (
        novelty.NoveltyGate(LogisticRegression())
        .fit(FEATURES, Y)
        .score(FEATURES, w(Y), sample_weight=w(WEIGHTS))
    ),
    "bags.make_bags": lambda w: [
        int(bag[0]) for bag in bags.make_bags(np.arange(N), w(PATIENTS % 2), w(PATIENTS)).data
    ],
    "model_selection.OperatingPointClassifier.score": lambda w: (
        model_selection.OperatingPointClassifier(
            LogisticRegression(), target_level=0.6, confidence_level=None, cv=3
        )
        .fit(FEATURES, Y)
        .score(FEATURES, w(Y), sample_weight=w(WEIGHTS))
    ),
    "model_selection.TriageClassifier.fit": lambda w: (
        triage().fit(FEATURES, w(Y), groups=w(PATIENTS), sample_weight=w(WEIGHTS)).thresholds_
    ),
    "model_selection.TriageClassifier.score": lambda w: (
        triage().fit(FEATURES, Y).score(FEATURES, w(Y), sample_weight=w(WEIGHTS))
    ),
    "model_selection.TriageDisplay.from_predictions": lambda w: (
        model_selection.TriageDisplay.from_predictions(w(Y), Y, groups=w(PATIENTS)).table
    ),
    "model_selection.TriageDisplay.from_estimator": lambda w: (
        model_selection.TriageDisplay.from_estimator(
            triage().fit(FEATURES, Y), FEATURES, w(Y), groups=w(PATIENTS)
        ).table
    ),
    "model_selection.GroupedValidSplit.__call__": lambda w: [
        part.indices
        for part in model_selection.GroupedValidSplit(0.25, random_state=0)(
            FEATURES, w(Y), groups=w(PATIENTS)
        )
    ],
    "model_selection.acceptance_test": lambda w: model_selection.acceptance_test(
        LINEAR,
        FEATURES,
        w(Y),
        required={"sensitivity": 0.5},
        groups=w(PATIENTS),
        subgroups={"sex": w(SEX)},
    ),
    "model_selection.cross_val_difference": lambda w: model_selection.cross_val_difference(
        *(LINEAR, LogisticRegression(C=0.01), FEATURES, w(Y)),
        groups=w(PATIENTS),
        method="corrected_t",
        n_repeats=1,
        cv=3,
    ),
    "model_selection.cross_val_interval": lambda w: model_selection.cross_val_interval(
        *(LINEAR, FEATURES, w(Y)), groups=w(PATIENTS), method="corrected_t", n_repeats=1, cv=3
    ),
    "model_selection.check_leakage": lambda w: model_selection.check_leakage(
        IMAGES[:30],
        IMAGES[20:],
        groups_train=w(PATIENTS[:30]),
        groups_test=w(PATIENTS[20:]),
        on_leak="ignore",
    )[["test_row", "train_row"]],
    "model_selection.grouped_train_test_split": lambda w: model_selection.grouped_train_test_split(
        np.arange(N), w(Y), groups=w(PATIENTS), stratify=w(Y), random_state=0
    ),
    "model_selection.h_score": lambda w: model_selection.h_score(FEATURES, w(Y)),
    "model_selection.knn_score": lambda w: model_selection.knn_score(
        FEATURES, w(Y), groups=w(PATIENTS)
    ),
    "model_selection.leep_score": lambda w: model_selection.leep_score(THETA, w(Y)),
    "model_selection.logme_score": lambda w: model_selection.logme_score(FEATURES, w(Y)),
    "model_selection.loo_ridge_score": lambda w: model_selection.loo_ridge_score(
        FEATURES, w(Y), groups=w(PATIENTS)
    ),
    "model_selection.nce_score": lambda w: model_selection.nce_score(w(READINGS), w(Y)),
    "inspection.ErrorGalleryDisplay.from_predictions": lambda w: (
        inspection.ErrorGalleryDisplay.from_predictions(
            w(Y), w(SCORE), IMAGES, groups=w(PATIENTS), row_names=w(SEX), y_pred=w(READINGS)
        ).table[["row", "confidence", "n_in_group"]]
    ),
    "inspection.ConfusionExamplesDisplay.from_predictions": lambda w: (
        inspection.ConfusionExamplesDisplay.from_predictions(
            w(Y), w(SCORE), IMAGES, y_pred=w(READINGS)
        )
    ),
    "datasets.check_images": lambda w: datasets.check_images(
        np.concatenate([IMAGES[:40], IMAGES[:8]]), w(Y), w(PATIENTS), verbose=0
    )[["row"]],
    "FineTuneClassifier.fit": lambda w: (
        tuner(freeze_depth="all", validation_fraction=0.25)
        .fit(IMAGES, w(Y), sample_weight=w(WEIGHTS), groups=w(PATIENTS))
        .predict_proba(IMAGES)
    ),
    "FineTuneClassifier.partial_fit": lambda w: (
        tuner(freeze_depth=-1)
        .partial_fit(IMAGES, w(Y), classes=[0, 1], sample_weight=w(WEIGHTS), groups=w(PATIENTS))
        .predict_proba(IMAGES)
    ),
    "FineTuneClassifier.score": lambda w: (
        tuner(freeze_depth="all").fit(IMAGES, Y).score(IMAGES, w(Y), sample_weight=w(WEIGHTS))
    ),
    # The points have an arbitrary sign.
    "inspection.EmbeddingDisplay.from_estimator": lambda w: attrgetter("y", "y_pred", "rows")(
        inspection.EmbeddingDisplay.from_estimator(
            EXTRACTOR.fit(IMAGES), IMAGES, w(Y), y_pred=w(READINGS), embedding=PCA(2)
        )
    ),
    "inspection.occlusion": lambda w: inspection.occlusion(
        PIXELS, PIXEL_ROWS[:4], w(Y[:4]), patch=8, image_shape=(16, 16, 3)
    ),
}
SLOW = {
    "report.diagnostic_report": lambda w: report.diagnostic_report(
        PIXELS,
        PIXEL_ROWS,
        w(Y),
        groups=w(PATIENTS),
        readers={"a": w(READINGS), "b": w(CALLED)},
        subgroups={"sex": w(SEX), "age": w(AGE)},
        metadata={"age": w(AGE), "sex": w(SEX)},
        X_train=PIXEL_ROWS[:4],
        y_train=w(Y[:4]),
        groups_train=w(PATIENTS[:4]),
        baselines={"other": w(OTHER)},
        row_names=w(SEX),
        saliency=None,
        images=False,
    ).to_dict(),
    "model_selection.freeze_depth_curve": lambda w: model_selection.freeze_depth_curve(
        tuner(), IMAGES, w(Y), depths=["all"], cv=GroupKFold(2), groups=w(PATIENTS)
    )[["depth", "mean_score"]],
    "model_selection.plan_search": lambda w: [
        model_selection.plan_search(
            GridSearchCV(tuner(), {"freeze_depth": [-1, "all"]}, cv=GroupKFold(2)),
            IMAGES,
            w(Y),
            groups=w(PATIENTS),
        ).cuts["n_images"]
    ],
    "inspection.LearningRateDisplay.from_estimator": lambda w: (
        inspection.LearningRateDisplay.from_estimator(
            tuner(), IMAGES, w(Y), n_steps=10, n_runs=1
        ).loss
    ),
    "model_selection.rank_backbones": lambda w: model_selection.rank_backbones(
        IMAGES, w(Y), [EXTRACTOR], groups=w(PATIENTS), n_resamples=5, random_state=0
    ).table["score"],
    "model_selection.recommend_strategy": lambda w: model_selection.recommend_strategy(
        IMAGES, w(Y), EXTRACTOR, groups=w(PATIENTS), random_state=0
    ).evidence["score"],
    "studies.compare_backbones": lambda w: [
        *studies.compare_backbones(
            IMAGES,
            w(Y),
            backbones={"small": EXTRACTOR},
            strategies=["extract"],
            cv=2,
            groups=w(PATIENTS),
            n_resamples=5,
        ).probabilities.values()
    ],
    "studies.convergence_curve": lambda w: studies.convergence_curve(
        tuner(), IMAGES, w(Y), budgets=[1], inits=["pretrained"], groups=w(PATIENTS), n_repeats=1
    ).table["score"],
    "studies.transfer_curve": lambda w: studies.transfer_curve(
        tuner(), IMAGES, w(Y), depths=["features.6"], groups=w(PATIENTS), n_repeats=1
    ).table["score"],
}
# They have no argument for each row but y, which ``class_codes`` or an entry above reads.
THROUGH_OTHERS = {
    "bags.BagTransformer.fit",  # labels are ignored
    # What is two-dimensional is read as by multilabel_report.
    *("metrics.multilabel_score", "metrics.MultilabelRocDisplay.from_estimator"),
    *(f"inspection.{name}" for name in ("deletion_insertion_curves", "grad_cam", "saliency_maps")),
    *("inspection.input_gradient", "inspection.integrated_gradients"),
    "inspection.saliency_randomization_test",
    *(
        f"inspection.{kind}Display.from_estimator"
        for kind in ("ConfusionExamples", "DeletionInsertion", "ErrorGallery", "Saliency")
    ),
    "model_selection.FreezeDepthDisplay.from_estimator",
}


def flat(found):
    """Return what is in a result as a list of numbers and words."""
    if dataclasses.is_dataclass(found):
        found = [getattr(found, field.name) for field in dataclasses.fields(found)]
    if isinstance(found, dict):
        found = [part for key in sorted(found, key=str) for part in (str(key), found[key])]
    if isinstance(found, (pd.DataFrame, pd.Series)):
        found = found.to_numpy()
    if isinstance(found, (list, tuple, np.ndarray)):
        return [each for part in found for each in flat(part)]
    return [found]


def assert_same(one, two):
    one, two = flat(one), flat(two)
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        if isinstance(a, (float, np.floating)):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)
        elif isinstance(a, (str, int, np.integer, bool)):
            assert a == b


def shuffled():
    """Return a wrapper that gives every argument another index."""
    seeds = count()
    return lambda each: pd.Series(
        each, index=np.random.default_rng(next(seeds)).permutation(len(each))
    )


def labeled(each):
    return pd.Series(each, index=pd.MultiIndex.from_product([["x"], [7] * len(each)]))


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.mark.parametrize("name", FAST)
def test_rows_are_taken_in_their_order_whatever_the_index(name):
    call = FAST[name]
    expected = call(np.asarray)
    for form in (shuffled(), labeled, list):
        assert_same(call(form), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_rows_of_long_computations_are_taken_in_their_order(name):
    assert_same(SLOW[name](shuffled()), SLOW[name](np.asarray))


WITH_LABELS = [
    *("model_selection.h_score", "model_selection.knn_score", "model_selection.logme_score"),
    *("model_selection.leep_score", "model_selection.grouped_train_test_split"),
    *("model_selection.GroupedValidSplit.__call__", "model_selection.OperatingPointClassifier.fit"),
    *("FineTuneClassifier.fit", "inspection.ErrorGalleryDisplay.from_predictions"),
    "metrics.DecisionCurveDisplay.from_predictions",
]


@pytest.mark.parametrize("name", WITH_LABELS)
@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_a_missing_label_is_no_class(name, missing):
    def with_gap(each):
        words = ["ill" if label else "well" for label in each]
        return [*words[:3], missing, *words[4:]] if each is Y else np.asarray(each)

    with pytest.raises(ValueError, match=r": 1 of \d+ rows have no label, the first is row 3"):
        FAST[name](with_gap)


@pytest.mark.parametrize("name", WITH_LABELS)
def test_labels_that_are_objects_keep_their_type_and_are_not_mixed(name):
    assert_same(FAST[name](lambda each: np.asarray(each, object)), FAST[name](np.asarray))
    with pytest.raises(TypeError, match="has text and other labels, such as 'ill' and "):
        FAST[name](lambda each: ["ill", *each[1:]] if each is Y else np.asarray(each))


PER_ROW = {"y", "y_true", "y_score", "groups", "groups_train", "sample_weight", "readers"}


def public_calls():
    """Return what users call with a value for each row, as module.name or module.Class.method."""
    for module in (bags, novelty, metrics, model_selection, inspection, report, studies, datasets):
        short = module.__name__.rsplit(".")[-1]
        for name in module.__all__:
            given = getattr(module, name)
            methods = ["from_predictions", "from_estimator", "from_cv_results", "fit", "score"]
            for call, full in (
                [(given, name)]
                if inspect.isfunction(given)
                else [(getattr(given, own, None), f"{name}.{own}") for own in methods]
            ):
                if call is not None and PER_ROW & set(inspect.signature(call).parameters):
                    yield f"{short}.{full}"


def test_every_public_call_with_values_for_rows_is_tested_here():
    # The loaders take the name of a column as groups.
    loaders = {"datasets.load_image_folder", "datasets.load_image_table"}
    assert set(public_calls()) - FAST.keys() - SLOW.keys() - THROUGH_OTHERS == loaders
