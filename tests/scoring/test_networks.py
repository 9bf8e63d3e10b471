"""One idea of a network: every function that takes one takes the same forms."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator

from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor
from sktransfer._scoring.networks import finetuner, named_networks, one_network
from sktransfer.model_selection import domain_distance, rank_backbones, recommend_strategy
from sktransfer.studies import compare_backbones, convergence_curve, transfer_curve

EXTRACTOR = PretrainedFeatureExtractor(
    "squeezenet1_1", weights=None, image_size=32, value_range=(0, 16), engine="torch"
)


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X[:40], y[:40] > 4


@pytest.fixture(scope="module")
def fine_tuned(digits):
    clf = FineTuneClassifier(
        "squeezenet1_1", weights=None, image_size=32, value_range=(0, 16), max_epochs=1,
        random_state=0, engine="torch",
    )  # fmt: skip
    return clf.fit(*digits)


@pytest.fixture(scope="module")
def saved(fine_tuned, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "network"
    fine_tuned.save(path)
    return path


def ranked(network, X, y):
    return list(rank_backbones(X, y, network, layers=None, n_resamples=0).table["backbone"])


def compared(network, X, y):
    found = compare_backbones(
        X, y, backbones=network, cv=2, strategies=["extract", "finetune"], n_resamples=10,
        extractor=EXTRACTOR, finetune=finetuner(EXTRACTOR, max_epochs=1, freeze_depth="all"),
    )  # fmt: skip
    assert list(found.table["strategy"]).count("finetune") == len(found.table) / 2
    return list(dict.fromkeys(found.table["backbone"]))


def distance(network, X, y):
    return [domain_distance(network, X, source=X, n_images=8).backbone]


def advised(network, X, y):
    measured = domain_distance(network, X, source=X, n_images=8)
    advice = recommend_strategy(X, y, network, distance=measured)
    assert isinstance(advice.make_estimator("train the top"), FineTuneClassifier)
    return [advice.distance.backbone]


def transferred(network, X, y):
    curve = transfer_curve(network, X, y, depths=[2], treatments=["AnB"])
    return ["squeezenet1_1"] * len(curve.table)


def converged(network, X, y):
    curve = convergence_curve(network, X, y, budgets=[1], inits=["pretrained"])
    return ["squeezenet1_1"] * len(curve.table)


EVERY = [ranked, compared, distance, advised, transferred, converged]


@pytest.mark.parametrize("call", EVERY)
def test_an_extractor_is_a_network(digits, call):
    assert call(EXTRACTOR, *digits) == ["squeezenet1_1"]
    assert call([EXTRACTOR], *digits) == ["squeezenet1_1"]


@pytest.mark.parametrize("call", EVERY)
def test_a_mapping_names_a_network(digits, call):
    named = call({"mine": EXTRACTOR}, *digits)
    assert named == ["squeezenet1_1" if call in (transferred, converged) else "mine"]


@pytest.mark.parametrize("call", EVERY)
@pytest.mark.parametrize("form", ["fitted", "saved"])
def test_a_fine_tuned_network_is_a_network(digits, fine_tuned, saved, call, form):
    network = FrozenEstimator(fine_tuned) if form == "fitted" else saved
    images = np.repeat(np.repeat(digits[0].reshape(-1, 8, 8) / 16, 4, axis=1), 4, axis=2)
    if call is compared:  # reads images as the template does
        images = digits[0]
    found = call(network, images, digits[1])
    # The name of a file, and no folder of the machine.
    assert found == [saved.name if form == "saved" and call in (ranked, compared) else found[0]]
    assert len(found) == 1


@pytest.mark.parametrize("call", EVERY)
def test_a_name_is_a_network(call):
    X = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    if call is compared:  # its template reads digits
        X = X[:, :8, :8, 0].reshape(12, -1) % 17
    name = "squeezenet1_1" if call is compared else "efficientnet_lite0"
    assert len(call(name, X, np.arange(12) % 2)) == 1


@pytest.mark.parametrize("call", [distance, advised, transferred, converged])
def test_one_network_is_asked_for_where_there_are_several(digits, call):
    with pytest.raises(ValueError, match=r"One network is needed; got 2: a, b"):
        call({"a": EXTRACTOR, "b": EXTRACTOR}, *digits)


@pytest.mark.parametrize("call", EVERY)
@pytest.mark.parametrize("network", [3.5, PretrainedFeatureExtractor, [], {}])
def test_what_is_no_network_is_an_error(digits, call, network):
    with pytest.raises(ValueError, match=r"A network is named by a str|name at least one network"):
        call(network, *digits)


def test_names_are_told_apart():
    other = PretrainedFeatureExtractor("resnet18", pooling="max")
    assert list(named_networks(["resnet18", other, "timm/resnet10t"])) == [
        *("resnet18", "resnet18 (2)", "timm/resnet10t")
    ]
    assert one_network(other)[1] is not other


def test_parameters_of_an_extractor_count_before_those_of_a_template():
    template = FineTuneClassifier(image_size=64, max_epochs=3, device="cpu")
    clf = finetuner(EXTRACTOR, template, lr=0.5)
    assert (clf.backbone, clf.weights, clf.image_size) == ("squeezenet1_1", None, 32)
    assert (clf.max_epochs, clf.device, clf.lr) == (3, "cpu", 0.5)
    seeded = PretrainedFeatureExtractor("resnet18", weights=None, random_state=5, batch_size=7)
    assert finetuner(seeded).random_state == 5
    assert finetuner(seeded).batch_size == FineTuneClassifier().batch_size
    pretrained = PretrainedFeatureExtractor("resnet18", random_state=5)
    assert finetuner(pretrained).random_state is None


def test_a_fine_tune_classifier_says_how_a_study_trains(digits):
    clf = finetuner(EXTRACTOR, max_epochs=1, batch_size=8)
    curve = transfer_curve(clf, *digits, depths=[2], treatments=["AnB"], test_size=0.5)
    assert isinstance(curve.table, pd.DataFrame)
    assert clf.backbone == "squeezenet1_1"
