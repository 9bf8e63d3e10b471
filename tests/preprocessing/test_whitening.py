"""ImageWhitening against its definition, Keras' formulas and scikit-learn's PCA."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from sktransfer.preprocessing import ImageWhitening


@parametrize_with_checks(
    [
        ImageWhitening(image_shape=(1, -1)),
        ImageWhitening("pca", image_shape=(1, -1)),
        ImageWhitening(
            "standardize",
            samplewise_center=True,
            samplewise_std_normalization=True,
            image_shape=(1, -1),
        ),
    ]
)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def X():
    """Neighboring pixels are correlated, in three channels of their own scales."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(600, 6, 5, 3))
    return (noise + 0.5 * np.roll(noise, 1, axis=1)) * [1, 5, 20] + [3, -40, 100]


def test_zca_makes_pixels_uncorrelated_by_a_symmetric_matrix(X):
    model = ImageWhitening().fit(X)
    out = model.transform(X)
    assert out.shape == X.shape
    flat = out.reshape(len(X), -1)
    np.testing.assert_allclose(np.cov(flat.T), np.eye(90), atol=2e-7)
    W = model.whitening_matrix_
    np.testing.assert_allclose(W, W.T, atol=1e-12)
    np.testing.assert_allclose(flat, (X - X.mean(0)).reshape(len(X), -1) @ W, atol=1e-9)
    assert np.linalg.eigvalsh(W).min() > 0  # of all whitenings, the nearest to the images


def test_pca_equals_scikit_learns(X):
    flat = X.reshape(len(X), -1)
    theirs = PCA(n_components=10, whiten=True, svd_solver="full").fit(flat)
    ours = ImageWhitening("pca", n_components=10).fit(X)
    np.testing.assert_allclose(ours.transform(X), theirs.transform(flat), atol=1e-8)
    np.testing.assert_allclose(ours.explained_variance_, theirs.explained_variance_)
    back = ours.inverse_transform(ours.transform(X))
    np.testing.assert_allclose(
        back, theirs.inverse_transform(theirs.transform(flat)).reshape(X.shape), atol=1e-8
    )


def test_standardize_follows_keras_formula(X):
    out = ImageWhitening("standardize").fit_transform(X)
    expected = (X - X.mean((0, 1, 2))) / (X.std((0, 1, 2)) + 1e-6)
    np.testing.assert_allclose(out, expected, atol=1e-12)
    out = ImageWhitening(
        "standardize", samplewise_center=True, samplewise_std_normalization=True
    ).fit_transform(X)
    first = X - X.mean((1, 2, 3), keepdims=True)
    first /= first.std((1, 2, 3), keepdims=True) + 1e-6
    expected = (first - first.mean((0, 1, 2))) / (first.std((0, 1, 2)) + 1e-6)
    np.testing.assert_allclose(out, expected, atol=1e-12)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"method": "pca"},
        {"method": "standardize"},
        {"featurewise_std_normalization": True, "epsilon": 0.1},
        {"method": "standardize", "featurewise_center": False},
    ],
)
def test_inverse_transform_restores_images(X, parameters):
    model = ImageWhitening(**parameters).fit(X)
    np.testing.assert_allclose(model.inverse_transform(model.transform(X)), X, atol=1e-8)
    rows = X.reshape(len(X), -1)
    model = ImageWhitening(**parameters, image_shape=(6, 5, 3)).fit(rows)
    np.testing.assert_allclose(model.inverse_transform(model.transform(rows)), rows, atol=1e-8)


def test_there_is_no_inverse_of_sample_wise_steps(X):
    model = ImageWhitening(samplewise_center=True).fit(X)
    assert not hasattr(model, "inverse_transform")


def test_raveled_images_give_the_same(X):
    images = ImageWhitening().fit(X)
    rows = X.reshape(len(X), -1)
    as_rows = ImageWhitening(image_shape=(6, 5, -1)).fit(rows)
    np.testing.assert_array_equal(as_rows.transform(rows), images.transform(X).reshape(len(X), -1))
    np.testing.assert_array_equal(images.transform(rows), as_rows.transform(rows))
    np.testing.assert_array_equal(as_rows.transform(X), images.transform(X))
    np.testing.assert_array_equal(
        images.transform(list(X[:3].astype(np.float32))).shape, X[:3].shape
    )
    assert as_rows.n_features_in_ == 90
    assert images.transform(X.astype(np.float32)).dtype == np.float32


