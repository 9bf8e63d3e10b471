"""Tests of whether images come from where others came from, and the report of them.

It must not know images, networks or classifiers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import betabinom
from sklearn.metrics import euclidean_distances
from sklearn.utils import check_random_state

from sktransfer._utils.notebooks import card
from sktransfer._utils.resampling import members
from sktransfer.metrics._labels import Interval
from sktransfer.metrics._rates import effective_trials, rate_of

UNKNOWN = "unknown"
# Rows that a detector keeps to compare others with.
_KEPT = 512
_N_PERMUTATIONS = 999


@dataclass(frozen=True)
class DriftReport:
    """Whether new images are from where those of a fit are from.

    ``drift_report`` of :class:`NoveltyDetector` and of :class:`NoveltyGate` makes it.

    Parameters
    ----------
    p_value : float
        Of the two-sample test: how often a random choice of the images (with groups: of the
        patients) would differ as much from the rest as the new ones do.
    statistic : float
        Energy distance of the embeddings of both.
    n_images, n_groups : int
        Number of new images, and of their groups.
    novel : tuple of float
        Share of the new images that is novel, ``(estimate, low, high)``.
    false_alarm_rate : float
        Share that is expected to be novel without drift.
    novel_p_value : float
        Of the test that the share is no larger than that.
    operating_point : DataFrame or "unknown"
        A row for each class: its estimated ``prevalence`` among the new images, its ``recall`` (of
        the positive class the sensitivity, of the other one the specificity) and its ``precision``
        there (the predictive values), each with ``_low`` and ``_high`` of its 95 % interval.
    reason : str
        Why the operating point is unknown, or what it rests on.

    See Also
    --------
    NoveltyDetector.drift_report : Test new images.
    NoveltyGate.drift_report : Estimate the operating point, too.

    Examples
    --------
    >>> import numpy as np
    >>> from sktransfer.novelty import NoveltyDetector
    >>> rng = np.random.default_rng(0)
    >>> detector = NoveltyDetector().fit(rng.normal(size=(200, 5)))
    >>> report = detector.drift_report(rng.normal(loc=0.7, size=(50, 5)))
    >>> report.p_value, report.operating_point
    (0.001, 'unknown')
    """

    p_value: float
    statistic: float
    n_images: int
    n_groups: int
    novel: Interval
    false_alarm_rate: float
    novel_p_value: float
    operating_point: Any = field(default=UNKNOWN)
    reason: str = "no images with labels were given."

    def __str__(self) -> str:
        share, low, high = self.novel
        lines = [
            f"{self.n_images} images of {self.n_groups} groups against those of fit: "
            f"p = {self.p_value:.3g} (energy distance {self.statistic:.4g})",
            f"novel: {share:.3f} ({low:.3f} to {high:.3f}), {self.false_alarm_rate:.3f} expected "
            f"without drift, p = {self.novel_p_value:.3g}",
        ]
        if isinstance(self.operating_point, str):
            return "\n".join([*lines, f"operating point: unknown, since {self.reason}"])
        table = self.operating_point.to_string(float_format="%.3f")
        return "\n".join([*lines, f"operating point, {self.reason}", table])

    def _repr_html_(self) -> str:
        known = isinstance(self.operating_point, pd.DataFrame)
        tables = {"Operating point": self.operating_point} if known else None
        lines = str(self).splitlines()
        return card("DriftReport", lines[:3] if known else lines, tables)


@dataclass(frozen=True)
class Reference:
    """Some rows of a fit, all of a group or none, to compare others with."""

    rows: np.ndarray
    unit: np.ndarray
    center: np.ndarray
    scale: np.ndarray
    n_units: int

    @classmethod
    def of(cls, rows: np.ndarray, codes: np.ndarray | None) -> Reference:
        """Keep a random part of rows that are too many; the same for the same number of rows."""
        codes = np.arange(len(rows)) if codes is None else codes
        units = members(codes)
        taken: list[np.ndarray] = []
        for number in np.random.RandomState(0).permutation(len(units)):
            if sum(map(len, taken)) + len(units[number]) <= _KEPT or not taken:
                taken.append(units[number])
        kept = np.sort(np.concatenate(taken))
        center, scale = rows.mean(axis=0), rows.std(axis=0)
        scale[scale == 0] = 1.0
        unit = np.unique(codes[kept], return_inverse=True)[1]
        made = cls(rows[kept], unit, center, scale, len(units))
        return replace(made, rows=made.scaled(made.rows))

    def scaled(self, rows: np.ndarray) -> np.ndarray:
        """Return rows as they are kept: in units of the fit's columns, in half precision."""
        return np.clip((rows - self.center) / self.scale, -6e4, 6e4).astype(np.float16)


