"""Running the frozen part of a network, at most once per distinct image; never an estimator."""

from sktransfer._frozen._disk import DirectoryStore, open_directory
from sktransfer._frozen._engines import ENGINES, TOLERANCES, resolve_engine
from sktransfer._frozen._pass import FrozenPass
from sktransfer._frozen._plan import Plan, fingerprints, make_plan, measure_widths, resolve
from sktransfer._frozen._pooling import POOLINGS, pool
from sktransfer._frozen._prefix import FrozenNetwork, is_out_of_memory, resolved_engine
from sktransfer._frozen._registry import (
    REGISTRY,
    NetworkRegistry,
    NetworkSource,
    digest_mismatch,
)
from sktransfer._frozen._runner import Job, Outcome, run
from sktransfer._frozen._session import begin_session, cache_info, clear_cache, store_for
from sktransfer._frozen._shelf import Shelf
from sktransfer._frozen._store import (
    MEMORY_STORE,
    ROW_OVERHEAD,
    CacheInfo,
    MemoryStore,
    Store,
    TieredStore,
)
from sktransfer._frozen._taps import DTYPES, NetworkInfo, Recipe, StageInfo, Tap, TappedChain
from sktransfer._frozen._together import OneCut, run_together

# Before any worker process can be started.
begin_session()

__all__ = [
    "store_for",
    "open_directory",
    "clear_cache",
    "cache_info",
    "TieredStore",
    "Store",
    "DirectoryStore",
    "DTYPES",
    "ENGINES",
    "MEMORY_STORE",
    "POOLINGS",
    "ROW_OVERHEAD",
    "REGISTRY",
    "CacheInfo",
    "FrozenNetwork",
    "FrozenPass",
    "Job",
    "MemoryStore",
    "NetworkInfo",
    "NetworkRegistry",
    "NetworkSource",
    "OneCut",
    "Outcome",
    "Plan",
    "Recipe",
    "Shelf",
    "StageInfo",
    "TOLERANCES",
    "Tap",
    "TappedChain",
    "digest_mismatch",
    "fingerprints",
    "is_out_of_memory",
    "make_plan",
    "measure_widths",
    "pool",
    "resolve_engine",
    "run",
    "run_together",
    "resolve",
    "resolved_engine",
]
