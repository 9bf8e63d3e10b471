"""A time budget is measured, said beforehand and kept; a plan repeats its steps."""

from __future__ import annotations

import json
import time
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.base import clone

import sktransfer
from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor, TransferClassifier
from sktransfer._transfer import _plan


def network(seed=0):
    return PretrainedFeatureExtractor(
        "squeezenet1_1", weights=None, image_size=32, random_state=seed
    )


def images(n=30):
    rng = np.random.default_rng(0)
    y = np.arange(n) % 2
    X = rng.uniform(0, 0.5, (n, 32, 32))
    X[y == 1, :, 16:] += 0.3
    return X, y


@pytest.fixture
def fast(monkeypatch):
    """Speeds as if measured, so that no test depends on the machine."""

    def set_speeds(image, fold):
        monkeypatch.setattr(_plan, "_seconds", lambda extractor, X, n: image[extractor.backbone])
        monkeypatch.setattr(_plan, "_fold_seconds", lambda *_: fold)

    return set_speeds


def test_a_plan_repeats_every_bit_and_is_json(fast, capsys):
    fast({"squeezenet1_1": 0.001}, fold=1.0)
    X, y = images()
    clf = TransferClassifier({"a": network()}, time_budget=1000, random_state=3, verbose=1)
    clf.fit(X, y)
    said = capsys.readouterr().out
    assert "30 images, networks a (about 0 s)" in said
    assert "fine-tuning a: 5 folds of 5 and all rows" in said
    plan = json.loads(json.dumps(clf.plan_))
    assert plan["fine_tuned"] == [{"backbone": "a", "folds": 5}]
    again = clone(clf).set_params(time_budget=plan, random_state=None).fit(X, y)
    np.testing.assert_array_equal(again.predict_proba(X), clf.predict_proba(X))
    np.testing.assert_array_equal(again.leaderboard_["score"], clf.leaderboard_["score"])
    assert {**again.plan_, **dict.fromkeys(("time_budget", "expected_seconds", "seconds"))} == {
        **plan,
        **dict.fromkeys(("time_budget", "expected_seconds", "seconds")),
    }
    assert (
        any(
            isinstance(each, FineTuneClassifier) for each in (*clf.estimators_, clf.best_estimator_)
        )
        or (clf.leaderboard_["candidate"] == "a, fine-tuned").any()
    )


def test_folds_are_as_many_as_there_is_time_for(fast):
    fast({"squeezenet1_1": 0.0}, fold=60.0)
    X, y = images()
    clf = TransferClassifier({"a": network()}, time_budget=340, random_state=0).fit(X, y)
    assert clf.plan_["fine_tuned"] == [{"backbone": "a", "folds": 3}]
    rows = clf.leaderboard_.set_index("candidate")["n_rows"]
    assert rows["a, fine-tuned"] == 18


def test_what_there_is_no_time_for_is_left_out_and_said(fast, capsys):
    fast({"squeezenet1_1": 0.001, "resnet18": 1e6}, fold=1e6)
    X, y = images()
    slow = PretrainedFeatureExtractor("resnet18", weights=None, image_size=32)
    clf = TransferClassifier([slow, network()], time_budget=1000, random_state=0, verbose=1)
    clf.fit(X, y)
    said = capsys.readouterr().out
    assert "resnet18 is left out" in said
    assert "squeezenet1_1 is not fine-tuned" in said
    assert clf.plan_["backbones"] == ["squeezenet1_1"]
    assert not clf.plan_["fine_tuned"]


