"""What the papers of the project say of it is true."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.test_imports import LAYERS

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def declared_minimums():
    """Lower bounds of all dependencies but the tools that check the code and build the pages."""
    extras = PROJECT["optional-dependencies"]
    names = [name for name in extras if name not in ("docs", "dev")]
    requirements = PROJECT["dependencies"] + [each for name in names for each in extras[name]]
    found = (re.match(r"([\w-]+)(?:\[.*\])?>=([\d.]+)", each) for each in requirements)
    bounds = {match[1].lower(): match[2] for match in found if match}
    return {name: bound for name, bound in bounds.items() if name not in ("ruff", "mypy")}


def test_ci_tests_the_oldest_versions_that_are_declared():
    lines = (ROOT / "tools" / "oldest.txt").read_text().splitlines()
    tested = {
        match[1].lower(): match[2] for line in lines if (match := re.match(r"([\w-]+)==(.*)", line))
    }
    for name, bound in declared_minimums().items():
        assert re.match(rf"{re.escape(bound)}(\.0)*$", tested[name]), f"{name}: {tested[name]}"
    # distributed comes with dask, in the same version.
    assert tested.keys() - declared_minimums().keys() == {"distributed"}


PAGES = [*sorted((ROOT / "docs" / "contributing").glob("*.rst")), ROOT / "CONTRIBUTING.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_contributors_are_sent_to_exist(page):
    named = re.findall(r"(?:sktransfer|tests|tools|benchmarks|docs)/[\w/.-]*\w", page.read_text())
    for path in named:
        if not re.search("_build|generated|NAME", path):  # made by what the page describes
            assert (ROOT / path).exists(), f"{page.name} names {path}, which does not exist"


def test_the_architecture_page_has_every_package_in_its_layer():
    page = (ROOT / "docs" / "contributing" / "architecture.rst").read_text()
    table = page.split("\nLayers\n")[1].split(".. _architecture-guarantees:")[0]
    rows = re.findall(r"^   \* - (``.*``)$", table, re.MULTILINE)
    assert [set(re.findall(r"``(\w+)``", row)) for row in rows] == LAYERS


def test_names_on_the_architecture_page_are_in_the_code():
    page = (ROOT / "docs" / "contributing" / "architecture.rst").read_text()
    files = [path for top in ("sktransfer", "tests") for path in (ROOT / top).rglob("*.py")]
    code = "".join(path.read_text() for path in files)
    packages = set().union(*LAYERS)
    for name in set(re.findall(r"``(\w+)(?:\.\w+)?``", page)) - packages:
        assert re.search(rf"\b{name}\b", code), f"{name} is not in the code"


def test_the_install_that_the_readme_names_has_the_fast_engine():
    extras = PROJECT["optional-dependencies"]
    assert any(each.startswith("openvino>=") for each in extras["fast"])
    assert "sktransfer[fast]" in extras["openvino"]
    for page in ("README.md", "docs/index.rst", "docs/getting_started.rst"):
        named = re.findall(
            r'pip install "(?:\.|sktransfer)\[([\w,]+)\]"', (ROOT / page).read_text()
        )
        assert named
        for each in named:
            assert set(each.split(",")) <= extras.keys()
        assert "fast" in named[0].split(",")
