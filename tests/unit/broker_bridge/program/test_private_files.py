"""Files that are written whole or not at all, locks, and one line for what the system does not allow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.program.private_files import FileUnusable, locked, reading, try_lock, write_files


def test_a_failed_write_changes_no_file(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "missing" / "bad"
    good.write_bytes(b"before")
    with pytest.raises(FileUnusable, match="bad cannot be written: No such file"):
        write_files({good: b"after", bad: b"after"})
    assert good.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [good]


def test_everything_is_on_the_disk_before_anything_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync
    unsynced = {"one": b"1", "two": b"2"}

    def fsync(descriptor: int) -> None:
        if unsynced:
            assert not any((tmp_path / name).exists() for name in ("one", "two"))
            unsynced.popitem()
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_files({tmp_path / "one": b"1", tmp_path / "two": b"2"})
    assert not unsynced
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"one": b"1", "two": b"2"}


def test_a_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path / "lock"):
        assert try_lock(tmp_path / "lock") is None
    held = try_lock(tmp_path / "lock")
    assert held is not None
    assert try_lock(tmp_path / "lock") is None
    os.close(held)


def test_a_lock_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FileUnusable, match="lock cannot be written: No such file or directory"):
        try_lock(tmp_path / "missing" / "lock")


def test_what_is_missing_is_named_with_what_to_do(tmp_path: Path) -> None:
    missing = tmp_path / "x"
    with pytest.raises(FileUnusable, match="x does not exist: make it"), reading(missing, if_missing="make it"):
        missing.read_bytes()
