"""torch's global generator, which modules draw from and threads share: seeded and given back.

It must not know what is drawn.
"""

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
    """Draw the random weights of modules from ``seed``; torch's global generator is left as it was.

    Only the CPU generator is used: modules are built on the CPU, and ``torch.manual_seed`` would
    reset those of the GPUs too. One thread at a time, for there is one generator.

    Examples
    --------
    >>> import torch
    >>> from sktransfer._utils.random import private_seed
    >>> with private_seed(0):
    ...     first = torch.nn.Linear(2, 2)
    >>> with private_seed(0):
    ...     second = torch.nn.Linear(2, 2)
    >>> bool((first.weight == second.weight).all())
    True
    """
    with _SEEDING, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0 if seed is None else int(seed))
        yield


def draws_in_training(modules: Iterable[nn.Module]) -> bool:
    """Whether a step of training may draw from the global generator: by dropout, or by modules that
    others wrote, of which nothing is known.

    Examples
    --------
    >>> from torch import nn
    >>> from sktransfer._utils.random import draws_in_training
    >>> draws_in_training([nn.Linear(2, 2)]), draws_in_training([nn.Dropout(0.5)])
    (False, True)
    """
    return any(_may_draw(part) for module in modules for part in module.modules())


def _may_draw(module: nn.Module) -> bool:
    if not f"{type(module).__module__}.".startswith(_KNOWN):
        return True
    shares = (getattr(module, name, None) for name in _SHARES)
    return any(isinstance(share, (int, float)) and share > 0 for share in shares)
