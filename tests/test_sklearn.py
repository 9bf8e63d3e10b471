"""The scikit-learn contract: the official checks, and our own for the inputs those cannot feed."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    StratifiedKFold,
    TunedThresholdClassifierCV,
    cross_val_predict,
    cross_val_score,
)
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from sktransfer import PretrainedFeatureExtractor
from sktransfer._frozen import MEMORY_STORE
from tests.forms import FORMS, rows

# Zero expected failures, through the route scikit-learn knows: one raveled image a row. The
# checks feed integers and floats from -50 to 103.
CHECKED = PretrainedFeatureExtractor(
    "squeezenet1_0", weights=None, image_shape=(1, -1), value_range=(-200, 200)
)


@parametrize_with_checks([CHECKED])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


N, SIDE = 24, 20


def small(backbone="squeezenet1_1", **parameters):
    return PretrainedFeatureExtractor(backbone, **{"weights": None, "image_size": 40, **parameters})


@pytest.fixture(scope="module")
def task():
    """Dark and bright noise: easy, and not perfectly so."""
    rng = np.random.default_rng(0)
    y = np.arange(N) % 2
    X = rng.integers(0, 200, (N, SIDE, SIDE, 3)) + 40 * y[:, None, None, None]
    return X.astype(np.uint8), y


@pytest.fixture(scope="module")
def folder(tmp_path_factory, task):
    folder = tmp_path_factory.mktemp("images")
    for i, image in enumerate(task[0]):
        Image.fromarray(image).save(folder / f"{i:02d}.png")
    return folder


@pytest.fixture(params=FORMS)
def form(request, task, folder):
    names = [str(folder / f"{i:02d}.png") for i in range(N)]
    return FORMS[request.param](task[0], names)


def relative(a, b):
    return (np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)).max()


# --- our own versions of the checks, for every form of X -----------------------------------------


def test_every_form_gives_the_same_embeddings(form, task):
    reference = small().fit_transform(task[0])
    E = small().fit_transform(form)
    if isinstance(form, np.ndarray) and form.dtype == float:
        # Resized as floats, not rounded to bytes on the way.
        assert relative(E, reference) < 0.01
    else:
        assert np.array_equal(E, reference)


def test_rows_stay_with_their_images(form):
    extractor = small(cache=False).fit(form)
    E = extractor.transform(form)
    order = np.random.default_rng(0).permutation(N)
    assert relative(extractor.transform(rows(form, order)), E[order]) < 1e-5
    assert relative(extractor.transform(rows(form, [3, 3])), E[[3, 3]]) < 1e-5


def test_fit_changes_neither_parameters_nor_data(form):
    before = pickle.dumps(form)
    extractor = small()
    parameters = dict(extractor.get_params())
    extractor.fit(form).transform(form)
    assert extractor.get_params() == parameters
    assert pickle.dumps(form) == before


def test_transform_changes_nothing_of_the_estimator(form):
    extractor = small().fit(form)
    before = dict(extractor.__dict__)
    extractor.transform(form)
    assert extractor.__dict__.keys() == before.keys()
    assert all(extractor.__dict__[name] is value for name, value in before.items())


def test_fitted_attributes_end_in_an_underscore(form):
    extractor = small().fit(form)
    own = set(vars(extractor)) - set(extractor.get_params())
    assert all(name.endswith("_") or name.startswith("_") for name in own)


def test_pickle_and_clone(form):
    extractor = small().fit(form)
    E = extractor.transform(form)
    assert np.array_equal(pickle.loads(pickle.dumps(extractor)).transform(form), E)
    assert np.array_equal(clone(extractor).fit(form).transform(form), E)


def test_fit_twice_is_fit_once(form):
    extractor = small(cache=False).fit(form)
    once = extractor.transform(form)
    assert relative(extractor.fit(form).transform(form), once) < 1e-6


def test_set_output_pandas(form):
    extractor = small(layer=["features.3", None]).set_output(transform="pandas").fit(form)
    frame = extractor.transform(form)
    assert isinstance(frame, pd.DataFrame)
    assert frame.shape == (N, extractor.n_features_out_)
    assert list(frame.columns) == list(extractor.get_feature_names_out())
    if isinstance(form, (pd.DataFrame, pd.Series)):
        assert frame.index.equals(form.index)


def test_works_in_cross_validation(form, task):
    pipe = make_pipeline(small(), LogisticRegression())
    scores = cross_val_score(pipe, form, task[1], cv=3, scoring="roc_auc")
    assert scores.mean() > 0.8


def test_number_of_columns_is_checked_where_there_are_columns(task):
    X = task[0].reshape(N, -1)
    extractor = small().fit(X)
    assert extractor.n_features_in_ == X.shape[1]
    with pytest.raises(ValueError, match="1200"):
        extractor.transform(X[:, : 3 * 18 * 18])
    assert not hasattr(extractor.fit(task[0]), "n_features_in_")


def test_column_names_are_checked(task, folder):
    frame = pd.DataFrame({"scan": [str(folder / "00.png")]})
    extractor = small().fit(frame)
    assert extractor.feature_names_in_.tolist() == ["scan"]
    assert extractor.n_features_in_ == 1
    with pytest.raises(ValueError, match="feature names"):
        extractor.transform(frame.rename(columns={"scan": "image"}))


def test_no_rows(task):
    extractor = small().fit(task[0])
    for empty in (task[0][:0], [], pd.DataFrame({"scan": []}), np.empty((0, 1), dtype=object)):
        with pytest.raises(ValueError, match="0 sample"):
            extractor.transform(empty)
        with pytest.raises(ValueError, match="0 sample"):
            small().fit(empty)


def test_html_repr(task):
    html = Pipeline([("feat", small()), ("clf", LogisticRegression())])._repr_html_()
    assert "PretrainedFeatureExtractor" in html
    assert repr(small(layer="features.3")) == (
        "PretrainedFeatureExtractor(backbone='squeezenet1_1', image_size=40,\n"
        "                           layer='features.3', weights=None)"
    )


# --- next to and inside other estimators ----------------------------------------------------------


def pipeline(**parameters):
    return Pipeline(
        [
            ("feat", small(**parameters)),
            ("scale", StandardScaler()),
            ("clf", LogisticRegression()),
        ]
    )


def test_images_next_to_a_table(task, folder):
    X, y = task
    frame = pd.DataFrame(
        {
            "scan": [str(folder / f"{i:02d}.png") for i in range(N)],
            "age": np.linspace(20, 80, N),
            "sex": np.where(np.arange(N) % 3, "f", "m"),
        }
    )
    from sklearn.preprocessing import OneHotEncoder

    columns = ColumnTransformer(
        [
            ("image", small(), ["scan"]),
            ("number", StandardScaler(), ["age"]),
            ("category", OneHotEncoder(), ["sex"]),
        ]
    )
    E = columns.fit_transform(frame)
    assert E.shape == (N, 512 + 1 + 2)
    assert columns.get_feature_names_out()[0] == "image__squeezenet1_1_000"
    np.testing.assert_array_equal(E[:, :512], small().fit_transform(X))
    pipe = make_pipeline(columns, StandardScaler(), LogisticRegression())
    assert cross_val_score(pipe, frame, y, cv=3, scoring="roc_auc").mean() > 0.8
    # A column given as a string arrives as a Series.
    alone = ColumnTransformer([("image", small(), "scan")])
    np.testing.assert_array_equal(alone.fit_transform(frame), E[:, :512])


def test_two_image_columns(task, folder):
    names = [str(folder / f"{i:02d}.png") for i in range(N)]
    frame = pd.DataFrame({"left": names, "right": names[::-1]})
    columns = ColumnTransformer([("l", small(), ["left"]), ("r", small(), ["right"])])
    E = columns.fit_transform(frame)
    np.testing.assert_array_equal(E[:, :512], E[::-1, 512:])
    with pytest.raises(ValueError, match="ColumnTransformer"):
        small().fit(frame)


def test_two_backbones_side_by_side(task):
    X, _ = task
    union = FeatureUnion([("a", small()), ("b", small("mobilenet_v3_small"))]).set_output(
        transform="pandas"
    )
    frame = union.fit_transform(X)
    assert frame.shape == (N, 512 + 1024)
    assert len(set(frame.columns)) == frame.shape[1]
    assert frame.columns[0] == "a__squeezenet1_1_000"


def test_a_search_over_layer_and_C_embeds_each_image_once_per_layer(task):
    X, y = task
    before = MEMORY_STORE.info()
    search = GridSearchCV(
        pipeline(random_state=91),
        {"feat__layer": ["features.3", None], "clf__C": [0.01, 1.0]},
        cv=StratifiedKFold(3),
        scoring="roc_auc",
    ).fit(X, y)
    after = MEMORY_STORE.info()
    assert after.misses - before.misses == 2 * N
    assert search.best_score_ > 0.8


def test_nested_calibration_and_threshold(task):
    X, y = task
    labels = np.array(["benign", "malignant"])[y]
    tuned = TunedThresholdClassifierCV(
        CalibratedClassifierCV(pipeline(), cv=3, method="sigmoid"),
        cv=3,
        scoring="balanced_accuracy",
    )
    predicted = cross_val_predict(tuned, X, labels, cv=3)
    assert (predicted == labels).mean() > 0.7
    probabilities = tuned.fit(X, labels).predict_proba(X)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


@pytest.mark.parametrize("n_jobs", [2])
def test_worker_processes(task, n_jobs):
    X, y = task
    scores = cross_val_score(pipeline(), X, y, cv=3, scoring="roc_auc", n_jobs=n_jobs)
    np.testing.assert_allclose(
        scores, cross_val_score(pipeline(), X, y, cv=3, scoring="roc_auc"), atol=1e-6
    )


def test_imbalanced_learn_pipeline(task, folder):
    from imblearn.over_sampling import SMOTE
    from imblearn.pipeline import Pipeline as ImbalancedPipeline
    from imblearn.under_sampling import RandomUnderSampler

    X, y = task
    rare = np.flatnonzero((y == 0) | (np.arange(N) % 4 == 1))
    names = pd.DataFrame({"scan": [str(folder / f"{i:02d}.png") for i in rare]})
    after = ImbalancedPipeline(
        [
            ("feat", small()),
            ("smote", SMOTE(k_neighbors=2, random_state=0)),
            ("clf", LogisticRegression()),
        ]
    )
    before = ImbalancedPipeline(
        [
            ("under", RandomUnderSampler(random_state=0)),
            ("feat", small()),
            ("clf", LogisticRegression()),
        ]
    )
    for pipe in (after, before):
        scores = cross_val_score(pipe, names, y[rare], cv=3, scoring="roc_auc")
        assert scores.mean() > 0.7
    raveled = X[rare].reshape(len(rare), -1)
    assert before.fit(raveled, y[rare]).predict(raveled).shape == y[rare].shape


def test_metadata_routing_works_with_the_extractor(task):
    X, y = task
    with config_context(enable_metadata_routing=True):
        pipe = Pipeline(
            [
                ("feat", small()),
                ("clf", LogisticRegression().set_fit_request(sample_weight=True)),
            ]
        )
        pipe.fit(X, y, sample_weight=np.ones(N))
    assert pipe.predict(X).shape == (N,)


def test_sparse_and_global_output_settings(task):
    X, _ = task
    with config_context(transform_output="pandas"):
        assert isinstance(small().fit_transform(X), pd.DataFrame)
    from scipy import sparse

    with pytest.raises(TypeError, match=r"[Ss]parse"):
        small().fit(sparse.csr_array(X.reshape(N, -1)))
