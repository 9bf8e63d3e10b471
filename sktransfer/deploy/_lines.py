"""A file of JSON lines that several processes append to; a kill at any moment leaves none torn.

It must not know what is in the lines.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable

from filelock import FileLock

from sktransfer._utils.writing import new_file

# A write within one page of memory happens whole or not at all: a system looks whether a process
# was killed between pages only. Pages are multiples of this everywhere.
PAGE = 4096
_PATIENCE_SECONDS = 60.0


class AppendedLines:
    """A text file at whose end whole lines are written, one process at a time.

    ``append`` returns when the lines are on the disk. Where a line would cross the boundary of two
    pages, spaces fill the first: JSON and white space around it say the same.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = new_file(path, "path", "log.jsonl")
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
        # It is held by nobody once its process has ended, however that was.
        self._lock = FileLock(f"{self.path}.lock", timeout=_PATIENCE_SECONDS)
        try:
            self._file = os.open(self.path, flags, 0o666)
            with self._lock:  # said before anything is predicted, not after
                pass
        except OSError as error:
            said = f"nothing can be logged there ({error.strerror or error})"
            raise type(error)(f"path {path}: {said}.") from error

    def append(self, lines: Iterable[bytes]) -> None:
        """Write lines, each of at most ``PAGE`` bytes with the line break that ends it."""
        with self._lock:
            end = self._end_of_whole_lines()
            for line in lines:
                if len(line) > PAGE or not line.endswith(b"\n"):
                    raise ValueError(f"a line has {len(line)} bytes; at most {PAGE} are written.")
                free = PAGE - end % PAGE
                padded = line if len(line) <= free else b" " * free + line
                if os.write(self._file, padded) < len(padded):
                    os.ftruncate(self._file, end)
                    raise OSError(f"{self.path}: the disk is full; nothing more was logged.")
                end += len(padded)
            os.fsync(self._file)

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _end_of_whole_lines(self) -> int:
        """Return where to write; the beginning of a line that a power failure cut is removed."""
        end = os.fstat(self._file).st_size
        start = max(0, end - 2 * PAGE)
        os.lseek(self._file, start, os.SEEK_SET)
        tail = os.read(self._file, end - start)
        last = tail[tail.rfind(b"\n") + 1 :]
        if not last.strip():
            return end
        try:
            json.loads(last)
        except ValueError:
            # Nobody was told of it: what is told of has been written whole before.
            os.ftruncate(self._file, end - len(last))
            return end - len(last)
        return end + os.write(self._file, b"\n")  # an editor has taken the last line break
