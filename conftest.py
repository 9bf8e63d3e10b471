"""For every test, docstring and page that runs: an isolated home, no network, no shared session."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def offline_home(tmp_path, monkeypatch) -> Path:
    """No test reads or writes the home, the weight folders or the network of the machine."""
    home = tmp_path / "sktransfer-home"
    monkeypatch.setenv("SKTRANSFER_HOME", str(home))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch-home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("SKTRANSFER_WEIGHTS_DIR", raising=False)
    monkeypatch.setenv("SKTRANSFER_OFFLINE", "1")
    # Nor does it share activations with the process that runs the tests.
    monkeypatch.setenv("SKTRANSFER_SESSION", "")
    return home


@pytest.fixture(autouse=True)
def figures_closed():
    """Figures of pages that draw do not pile up until matplotlib warns."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
