"""Bags in, one row each out: the same whatever the order and the size of bags."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from PIL import Image
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, TunedThresholdClassifierCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from sktransfer import PretrainedFeatureExtractor
from sktransfer.bags import BagClassifier, BagTransformer
from sktransfer.exceptions import FailedRowsWarning, ImageDecodeError
from sktransfer.model_selection import OperatingPointClassifier, OutOfFoldTransformer

POOLINGS = ["lse", "max", "mean", "attention"]


def extractor(**params):
    return PretrainedFeatureExtractor("squeezenet1_1", weights=None, image_size=32, **params)


def planted(n=80, seed=0, strength=3.0, n_classes=2):
    """Bags of vectors; in each bag of a class that is not 0 one row is moved."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    bags = [rng.normal(size=(rng.integers(3, 8), 6)) for _ in range(n)]
    places = [int(rng.integers(len(bag))) for bag in bags]
    for bag, label, place in zip(bags, y, places, strict=True):
        if label:
            bag[place, label] += strength
    return bags, y, np.array(places)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)


@parametrize_with_checks(
    [BagTransformer(), BagClassifier(), BagClassifier(pooling="attention", random_state=0)]
)
def test_checks_of_scikit_learn_pass(estimator, check):
    check(estimator)


@pytest.mark.parametrize("pooling", ["lse", "max", "attention"])
def test_the_image_that_decides_is_found_where_a_mean_ranks_worse(pooling):
    train, y, _ = planted()
    test, y_test, places = planted(seed=1)
    clf = BagClassifier(pooling=pooling, C=0.1, random_state=0).fit(train, y)
    mean = BagClassifier(pooling="mean", C=0.1).fit(train, y)
    auc = roc_auc_score(y_test, clf.decision_function(test))
    assert auc > 0.9
    assert auc > roc_auc_score(y_test, mean.decision_function(test)) + 0.02
    scores = clf.image_scores(test)
    assert_allclose(scores.groupby("bag")["weight"].sum(), 1)
    decided = scores.loc[scores.groupby("bag")["contribution"].idxmax(), "image"].to_numpy()
    assert np.mean(decided[y_test == 1] == places[y_test == 1]) >= 0.9


@pytest.mark.parametrize("pooling", POOLINGS)
def test_names_of_classes_make_no_difference(pooling):
    X, y, _ = planted()
    one = BagClassifier(pooling=pooling, random_state=0).fit(X, y)
    other = BagClassifier(pooling=pooling, random_state=0).fit(X, np.where(y == 1, "a", "b"))
    assert_allclose(one.decision_function(X), -other.decision_function(X), atol=1e-3)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_order_of_images_in_a_bag_changes_nothing(pooling):
    X, y, _ = planted()
    rng = np.random.default_rng(0)
    shuffled = [rng.permutation(bag) for bag in X]
    clf = BagClassifier(pooling=pooling, random_state=0).fit(X, y)
    assert_allclose(clf.decision_function(shuffled), clf.decision_function(X), atol=1e-10)
    again = BagClassifier(pooling=pooling, random_state=0).fit(shuffled, y)
    assert_allclose(again.decision_function(X), clf.decision_function(X), atol=1e-3)


@pytest.mark.parametrize("pooling", ["mean", "max", "lse", "gem"])
def test_pooled_columns_are_what_they_are_said_to_be(pooling):
    X, _, _ = planted(6)
    X = [np.abs(bag) for bag in X]
    expected = {
        "mean": lambda bag: bag.mean(axis=0),
        "max": lambda bag: bag.max(axis=0),
        "lse": lambda bag: np.log(np.exp(2 * bag).mean(axis=0)) / 2,
        "gem": lambda bag: np.mean(bag**2, axis=0) ** 0.5,
    }[pooling]
    found = BagTransformer(pooling=pooling, sharpness=2).fit_transform(X)
    assert_allclose(found, [expected(bag) for bag in X])
    rng = np.random.default_rng(0)
    assert_allclose(
        BagTransformer(pooling=pooling, sharpness=2).fit_transform([rng.permutation(b) for b in X]),
        found,
    )


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("pooling", ["lse", "max", "mean"])
def test_bags_of_one_image_are_the_plain_pipeline(pooling, n_classes):
    X, y, _ = planted(60, n_classes=n_classes)
    X = np.vstack([bag[:1] for bag in X])
    plain = make_pipeline(StandardScaler(), LogisticRegression(C=0.5, tol=1e-10)).fit(X, y)
    for given in (X, [[row] for row in X], X[:, None], pd.Series(list(X[:, None]))):
        clf = BagClassifier(pooling=pooling, C=0.5).fit(given, y)
        assert_allclose(clf.predict_proba(given), plain.predict_proba(X), atol=1e-5)


