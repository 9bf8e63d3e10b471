"""Which forms of images scikit-learn's wrappers of classifiers take, as the user guide says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier, OutputCodeClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.semi_supervised import SelfTrainingClassifier

from sktransfer import PretrainedFeatureExtractor

Y = np.array([0, 1, 2] * 4)
TWO = np.stack([Y % 2, Y > 0], axis=1).astype(int)
SOME = np.where(np.arange(12) % 4, Y, -1)
WRAPPERS = {
    "one_vs_rest": (OneVsRestClassifier, Y),
    "output_code": (lambda clf: OutputCodeClassifier(clf, random_state=0), Y),
    "multi_output": (MultiOutputClassifier, TWO),
    "voting": (lambda clf: VotingClassifier([("a", clf)]), Y),
    "stacking": (lambda clf: StackingClassifier([("a", clf)], cv=2), Y),
    "bagging": (lambda clf: BaggingClassifier(clf, n_estimators=2, random_state=0), Y),
    "one_vs_one": (OneVsOneClassifier, Y),
    "chain": (ClassifierChain, TWO),
    "self_training": (SelfTrainingClassifier, SOME),
}
REFUSED = {
    "bagging": ("list", "series"),
    "one_vs_one": ("frame", "column", "list", "series"),
    "chain": ("frame", "column", "list", "series", "raveled"),
    "self_training": ("frame", "column", "list", "series"),
}


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    paths = [str(folder / f"{i}.png") for i in range(12)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return {
        "frame": pd.DataFrame({"image": paths}),
        "column": np.array(paths, dtype=object)[:, None],
        "list": paths,
        "series": pd.Series(paths),
        "raveled": images.reshape(12, -1),
    }


@pytest.fixture
def extractor():
    return PretrainedFeatureExtractor(
        "squeezenet1_1", weights=None, image_size=32, image_shape=(8, 8, 3)
    )


@pytest.mark.parametrize("form", ["frame", "column", "list", "series", "raveled"])
@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_take_a_pipeline_on_images_as_the_guide_says(forms, extractor, name, form):
    wrap, y = WRAPPERS[name]
    clf, X = wrap(make_pipeline(extractor, LogisticRegression(max_iter=1000))), forms[form]
    if form in REFUSED.get(name, ()):
        with pytest.raises((ValueError, TypeError)):
            clf.fit(X, y)
    else:
        assert len(clf.fit(X, y).predict(X)) == 12


@pytest.mark.parametrize("form", ["frame", "list"])
@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_behind_the_extractor_take_every_form(forms, extractor, name, form):
    wrap, y = WRAPPERS[name]
    clf = make_pipeline(extractor, wrap(LogisticRegression(max_iter=1000))).fit(forms[form], y)
    assert len(clf.predict(forms[form])) == 12
