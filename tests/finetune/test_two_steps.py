"""Transfer in two steps: a fine-tuned network as the backbone of the next estimator."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from skorch.callbacks import Callback

from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor
from sktransfer._finetune._parameters import PRESETS
from sktransfer._frozen import REGISTRY
from sktransfer.exceptions import WeightsMismatchError


@pytest.fixture
def first(small, task):
    """A step one that moved the weights far."""
    return small(freeze_depth=-2, lr=1e-2, max_epochs=1).fit(*task)


def extractor(backbone, **parameters):
    return PretrainedFeatureExtractor(backbone, image_size=32, engine="torch", **parameters)


def test_the_extractor_gives_what_the_head_was_given(first, task):
    X, _ = task
    frozen = {"layer": "all", "cache": False}
    rows = extractor(FrozenEstimator(first), **frozen).fit_transform(X)
    z = first.module_.head(torch.from_numpy(rows)).detach().numpy()
    np.testing.assert_allclose(z[:, 1] - z[:, 0], first.decision_function(X), rtol=1e-3, atol=1e-3)
    plain = extractor("resnet18", weights=None, **frozen).fit_transform(X)
    assert not np.allclose(rows, plain, rtol=1e-2)


def test_a_saved_file_and_a_frozen_estimator_give_the_same(first, task, tmp_path):
    X, y = task
    first.save(tmp_path / "first.safetensors")
    a = extractor(FrozenEstimator(first)).fit(X)
    b = extractor(str(tmp_path / "first.safetensors")).fit(X)
    c = extractor(tmp_path / "first.safetensors").fit(X)
    assert np.array_equal(a.transform(X), b.transform(X))
    assert np.array_equal(a.transform(X), c.transform(X))
    assert a.reference_ == b.reference_
    trained = {"max_epochs": 1, "weight_interpolation": 1, "random_state": 0}
    second = FineTuneClassifier(str(tmp_path / "first.safetensors"), image_size=32, **trained)
    second.fit(X, y)
    second.save(tmp_path / "second.safetensors")
    third = extractor(tmp_path / "second.safetensors").fit(X)
    assert third.reference_.digest != a.reference_.digest


def test_a_fine_tuned_backbone_survives_clone_pipeline_search_and_pickle(first, task):
    X, y = task
    frozen = FrozenEstimator(first)
    pipe = Pipeline([("feat", extractor(frozen)), ("clf", LogisticRegression(max_iter=1000))])
    assert np.isfinite(cross_val_score(clone(pipe), X, y, cv=2)).all()
    search = GridSearchCV(
        FineTuneClassifier(frozen, image_size=32, max_epochs=1, random_state=0),
        {"freeze_depth": ["all", -1]},
        cv=2,
    ).fit(X, y)
    again = pickle.loads(pickle.dumps(search.best_estimator_))
    assert np.array_equal(again.predict_proba(X), search.best_estimator_.predict_proba(X))
    fitted = pipe.fit(X, y)
    assert np.array_equal(pickle.loads(pickle.dumps(fitted)).predict(X), fitted.predict(X))


def test_a_bare_fitted_backbone_works_until_it_is_cloned(first, task):
    X, _ = task
    bare = extractor(first)
    assert bare.fit(X).transform(X).shape == (len(X), 512)
    with pytest.raises(ValueError, match=r"FrozenEstimator\(fitted\).*file's path"):
        clone(bare).fit(X)
    with pytest.raises(ValueError, match="weights='default'"):
        extractor(first, weights=None).fit(X)
    with pytest.raises(ValueError, match="FrozenEstimator"):
        extractor(LogisticRegression()).fit(X)
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        extractor("none.safetensors").fit(X)


def test_what_was_learned_on_other_weights_is_refused(first, task, tmp_path):
    X, _ = task
    feat = extractor(FrozenEstimator(first)).fit(X)
    state = pickle.dumps(feat)
    again = pickle.loads(state)
    again.backbone.estimator.partial_fit(*task)
    REGISTRY.clear()
    with pytest.raises(WeightsMismatchError, match="digest"):
        again.set_params(cache=False).transform(X)


def test_presets_are_parameters_that_can_be_changed(task):
    for name in PRESETS:
        clf = FineTuneClassifier.preset(name, random_state=3)
        assert clf.random_state == 3
        clone(clf)
    keras = FineTuneClassifier.preset("keras2016", backbone="resnet18", freeze_depth=-1)
    steps = []

    class Steps(Callback):
        def on_epoch_end(self, net, **kwargs):
            steps.append((net.phase_, type(net.optimizer_).__name__))

    keras.set_params(weights=None, image_size=32, max_epochs=1, head__epochs=1, callbacks=[Steps()])
    keras.fit(*task)
    assert steps == [("head", "RMSprop"), ("all", "SGD")]
    assert keras.optimizer_.param_groups[0]["momentum"] == 0.9
    rates = {group["name"]: group["initial_lr"] for group in keras.optimizer_.param_groups}
    assert rates["head"] == 1e-4
    with pytest.raises(ValueError, match="keras2016, medical, recommended"):
        FineTuneClassifier.preset("magic")


def test_the_presets_train_what_they_say(task, tmp_path):
    inception = FineTuneClassifier.preset("keras2016", weights=None, image_size=75)
    inception.set_params(max_epochs=0, head__epochs=0).fit(task[0][:4], task[1][:4])
    assert list(inception.module_.stage_names.values()) == ["Mixed_7b", "Mixed_7c"]
    sizes = [m.out_features for m in inception.module_.head.modules() if hasattr(m, "out_features")]
    assert sizes == [1024, 2]
    small = {"backbone": "squeezenet1_1", "weights": None, "image_size": 32, "random_state": 0}
    rates = []

    class Rates(Callback):
        def on_batch_end(self, net, training=False, **kwargs):
            if training:
                rates.append(net.optimizer_.param_groups[0]["lr"])

    medical = FineTuneClassifier.preset("medical", **small, callbacks=[Rates()]).fit(*task)
    assert rates[:2] == pytest.approx([5e-5, 1e-4])  # one epoch, of one step, warms up
    assert max(rates) == rates[1]
    assert medical.n_epochs_ == 30 or medical.n_epochs_ == medical.best_epoch_ + 10
    kept = FineTuneClassifier.preset("recommended", **small, max_epochs=2).fit(*task)
    for clf in (medical, kept):
        assert len(clf.valid_indices_) == 8
        losses = clf.history_[:, "valid_loss"]
        assert clf.best_epoch_ == int(np.argmin(losses)) + 1


@pytest.mark.filterwarnings("ignore:The suggestion")  # a network of noise learns by heart
def test_the_learning_rate_finder_leaves_the_estimator_alone(small, task):
    clf = small("squeezenet1_1", max_epochs=1, head__init="random").fit(*task)
    before = clf.predict_proba(task[0])
    found = clf.find_lr(*task, lr_min=1e-6, n_steps=40)
    assert np.array_equal(clf.predict_proba(task[0]), before)
    assert found.lr.shape == found.loss.shape
    assert found.lr[0] == pytest.approx(1e-6)
    assert 1e-6 < found.suggestion < 1.0
    with pytest.raises(ValueError, match="solved exactly"):
        small(freeze_depth="all").find_lr(*task)


def test_the_medical_preset_gives_a_rare_class_the_probability_of_its_share():
    rng = np.random.default_rng(0)
    y = (np.arange(200) % 10 == 0).astype(int)
    X = rng.integers(0, 200, (200, 32, 32), dtype=np.uint8) + 5 * y[:, None, None].astype(np.uint8)
    small = {"weights": None, "random_state": 0, "max_epochs": 3, "augment_views": 1}
    means = {}
    for weight in (None, "balanced"):
        clf = FineTuneClassifier.preset("medical", backbone="squeezenet1_1", image_size=32, **small)
        clf.set_params(**({} if weight is None else {"class_weight": weight})).fit(X, y)
        means[weight] = clf.predict_proba(X)[:, 1].mean()
    assert means[None] == pytest.approx(0.1, abs=0.05)
    assert means["balanced"] > 0.2  # what it must not do by itself
