"""Fixtures every test file may use: shared real data, shared weights."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is imported: workers with a thread per core each wait more than they compute.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def _shared_directory() -> Path | None:
    """`SKTRANSFER_TEST_SHARED`, or a `shared/` folder alongside or above the checkout."""
    named = os.environ.get("SKTRANSFER_TEST_SHARED")
    if named:
        return Path(named)
    root = Path(__file__).resolve().parents[1]
    for candidate in (root / "shared", root.parent / "shared"):
        if (candidate / "data").is_dir():
            return candidate
    return None


def _shared(kind: str) -> Path:
    base = _shared_directory()
    if base is None or not (base / kind).is_dir():
        pytest.skip(
            f"real images and weights are not part of the project: no shared/{kind} folder next to "
            "the checkout, and SKTRANSFER_TEST_SHARED does not name one"
        )
    return base / kind


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real images (see its README)."""
    return _shared("data")


@pytest.fixture(scope="session")
def shared_weights() -> Path:
    """Folder of genuine ImageNet weights for torchvision architectures."""
    return _shared("weights")
