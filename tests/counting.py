"""A preprocessing that counts the images it prepares, in whatever process it does."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import torch


def unseen(n):
    """Dark and bright noise that no earlier test has seen, and which is which."""
    rng = np.random.default_rng(int.from_bytes(os.urandom(4)))
    y = np.arange(n) % 2
    X = rng.integers(0, 200, (n, 20, 20, 3)) + 40 * y[:, None, None, None]
    return X.astype(np.uint8), y


class Counted:
    """Prepares an image, and writes down that it did; pickles by what it is."""

    def __init__(self, log, seconds=0.0):
        self.log = str(log)
        self.seconds = seconds
        # What is kept in a store may be kept: this always gives the same tensor for an image.
        self.fingerprint = "tests.Counted"

    def __call__(self, image):
        time.sleep(self.seconds)
        with open(self.log, "a") as log:
            log.write(f"{os.getpid()}\n")
        small = np.asarray(image.convert("RGB").resize((32, 32)), dtype=np.float32)
        return torch.from_numpy(small).permute(2, 0, 1) / 255

    @property
    def n(self):
        path = Path(self.log)
        return len(path.read_text().splitlines()) if path.exists() else 0

    @property
    def n_processes(self):
        return len(set(Path(self.log).read_text().splitlines()))
