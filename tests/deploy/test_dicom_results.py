"""Structured reports and captures of maps: what they say, and what a validator says of them."""

from __future__ import annotations

import re
import shutil
import subprocess

import numpy as np
import pytest
from sklearn.frozen import FrozenEstimator

from sktransfer import FineTuneClassifier
from sktransfer.deploy import dicom_report, dicom_saliency
from sktransfer.exceptions import ImageDecodeError
from sktransfer.model_selection import OperatingPointClassifier

pydicom = pytest.importorskip("pydicom", reason="the extra medical")
pytest.importorskip("highdicom", reason="the extra medical")
from pydicom import examples  # noqa: E402

EFFUSION = ("60046008", "SCT", "Pleural effusion")


@pytest.fixture(scope="module")
def network():
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, size=(40, 32, 32), dtype=np.uint8)
    X[::2] //= 4
    clf = FineTuneClassifier(
        "squeezenet1_1", weights=None, image_size=32, freeze_depth="all", random_state=0
    )
    return clf.fit(X, np.array(["ill", "well"] * 20)), X


def items(report, meaning):
    """Return the content items of this name, wherever they are."""
    found = []

    def walk(sequence):
        for item in sequence:
            names = item.get("ConceptNameCodeSequence")
            if names and names[0].CodeMeaning == meaning:
                found.append(item)
            walk(item.get("ContentSequence", []))

    walk(report.ContentSequence)
    return found


def errors_of(dataset, path):
    """Return what the validator calls an error."""
    dataset.save_as(path, enforce_file_format=True)
    done = subprocess.run(
        ["dciodvfy", str(path)], capture_output=True, text=True, timeout=120, check=False
    )
    found = re.findall(r"^Error.*$", done.stdout + done.stderr, re.M)
    # The sum of others, which are there.
    return [error for error in found if "contains invalid data values" not in error]


def test_a_report_has_the_score_the_operating_point_and_the_model(network):
    clf, X = network
    chosen = OperatingPointClassifier(
        FrozenEstimator(clf), cv="prefit", target_level=0.8, confidence_level=None, pos_label="ill"
    ).fit(X, np.array(["ill", "well"] * 20))
    source = examples.get_path("mr")
    report = dicom_report(chosen, source, finding=EFFUSION, model_digest="sha256:abc")
    score = chosen.predict_proba([source])[0, 0]
    (probability,) = items(report, "Probability")
    value = float(probability.MeasuredValueSequence[0].NumericValue)
    assert value == pytest.approx(score, abs=1e-6)
    (threshold,) = items(report, "Threshold of the probability")
    assert float(threshold.MeasuredValueSequence[0].NumericValue) == pytest.approx(
        chosen.threshold_
    )
    (decision,) = items(report, "Decision")
    said = decision.ConceptCodeSequence[0].CodeMeaning
    assert said == ("Present" if chosen.predict([source])[0] == "ill" else "Absent")
    (finding,) = items(report, "Finding")
    assert finding.ConceptCodeSequence[0].CodeValue == "60046008"
    assert items(report, "Algorithm Parameters")[0].TextValue == "model sha256:abc"


def test_a_report_belongs_to_the_patient_and_refers_to_the_image(network):
    source = pydicom.dcmread(examples.get_path("mr"))
    first, second = (dicom_report(network[0], source) for _ in range(2))
    for name in ("PatientID", "PatientName", "PatientSex", "StudyInstanceUID", "StudyDate"):
        assert first.get(name) == source.get(name)
    for name in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert len({first.get(name), second.get(name), source.get(name)}) == 3
    evidence = first.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert evidence.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert len(items(first, "Probability")) == 2  # no threshold: every class
    assert first.CompletionFlag == "COMPLETE"
    assert first.VerificationFlag == "UNVERIFIED"


def test_a_capture_shows_the_image_with_the_map_in_red(network):
    source = pydicom.dcmread(examples.get_path("mr"))
    capture = dicom_saliency(network[0], source)
    pixels = capture.pixel_array.astype(int)
    assert pixels.shape == (source.Rows, source.Columns, 3)
    red = pixels[:, :, 0] > pixels[:, :, 1] + 100
    assert 0 < red.mean() < 0.5
    np.testing.assert_array_equal(pixels[:, :, 1], pixels[:, :, 2])
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert capture.PatientID == source.PatientID


def test_what_cannot_be_reported_is_refused(network, tmp_path):
    clf, _ = network
    (tmp_path / "a.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"a\.txt is no DICOM file"):
        dicom_report(clf, tmp_path / "a.txt")
    source = pydicom.dcmread(examples.get_path("mr"))
    with pytest.raises(ValueError, match="reports 2 classes"):
        dicom_report(clf, source, finding=EFFUSION)
    with pytest.raises(ValueError, match=r"finding has \['sick'\]; the classes are"):
        dicom_report(clf, source, finding={"sick": EFFUSION})
    del source.PixelData
    with pytest.raises(ImageDecodeError):
        dicom_report(clf, source)
    del source.StudyInstanceUID
    with pytest.raises(ValueError, match="has no StudyInstanceUID"):
        dicom_report(clf, source)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools has the validator")
def test_the_validator_finds_no_error(network, tmp_path):
    for make in (dicom_report, dicom_saliency):
        for name in ("mr", "rgb_color"):
            made = make(network[0], examples.get_path(name))
            assert errors_of(made, tmp_path / "made.dcm") == []


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools has the validator")
def test_the_validator_finds_no_error_for_any_image_that_can_be_read(
    network, shared_data, tmp_path
):
    read = 0
    for path in sorted((shared_data / "dicom").glob("*.dcm")):
        try:
            report, capture = (make(network[0], path) for make in (dicom_report, dicom_saliency))
        except (ImageDecodeError, ValueError):
            continue
        read += 1
        source = pydicom.dcmread(path)
        for made in (report, capture):
            for error in errors_of(made, tmp_path / "made.dcm"):
                # What the source has wrong, an age of "81" instead of "081Y", is copied as it is.
                tag = re.search(r"\((0x\w+),(0x\w+)\)", error)
                assert tag is not None, f"{path.name}: {error}"
                copied = (int(tag[1], 16), int(tag[2], 16))
                assert made[copied].value == source[copied].value, f"{path.name}: {error}"
                print(f"{path.name}: {error}")
    assert read >= 12
