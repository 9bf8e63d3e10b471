"""check_images finds what was planted, what is known of the shared sets, and nothing else."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from sktransfer.datasets import audit_labels, check_images, load_image_folder, load_image_table


def file_of(array, format_="PNG"):
    file = io.BytesIO()
    Image.fromarray(array).save(file, format=format_)
    return file.getvalue()


@pytest.fixture
def sound():
    """Thirty files of noise, each unlike any other."""
    rng = np.random.default_rng(0)
    return [file_of(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for _ in range(30)]


def findings(frame):
    return sorted(zip(frame["row"], frame["finding"], strict=True))


def test_nothing_is_found_where_nothing_is_wrong(sound, capsys):
    frame = check_images(sound, [0, 1] * 15, np.repeat(range(15), 2) + [0, 100] * 15)
    assert frame.empty
    assert list(frame.columns) == ["row", "source", "finding", "detail"]
    assert capsys.readouterr().out == "30 images checked. Nothing was found.\n"


def test_everything_planted_is_found(sound, capsys):
    rng = np.random.default_rng(1)
    X = list(sound)
    X[3] = X[3][:-2000]
    X[4] = b"<html>not found</html>"
    X[5] = None
    X[6] = file_of(np.full((40, 50, 3), 9, np.uint8))
    X[7] = file_of(rng.integers(100, 110, (40, 50, 3), dtype=np.uint8))
    X[8] = file_of(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    X[9] = file_of(rng.integers(0, 256, (400, 300, 3), dtype=np.uint8))
    X[10] = file_of(rng.integers(0, 256, (40, 110, 3), dtype=np.uint8))
    X[11] = file_of(rng.integers(0, 256, (40, 50), dtype=np.uint8))
    X[12] = file_of(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8), "BMP")
    X[20] = X[13]
    X[21] = file_of(np.asarray(Image.open(io.BytesIO(X[14]))), "TIFF")  # other bytes, same pixels
    X[22] = X[15]
    y = [i % 2 for i in range(30)]
    groups = [f"patient {i // 2}" for i in range(30)]
    y[20], y[21], y[22] = y[13], y[14], 1 - y[15]
    groups[22] = groups[15]
    frame = check_images(X, y, groups, verbose=1)
    own = [found for found in findings(frame) if found[1] != "group in several classes"]
    assert own == [
        (3, "truncated"),
        (4, "unreadable"),
        (5, "unreadable"),
        (6, "constant"),
        (7, "near-constant"),
        (8, "odd size"),
        (9, "odd size"),
        (10, "odd shape"),
        (11, "odd mode"),
        (12, "odd format"),
        (20, "duplicate across groups"),
        (21, "duplicate across groups"),
        (21, "odd format"),
        (22, "conflicting duplicate"),
    ]
    assert "same pixels as row 15, labels" in frame.set_index("row").loc[22, "detail"]
    out = capsys.readouterr().out
    assert out.startswith("30 images checked.\n")
    for expected in ("  2 unreadable\n", "  1 truncated\n", "  2 odd size\n", "  2 odd format\n"):
        assert expected in out
    assert "patient" not in out  # numbers only


def test_groups_in_several_classes_are_found(sound):
    groups = ["a", "b", "a", "c", "b", "c"]
    frame = check_images(sound[:6], [0, 1, 1, 0, 1, 0], groups, verbose=0)
    assert findings(frame) == [(0, "group in several classes")]
    assert frame["detail"].item() == "group a: 1 of class 0, 1 of class 1"
    frame = check_images(sound[:6], ["x", "y", "x", "y", "y", "x"], groups, verbose=0)
    assert frame["row"].tolist() == [3]


def test_findings_name_sources_in_order(sound, tmp_path):
    paths = []
    for i, data in enumerate(sound[:4]):
        paths.append(tmp_path / f"{i}.png")
        paths[-1].write_bytes(data if i else b"")
    frame = check_images(paths, verbose=0, n_jobs=2)
    assert frame[["row", "source", "finding"]].values.tolist() == [[0, "0.png", "unreadable"]]


def test_arrays_are_checked_on_their_scale():
    X = np.random.default_rng(2).integers(0, 4096, (5, 20, 20), dtype=np.uint16)
    X[1] = 700
    assert findings(check_images(X, value_range=(0, 4095), verbose=0)) == [(1, "constant")]
    dim = check_images(X // 64, verbose=0)  # 0 to 63 of 65535
    assert sorted(dim["finding"]) == ["constant"] + ["near-constant"] * 4


def test_lengths_that_disagree_are_refused(sound):
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        check_images(sound, [0, 1])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        check_images(sound, groups=[0, 1])


# --- what no decoder can tell ---


@pytest.fixture(scope="module")
def photo():
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:120, :160]
    waves = np.stack([np.sin(x / 17 + k) * np.cos(y / 23 - k) * 90 + 128 for k in range(3)], -1)
    return np.clip(waves + rng.normal(0, 6, waves.shape), 17, 255).astype(np.uint8)


def test_half_an_image_that_was_saved_again_is_flagged(photo):
    """Decoders that go on after damage fill the rest with gray, or repeat a row."""
    cut = file_of(photo, "JPEG")
    cut = cut[: len(cut) // 2] + b"\xff\xd9"
    with Image.open(io.BytesIO(cut)) as image:
        half = np.asarray(image)
    repeated = photo.copy()
    repeated[90:] = photo[89]
    for image in (half, repeated):
        for format_ in ("PNG", "JPEG"):
            frame = check_images([file_of(image, format_)], verbose=0)
            assert frame["finding"].tolist() == ["repeated rows"]
    frame = check_images([file_of(half[:, :, 0], "PNG")], verbose=0)
    assert "are the same" in frame["detail"].item()


@pytest.mark.parametrize("format_", ["BMP", "PPM", "TGA", "TIFF"])
@pytest.mark.parametrize("tail", [False, True])
def test_zeros_in_a_file_that_is_not_compressed_are_flagged(photo, format_, tail):
    data = bytearray(file_of(photo, format_))
    end = len(data) if tail and format_ != "TIFF" else 40_000  # a TIFF ends with its tags
    data[30_000:end] = bytes(end - 30_000)
    frame = check_images([bytes(data)], verbose=0)
    assert frame["finding"].tolist() == ["repeated rows"]
    assert "in the middle of row" in frame["detail"].item()


def test_an_overwritten_area_is_flagged(photo):
    gray = photo.copy()
    gray[30:80, 40:100] = 128
    frame = check_images([gray], verbose=0)
    assert frame["finding"].tolist() == ["uniform area"]
    assert "in one color, (128, 128, 128)" in frame["detail"].item()


def test_borders_and_backgrounds_are_not_flagged(photo):
    X = []
    for color in (0, 5, 255):
        image = photo.copy()
        image[90:] = color
        image[:, :20] = color
        X.append(image)
    slanted = photo.copy()
    slanted[np.add.outer(np.arange(120), np.arange(160)) < 100] = 0  # a corner
    slanted[110:] = 0
    X.append(slanted)
    assert check_images(X, verbose=0).empty


# --- the shared sets ------------------------------------------------------------------------------


def test_findings_on_ants_and_bees_are_the_known_ones(shared_data):
    """The placeholder GIF that the set was published with."""
    bunch = load_image_folder(shared_data / "hymenoptera" / "train")
    frame = check_images(bunch.data, bunch.target, verbose=0)
    gif = frame[frame["source"] == "imageNotFound.gif"]
    assert set(gif["finding"]) == {"odd format", "odd mode"}
    assert set(frame["finding"]) <= {"odd format", "odd mode", "odd shape"}
    assert len(frame) <= 5


def test_findings_on_chest_radiographs_are_the_known_ones(shared_data):
    bunch = load_image_table(shared_data / "chest_xray_pneumonia" / "metadata.csv", target="label")
    frame = check_images(bunch.data, bunch.target, bunch.groups, verbose=0)
    counts = frame["finding"].value_counts().to_dict()
    assert counts == {"group in several classes": 21, "duplicate": 1}


def test_nothing_is_found_in_the_lesions(shared_data):
    bunch = load_image_table(shared_data / "ham10000_mini" / "metadata.csv", target="malignant")
    assert check_images(bunch.data, bunch.target, bunch.groups, verbose=0).empty


def test_findings_on_photographs_are_the_known_ones(shared_data):
    bunch = load_image_table(shared_data / "imagenet_samples" / "labels.csv")
    frame = check_images(bunch.data, verbose=0)
    assert (frame["finding"] == "odd mode").sum() == 5  # the gray ones
    assert set(frame["finding"]) <= {"odd mode", "odd shape"}


def test_odd_files_are_found(shared_data):
    files = sorted((shared_data / "odd_images").glob("*"))
    files = [file for file in files if file.name != "index.csv"]
    frame = check_images(files, verbose=0)
    kinds = frame.groupby("finding")["source"].apply(set)
    assert len(kinds["unreadable"] | kinds["truncated"]) == 18
    assert kinds["repeated rows"] == {"dispose_bgnd.gif"}  # a drawing
    assert "uniform area" not in kinds
    assert {"truncated_image.png", "truncated_jpeg.jpg", "shortfile.bmp"} <= kinds["truncated"]
    assert {"empty.jpg", "text_named.jpg", "html_named.png"} <= kinds["unreadable"]
    assert {"tRNS_null_1x1.png", "7x13.png"} <= kinds["odd size"]
    assert "bw_gradient.png" in kinds["odd shape"]
    assert "hopper.Lab.tif" in kinds["odd mode"]
    assert {"hopper.jpg", "no_extension"} <= kinds["duplicate"]  # of UPPER_CASE.JPG


def test_dicom_files_are_checked(shared_data):
    pytest.importorskip("pydicom")
    files = sorted((shared_data / "dicom").glob("*.dcm"))
    frame = check_images(files, verbose=0)
    kinds = frame.groupby("finding")["source"].apply(set)
    assert kinds["truncated"] == {"MR_truncated.dcm"}
    assert kinds["unreadable"] == {"no_meta.dcm", "rtplan.dcm"}
    assert kinds["duplicate"] == {"MR_small_RLE.dcm", "MR_small_bigendian.dcm"}
    assert kinds["near-constant"] == {"CT_small.dcm"}  # no window: see DicomOptions


def test_suspected_labels_are_findings_the_most_suspicious_first():
    X, y = load_digits(return_X_y=True)
    X, y = X[y < 2][:100].reshape(-1, 8, 8) / 16, y[y < 2][:100]
    y[[4, 50]] = 1 - y[[4, 50]]
    audit = audit_labels(X.reshape(100, 64), y)
    found = check_images(X, y, label_audit=audit, verbose=0)
    own = found[found["finding"] == "suspected label"]
    assert own["row"].tolist() == audit.table.loc[audit.table["suspected"], "row"].tolist()
    assert set(own["row"]) <= {4, 50}
    assert own["detail"].iloc[0].startswith(f"{y[own['row'].iloc[0]]}; ")
    with pytest.raises(ValueError, match="label_audit=True needs labels"):
        check_images(X, label_audit=True, verbose=0)
