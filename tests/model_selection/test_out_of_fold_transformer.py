"""OutOfFoldTransformer: no row is scored by a model that has seen it, its patient or its copy."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from imblearn.over_sampling import SMOTE, RandomOverSampler
from imblearn.pipeline import make_pipeline as make_imbalanced_pipeline
from joblib import parallel_config
from PIL import Image
from sklearn import config_context
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, RidgeClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    ShuffleSplit,
    StratifiedGroupKFold,
    StratifiedKFold,
    cross_val_predict,
    cross_val_score,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks

from sktransfer import (
    FineTuneClassifier,
    MultiLabelLogisticRegression,
    PretrainedFeatureExtractor,
    TransferClassifier,
)
from sktransfer.bags import BagClassifier
from sktransfer.exceptions import FailedRowsWarning
from sktransfer.model_selection import OutOfFoldTransformer
from sktransfer.model_selection._out_of_fold_transformer import _units
from tests.forms import FORMS

# Zero expected failures. The checks compare fit_transform with fit().transform() to 0.01, on two
# clouds far apart: a model that is sure of either says the same of rows that it has not seen.
CHECKED = [
    OutOfFoldTransformer(GaussianNB()),
    OutOfFoldTransformer(LogisticRegression(C=1000), response_method="predict_proba", cv=3),
    OutOfFoldTransformer(
        make_pipeline(StandardScaler(), LogisticRegression(C=1000)), cv=StratifiedKFold(3)
    ),
]


@parametrize_with_checks(CHECKED)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def memory():
    """A model that knows its own rows by heart."""
    return KNeighborsClassifier(1)


@pytest.fixture(scope="module")
def noise():
    """Features without any relation to y, and patients of four rows, each with a class."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(20), 4)
    return rng.normal(size=(80, 70)), (rng.permutation(20) % 2)[patients], patients


# --- what is out of fold -------------------------------------------------------------------------


def test_fit_transform_is_out_of_fold_and_transform_is_of_all_rows(noise):
    X, y, _ = noise
    scores = OutOfFoldTransformer(LogisticRegression(), cv=KFold(4))
    out = scores.fit_transform(X, y)
    for train, test in KFold(4).split(X):
        fold = LogisticRegression().fit(X[train], y[train])
        np.testing.assert_array_equal(out[test, 0], fold.predict_proba(X[test])[:, 1])
    whole = LogisticRegression().fit(X, y).predict_proba(X)[:, 1:]
    np.testing.assert_array_equal(scores.transform(X), whole)
    np.testing.assert_array_equal(
        OutOfFoldTransformer(LogisticRegression()).fit(X, y).transform(X), whole
    )


def test_a_model_that_memorizes_rows_knows_nothing_of_them_out_of_fold(noise):
    X, y, _ = noise
    scores = OutOfFoldTransformer(memory())
    assert roc_auc_score(y, scores.fit_transform(X, y)[:, 0]) < 0.65
    assert roc_auc_score(y, scores.transform(X)[:, 0]) == 1


def test_no_patient_is_on_both_sides_of_a_fold(noise):
    X, y, patients = noise
    of_patient = X[patients * 4] + 0.01 * X  # a patient's rows are nearly equal
    scores = OutOfFoldTransformer(memory())
    assert roc_auc_score(y, scores.fit_transform(of_patient, y)[:, 0]) > 0.95
    assert roc_auc_score(y, scores.fit_transform(of_patient, y, groups=patients)[:, 0]) < 0.65
    as_floats = patients.astype(float)
    np.testing.assert_array_equal(
        scores.fit_transform(of_patient, y, groups=as_floats),
        scores.fit_transform(of_patient, y, groups=patients),
    )


