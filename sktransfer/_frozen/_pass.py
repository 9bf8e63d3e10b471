"""The frozen part of a network over images: what both estimators do with it, in one place.

It must not know estimators, nor what the activations are for.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from sktransfer._frozen._plan import Plan, fingerprints, resolve
from sktransfer._frozen._prefix import FrozenNetwork
from sktransfer._frozen._registry import REGISTRY, NetworkSource
from sktransfer._frozen._runner import Job, Outcome, run
from sktransfer._frozen._session import store_for
from sktransfer._frozen._store import Store
from sktransfer._frozen._taps import Recipe
from sktransfer._images import ImageSource, Preprocessing

_HALF = ("float16", "bfloat16")


@dataclass
class FrozenPass:
    """A plan, a recipe and a way to prepare images: enough to run them, or to know they were.

    Parameters
    ----------
    source : callable
        Gives the NetworkSource of the network; asked when a network is needed.
    plan : Plan
    recipe : Recipe
    preprocessing : Preprocessing
    """

    source: Callable[[], NetworkSource]
    plan: Plan
    recipe: Recipe
    preprocessing: Preprocessing
    _networks: dict[Recipe, FrozenNetwork] = field(default_factory=dict, init=False, repr=False)

    def network(self, recipe: Recipe | None = None) -> FrozenNetwork:
        """Of the process-wide registry; where every image is in the store, never needed."""
        recipe = recipe or self.recipe
        if recipe not in self._networks:
            depth = self.plan.depth
            self._networks[recipe] = REGISTRY.get(self.source(), lambda _: depth, recipe)
        return self._networks[recipe]

    def compute(self, batch: torch.Tensor) -> list[torch.Tensor]:
        """The taps of a normalized batch, on its device; rows too large for half precision are
        computed again in float32.
        """
        parts = self.network().run(batch, self.plan.taps)
        if self.recipe.precision not in _HALF:
            return parts
        fits = torch.stack([part.isfinite().all(dim=1) for part in parts]).all(dim=0)
        if not fits.all():
            exactly = replace(self.recipe, precision="float32", engine="torch")
            if exactly not in self._networks:
                warnings.warn(
                    f"Activations of {self.plan.info.reference.name} do not fit "
                    f"{self.recipe.precision} for some images; these are computed in float32.",
                    RuntimeWarning,
                    stacklevel=2,
                )
            again = self.network(exactly).run(batch[~fits], self.plan.taps)
            parts = [part.clone() for part in parts]  # of inference mode, and not to be written
            for part, own in zip(parts, again, strict=True):
                part[~fits] = own
        return parts

    def fingerprints(self, dtypes: Sequence[np.dtype]) -> tuple[bytes, ...] | None:
        """Of each tap, as its rows are stored in ``dtypes``; None where they cannot be."""
        recipe = resolve(self.plan, self.recipe, self.preprocessing.size, self.network)
        return fingerprints(self.plan, self.preprocessing.fingerprint, recipe, dtypes)

    def run(
        self,
        images: ImageSource,
        widths: Sequence[int],
        *,
        dtypes: Sequence[np.dtype],
        cache: Any,
        batch_size: int | str = "auto",
        n_threads: int = 1,
        on_error: str = "raise",
        progress: bool = False,
        allocate: Callable[..., np.ndarray] = np.empty,
        of_bytes: int = 0,
        store: Store | None = None,
    ) -> Outcome:
        """Rows of the taps, side by side, each distinct image run at most once.

        Parameters
        ----------
        images : ImageSource
        widths : sequence of int
            Columns of each tap.
        dtypes : sequence of numpy dtype
            Of each tap, as it is stored and given.
        cache : bool, path-like or None
            As estimators have it.
        batch_size, n_threads, on_error, allocate
            As in :class:`Job`.
        progress : bool
            Whether to show a bar.
        of_bytes : int
            Of all the rows that this and other runs go through, where they are many: see
            :func:`store_for`.
        store : Store or None
            Instead of what ``cache`` means.
        """
        job = Job(
            compute=lambda batch: [part.cpu().numpy() for part in self.compute(batch)],
            preprocessing=self.preprocessing,
            widths=widths,
            dtypes=dtypes,
            fingerprints=self.fingerprints(dtypes),
            store=store_for(cache, of_bytes) if store is None else store,
            batch_size=batch_size,
            device=self.recipe.device,
            n_threads=n_threads,
            on_error=on_error,
            progress=self.plan.info.reference.name if progress else None,
            allocate=allocate,
        )
        return run(images, job)
