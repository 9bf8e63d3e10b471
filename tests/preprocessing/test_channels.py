"""ImageChannels against numpy's indexing, and against a projected first convolution."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from sktransfer import PretrainedFeatureExtractor
from sktransfer.preprocessing import ImageChannels


@parametrize_with_checks(
    [
        ImageChannels(select=[0], image_shape=(1, -1)),
        ImageChannels(mix=[0.5], image_shape=(1, -1)),
    ]
)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.fixture
def X():
    return np.random.default_rng(0).integers(0, 4096, (6, 10, 12, 5), dtype=np.uint16)


def test_selected_channels_come_in_their_order(X):
    out = ImageChannels(select=(4, 0, -4)).fit_transform(X)
    assert np.array_equal(out, X[..., [4, 0, 1]])
    assert out.dtype == X.dtype
    assert np.array_equal(ImageChannels(select=[2]).fit_transform(X), X[..., [2]])
    gray = X[..., 0]
    assert np.array_equal(ImageChannels(select=[0, 0, 0]).fit_transform(gray)[..., 1], gray)


def test_channels_are_mixed_linearly(X):
    mix = np.random.default_rng(1).random((5, 3))
    expected = np.einsum("nhwc,ck->nhwk", X.astype(float), mix)
    np.testing.assert_allclose(ImageChannels(mix=mix).fit_transform(X), expected)
    out = ImageChannels(mix=np.full(5, 0.2)).fit_transform(X.astype(np.float32))
    assert (out.dtype, out.shape) == (np.float32, (6, 10, 12, 1))
    np.testing.assert_allclose(out[..., 0], X.mean(axis=3), rtol=1e-6)
    one_hot = np.eye(5)[:, [4, 0, 1]]
    select = ImageChannels(select=(4, 0, 1)).fit_transform(X)
    assert np.array_equal(ImageChannels(mix=one_hot).fit_transform(X), select)


def test_mixing_is_projecting_the_first_convolution(X):
    rng = np.random.default_rng(2)
    mix = rng.random((5, 3))
    filters = torch.from_numpy(rng.normal(size=(8, 3, 3, 3)))
    projected = torch.einsum("ck,okhw->ochw", torch.from_numpy(mix), filters)
    mixed = torch.from_numpy(ImageChannels(mix=mix).fit_transform(X)).permute(0, 3, 1, 2)
    own = torch.from_numpy(X.astype(float)).permute(0, 3, 1, 2)
    convolve = torch.nn.functional.conv2d
    torch.testing.assert_close(convolve(mixed, filters), convolve(own, projected))


def test_raveled_images_give_the_same(X):
    flat = X.reshape(6, -1)
    step = ImageChannels(select=(1, 2, 3), image_shape=(10, -1, 5)).fit(flat)
    assert step.image_shape_ == (10, 12, 5)
    assert np.array_equal(step.transform(flat).reshape(6, 10, 12, 3), X[..., 1:4])
    frame = pd.DataFrame(flat).add_prefix("p")
    out = step.set_output(transform="pandas").fit_transform(frame)
    assert out.shape == (6, 360)
    assert out.columns[0] == "imagechannels0"


def test_a_search_reaches_it_before_the_extractor(X):
    feat = PretrainedFeatureExtractor(
        "squeezenet1_1", weights=None, image_size=48, value_range=(0, 4095)
    )
    pipe = make_pipeline(ImageChannels(), feat, LogisticRegression())
    grid = {"imagechannels__select": [(0, 1, 2), (4, 4, 4)]}
    search = GridSearchCV(pipe, grid, cv=2).fit(X, [0, 1] * 3)
    assert len(search.cv_results_["params"]) == 2
    assert clone(pipe[0]).get_params()["mix"] is None


def test_other_sizes_are_accepted_and_other_channels_are_not(X):
    step = ImageChannels().fit(X)
    assert step.transform(X[:, :4, :5]).shape == (6, 4, 5, 3)
    with pytest.raises(ValueError, match="has 4 channels; in fit it had 5"):
        step.transform(X[..., :4])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"select": (0, 1)}, "three channels, or one"),
        ({"select": (0, 1, 5)}, "X has 5 channels"),
        ({"select": (0.5,)}, "whole numbers"),
        ({"mix": np.ones((4, 3))}, r"shape \(5, 3\)"),
        ({"mix": [[np.nan] * 3] * 5}, r"shape \(5, 3\)"),
        ({"select": 3}, "'select' parameter"),
    ],
)
def test_bad_channels_are_refused(X, parameters, message):
    with pytest.raises(ValueError, match=message):
        ImageChannels(**parameters).fit(X)


def test_bad_shapes_are_refused(X):
    with pytest.raises(ValueError, match="image_shape"):
        ImageChannels().fit(X.reshape(6, -1))
    with pytest.raises(ValueError, match="do not make images"):
        ImageChannels(image_shape=(7, 7, 5)).fit(X.reshape(6, -1))
    with pytest.raises(ValueError, match=r"expected \(n, height, width, channels\)"):
        ImageChannels().fit(X[None])


def test_the_extractors_error_names_it(X):
    with pytest.raises(ValueError, match="ImageChannels"):
        PretrainedFeatureExtractor("squeezenet1_1", weights=None).fit(X)
    feat = PretrainedFeatureExtractor("squeezenet1_1", weights=None, value_range=(0, 4095))
    with pytest.raises(ValueError, match="ImageChannels"):
        feat.fit(list(X)).transform(list(X))
