"""Thresholds of several findings with the network that they are for, in one file."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sktransfer import FineTuneClassifier
from sktransfer.metrics import multilabel_report
from sktransfer.model_selection import OperatingPointClassifier


def test_thresholds_of_findings_are_chosen_saved_and_loaded(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 60, (90, 32, 32), dtype=np.uint8)
    y = pd.DataFrame((rng.random((90, 2)) < 0.4).astype(float), columns=["Effusion", "Mass"])
    X[y["Effusion"] == 1, 4:14, 4:14] += 150
    X[y["Mass"] == 1, 18:28, 18:28] += 150
    y = y.mask(rng.random(y.shape) < 0.1)
    net = FineTuneClassifier(
        "squeezenet1_1", weights=None, image_size=32, freeze_depth="all", random_state=0
    )
    clf = OperatingPointClassifier(net, target_level={"Effusion": 0.7, "Mass": 0.6}, cv=2)
    clf.fit(X, y, groups=np.arange(90) // 2)
    report = multilabel_report(y, clf.predict(X), labels=clf.classes_)
    assert (report.loc[["Effusion", "Mass"], "sensitivity"] >= [0.7, 0.6]).all()
    clf.save(tmp_path / "model.safetensors")
    loaded = OperatingPointClassifier.load(tmp_path / "model.safetensors")
    assert np.array_equal(loaded.predict(X), clf.predict(X))
    assert loaded.classes_.tolist() == ["Effusion", "Mass"]
    assert loaded.operating_point_ == clf.operating_point_
    assert loaded.target_level == clf.target_level
