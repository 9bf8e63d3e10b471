"""EmbeddingDisplay and similar_images: points, marks and neighbors are those of the embeddings."""

from __future__ import annotations

import sys

import matplotlib
import numpy as np
import pytest
from PIL import Image
from scipy.spatial.distance import cdist
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.manifold import MDS, TSNE
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import PretrainedFeatureExtractor
from sktransfer.exceptions import FailedRowsWarning, MissingDependencyError
from sktransfer.inspection import EmbeddingDisplay, similar_images

matplotlib.use("agg")
import matplotlib.pyplot as plt

X, y = load_digits(return_X_y=True)
X, y = X[:45], y[:45] % 3


def extractor(**params):
    settings = {"image_size": 32, "value_range": (0, 16), "engine": "torch", **params}
    return PretrainedFeatureExtractor("squeezenet1_1", weights=None, **settings)


@pytest.fixture(scope="module")
def feat():
    return extractor().fit(X)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def test_points_are_those_of_the_reducer(feat):
    display = EmbeddingDisplay.from_estimator(feat, X, y, embedding=PCA(2, svd_solver="full"))
    expected = PCA(2, svd_solver="full").fit_transform(feat.transform(X))
    np.testing.assert_allclose(display.points, expected, rtol=1e-5, atol=1e-6)
    for label in (0, 1, 2):
        offsets = display.scatters_[label].get_offsets()
        np.testing.assert_allclose(offsets, display.points[y == label])
    texts = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert texts == ["0", "1", "2"]
    assert len(display.ax_.get_xticks()) == 0


def test_default_reducer_is_tsne(feat):
    display = EmbeddingDisplay.from_estimator(feat, X)
    tsne = TSNE(perplexity=44 / 3, init="pca", random_state=0)
    np.testing.assert_allclose(display.points, tsne.fit_transform(feat.transform(X)), rtol=1e-4)
    assert list(display.scatters_) == [None]
    assert display.ax_.get_legend() is None


def test_any_reducer_and_pipeline_are_accepted(feat):
    pipe = make_pipeline(feat, StandardScaler()).fit(X)
    mds = MDS(n_init=1, init="random", random_state=0)
    assert EmbeddingDisplay.from_estimator(pipe, X, embedding=mds).points.shape == (45, 2)


def test_misclassified_are_marked(feat):
    predicted = y.copy()
    predicted[[3, 8]] = (y[[3, 8]] + 1) % 3
    display = EmbeddingDisplay.from_estimator(feat, X, y, embedding=PCA(2), y_pred=predicted)
    np.testing.assert_allclose(display.misclassified_.get_offsets(), display.points[[3, 8]])
    texts = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert texts[-1] == "misclassified (2)"
    display = EmbeddingDisplay.from_estimator(
        feat, X, y, embedding=PCA(2), y_pred=predicted, thumbnails=True
    )
    frames = [box.patch.get_linewidth() for box in display.thumbnails_]
    assert np.flatnonzero(np.array(frames) == 3).tolist() == [3, 8]


def test_thumbnails_are_the_images(feat):
    display = EmbeddingDisplay.from_estimator(feat, X, y, embedding=PCA(2), thumbnails=True)
    assert len(display.thumbnails_) == 45
    box = display.thumbnails_[4]
    np.testing.assert_allclose(box.xy, display.points[4])
    np.testing.assert_allclose(
        box.offsetbox.get_data()[:, :, 0], X[4].reshape(8, 8) / 16, atol=1 / 255
    )
    few = EmbeddingDisplay.from_estimator(feat, X, y, embedding=PCA(2), thumbnails=7)
    assert len(few.thumbnails_) == 7


