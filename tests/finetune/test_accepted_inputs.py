"""Our own versions of scikit-learn's checks, for every form of X that its own cannot feed."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from sklearn.utils._testing import ignore_warnings

from tests.forms import FORMS, rows

N = 24
NET = "squeezenet1_1"


@pytest.fixture(scope="module")
def images(tmp_path_factory, task):
    X, y = task
    X, y = X[:N], y[:N]
    folder = tmp_path_factory.mktemp("images")
    names = [str(folder / f"{i:02d}.png") for i in range(N)]
    for name, image in zip(names, X, strict=True):
        Image.fromarray(image).save(name)
    return X, y, names


@pytest.fixture(params=FORMS)
def form(request, images):
    X, _, names = images
    return FORMS[request.param](X, names)


@pytest.fixture
def clf(small):
    return small(NET, max_epochs=1)


def test_every_form_gives_the_same_probabilities(form, images, clf):
    X, y, _ = images
    P = clf.fit(form, y).predict_proba(form)
    reference = clone(clf).fit(X, y).predict_proba(X)
    if isinstance(form, np.ndarray) and form.dtype == float:
        assert np.abs(P - reference).max() < 0.1  # resized as floats, not rounded to bytes
    else:
        assert np.array_equal(P, reference)


def test_rows_stay_with_their_images(form, images, clf):
    P = clf.set_params(cache=False).fit(form, images[1]).predict_proba(form)
    order = np.random.default_rng(0).permutation(N)
    np.testing.assert_allclose(clf.predict_proba(rows(form, order)), P[order], atol=1e-4)
    np.testing.assert_allclose(clf.predict_proba(rows(form, [3, 3])), P[[3, 3]], atol=1e-4)


def test_fit_changes_neither_parameters_nor_data(form, images, clf):
    before, parameters = pickle.dumps(form), dict(clf.get_params())
    clf.fit(form, images[1]).predict(form)
    assert clf.get_params() == parameters
    assert pickle.dumps(form) == before


def test_predicting_does_not_change_the_estimator(form, images, clf):
    clf.fit(form, images[1])
    before = dict(vars(clf))
    for method in (clf.predict, clf.predict_proba, clf.decision_function):
        method(form)
    assert vars(clf).keys() == before.keys()
    assert all(vars(clf)[name] is value for name, value in before.items())


def test_fitted_attributes_end_in_an_underscore(form, images, clf):
    clf.fit(form, images[1])
    own = set(vars(clf)) - set(clf.get_params())
    assert all(name.endswith("_") or name.startswith("_") for name in own)


def test_pickle_clone_and_a_second_fit_predict_the_same(form, images, clf):
    P = clf.fit(form, images[1]).predict_proba(form)
    assert np.array_equal(pickle.loads(pickle.dumps(clf)).predict_proba(form), P)
    assert np.array_equal(clone(clf).fit(form, images[1]).predict_proba(form), P)
    assert np.array_equal(clf.fit(form, images[1]).predict_proba(form), P)


@ignore_warnings
def test_every_form_can_be_cross_validated(form, images, clf):
    clf.set_params(freeze_depth="all")
    assert cross_val_score(clf, form, images[1], cv=3, scoring="roc_auc").mean() > 0.8


def test_an_empty_input_is_refused(form, images, clf):
    empty = rows(form, [])
    with pytest.raises(ValueError, match="0 sample"):
        clf.fit(empty, images[1][:0])
    clf.fit(form, images[1])
    with pytest.raises(ValueError, match="0 sample"):
        clf.predict(empty)