def test_bags_of_one_image_are_the_plain_pipeline_from_pixels_on(images):
    y = np.arange(12) % 2
    plain = make_pipeline(extractor(), StandardScaler(), LogisticRegression(C=0.01, tol=1e-10))
    expected = plain.fit(images, y).predict_proba(images)
    for bags in (images, [[image] for image in images], images[:, None]):
        clf = BagClassifier(extractor()).fit(bags, y)
        assert_allclose(clf.predict_proba(bags), expected, atol=1e-5)
        assert_allclose(
            BagTransformer(extractor()).fit_transform(bags), plain[0].transform(images), rtol=1e-6
        )


def test_a_column_for_each_view_is_a_bag_a_row(tmp_path, images):
    paths = []
    for number, image in enumerate(images[:4]):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(image).save(paths[-1])
    expected = BagTransformer(extractor()).fit_transform([paths[:2], paths[2:]])
    views = pd.DataFrame({"front": paths[::2], "side": paths[1::2]})
    for X in (views, views.to_numpy(), np.array([paths[:2], paths[2:]])):
        assert_allclose(BagTransformer(extractor()).fit_transform(X), expected)


def test_a_table_of_pixels_is_checked_as_scikit_learn_checks_tables(images):
    X = images[..., 0].reshape(12, -1)
    clf = BagClassifier(extractor()).fit(X, np.arange(12) % 2)
    assert clf.n_features_in_ == 1024
    with pytest.raises(ValueError, match=r"X has 64 features, but .* is expecting 1024 features"):
        clf.predict(X[:, :64])
    for same in (X.tolist(), X.astype(object)):
        assert_allclose(clf.predict_proba(same), clf.predict_proba(X))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        clf.fit(X, np.arange(11) % 2)


def test_a_weight_is_as_good_as_a_copy_of_a_bag():
    X, y, _ = planted(40)
    weight = np.arange(40) % 3
    weighted = BagClassifier().fit(X, y, sample_weight=weight)
    rows = np.repeat(np.arange(40), weight)
    copied = BagClassifier().fit([X[row] for row in rows], y[rows])
    assert_allclose(weighted.decision_function(X), copied.decision_function(X), atol=1e-4)
    single, unequal = np.vstack([bag[:1] for bag in X])[:30], np.repeat([0, 1], [20, 10])
    logistic = LogisticRegression(C=0.01, class_weight="balanced", tol=1e-10)
    plain = make_pipeline(StandardScaler(), logistic).fit(single, unequal)
    clf = BagClassifier(class_weight="balanced").fit(single, unequal)
    assert_allclose(clf.predict_proba(single), plain.predict_proba(single), atol=1e-5)


def test_attention_depends_on_the_seed_alone():
    X, y, _ = planted(40)
    first, second = (BagClassifier(pooling="attention", random_state=1).fit(X, y) for _ in "ab")
    assert np.array_equal(first.decision_function(X), second.decision_function(X))


def test_three_classes_are_explained_for_the_predicted_one_or_the_one_asked_for():
    X, y, places = planted(90, n_classes=3, strength=5)
    clf = BagClassifier(C=1).fit(X, y)
    assert clf.score(X, y) > 0.9
    assert_allclose(clf.predict_proba(X).sum(axis=1), 1)
    scores = clf.image_scores(X, pos_label=2)
    decided = scores.loc[scores.groupby("bag")["contribution"].idxmax(), "image"].to_numpy()
    assert np.mean(decided[y == 2] == places[y == 2]) > 0.9
    assert set(clf.image_scores(X)["bag"]) == set(range(90))
    with pytest.raises(ValueError, match="pos_label=7"):
        clf.image_scores(X, pos_label=7)


