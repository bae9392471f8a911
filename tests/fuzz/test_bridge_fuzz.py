"""Odd messages of every kind, from bytes through codec, router, core and ledger: nothing inside may go wrong.

``make fuzz`` sends a million; this is the short form of it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.protocol.messages import bounds
from tests.fuzz.run import fuzz

MESSAGES = 2_000


@pytest.mark.parametrize("seed", ["one", "two"])
def test_odd_messages_find_nothing(tmp_path: Path, seed: str) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    for start in range(2):
        outcome = fuzz(tmp_path, url, MESSAGES, f"{seed}-{start}")
        assert outcome.problems == ()
        assert outcome.packets == MESSAGES
        assert min(outcome.jobs["queued"], outcome.jobs["finished"]) > 9, "what is valid gets through"
        assert MESSAGES / 4 < outcome.rejected < MESSAGES * 3 / 4


def test_a_text_that_no_database_takes_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def as_it_is(text: str, _max_chars: int) -> str:
        return text + "\ud800"

    monkeypatch.setattr(bounds, "readable", as_it_is)
    outcome = fuzz(tmp_path, f"sqlite:///{tmp_path / 'ledger.db'}", MESSAGES, "one")
    assert any("UnicodeEncodeError" in problem for problem in outcome.problems), outcome.problems
