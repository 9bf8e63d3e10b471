"""Copies of an image that were cropped, scaled, mirrored or saved again, found by alignment.

Thumbnails are compared with windows of all others. The closest are aligned by Gauss-Newton steps on
their correlation, over all affine maps (Lucas and Kanade, 1981). A copy then agrees in nearly
everything, and with a map that is a rotation, a scale and a shift; another image of the same kind,
or of the same patient, agrees only roughly, or when it is warped.
"""

from __future__ import annotations

from itertools import product
from typing import TypeAlias

import numpy as np
import pandas as pd
import torch
from joblib import effective_n_jobs
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.nn import functional

from sktransfer._images import DecodedImage, ImageSource
from sktransfer._utils.threads import DecodingThreads
from sktransfer.exceptions import ImageDecodeError

# Digest, thumbnail, width and height.
_Look: TypeAlias = tuple[bytes, np.ndarray, tuple[int, int]]

COLUMNS = ["row", "duplicate_of", "correlation", "mirrored"]
SIDE = 64
# Sides of thumbnails that are compared, aligned, and aligned again.
_COMPARED, _COARSE = 16, 24
# Sides of windows, as parts of the whole, which lie in its middle and at its ends; and how far the
# whole is turned, in degrees.
_WINDOWS, _TURNS = (0.93, 0.86, 0.79, 0.72), (-7, 0, 7)
# Candidates of an image, and those of them that are aligned again.
_CANDIDATES, _ALIGNED = 20, 4
_COARSE_STEPS, _FINE_STEPS = 10, 8
_LEAST_COARSE = 0.85
# Numbers in one block of similarities, and pairs that are aligned at once.
_BLOCK, _AT_ONCE = 2**23, 256
# How much of the variance may be left over, by how much the map may stretch one direction more than
# the other: warped, an X-ray of another patient may agree as well.
_ACCEPTED = ((0.045, 1.005), (0.015, 1.015), (0.01, 1.03))
_LEAST_COVERED = 0.4
_NO_THUMBNAIL = np.zeros((0, 0), np.uint8)
# Between levels of 0 to 255; less is an image of one color.
_LEAST_DEVIATION = 3.0


def gray_thumbnail(image: DecodedImage) -> np.ndarray:
    """Return a gray thumbnail of SIDE by SIDE, whatever the shape, in whole levels."""
    if not isinstance(image, Image.Image):
        levels = image if image.ndim == 2 else image.mean(axis=2)
        image = Image.fromarray(np.clip(levels * 255, 0, 255).astype(np.uint8))
    # Smooth, so that pixels that fell otherwise into those of the thumbnail make no difference.
    return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def align_candidates(thumbnails: np.ndarray, sizes: np.ndarray) -> pd.DataFrame:
    """Return the pairs that are most alike, once each, with how they agree after alignment."""
    pictured = np.flatnonzero(thumbnails.std(axis=(1, 2)) >= _LEAST_DEVIATION)
    if len(pictured) < 2:
        return pd.DataFrame(columns=[*COLUMNS, "stretch", "covered"], dtype=float)
    fine = torch.from_numpy(thumbnails[pictured]).float()[:, None] / 255
    a, b, maps = _candidates(fine)
    coarse = functional.interpolate(fine, (_COARSE, _COARSE), mode="area")
    maps, correlation, _ = _align(coarse, a, b, maps, _COARSE_STEPS)
    kept = _best_of_each(a, b, correlation.numpy())
    a, b = a[kept], b[kept]
    smooth = functional.avg_pool2d(fine, 3, 1, 1, count_include_pad=False)
    maps, correlation, covered = _align(smooth, a, b, maps[kept], _FINE_STEPS)
    first, second = pictured[a], pictured[b]
    stretch = _stretch(maps.numpy(), sizes[first], sizes[second])
    order = np.lexsort((-correlation.numpy(), np.minimum(first, second), np.maximum(first, second)))
    pairs = np.stack([np.maximum(first, second), np.minimum(first, second)], axis=1)[order]
    unique = np.r_[True, (pairs[1:] != pairs[:-1]).any(axis=1)][: len(pairs)]
    chosen = order[unique]
    mirrored = torch.linalg.det(maps[:, :, :2]).numpy() < 0
    return pd.DataFrame(
        {
            "row": pairs[unique, 0],
            "duplicate_of": pairs[unique, 1],
            "correlation": correlation.numpy()[chosen].astype(float),
            "mirrored": mirrored[chosen],
            "stretch": stretch[chosen],
            "covered": covered.numpy()[chosen],
        }
    )


def _windows() -> Tensor:
    """Return maps from a thumbnail to its windows, and to itself turned, each also mirrored."""
    maps = []
    for angle in np.deg2rad(_TURNS):
        maps.append([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0]])
    for side in _WINDOWS:
        for down, right in product((side - 1, 0.0, 1 - side), repeat=2):
            maps.append([[side, 0, right], [0, side, down]])
    found = torch.tensor(np.array(maps), dtype=torch.float32)
    return torch.cat([found, found * torch.tensor([-1.0, 1.0, 1.0])])


