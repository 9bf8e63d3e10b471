"""What a phase of training is told, and what it remembers; it must not know what is trained."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Schedule:
    """How long a phase is, and how its rates go.

    Parameters
    ----------
    epochs : int
    rates : str
        Name of a schedule, of :data:`sktransfer._finetune._optimizers.SCHEDULES`.
    warmup_epochs : float
    patience : int or None
        Epochs without a better validation loss before the phase ends.
    restore_best : bool
        Whether the weights of the best epoch are taken at the end, where there are rows to tell.
    ema_decay : float or None
        Of the moving average of the weights that is validated and kept.
    """

    epochs: int
    rates: str = "cosine"
    warmup_epochs: float = 0.0
    patience: int | None = None
    restore_best: bool = True
    ema_decay: float | None = None


@dataclass
class Progress:
    """What a phase has to remember from epoch to epoch; a checkpoint holds it."""

    epoch: int = 0
    step: int = 0
    best_loss: float = float("inf")
    best_epoch: int = 0
    best: dict[str, Tensor] | None = None
    average: dict[str, Tensor] = field(default_factory=dict)
    plateau: float = 1.0
    plateau_since: int = 0
