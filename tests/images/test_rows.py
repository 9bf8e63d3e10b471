"""Rows as they come: records, open files, columns of other libraries, and what is no image."""

from __future__ import annotations

import base64
import io
import pathlib
import tempfile
import threading

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import cross_val_score

from sktransfer import PretrainedFeatureExtractor
from sktransfer._images import as_image_source
from sktransfer.exceptions import ImageDecodeError


def encoded(level, format_="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", (9, 8), (level, 0, 0)).save(buffer, format_)
    return buffer.getvalue()


FILES = [encoded(level) for level in (10, 20, 30)]
RECORDS = [{"bytes": data, "path": f"image{i}.png"} for i, data in enumerate(FILES)]


@pytest.fixture
def paths(tmp_path):
    for i, data in enumerate(FILES):
        (tmp_path / f"image{i}.png").write_bytes(data)
    return [str(tmp_path / f"image{i}.png") for i in range(len(FILES))]


def levels(X):
    source = as_image_source(X)
    return [np.asarray(source.open(i).decode())[0, 0, 0] for i in range(len(source))]


def error_of(row, index=0):
    with pytest.raises(ImageDecodeError) as caught:
        as_image_source([FILES[0], row]).open(1).decode()
    assert caught.value.index == 1
    return str(caught.value)


# -- records ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", [list, pd.Series, lambda x: pd.DataFrame({"image": x})])
def test_records_of_bytes_and_path_are_images(container, paths):
    assert levels(container(RECORDS)) == [10, 20, 30]
    assert levels(container([{"bytes": data} for data in FILES])) == [10, 20, 30]
    assert levels(container([{"bytes": None, "path": path} for path in paths])) == [10, 20, 30]


def test_a_parquet_file_of_records_is_read(tmp_path):
    pd.DataFrame({"image": RECORDS, "label": [0, 1, 0]}).to_parquet(tmp_path / "train.parquet")
    frame = pd.read_parquet(tmp_path / "train.parquet")
    assert levels(frame[["image"]]) == levels(frame["image"]) == [10, 20, 30]


def test_a_record_is_named_by_its_path_and_hashed_by_its_bytes():
    broken = {"bytes": b"GIF89a", "path": "folder/scan.gif"}
    assert "row 1 (scan.gif)" in error_of(broken)
    assert "no image in this row" in error_of({"bytes": None, "path": None})
    source = as_image_source([RECORDS[0], FILES[0]])
    assert source.open(0).digest == source.open(1).digest


def test_records_of_whole_rows_are_refused_by_their_keys():
    with pytest.raises(TypeError, match=r"keys \['image', 'label'\].*row\['image'\]"):
        as_image_source([{"image": data, "label": 1} for data in FILES])
    with pytest.raises(TypeError, match=r"keys \['image', 'label'\].*X\[key\]"):
        as_image_source({"image": FILES, "label": [1, 2, 3]})
    with pytest.raises(TypeError, match=r"one dict, not a batch"):
        as_image_source(RECORDS[0])


# -- open files ------------------------------------------------------------------------------------


def test_open_files_are_read_whole_and_left_where_they_were(paths):
    with open(paths[0], "rb") as file, tempfile.SpooledTemporaryFile() as spooled:
        spooled.write(FILES[1])
        memory = io.BytesIO(FILES[2])
        file.seek(3)
        assert levels([file, spooled, memory]) == [10, 20, 30]
        assert levels(pd.Series([file, spooled, memory])) == [10, 20, 30]
        assert (file.tell(), spooled.tell(), memory.tell()) == (3, len(FILES[1]), 0)
        source = as_image_source([file, FILES[0]])
        assert source.open(0).digest == source.open(1).digest
        assert source.describe(0) == "image0.png"


def test_one_open_file_in_many_rows_is_read_by_one_thread_at_a_time():
    file = io.BytesIO(FILES[0])
    source, wrong = as_image_source([file] * 40), []

    def work():
        wrong.extend(i for i in range(40) if source.open(i).content != FILES[0])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_files_that_cannot_be_read_are_named(paths):
    with open(paths[0], "rb") as closed:
        pass
    assert "row 1 (image0.png): the file is closed" in error_of(closed)
    with open(paths[0]) as text:
        assert "open(path, 'rb')" in error_of(text)
    assert "open(path, 'rb')" in error_of(io.StringIO("no image"))

    class Answer(io.RawIOBase):  # of a server: it can be read once
        def readable(self):
            return True

    assert "file.read()" in error_of(Answer())
    with pytest.raises(TypeError, match="one BytesIO, not a batch"):
        as_image_source(io.BytesIO(FILES[0]))


def test_pillow_images_whose_file_is_closed_are_named(paths):
    with Image.open(paths[0]) as image:
        pass
    assert "image.load() inside the `with` block" in error_of(image)
    closed = Image.open(paths[0])
    closed.load()
    closed.close()
    assert "was closed" in error_of(closed)
    with Image.open(paths[1]) as loaded:
        loaded.load()
    assert levels([loaded]) == [20]


# -- columns of other libraries --------------------------------------------------------------------


def _polars(cells):
    polars = pytest.importorskip("polars")
    return [polars.Series(cells), polars.DataFrame({"image": cells})]


def _pyarrow(cells):
    pyarrow = pytest.importorskip("pyarrow")
    array = pyarrow.array(cells)
    table = pyarrow.table({"image": cells})
    return [array, pyarrow.chunked_array([array[:1], array[1:]]), table, list(array)]


