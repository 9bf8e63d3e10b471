"""Which of a model's classes a word in a table or a folder's name means; nothing is guessed.

It must not know how data are read.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sktransfer._finetune._saving import read_class_names

_BOOLEANS = {"true": 1.0, "false": 0.0}


def given_names(given: Sequence[str], labels: Sequence[Any]) -> dict[Any, str]:
    """Read ``LABEL=NAME`` for each class, as the command line has them."""
    found: dict[Any, str] = {}
    for each in given:
        # The longest: one label may begin as another does.
        fits = [label for label in labels if each.startswith(f"{label}=")]
        if fits:
            label = max(fits, key=lambda own: len(str(own)))
            found[label] = each[len(str(label)) + 1 :]
    if not len(found) == len(set(found.values())) == len(labels) == len(given):
        raise ValueError(
            f"--classes needs a different name for each class of the model: {template(labels)}; "
            f"got {listed(given)}."
        )
    return found


def check_names(given: Any, labels: Sequence[Any], known: Mapping[Any, str]) -> list[str]:
    """Return a name for each label: given, else known; names at odds with these are an error."""
    names = known if given is None else given
    if isinstance(names, Mapping) and set(names) <= set(labels):
        names = {label: {**known, **names}.get(label, str(label)) for label in labels}
    found = read_class_names(names, np.asarray(labels), "target_names")
    for label, name in zip(labels, found, strict=True):
        if known.get(label, name) != name and name in known.values():
            raise ValueError(
                f"target_names (--classes) call the class {label!r} {name!r}, and the model was "
                f"saved with it as {known[label]!r}: one is the wrong way round. If the model's "
                "names are wrong, save it again with class_names=."
            )
    return found


def labels_of(words: Sequence[Any], labels: Sequence[Any], names: Mapping[Any, str] | None) -> dict:
    """Return the class that each word means: by its name, its text, or its value as a number.

    Raise ValueError where one means none, or two mean the same.
    """
    found: dict[Any, Any] = {}
    for word in words:
        text = str(word)
        by_name = [label for label in labels if names and names[label] == text]
        value = _number(word)
        by_text = [label for label in labels if str(label) == text] or [
            label
            for label in labels
            if value is not None and not isinstance(label, str) and _number(label) == value
        ]
        if by_name and by_text and by_name != by_text:
            raise ValueError(
                f"{text!r} is the name of class {by_name[0]!r} and also the label {by_text[0]!r}: "
                "rename it in the data."
            )
        for label in by_name or by_text:
            if label in found.values():
                other = next(each for each, own in found.items() if own == label)
                raise ValueError(
                    f"{str(other)!r} and {text!r} both mean the class {label!r}: write it in one "
                    "way in the data."
                )
            found[word] = label
    unknown = [str(word) for word in words if word not in found]
    if unknown:
        raise ValueError(_refusal(unknown, words, labels, names))
    return found


def _refusal(
    unknown: list[str], words: Sequence[Any], labels: Sequence[Any], names: Mapping[Any, str] | None
) -> str:
    """Return what to do about words that mean no class, with the option to type."""
    known = {label: (names or {}).get(label, str(label)) for label in labels}
    described = ", ".join(
        f"{label} ({name})" if str(label) != name else name for label, name in known.items()
    )
    start = f"The model knows the classes {described}; the images are of {listed(words)}."
    plain = {" ".join(name.split()).casefold(): label for label, name in known.items()}
    meant = {word: plain.get(" ".join(word.split()).casefold()) for word in unknown}
    if all(label is not None for label in meant.values()):
        renamed = {**known, **{label: word for word, label in meant.items()}}
        return (
            f"{start} They differ in case or blanks. Rename them, or if they mean the same, add "
            f"{option(renamed)}."
        )
    if len(unknown) == len(words) <= len(labels) and not isinstance(labels[0], str):
        start += " Nothing says which is which, and it is not guessed. Add "
        if len(words) == len(labels) == 2:
            one, other = (dict(zip(labels, each, strict=True)) for each in (words, words[::-1]))
            return f"{start}{option(one)} or {option(other)}, whichever is true."
        return f"{start}{template(labels)}, with a name in each place."
    return (
        f"{start} The model cannot predict {listed(unknown)}. Rename them to the classes of the "
        f"model, leave them out, or name the classes with {template(labels)}."
    )


def option(names: Mapping[Any, str]) -> str:
    """Return names of classes as they are typed on the command line."""
    return "--classes " + " ".join(shlex.quote(f"{label}={name}") for label, name in names.items())


def template(labels: Sequence[Any]) -> str:
    """Return the option with a place for the name of each class."""
    return "--classes " + " ".join(shlex.quote(f"{label}=") + "NAME" for label in labels)


def listed(values: Sequence[Any], limit: int = 10) -> str:
    """Write values one after the other, the first of many."""
    more = f" and {len(values) - limit} more" if len(values) > limit else ""
    return ", ".join(repr(str(each)) for each in values[:limit]) + more


def _number(word: Any) -> float | None:
    """Return the number, or the truth value, that a word is."""
    if isinstance(word, str):
        if word.casefold() in _BOOLEANS:
            return _BOOLEANS[word.casefold()]
        if not re.fullmatch(r"[+-]?[0-9]+(\.[0-9]*)?", word):
            return None
    return float(word) if isinstance(word, (str, int, float, np.number, np.bool_)) else None