def test_overlapping_thumbnails_are_left_out_correct_ones_first(feat):
    predicted = y.copy()
    predicted[[3, 8]] = (y[[3, 8]] + 1) % 3
    display = EmbeddingDisplay.from_estimator(
        feat, X, y, embedding=PCA(2), y_pred=predicted, thumbnails=True, overlap=False
    )
    display.figure_.draw_without_rendering()
    assert 2 < len(display.thumbnails_) < 45
    boxes = [box.patch.get_window_extent() for box in display.thumbnails_]
    for number, box in enumerate(boxes):
        assert box.count_overlaps(boxes[:number]) == 0
    # Of those in each other's way, the misclassified ones stay.
    kept = {tuple(box.xy) for box in display.thumbnails_}
    assert kept & {tuple(display.points[3]), tuple(display.points[8])}
    for box in display.thumbnails_:
        assert (box.zorder == 4) == (tuple(box.xy) in set(map(tuple, display.points[[3, 8]])))
    assert sum(len(each.get_offsets()) for each in display.scatters_.values()) == 45


def test_large_images_are_shrunk_and_given_axes_used():
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (300, 200), np.uint8)) for _ in range(4)]
    _, ax = plt.subplots()
    display = EmbeddingDisplay.from_estimator(
        extractor().fit(images), images, embedding=PCA(2), thumbnails=True, ax=ax
    )
    assert display.ax_ is ax
    assert display.figure_ is ax.figure
    assert max(display.images[0].size) == 128


def test_unreadable_rows_are_left_out():
    rows = [*X[:6].reshape(-1, 8, 8), b"broken"]
    feat = extractor(on_error="nan").fit(rows)
    with pytest.warns(FailedRowsWarning):
        display = EmbeddingDisplay.from_estimator(feat, rows, [0, 1] * 3 + [0], embedding=PCA(2))
    assert display.rows.tolist() == [0, 1, 2, 3, 4, 5]
    assert display.y.tolist() == [0, 1] * 3
    with pytest.warns(FailedRowsWarning):
        found = similar_images(feat, rows, 0, n_neighbors=5)
    assert sorted(found["row"]) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_neighbors_are_the_nearest(feat, metric):
    found = similar_images(feat, X, [2, 7], n_neighbors=4, metric=metric)
    features = feat.transform(X).astype(np.float64)
    distances = cdist(features, features, metric)
    for query in (2, 7):
        order = np.argsort(distances[query])
        order = order[order != query][:4]
        own = found[found["query"] == query]
        assert own["rank"].tolist() == [1, 2, 3, 4]
        np.testing.assert_allclose(own["distance"], distances[query][order], rtol=1e-3, atol=1e-5)
    assert not (found["query"] == found["row"]).any()


def test_neighbors_of_other_images_and_copies_are_found(feat):
    found = similar_images(feat, X, X[11:13], n_neighbors=1)
    assert found["query"].tolist() == [0, 1]
    assert found["row"].tolist() == [11, 12]
    np.testing.assert_allclose(found["distance"], 0, atol=1e-5)
    twice = np.concatenate([X[:5], X[:1]])
    assert similar_images(feat, twice, 5, n_neighbors=1)["row"].tolist() == [0]
    assert similar_images(feat, twice, 0, n_neighbors=1)["row"].tolist() == [5]


def test_invalid_input_raises(feat):
    with pytest.raises(TypeError, match="fit_transform"):
        EmbeddingDisplay.from_estimator(feat, X, embedding="tsne")
    with pytest.raises(ValueError, match="n_components=2"):
        EmbeddingDisplay.from_estimator(feat, X, embedding=PCA(3))
    with pytest.raises(ValueError, match="at least three"):
        EmbeddingDisplay.from_estimator(feat, X[:2])
    with pytest.raises(ValueError, match="inconsistent"):
        EmbeddingDisplay.from_estimator(feat, X, y[:3], embedding=PCA(2))
    with pytest.raises(ValueError, match="pass y"):
        EmbeddingDisplay.from_estimator(feat, X, y_pred=y)
    with pytest.raises(TypeError, match="pipe"):
        EmbeddingDisplay.from_estimator(object(), X)
    with pytest.raises(ValueError, match="from 1 to 44"):
        similar_images(feat, X, 0, n_neighbors=45)
    with pytest.raises(ValueError, match="45 is no row"):
        similar_images(feat, X, 45)


def test_missing_matplotlib_names_the_extra(feat, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(MissingDependencyError, match="plot"):
        EmbeddingDisplay.from_estimator(feat, X, embedding=PCA(2))
