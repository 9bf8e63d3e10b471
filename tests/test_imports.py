"""Who may import whom: one way only, between packages and between files."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import sktransfer

ROOT = Path(sktransfer.__file__).parent

# From the top down: a package imports from the rows below its own, never from its own row or above.
LAYERS = [
    {"__main__"},
    {"_command_accept", "_command_export", "_command_predict", "_command_train"},
    {"report"},
    {"deploy"},
    {"_demo"},
    {"studies"},
    {"inspection"},
    {"model_selection"},
    {"bags", "novelty"},
    {"_transfer"},
    {"_scoring"},
    {"_image_rows", "_multilabel"},
    {"datasets"},
    {"_extractor", "_finetune"},
    {"metrics"},
    {"preprocessing"},
    {"_base", "_dask"},
    {"_moving"},
    {"_persistence"},
    {"_frozen"},
    {"_backbones", "_images"},
    {"_utils"},
    {"exceptions", "_version"},
]
LEVEL = {package: level for level, packages in enumerate(LAYERS) for package in packages}


def imported_modules(path: Path) -> set[str]:
    """Return the dotted name of every sktransfer import in a file, wherever in the file it is."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("sktransfer")}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            if module == "sktransfer" or module.startswith("sktransfer."):
                # A name may be a file of the package.
                names = {f"{module}.{alias.name}" for alias in node.names}
                files = {name for name in names if file_of(name) is not None}
                found |= files if files == names else files | {module}
    return found


def file_of(module: str) -> Path | None:
    """Return the file behind a dotted name, or None."""
    base = ROOT.joinpath(*module.split(".")[1:])
    candidates = (base.with_suffix(".py"), base / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


MODULES = [path for path in sorted(ROOT.rglob("*.py")) if path != ROOT / "__init__.py"]


def package_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    own = package_of(path)
    assert own in LEVEL, f"{own} has no place in the table; give it one"
    for module in imported_modules(path):
        other = module.split(".")[1] if "." in module else ""
        if other == own or (own == "__main__" and not other):
            continue  # its own package, or for the command line the public face
        assert other in LEVEL, f"{path.name} imports {module}, which has no place in the table"
        assert LEVEL[other] > LEVEL[own], f"{own} must not import {module}"


def test_no_circle_between_files():
    imports = {
        path: {
            file
            for module in imported_modules(path)
            if (file := file_of(module)) is not None and file not in (path, ROOT / "__init__.py")
        }
        for path in MODULES
    }
    # A package's face imports its files; a file that imports from its own package's face would be
    # a circle too, so faces are nodes like any other.
    finished: set[Path] = set()

    def visit(path: Path, above: list[Path]) -> None:
        assert path not in above, " -> ".join(
            str(each.relative_to(ROOT)) for each in [*above[above.index(path) :], path]
        )
        if path in finished:
            return
        for other in sorted(imports.get(path, ())):
            visit(other, [*above, path])
        finished.add(path)

    for path in MODULES:
        visit(path, [])


def test_private_packages_are_used_through_their_faces():
    for path in MODULES:
        own = package_of(path)
        for module in imported_modules(path):
            package, *inside = module.split(".")[1:] or [""]
            # `_utils` has no face of its own, and that of a public package is for users.
            if package != own and inside and package in ("_images", "_backbones", "_frozen"):
                assert not inside[0].startswith("_"), f"{path.name} reaches into {module}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_has_a_docstring(path):
    assert ast.get_docstring(ast.parse(path.read_text())), "say what the module is for"


def test_only_finetune_imports_skorch():
    for path in MODULES:
        if "_finetune" not in str(path):
            assert "import skorch" not in path.read_text()
            assert "from skorch" not in path.read_text()


def test_private_names_of_sklearn_are_imported_in_one_file():
    for path in MODULES:
        if path.name == "sklearn_compat.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sklearn":
                parts = [*node.module.split("."), *(alias.name for alias in node.names)]
                private = [part for part in parts if part.startswith("_")]
                assert not private, f"{path.name}: import {private} from _utils/sklearn_compat.py"
