"""saliency_randomization_test: whether a map depends on what was learned; never an image's size."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr
from sklearn.utils import check_random_state
from torch import Tensor, nn

from sktransfer.inspection._methods import METHODS, method_named
from sktransfer.inspection._routes import Route, route_of
from sktransfer.inspection._targets import Explain, batches
from sktransfer.inspection._torch_steps import Classify, Scores, of_logits

# What the field's implementations of SSIM agree on: Gaussian weights over 11 x 11 pixels.
_SIGMA, _RADIUS = 1.5, 5
# One strong pixel of a gradient would leave the rest of the map black, whatever it shows.
_WHITE_AT = 99.5


@dataclass(frozen=True)
class RandomizationTest:
    """What became of maps while a network forgot.

    Attributes
    ----------
    table : DataFrame
        A row for each step: ``randomized`` (``"classifier"``, then the neck and the stages from the
        last to the first; what was shuffled stays so), ``correlation`` (mean over the images of
        Spearman's rank correlation with the map of the model as it is), ``std`` of it,
        ``similarity`` (mean structural similarity, SSIM), ``flat`` (share of images whose map
        became the same everywhere).
    max_correlation : float
        What ``correlation`` must not exceed.
    """

    table: pd.DataFrame
    max_correlation: float

    @property
    def correlation(self) -> float:
        """Mean over the first half of the steps, when the upper half of the network forgot."""
        return float(self.table["correlation"].iloc[: (len(self.table) + 1) // 2].mean())

    @property
    def passed(self) -> bool:
        """Whether that is at most ``max_correlation``."""
        return self.correlation <= self.max_correlation


def saliency_randomization_test(
    estimator: Any,
    X: Any,
    y: Any = None,
    *,
    method: str | Callable[..., Tensor] = "gradient",
    max_correlation: float = 0.65,
    batch_size: int = 16,
    random_state: int | np.random.RandomState | None = 0,
    **kwargs: Any,
) -> RandomizationTest:
    """Whether maps change when the weights are shuffled, stage by stage from the end [1]_.

    A map that stays as it is shows edges of the image and not what the model does: it is to be
    thrown away.

    Read more in the :ref:`User Guide <seeing-trust>`.

    Parameters
    ----------
    estimator : FineTuneClassifier or Pipeline
        Fitted; differentiable as for :func:`input_gradient`. It is left as it is.
    X : collection of images, n rows
        A dozen.
    y : array-like of shape (n,) or None, default=None
        The class of each row whose score is looked at. None: the one that is predicted.
    method : str or callable, default="gradient"
        As for :func:`saliency_maps`, but in the frame of the network. A callable takes ``decision``
        (a function from a normalized batch (n, 3, S, S) to the decision of each row, through which
        torch can differentiate), the batch, and the positions of the classes (n,); it returns a
        tensor of maps (n, h, w).
    max_correlation : float, default=0.65
        Maps fail whose mean correlation over the first half of the steps is above it; see the
        notes.
    batch_size : int, default=16
        Images per pass.
    random_state : int, RandomState instance or None, default=0
        Of the shuffling.
    **kwargs
        Of the method, such as ``smooth`` or ``layer``.

    Returns
    -------
    RandomizationTest

    Raises
    ------
    TypeError, ValueError
        As the method does, or if a callable returns something else than maps.

    See Also
    --------
    deletion_insertion_curves : Whether the score depends on what a map says.

    Notes
    -----
    The values of each tensor of weights are permuted, so that they keep their scale; what follows
    an extractor is replaced by one linear layer of random weights. Statistics of BatchNorm stay.
    Absolute values of maps are compared; two that are both the same everywhere count as equal.

    The first half of the steps decides, when the classifier and the upper half of the network
    forgot: methods that are known to show the image and not the model depend on the first layers
    alone, and forget with these [1]_. The limit was set between what chest X-rays give with genuine
    ImageNet weights of SqueezeNet 1.0, MobileNetV2 and ResNet-18 for guided backpropagation (0.89,
    0.79, 0.82), which has to fail, and for gradient times input (0.50, 0.41, 0.46), integrated
    gradients (0.48, 0.47, 0.46), the gradient (0.35, 0.25, 0.29; smoothed 0.24, 0.15, 0.17),
    Grad-CAM (-0.06, 0.14, -0.07) and occlusion (0.06, -0.02, 0.16): three images and one draw
    each, by ``benchmarks/saliency.py``.

    References
    ----------
    .. [1] Adebayo, J., et al. (2018). "Sanity checks for saliency maps". NeurIPS.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sktransfer import PretrainedFeatureExtractor
    >>> from sktransfer.inspection import saliency_randomization_test
    >>> X, y = load_digits(return_X_y=True)
    >>> feat = PretrainedFeatureExtractor(
    ...     "squeezenet1_1", weights=None, image_size=32, value_range=(0, 16)
    ... )
    >>> pipe = make_pipeline(feat, LogisticRegression(max_iter=1000)).fit(X[:50], y[:50])
    >>> def edges(decision, batch, classes):
    ...     return batch.diff(dim=3).abs().amax(1)
    >>> saliency_randomization_test(pipe, X[:4], method=edges).passed
    False
    """
    explain = _explain_of(method, kwargs)
    route = route_of(estimator)
    rng = check_random_state(random_state)
    # Read once: every step looks at the same rows and the same classes.
    given = list(batches(route, X, y, batch_size))
    original = _maps(route, given, explain)
    rows = []
    for name, changed in _forgetting(route, given[0][0], rng):
        pairs = list(zip(original, _maps(changed, given, explain), strict=True))
        ranks = [_rank_correlation(*pair) for pair in pairs]
        alike = [_structural_similarity(_scaled(a), _scaled(b)) for a, b in pairs]
        flat = [np.ptp(own) == 0 for _, own in pairs]
        rows.append((name, np.mean(ranks), np.std(ranks), np.mean(alike), np.mean(flat)))
    columns = ["randomized", "correlation", "std", "similarity", "flat"]
    return RandomizationTest(pd.DataFrame(rows, columns=columns), max_correlation)


def _explain_of(method: Any, parameters: dict[str, Any]) -> Explain:
    if not callable(method):
        if method not in METHODS:
            raise ValueError(
                f"method must be one of {', '.join(map(repr, METHODS))}, or a callable; "
                f"got {method!r}."
            )
        return method_named(method).maps(**parameters)
    if parameters:
        raise ValueError(f"A callable takes no parameters; got {', '.join(parameters)}.")

    def explain(route: Route, batch: Tensor, codes: Tensor) -> Tensor:
        maps = method(lambda x: route.decision(x, codes), batch, codes)
        if not isinstance(maps, Tensor) or maps.ndim != 3 or len(maps) != len(batch):
            shape = f" of shape {tuple(maps.shape)}" if isinstance(maps, Tensor) else ""
            raise ValueError(
                f"method has to return a tensor of maps, of shape ({len(batch)}, height, width); "
                f"got {type(maps).__name__}{shape}."
            )
        return maps

    return explain


def _forgetting(
    route: Route, batch: Tensor, rng: np.random.RandomState
) -> Iterator[tuple[str, Route]]:
    """The route with more and more of it shuffled; one copy, changed step by step."""
    network, parts = copy.deepcopy((route.network, route.parts))
    changed = replace(route, network=network, parts=parts)
    if parts[-1].name != "classifier":  # it is none of the network's, and maybe not of torch
        with torch.no_grad():
            n_features = network(batch[:1]).shape[1]
        changed = replace(changed, classify=_random_linear(n_features, len(route.classes), rng))
        yield "classifier", changed
    for part in reversed(parts):
        if list(part.module.parameters()):  # pooling and the like have nothing to forget
            _shuffle(part.module, rng)
            yield part.name, changed


def _random_linear(n_features: int, n_classes: int, rng: np.random.RandomState) -> Classify:
    weights = torch.from_numpy(rng.standard_normal((n_features, n_classes)))

    def classify(x: Tensor) -> Scores:
        return of_logits(x @ weights.to(x))

    return classify


def _shuffle(module: nn.Module, rng: np.random.RandomState) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            order = torch.from_numpy(rng.permutation(parameter.numel())).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))


def _maps(
    route: Route, given: Sequence[tuple[Tensor, Tensor]], explain: Explain
) -> list[np.ndarray]:
    """Absolute values, a map for each row."""
    parts = [explain(route, *each).detach().abs().cpu().double().numpy() for each in given]
    return [own for part in parts for own in part]


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's; where one says nothing, 1 if both do, else 0."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float(np.ptp(a) == np.ptp(b))
    return float(spearmanr(a, b, axis=None).statistic)


def _scaled(own: np.ndarray) -> np.ndarray:
    """From 0 to 1, as it would be drawn."""
    low, high = own.min(), np.percentile(own, _WHITE_AT)
    return ((own - low) / (high - low)).clip(0, 1) if high > low else np.zeros_like(own)


def _structural_similarity(a: np.ndarray, b: np.ndarray) -> float:
    """Mean SSIM (Wang et al., 2004) of maps from 0 to 1."""

    def smooth(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, _SIGMA, radius=_RADIUS, mode="mirror")

    mean_a, mean_b = smooth(a), smooth(b)
    var_a, var_b = smooth(a * a) - mean_a**2, smooth(b * b) - mean_b**2
    both = smooth(a * b) - mean_a * mean_b
    light = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
    shape = (2 * both + 0.03**2) / (var_a + var_b + 0.03**2)
    return float((light * shape).mean())
