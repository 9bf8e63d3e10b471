"""A threshold travels in the file of its network, and is not dropped without a word."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression

from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor
from sktransfer._persistence import read_saved, seal, unseal
from sktransfer.model_selection import OperatingPointClassifier


@pytest.fixture(scope="module")
def task():
    """Dark and bright noise that overlap, half of it called "covid19"."""
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    X = rng.integers(0, 150, (60, 24, 24)) + rng.integers(0, 20, 60)[:, None, None] * 2
    return (X + 26 * y[:, None, None]).astype(np.uint8), np.array(["other", "covid19"])[y]


@pytest.fixture(scope="module")
def fitted(task):
    net = FineTuneClassifier(
        "squeezenet1_1", weights=None, image_size=32, freeze_depth="all", random_state=0
    )
    clf = OperatingPointClassifier(net, target_level=0.8, pos_label="covid19", cv=3)
    return clf.fit(*task)


def test_a_threshold_comes_back_with_all_that_is_known_of_it(fitted, task, tmp_path):
    X, _ = task
    fitted.save(tmp_path / "clf.safetensors")
    again = OperatingPointClassifier.load(tmp_path / "clf.safetensors")
    assert again.threshold_ == fitted.threshold_
    assert again.operating_point_ == fitted.operating_point_
    assert (again.pos_label_, again.target_level, again.constraint) == (
        *("covid19", 0.8),
        "sensitivity",
    )
    assert again.classes_.tolist() == ["covid19", "other"]
    np.testing.assert_array_equal(again.predict_proba(X), fitted.predict_proba(X))
    np.testing.assert_array_equal(again.predict(X), fitted.predict(X))
    # The threshold matters: the likeliest class is another one for some rows.
    assert (again.estimator_.estimator.predict(X) != again.predict(X)).any()
    again.save(tmp_path / "twice.safetensors")
    # The two entries of a safetensors file's metadata have no order.
    once, twice = ((tmp_path / f"{n}.safetensors").read_bytes() for n in ("clf", "twice"))
    assert unseal(twice, "")[0] == unseal(once, "")[0]
    assert len(twice) == len(once)


def test_a_threshold_that_was_loaded_is_chosen_again_on_new_rows(fitted, task, tmp_path):
    fitted.save(tmp_path / "clf.safetensors")
    again = OperatingPointClassifier.load(tmp_path / "clf.safetensors", device="cpu")
    local = clone(again).set_params(target_level=0.5, confidence_level=None).fit(*task)
    assert local.threshold_ > again.threshold_
    np.testing.assert_array_equal(local.predict_proba(task[0]), again.predict_proba(task[0]))


def test_the_network_alone_warns_that_a_threshold_is_left_behind(fitted, tmp_path):
    fitted.save(tmp_path / "clf.safetensors")
    with pytest.warns(UserWarning, match=r"OperatingPointClassifier\.load keeps the threshold"):
        FineTuneClassifier.load(tmp_path / "clf.safetensors")
    fitted.estimator_.save(tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match="was saved without a threshold"):
        OperatingPointClassifier.load(tmp_path / "net.safetensors")


@pytest.mark.filterwarnings("ignore:This threshold is:UserWarning")
def test_what_no_file_without_code_can_hold_is_refused(task, tmp_path):
    X, y = task
    clf = OperatingPointClassifier(LogisticRegression(), target_level=0.5, pos_label="covid19")
    clf.fit(X.reshape(60, -1), y)
    with pytest.raises(TypeError, match=r"of a LogisticRegression.*can be pickled"):
        clf.save(tmp_path / "clf.safetensors")
    assert not (tmp_path / "clf.safetensors").exists()


@pytest.mark.parametrize(
    "changed",
    [
        {"threshold": "high"},
        {"positive": 2},
        {"params": {"constraint": "luck"}},
        {"params": None},
        {"operating_point": {"tp": 1}},
    ],
)
def test_a_record_that_makes_no_sense_is_refused(changed, fitted, tmp_path):
    fitted.save(tmp_path / "clf.safetensors")
    header, tensors = read_saved(tmp_path / "clf.safetensors")
    header["operating_point"].update(changed)
    (tmp_path / "odd.safetensors").write_bytes(seal(tensors, header))
    with pytest.raises(ValueError, match="holds a threshold that sktransfer"):
        OperatingPointClassifier.load(tmp_path / "odd.safetensors")


def test_the_network_of_a_file_with_a_threshold_is_a_backbone(fitted, task, tmp_path):
    fitted.save(tmp_path / "clf.safetensors")
    extractor = PretrainedFeatureExtractor(tmp_path / "clf.safetensors", image_size=32)
    assert extractor.fit_transform(task[0][:3]).shape == (3, 512)
