"""Threads that decode, for which neither an interrupt nor the end of the process waits; and BLAS's.

``concurrent.futures`` joins its threads when the interpreter ends, whatever they are doing, so that
Ctrl-C during the decoding of a huge image would do nothing for as long as that takes.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

T = TypeVar("T")

# Most images are decoded by then, and files are closed when an interrupted call returns.
_PATIENCE_SECONDS = 0.5
# Multiplications in a product of matrices that one thread does in less than a second.
_SMALL_PRODUCT = 2**34


@dataclass(eq=False)
class DecodingThreads(AbstractContextManager):
    """A few threads that run what is submitted in its order, for the length of a ``with`` block.

    An error drops what has not begun. After Ctrl-C what runs is left alone too, if it takes long:
    native code cannot be stopped, and its result is thrown away. With no threads at all, the caller
    does the work: for what takes less time than to start a thread and wait for its turn.
    """

    n_threads: int
    _threads: list[threading.Thread] = field(default_factory=list, init=False)
    _tasks: queue.SimpleQueue = field(default_factory=queue.SimpleQueue, init=False)

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Run a function in a thread, when its turn comes."""
        future: Future[T] = Future()
        if not self.n_threads:
            _run(future, function, arguments)
            return future
        self._tasks.put((future, function, arguments))
        if len(self._threads) < self.n_threads:
            name = f"sktransfer-decode-{len(self._threads)}"
            thread = threading.Thread(target=_work, args=(self._tasks,), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)
        return future

    def map(self, function: Callable[[Any], T], items: Iterable[Any]) -> Iterator[T]:
        """Yield what a function returns of each item, in their order."""
        futures = [self.submit(function, item) for item in items]
        futures.reverse()
        try:
            while futures:
                yield futures.pop().result()
        finally:
            for future in futures:
                future.cancel()

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            with suppress(queue.Empty):  # a thread may be faster than a look whether it is empty
                while True:
                    self._tasks.get_nowait()[0].cancel()
        for _ in range(len(self._threads)):
            self._tasks.put(None)
        interrupted = kind is not None and not issubclass(kind, Exception)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        for each in self._threads:
            each.join(max(0.0, deadline - time.monotonic()) if interrupted else None)


def _work(tasks: queue.SimpleQueue) -> None:
    """Run tasks until there is a None."""
    while (task := tasks.get()) is not None:
        _run(*task)
        del task  # images live no longer than whoever asked for them wants


def _run(future: Future[T], function: Callable[..., T], arguments: tuple[Any, ...]) -> None:
    """Run a task, unless it was dropped."""
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)


_blas = cache(ThreadpoolController)  # which looks through all libraries of the process


def blas_threads(n: int, d: int) -> AbstractContextManager[Any]:
    """Return a context in which BLAS has one thread if products of an (n, d) matrix are small.

    NumPy and SciPy each bring a pool of threads that spin while they wait, so that those of the one
    take the cores from the other: many small products in turn are up to 28 times as long.
    """
    if n * d * min(n, d) > _SMALL_PRODUCT:
        return nullcontext()
    return _blas().limit(limits=1, user_api="blas")