def test_a_fold_slower_than_expected_ends_the_training(fast, monkeypatch):
    fast({"squeezenet1_1": 0.0}, fold=0.1)
    X, y = images()
    clock = [0.0]
    monkeypatch.setattr(_plan, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    real = _plan._fitted

    def slow(*args):
        clock[0] += 60.0
        return real(*args)

    monkeypatch.setattr(_plan, "_fitted", slow)
    clf = TransferClassifier({"a": network()}, time_budget=200, random_state=0).fit(X, y)
    assert not clf.plan_["fine_tuned"]
    assert clf.plan_["seconds"] <= 200


def test_seconds_are_measured_on_few_images_and_rows():
    X, _ = images(40)
    start = time.perf_counter()
    assert 0 < _plan._seconds(network(), X, len(X)) < time.perf_counter() - start


def test_without_a_budget_nothing_is_measured_or_trained():
    X, y = images()
    plan = TransferClassifier({"a": network()}, random_state=0).fit(X, y).plan_
    assert plan["backbones"] == ["a"]
    assert not plan["fine_tuned"]
    assert not plan["expected_seconds"]
    assert plan["random_state"] == 0


def test_a_plan_of_other_networks_is_refused():
    X, y = images()
    plan = {"backbones": ["b"], "fine_tuned": [], "random_state": 0}
    with pytest.raises(ValueError, match="networks that backbones lack: b"):
        TransferClassifier({"a": network()}, time_budget=plan).fit(X, y)
    with pytest.raises(ValueError, match="a dict without fine_tuned, random_state"):
        TransferClassifier({"a": network()}, time_budget={"backbones": []}).fit(X, y)
    with pytest.raises(ValueError, match="time_budget"):
        TransferClassifier({"a": network()}, time_budget=-1).fit(X, y)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbones": []}, "backbones has to be a list of names"),
        ({"backbones": "a"}, "backbones has to be a list of names"),
        ({"fine_tuned": None}, "fine_tuned has to be a list"),
        ({"fine_tuned": ["a"]}, "fine_tuned has to be a list"),
        ({"fine_tuned": [{"backbone": "a"}]}, "fine_tuned has to be a list"),
        ({"fine_tuned": [{"backbone": "a", "folds": 0}]}, "folds.*above 0"),
        ({"fine_tuned": [{"backbone": "b", "folds": 2}]}, "one of its backbones"),
        ({"random_state": None}, "random_state has to be a whole number; got None"),
    ],
)
def test_a_plan_that_was_edited_wrongly_is_refused(change, message):
    X, y = images(8)
    plan = {"backbones": ["a"], "fine_tuned": [], "random_state": 0, **change}
    with pytest.raises(ValueError, match=message):
        TransferClassifier({"a": network()}, time_budget=plan).fit(X, y)


def test_training_is_not_measured_where_no_time_is_left(fast, monkeypatch, capsys):
    fast({"squeezenet1_1": 0.001}, fold=1.0)
    monkeypatch.setattr(_plan, "_fold_seconds", None)
    X, y = images()
    clf = TransferClassifier({"a": network()}, time_budget=0.01, random_state=0, verbose=1)
    with pytest.warns(UserWarning, match=r"time_budget=0.01 is exceeded: a, the fastest"):
        clf.fit(X, y)
    assert clf.plan_["backbones"] == ["a"]
    assert clf.plan_["fine_tuned"] == []
    assert "there is no time for fine-tuning" in capsys.readouterr().out


def test_what_there_is_no_time_for_is_not_measured_to_the_end(monkeypatch, capsys):
    X, y = images()
    clock, fits = [0.0], []
    monkeypatch.setattr(_plan, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(_plan, "_seconds", lambda *_: 0.0)

    def slow(tuner, task, rows, seed):
        clock[0] += 20.0
        fits.append(len(rows))

    monkeypatch.setattr(_plan, "_fitted", slow)
    clf = TransferClassifier({"a": network()}, time_budget=60, random_state=0, verbose=1)
    clf.fit(X, y)
    assert fits == [16, 30]
    assert clf.plan_["seconds"] <= 60
    assert not clf.plan_["fine_tuned"]
    assert "a is not fine-tuned: there is no time for it" in capsys.readouterr().out


def test_training_is_measured_on_rows_with_all_findings():
    """Sorted by finding, the first rows have none."""
    X, _ = images(100)
    Y = np.zeros((100, 2), dtype=int)
    Y[50:, 0] = Y[-33:, 1] = 1
    clf = TransferClassifier({"a": network()}, time_budget=60, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        clf.fit(X, Y)
    assert clf.plan_["fine_tuned"]


def test_images_that_were_timed_before_do_not_make_a_network_look_fast(tmp_path):
    X, _ = images(400)
    timed = clone(network()).set_params(cache=tmp_path)
    _plan._seconds(timed, X, len(X))  # as of a network that there was no time for
    before = sktransfer.cache_info(tmp_path)
    _plan._seconds(timed, X, len(X))
    after = sktransfer.cache_info(tmp_path)
    assert after.misses - before.misses >= _plan._TIMED_IMAGES - 3
    # Where all images are there, that is measured.
    timed.set_params(layer="all").fit(X).transform(X)
    before = sktransfer.cache_info(tmp_path)
    _plan._seconds(timed, X, len(X))
    assert sktransfer.cache_info(tmp_path).misses == before.misses


def test_a_network_is_expected_to_take_what_both_probes_of_another_took():
    probes = [
        _plan.Candidate("a", features, None, None, s) for features, s in (("x", 70), ("y", 10))
    ]
    plan = _plan.Plan(0, 200.0, images={"b": 50.0}, steps={"backbones": []})
    assert plan.affords("b", probes)
    assert not plan.affords("b", [*probes, _plan.Candidate("a", "z", None, None, 40)])
