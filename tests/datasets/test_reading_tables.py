"""Tables as people have them: words, encodings, separators, Parquet, and names of files."""

from __future__ import annotations

import gzip
import unicodedata
import warnings
import zipfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sktransfer.datasets import load_image_folder, load_image_table
from sktransfer.exceptions import MissingDependencyError

# What pandas takes for missing, for numbers or for truth values.
WORDS = [
    *("None", "NA", "null", "nan", "NaN", "N/A", "#N/A", "<NA>", "-", "inf", "-Infinity", "NULL"),
    *("TRUE", "False", "yes", "1e5", "007", "0x1F", "1_000", "1,5", "12 000", "n/a", "٣"),
]


@pytest.fixture
def root(tmp_path):
    for name in "abcd":
        Image.new("L", (4, 4)).save(tmp_path / f"{name}.png")
    return tmp_path


def write(root, text, name="t.csv", encoding="utf-8"):
    (root / name).write_bytes(text.encode(encoding))
    return root / name


def frame(**columns):
    return pd.DataFrame({"file": [f"{name}.png" for name in "abcd"], **columns})


@pytest.mark.parametrize("word", WORDS)
def test_a_word_stays_a_word_in_every_column(root, word):
    other = [word, "tumor"] * 2
    table = frame(label=other, reader=other, site=other, patient=other)
    table.to_csv(root / "t.csv", index=False)
    found = load_image_table(root / "t.csv", target="label", columns=["site"])
    assert found.target.tolist() == other
    assert found.target_names == sorted(set(other))
    assert found.groups.tolist() == other
    assert found.data["site"].tolist() == other
    assert found.frame["reader"].tolist() == other
    of_frame = load_image_table(table, target="label", root=root)
    assert of_frame.target_names == found.target_names
    assert of_frame.groups.tolist() == other


@pytest.mark.parametrize("word", ["None", "NA", "TRUE", "1e5", "007"])
def test_words_stay_words_where_all_cells_are_like_them(root, word):
    frame(label=word, site=word).to_csv(root / "t.csv", index=False)
    found = load_image_table(root / "t.csv", target="label", columns=["site"])
    assert found.target_names == [word]
    assert found.data["site"].tolist() == [word] * 4


def test_words_stay_words_in_the_table_of_a_folder(tmp_path):
    for name in ("None", "NA"):
        (tmp_path / name).mkdir()
        Image.new("L", (4, 4)).save(tmp_path / name / "1.png")
    text = "file,site,subject,reader\nNone/1.png,null,NA,None\nNA/1.png,N/A,null,\n"
    write(tmp_path, text, "metadata.csv")
    found = load_image_folder(tmp_path)
    assert found.target_names == ["NA", "None"]
    assert found.groups.tolist() == ["null", "NA"]
    assert found.frame["site"].tolist() == ["N/A", "null"]
    assert found.frame["reader"].isna().tolist() == [True, False]
    # The same table as a DataFrame.
    table = pd.DataFrame({"file": ["NA/1.png", "None/1.png"], "subject": [1, 2]})
    assert load_image_folder(tmp_path, metadata=table).groups.tolist() == ["1", "2"]


def test_numbers_are_numbers_and_empty_cells_are_missing(root):
    text = (
        "file,whole,gaps,real,tiny,long,empty,label\n"
        "a.png,1,1,0.5,1e-07,12345678901234567890,,1\n"
        "b.png,-2,,.5,2.5E+3,1,,0\n"
        "c.png,3,  ,1.,1.0E5,2, ,1\n"
        "d.png,0,4,7,3,3,,0\n"
    )
    found = load_image_table(write(root, text), target="label")
    table = found.frame
    assert found.target.dtype == np.int64
    assert found.target_names is None
    assert table["whole"].dtype == np.int64
    assert table["gaps"].dtype == np.float64
    np.testing.assert_array_equal(table["gaps"], [1, np.nan, np.nan, 4])
    assert table["real"].tolist() == [0.5, 0.5, 1, 7]
    assert table["tiny"].tolist() == [1e-7, 2500, 1e5, 3]
    assert table["long"].tolist()[0] == "12345678901234567890"
    assert table["empty"].isna().all()
    # Digits that a float would lose.
    text = "file,number\na.png,9007199254740993\nb.png,\n"
    assert load_image_table(write(root, text)).frame["number"][0] == "9007199254740993"


