"""What a search over fine-tuning will cost, as a table, and the pass that spares it the most.

It must not know how anything is measured.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from sktransfer._finetune import as_size
from sktransfer.model_selection._sharing import Sharing


@dataclass
class SearchPlan:
    """What :func:`plan_search` found.

    Attributes
    ----------
    table : DataFrame
        A row per candidate, in the order of the search: its parameters; ``n_images``, images (and
        kept views of them, of rows that a fit holds out too) it needs at its cut; ``n_new``, those
        that the store does not have when its turn comes; ``n_runs``, images run through the
        frozen part over all folds, which is
        more than ``n_new`` where activations are not kept; ``n_bytes`` to store for ``n_new``;
        ``kept_in``, where a fit keeps activations; ``seconds_frozen``, ``seconds_train``,
        ``seconds_predict`` and their sum ``seconds``.
    refit_seconds : float
        Of the fit on all rows at the end, the mean over candidates; 0 without ``refit``.
    n_folds : int
    memory_needed, memory_budget : int
        Bytes of the largest fit's activations, and what they may take.
    store_needed, store_bytes : int
        Bytes of all activations that are shared, with their keys, and what the store may hold.
    """

    table: pd.DataFrame
    refit_seconds: float
    n_folds: int
    memory_needed: int
    memory_budget: int
    store_needed: int
    store_bytes: int
    _sharing: Sharing = field(default_factory=Sharing, repr=False)

    @property
    def total_seconds(self) -> float:
        """Of the whole search, its refit included, in one process."""
        return float(self.table["seconds"].sum()) + self.refit_seconds

    @property
    def total_bytes(self) -> int:
        """To be added to the store."""
        return int(self.table["n_bytes"].sum())

    @property
    def fits(self) -> bool:
        """Whether every fit keeps its activations in memory, and the store keeps all of them."""
        return self.memory_needed <= self.memory_budget and self.store_needed <= self.store_bytes

    def prefetch(self, *, progress: bool = False) -> SearchPlan:
        """Bring all images to all cuts that the search needs, in one pass over the images.

        The search then runs no frozen part; with worker processes (``n_jobs=2``), which do not see
        this one's memory, only if ``cache`` is a directory. What is in the store already is not run
        again, and an interrupted call goes on where it was. Images that cannot be read are left
        to the search.

        Parameters
        ----------
        progress : bool, default=False
            Whether to show a bar.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If the store cannot hold them: the later ones would drive out the first. If there is
            nothing that it could hold.
        """
        if not self.store_needed and self.table["n_runs"].any():
            raise ValueError(
                "Nothing that the search runs can be kept for it: cache is False, or preprocessing "
                "is a callable without a fingerprint, or weights are random and random_state is "
                "None."
            )
        if self.store_needed > self.store_bytes:
            raise ValueError(
                f"The search needs {as_size(self.store_needed)} of activations, and the store may "
                f"hold {as_size(self.store_bytes)}: pass cache='a/directory' to the estimator, or "
                "raise SKTRANSFER_MEMORY_BYTES (memory) or SKTRANSFER_CACHE_BYTES (a directory) "
                "before sktransfer is imported."
            )
        self._sharing.bring(progress=progress)
        return self

    def __str__(self) -> str:
        shown = self.table.copy()
        shown["n_bytes"] = shown["n_bytes"].map(as_size)
        for name in ("seconds_frozen", "seconds_train", "seconds_predict", "seconds"):
            shown[name] = shown[name].map("{:.1f}".format)
        lines = [
            shown.to_string(index=False),
            "",
            f"{len(self.table)} candidates x {self.n_folds} folds: about "
            f"{_duration(self.total_seconds - self.refit_seconds)}"
            + (f", and {_duration(self.refit_seconds)} for the refit" if self.refit_seconds else "")
            + f"; {as_size(self.total_bytes)} to store.",
            f"Memory: the largest fit takes {as_size(self.memory_needed)} of the "
            f"{as_size(self.memory_budget)} it may.",
            self._about_the_store(),
        ]
        return "\n".join(lines)

    def _about_the_store(self) -> str:
        if not self.store_bytes:
            return "Store: none (cache), so that every fit runs its frozen part."
        text = f"Store: {as_size(self.store_needed)} of the {as_size(self.store_bytes)} it may hold"
        if self.store_needed > self.store_bytes:
            return f"{text}: what does not fit is run again. cache='a/directory' holds more."
        return f"{text}."


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.2g} s"
    if seconds < 3600:
        return f"{seconds / 60:.2g} min"
    return f"{seconds / 3600:.2g} h"
