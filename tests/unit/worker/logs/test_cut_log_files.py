"""A log file that is cut off or moved away while it is shipped: the centre goes on with what comes, and says so."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.protocol.ids import Fence
from edge_mqtt.broker_bridge.protocol.messages import LogAck, LogPosition
from tests.support.scenario_log_shipper import JOB_ID, LAUNCHED, LogScene


def play(folder: Path, scenario: Callable[[LogScene], None], *, log_base: int = 0) -> None:
    async def run() -> None:
        scene = LogScene(folder)
        if log_base:
            scene.write(b"b" * log_base)
        scene.shipper.follow_log(replace(LAUNCHED, log_base=log_base))
        scenario(scene)
        scene.shipper.forget_log(JOB_ID)

    asyncio.run(run())


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("log_base", [0, 100])
def test_what_is_written_after_a_cut_comes_after_what_was_shipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, log_base: int
) -> None:
    def scenario(scene: LogScene) -> None:
        scene.write(b"before\n")
        assert scene.ship() == b"before\n"
        os.truncate(scene.path, 0)
        scene.write(b"after\n")
        assert scene.ship() == b"before\nafter\n"
        scene.write(b"later\n")
        assert scene.ship() == b"before\nafter\nlater\n"
        os.truncate(scene.path, 0)
        scene.write(b"again\n")
        assert scene.ship() == b"before\nafter\nlater\nagain\n"
        assert scene.end() == len(scene.stored)
        assert scene.shipper.is_stored(JOB_ID)

    with caplog.at_level(logging.WARNING):
        play(tmp_path, scenario, log_base=log_base)
    assert caplog.text.count("was cut off") == 2


def test_log_that_was_cut_before_anything_of_it_was_shipped_loses_nothing_that_is_there(tmp_path: Path) -> None:
    def scenario(scene: LogScene) -> None:
        os.truncate(scene.path, 0)
        scene.write(b"after\n")
        assert scene.ship() == b"after\n"

    play(tmp_path, scenario, log_base=100)


def test_end_of_a_cut_log_that_is_shipped_after_the_job_s_end_is_not_lost(tmp_path: Path) -> None:
    def scenario(scene: LogScene) -> None:
        scene.write(b"before\n")
        scene.ship(acknowledged=False)
        os.truncate(scene.path, 0)
        scene.write(b"after\n")
        assert scene.end() == len(b"before\nafter\n")
        # What is on its way may have to be sent again: the new bytes wait until its fate is known.
        assert scene.ship() == b"before\n"
        assert not scene.shipper.is_stored(JOB_ID)
        assert scene.ship() == b"before\nafter\n"
        assert scene.shipper.is_stored(JOB_ID)

    play(tmp_path, scenario)


def test_bytes_that_were_lost_on_the_way_and_then_on_the_disk_hold_nothing_up(tmp_path: Path) -> None:
    def scenario(scene: LogScene) -> None:
        scene.write(b"before\n")
        scene.ship()
        scene.write(b"lost on the way\n")
        scene.ship(acknowledged=False)
        del scene.stored[len(b"before\n") :]
        os.truncate(scene.path, 0)
        scene.write(b"after\n")
        scene.shipper.resume_logs([LogPosition(job_id=JOB_ID, offset=len(scene.stored))])
        assert scene.ship() == b"before\nafter\n"
        assert scene.end() == len(scene.stored)
        assert scene.shipper.is_stored(JOB_ID)

    play(tmp_path, scenario)


def test_log_that_is_moved_away_is_shipped_from_where_it_is(tmp_path: Path) -> None:
    def scenario(scene: LogScene) -> None:
        scene.write(b"before\n")
        scene.ship()
        with scene.path.open("ab") as writer:
            scene.path.rename(tmp_path / "task.log.1")
            writer.write(b"after\n")
        assert scene.ship() == b"before\nafter\n"
        with (tmp_path / "task.log.1").open("ab") as writer:
            writer.write(b"last\n")
        assert scene.end() == len(b"before\nafter\nlast\n")
        assert scene.ship() == b"before\nafter\nlast\n"
        assert scene.shipper.is_stored(JOB_ID)

    play(tmp_path, scenario)


def test_ended_logs_are_not_held_open(tmp_path: Path) -> None:
    def scenario(scene: LogScene) -> None:
        held_open = open_descriptors()
        scene.write(b"before\n")
        scene.ship()
        assert open_descriptors() == held_open + 1
        scene.write(b"after\n")
        scene.end()
        assert scene.ship() == b"before\nafter\n"
        assert open_descriptors() == held_open

    play(tmp_path, scenario)


def test_log_that_is_gone_when_its_job_has_ended_is_given_up(tmp_path: Path) -> None:
    def scenario(scene: LogScene) -> None:
        scene.write(b"before\n")
        assert scene.end() == len(b"before\n")
        scene.path.unlink()
        assert scene.ship() == b""
        assert scene.shipper.is_stored(JOB_ID)

    play(tmp_path, scenario)


def test_log_that_stays_here_is_neither_read_nor_waited_for(tmp_path: Path) -> None:
    async def run() -> None:
        scene = LogScene(tmp_path)
        scene.write(b"for nobody but this machine\n")
        held_open = open_descriptors()
        scene.shipper.follow_log(replace(LAUNCHED, ships_log=False))
        assert scene.ship() == b""
        assert scene.end() == 0
        assert scene.shipper.is_stored(JOB_ID)
        assert open_descriptors() == held_open

    asyncio.run(run())
    assert (tmp_path / "task.log").read_bytes() == b"for nobody but this machine\n"


def test_acknowledgement_of_an_earlier_run_says_nothing_of_this_one(tmp_path: Path) -> None:
    def scenario(scene: LogScene) -> None:
        scene.write(b"before\n")
        scene.ship(acknowledged=False)
        scene.end()
        earlier = Fence(LAUNCHED.fence - 1)
        scene.shipper.record_ack(LogAck(job_id=JOB_ID, fence=earlier, offset=len(b"before\n")))
        assert not scene.shipper.is_stored(JOB_ID)
        scene.acknowledge()
        assert scene.shipper.is_stored(JOB_ID)

    play(tmp_path, scenario)
