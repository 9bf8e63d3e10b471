"""saliency_randomization_test: whether maps depend on what the network learned."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr
from sklearn.utils import Bunch, check_random_state
from torch import Tensor

from sktransfer.inspection._differentiable import DifferentiableClassifier, Explain, differentiable
from sktransfer.inspection._saliency import WHITE_AT, check_method, explain_by
from sktransfer.inspection._torch_classifiers import of_logits

# What implementations of SSIM agree on: Gaussian weights over 11 x 11 pixels.
_SIGMA, _RADIUS = 1.5, 5


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
) -> Bunch:
    """Test whether maps change when weights are shuffled, stage by stage from the end [1]_.

    A map that does not change shows edges of the image and not what the model does: do not use it.

    Read more in the :ref:`User Guide <inspection-trust>`.

    Parameters
    ----------
    estimator : FineTuneClassifier or Pipeline
        Fitted classifier, differentiable as for :func:`input_gradient`. It is not changed.
    X : collection of images, n rows
        A dozen images in any of the :ref:`accepted forms <accepted-inputs>`.
    y : array-like of shape (n,) or None, default=None
        The class of each row whose score is explained. None: the predicted class.
    method : str or callable, default="gradient"
        Method as for :func:`saliency_maps`, in the frame of the network. A callable takes
        ``decision`` (a function from a normalized batch (n, 3, side, side) to the decision of each
        row, through which torch can differentiate), the batch, and the positions of the classes
        (n,); it returns a tensor of maps (n, h, w).
    max_correlation : float, default=0.65
        Maps fail if their mean correlation over the first half of the steps exceeds it.
    batch_size : int, default=16
        Number of images per pass.
    random_state : int, RandomState instance or None, default=0
        Seed of the shuffling.
    **kwargs : dict
        Parameters of the method, such as ``smooth`` or ``layer``.

    Returns
    -------
    result : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with the attributes

        - ``passed`` : bool, whether ``correlation`` is at most ``max_correlation``;
        - ``correlation`` : float, the mean correlation over the first half of the steps;
        - ``max_correlation`` : float, the given limit;
        - ``table`` : DataFrame with a row for each step: ``randomized`` (``"classifier"``, then the
          neck and the stages from the last to the first; what was shuffled stays shuffled),
          ``correlation`` (mean over the images of Spearman's rank correlation with the map of the
          original model) with its standard deviation ``std``, ``similarity`` (mean structural
          similarity, SSIM), and ``flat`` (share of images whose map is constant).

    See Also
    --------
    deletion_insertion_curves : Measure whether the score depends on what a map marks.

    Notes
    -----
    The values of each tensor of weights are permuted, so that they keep their scale; what follows
    an extractor is replaced by one linear layer of random weights. Statistics of BatchNorm are
    kept. Absolute values of maps are compared; two constant maps count as equal.

    The first half of the steps decides, as methods that are known to show the image and not the
    model depend on the first layers only [1]_. The limit was chosen between what chest X-rays give
    with ImageNet weights of SqueezeNet 1.0, MobileNetV2 and ResNet-18 for guided backpropagation
    (0.89, 0.79, 0.82), which must fail, and for gradient times input (0.50, 0.41, 0.46), integrated
    gradients (0.48, 0.47, 0.46), the gradient (0.35, 0.25, 0.29; smoothed 0.24, 0.15, 0.17),
    Grad-CAM (-0.06, 0.14, -0.07) and occlusion (0.06, -0.02, 0.16): three images and one draw
    each, measured by ``benchmarks/saliency.py``.

    References
    ----------
    .. [1] Adebayo, J., et al. (2018). "Sanity checks for saliency maps". NeurIPS.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sktransfer import FineTuneClassifier
    >>> from sktransfer.inspection import saliency_randomization_test
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = FineTuneClassifier("squeezenet1_1", weights=None, image_size=32, max_epochs=1)
    >>> def edges(decision, batch, classes):
    ...     return batch.diff(dim=3).abs().amax(1)
    >>> clf = clf.fit(X[:50] / 16, y[:50])
    >>> saliency_randomization_test(clf, X[:4] / 16, method=edges).passed
    False
    """
    explain = _explain_of(method, kwargs)
    classifier = differentiable(estimator)
    rng = check_random_state(random_state)
    # Read once: every step explains the same rows and the same classes.
    given = list(classifier.batches(X, y, batch_size))
    original = _maps(classifier, given, explain)
    rows = []
    for name, changed in _randomized(classifier, given[0][0], rng):
        pairs = list(zip(original, _maps(changed, given, explain), strict=True))
        ranks = [_rank_correlation(*pair) for pair in pairs]
        alike = [_structural_similarity(_scaled(a), _scaled(b)) for a, b in pairs]
        flat = [np.ptp(own) == 0 for _, own in pairs]
        rows.append((name, np.mean(ranks), np.std(ranks), np.mean(alike), np.mean(flat)))
    columns = ["randomized", "correlation", "std", "similarity", "flat"]
    table = pd.DataFrame(rows, columns=columns)
    correlation = float(table["correlation"].iloc[: (len(table) + 1) // 2].mean())
    return Bunch(
        passed=correlation <= max_correlation,
        correlation=correlation,
        max_correlation=max_correlation,
        table=table,
    )


def _explain_of(method: Any, parameters: dict[str, Any]) -> Explain:
    if not callable(method):
        check_method(method, also=", or a callable")
        return explain_by(method, **parameters)
    if parameters:
        raise ValueError(
            f"A callable method takes no parameters; got {', '.join(parameters)}. Use "
            "functools.partial."
        )

    def explain(classifier: DifferentiableClassifier, batch: Tensor, codes: Tensor) -> Tensor:
        maps = method(lambda x: classifier.decision(x, codes), batch, codes)
        if not isinstance(maps, Tensor) or maps.ndim != 3 or len(maps) != len(batch):
            shape = f" of shape {tuple(maps.shape)}" if isinstance(maps, Tensor) else ""
            raise ValueError(
                f"method must return a tensor of maps, of shape ({len(batch)}, height, width); "
                f"got {type(maps).__name__}{shape}."
            )
        return maps

    return explain


def _randomized(
    classifier: DifferentiableClassifier, batch: Tensor, rng: np.random.RandomState
) -> Iterator[tuple[str, DifferentiableClassifier]]:
    """Yield the name of each part with a classifier in which it and all after it are random."""
    network, parts = copy.deepcopy((classifier.network, classifier.parts))
    changed = replace(classifier, network=network, parts=parts)
    if parts[-1].name != "classifier":  # the classifier is no part of the network
        n_features = network(batch[:1]).shape[1]
        n_scores = 2 if classifier.classes is None else len(classifier.classes)
        weights = torch.from_numpy(rng.standard_normal((n_features, n_scores)))
        changed = replace(changed, classify=lambda x: of_logits(x @ weights.to(x)))
        yield "classifier", changed
    for part in reversed(parts):
        parameters = list(part.module.parameters())
        for parameter in parameters:  # none of them requires a gradient
            order = torch.from_numpy(rng.permutation(parameter.numel())).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
        if parameters:  # pooling and the like have nothing to randomize
            yield part.name, changed


def _maps(
    classifier: DifferentiableClassifier, given: Sequence[tuple[Tensor, Tensor]], explain: Explain
) -> list[np.ndarray]:
    """Return the absolute values of the map of each row."""
    parts = [explain(classifier, *each).detach().abs().cpu().double().numpy() for each in given]
    return [own for part in parts for own in part]


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return Spearman's correlation; where a map is constant, 1 if both are, else 0."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float(np.ptp(a) == np.ptp(b))
    return float(spearmanr(a, b, axis=None).statistic)


def _scaled(own: np.ndarray) -> np.ndarray:
    """Scale a map from 0 to 1, as it would be drawn."""
    low, high = own.min(), np.percentile(own, WHITE_AT)
    return ((own - low) / (high - low)).clip(0, 1) if high > low else np.zeros_like(own)


def _structural_similarity(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean SSIM (Wang et al., 2004) of maps from 0 to 1."""

    def smooth(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, _SIGMA, radius=_RADIUS, mode="mirror")

    mean_a, mean_b = smooth(a), smooth(b)
    var_a, var_b = smooth(a * a) - mean_a**2, smooth(b * b) - mean_b**2
    both = smooth(a * b) - mean_a * mean_b
    light = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
    shape = (2 * both + 0.03**2) / (var_a + var_b + 0.03**2)
    return float((light * shape).mean())
