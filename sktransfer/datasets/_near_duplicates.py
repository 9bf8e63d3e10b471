"""Copies of an image that were cropped, scaled, mirrored or saved again, found by alignment.

Thumbnails are compared with windows of all others. The closest are aligned by Gauss-Newton steps on
their correlation (Lucas and Kanade, 1981), first over all affine maps, then over those that turn,
scale, mirror and shift alone. A copy then agrees everywhere but in a tenth of the pixels, as well
as images that are shifted by half a pixel; another image of the same kind, or of the same patient,
agrees only roughly.
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
# Side of thumbnails that are compared.
_COMPARED = 16
# Sides of windows, as parts of the whole, which lie in its middle and at its ends; and how far the
# whole is turned, in degrees.
_WINDOWS, _TURNS = (0.93, 0.86, 0.79, 0.72), (-7, 0, 7)
# Pairs of each image, of which the best are aligned: side of the thumbnails, steps, how many are
# kept of either image, and their least correlation.
_CANDIDATES = 150
_STAGES = ((12, 3, 16, 0.6), (24, 8, 4, 0.85))
_FINE_STEPS = 8
# Part of the pixels that may differ in any way.
_IGNORED = 0.1
# From here on a level, of 0 to 1, is white.
_CLIPPED = 0.97
# Numbers in one block of similarities, and pairs that are aligned at once.
_BLOCK, _AT_ONCE = 2**23, 256
# By how many pixels, of the thumbnail or of a smaller image, copies differ at most: images rich in
# detail differ more where they are shifted as far. And the least correlation, also of the smaller.
_MOST_DISPLACED = 0.5
_LEAST_CORRELATION, _NEARLY_EQUAL = (0.98, 0.996), 0.998
# Part of either image that has to be in the other.
_LEAST_COVERED = 0.35
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
        return pd.DataFrame(columns=[*COLUMNS, "displacement", "small", "covered"], dtype=float)
    fine = torch.from_numpy(thumbnails[pictured]).float()[:, None] / 255
    a, b, maps = _candidates(fine)
    for side, n_steps, most, least in _STAGES:
        small = functional.interpolate(fine, (side, side), mode="area")
        free = torch.eye(6).expand(len(a), 6, 6)
        maps, correlation, _, _ = _align(small, a, b, maps, free, n_steps)
        kept = _best_of_each(a, b, correlation.numpy(), most, least)
        a, b, maps = a[kept], b[kept], maps[kept]
    first, second = pictured[a], pictured[b]
    maps, moves = _similarities(maps, torch.tensor(sizes[first]), torch.tensor(sizes[second]))
    found = torch.zeros(3, len(a))
    # Both as blurred as the smaller one of them, whose details are all that can be compared.
    smaller = np.minimum(sizes[first], sizes[second]).min(axis=1)
    width = 2 * (SIDE // np.clip(smaller, 4, SIDE)) + 1
    for own in np.unique(width):
        rows = np.flatnonzero(width == own)
        smooth = functional.avg_pool2d(fine, int(own), 1, int(own) // 2, count_include_pad=False)
        maps[rows], *those = _align(
            smooth, a[rows], b[rows], maps[rows], moves[rows], _FINE_STEPS, robust=True
        )
        found[:, rows] = torch.stack(those)
    correlation, displacement, covered = found.numpy().astype(float)
    area = torch.linalg.det(maps[:, :, :2]).numpy()  # of b, for that of a; negative if mirrored
    order = np.lexsort((-correlation, np.minimum(first, second), np.maximum(first, second)))
    pairs = np.stack([np.maximum(first, second), np.minimum(first, second)], axis=1)[order]
    unique = np.r_[True, (pairs[1:] != pairs[:-1]).any(axis=1)][: len(pairs)]
    chosen = order[unique]
    return pd.DataFrame(
        {
            "row": pairs[unique, 0],
            "duplicate_of": pairs[unique, 1],
            "correlation": correlation[chosen],
            "mirrored": area[chosen] < 0,
            "displacement": (displacement * np.minimum(1, smaller / SIDE))[chosen],
            "small": (smaller < SIDE)[chosen],
            "covered": (covered * np.minimum(1, np.abs(area)))[chosen],
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
    maps += [[[0, -1, 0], [1, 0, 0]], [[-1, 0, 0], [0, -1, 0]], [[0, 1, 0], [-1, 0, 0]]]
    found = torch.tensor(np.array(maps), dtype=torch.float32)
    return torch.stack([found, found * torch.tensor([-1.0, 1.0, 1.0])])


def _candidates(images: Tensor) -> tuple[np.ndarray, np.ndarray, Tensor]:
    """Return pairs a and b, and maps from a to the window of b that is most like a.

    A pair is there twice where it is as much alike with b mirrored.
    """
    n = len(images)
    small = functional.interpolate(images, (3 * _COMPARED,) * 2, mode="area")
    maps = _windows()
    whole = _unit(functional.interpolate(images, (_COMPARED,) * 2, mode="area"))
    step = max(1, _BLOCK // (n * maps[..., 0, 0].numel()))
    k = min(_CANDIDATES, 2 * (n - 1))
    best, other, window = (
        torch.full((n, k), -3.0),
        torch.zeros(n, k).long(),
        torch.zeros(n, k).long(),
    )
    for start in range(0, n, step):
        own = small[start : start + step]
        rows = torch.arange(start, start + len(own))
        alike = torch.stack([_unit(_window(own, each)) @ whole.T for each in maps.flatten(0, 1)])
        found, which = alike.unflatten(0, maps.shape[:2]).max(dim=1)  # (2, block, n)
        found[:, torch.arange(len(own)), rows] = -2
        which[1] += maps.shape[1]
        both = torch.cat([best, *found.transpose(1, 2)], dim=1)
        best, kept = both.topk(k, dim=1)
        other = torch.cat([other, rows.repeat(n, 2)], dim=1).gather(1, kept)
        window = torch.cat([window, *which.transpose(1, 2)], dim=1).gather(1, kept)
    a = torch.arange(n).repeat_interleave(k)
    return a.numpy(), other.ravel().numpy(), maps.flatten(0, 1)[window.ravel()]


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
    images: Tensor,
    a: np.ndarray,
    b: np.ndarray,
    maps: Tensor,
    moves: Tensor,
    n_steps: int,
    *,
    robust: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Improve maps from images ``a`` to ``b``; also how they agree, see ``_gauss_newton``."""
    side = images.shape[-1]
    right = functional.pad(images[..., 2:] - images[..., :-2], (1, 1, 0, 0), mode="replicate")
    down = functional.pad(images[..., 2:, :] - images[..., :-2, :], (0, 0, 1, 1), mode="replicate")
    stacked = torch.cat([images, right * (side / 4), down * (side / 4)], dim=1)
    done = [
        _gauss_newton(images[a[rows]], stacked[b[rows]], maps[rows], moves[rows], n_steps, robust)
        for rows in (slice(i, i + _AT_ONCE) for i in range(0, len(a), _AT_ONCE))
    ]
    if not done:  # nothing is as much alike
        return maps, torch.zeros(0), torch.zeros(0), torch.zeros(0)
    improved, correlation, displacement, covered = (
        torch.cat(each) for each in zip(*done, strict=True)
    )
    return improved, correlation, displacement, covered


