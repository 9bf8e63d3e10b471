"""DESIGN.md section 2: who may import whom, one way only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import sktransfer

ROOT = Path(sktransfer.__file__).parent

# From the top down; a room may import from the rows below its own, never its own row's neighbours.
LAYERS = [
    {"__main__"},
    {"report"},
    {"_demo"},
    {"studies"},
    {"selection"},
    {"inspection"},
    {"model_selection"},
    {"metrics", "datasets"},
    {"_channels", "_extractor", "_finetune", "_whitening"},
    {"_batches"},
    {"_base", "_dask"},
    {"_persistence", "_splitting", "_held_out"},
    {"frozen"},
    {"backbones", "images"},
    {"_config", "_drawing"},
    {"_colours", "exceptions", "_version"},
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}


def imported_rooms(path: Path) -> set[tuple[str, str]]:
    """(room, dotted module) of every sktransfer import in a file, wherever in the file it is."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules = [node.module or ""]
            if node.module == "sktransfer":
                modules = [f"sktransfer.{alias.name}" for alias in node.names]
        for module in modules:
            parts = module.split(".")
            if parts[0] == "sktransfer":
                found.add((parts[1] if len(parts) > 1 else "", module))
    return found


MODULES = [path for path in sorted(ROOT.rglob("*.py")) if path != ROOT / "__init__.py"]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert own in LEVEL, f"{own} has no place in the table; give it one"
    for room, module in imported_rooms(path):
        if room == own:
            continue
        if own == "__main__" and room in ("__version__", "describe_backbone", "list_backbones"):
            continue  # the public face
        assert room in LEVEL, f"{path.name} imports {module}, which has no place in the table"
        assert LEVEL[room] > LEVEL[own], f"{own} must not import {module}"


def test_rooms_use_each_others_public_faces():
    for path in MODULES:
        own = path.relative_to(ROOT).parts[0].removesuffix(".py")
        for room, module in imported_rooms(path):
            inside = module.split(".")[2:]
            if room != own and inside and (ROOT / room).is_dir():
                assert not inside[0].startswith("_"), f"{path.name} reaches into {module}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_begin_with_what_they_are_for_and_stay_small(path):
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), "a module starts with a sentence on what it is for"
    assert len(text.splitlines()) <= 420, "split it"


def test_only_finetune_knows_skorch():
    for path in MODULES:
        if "finetune" not in str(path):
            assert "import skorch" not in path.read_text()
            assert "from skorch" not in path.read_text()
