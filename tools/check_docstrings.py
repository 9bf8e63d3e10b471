"""Check the docstrings of public names, and of their public methods, with numpydoc's validator.

Usage: ``python tools/check_docstrings.py [MODULE ...]``, for instance ``sktransfer.metrics``.
ruff checks that there are docstrings and that they begin with an imperative sentence (D400, D401).
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

from check_limits import public_names
from numpydoc.validate import validate

# numpydoc's code -> what it asks.
CHECKS = {
    "GL06": "every section is one that numpydoc knows",
    "GL07": "sections are in numpydoc's order",
    "GL10": "directives end with two colons",
    "SS03": "the summary ends with a period",
    "PR01": "every parameter is documented",
    "PR02": "every documented parameter exists",
    "PR03": "parameters are documented in the order of the signature",
    "PR04": "every parameter has a type",
    "PR07": "every parameter has a description",
    "PR10": "a space precedes the colon between name and type",
    "RT01": "what is returned is documented",
    "RT03": "what is returned has a description",
}
# Of what has a page of its own; the examples run with the tests.
PAGE_CHECKS = {"EX01": "there is an example"}


def is_ours(member: Any) -> bool:
    """Whether a member of a class is a method or property that this library defines."""
    # What scikit-learn's available_if, classmethod and property wrap.
    function = getattr(member, "fn", None) or getattr(member, "__func__", member)
    function = getattr(function, "fget", function)
    return str(getattr(function, "__module__", "")).startswith("sktransfer") and not (
        inspect.isclass(function)
    )


def checked_objects(modules: list[str]) -> Iterator[str]:
    """Yield the full name of every public object of some modules, and of its public methods."""
    for name in sorted(public_names()):
        module, _, own_name = name.rpartition(".")
        if modules and module not in modules:
            continue
        value = getattr(importlib.import_module(module), own_name)
        if inspect.isclass(value) or inspect.isfunction(value):
            yield name
        if inspect.isclass(value):
            for member in dir(value):
                static = inspect.getattr_static(value, member)
                is_function = callable(static) or isinstance(static, property | classmethod)
                if not member.startswith("_") and is_function and is_ours(static):
                    yield f"{name}.{member}"


def main() -> int:
    """Print what falls short and return 1 if anything does."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", help="public modules; all of them by default")
    modules = parser.parse_args().modules
    counts: Counter[str] = Counter()
    n_objects, n_short, pages = 0, 0, public_names()
    for name in checked_objects(modules):
        n_objects += 1
        # An object without a docstring is ruff's to report (D101 to D103).
        asked = {**CHECKS, **PAGE_CHECKS} if name in pages else CHECKS
        found = [(code, text) for code, text in validate(name)["errors"] if code in asked]
        n_short += bool(found)
        for code, text in found:
            counts[code] += 1
            print(f"{name}: {code} {text}")
    print(f"{n_short} of {n_objects} public objects fall short; {dict(sorted(counts.items()))}")
    return int(bool(counts))


if __name__ == "__main__":
    sys.exit(main())
