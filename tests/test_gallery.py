"""The examples of the documentation, and what is kept of those on real images."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
EXAMPLES = sorted((DOCS / "examples").glob("*/*.py"))
KEPT = DOCS / "_static" / "gallery"

_spec = importlib.util.spec_from_file_location("recorded", DOCS / "recorded.py")
recorded = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(recorded)
RECORDED = recorded.scripts()


def outputs_of(name):
    return json.loads((KEPT / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_has_a_title_prose_and_code_that_compiles(path):
    source = path.read_text(encoding="utf-8")
    title, line, blank, *prose = ast.get_docstring(ast.parse(source)).splitlines()
    assert line == "=" * len(title)
    assert not blank
    assert prose
    assert "# %%\n" in source
    assert recorded.code_blocks(path)


def test_there_are_a_dozen_examples_and_half_of_them_show_real_images():
    photographs = [path for path in EXAMPLES if "load_sample_images" in path.read_text()]
    assert len(EXAMPLES) >= 12
    assert 2 * (len(RECORDED) + len(photographs)) >= len(EXAMPLES)


@pytest.mark.parametrize("name", RECORDED)
def test_what_is_shown_below_an_example_came_from_the_code_that_is_there(name):
    code = recorded.code_blocks(RECORDED[name])
    assert [output["code"] for output in outputs_of(name)] == [recorded.digest(c) for c in code]


@pytest.mark.parametrize("name", RECORDED)
def test_an_example_on_real_images_says_whose_they_are(name):
    source = RECORDED[name].read_text(encoding="utf-8")
    assert re.search(r"(Wang|Yang)\s+et\s+al", source)


def test_figures_are_small_described_and_used():
    figures = [
        figure
        for name in RECORDED
        for output in outputs_of(name)
        for figure in output.get("figures", [])
    ]
    assert all(figure["alt"] for figure in figures)
    names = {figure["file"] for figure in figures}
    assert names == {path.name for path in KEPT.glob("*.webp")}
    sizes = [(KEPT / name).stat().st_size for name in names]
    assert max(sizes) < 120_000
    assert sum(sizes) < 1_200_000


@pytest.mark.parametrize("name", RECORDED)
def test_the_thumbnail_is_a_figure_of_the_example(name):
    (path,) = re.findall(r"sphinx_gallery_thumbnail_path = '(.*)'", RECORDED[name].read_text())
    assert path.startswith(f"_static/gallery/{name}_")
    assert (DOCS / path).is_file()


def numbers(text):
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)]


@pytest.mark.slow
@pytest.mark.parametrize("name", RECORDED)
def test_an_example_gives_what_is_shown(name, shared_data, monkeypatch):
    monkeypatch.setenv("SKTRANSFER_EXAMPLE_DATA", str(shared_data))
    monkeypatch.chdir(DOCS)
    for found, shown in zip(recorded.run(RECORDED[name]), outputs_of(name), strict=True):
        assert len(found["figures"]) == len(shown.get("figures", []))
        for kind in ("printed", "html"):
            was, now = shown.get(kind, ""), found[kind]
            assert re.sub(r"[\d.+-]", "", now) == re.sub(r"[\d.+-]", "", was)
            # Other processors round differently, and a rank or a miss may change with it.
            assert numbers(now) == pytest.approx(numbers(was), rel=0.1, abs=0.03)
