"""What a forked child needs: free locks, one numerical thread, nothing that leads to its parent.

A child has the memory of its parent and none of its threads. Locks that such a thread held stay
taken, and a pool of numerical threads waits for workers that are gone, for ever (that of plain
torch too). What has to be put right in a child is registered here.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable
from types import MethodType
from typing import Any

_locks: weakref.WeakSet[Any] = weakref.WeakSet()
_actions: list[Callable[[], Callable[[], object] | None]] = []
_lost: list[Any] = []


def after_fork(action: Callable[[], object]) -> None:
    """Have something done in every child of this process; for a method, while its object lives."""
    _actions.append(
        weakref.WeakMethod(action) if isinstance(action, MethodType) else lambda: action
    )


def new_lock() -> Any:
    """Return a re-entrant lock that a forked child finds free, whoever held it in the parent."""
    lock = threading.RLock()
    _locks.add(lock)
    return lock


def lose(thing: Any) -> None:
    """Keep what cannot be used in this child: to delete it might wait for threads it never had."""
    _lost.append(thing)


def _put_right() -> None:
    for lock in list(_locks):
        lock._at_fork_reinit()
    _actions[:] = [action for action in _actions if action() is not None]
    for found in [action() for action in _actions]:
        if found is not None:
            found()
    # As torch's own loaders do: more threads would be those of the parent's pool. Children that
    # are started afresh (spawn, forkserver, joblib) have pools of their own.
    torch: Any = sys.modules.get("torch")
    if hasattr(torch, "set_num_threads"):  # not yet, while it is being imported
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_put_right)