def test_labels_of_all_types_of_pandas_are_read(root):
    for labels in (
        pd.Series([0, 1, 0, 1], dtype="Int64"),
        pd.Categorical([0, 1, 0, 1]),
        np.array([0, 1, 0, 1], dtype=object),
    ):
        found = load_image_table(frame(label=labels), target="label", root=root)
        assert found.target.tolist() == [0, 1, 0, 1]
        assert found.target_names is None
    for labels in (
        pd.Series(["None", "x"] * 2, dtype="string"),
        pd.Categorical(["None", "x"] * 2),
        [" None", "x "] * 2,
    ):
        found = load_image_table(frame(label=labels), target="label", root=root)
        assert found.target.tolist() == ["None", "x"] * 2
        assert found.target_names == ["None", "x"]
    both = [unicodedata.normalize(form, "é") for form in ("NFC", "NFD")] * 2
    assert load_image_table(frame(label=both), target="label", root=root).target_names == ["é"]
    for missing in (None, np.nan, pd.NA, pd.NaT, "", "  "):
        labels = pd.Series(["x", missing, "y", "z"], dtype=object)
        with pytest.raises(ValueError, match=r"1 rows have no label .*; the first is row 1"):
            load_image_table(frame(label=labels), target="label", root=root)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252", "latin-1"]
)
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_encodings_and_separators_are_recognized(root, encoding, separator):
    Image.new("L", (4, 4)).save(root / "Größe.png")
    lines = [["file", "label", "note"], ["a.png", "bösartig", "x"], ["Größe.png", "gut", "y"]]
    text = "\r\n".join(separator.join(line) for line in lines)
    old = encoding in ("cp1252", "latin-1")
    with warnings.catch_warnings(record=True, action="always") as said:
        found = load_image_table(write(root, text, "t.tsv", encoding), target="label")
    assert [("as Windows-1252" in str(each.message)) for each in said] == [True] * old
    assert found.target_names == ["bösartig", "gut"]
    assert list(found.frame.columns) == ["file", "label", "note"]
    assert found.data["image"].tolist() == [str(root / "a.png"), str(root / "Größe.png")]


def test_text_of_another_alphabet_is_quoted_as_it_was_read(root):
    path = write(root, "file,label\na.png,Норма\n", encoding="cp1251")
    with pytest.warns(UserWarning, match="as Windows-1252 .*'a.png,Íîðìà' looks wrong"):
        load_image_table(path, target="label")


def test_marks_of_joined_files_and_unseen_characters_are_no_part_of_names(root):
    text = '\ufeff\ufeff"file",label,patient\na.png,mel\u200b,\u200e1\nb.png,mel,1\n'
    found = load_image_table(write(root, text), target="label")
    assert found.target_names == ["mel"]
    assert found.groups.tolist() == ["1", "1"]


def test_one_file_with_two_labels_is_said(root):
    text = "file,label\na.png,x\nb.png,x\n./a.png,y\nb.png,x\n"
    with pytest.warns(UserWarning, match=r"1 files are in several rows .*a\.png', in rows 0 and 2"):
        found = load_image_table(write(root, text), target="label")
    assert found.target.tolist() == ["x", "x", "y", "x"]
    assert load_image_table(root / "t.csv").target is None


def test_columns_may_be_one_name_and_are_not_called_image(root):
    table = frame(age=[1, 2, 3, 4], image=list("wxyz"))
    assert load_image_table(table, columns="age", root=root).data["age"].tolist() == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="A column 'image' cannot be kept"):
        load_image_table(table, columns=["image"], root=root)


def test_numbers_among_words_are_words_without_a_point(root):
    labels = np.array([1.0, "1", "x", 2], dtype=object)
    assert load_image_table(frame(label=labels), target="label", root=root).target_names == [*"12x"]


def test_spreadsheets_of_german_offices_are_read(root):
    text = "sep=;\nfile;dose;mean;label\na.png;1;0,5;x\nb.png;2;1,25;y\n"
    found = load_image_table(write(root, text), target="label", columns=["dose", "mean"])
    assert found.data["dose"].tolist() == [1, 2]
    assert found.data["mean"].tolist() == [0.5, 1.25]


