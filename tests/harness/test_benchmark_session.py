"""A run of the benchmark goes on when something fails, and says what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.executors.session import QUICK, Session
from tests.benchmarks.executors.systems import System


class NeverUp(System):
    """Does not start."""

    name = "never up"
    executor = "none"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.stopped = False
        made.append(self)

    def targets(self) -> dict[str, int]:
        return {}

    def start_worker(self) -> None:
        pytest.fail("the worker of a system that did not start was started")

    def start(self) -> None:
        raise RuntimeError("no such program\nand much more about it")

    def stop(self) -> None:
        self.stopped = True


made: list[NeverUp] = []


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def session(tmp_path: Path, told: list[str]) -> Session:
    made.clear()
    return Session(tmp_path, [NeverUp], QUICK, told.append)


def test_a_system_that_does_not_start_is_stopped_and_reported(session: Session, told: list[str]) -> None:
    session.run()
    assert session.failed
    assert session.figures["never up"]["failed"] == [("start", "RuntimeError: no such program")]
    assert "never up: start: RuntimeError: no such program" in told
    assert made[0].stopped


def test_steps_after_a_failed_one_are_taken(session: Session, tmp_path: Path) -> None:
    system, done = NeverUp(tmp_path), list[Any]()
    assert not session.step(system, "first", lambda: 1 / 0)
    assert session.step(system, "second", lambda: done.append(2))
    assert done == [2]
    assert session.figures["never up"]["failed"] == [("first", "ZeroDivisionError: division by zero")]


def test_a_system_that_fails_again_and_again_is_left_alone(session: Session, tmp_path: Path) -> None:
    system, done = NeverUp(tmp_path), list[Any]()
    for _ in range(3):
        session.step(system, "again", lambda: 1 / 0)
    assert not session.step(system, "once more", lambda: done.append(1))
    assert not done
    assert len(session.figures["never up"]["failed"]) == 3


def test_an_interrupt_is_not_taken_for_a_failed_step(session: Session, tmp_path: Path) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.step(NeverUp(tmp_path), "any", interrupted)
    assert not session.failed