def drift_between(
    reference: Reference,
    rows: np.ndarray,
    groups: np.ndarray | None,
    *,
    novel: np.ndarray,
    false_alarm_rate: float,
    random_state: Any,
) -> DriftReport:
    """Test rows against those of a fit; ``novel`` says which of them are."""
    if len(rows) < 2:
        raise ValueError(f"A test of drift needs at least 2 images; got {len(rows)}.")
    codes = np.arange(len(rows)) if groups is None else np.unique(groups, return_inverse=True)[1]
    between = pooled_distances(reference.rows, reference.scaled(rows))
    unit = np.concatenate([reference.unit, reference.unit.max() + 1 + codes])
    statistic, p_value = permutation_test(
        between, unit, codes.max() + 1, check_random_state(random_state)
    )
    share = rate_of(novel, None if groups is None else codes, 0.95)
    n = round(effective_trials(novel, None if groups is None else codes))
    # How many of n exceed an order statistic of others that are like them.
    others = reference.n_units + 1
    shape = others * false_alarm_rate, others * (1 - false_alarm_rate)
    p_novel = float(betabinom.sf(np.ceil(share.estimate * n) - 1, n, *shape))
    return DriftReport(
        p_value=p_value,
        statistic=statistic,
        n_images=len(rows),
        n_groups=int(codes.max() + 1),
        novel=share,
        false_alarm_rate=false_alarm_rate,
        novel_p_value=p_novel,
    )


def pooled_distances(*parts: np.ndarray) -> np.ndarray:
    """Return distances of all rows, in columns standardized by all of them.

    Neither part has a say of its own in what is measured, as a test by permutation needs.
    """
    rows = np.concatenate(parts).astype(np.float64)
    spread = rows.std(axis=0)
    spread[spread == 0] = 1.0
    return euclidean_distances((rows - rows.mean(axis=0)) / spread)


def energy(between: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the energy distance of two weightings of rows, one pair for each column.

    Székely, Rizzo: Energy statistics. Journal of Statistical Planning and Inference 143 (2013).
    """
    change = first / first.sum(axis=0) - second / second.sum(axis=0)
    return -np.einsum("ij,ij->j", change, between @ change)


def permutation_test(
    between: np.ndarray, unit: np.ndarray, n_new: int, random: Any
) -> tuple[float, float]:
    """Return the energy distance of the last ``n_new`` units to the others, and its p value.

    Units count alike, whatever rows they have: a patient with many would make the number of rows,
    and so the usual distance, another one in each permutation.
    """
    n_units = int(unit.max()) + 1
    mean = (unit == np.arange(n_units)[:, None]) / np.bincount(unit)[:, None]
    between = mean @ between @ mean.T
    new = np.zeros((n_units, _N_PERMUTATIONS + 1))
    new[n_units - n_new :, 0] = 1
    for column in range(1, _N_PERMUTATIONS + 1):
        new[random.permutation(n_units)[:n_new], column] = 1
    found = energy(between, new, 1 - new)
    beyond = (found[1:] >= found[0] * (1 - 1e-9)).sum()
    return float(found[0]), float((1 + beyond) / (_N_PERMUTATIONS + 1))
