"""The process-wide registry of frozen networks: clones and folds share one copy of the weights.

It must not know estimators: it is asked for a network by reference and returns what is frozen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sktransfer._backbones import Backbone, BackboneReference
from sktransfer._frozen._calibration import Calibration
from sktransfer._frozen._layers import LayerOutput, NetworkInfo
from sktransfer._frozen._network import FrozenNetwork
from sktransfer._utils.config import free_memory
from sktransfer._utils.forking import new_lock
from sktransfer._utils.memory import give_back_freed_memory

# Networks are kept when nobody uses them any more, so that the next fold does not load them again.
# An ImageNet network is 5 to 600 MB, with OpenVINO three times that; a search over backbones walks
# through many, and two that are used in turn should stay, however large they are.
MAX_BYTES = 512 * 2**20
AT_LEAST = 2
# What the networks used in turn may take of the memory that is free: a quarter.
_SHARE = 4


@dataclass(frozen=True)
class NetworkSource:
    """Where a network comes from."""

    # Hashable identity of the request: name, weights, seed, what the environment adds.
    key: tuple
    # Returns the whole network; slow, called under the registry's lock.
    load: Callable[[], Backbone]
    # What was found the first time, if there was one; `load` returns nothing else.
    reference: BackboneReference | None = None
    # What was asked for, so that it means the same after a change of directory.
    found_as: Any = None


class NetworkRegistry:
    """Frozen networks by what they are: reference, digest, precision, device, engine, calibration.

    Beyond ``max_bytes`` the least recently used are let go, but for the last ``at_least``; where
    one of them comes back, the bound rises, so that those used in turn stay. What batches take,
    which may be many times the weights, only the one used last has.
    """

    def __init__(self, max_bytes: int = MAX_BYTES, at_least: int = 1) -> None:
        self.max_bytes, self.at_least = max_bytes, at_least
        self._lock = new_lock()
        self._infos: dict[tuple | BackboneReference | None, NetworkInfo] = {}
        # The most recently used last. A plain dict: an OrderedDict takes Ctrl-C within the hash of
        # a key for a missing key.
        self._networks: dict[tuple, FrozenNetwork] = {}
        self._let_go: dict[tuple, int] = {}  # bytes that a network had when it went
        # What `info` loaded, for the `get` that follows it.
        self._loaded: Backbone | None = None

    def info(self, source: NetworkSource) -> NetworkInfo:
        """Return what is known of a network; it is loaded if nothing is, and checked."""
        with self._lock:
            info = self._infos.get(source.reference or source.key)
            if info is None:
                self._loaded = source.load()
                info = NetworkInfo.of(self._loaded)
                self._infos[source.key] = self._infos[info.reference] = info
                if source.reference is not None:  # the same weights may lie elsewhere now
                    self._infos[source.reference] = info
            return info

    def get(
        self,
        source: NetworkSource,
        depth: int,
        *,
        precision: str = "float32",
        device: str = "cpu",
        engine: str = "torch",
        calibration: Calibration | None = None,
    ) -> FrozenNetwork:
        """Return the network that every caller shares, prepared for at least ``depth`` stages."""
        how: dict[str, Any] = {"precision": precision, "device": device, "engine": engine}
        how["calibration"] = calibration
        with self._lock:
            reference = self.info(source).reference
            network = self._networks.get((reference, *how.values()))
            rested = [each.rest() for each in self._networks.values() if each is not network]
            if any(rested):
                give_back_freed_memory()
            if network is None or network.depth < depth:
                if self._loaded is None or self._loaded.reference != reference:
                    for known in (source.key, source.reference, reference):
                        self._infos.pop(known, None)
                    found = self.info(source).reference
                    if found != reference:
                        # The file was exchanged while this process held what it said before.
                        reference, network = found, None
                assert self._loaded is not None
                network = FrozenNetwork(self._loaded, depth, reuse=network, **how)
                self._loaded = None
                give_back_freed_memory()  # of the whole network, and of preparing this part
            self._loaded = None
            key = (reference, *how.values())
            self._networks.pop(key, None)
            self._networks[key] = network
            if key in self._let_go:
                # Too early: it is one of several in turn, each of which drives the next one out.
                n_bytes = self._let_go[key] + sum(
                    each.n_bytes for each in self._networks.values() if each is not network
                )
                self.max_bytes = max(self.max_bytes, min(n_bytes, free_memory() // _SHARE))
            while len(self._networks) > self.at_least:
                if sum(each.n_bytes for each in self._networks.values()) <= self.max_bytes:
                    break
                oldest = next(iter(self._networks))
                self._let_go[oldest] = self._networks.pop(oldest).n_bytes
                give_back_freed_memory()
            return network

    def all_outputs(
        self, source: NetworkSource, pooling: str = "avg", **how: Any
    ) -> tuple[LayerOutput, ...]:
        """Return what all layers of a network are; ``how`` is as for :meth:`get`."""
        info = self.info(source)
        depth = len(info.stages) + 1 if info.embedding_trained else info.n_trained
        return self.get(source, depth, **how).all_outputs(pooling)

    def clear(self) -> None:
        """Let every network go."""
        with self._lock:
            self._infos.clear()
            self._networks.clear()
            self._loaded = None
            give_back_freed_memory()

    def __len__(self) -> int:
        return len(self._networks)


# One per process.
REGISTRY = NetworkRegistry(at_least=AT_LEAST)