@pytest.mark.parametrize("form", [list, pd.Series, lambda bags: pd.DataFrame({"images": bags})])
def test_what_scikit_learn_wraps_around_classifiers_takes_bags(form):
    bags, y, _ = planted(60, strength=5)
    X = form(bags)
    assert cross_val_score(BagClassifier(C=1), X, y, cv=3, scoring="roc_auc").mean() > 0.9
    grid = GridSearchCV(BagClassifier(), {"pooling": ["mean", "lse"], "C": [1]}, cv=3).fit(X, y)
    assert grid.best_params_["pooling"] == "lse"
    pipe = make_pipeline(BagTransformer(pooling="max"), LogisticRegression())
    assert cross_val_score(pipe, X, y, cv=3).mean() > 0.8
    for wrapper in (
        CalibratedClassifierCV(BagClassifier(C=1), cv=3),
        TunedThresholdClassifierCV(BagClassifier(C=1), cv=3),
        OperatingPointClassifier(BagClassifier(C=1), target_level=0.7),
    ):
        assert wrapper.fit(X, y).predict(X).shape == (60,)


def test_bags_stand_alongside_columns_of_a_table(images):
    table = pd.DataFrame({"images": [list(images[:3]), list(images[3:])], "age": [50, 60]})
    columns = ColumnTransformer(
        [("bag", BagTransformer(extractor()), "images"), ("age", "passthrough", ["age"])]
    )
    found = columns.set_output(transform="pandas").fit_transform(table)
    assert found.shape == (2, 513)
    assert found.columns[0] == "bag__mean_squeezenet1_1_000"


def test_every_image_is_embedded_once(images):
    store = extractor()
    X = [list(images[:5]), list(images[5:7]), list(images[7:])]
    clf = BagClassifier(make_pipeline(store, StandardScaler())).fit(X, [0, 1, 1])
    assert clf.predict_proba(X).shape == (3, 2)
    expected = store.fit_transform(images)
    found = BagTransformer(store).fit_transform(X)
    assert_allclose(found[1], expected[5:7].mean(axis=0), rtol=1e-5)


