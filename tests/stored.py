"""Rows of a store and their keys, for tests of its directory."""

from __future__ import annotations

import numpy as np


def row(value, n=64, dtype=np.float32):
    return np.full(n, value, dtype=dtype)


def key(i):
    return int(i).to_bytes(16)