def _pandas(cells):
    pyarrow = pytest.importorskip("pyarrow")
    arrow = pd.Series(cells, dtype=pd.ArrowDtype(pyarrow.array(cells).type))
    return [arrow, arrow.to_frame(), pd.Series(cells, dtype=object)]


@pytest.mark.parametrize("library", [_polars, _pyarrow, _pandas])
@pytest.mark.parametrize("kind", ["paths", "bytes", "records"])
def test_columns_of_paths_bytes_and_records_are_images(library, kind, paths):
    cells = {"paths": paths, "bytes": FILES, "records": RECORDS}[kind]
    for column in library(cells):
        assert levels(column) == [10, 20, 30]
    missing = library([*cells[:2], None])[0]
    source = as_image_source(missing)
    with pytest.raises(ImageDecodeError, match=r"row 2 .*no image in this row"):
        source.open(2)


def test_tables_of_other_libraries_may_be_pixels_or_have_too_many_columns(paths):
    polars, pyarrow = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    numbers = np.arange(12).reshape(3, 4)
    for table in (
        polars.DataFrame(numbers),
        pyarrow.table(dict(zip("abcd", numbers.T, strict=True))),
    ):
        source = as_image_source(table)
        assert source.n_columns == 4
        assert np.array_equal(source.open(1).decode(), numbers[1].reshape(2, 2))
    two = {"image": paths, "age": [1, 2, 3]}
    for table in (polars.DataFrame(two), pyarrow.table(two)):
        with pytest.raises(ValueError, match="2 columns"):
            as_image_source(table)
    for column in (polars.Series([1, 2]), pyarrow.array([1, 2])):
        with pytest.raises(ValueError, match="Expected 2D array"):
            as_image_source(column)


class Brightness(ClassifierMixin, BaseEstimator):
    """The least an estimator on images can do."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.threshold_ = np.mean(levels(X))
        return self

    def predict(self, X):
        return (np.array(levels(X)) > self.threshold_).astype(int)


def test_scikit_learn_splits_columns_of_other_libraries():
    """What docs/user_guide/inputs.rst says of polars and pyarrow."""
    polars, pyarrow = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    files = [encoded(10 + 20 * i) for i in range(8)]
    records = [{"bytes": data, "path": None} for data in files]
    y = [0, 0, 0, 0, 1, 1, 1, 1]
    expected = cross_val_score(Brightness(), files, y, cv=2)
    assert expected.min() > 0.5
    for X in (
        polars.DataFrame({"image": files}),
        polars.Series(files),
        pyarrow.table({"image": files}),
        pyarrow.chunked_array([files]),
        records,
        pd.DataFrame({"image": records}),
    ):
        scores = cross_val_score(Brightness(), X, y, cv=2, error_score="raise")
        assert np.array_equal(scores, expected)


def test_the_estimators_take_tables_of_other_libraries():
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"image": FILES})
    extractor = PretrainedFeatureExtractor("squeezenet1_1", weights=None, image_size=32)
    rows = extractor.fit_transform(frame)
    assert extractor.feature_names_in_.tolist() == ["image"]
    assert np.array_equal(rows, extractor.transform(pd.DataFrame({"image": FILES})))
    with pytest.raises(ValueError, match="feature names"):
        extractor.transform(frame.rename({"image": "path"}))


# -- what is no image ------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [None, float("nan"), np.float32("nan"), pd.NA, pd.NaT])
def test_a_missing_row_is_that_rows_error(row):
    assert "there is no image in this row" in error_of(row)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("https://example.org/x.png", "nothing is fetched: download 'https://example.org/x.png'"),
        ("s3://bucket/x.png", "nothing is fetched"),
        ("file:///tmp/x.png", "'file:///tmp/x.png' is an address. Pass the path in it"),
        ("~/x.png", "~ is not replaced"),
        ("data:image/png;base64," + base64.b64encode(FILES[0]).decode(), "base64.b64decode"),
        (base64.b64encode(FILES[0] * 30).decode(), "base64.b64decode"),
        (base64.b64encode(encoded(1, "JPEG")).decode(), "base64.b64decode"),
        ("x" * 5000, "the file cannot be read"),
        (b"folder/x.png and more than twenty letters", "os.fsdecode(path)"),
    ],
)
def test_strings_that_are_no_paths_say_what_to_pass(text, message):
    shown = error_of(text)
    assert message in shown
    assert len(shown) < 900


def test_bytes_and_strings_of_every_kind_are_taken(paths):
    rows = [np.bytes_(FILES[0]), memoryview(FILES[1]), bytearray(FILES[2])]
    assert levels(rows) == [10, 20, 30]
    opaque = [np.void(file + b"\0") for file in FILES[:3]]  # as HDF5 has them
    assert levels(opaque) == levels(np.array(opaque, dtype=object)) == [10, 20, 30]
    assert levels([np.str_(paths[0]), pathlib.Path(paths[1]), paths[2]]) == [10, 20, 30]


def test_an_array_with_fields_asks_for_one_of_them(paths):
    records = np.array([(path, 1) for path in paths], dtype=[("path", object), ("age", int)])
    with pytest.raises(TypeError, match=r"the fields \('path', 'age'\); pass one of them"):
        as_image_source(records)
    assert levels(records["path"][:3]) == [10, 20, 30]