def test_an_image_that_cannot_be_read_is_named_or_left_out(tmp_path, images):
    paths = []
    for number, image in enumerate(images):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(image).save(paths[-1])
    broken = str(tmp_path / "broken.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    X = [paths[:2], [paths[2], broken, paths[3]], paths[4:7], [broken], paths[7:]]
    y = [0, 1, 0, 1, 1]
    with pytest.raises(ImageDecodeError, match=r"row 1 \(broken.png\): image 1 of this bag"):
        BagClassifier(extractor()).fit(X, y)
    clf = BagClassifier(extractor(), on_error="nan")
    with pytest.warns(FailedRowsWarning, match="2 of 14 rows"):
        clf.fit(X, y)
    assert clf.failed_rows_["row"].tolist() == [1, 3]
    without = [paths[:2], paths[2:4], paths[4:7], paths[7:]]
    expected = BagClassifier(extractor()).fit(without, [0, 1, 0, 1])
    with pytest.warns(FailedRowsWarning):
        found = clf.predict_proba(X)
    assert_allclose(found[[0, 1, 2, 4]], expected.predict_proba(without), atol=1e-6)
    assert np.isnan(found[3]).all()
    with pytest.warns(FailedRowsWarning), pytest.raises(ImageDecodeError, match="image 0"):
        clf.predict(X)
    with pytest.warns(FailedRowsWarning):
        assert clf.image_scores(X)["bag"].tolist().count(1) == 2
    assert b"broken" not in pickle.dumps(clf)
    with pytest.warns(FailedRowsWarning):
        pooled = BagTransformer(extractor(), on_error="nan").fit_transform(X)
    assert np.isnan(pooled).all(axis=1).tolist() == [False, False, False, True, False]


@pytest.mark.parametrize("empty", [[], None, np.nan])
def test_a_bag_without_images_is_named_or_is_nan(empty, images):
    X = pd.Series([list(images[:2]), empty, list(images[2:])], dtype=object)
    with pytest.raises(ImageDecodeError, match="row 1: this bag has no image"):
        BagTransformer(extractor()).fit(X)
    lenient = BagTransformer(extractor(), on_error="nan").fit(X)
    with pytest.warns(FailedRowsWarning, match="row 1: this bag has no image"):
        assert np.isnan(lenient.transform(X)[1]).all()
    with pytest.warns(FailedRowsWarning):
        assert np.isnan(lenient.transform([[], None])).all()
    vectors = [np.ones((2, 3)), np.empty((0, 3)), np.zeros((1, 3))]
    with pytest.raises(ImageDecodeError, match="row 1"):
        BagClassifier().fit(vectors, [0, 1, 1])


def test_vectors_that_are_not_finite_are_left_out_where_that_is_asked_for():
    X, y, _ = planted(20)
    lost = [np.vstack([bag, np.full(6, np.nan)]) for bag in X]
    with pytest.raises(ValueError, match="NaN"):
        BagClassifier().fit(lost, y)
    clf = BagClassifier(on_error="nan")
    with pytest.warns(FailedRowsWarning, match="its vector is not finite"):
        clf.fit(lost, y)
    expected = BagClassifier().fit(X, y).decision_function(X)
    assert_allclose(clf.decision_function(X), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ([["a.png"], ["b.png"]], "pass extractor=PretrainedFeatureExtractor"),
        ([np.ones((2, 3)), np.ones((2, 4))], "different lengths: \\[3, 4\\]"),
        ([np.ones((2, 3, 3)), np.ones((1, 3, 3))], "no array of shape"),
        ([[], []], "Found no image in 2 bags"),
    ],
)
def test_what_is_no_bag_of_vectors_is_an_error(X, message):
    with pytest.raises(ValueError, match=message):
        BagClassifier().fit(X, [0, 1])


def test_a_single_array_in_a_cell_is_an_error_that_says_what_to_do(images):
    with pytest.raises(ValueError, match=r"\[image\]"):
        BagTransformer(extractor()).fit([images[0], images[1]])
    with pytest.raises(TypeError, match="single str"):
        BagTransformer(extractor()).fit("patient.png")
    with pytest.raises(ValueError, match="attention"):
        BagTransformer(pooling="attention").fit(np.ones((2, 2)))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_pickle_predicts_the_same(pooling):
    X, y, _ = planted(30)
    clf = BagClassifier(pooling=pooling, random_state=0).fit(X, y)
    again = pickle.loads(pickle.dumps(clf))
    assert np.array_equal(again.predict_proba(X), clf.predict_proba(X))


def test_bags_of_vectors_stand_alongside_columns_of_a_table():
    bags, y, _ = planted(40, strength=5)
    table = pd.DataFrame({"images": bags, "age": np.arange(40)})
    for model, names in (
        (BagTransformer(), [f"bag__mean_x{i}" for i in range(6)]),
        (OutOfFoldTransformer(BagClassifier(C=1)), ["bag__proba_1"]),
    ):
        columns = ColumnTransformer([("bag", model, "images"), ("age", "passthrough", ["age"])])
        found = columns.set_output(transform="pandas").fit_transform(table, y)
        assert found.columns.tolist() == [*names, "age__age"]
    clf = BagClassifier().fit(bags, y)
    with pytest.raises(ValueError, match="X has 5 features, but BagClassifier is expecting 6"):
        clf.predict([np.ones((2, 5))])


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_contributions_of_averages_sum_to_the_decision(pooling):
    bags, y, _ = planted(40)
    clf = BagClassifier(pooling=pooling, random_state=0).fit(bags, y)
    found = clf.image_scores(bags).groupby("bag")["contribution"].sum()
    assert_allclose(found, clf.decision_function(bags), atol=1e-10)
