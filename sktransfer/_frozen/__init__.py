"""Running the frozen part of a network, at most once per distinct image; never an estimator."""

from sktransfer._frozen._cache import cache_info, clear_cache, store_for
from sktransfer._frozen._calibration import (
    Calibration,
    calibration_on,
    digest_of_images,
    photographs,
)
from sktransfer._frozen._disk import DirectoryStore, open_directory
from sktransfer._frozen._engines import (
    DTYPES,
    ENGINES,
    TOLERANCES,
    float32_products,
    resolve_engine,
)
from sktransfer._frozen._extraction import Extraction
from sktransfer._frozen._extractor import FrozenExtractor, store_together
from sktransfer._frozen._layers import (
    POOLINGS,
    LayerOutput,
    LayerOutputs,
    NetworkInfo,
    all_outputs,
    pool,
    resolve_layers,
)
from sktransfer._frozen._network import FrozenNetwork, is_out_of_memory
from sktransfer._frozen._registry import REGISTRY, NetworkRegistry, NetworkSource
from sktransfer._frozen._session import begin_session
from sktransfer._frozen._store import MEMORY_STORE, ROW_OVERHEAD, MemoryStore, TieredStore

# Before any worker process can be started.
begin_session()

__all__ = [
    "DTYPES",
    "ENGINES",
    "MEMORY_STORE",
    "POOLINGS",
    "REGISTRY",
    "ROW_OVERHEAD",
    "TOLERANCES",
    "Calibration",
    "DirectoryStore",
    "Extraction",
    "FrozenExtractor",
    "FrozenNetwork",
    "LayerOutput",
    "LayerOutputs",
    "MemoryStore",
    "NetworkInfo",
    "NetworkRegistry",
    "NetworkSource",
    "TieredStore",
    "all_outputs",
    "cache_info",
    "calibration_on",
    "clear_cache",
    "digest_of_images",
    "float32_products",
    "is_out_of_memory",
    "open_directory",
    "photographs",
    "pool",
    "resolve_engine",
    "resolve_layers",
    "store_for",
    "store_together",
]