def test_quoted_newlines_blank_lines_and_short_rows_move_nothing(root):
    text = (
        '\n file , Note ,label,\n"a.png","two\nlines, ""quoted""",x,\n\n,,,\n'
        "b.png, 'y',y\nc.png\n"
    )
    found = load_image_table(write(root, text))
    assert list(found.frame.columns) == ["file", "Note", "label"]
    assert found.frame["Note"].tolist()[:2] == ['two\nlines, "quoted"', "'y'"]
    assert found.frame["label"].isna().tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # pandas takes the first cells for an index, so that all columns move by one.
        (
            "file,label\n1,a.png,x\n2,b.png,y\n",
            r"row 0 \(line 2\) has 3 cells, but the heading",
        ),
        ("file,label\na.png,x\nb.png,y,z\n", r"row 1 \(line 3\) has 3 cells"),
        ("file,label\na.png,0,5\nb.png,1,2\n", "row 0"),
        ("file,label,file\na.png,x,b.png\n", "two columns 'file'"),
        ("file, label ,label\na.png,x,y\n", "two columns 'label'"),
        ("file,File\na.png,b.png\n", "'file' and 'File' have names that mean the same"),
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("file,label\n", "has no rows"),
        ('file,label\n"a.png,x\nb.png,y\n', "Quotation marks"),
        ('file,label\n"a.png"b,x\n', "Quotation marks"),
    ],
)
def test_a_table_that_would_be_misread_is_refused(root, text, message):
    with pytest.raises(ValueError, match=message):
        load_image_table(write(root, text))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04 not a zip", "cannot be unpacked"),
        (b"\xd0\xcf\x11\xe0 old", "an Excel workbook"),
        (b"ARROW1 x", "a Feather file"),
        (b"\x1f\x8b cut", "cannot be unpacked"),
        (b"PAR1 nothing", "cannot be read as Parquet"),
        ("file,label\n".encode("utf-16-le"), "UTF-16 with a mark"),
        (b"file,label\n\x81\x8d.png,x\n", "no text in UTF-8"),
        ("file,label\nä.png,x\n".encode() + b"\xe4.png,x\n", "lines in another encoding"),
    ],
)
def test_what_is_no_csv_is_refused_by_name(root, content, message):
    (root / "t.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_image_table(root / "t.csv")


def test_workbooks_are_refused_and_packed_tables_read(root):
    text = frame(label=["None", "x"] * 2).to_csv(index=False)
    (root / "t.csv.gz").write_bytes(gzip.compress(text.encode()))
    with zipfile.ZipFile(root / "t.csv.zip", "w") as archive:
        archive.writestr("t.csv", text)
        archive.writestr("__MACOSX/._t.csv", "")
    for name in ("t.csv.gz", "t.csv.zip"):
        assert load_image_table(root / name, target="label").target_names == ["None", "x"]
    with zipfile.ZipFile(root / "t.xlsx", "w") as archive:
        archive.writestr("[Content_Types].xml", "")
        archive.writestr("xl/workbook.xml", "")
    with pytest.raises(ValueError, match="an Excel workbook"):
        load_image_table(root / "t.xlsx")


def test_parquet_and_frames_of_other_libraries_give_the_same(root, monkeypatch):
    pa = pytest.importorskip("pyarrow")
    pl = pytest.importorskip("polars")
    table = frame(
        label=["None", "tumor"] * 2,
        patient_id=[1, 2, 3, 4],
        big=pd.Series([2**60 + 1, None, 1, 2], dtype="Int64"),
        age=[1.5, None, 3, 4],
    )
    table.to_parquet(root / "t.parquet")
    table.set_index("file").to_parquet(root / "indexed.parquet")
    of_polars = pl.read_parquet(root / "t.parquet")
    forms = [table, root / "t.parquet", root / "indexed.parquet"]
    for form in [*forms, of_polars, of_polars.lazy(), of_polars.to_arrow()]:
        found = load_image_table(form, target="label", root=root, columns=["age"])
        assert found.target_names == ["None", "tumor"]
        assert found.groups.tolist() == ["1", "2", "3", "4"]
        np.testing.assert_array_equal(found.data["age"], [1.5, np.nan, 3, 4])
        assert found.frame["big"][0] == 2**60 + 1
    doubled = pa.table([pa.array(["a.png"])] * 2, names=["file", "file"])
    with pytest.raises(ValueError, match="two columns 'file'"):
        load_image_table(doubled, root=root)
    for no_table in ({"file": ["a.png"]}, [1], 5):
        with pytest.raises(TypeError, match="A table is the path of a CSV or Parquet file"):
            load_image_table(no_table)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(MissingDependencyError, match=r"sktransfer\[parquet\]"):
        load_image_table(root / "t.parquet")


def test_images_inside_a_parquet_table_stay_rows(root):
    pytest.importorskip("pyarrow")
    content = (root / "a.png").read_bytes()
    pd.DataFrame({"image": [content] * 2, "label": ["x", "y"]}).to_parquet(root / "t.parquet")
    found = load_image_table(root / "t.parquet", target="label")
    assert found.data["image"].tolist() == [content] * 2


@pytest.mark.parametrize(
    "written",
    [
        "sub/é.png",
        "sub\\é.png",
        "./sub/é.png",
        ".\\sub\\é.png",
        " sub/é.png ",
        unicodedata.normalize("NFD", "sub/é.png"),
        unicodedata.normalize("NFD", ".\\sub\\é.png"),
    ],
)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_file_is_found_however_its_name_is_written(tmp_path, written, form):
    path = tmp_path / "sub" / unicodedata.normalize(form, "é.png")
    path.parent.mkdir()
    Image.new("L", (4, 4)).save(path)
    table = pd.DataFrame({"file": [written], "patient": [7]})
    for given in (table, table.to_csv(tmp_path / "metadata.csv", index=False)):
        given = tmp_path / "metadata.csv" if given is None else given
        found = load_image_table(given, root=tmp_path)
        assert found.data["image"].tolist() == [str(path)]
        assert load_image_folder(tmp_path, metadata=given).groups.tolist() == ["7"]
    absolute = pd.DataFrame({"file": [str(tmp_path / written.strip())], "patient": [7]})
    assert load_image_table(absolute).data["image"].tolist() == [str(path)]


def test_a_file_as_named_comes_before_other_ways_of_writing(root):
    Image.new("L", (4, 4)).save(root / "x\\a.png")
    (root / "x").mkdir()
    Image.new("L", (4, 4)).save(root / "x" / "a.png")
    found = load_image_table(pd.DataFrame({"file": ["x\\a.png", "x/a.png"]}), root=root)
    assert found.data["image"].tolist() == [str(root / "x\\a.png"), str(root / "x/a.png")]


def test_what_is_no_file_is_named(root):
    with pytest.raises(ValueError, match=r"Row 0: 'file:///x/a\.png' is an address"):
        load_image_table(pd.DataFrame({"file": ["file:///x/a.png"]}))
    (root / "folder").mkdir()
    with pytest.raises(FileNotFoundError, match=r"row 1: .*folder' is a folder"):
        load_image_table(pd.DataFrame({"file": ["a.png", "folder"]}), root=root)


def test_a_table_that_fits_a_folder_in_part_is_said(tmp_path):
    for name in "123":
        (tmp_path / "x").mkdir(exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / "x" / f"{name}.png")
    text = "file,site\nx/1.png,A\n2.png,B\nX/3.PNG,C\n"
    message = r"not name 2 of the 3 images \(first: 'x/2\.png'\), and 2 .*\(first: '2\.png'\)"
    with pytest.warns(UserWarning, match=message):
        found = load_image_folder(tmp_path, metadata=write(tmp_path, text))
    assert found.frame["site"].isna().tolist() == [False, True, True]
    # Rows of other images alone, as in a table of all parts, or images alone, may be meant.
    for text in ("file,site\n1.png,A\n2.png,B\n3.png,C\n4.png,D\n", "file,site\n1.png,A\n"):
        found = load_image_folder(tmp_path, metadata=write(tmp_path, text))
        assert found.frame["site"][0] == "A"


def test_a_table_of_other_images_is_refused(tmp_path):
    (tmp_path / "x").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "x" / "1.png")
    write(tmp_path, "file,site\ny/2.png,A\n", "metadata.csv")
    with pytest.raises(ValueError, match=r"names none of the 1 images.*'y/2\.png'.*'x/1\.png'"):
        load_image_folder(tmp_path)
    assert load_image_folder(tmp_path, metadata=None).target.tolist() == ["x"]
