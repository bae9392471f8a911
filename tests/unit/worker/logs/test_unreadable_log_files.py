"""A log file that cannot be read now is no empty one: nothing is dropped or sent twice, and it is said once."""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.scenario_log_shipper import JOB_ID, LAUNCHED, LogScene

SAID = "cannot be read, which is tried again"


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Let this process open no file (EMFILE)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def play(folder: Path, scenario: Callable[[LogScene], None]) -> None:
    async def run() -> None:
        scene = LogScene(folder)
        scene.shipper.follow_log(LAUNCHED)
        scenario(scene)
        scene.shipper.forget_log(JOB_ID)

    # Zone data are read from a file at the first use.
    time.localtime()
    asyncio.run(run())


def end_half_shipped(scene: LogScene) -> None:
    scene.write(b"before\n")
    scene.ship()
    scene.write(b"after\n")
    scene.end()


def test_log_that_cannot_be_opened_for_want_of_descriptors_comes_whole_when_there_are_some(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def scenario(scene: LogScene) -> None:
        scene.write(b"before\n")
        with no_descriptor_left():
            for _ in range(3):
                assert scene.ship() == b""
        assert scene.ship() == b"before\n"

    with caplog.at_level(logging.WARNING):
        play(tmp_path, scenario)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert SAID in caplog.text


def test_end_of_a_job_whose_log_cannot_be_opened_does_not_give_the_log_up(tmp_path: Path) -> None:
    def scenario(scene: LogScene) -> None:
        scene.write(b"before\n")
        with no_descriptor_left():
            assert scene.end() == len(b"before\n")
            assert scene.ship() == b""
            assert not scene.shipper.is_stored(JOB_ID)
        assert scene.ship() == b"before\n"
        assert scene.shipper.is_stored(JOB_ID)

    play(tmp_path, scenario)


def test_log_of_an_ended_job_that_cannot_be_opened_again_is_not_taken_for_cut_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def scenario(scene: LogScene) -> None:
        end_half_shipped(scene)
        with no_descriptor_left():
            assert scene.ship() == b"before\n"
        assert scene.ship() == b"before\nafter\n"
        assert scene.shipper.is_stored(JOB_ID)

    with caplog.at_level(logging.WARNING):
        play(tmp_path, scenario)
    assert "cut off" not in caplog.text


def test_log_of_which_nobody_can_tell_the_size_is_said_once_and_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def scenario(scene: LogScene) -> None:
        scene.path.symlink_to(scene.path)  # ELOOP
        for _ in range(3):
            assert scene.ship() == b""
        scene.path.unlink()
        scene.write(b"line\n")
        assert scene.ship() == b"line\n"
        assert len(caplog.records) == 1
        scene.end()
        scene.path.unlink()
        scene.path.symlink_to(scene.path)
        assert scene.shipper.end_log(LAUNCHED).size == len(b"line\n")

    with caplog.at_level(logging.WARNING):
        play(tmp_path, scenario)
    assert SAID in caplog.text


def test_log_that_fails_while_it_is_read_is_said_once_for_each_time_it_fails(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def scenario(scene: LogScene) -> None:
        end_half_shipped(scene)
        aside = scene.path.rename(tmp_path / "aside")
        scene.path.mkdir()  # Can be opened and not be read: EISDIR.
        for _ in range(3):
            assert scene.ship() == b"before\n"
        assert len(caplog.records) == 1
        scene.path.rmdir()
        aside.rename(scene.path)
        assert scene.ship() == b"before\nafter\n"
        assert scene.shipper.is_stored(JOB_ID)

    with caplog.at_level(logging.WARNING):
        play(tmp_path, scenario)
    assert SAID in caplog.text
