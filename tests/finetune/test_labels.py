"""Labels of any kind, probabilities, rows that cannot be read, and scikit-learn around it all."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.special import expit, softmax
from sklearn import config_context
from sklearn.base import clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    StratifiedGroupKFold,
    TunedThresholdClassifierCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
)
from sklearn.pipeline import make_pipeline

from sktransfer import FineTuneClassifier, cache_info, clear_cache
from sktransfer.exceptions import FailedRowsWarning, ImageDecodeError
from sktransfer.model_selection import OperatingPointClassifier
from sktransfer.preprocessing import ImageAugmentation

LABELS = {
    "strings": ["ant", "bee"],
    "objects": np.array(["ant", "bee"], dtype=object),
    "bool": [False, True],
    "signs": [-1, 1],
    "from one": [1, 2],
    "with a gap": [0, 2],
    "int32": np.array([0, 1], dtype=np.int32),
    "float": [0.0, 1.0],
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("freeze_depth", ["all", -1])
def test_labels_of_any_kind(small, task, labels, freeze_depth):
    X, y = task
    own = np.asarray(labels)[y]
    clf = small(freeze_depth=freeze_depth, max_epochs=1).fit(X, own)
    assert clf.classes_.tolist() == sorted(np.asarray(labels).tolist())
    P = clf.predict_proba(X)
    assert P.shape == (len(X), 2)
    assert np.array_equal(clf.predict(X), clf.classes_[P.argmax(axis=1)])
    assert clf.score(X, own) > 0.6


def test_what_cannot_be_held_out_is_named_as_it_was_given(small, task):
    X, y = task
    own = np.where(y == 1, "nevus", "melanoma").astype(object)
    lonely = own.copy()
    lonely[0] = "None"
    with pytest.raises(ValueError, match="'None': 1, 'melanoma': 19, 'nevus': 20 rows"):
        small(validation_fraction=0.2).fit(X, lonely)
    one_each = np.where(y == 1, "p1", "p2")
    with pytest.raises(ValueError, match=r"all rows of \['melanoma', 'nevus'\] are of one group"):
        small(validation_fraction=0.2).fit(X, own, groups=one_each)
    with pytest.raises(ValueError, match=r"1 of .* rows have no group, the first is row 2"):
        small().fit(X, own, groups=[*one_each[:2], None, *one_each[3:]])


def test_logits_and_probabilities_agree(small, task):
    X, y = task
    two = small(max_epochs=1).fit(X, y)
    z = two.decision_function(X)
    assert z.shape == (len(X),)
    np.testing.assert_allclose(expit(z), two.predict_proba(X)[:, 1], atol=1e-12)
    three = small(max_epochs=1).fit(X, np.arange(len(y)) % 3)
    np.testing.assert_allclose(
        softmax(three.decision_function(X), axis=1), three.predict_proba(X), atol=1e-12
    )


@pytest.mark.parametrize("precision", ["bfloat16", "float64"])
def test_probabilities_are_exact_whatever_the_precision(small, task, precision):
    X, y = task
    clf = small(precision=precision, max_epochs=1).fit(X, y)
    P = clf.predict_proba(X)
    assert P.dtype == np.float64
    np.testing.assert_allclose(P.sum(axis=1), 1, atol=1e-12)
    reference = small(max_epochs=1).fit(X, y).predict_proba(X)
    assert np.abs(P - reference).max() < 0.2


def test_predicting_before_fit_is_an_error(small, task):
    clf = small()
    assert not hasattr(clf, "classes_")
    for method in ("predict", "predict_proba", "decision_function"):
        with pytest.raises(NotFittedError):
            getattr(clf, method)(task[0])
    with pytest.raises(AttributeError, match="call fit"):
        clf.initialize()


def test_it_is_a_classifier_with_a_short_repr(small, task):
    clf = small(max_epochs=1)
    assert is_classifier(clf)
    text = repr(clf)
    assert repr(clf.fit(*task)) == text  # skorch's would print the whole network


def test_it_prints_only_if_verbose(small, task, capsys):
    small(validation_fraction=0.25).fit(*task).predict(task[0])
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
    small(verbose=1, max_epochs=1).fit(*task)
    out = capsys.readouterr().out
    assert "train_loss" in out
    assert "lr_by_stage" not in out
    small(verbose=1, max_epochs=1, lr=2e-5, lr_schedule="constant").fit(*task)
    assert "2e-05" in capsys.readouterr().out  # and not 0.0000


def test_parameters_do_not_grow_in_fit(small, task):
    clf = small(max_epochs=1)
    before = set(clf.get_params())
    assert set(clf.fit(*task).get_params()) == before
    assert set(clone(clf).get_params()) == before
    assert not hasattr(clone(clf), "classes_")


def test_a_misspelt_parameter_is_an_error_at_once_that_lists_those_there_are():
    with pytest.raises(TypeError, match=r"'learning_rate' for .* lr_schedule, max_epochs"):
        FineTuneClassifier(learning_rate=0.1)
    with pytest.raises(TypeError, match="mean module__freeze_batch_norm"):
        FineTuneClassifier(module__x=1)
    with pytest.raises(TypeError, match="mean head__C or head__dropout or head__epochs"):
        FineTuneClassifier(head__c=1)
    with pytest.raises(TypeError, match="mean validation_fraction"):
        FineTuneClassifier(train_split=None)
    with pytest.raises(TypeError, match=r"settings of .* optimizer__\*"):
        FineTuneClassifier(iterator__num_workers=1)
    with pytest.raises(ValueError, match="mean optimizer"):
        FineTuneClassifier().set_params(optimiser="sgd")
    with pytest.raises(ValueError, match="mean module__freeze_batch_norm"):
        FineTuneClassifier().set_params(module__x=1)
    with pytest.raises(ValueError, match="mean head__init"):
        FineTuneClassifier().set_params(head_init="random")


def test_rare_parameters_are_listed_with_their_defaults_and_shown_where_they_were_given():
    clf = FineTuneClassifier(head__C=0.1)
    rare = {name: value for name, value in clf.get_params().items() if "__" in name}
    assert len(rare) == 22
    assert rare["head__C"] == clf.head__C == 0.1
    assert rare["lr_schedule__warmup"] == clf.lr_schedule__warmup == 0.0
    assert repr(clf) == "FineTuneClassifier(head__C=0.1)"
    assert repr(clone(clf).set_params(checkpoint__every=3)) == (
        "FineTuneClassifier(checkpoint__every=3, head__C=0.1)"
    )
    assert FineTuneClassifier(**clf.get_params()).get_params() == clf.get_params()


def test_every_parameter_has_a_constraint_that_is_enforced(task):
    names = set(FineTuneClassifier().get_params())
    assert names <= set(FineTuneClassifier._parameter_constraints)
    free = {"freeze_depth", "augmentation", "random_state", "callbacks"}
    for name in sorted(names - free):
        with pytest.raises((ValueError, TypeError), match=name):
            FineTuneClassifier(**{name: object()}).fit(*task)


@pytest.fixture
def files(tmp_path, task):
    for i, image in enumerate(task[0]):
        Image.fromarray(image).save(tmp_path / f"{i:02d}.png")
    return [str(tmp_path / f"{i:02d}.png") for i in range(len(task[0]))]


def test_every_form_of_x_gives_the_same(small, task, files):
    X, y = task
    right = small(max_epochs=1).fit(X, y).predict_proba(X)
    forms = {
        "paths": files,
        "series": pd.Series(files, index=np.arange(40)[::-1]),
        "frame": pd.DataFrame({"scan": files}),
        "tensor": torch.from_numpy(X).permute(0, 3, 1, 2),
        "raveled": X.reshape(len(X), -1),
    }
    for name, form in forms.items():
        P = small(max_epochs=1).fit(form, y).predict_proba(form)
        np.testing.assert_allclose(P, right, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("freeze_depth", [-1, 0])
@pytest.mark.filterwarnings("ignore::sktransfer.exceptions.FailedRowsWarning")
def test_unreadable_rows_are_left_out_or_raise(small, task, files, freeze_depth):
    from pathlib import Path

    y = task[1]
    Path(files[5]).write_bytes(b"no image")
    with pytest.raises(ImageDecodeError, match="row 5"):
        small(freeze_depth=freeze_depth).fit(files, y)
    clf = small(freeze_depth=freeze_depth, on_error="nan", max_epochs=1)
    with pytest.warns(FailedRowsWarning, match="left out of training"):
        clf.fit(files, y)
    assert clf.failed_rows_["row"].tolist() == [5]
    assert 5 not in clf.train_indices_
    P = clf.predict_proba(files)
    assert np.flatnonzero(np.isnan(P).any(axis=1)).tolist() == [5]
    np.testing.assert_allclose(np.delete(P, 5, 0).sum(axis=1), 1)
    with pytest.raises(ImageDecodeError, match="row 5"):
        clf.predict(files)


# --- around it -----------------------------------------------------------------------------------


def test_cross_validation_by_roc_auc_embeds_once(small, task):
    clear_cache()
    scores = cross_val_score(small(freeze_depth="all"), *task, cv=4, scoring="roc_auc")
    assert scores.shape == (4,)
    assert cache_info().misses == len(task[1])  # images that were run; hits are of folds


def test_a_grid_over_depth_rate_and_augmentation(small, task):
    seen = []

    class Watched(ImageAugmentation):
        def __call__(self, image, seed):
            seen.append(self.rotation_range)
            return super().__call__(image, seed)

    clf = small(max_epochs=1, augmentation=Watched())
    grid = {
        "freeze_depth": ["all", -1],
        "lr": [1e-4, 1e-3],
        "augmentation__rotation_range": [0, 25],
    }
    search = GridSearchCV(clf, grid, cv=2, scoring="roc_auc").fit(*task)
    assert len(search.cv_results_["params"]) == 8
    assert set(seen) == {0, 25}
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_it_can_be_calibrated_tuned_and_frozen(small, task):
    X, y = task
    clf = small(freeze_depth="all")
    P = CalibratedClassifierCV(clf, method="temperature", cv=2).fit(X, y).predict_proba(X)
    np.testing.assert_allclose(P.sum(axis=1), 1)
    tuned = TunedThresholdClassifierCV(clf, scoring="balanced_accuracy", cv=2).fit(X, y)
    assert 0 < tuned.best_threshold_ < 1
    fitted = clone(clf).fit(X, y)
    frozen = FrozenEstimator(fitted)
    again = cross_val_predict(make_pipeline("passthrough", frozen), X, y, cv=2)
    assert np.array_equal(again, fitted.predict(X))


def test_groups_and_weights_are_routed(small, task):
    X, y = task
    groups, weight = np.repeat(np.arange(10), 4), np.ones(len(y))
    seen = []

    class Watched(FineTuneClassifier):
        def fit(self, X, y, sample_weight=None, groups=None):
            seen.append((sample_weight is not None, groups is not None))
            return super().fit(X, y, sample_weight=sample_weight, groups=groups)

    settings = {**small(max_epochs=1, validation_fraction=0.3).get_params()}
    with config_context(enable_metadata_routing=True):
        clf = Watched(**settings).set_fit_request(sample_weight=True, groups=True)
        clf.set_score_request(sample_weight=False)
        result = cross_validate(
            clf,
            X,
            y,
            cv=StratifiedGroupKFold(2),
            params={"groups": groups, "sample_weight": weight},
            return_estimator=True,
            return_indices=True,
        )
    assert seen == [(True, True)] * 2
    for fitted, train in zip(result["estimator"], result["indices"]["train"], strict=True):
        own = groups[train]
        assert not set(own[fitted.valid_indices_]) & set(own[fitted.train_indices_])
    seen.clear()
    cross_val_score(Watched(**settings), X, y, cv=2)
    assert seen == [(False, False)] * 2


def test_cross_validation_runs_in_worker_processes(small, task, tmp_path):
    clf = small(freeze_depth="all", cache=tmp_path / "store")
    one = cross_val_score(clf, *task, cv=2, scoring="roc_auc")
    two = cross_val_score(clf, *task, cv=2, scoring="roc_auc", n_jobs=2)
    np.testing.assert_allclose(one, two)


@pytest.mark.parametrize("y", [["ill", np.nan] * 20, ["ill", None] * 20, [1, None] * 20])
def test_a_missing_label_among_words_is_no_class(small, task, y):
    with pytest.raises(ValueError, match="20 of 40 rows have no label, the first is row 1"):
        small("squeezenet1_1").fit(task[0], y)
    with pytest.raises(ValueError, match="20 of 40 rows have no label, the first is row 1"):
        OperatingPointClassifier(LogisticRegression()).fit(np.zeros((40, 2)), y)


@pytest.mark.parametrize("weight", [-1, np.nan, np.inf])
def test_weights_of_classes_are_positive_numbers(small, task, weight):
    with pytest.raises(ValueError, match="class_weight must be positive"):
        small("squeezenet1_1", class_weight={0: weight, 1: 2.0}).fit(*task)
