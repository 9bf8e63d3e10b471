"""Files that are written whole or not at all, and what a kill in the middle leaves behind."""

from __future__ import annotations

import glob
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# What is older belongs to a process that was killed: nothing here is written for this long.
_ABANDONED_SECONDS = 86_400.0


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary name next to ``path``, which becomes ``path`` at the end.

    If the block fails nothing is left, and ``path`` is as it was. What a killed process left behind
    when it wrote to the same path is removed by the next one, a day later.
    """
    path = Path(path)
    for left_behind in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with suppress(OSError):
            if time.time() - left_behind.stat().st_mtime > _ABANDONED_SECONDS:
                left_behind.unlink()
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def new_file(name: str | os.PathLike[str], option: str, example: str) -> Path:
    """Return the file that an option names, its folder made; raise if it cannot be written."""
    path = Path(name)
    if path.is_dir():
        raise ValueError(f"{option} {name} is a folder; name the file, such as {path / example}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        said = f"its folder cannot be made: {str(error.strerror).lower()}"
        raise type(error)(f"{option} {name}: {said}.") from error
    if not os.access(path.parent, os.W_OK):  # said before hours of work, not after
        raise PermissionError(f"{option} {name}: the folder {path.parent.absolute()} is read-only.")
    return path