def _candidates(images: Tensor) -> tuple[np.ndarray, np.ndarray, Tensor]:
    """Return pairs a and b, and maps from a to the window of b that is most like a."""
    n = len(images)
    small = functional.interpolate(images, (3 * _COMPARED,) * 2, mode="area")
    maps = _windows()
    whole = _unit(functional.interpolate(images, (_COMPARED,) * 2, mode="area"))
    step = max(1, _BLOCK // (n * len(maps)))
    k = min(_CANDIDATES, n - 1)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, n, step):
        own = small[start : start + step]
        parts = [_unit(_window(own, each)) for each in maps]
        alike = torch.stack([part @ whole.T for part in parts], dim=1)
        best, window = alike.max(dim=1)
        rows = torch.arange(start, start + len(own))
        best[torch.arange(len(own)), rows] = -2
        near = best.topk(k, dim=1).indices
        found.append((near.ravel(), rows.repeat_interleave(k), window.gather(1, near).ravel()))
    a, b, window = (torch.cat(each) for each in zip(*found, strict=True))
    return a.numpy(), b.numpy(), maps[window]


def _window(images: Tensor, each: Tensor) -> Tensor:
    """Return a window of every image at the side at which images are compared."""
    grid = functional.affine_grid(
        each.expand(len(images), 2, 3), [len(images), 1, 2 * _COMPARED, 2 * _COMPARED], False
    )
    seen = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return functional.avg_pool2d(seen, 2)


def _unit(images: Tensor) -> Tensor:
    flat = images.flatten(1)
    flat = flat - flat.mean(dim=1, keepdim=True)
    return functional.normalize(flat, dim=1)


