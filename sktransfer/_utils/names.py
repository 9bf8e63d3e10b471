"""Names of files as they can be shown and stored, and of parameters as others have them.

Names of files travel as Python has them, with a lone surrogate for each byte that is not UTF-8, so
that files can be opened. Output and columns of text would fail at such a name: both go through
here.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from inspect import signature
from typing import Any, TypeVar

import pandas as pd

# Text that is no name at all may be of any length.
_LONGEST, _BEGINNING, _END = 200, 120, 70
# What keys to a store are called among the options of fsspec's file systems.
_SECRET = "key|secret|token|pass|cred|user|auth|connection|sas|header|cookie"
_Function = TypeVar("_Function", bound=Callable[..., Any])


def shown(name: str | bytes | os.PathLike[str]) -> str:
    r"""Return a name on one line of Unicode: other bytes as ``\xfc``, control characters as ``\n``.

    Long names lose their middle.
    """
    text = os.fsdecode(name)
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() else _escaped(letter) for letter in text)
    return text if len(text) <= _LONGEST else f"{text[:_BEGINNING]}[...]{text[-_END:]}"


def quoted(name: str | bytes | os.PathLike[str]) -> str:
    """Return a name in quotation marks, as it can be shown."""
    return f"'{shown(name)}'"


def without_credentials(text: str, options: Mapping[str, Any] | None = None) -> str:
    """Return text without what may be secret: in its addresses, and what options of a store say.

    Of an address that is a user before the host, and the query, which may sign it.
    """
    text = re.sub(r"(?<=://)[^\s/?#'\"]*@", "", text)
    text = re.sub(r"(://[^\s?#'\"]*)[?#][^\s'\"]*", r"\1", text)
    for secret in _secrets(options or {}):
        text = text.replace(secret, "[...]")
    return text


def _secrets(options: Mapping[str, Any], known: bool = False) -> Iterator[str]:
    """Yield texts under names of secrets, nested ones too."""
    for name, value in options.items():
        secret = known or re.search(_SECRET, str(name), re.IGNORECASE) is not None
        if isinstance(value, Mapping):
            yield from _secrets(value, secret)
        elif secret and isinstance(value, str) and value:
            yield value


def _escaped(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return repr(letter)[1:-1]


def path_column(paths: Iterable[Any]) -> pd.Series:
    """Return paths as a column: of text, or of objects where one of them is no Unicode."""
    values = list(paths)
    odd = any(isinstance(path, str) and re.search("[\ud800-\udfff]", path) for path in values)
    return pd.Series(values, dtype=object if odd else None)


def answers(meant: dict[str, str]) -> Callable[[_Function], _Function]:
    """Decorate a function: keywords of other libraries are refused with what to use instead.

    ``meant`` has words by what is meant by them: a parameter, or what to do.
    """
    instead = {word: answer for answer, words in meant.items() for word in words.split()}

    def decorated(function: _Function) -> _Function:
        known = [name for name in signature(function).parameters if name != "self"]

        @wraps(function)
        def answering(*args: Any, **kwargs: Any) -> Any:
            for name in kwargs.keys() - known:
                close = difflib.get_close_matches(name, [*known, *instead], 1)
                found = instead.get(close[0], close[0]) if close else ""
                hint = f" Did you mean {found}?" if found in known else f" {found}." * bool(found)
                raise TypeError(
                    f"{function.__qualname__.removesuffix('.__init__')}() got an unexpected "
                    f"keyword argument {name!r}.{hint} Its parameters are {', '.join(known)}."
                )
            return function(*args, **kwargs)

        return answering  # type: ignore[return-value]

    return decorated
