"""Odd messages to a bridge on PostgreSQL, which takes less than SQLite: nothing inside may go wrong."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.run import fuzz

MESSAGES = 3_000


def test_odd_messages_find_nothing_in_postgresql_either(tmp_path: Path, url: str) -> None:
    outcome = fuzz(tmp_path, url, MESSAGES, "postgres")
    assert outcome.problems == ()
    assert outcome.packets == MESSAGES
    assert min(outcome.jobs["queued"], outcome.jobs["finished"]) > 9
