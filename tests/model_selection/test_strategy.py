"""recommend_strategy: the matrix, its readings, and what can be done with the advice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.datasets import load_sample_images
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import Pipeline

from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor
from sktransfer.datasets import load_digit_screening
from sktransfer.model_selection import DomainDistance, recommend_strategy
from sktransfer.model_selection._domain_distance import Threshold
from sktransfer.preprocessing import DicomOptions

STAGES = ["stem", *(f"blocks.{i}" for i in range(7)), "head"]


@pytest.fixture(scope="module")
def photos():
    return [
        Image.fromarray(photo).crop((x, y, x + 320, y + 320))
        for photo in load_sample_images().images
        for x in (0, 160, 320)
        for y in (0, 107)
    ]


@pytest.fixture(scope="module")
def advice():
    digits = load_digit_screening()
    extractor = PretrainedFeatureExtractor(
        "efficientnet_lite0", image_size=64, value_range=digits.value_range, batch_size=16
    )
    return recommend_strategy(digits.data[:90], digits.target[:90], extractor)


def test_few_photographs_are_extracted(photos):
    advice = recommend_strategy(photos, [0] * 6 + [1] * 6, "efficientnet_lite0")
    assert (advice.quadrant, advice.strategy) == ("small and similar", "extract")
    assert advice.readings == ("extract",)
    assert advice.n_per_class == 6
    pipeline = advice.make_estimator()
    assert [name for name, _ in pipeline.steps] == ["features", "scale", "classify"]
    assert pipeline.named_steps["features"].layer is None
    assert pipeline.fit(photos, [0] * 6 + [1] * 6).score(photos, [0] * 6 + [1] * 6) == 1
    search = advice.make_search(cv=2)
    assert search.param_grid == {"freeze_depth": [5, 7, "all"]}


@pytest.mark.parametrize("kind", ["similar", "dissimilar"])
def test_thousands_are_trained(photos, kind):
    noise = np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3), dtype=np.uint8)
    few = photos if kind == "similar" else [*noise]
    X, y = few * 170, np.tile([0, 1], 1020)  # each of the twelve is computed once
    advice = recommend_strategy(X, y, "efficientnet_lite0", n_images=40)
    assert advice.quadrant == f"large and {kind}"
    assert advice.n_per_class == 1020
    clf = advice.make_estimator()
    assert isinstance(clf, FineTuneClassifier)
    assert clf.lr == 1e-4
    if kind == "similar":
        assert advice.readings == ("train the top", "train everything")
        assert clf.freeze_depth == 7
    else:
        assert advice.readings == ("train everything",)
    assert advice.make_estimator("train everything").freeze_depth == 0
    assert any("catches up" in each for each in advice.caveats)


def test_few_dissimilar_images_have_two_readings(advice):
    assert advice.quadrant == "small and dissimilar"
    assert advice.readings == ("fine-tune part", "truncate")
    clf = advice.make_estimator(max_epochs=1)
    assert (clf.freeze_depth, clf.image_size, clf.value_range) == (5, 64, (0, 16))
    assert clf.max_epochs == 1
    pipeline = advice.make_estimator("truncate")
    layer = pipeline.named_steps["features"].layer
    assert layer in STAGES[:-1]
    stages = advice.evidence.set_index("layer")["score"]
    assert stages[layer] == stages[STAGES[:-1]].max()
    assert list(advice.evidence["layer"]) == [*STAGES, "embedding"]
    search = advice.make_search("truncate")
    assert layer in search.param_grid["features__layer"]
    assert None in search.param_grid["features__layer"]
    text = str(advice)
    for expected in ("fine-tune part", "or: truncate", "against 1,000", "two ways", "distance"):
        assert expected in text


def test_the_search_runs(advice):
    digits = load_digit_screening()
    X, y = digits.data[:90], digits.target[:90]
    search = advice.make_search("truncate", cv=2, scoring="roc_auc").fit(X, y)
    assert isinstance(search.cv, StratifiedKFold)
    assert isinstance(search.best_estimator_, Pipeline)


@pytest.mark.slow
def test_the_search_holds_patients_together(advice):
    digits = load_digit_screening()
    X, y = digits.data[:90], digits.target[:90]
    patients = np.repeat(np.arange(30), 3)
    grouped = recommend_strategy(X, y, advice.extractor, groups=patients, distance=advice.distance)
    search = grouped.make_search(cv=2, scoring="roc_auc", max_epochs=1)
    assert isinstance(search.cv, StratifiedGroupKFold)
    assert search.param_grid == {"freeze_depth": [3, 5, 7, "all"]}
    search.set_params(param_grid={"freeze_depth": [7, "all"]}).fit(X, y, groups=patients)
    assert search.best_params_["freeze_depth"] in (7, "all")


@pytest.mark.parametrize("cv", [2, np.int64(2), None])
def test_folds_of_a_number_hold_patients_together(advice, cv):
    grouped = replace(advice, grouped=True)
    assert isinstance(grouped.make_search(cv=cv).cv, StratifiedGroupKFold)
    assert isinstance(advice.make_search(cv=cv).cv, StratifiedKFold)


def test_images_are_read_as_the_extractor_reads_them(advice):
    """Every parameter that both kinds of estimator have, but those of one training."""
    own = set(advice.extractor.get_params())
    both = own & set(FineTuneClassifier().get_params()) - {"batch_size", "verbose", "random_state"}
    assert "dicom" in both
    extractor = clone(advice.extractor).set_params(
        dicom=DicomOptions(window=(40, 400)), n_jobs=2, device="cpu"
    )
    clf = replace(advice, extractor=extractor).make_estimator()
    assert clf.dicom is not extractor.dicom
    assert clf.dicom.window == (40, 400)
    for name in both - {"dicom"}:
        assert getattr(clf, name) == getattr(extractor, name), name


def test_evidence_of_all_but_one_image(advice):
    digits = load_digit_screening()
    X, y = digits.data[:90], digits.target[:90]
    patients = np.arange(90) // 2
    for groups in (None, patients):
        few = recommend_strategy(
            X, y, advice.extractor, distance=advice.distance, n_images=89, groups=groups
        )
        assert few.quadrant == "small and dissimilar"


def test_no_batch_norm_and_nothing_to_compare_with(advice):
    digits = load_digit_screening()
    extractor = PretrainedFeatureExtractor(
        "squeezenet1_1", weights=None, image_size=32, value_range=digits.value_range
    )
    with pytest.raises(ValueError, match=r"Give source= to domain_distance.*distance="):
        recommend_strategy(digits.data[:40], digits.target[:40], extractor)


def test_gray_zone_and_default_thresholds_are_caveats(advice):
    digits = load_digit_screening()
    threshold = Threshold(0.1, 0.4, calibrated=False)
    distance = DomainDistance(
        0.15, threshold, advice.distance.profile, "efficientnet_lite0", "batch_norm", 90
    )
    assert threshold.value == pytest.approx(0.2)
    near = recommend_strategy(
        digits.data[:90], digits.target[:90], advice.extractor, distance=distance
    )
    assert near.quadrant == "small and similar"
    assert any("gray zone" in each for each in near.caveats)
    assert any("not measured with these weights" in each for each in near.caveats)
    assert any("uneven" in each for each in near.caveats)


def test_bad_values(advice):
    X = load_digit_screening().data[:9]
    with pytest.raises(ValueError, match="X has 9 rows and y has 8; they"):
        recommend_strategy(X, [0, 1] * 4, advice.extractor)
    with pytest.raises(ValueError, match="groups has 3"):
        recommend_strategy(X, [0, 1, 0] * 3, advice.extractor, groups=[1, 2, 3])
    with pytest.raises(ValueError, match="n_images must be"):
        recommend_strategy(X, [0, 1, 0] * 3, advice.extractor, n_images=1)
    with pytest.raises(ValueError, match="reading must be one of 'extract'"):
        advice.make_estimator("everything")
    with pytest.raises(ValueError, match="reading must be one of"):
        advice.make_search("everything")


@pytest.mark.slow
def test_the_matrix_on_the_shared_images(shared_data):
    """Photographs of insects are similar; X-rays and skin are not; all of them are few."""

    def quadrant(X, y, groups=None):
        return recommend_strategy(X, y, "efficientnet_lite0", groups=groups, n_images=60)

    insects = [
        (str(path), kind)
        for kind in ("ants", "bees")
        for path in sorted((shared_data / "hymenoptera" / "train" / kind).glob("*.jpg"))
    ]
    found = quadrant([path for path, _ in insects], [kind for _, kind in insects])
    assert (found.quadrant, found.strategy) == ("small and similar", "extract")
    for folder, label, group in (
        ("chest_xray_pneumonia", "label", "patient_id"),
        ("ham10000_mini", "malignant", "lesion_id"),
    ):
        table = pd.read_csv(shared_data / folder / "metadata.csv")
        X = [str(shared_data / folder / name) for name in table["file"]]
        found = quadrant(X, table[label], table[group])
        assert found.readings == ("fine-tune part", "truncate")
    with np.load(shared_data / "pneumoniamnist" / "pneumoniamnist.npz") as file:
        X, y = file["train_images"], file["train_labels"].ravel()
    found = quadrant(X, y)
    assert found.readings == ("fine-tune part", "truncate")  # 388 normal, 3,494 not
    assert any("uneven" in each for each in found.caveats)
