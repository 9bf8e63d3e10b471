"""torch's global random generator, which all threads share: seeded for a while, then restored."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

# Torch's generator is one for all threads.
_SEEDING = threading.RLock()

# What modules call the share of what they drop, torch's, torchvision's and timm's.
_SHARES = ("p", "dropout", "dropout_p", "attention_dropout", "drop_rate", "drop_prob")
_KNOWN = ("torch.nn.", "torchvision.", "sktransfer.")


@contextmanager
def private_seed(seed: int | None) -> Iterator[None]:
    """Draw the random weights of modules from ``seed``, and restore torch's global generator.

    Only the CPU generator is used: modules are built on the CPU, and ``torch.manual_seed`` would
    reset those of the GPUs too. One thread at a time enters, for there is one generator.
    """
    with _SEEDING, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0 if seed is None else int(seed))
        yield


def draws_in_training(modules: Iterable[nn.Module]) -> bool:
    """Return whether a step of training may draw from the global generator.

    Dropout does, and modules that others wrote may, since nothing is known about them.
    """
    for part in (part for module in modules for part in module.modules()):
        shares = (getattr(part, name, None) for name in _SHARES)
        if not f"{type(part).__module__}.".startswith(_KNOWN) or any(
            isinstance(share, (int, float)) and share > 0 for share in shares
        ):
            return True
    return False