def _align(
    images: Tensor, a: np.ndarray, b: np.ndarray, maps: Tensor, n_steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Improve maps from images ``a`` to ``b``; also their correlations and the part covered."""
    side = images.shape[-1]
    right = functional.pad(images[..., 2:] - images[..., :-2], (1, 1, 0, 0), mode="replicate")
    down = functional.pad(images[..., 2:, :] - images[..., :-2, :], (0, 0, 1, 1), mode="replicate")
    stacked = torch.cat([images, right * (side / 4), down * (side / 4)], dim=1)
    done = [
        _gauss_newton(images[a[rows]], stacked[b[rows]], maps[rows], n_steps)
        for rows in (slice(i, i + _AT_ONCE) for i in range(0, len(a), _AT_ONCE))
    ]
    if not done:  # nothing is as much alike
        return maps, torch.zeros(0), torch.zeros(0)
    improved, correlation, covered = (torch.cat(each) for each in zip(*done, strict=True))
    return improved, correlation, covered


def _gauss_newton(
    target: Tensor, stacked: Tensor, maps: Tensor, n_steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Take steps that raise the correlation of targets and mapped images, both normalized."""
    n, _, side, _ = target.shape
    line = (torch.arange(side) + 0.5) * 2 / side - 1
    y, x = (each.ravel() for each in torch.meshgrid(line, line, indexing="ij"))
    places = torch.stack([x, y, torch.ones_like(x)], dim=1)
    wanted = target.flatten(1)
    for step in range(n_steps + 1):
        at = torch.einsum("kc,nrc->nkr", places, maps)
        seen = functional.grid_sample(
            stacked, at.view(n, side, side, 2), padding_mode="border", align_corners=False
        )
        values, right, down = seen.flatten(2).unbind(1)
        inside = (at.abs() <= 1 - 1 / side).all(dim=-1).float()
        count = inside.sum(dim=1, keepdim=True).clamp(min=1)
        own, _ = _normalized(wanted, inside, count)
        other, other_size = _normalized(values, inside, count)
        correlation = (own * other).sum(dim=1)
        if step == n_steps:
            break
        slopes = torch.stack([right * x, right * y, right, down * x, down * y, down], dim=-1)
        slopes = slopes * (inside / other_size)[..., None]
        slopes = slopes - slopes.sum(dim=1, keepdim=True) / count[..., None] * inside[..., None]
        slopes = slopes - other[..., None] * (other[..., None] * slopes).sum(dim=1, keepdim=True)
        left = own - correlation[:, None] * other
        curvature = slopes.transpose(1, 2) @ slopes
        ridge = 1e-3 * curvature.diagonal(dim1=1, dim2=2) + 1e-6
        move = torch.linalg.solve(
            curvature + torch.diag_embed(ridge), slopes.transpose(1, 2) @ left[..., None]
        )
        maps = maps + move.view(n, 2, 3).clamp(-0.1, 0.1)
    return maps, correlation, count[:, 0] / side**2


def _normalized(values: Tensor, inside: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Return values of mean 0 and length 1 over what both images show, and their length before."""
    centered = (values - (values * inside).sum(dim=1, keepdim=True) / count) * inside
    size = centered.norm(dim=1, keepdim=True) + 1e-6
    return centered / size, size


def _best_of_each(a: np.ndarray, b: np.ndarray, correlation: np.ndarray) -> np.ndarray:
    """Return the pairs that are worth another look: the best few of either image."""
    kept = np.zeros(len(a), dtype=bool)
    for own in (a, b):
        order = np.lexsort((-correlation, own))
        ordered = own[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]][: len(own)])
        place = np.arange(len(own)) - np.repeat(starts, np.diff(np.r_[starts, len(own)]))
        kept[order[place < _ALIGNED]] = True
    return np.flatnonzero(kept & (correlation > _LEAST_COARSE))


def _stretch(maps: np.ndarray, sizes_a: np.ndarray, sizes_b: np.ndarray) -> np.ndarray:
    """Return by how much maps stretch one direction more than another, 1 if they do not.

    In pixels, or of the whole width and height: images may have been squashed to a square.
    """
    squashed = maps[:, :, :2]
    pixels = squashed * sizes_b[:, :, None] / sizes_a[:, None, :]
    values = [np.linalg.svd(each, compute_uv=False) for each in (squashed, pixels)]
    return np.min([each[:, 0] / np.maximum(each[:, 1], 1e-6) for each in values], axis=0)


def _looks(images: ImageSource, *, near: bool, n_jobs: int | None) -> list[_Look | None]:
    """Return digest, thumbnail and size of each image; None for one that cannot be read."""

    def look(row: int) -> _Look | None:
        try:
            encoded = images.open(row)
            if not near:
                return encoded.digest, _NO_THUMBNAIL, (1, 1)
            image = encoded.decode(2 * SIDE)
        except ImageDecodeError:
            return None
        return encoded.digest, gray_thumbnail(image), size_of(image)

    with DecodingThreads(effective_n_jobs(n_jobs)) as pool:
        return list(pool.map(look, range(len(images))))


def copies_across(train: ImageSource, test: ImageSource) -> list[tuple[int, int]]:
    """Return rows of ``test`` with the first row of ``train`` of which they are edited copies."""
    both = [_looks(each, near=True, n_jobs=2) for each in (train, test)]
    rows = [(part, row) for part in (0, 1) for row, look in enumerate(both[part]) if look]
    seen = [look for part in both for look in part if look]
    if len(seen) < 2:
        return []
    found = near_copies(np.stack([each[1] for each in seen]), np.array([each[2] for each in seen]))
    first: dict[int, int] = {}
    for a, b in zip(found["row"], found["duplicate_of"], strict=True):
        (part, row), (other, earlier) = rows[a], rows[b]
        if part > other and both[1][row][0] != both[0][earlier][0]:
            first[row] = min(earlier, first.get(row, earlier))
    return sorted(first.items())


def look_for_copies(images: ImageSource, *, near: bool, n_jobs: int | None) -> pd.DataFrame:
    """Return pairs of rows with equal content and, with ``near``, with nearly the same image."""
    looks = _looks(images, near=near, n_jobs=n_jobs)
    first: dict[bytes, int] = {}
    pairs = []
    for row, each in enumerate(looks):
        if each is not None and first.setdefault(each[0], row) != row:
            pairs.append((row, first[each[0]], 1.0, False))
    equal = pd.DataFrame(pairs, columns=COLUMNS)
    if not near or not first:
        return equal
    rows = np.array(sorted(first.values()))  # one of each content
    seen = [each for row in rows if (each := looks[row]) is not None]
    found = near_copies(np.stack([each[1] for each in seen]), np.array([each[2] for each in seen]))
    for name in COLUMNS[:2]:
        found[name] = rows[found[name]]
    return pd.concat([equal, found][not pairs :], ignore_index=True).sort_values(
        COLUMNS[:2], ignore_index=True
    )


def near_copies(thumbnails: np.ndarray, sizes: np.ndarray) -> pd.DataFrame:
    """Return pairs of thumbnails, (n, SIDE, SIDE), that are copies of one image.

    ``sizes`` are widths and heights of the images, (n, 2).
    """
    found = align_candidates(thumbnails, sizes)
    rest = 1 - found["correlation"]
    same = np.logical_or.reduce(
        [(rest <= most) & (found["stretch"] <= stretch) for most, stretch in _ACCEPTED]
    )
    kept = found[same & (found["covered"] >= _LEAST_COVERED)]
    return kept[COLUMNS].reset_index(drop=True)


def size_of(image: DecodedImage) -> tuple[int, int]:
    """Return the width and the height of an image."""
    return image.size if isinstance(image, Image.Image) else (image.shape[1], image.shape[0])


def copies(pairs: pd.DataFrame, n: int) -> np.ndarray:
    """Return a number for each of ``n`` rows, the same for copies of one image."""
    edges = (np.ones(len(pairs)), (pairs["row"], pairs["duplicate_of"]))
    return np.asarray(connected_components(coo_array(edges, shape=(n, n)), directed=False)[1])
