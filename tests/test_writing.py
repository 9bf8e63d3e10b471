"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import time

import pytest

from sktransfer._utils.writing import written_whole


def test_a_file_is_replaced_at_the_end_and_not_before(tmp_path):
    path = tmp_path / "a[1].json"
    path.write_text("old")
    with written_whole(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")

    def interrupted():
        with written_whole(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]
    assert path.read_text() == "old"


def test_what_a_killed_writer_left_is_removed_a_day_later(tmp_path):
    left, other, busy = (
        tmp_path / name for name in (".a.json.00.part", ".b.json.00.part", ".a.json.11.part")
    )
    for each in (left, other, busy):
        each.write_text("half")
    for each in (left, other):
        os.utime(each, (time.time() - 100_000,) * 2)
    with written_whole(tmp_path / "a.json") as temporary:
        temporary.write_text("new")
    assert {each.name for each in tmp_path.iterdir()} == {"a.json", other.name, busy.name}
