"""Progress bars that look right in terminals and in notebooks, with or without ipywidgets.

A worker process of joblib or Dask shows none: several would write over each other in a terminal,
and what the workers of a notebook write does not appear in it.
"""

from __future__ import annotations

import multiprocessing
import warnings
from functools import cache
from typing import Any


def progress_bar(title: str | None, **settings: Any) -> Any:
    """Return a bar of tqdm's, which shows nothing if ``title`` is None.

    ``settings`` are further ones of tqdm's; ``disable=False`` shows the bar of a worker, too.
    """
    silent = title is None or multiprocessing.parent_process() is not None
    return _tqdm()(**{"desc": title, "disable": silent, "dynamic_ncols": True, **settings})


@cache
def _tqdm() -> Any:
    """Import the kind of bar that suits the place, when the first one is shown."""
    from tqdm.std import TqdmWarning

    with warnings.catch_warnings():
        # In a notebook without ipywidgets, the import warns, and the bar is one of text.
        warnings.simplefilter("ignore", TqdmWarning)
        from tqdm.auto import tqdm
    return tqdm
