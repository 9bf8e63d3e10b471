"""DICOM files in the estimators: options as parameters, in searches, the store and saved files."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor, cache_info, clear_cache
from sktransfer.model_selection import plan_search
from sktransfer.preprocessing import DicomOptions

pytest.importorskip("pydicom")


@pytest.fixture
def scans(shared_data):
    """A CT slice and an MR slice: one without a window, one with."""
    return [shared_data / "dicom" / name for name in ("CT_small.dcm", "MR_small.dcm")]


def small(**parameters):
    return PretrainedFeatureExtractor("squeezenet1_1", weights=None, image_size=48, **parameters)


def test_other_options_are_other_rows_of_the_store(scans):
    clear_cache()
    soft = small(dicom=DicomOptions(window=(40, 400))).fit(scans)
    E = soft.transform(scans)
    assert cache_info().n_rows == 2
    lungs = soft.set_params(dicom__window=(-600, 1500)).transform(scans)
    assert cache_info().n_rows == 4
    assert not np.allclose(E, lungs)
    for options in ((40, 400), (-600, 1500)):
        soft.set_params(dicom__window=options)
        fresh = clone(soft).set_params(cache=False).fit_transform(scans)
        assert np.array_equal(soft.transform(scans), fresh)
    assert cache_info().n_rows == 4


def test_a_search_over_windows(scans):
    pipe = make_pipeline(small(dicom=DicomOptions()), LogisticRegression())
    name = "pretrainedfeatureextractor__dicom__window"
    search = GridSearchCV(pipe, {name: [None, (40, 400), (400, 2000)]}, cv=2)
    search.fit(scans * 4, [0, 1] * 4)
    assert search.best_score_ == 1
    assert len(search.cv_results_["params"]) == 3


def test_a_plan_tells_windows_apart(scans):
    clf = FineTuneClassifier("squeezenet1_1", weights=None, image_size=48, random_state=0)
    clf.set_params(dicom=DicomOptions(), freeze_depth="all", engine="torch")
    search = GridSearchCV(clf, {"dicom__window": [None, (40, 400)]}, cv=2)
    clear_cache()
    plan = plan_search(search, scans * 3, [0, 1] * 3).prefetch()
    assert len(plan.cuts) == 2
    assert cache_info().misses == 4  # two scans in two windows


def test_a_broken_scan_is_a_row_of_nan(scans, shared_data):
    X = [*scans, shared_data / "dicom" / "MR_truncated.dcm"]
    feat = small(on_error="nan").fit(X)
    with pytest.warns(UserWarning, match="1 of 3 rows"):
        E = feat.transform(X)
    assert np.isnan(E).any(axis=1).tolist() == [False, False, True]
    assert feat.failed_rows_["source"].tolist() == ["MR_truncated.dcm"]


def test_a_classifier_is_saved_with_its_options(scans, tmp_path):
    clf = FineTuneClassifier(
        "squeezenet1_1",
        weights=None,
        image_size=48,
        freeze_depth="all",
        engine="torch",
        dicom=DicomOptions(window=(40, 400)),
        value_range=("percentile", 0.5, 99.5),
        random_state=0,
    ).fit(scans * 4, [0, 1] * 4)
    clf.save(tmp_path / "clf.safetensors")
    again = FineTuneClassifier.load(tmp_path / "clf.safetensors")
    assert again.dicom.get_params() == clf.dicom.get_params()
    assert again.value_range == ("percentile", 0.5, 99.5)
    assert np.array_equal(again.predict_proba(scans), clf.predict_proba(scans))


def test_bad_options_are_refused_in_fit(scans):
    with pytest.raises(ValueError, match="width of at least 1"):
        small(dicom=DicomOptions(window=(40, -1))).fit(scans)
    with pytest.raises(ValueError, match="'dicom' parameter"):
        small(dicom={"window": (40, 400)}).fit(scans)


def test_augmented_scans_keep_their_window(scans):
    """Views of an image are decoded as the image is."""
    settings = {"weights": None, "image_size": 48, "engine": "torch", "random_state": 0}
    settings |= {"augmentation": "light", "augment_views": 2, "freeze_depth": "all"}
    one, other = (
        FineTuneClassifier("squeezenet1_1", dicom=DicomOptions(window=window), **settings).fit(
            scans * 4, [0, 1] * 4
        )
        for window in ((40, 400), (0, 4000))
    )
    assert not np.allclose(one.predict_proba(scans), other.predict_proba(scans))