def _gauss_newton(
    target: Tensor, stacked: Tensor, maps: Tensor, moves: Tensor, n_steps: int, robust: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Take steps that raise the correlation of targets and mapped images, both normalized.

    Returned are the maps, the correlation, the displacement of every pixel that would make as much
    of a difference, in pixels, and the part of the target that was compared.
    """
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
        covered = inside.mean(dim=1)
        if robust and step >= n_steps // 2:
            inside = _agreeing(wanted, values, inside)
        count = inside.sum(dim=1, keepdim=True).clamp(min=1)
        own, _ = _normalized(wanted, inside, count)
        other, other_size = _normalized(values, inside, count)
        correlation = (own * other).sum(dim=1)
        slopes = torch.stack([right, down], dim=-1) * (inside / other_size)[..., None]
        if step == n_steps:
            break
        slopes = (slopes[..., None] * places[:, None]).flatten(2) @ moves
        slopes = slopes - slopes.sum(dim=1, keepdim=True) / count[..., None] * inside[..., None]
        slopes = slopes - other[..., None] * (other[..., None] * slopes).sum(dim=1, keepdim=True)
        left = own - correlation[:, None] * other
        curvature = slopes.transpose(1, 2) @ slopes
        ridge = 1e-3 * curvature.diagonal(dim1=1, dim2=2) + 1e-6
        move = torch.linalg.solve(
            curvature + torch.diag_embed(ridge), slopes.transpose(1, 2) @ left[..., None]
        )
        maps = maps + (moves @ move).view(n, 2, 3).clamp(-0.1, 0.1)
    # A shift by d changes a pixel by its slope times d; slopes are by halves of a side.
    slope = (slopes * 2 / side).square().sum(dim=(1, 2)) / 2
    displacement = (2 * (1 - correlation).clamp(min=0) / slope.clamp(min=1e-9)).sqrt()
    return maps, correlation, displacement, covered


def _agreeing(wanted: Tensor, values: Tensor, inside: Tensor) -> Tensor:
    """Return the places inside but for those that agree least, and those clipped in one alone.

    Such are corners filled in black, and what is white in an image that was made brighter.
    """
    clipped = [(each < 1 - _CLIPPED) | (each > _CLIPPED) for each in (wanted, values)]
    inside = kept = inside * (clipped[0] == clipped[1])
    for _ in range(2):
        count = kept.sum(dim=1, keepdim=True).clamp(min=1)
        scaled = []
        for each in (wanted, values):
            centered = each - (each * kept).sum(dim=1, keepdim=True) / count
            scaled.append(centered / ((centered * kept).norm(dim=1, keepdim=True) + 1e-6))
        apart = (scaled[0] - scaled[1]).abs().where(inside > 0, torch.nan)
        kept = inside * (apart <= apart.nanquantile(1 - _IGNORED, dim=1, keepdim=True))
    return kept


def _similarities(maps: Tensor, sizes_a: Tensor, sizes_b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest maps that turn, scale, mirror and shift alone, and how those may move.

    Shapes are kept in pixels or in parts of the width and the height, whichever is nearer: images
    may have been squashed to a square.
    """
    found = []
    for a, b in ((sizes_a, sizes_b), (torch.ones_like(sizes_a), torch.ones_like(sizes_b))):
        scale = (b[:, :, None] / a[:, None, :]).float()
        shape = maps[:, :, :2] * scale
        sign = torch.linalg.det(shape).sign()
        one, zero = torch.ones_like(sign), torch.zeros_like(sign)
        ways = torch.stack(
            [torch.stack([one, zero, zero, sign]), torch.stack([zero, -sign, one, zero])]
        )  # (2, 4, n)
        ways = ways.permute(2, 0, 1).unflatten(2, (2, 2))
        parts = (shape[:, None] * ways).sum(dim=(2, 3)) / 2
        near = (parts[:, :, None, None] * ways).sum(dim=1)
        rest = (shape - near).norm(dim=(1, 2)) / near.norm(dim=(1, 2)).clamp(min=1e-6)
        found.append((rest, near / scale, ways / scale[:, None]))
    squashed = (found[1][0] < found[0][0])[:, None, None]
    near = torch.where(squashed, found[1][1], found[0][1])
    ways = torch.where(squashed[..., None], found[1][2], found[0][2])
    moves = torch.zeros(len(maps), 4, 2, 3)
    moves[:, :2, :, :2] = ways
    moves[:, 2, 0, 2] = moves[:, 3, 1, 2] = 1
    return torch.cat([near, maps[:, :, 2:]], dim=2), moves.flatten(2).transpose(1, 2)


def _normalized(values: Tensor, inside: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Return values of mean 0 and length 1 over what both images show, and their length before."""
    centered = (values - (values * inside).sum(dim=1, keepdim=True) / count) * inside
    size = centered.norm(dim=1, keepdim=True) + 1e-6
    return centered / size, size


def _best_of_each(
    a: np.ndarray, b: np.ndarray, correlation: np.ndarray, most: int, least: float
) -> np.ndarray:
    """Return the pairs that are worth another look: the best few of either image."""
    kept = np.zeros(len(a), dtype=bool)
    for own in (a, b):
        order = np.lexsort((-correlation, own))
        ordered = own[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]][: len(own)])
        place = np.arange(len(own)) - np.repeat(starts, np.diff(np.r_[starts, len(own)]))
        kept[order[place < most]] = True
    return np.flatnonzero(kept & (correlation > least))


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
    least = np.where(found["small"].astype(bool), *_LEAST_CORRELATION[::-1])
    # Where there is hardly a detail, a shift makes no difference, and noise does.
    near = (found["displacement"] <= _MOST_DISPLACED) | (found["correlation"] >= _NEARLY_EQUAL)
    kept = found[near & (found["correlation"] >= least) & (found["covered"] >= _LEAST_COVERED)]
    return kept[COLUMNS].reset_index(drop=True)


def size_of(image: DecodedImage) -> tuple[int, int]:
    """Return the width and the height of an image."""
    return image.size if isinstance(image, Image.Image) else (image.shape[1], image.shape[0])


def copies(pairs: pd.DataFrame, n: int) -> np.ndarray:
    """Return a number for each of ``n`` rows, the same for copies of one image."""
    edges = (np.ones(len(pairs)), (pairs["row"], pairs["duplicate_of"]))
    return np.asarray(connected_components(coo_array(edges, shape=(n, n)), directed=False)[1])
