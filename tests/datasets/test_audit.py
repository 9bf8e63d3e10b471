"""audit_labels finds labels that were changed, by patient, and leaves out what it cannot judge."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_iris
from sklearn.metrics import average_precision_score

from sktransfer import PretrainedFeatureExtractor
from sktransfer.datasets import audit_labels


def changed(y, share=0.1, seed=0):
    """Labels of which some are changed to another class, and which."""
    rng = np.random.default_rng(seed)
    wrong = np.zeros(len(y), dtype=bool)
    wrong[rng.choice(len(y), round(share * len(y)), replace=False)] = True
    classes, codes = np.unique(y, return_inverse=True)
    codes[wrong] = (codes[wrong] + rng.integers(1, len(classes), wrong.sum())) % len(classes)
    return classes[codes], wrong


def by_row(audit):
    return audit.table.set_index("row").sort_index()


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X[:400], y[:400]


def test_changed_labels_of_ten_classes_come_first(digits):
    X, truth = digits
    y, wrong = changed(truth)
    audit = audit_labels(X, y)
    table = by_row(audit)
    assert average_precision_score(wrong, table["score"]) > 0.9
    assert (table["suggested"].to_numpy()[wrong] == truth[wrong]).mean() > 0.85
    suspected = table["suspected"].to_numpy()
    assert wrong[suspected].mean() > 0.85
    assert suspected[wrong].mean() > 0.75
    assert audit.table["score"].is_monotonic_decreasing
    assert table["score"].between(0, 1).all()
    assert table["neighbors"].between(0, 1).all()


def test_labels_are_words_too_and_imbalance_does_not_hide_the_rare_class():
    rng = np.random.default_rng(0)
    truth = np.repeat(["common", "rare"], [180, 20])
    X = rng.normal(size=(200, 10)) + 4 * (truth == "rare")[:, None] * np.eye(10)[0]
    y, wrong = changed(truth)
    table = by_row(audit_labels(X, y))
    assert average_precision_score(wrong, table["score"]) > 0.8
    # What is rare and correctly so is not at the top for being rare.
    correct = (truth == "rare") & ~wrong
    assert table["score"].to_numpy()[correct].max() < np.median(table["score"].to_numpy()[wrong])


def test_wrong_images_of_a_patient_do_not_vouch_for_each_other(digits):
    X, truth = digits
    rng = np.random.default_rng(1)
    rows = np.flatnonzero(truth == 3)[:1]
    copies = np.repeat(rows, 8)
    X = np.vstack([X, X[copies] + rng.normal(0, 0.3, (8, 64))])
    y = np.r_[truth, np.full(8, 7)]
    groups = np.r_[np.arange(len(truth)), np.full(8, 10_000)]
    apart, together = (by_row(audit_labels(X, y, g))["score"].to_numpy() for g in (None, groups))
    assert together[-8:].min() > 0.9
    assert together[-8:].min() > apart[-8:].max()


def test_equal_rows_are_duplicates_and_do_not_vouch_for_each_other(digits):
    X, y = digits
    X, y = np.vstack([X, X[5], X[5]]), np.r_[y, 0, 0]
    audit = audit_labels(X, y)
    assert audit.duplicates[["row", "duplicate_of"]].to_numpy().tolist() == [[400, 5], [401, 5]]
    assert audit.duplicates["conflict"].tolist() == [y[5] != 0] * 2
    assert set(audit.table["row"][:2]) == {400, 401}


def test_rows_with_nan_and_classes_of_one_patient_are_left_out():
    X, y = load_iris(return_X_y=True)
    X[4, 2] = np.nan
    y[10:13] = 7
    groups = np.r_[np.arange(10), np.full(3, 200), np.arange(13, 150)]
    with pytest.warns(UserWarning, match=r"one group only are left out.*\[7\]"):
        audit = audit_labels(X, y, groups)
    assert audit.left_out["row"].tolist() == [4, 10, 11, 12]
    assert audit.left_out["why"].tolist() == ["unreadable"] + ["its class has no other group"] * 3
    assert len(audit.table) == 146
    assert 7 not in audit.table["suggested"].tolist()


def test_a_class_of_two_rows_is_judged():
    X, y = load_iris(return_X_y=True)
    y[[3, 120]] = 5
    table = by_row(audit_labels(X, y))
    assert table["score"][[3, 120]].min() > 0.5


def test_the_same_seed_gives_the_same_ranking(digits):
    X, y = digits
    first, second = (audit_labels(X[:200], y[:200], random_state=3).table for _ in range(2))
    assert first.equals(second)


@pytest.mark.parametrize(
    ("y", "match"),
    [
        ([0] * 6, "two classes must have rows"),
        ([0, 0, 0, 0, 0, 1], "two classes must have rows"),
        ([0, 1, None, 0, 1, 1], "1 of 6 rows have no label"),
        ([[0, 1]] * 6, "audit each of its columns"),
        ([0, 1, 0], "inconsistent numbers"),
    ],
)
def test_labels_that_cannot_be_audited_are_refused(y, match):
    with pytest.raises(ValueError, match=match):
        audit_labels(np.random.default_rng(0).normal(size=(6, 3)), y)


def test_features_that_are_all_the_same_are_refused():
    with pytest.raises(ValueError, match="two classes must have rows"):
        audit_labels(np.ones((8, 3)), [0, 1] * 4)  # all of them copies of one another


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    labels = np.array(["dark", "light"])[np.arange(40) % 2]
    X = rng.integers(0, 120, (40, 32, 32, 3)) + 100 * (labels == "light")[:, None, None, None]
    return list(X.astype(np.uint8)), labels


@pytest.fixture
def extractor():
    return PretrainedFeatureExtractor("squeezenet1_1", weights=None, image_size=32, engine="torch")


def test_images_are_audited_through_a_network_and_plotted(images, extractor):
    X, labels = images
    X, y = [*X, X[7][:, ::-1], None], np.append(labels, labels[[7, 0]])
    y[4] = "light"
    audit = audit_labels(X, y, backbone=[extractor])
    assert audit.table["row"].iloc[0] == 4
    assert audit.table["suggested"].iloc[0] == "dark"
    assert audit.left_out["row"].tolist() == [41]
    (copy,) = audit.duplicates.itertuples()
    assert (copy.row, copy.duplicate_of, copy.mirrored, copy.conflict) == (40, 7, True, False)
    assert audit.plot(n_images=5, n_columns=3) is audit
    assert len(audit.axes_) == 5
    assert "row 4: light" in audit.axes_[0].get_title(loc="left")
    assert repr(audit) == (
        f"LabelAudit(41 labels, {audit.n_suspected} suspected, 1 pairs of copies, 0 of them with "
        "different labels, 1 rows left out)"
    )
    assert extractor.layer is None  # what was given is as it was


def test_what_a_notebook_shows_names_no_file(images, extractor, tmp_path):
    from PIL import Image

    X, labels = images
    paths = []
    for row, each in enumerate(X[:12]):
        paths.append(tmp_path / f"miller_{row}.png")
        Image.fromarray(each).save(paths[-1])
    audit = audit_labels(paths, labels[:12], backbone=extractor, near_duplicates=False)
    assert audit.table["source"].str.startswith("miller_").all()
    assert "miller" not in audit._repr_html_()
    assert "miller" not in repr(audit)


def test_features_have_no_images_to_plot(digits):
    with pytest.raises(ValueError, match="no images to plot"):
        audit_labels(digits[0][:60], digits[1][:60]).plot()


def test_numbers_that_are_no_classes_are_refused_with_one_example():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"numbers such as .*, and classes are audited") as error:
        audit_labels(rng.normal(size=(300, 5)), rng.normal(size=300))
    assert len(str(error.value)) < 200


def test_many_classes_of_one_row_are_not_all_listed():
    X = np.random.default_rng(0).normal(size=(60, 5))
    with pytest.raises(ValueError, match="two classes must have rows") as error:
        audit_labels(X, np.arange(60))
    assert len(str(error.value)) < 400