def test_few_images_do_not_amplify_noise(X):
    few = X[:40]
    model = ImageWhitening().fit(few)
    assert len(model.components_) == 39  # one is the mean
    out = model.transform(few)
    assert np.isfinite(out).all()
    assert 0 < model.epsilon_ < model.explained_variance_.mean()
    # New images come out on the same scale, not a million times louder.
    assert np.abs(model.transform(X[40:])).max() < 20
    np.testing.assert_allclose(
        ImageWhitening(epsilon=0).fit_transform(few).reshape(40, -1).var(0, ddof=1).sum(), 39
    )


def test_pixels_that_never_vary_come_out_as_zero():
    digits = load_digits().images  # corners are always 0
    model = ImageWhitening().fit(digits)
    corner = digits[:5].copy()
    corner[:, 0, 0] = 16
    assert np.abs(model.transform(digits)).max() < 50
    np.testing.assert_allclose(model.transform(corner)[:, 0, 0], 0, atol=1e-6)
    same = ImageWhitening().fit(np.ones((5, 4, 4)))
    np.testing.assert_array_equal(same.transform(np.ones((2, 4, 4))), np.zeros((2, 4, 4)))


def test_scale_does_not_matter(X):
    small = ImageWhitening(epsilon=0.1).fit_transform(X)
    np.testing.assert_allclose(ImageWhitening(epsilon=0.1).fit_transform(X * 255), small, atol=1e-8)


def test_large_images_are_standardized_but_not_whitened():
    large = np.zeros((3, 70, 70, 3))
    with pytest.raises(ValueError, match=r"at most 64 x 64 x 3 = 12288 .* 70 x 70 x 3 = 14700"):
        ImageWhitening().fit(large)
    assert ImageWhitening("standardize").fit_transform(large).shape == large.shape


@pytest.mark.parametrize(
    ("fit", "message"),
    [
        (lambda: ImageWhitening("cholesky").fit(np.zeros((3, 4))), "'method' parameter"),
        (lambda: ImageWhitening(epsilon=-1).fit(np.zeros((3, 4))), "'epsilon' parameter"),
        (lambda: ImageWhitening(n_components=9).fit(np.zeros((3, 4))), "n_components=9 must be"),
        (lambda: ImageWhitening().fit(np.zeros((3, 5))), "Pass image_shape"),
        (lambda: ImageWhitening().fit(np.zeros((3, 3, 9, 9))), "channels-first"),
        (lambda: ImageWhitening().fit(np.zeros((1, 4, 4))), "1 sample"),
        (lambda: ImageWhitening().fit(np.full((3, 4, 4), np.nan)), "NaN"),
        (
            lambda: ImageWhitening().fit(np.eye(4)).transform(np.zeros((1, 4, 4))),
            r"shape \(4, 4\), but ImageWhitening was fitted on images of shape \(2, 2\)",
        ),
    ],
)
def test_bad_values_are_refused(fit, message):
    with pytest.raises(ValueError, match=message):
        fit()


def test_it_works_in_pipelines_and_names_its_output():
    X, y = load_digits(return_X_y=True)
    pipe = make_pipeline(ImageWhitening(epsilon=0.1), LogisticRegression(max_iter=500))
    assert clone(pipe).fit(X[:400], y[:400]).score(X[400:600], y[400:600]) > 0.8
    table = pd.DataFrame(X[:100], columns=[f"p{i}" for i in range(64)])
    out = ImageWhitening().set_output(transform="pandas").fit_transform(table)
    assert list(out.columns) == list(table.columns)
    out = ImageWhitening("pca", n_components=3).set_output(transform="pandas").fit_transform(table)
    assert list(out.columns) == ["imagewhitening0", "imagewhitening1", "imagewhitening2"]
