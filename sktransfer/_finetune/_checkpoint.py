"""Training states in a directory, one sub-directory per task, to go on from after a kill.

It must not know what is trained.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
from pathlib import Path
from typing import Any

import torch

_FILE = "training.pt"


class Checkpoints:
    """The states of one training.

    Parameters
    ----------
    directory : path-like
        Made if it does not exist. Other trainings (folds, candidates) write beside this one.
    fingerprint : str
        Of everything that decides the result: what another training left is not taken up.
    every : int
        Epochs between states.
    """

    def __init__(self, directory: str | os.PathLike[str], fingerprint: str, every: int) -> None:
        self.path = Path(directory) / fingerprint
        self.every = every

    def load(self, net: Any, make: type) -> Any:
        """The last state put into ``net``, as what ``make`` makes; a fresh one if there is none."""
        file = self.path / _FILE
        if not file.is_file():
            return make()
        state = torch.load(file, map_location="cpu", weights_only=True)
        net.module_.restore(state["learned"])
        net.optimizer_.load_state_dict(state["optimizer"])
        net.history.extend(json.loads(state["history"]))
        return make(**state["progress"])

    def save(self, net: Any, progress: Any, *, last: bool) -> None:
        """Write a state if it is time; whole or not at all."""
        if not last and progress.epoch % self.every:
            return
        state = {
            "learned": net.module_.learned(),
            "optimizer": net.optimizer_.state_dict(),
            "history": json.dumps(list(net.history)),
            "progress": {
                each.name: getattr(progress, each.name) for each in dataclasses.fields(progress)
            },
        }
        self.path.mkdir(parents=True, exist_ok=True)
        temporary = self.path / f".{_FILE}-{secrets.token_hex(4)}"
        try:
            torch.save(state, temporary)
            os.replace(temporary, self.path / _FILE)
        finally:
            temporary.unlink(missing_ok=True)
