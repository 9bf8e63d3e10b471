"""Running the frozen part of a network, at most once per distinct picture; never an estimator."""

from sktransfer.frozen._plan import Plan, fingerprints, make_plan, measure_widths
from sktransfer.frozen._pooling import POOLINGS, pool
from sktransfer.frozen._prefix import DTYPES, FrozenNetwork, NetworkInfo, Recipe, StageInfo, Tap
from sktransfer.frozen._registry import (
    REGISTRY,
    NetworkRegistry,
    NetworkSource,
    digest_mismatch,
)
from sktransfer.frozen._runner import Job, Outcome, run
from sktransfer.frozen._store import MEMORY_STORE, CacheInfo, MemoryStore

__all__ = [
    "DTYPES",
    "MEMORY_STORE",
    "POOLINGS",
    "REGISTRY",
    "CacheInfo",
    "FrozenNetwork",
    "Job",
    "MemoryStore",
    "NetworkInfo",
    "NetworkRegistry",
    "NetworkSource",
    "Outcome",
    "Plan",
    "Recipe",
    "StageInfo",
    "Tap",
    "digest_mismatch",
    "fingerprints",
    "make_plan",
    "measure_widths",
    "pool",
    "run",
]