@pytest.mark.parametrize("n_components", [None, 1])
def test_copies_of_an_image_are_in_one_fold(noise, tmp_path, n_components):
    X, y, _ = noise
    for i in range(80):
        pixels = (128 + 40 * X[i, :64].reshape(8, 8)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    few = np.flatnonzero((y == 0) | (np.arange(80) < 16))
    files = pd.DataFrame({"image": [str(tmp_path / f"{i}.png") for i in few]})
    read = FunctionTransformer(
        lambda X: np.stack([np.asarray(Image.open(each)).ravel() for each in X["image"]])
    )
    scores = OutOfFoldTransformer(make_pipeline(read, memory()), n_components=n_components)
    over = RandomOverSampler(random_state=0)
    for rows in (files, X[few]):
        again, labels = over.fit_resample(rows, y[few])
        assert len(labels) > len(few)
        own = scores if rows is files else clone(scores).set_params(estimator=memory())
        auc = roc_auc_score(labels, own.fit_transform(again, labels)[:, 0])
        # Copies of a wrong row are all wrong: few distinct rows, so far from 0.5 by chance.
        assert auc < 0.75
        naive = clone(own).set_params(cv=StratifiedKFold(5))
        assert roc_auc_score(labels, naive.fit_transform(again, labels)[:, 0]) > auc + 0.05


def test_patients_without_an_image_are_not_taken_for_one(noise):
    X, y, patients = noise
    rows = X.copy()
    rows[::4] = np.nan  # of every patient one
    scores = OutOfFoldTransformer(LogisticRegression())
    out = scores.fit_transform(rows, y, groups=patients)
    np.testing.assert_array_equal(np.isnan(out[:, 0]), np.arange(80) % 4 == 0)


def test_rows_of_a_table_that_are_equal_are_no_copies():
    y = np.arange(40) % 2
    X = (y * (np.arange(40) % 4 > 0)).astype(float)[:, None]
    out = OutOfFoldTransformer(LogisticRegression()).fit_transform(X, y)
    assert roc_auc_score(y, out[:, 0]) > 0.7


def _null_areas(X, y, patients, n_permutations, **params):
    """Cross-validated areas of permuted labels: image score inside, and from a model of all."""
    table = np.random.default_rng(1).normal(size=(len(y), 2))
    probe, second = RidgeClassifier(alpha=10), LogisticRegression()
    scores = OutOfFoldTransformer(probe, cv=3, **params)
    inside = ColumnTransformer([("image", scores, slice(2, None))], remainder="passthrough")
    honest, naive = [], []
    for seed in range(n_permutations):
        labels = np.random.default_rng(seed).permutation(y[::4])[patients]
        how = {"cv": StratifiedGroupKFold(3, shuffle=True, random_state=seed), "scoring": "roc_auc"}
        how["params"] = {"groups": patients}
        both = np.column_stack([table, X])
        honest += [*cross_val_score(make_pipeline(inside, second), both, labels, **how)]
        own = probe.fit(X, labels).decision_function(X)
        naive += [*cross_val_score(second, np.column_stack([table, own]), labels, **how)]
    return np.mean(honest), np.mean(naive)


def test_permuted_labels_are_not_predicted_and_naive_scores_fail_the_same_test(noise):
    with config_context(enable_metadata_routing=True):
        honest, naive = _null_areas(*noise, 40)
    assert honest == pytest.approx(0.5, abs=0.03)
    assert naive > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("n_components", [None, 1, 3])
def test_two_hundred_permutations(noise, n_components):
    with config_context(enable_metadata_routing=True):
        honest, naive = _null_areas(*noise, 200, n_components=n_components)
    assert honest == pytest.approx(0.5, abs=0.03)
    assert naive > 0.9


def test_scores_of_own_rows_hide_the_table_and_out_of_fold_scores_do_not(noise):
    X, y, _ = noise
    age = 50 + 10 * y + np.random.default_rng(2).normal(0, 8, 80)

    class InSample(OutOfFoldTransformer):
        def fit_transform(self, X, y, **params):
            return self.fit(X, y, **params).transform(X)

    found = {}
    for kind in (OutOfFoldTransformer, InSample):
        columns = ColumnTransformer(
            [("image", kind(memory()), slice(1, None))], remainder="passthrough"
        )
        pipe = make_pipeline(columns, HistGradientBoostingClassifier(max_iter=20))
        both = np.column_stack([age, X])
        found[kind] = cross_val_score(pipe, both, y, cv=4, scoring="roc_auc").mean()
    assert found[OutOfFoldTransformer] > 0.65
    assert found[InSample] < found[OutOfFoldTransformer] - 0.1


# --- images, categories, numbers, dates ----------------------------------------------------------

N = 48


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """A table with a column of files, some of them missing; bright images are positive."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    y = np.arange(N) % 2
    names = []
    for i in range(N):
        pixels = rng.integers(0, 200, (20, 20, 3)) + 40 * y[i]
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
        names.append(str(folder / f"{i}.png"))
    frame = pd.DataFrame(
        {
            "image": pd.Series(names, dtype=object),
            "age": rng.normal(60, 10, N),
            "sex": rng.choice(["f", "m"], N),
            "seen": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 700, N), "D"),
            "patient": np.arange(N) // 2 // 2 * 2 + y,
        }
    )
    frame.loc[[3, 8, 21], "image"] = [None, np.nan, " "]
    return frame, np.array(["benign", "malignant"])[y]


def extractor(**params):
    return PretrainedFeatureExtractor(
        "squeezenet1_1", weights=None, **{"image_size": 32, "random_state": 0, **params}
    )


def probe(**params):
    return make_pipeline(extractor(**params), StandardScaler(), LogisticRegression())


def fine_tuned(**params):
    return FineTuneClassifier(
        "squeezenet1_1",
        weights=None,
        **{"image_size": 32, "max_epochs": 1, "random_state": 0, **params},
    )


def days(frame):
    return frame.apply(lambda column: (column - pd.Timestamp("2024-01-01")).dt.days)


def columns_of(scores):
    return ColumnTransformer(
        [
            ("image", scores, ["image"]),
            ("category", OneHotEncoder(handle_unknown="ignore"), ["sex"]),
            ("date", FunctionTransformer(days, feature_names_out="one-to-one"), ["seen"]),
            ("number", "passthrough", ["age"]),
        ]
    ).set_output(transform="pandas")


def test_images_categories_numbers_and_dates_in_one_table(cases):
    frame, y = cases
    table = columns_of(OutOfFoldTransformer(probe())).set_params(category__sparse_output=False)
    found = table.fit_transform(frame, y)
    assert list(found.columns) == [
        *("image__proba_malignant", "category__sex_f", "category__sex_m"),
        *("date__seen", "number__age"),
    ]
    assert found.index.equals(frame.index)
    assert np.flatnonzero(found["image__proba_malignant"].isna()).tolist() == [3, 8, 21]
    pipe = make_pipeline(table, HistGradientBoostingClassifier(min_samples_leaf=5, max_iter=20))
    assert cross_val_score(pipe, frame, y, cv=3, scoring="roc_auc").mean() > 0.8
    search = GridSearchCV(
        pipe,
        {"columntransformer__image__estimator__logisticregression__C": [0.01, 1]},
        cv=2,
        scoring="roc_auc",
    ).fit(frame, y)
    again = pickle.loads(pickle.dumps(search))
    np.testing.assert_array_equal(again.predict_proba(frame), search.predict_proba(frame))


def test_dates_through_skrub(cases):
    skrub = pytest.importorskip("skrub")
    frame, y = cases
    table = ColumnTransformer(
        [
            ("image", OutOfFoldTransformer(probe()), ["image"]),
            ("table", skrub.TableVectorizer(), ["age", "sex", "seen"]),
        ]
    ).set_output(transform="pandas")
    found = table.fit_transform(frame, y)
    assert "table__seen_month" in found.columns
    pipe = make_pipeline(table, HistGradientBoostingClassifier(min_samples_leaf=5, max_iter=20))
    assert cross_val_score(pipe, frame, y, cv=3, scoring="roc_auc").mean() > 0.8


def test_missing_images_can_be_imputed(cases):
    frame, y = cases
    scores = make_pipeline(OutOfFoldTransformer(probe()), SimpleImputer(add_indicator=True))
    columns = ColumnTransformer([("image", scores, ["image"]), ("n", StandardScaler(), ["age"])])
    pipe = make_pipeline(columns, LogisticRegression())
    assert cross_val_score(pipe, frame, y, cv=3, scoring="roc_auc").mean() > 0.8


@pytest.mark.parametrize(
    "form", [name for name in FORMS if "paths" in name or "object" in name or name == "Series"]
)
def test_missing_images_in_every_form_of_paths(cases, form):
    frame, y = cases
    X = FORMS[form](None, ["" if pd.isna(each) else each for each in frame["image"]])
    out = OutOfFoldTransformer(probe()).fit_transform(X, y)
    assert np.flatnonzero(np.isnan(out[:, 0])).tolist() == [3, 8, 21]


def test_missing_images_are_left_out_of_fits_and_change_no_other_row(cases):
    frame, y = cases
    kept = frame["image"].fillna(" ").str.strip() != ""
    images = frame[["image"]]
    scores = OutOfFoldTransformer(probe()).fit(images, y)
    alone = OutOfFoldTransformer(probe()).fit(images[kept], y[kept])
    np.testing.assert_allclose(scores.transform(images[kept]), alone.transform(images[kept]))
    nothing = images.assign(image=None)
    assert np.isnan(scores.transform(nothing)).all()
    with pytest.raises(ValueError, match="None of the 48 rows has an image"):
        scores.fit_transform(nothing, y)


def test_broken_files_become_nan_behind_an_extractor_that_allows_them(cases, tmp_path):
    frame, y = cases
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    images = frame[["image"]].copy()
    images.loc[5, "image"] = str(broken)
    head = OutOfFoldTransformer(make_pipeline(StandardScaler(), LogisticRegression()))
    pipe = make_pipeline(extractor(on_error="nan"), head)
    with pytest.warns(FailedRowsWarning):
        out = pipe.fit_transform(images, y)
    assert np.flatnonzero(np.isnan(out[:, 0])).tolist() == [3, 5, 8, 21]
    tuned = OutOfFoldTransformer(fine_tuned(freeze_depth="all", on_error="nan"), cv=2)
    with pytest.warns(FailedRowsWarning):
        out = tuned.fit_transform(images, y)
    assert np.flatnonzero(np.isnan(out[:, 0])).tolist() == [3, 5, 8, 21]


@pytest.mark.filterwarnings("ignore:No score counts")
@pytest.mark.parametrize("n_components", [None, 1])
@pytest.mark.parametrize("kind", ["fine-tuned", "transfer"])
def test_classifiers_on_images(cases, kind, n_components):
    frame, y = cases
    clf = (
        fine_tuned(freeze_depth=-1, max_epochs=2)
        if kind == "fine-tuned"
        else TransferClassifier(extractor(), random_state=0)
    )
    scores = OutOfFoldTransformer(clf, n_components=n_components, cv=2)
    out = scores.fit_transform(frame[["image"]], y)
    seen = ~np.isnan(out[:, 0])
    assert seen.sum() == N - 3
    assert roc_auc_score(y[seen], out[seen, 0]) > 0.8
    later = scores.transform(frame[["image"]])
    assert roc_auc_score(y[seen], later[seen, 0]) > 0.8
    again = pickle.loads(pickle.dumps(scores)).transform(frame[["image"]])
    np.testing.assert_allclose(again, later, rtol=1e-5)


# --- routing -------------------------------------------------------------------------------------


class Spy(LogisticRegression):
    """Notes what its fits were given."""

    seen: list = []  # noqa: RUF012

    def fit(self, X, y, sample_weight=None, groups=None):
        Spy.seen.append((len(y), sample_weight, groups))
        return super().fit(X, y, sample_weight)


@pytest.mark.parametrize("kind", ["scikit-learn", "imbalanced-learn"])
def test_groups_and_weights_are_routed_through_pipelines_and_columns(noise, kind):
    X, y, patients = noise
    weight = np.random.default_rng(0).uniform(1, 2, 80)
    make = make_pipeline if kind == "scikit-learn" else make_imbalanced_pipeline
    Spy.seen = []
    with config_context(enable_metadata_routing=True):
        spy = Spy().set_fit_request(sample_weight=True, groups=True)
        columns = ColumnTransformer(
            [("image", OutOfFoldTransformer(spy, cv=4), slice(0, 70))], remainder="passthrough"
        )
        head = LogisticRegression().set_fit_request(sample_weight=False)
        make(columns, head).fit(X, y, groups=patients, sample_weight=weight)
        scores = cross_val_score(
            make(columns, head), X, y, cv=StratifiedGroupKFold(4), params={"groups": patients}
        )
    assert len(scores) == 4
    (n, given, groups), *folds = Spy.seen[:5]
    assert n == 80
    np.testing.assert_array_equal(given, weight)
    assert [str(each) for each in groups] == [str(each) for each in patients]
    for n, given, groups in folds:
        assert n == len(given) == len(groups) == 60
        assert set(weight) > set(given)
        assert all((groups == each).sum() == 4 for each in set(groups))
    assert all(groups is not None and given is None for _, given, groups in Spy.seen[5:])


def test_groups_and_weights_without_routing(noise):
    X, y, patients = noise
    Spy.seen = []
    make_pipeline(OutOfFoldTransformer(Spy(), cv=2), LogisticRegression()).fit(
        X,
        y,
        outoffoldtransformer__groups=patients,
        outoffoldtransformer__sample_weight=np.ones(80),
    )
    assert [(n, len(w), len(g)) for n, w, g in Spy.seen] == [(80, 80, 80), *[(40, 40, 40)] * 2]


def test_a_row_of_no_weight_is_a_row_that_is_not_there(noise):
    X, y, _ = noise
    weight = (np.arange(80) < 60).astype(float)
    for n_components in (None, 2):
        scores = OutOfFoldTransformer(RidgeClassifier(), n_components=n_components)
        weighted = scores.fit(X, y, sample_weight=weight).transform(X)
        np.testing.assert_allclose(weighted, scores.fit(X[:60], y[:60]).transform(X), atol=1e-8)


def test_a_splitter_gets_groups_that_it_requests(noise):
    X, y, patients = noise
    scores = OutOfFoldTransformer(LogisticRegression(), cv=GroupKFold(4))
    plain = scores.fit_transform(X, y, groups=patients)
    with config_context(enable_metadata_routing=True):
        np.testing.assert_array_equal(scores.fit_transform(X, y, groups=patients), plain)
    names = np.array([f"{each:02d}" for each in patients])  # in the order of numbers
    folds = GroupKFold(4).split(X, y, names)
    predicted = cross_val_predict(LogisticRegression(), X, y, cv=folds, method="predict_proba")
    np.testing.assert_array_equal(scores.fit_transform(X, y, groups=names), predicted[:, 1:])


# --- columns -------------------------------------------------------------------------------------


def test_a_column_for_every_class_of_several_and_none_for_a_class_that_a_fold_lacks():
    rng = np.random.default_rng(0)
    y = np.array(["a", "b", "c"])[np.r_[np.arange(40) % 2, 2, 2]]
    X = rng.normal(size=(42, 5)) + (y == "b")[:, None]
    X[40:] += 1e-3
    X[41] = X[40]
    scores = OutOfFoldTransformer(LogisticRegression()).set_output(transform="pandas")
    out = scores.fit_transform(X, y)
    assert list(out.columns) == ["proba_a", "proba_b", "proba_c"]
    np.testing.assert_allclose(out.sum(axis=1), 1)
    lonely = OutOfFoldTransformer(LogisticRegression()).fit_transform(X[:41], y[:41])
    assert lonely[40, 2] == 0
    names = OutOfFoldTransformer(RidgeClassifier()).fit(X, y).get_feature_names_out()
    assert names.tolist() == ["decision_a", "decision_b", "decision_c"]
    with pytest.raises(ValueError, match="no row of class 'c' to train on"):
        OutOfFoldTransformer(RidgeClassifier()).fit_transform(X[:41], y[:41])


def test_several_findings_have_a_column_each(noise):
    X, y, _ = noise
    Y = np.column_stack([y, np.arange(80) % 2])
    scores = OutOfFoldTransformer(DecisionTreeClassifier(random_state=0), cv=4)
    assert scores.fit_transform(X, Y).shape == (80, 2)
    assert scores.get_feature_names_out().tolist() == ["proba_0", "proba_1"]
    np.testing.assert_array_equal(scores.transform(X), Y)


@pytest.fixture
def findings():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 20))
    logits = 2 * X[:, :2] + rng.normal(size=(120, 2)) - [0, 1]
    return X, pd.DataFrame((logits > 0).astype(float), columns=["Mass", "Edema"])


def test_a_row_with_an_unknown_finding_is_left_out_of_that_finding_only(findings):
    X, Y = findings
    patients = np.arange(120) // 2
    spoiled = Y.copy()
    spoiled.iloc[::3, 0] = np.nan
    spoiled.iloc[5] = np.nan
    folds = [*GroupKFold(4).split(X, groups=patients)]
    scores = OutOfFoldTransformer(MultiLabelLogisticRegression(), cv=folds)
    out = scores.fit_transform(X, spoiled)
    assert np.isfinite(out).all()
    assert scores.get_feature_names_out().tolist() == ["proba_Mass", "proba_Edema"]
    for train, test in folds:
        own = MultiLabelLogisticRegression().fit(X[train], spoiled.iloc[train])
        np.testing.assert_allclose(out[test], own.predict_proba(X[test]))
    known = OutOfFoldTransformer(MultiLabelLogisticRegression(), cv=folds).fit_transform(X, Y)
    assert np.abs(known - out)[:, 0].max() > 0.01
    assert np.abs(known - out)[:, 1].max() < np.abs(known - out)[:, 0].max() / 2
    for place in range(2):
        assert 0.8 < roc_auc_score(Y.iloc[:, place], out[:, place]) < 0.99
    # As an array, with folds of its own, and as components.
    plain = OutOfFoldTransformer(MultiLabelLogisticRegression())
    assert np.isfinite(plain.fit_transform(X, spoiled.to_numpy(), groups=patients)).all()
    assert plain.get_feature_names_out().tolist() == ["proba_0", "proba_1"]
    pipeline = make_pipeline(StandardScaler(), MultiLabelLogisticRegression())
    components = OutOfFoldTransformer(pipeline, n_components=2)
    assert np.isfinite(components.fit_transform(X, spoiled)).all()


def test_findings_are_sets_of_names_or_columns(findings):
    X, Y = findings
    sets = [{name for name in Y if row[name]} for _, row in Y.iterrows()]
    sets[3] = None
    scores = OutOfFoldTransformer(MultiLabelLogisticRegression())
    found = scores.fit_transform(X, sets)
    assert scores.get_feature_names_out().tolist() == ["proba_Edema", "proba_Mass"]
    columns = Y[["Edema", "Mass"]].copy()
    columns.iloc[3] = np.nan
    again = OutOfFoldTransformer(MultiLabelLogisticRegression()).fit_transform(X, columns)
    np.testing.assert_allclose(found, again)
    with pytest.raises(ValueError, match="-1 stands for uncertain"):
        scores.fit(X, columns.replace(0, -1))


def test_columns_of_several_classes_are_targets_of_a_tree(noise):
    X, y, _ = noise
    Y = np.column_stack([y, np.arange(80) % 3])
    scores = OutOfFoldTransformer(DecisionTreeClassifier(random_state=0), cv=4)
    assert scores.fit_transform(X, Y).shape == (80, 2)


def test_numbers_of_a_regressor(noise):
    X, _, patients = noise
    age = 50 + 5 * X[:, 0]
    scores = OutOfFoldTransformer(Ridge())
    out = scores.fit_transform(X, age, groups=patients)
    assert scores.get_feature_names_out().tolist() == ["predicted"]
    assert 0.3 < np.corrcoef(out[:, 0], age)[0, 1] < np.corrcoef(scores.transform(X).T, age)[0, 1]
    assert OutOfFoldTransformer(LinearRegression(), n_components=2).fit_transform(X, age).shape == (
        80,
        2,
    )


def test_components_of_folds_lie_as_those_of_all_rows():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 300)
    X = rng.normal(size=(300, 30)) + 1.5 * rng.normal(size=(4, 30))[y]
    scores = OutOfFoldTransformer(make_pipeline(StandardScaler(), GaussianNB()), n_components=3)
    out, whole = scores.fit_transform(X, y), scores.transform(X)
    assert scores.get_feature_names_out().tolist() == ["component0", "component1", "component2"]
    for fold, all_ in zip(out.T, whole.T, strict=True):
        assert np.corrcoef(fold, all_)[0, 1] > 0.95
    # Four classes are apart in three components, in which each fold must have its axes and signs.
    assert cross_val_score(KNeighborsClassifier(5), out, y).mean() > 0.9
    own = OutOfFoldTransformer(LinearDiscriminantAnalysis(), n_components=2)
    assert cross_val_score(make_pipeline(own, KNeighborsClassifier(5)), X, y, cv=3).mean() > 0.7


def test_components_of_what_shows_no_features_are_refused(cases):
    frame, y = cases
    hidden = FunctionTransformer(lambda X: np.arange(len(X))[:, None])

    class Closed(GaussianNB):
        def fit(self, X, y):
            return super().fit(hidden.transform(X), y)

    with pytest.raises(ValueError) as caught:
        OutOfFoldTransformer(Closed(), n_components=1).fit(frame[["image"]], y)
    assert "Closed" in caught.value.__notes__[0]


def test_two_models_side_by_side(cases):
    frame, y = cases
    union = FeatureUnion(
        [
            ("a", OutOfFoldTransformer(probe(), cv=2)),
            ("b", OutOfFoldTransformer(probe(layer="features.3"), cv=2, n_components=1)),
        ]
    ).set_output(transform="pandas")
    found = union.fit_transform(frame[["image"]], y)
    assert list(found.columns) == ["a__proba_malignant", "b__component0"]


def test_folds_that_are_fitted_at_once_find_the_same(noise):
    X, y, patients = noise
    scores = OutOfFoldTransformer(LogisticRegression())
    one = scores.fit_transform(X, y, groups=patients)
    with parallel_config("threading"):
        two = clone(scores).set_params(n_jobs=2).fit_transform(X, y, groups=patients)
    np.testing.assert_array_equal(one, two)


def test_samplers_inside_and_behind(noise):
    X, y, _ = noise
    few = np.flatnonzero((y == 0) | (np.arange(80) < 30))
    inside = OutOfFoldTransformer(
        make_imbalanced_pipeline(SMOTE(random_state=0), LogisticRegression())
    )
    behind = make_imbalanced_pipeline(
        OutOfFoldTransformer(LogisticRegression()), SMOTE(random_state=0), LogisticRegression()
    )
    assert inside.fit_transform(X[few], y[few]).shape == (len(few), 1)
    assert behind.fit(X[few], y[few]).predict(X).shape == (80,)


# --- what is refused -----------------------------------------------------------------------------


def test_folds_that_leave_rows_untested_or_divide_patients_are_refused(noise):
    X, y, patients = noise
    with pytest.raises(ValueError, match="untested"):
        OutOfFoldTransformer(GaussianNB(), cv=ShuffleSplit(1)).fit_transform(X, y)
    with pytest.raises(ValueError, match="more than once"):
        OutOfFoldTransformer(GaussianNB(), cv=ShuffleSplit(9)).fit_transform(X, y)
    with pytest.raises(ValueError, match="groups on both sides"):
        OutOfFoldTransformer(GaussianNB(), cv=list(KFold(3).split(X))).fit_transform(
            X, y, groups=patients
        )
    with pytest.raises(ValueError, match="at least two folds"):
        OutOfFoldTransformer(GaussianNB()).fit_transform(X, y, groups=np.zeros(80))
    with pytest.raises(ValueError, match="no group"):
        OutOfFoldTransformer(GaussianNB()).fit_transform(X, y, groups=[None] * 80)


def test_a_patient_with_all_rows_of_a_class_is_refused_by_name():
    X, y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) // 16
    with pytest.raises(ValueError, match="no row of class 1 to train on"):
        OutOfFoldTransformer(GaussianNB()).fit_transform(X, y, groups=np.arange(20) // 4)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_components": 0}, "n_components"),
        ({"n_components": 99}, "n_components"),
        ({"response_method": "predict"}, "response_method"),
        ({"cv": 1}, "cv"),
        ({"cv": "five"}, "cv"),
        ({"estimator": "probe"}, "estimator"),
    ],
)
def test_bad_parameters_are_named(noise, params, message):
    X, y, _ = noise
    with pytest.raises(ValueError, match=message):
        OutOfFoldTransformer(GaussianNB()).set_params(**params).fit_transform(X, y)


def test_a_response_that_the_estimator_does_not_have_is_refused(noise):
    with pytest.raises(AttributeError, match=r"RidgeClassifier has none of .*: predict_proba"):
        OutOfFoldTransformer(RidgeClassifier(), response_method="predict_proba").fit(*noise[:2])


def test_copies_are_found_in_lists_and_objects_and_among_bags():
    rng = np.random.default_rng(0)
    rows = np.repeat(np.arange(20), 2)
    images = rng.integers(0, 256, (20, 80), dtype=np.uint8)[rows]
    bags = [rng.normal(size=(1 + row % 3, 4)) for row in range(20)]
    copied = [bags[row].copy() for row in rows]
    paths = [[f"{row}.png"] * (1 + row % 3) for row in rows]
    frame = pd.DataFrame({"images": copied})
    for X in (images.tolist(), images.astype(object), copied, pd.Series(copied), frame, paths):
        units = _units(X, None, np.ones(40, dtype=bool))
        assert np.array_equal(units[::2], units[1::2])
        assert len(np.unique(units)) == 20


def test_missing_images_in_objects_and_bags_without_images():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 5)), np.arange(40) % 2
    X[:2] = np.nan
    lost = [True] * 2 + [False] * 38
    for given in (X.astype(object), X.tolist()):
        found = OutOfFoldTransformer(LogisticRegression()).fit_transform(given, y)
        assert np.isnan(found[:, 0]).tolist() == lost
    bags = [None, [], *(rng.normal(size=(1 + row % 3, 4)) for row in range(38))]
    found = OutOfFoldTransformer(BagClassifier()).fit_transform(bags, y)
    assert np.isnan(found[:, 0]).tolist() == lost


def test_folds_are_checked_before_anything_is_fitted():
    class Untouched(LogisticRegression):
        def fit(self, X, y):
            raise AssertionError

    X, y = np.ones((20, 3)), np.arange(20) % 2
    with pytest.raises(ValueError, match="rows untested"):
        OutOfFoldTransformer(Untouched(), cv=[(range(10), range(10, 20))]).fit_transform(X, y)


def test_a_table_without_rows_gets_the_estimators_own_error():
    X, y = np.eye(6), np.arange(6) % 2
    with pytest.raises(ValueError, match="0 sample"):
        OutOfFoldTransformer(LogisticRegression()).fit(X, y).transform(X[:0])
