"""Names of files that are no Unicode, in another form of it, or not one line of it."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import unicodedata

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sktransfer import PretrainedFeatureExtractor
from sktransfer._utils.names import path_column, shown
from sktransfer.datasets import check_images, dicom_table, load_image_folder, load_image_table
from sktransfer.exceptions import FailedRowsWarning, ImageDecodeError

LATIN = os.fsdecode(b"M\xfcller.png")  # as old ZIP files have them
pytestmark = pytest.mark.skipif(
    sys.platform in ("win32", "darwin"), reason="file systems of Windows and macOS hold Unicode"
)


def put(path, shade=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (9, 9), shade).save(path, "PNG")
    return path


@pytest.fixture
def folder(tmp_path):
    put(tmp_path / "a" / "0.png")
    put(tmp_path / "b" / "1.png", 9)
    (tmp_path / "a" / LATIN).write_bytes(b"not an image")
    return tmp_path


def extractor(**kwargs):
    return PretrainedFeatureExtractor("squeezenet1_1", weights=None, image_size=32, **kwargs)


def test_names_are_shown_on_one_line_of_unicode():
    assert shown(LATIN) == r"M\xfcller.png"
    assert shown("two\nlines\x1b[31m\u202egnp.png") == r"two\nlines\x1b[31m\u202egnp.png"
    assert shown("Jürgen 京.png") == "Jürgen 京.png"
    assert shown(b"a.png") == "a.png"
    assert len(shown("x" * 5000 + ".png")) <= 200
    assert shown("x" * 5000 + ".png").endswith(".png")
    shown("\ud800").encode()


def test_a_folder_with_such_a_name_is_loaded_and_embedded(folder):
    bunch = load_image_folder(folder)
    assert bunch.data["image"].tolist()[1] == str(folder / "a" / LATIN)
    assert bunch.data["image"].dtype == object
    repr(bunch.data)
    assert pickle.loads(pickle.dumps(bunch)).data.equals(bunch.data)
    feat = extractor(on_error="nan")
    with pytest.warns(FailedRowsWarning, match=r"M\\xfcller\.png"):
        E = feat.fit_transform(bunch.data)
    assert np.isnan(E).all(axis=1).tolist() == [False, True, False]
    assert feat.failed_rows_["source"].tolist() == [r"M\xfcller.png"]
    feat.failed_rows_.to_json()
    with pytest.raises(ImageDecodeError, match=r"row 1 \(M\\xfcller\.png\)") as raised:
        extractor().fit_transform(bunch.data)
    str(raised.value).encode("ascii")
    put(folder / "a" / LATIN, 7)
    assert np.isfinite(extractor(n_jobs=2).fit_transform(bunch.data)).all()


def test_images_with_such_names_are_checked(folder):
    found = check_images(load_image_folder(folder).data, verbose=0)
    assert r"M\xfcller.png" in found["source"].tolist()
    found.to_csv().encode("ascii")


def test_a_table_of_dicom_headers_has_such_names(tmp_path):
    data = pytest.importorskip("pydicom.data")
    with open(data.get_testdata_file("CT_small.dcm"), "rb") as file:
        (tmp_path / LATIN).write_bytes(file.read())
    (tmp_path / "bad\nname").write_bytes(bytes(128) + b"DICM" + b"\xff" * 60)
    with pytest.warns(FailedRowsWarning, match=r"bad\\nname"):
        table = dicom_table(tmp_path)
    assert table["image"].tolist() == [str(tmp_path / LATIN)]
    assert table["image"].dtype == object


def test_a_class_with_such_a_name_has_one_that_can_be_written(folder):
    put(folder / os.fsdecode(b"caf\xe9") / "2.png", 3)
    bunch = load_image_folder(folder)
    assert bunch.target_names == ["a", "b", r"caf\xe9"]
    json.dumps(bunch.target_names, ensure_ascii=False).encode()


@pytest.mark.parametrize(("on_disk", "in_table"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_the_forms_of_unicode_meet(tmp_path, on_disk, in_table):
    for i, name in enumerate(("Müller.png", "한글.png")):
        put(tmp_path / "a" / unicodedata.normalize(on_disk, name), i)
    table = pd.DataFrame(
        {"file": [unicodedata.normalize(in_table, "a/Müller.png"), "a/한글.png"], "patient": [1, 2]}
    )
    table.to_csv(tmp_path / "metadata.csv", index=False)
    bunch = load_image_folder(tmp_path)
    frame = dict(zip(map(str, bunch.data["image"]), bunch.groups, strict=True))
    by_name = {unicodedata.normalize("NFC", os.path.basename(k)): v for k, v in frame.items()}
    assert by_name == {"Müller.png": "1", "한글.png": "2"}


def test_two_files_whose_names_differ_in_form_alone_are_both_kept(tmp_path):
    both = [unicodedata.normalize(form, "é.png") for form in ("NFD", "NFC")]
    for i, name in enumerate(both):
        put(tmp_path / "a" / name, i)
    assert len(load_image_folder(tmp_path).data) == 2
    table = pd.DataFrame({"file": [f"a/{name}" for name in both], "patient": ["d", "c"]})
    groups = load_image_folder(tmp_path, metadata=table).groups.tolist()
    assert groups == ["d", "c"]


def test_names_of_windows_1252_meet_a_table(folder):
    table = pd.DataFrame({"file": ["a/0.png", "a/Müller.png", "b/1.png"], "patient": list("xyz")})
    assert load_image_folder(folder, metadata=table).groups.tolist() == ["x", "y", "z"]


ODD = (
    "a\tb",
    "q\"'",
    "back\\slash",
    "👩\u200d\u2695\ufe0f",
    "עב",
    "trail ",
    " lead",
    "-x",
    "%20%s{x}",
    "$x$",
    "[1]",
)


def test_odd_names_are_those_of_a_table_and_each_part_in_its_own_way(tmp_path):
    parts = [unicodedata.normalize("NFD", "Bäume"), "grün"]
    table = {}
    for i, name in enumerate((*ODD, "a\nb", "Müller")):
        raw = name.encode("cp1252") if name == "Müller" else name.encode()
        put(tmp_path.joinpath(*parts, os.fsdecode(raw + b".png")), i)
        table["/".join(["Bäume", "grün", f"{name}.png"])] = str(i)
    frame = pd.DataFrame({"file": [*table], "patient": [*table.values()]})
    bunch = load_image_folder(tmp_path, metadata=frame)
    shades = [str(np.asarray(Image.open(os.fsencode(path)))[0, 0]) for path in bunch.data["image"]]
    assert bunch.groups.tolist() == shades
    assert bunch.target_names == ["Bäume"]
    X, _ = load_image_table(frame, root=tmp_path, return_X_y=True)
    shades = [str(np.asarray(Image.open(os.fsencode(path)))[0, 0]) for path in X["image"]]
    assert shades == frame["patient"].tolist()
    assert np.isfinite(extractor(n_jobs=2).fit_transform(X)).all()


def test_a_name_is_not_found_without_its_letters(tmp_path):
    put(tmp_path / ".png")
    put(tmp_path / "Müller.png")
    for missing in ("한.png", "Müller한.png", "한/Müller.png"):
        with pytest.raises(FileNotFoundError, match="1 of 1 files named in the table"):
            load_image_table(pd.DataFrame({"file": [missing]}), root=tmp_path)


def test_a_system_whose_names_are_ascii_reads_those_of_others(tmp_path):
    put(tmp_path / "Bäume" / "Müller.png", 3)
    table = tmp_path / "t.csv"
    table.write_text("file,patient\nBäume/Müller.png,p\n", encoding="utf-8")
    code = (
        "import sys; from sktransfer.datasets import load_image_folder, load_image_table\n"
        "folder = load_image_folder('.', metadata='t.csv'); table = load_image_table('t.csv')\n"
        "assert sys.getfilesystemencoding() == 'ascii'\n"
        "same = folder.data['image'].tolist() == [str(p) for p in table.data['image']]\n"
        "print(ascii([folder.target_names, folder.groups.tolist(), same]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.strip() == r"[['B\xe4ume'], ['p'], True]", done.stderr


def test_columns_of_paths_are_text_where_they_can_be():
    assert path_column(["a", "b"]).dtype == pd.Series(["a"]).dtype
    assert path_column(["a", LATIN]).dtype == object


def test_the_demo_prints_such_names_where_only_ascii_can_be_shown(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from sktransfer import _demo
    from sktransfer.__main__ import main

    images = tmp_path / "images"
    for i in range(6):
        put(images / "Bäume" / f"{i}.png", i)
        put(images / os.fsdecode(b"caf\xe9") / f"{i}.png", 100 + i)
    (images / "Bäume" / LATIN).write_bytes(b"not an image")
    real = _demo._extractor
    small = {"backbone": "squeezenet1_1", "weights": None, "image_size": 32}
    monkeypatch.setattr(_demo, "_extractor", lambda *given: real(*given).set_params(**small))
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["demo", "--images", str(images), "--output", str(tmp_path / "out")]) == 0
    terminal.flush()
    printed = terminal.buffer.getvalue().decode("ascii")
    assert r"left out M\xfcller.png" in printed
    assert r"B\xe4ume: 7" in printed
    assert r"caf\xe9: 6" in printed
