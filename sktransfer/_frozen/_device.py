"""Batches on a CUDA device: copied there alongside kernels, which one shape makes a CUDA graph of.

It must not know networks, nor where images come from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sktransfer._utils.forking import new_lock

# Batches of one shape after which they are replayed as a graph, None for never. It saves launches
# of kernels, which one thread does and decoding threads disturb (Python's lock). To capture one
# takes three passes and the memory of one, so that short runs do without. torch.compile would
# compile for a minute. benchmarks/gpu.py measures them.
GRAPH_AFTER: int | None = 16

_CAPTURES = new_lock()  # one at a time


class DeviceBatches:
    """Runs ``steps`` on batches of one extraction, which brings the next while one is running.

    ``steps`` takes a stacked batch on the device and returns tensors on it, without waiting for
    it. Memory of the host is page-locked, so that copies run by themselves, on a stream of their
    own; torch gives it out again only when they are done. ``cuda`` is ``torch.cuda`` but in tests.
    """

    def __init__(
        self, steps: Callable[[Tensor], list[Tensor]], device: str, *, cuda: Any = torch.cuda
    ) -> None:
        self.pinned = cuda is torch.cuda
        self._steps, self._device, self._cuda = steps, device, cuda
        self._seen: Counter[tuple[Any, ...]] = Counter()
        self._graph: _Graph | None = None
        self._graphs = GRAPH_AFTER is not None
        with cuda.device(torch.device(device)):
            self._copies = cuda.Stream()

    def begin(self, images: Tensor) -> Callable[[], tuple[Tensor, list[Tensor]]]:
        """Begin a stacked batch of the host; return what waits for it.

        That returns the batch on the device, and what ``steps`` made of it, on the host.
        """
        cuda = self._cuda
        with torch.inference_mode(), cuda.device(torch.device(self._device)):
            stream = cuda.current_stream()
            with cuda.stream(self._copies):
                batch = images.to(self._device, non_blocking=True)
            stream.wait_stream(self._copies)
            # Else the other stream may have its memory again before this one has read it.
            batch.record_stream(stream)
            found = []
            for part in self._run(batch):
                kept = torch.empty(part.shape, dtype=part.dtype, pin_memory=self.pinned)
                found.append(kept.copy_(part, non_blocking=True))
            done = cuda.Event()
            done.record(stream)

        def finish() -> tuple[Tensor, list[Tensor]]:
            done.synchronize()
            return batch, found

        return finish

    def rest(self) -> None:
        """Give back the memory of the graph; there is not enough for one."""
        if self._graph is not None:  # a batch may be running in it
            self._cuda.synchronize(torch.device(self._device))
        self._graph, self._graphs = None, False

    def _run(self, batch: Tensor) -> list[Tensor]:
        """Run the steps, as a graph if the batch is like many before it."""
        shape = (*batch.shape, batch.dtype)
        self._seen[shape] += 1
        if self._graphs and self._graph is None and self._seen[shape] > (GRAPH_AFTER or 0):
            try:
                with _CAPTURES:
                    self._graph = _Graph(self._steps, batch, self._cuda)
            except Exception:  # no memory for it, or steps that cannot be captured: as before
                self.rest()
        graph = self._graph
        same = graph is not None and (*graph.batch.shape, graph.batch.dtype) == shape
        return graph.replay(batch) if graph is not None and same else self._steps(batch)


class _Graph:
    """Steps captured once, on a batch that is always in the same place."""

    def __init__(self, steps: Callable[[Tensor], list[Tensor]], batch: Tensor, cuda: Any) -> None:
        self.batch = batch.clone()
        before, stream = cuda.current_stream(), cuda.Stream()
        self._graph = cuda.CUDAGraph()
        stream.wait_stream(before)
        # The stream is entered outside too: a capture that fails leaves its own stream set.
        with cuda.stream(stream):
            for _ in range(2):  # libraries take memory for a stream when it is new to them
                steps(self.batch)
            # Decoding threads and other extractions run meanwhile, and may wait for the device.
            mode = {"capture_error_mode": "thread_local"}
            with cuda.graph(self._graph, stream=stream, **mode):
                self._parts = steps(self.batch)
        before.wait_stream(stream)

    def replay(self, batch: Tensor) -> list[Tensor]:
        """Run the steps on another batch; the next replay overwrites what is returned."""
        self.batch.copy_(batch, non_blocking=True)
        self._graph.replay()
        return self._parts
