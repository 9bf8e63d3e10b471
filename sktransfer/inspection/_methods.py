"""The ways to a map by their names, in the frame of a network; it must not know images' sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sktransfer.inspection._grad_cam import cam_explainer
from sktransfer.inspection._gradient import gradient_explainer
from sktransfer.inspection._integrated_gradients import integrated_explainer
from sktransfer.inspection._occlusion import fall
from sktransfer.inspection._routes import Route
from sktransfer.inspection._targets import Explain


@dataclass(frozen=True)
class Method:
    """A way to a map.

    Attributes
    ----------
    explainer : callable
        From its parameters to what explains batches.
    merge : callable
        From what that gives to one number for each pixel, (n, S, S).
    signed : bool
        Whether negative values mean something of their own.
    label : str
        What the map shows.
    """

    explainer: Callable[..., Explain]
    merge: Callable[[Tensor], Tensor]
    signed: bool
    label: str

    def maps(self, **parameters: Any) -> Explain:
        """Explains batches by maps (n, S, S)."""
        explain = self.explainer(**parameters)
        return lambda route, batch, codes: self.merge(explain(route, batch, codes))


def _occlusion_explainer(**parameters: Any) -> Explain:
    """:func:`occlusion` of what the network is given: in its frame, of normalized numbers."""

    def explain(route: Route, batch: Tensor, codes: Tensor) -> Tensor:
        def score_of(code: Tensor, copies: list[np.ndarray]) -> np.ndarray:
            covered = torch.from_numpy(np.stack(copies)).permute(0, 3, 1, 2).to(batch)
            with torch.no_grad():
                return route.decision(covered, code.expand(len(covered))).cpu().numpy()

        maps = []
        for image, code in zip(batch.permute(0, 2, 3, 1).cpu().numpy(), codes, strict=True):
            (whole,) = score_of(code, [image])
            maps.append(fall(image, whole, partial(score_of, code), **parameters))
        return torch.from_numpy(np.stack(maps))

    return explain


METHODS = {
    "gradient": Method(gradient_explainer, lambda x: x.abs().amax(1), False, "|gradient|"),
    "integrated_gradients": Method(
        integrated_explainer, lambda x: x.sum(1), True, "share of the score"
    ),
    "grad_cam": Method(cam_explainer, lambda x: x, False, "Grad-CAM"),
    "occlusion": Method(_occlusion_explainer, lambda x: x, True, "fall of the score"),
}


def method_named(name: Any) -> Method:
    """The method of that name.

    Raises
    ------
    ValueError
        Listing those there are.
    """
    if not isinstance(name, str) or name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(map(repr, METHODS))}; got {name!r}.")
    return METHODS[name]
