"""The learning rate in the history, and numbered checkpoints by skorch's callback."""

from __future__ import annotations

import numpy as np
import pytest
from skorch.callbacks import Checkpoint

NET = "squeezenet1_1"


def test_the_history_has_the_rate_of_each_epoch_and_stage(small, task):
    clf = small(
        NET, lr=1e-3, lr__layer_decay=0.5, lr_schedule="linear", lr_schedule__final=0.1,
        max_epochs=4, freeze_depth=-2, head__init="random", head__epochs=1,
    ).fit(*task)  # fmt: skip
    head, *epochs = clf.history_
    assert head["phase"] == "head"
    assert head["lr_by_stage"] == {"head": 1e-2}
    rates = [row["lr_by_stage"] for row in epochs]
    last, before = [name for name in rates[0] if name != "head"][::-1]
    for row in epochs:
        assert row["lr"] == max(row["lr_by_stage"].values()) == row["lr_by_stage"]["head"]
    assert all(each[before] == pytest.approx(each[last] / 2) for each in rates)
    lasts = [each[last] for each in rates]
    assert lasts == sorted(lasts, reverse=True)
    assert 1e-4 < lasts[-1] < 1.6e-4  # of the last step, one before the end of the schedule


def test_a_head_that_was_solved_has_no_rate(small, task):
    (row,) = small(NET, freeze_depth="all").fit(*task).history_
    assert "lr" not in row


def every_second(net):
    return len(net.history) % 2 == 0


def test_numbered_checkpoints_are_written_and_loaded(small, task, tmp_path):
    keep = Checkpoint(
        monitor=every_second, dirname=tmp_path, f_params="epoch-{last_epoch[epoch]:03d}.pt",
        f_optimizer=None, f_criterion=None, f_history=None,
    )  # fmt: skip
    settings = {"lr": 1e-3, "lr_schedule": "constant"}
    clf = small(NET, max_epochs=4, callbacks=[keep], **settings).fit(*task)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-002.pt", "epoch-004.pt"]
    at_the_end = clf.predict_proba(task[0])
    clf.load_params(f_params=tmp_path / "epoch-002.pt")
    after_two = clf.predict_proba(task[0])
    assert not np.allclose(after_two, at_the_end)
    shorter = small(NET, max_epochs=2, **settings).fit(*task)
    assert np.array_equal(after_two, shorter.predict_proba(task[0]))
    clf.load_params(f_params=tmp_path / "epoch-004.pt")
    assert np.array_equal(clf.predict_proba(task[0]), at_the_end)
    # A file of `save` holds no code, so callbacks have to go first.
    clf.set_params(callbacks=None).save(tmp_path / "model.safetensors")
    loaded = type(clf).load(tmp_path / "model.safetensors", weights=None)
    assert np.allclose(loaded.predict_proba(task[0]), at_the_end, atol=1e-6)
