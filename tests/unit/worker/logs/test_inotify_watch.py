"""Log files are watched: what is written is shipped when it is written, nobody has to look."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_mqtt.broker_bridge.protocol.messages import LogPosition
from edge_mqtt.worker.logs import shipper
from edge_mqtt.worker.logs.inotify_watch import InotifyWatch
from edge_mqtt.worker.timing import WorkerTiming
from tests.support.scenario_log_shipper import JOB_ID, LAUNCHED, LogScene

PATIENCE_S = 20.0
NEVER_S = 1000.0


def play(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))


def append(file: Path, data: bytes) -> None:
    with file.open("ab") as stream:
        stream.write(data)


class Ear:
    """Hears of growth."""

    def __init__(self) -> None:
        self.count = 0
        self._heard = asyncio.Event()

    def grown(self) -> None:
        self.count += 1
        self._heard.set()

    async def next(self) -> None:
        await self._heard.wait()
        self._heard.clear()


def test_growth_is_told_once_and_again_only_to_those_who_listen(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.touch()

    async def scenario() -> None:
        ear = Ear()
        watch = InotifyWatch(ear.grown)
        assert watch.add(file) is not None
        watch.listen()
        append(file, b"one")
        await ear.next()
        append(file, b"two")
        await asyncio.sleep(0)
        assert ear.count == 1
        watch.listen()
        append(file, b"three")
        await ear.next()
        assert ear.count == 2
        watch.close()

    play(scenario)


def test_file_is_watched_wherever_it_is_moved(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.touch()

    async def scenario() -> None:
        ear = Ear()
        watch = InotifyWatch(ear.grown)
        watch.add(file)
        append(file.rename(tmp_path / "log.1"), b"one")
        watch.listen()
        append(tmp_path / "log.1", b"two")
        await ear.next()
        watch.close()

    play(scenario)


def test_two_jobs_of_one_file_share_its_watch(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.touch()

    async def scenario() -> None:
        ear = Ear()
        watch = InotifyWatch(ear.grown)
        first, second = watch.add(file), watch.add(file)
        assert first is not None
        assert second is not None
        watch.remove(first)
        watch.listen()
        append(file, b"one")
        await ear.next()
        file.unlink()
        watch.remove(second)
        watch.close()

    play(scenario)


def test_file_that_is_not_there_is_not_watched(tmp_path: Path) -> None:
    async def scenario() -> None:
        watch = InotifyWatch(lambda: None)
        assert watch.add(tmp_path / "log") is None
        watch.close()

    play(scenario)


@asynccontextmanager
async def shipping(folder: Path, timing: WorkerTiming | None = None) -> AsyncIterator[LogScene]:
    scene = LogScene(folder, timing)
    running = asyncio.create_task(scene.shipper.run())
    yield scene
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


#: Only a watch tells of what is written.
NO_LOOKS = WorkerTiming(log_look_s=NEVER_S, watched_log_look_s=NEVER_S)
NO_LOOKS_NO_PACE = replace(NO_LOOKS, log_pace_s=NEVER_S)


def test_line_is_shipped_when_it_is_written(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with shipping(tmp_path, NO_LOOKS) as scene:
            scene.path.touch()
            scene.shipper.follow_log(LAUNCHED)
            for number in range(1, 4):
                scene.write(b"line\n")
                await scene.arrived(b"line\n" * number)

    play(scenario)


def test_lines_that_come_fast_travel_together(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with shipping(tmp_path, replace(NO_LOOKS, log_pace_s=0.3)) as scene:
            scene.write(b"first\n")
            scene.shipper.follow_log(LAUNCHED)
            await scene.arrived(b"first\n")
            for _ in range(100):
                scene.write(b"line\n")
                await asyncio.sleep(0)
            await scene.arrived(b"first\n" + b"line\n" * 100)
            assert scene.chunks == 2

    play(scenario)


def test_end_of_a_log_does_not_wait(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with shipping(tmp_path, NO_LOOKS_NO_PACE) as scene:
            scene.write(b"first\n")
            scene.shipper.follow_log(LAUNCHED)
            await scene.arrived(b"first\n")
            scene.write(b"last\n")
            scene.end()
            await scene.arrived(b"first\nlast\n")

    play(scenario)


def test_what_was_lost_with_a_connection_is_sent_again_at_once_on_the_next(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with shipping(tmp_path, NO_LOOKS_NO_PACE) as scene:
            scene.write(b"kept\nlost\n")
            scene.shipper.follow_log(LAUNCHED)
            await scene.arrived(b"kept\nlost\n")
            del scene.stored[len(b"kept\n") :]
            scene.shipper.resume_logs([LogPosition(job_id=JOB_ID, offset=len(scene.stored))])
            await scene.arrived(b"kept\nlost\n")

    play(scenario)


def test_file_that_comes_after_its_job_is_found(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with shipping(tmp_path) as scene:
            scene.shipper.follow_log(LAUNCHED)
            await asyncio.sleep(0)
            scene.write(b"line\n")
            await scene.arrived(b"line\n")

    play(scenario)


def test_without_inotify_files_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none(_: object) -> None:
        raise OSError(24, os.strerror(24))

    monkeypatch.setattr(shipper, "InotifyWatch", none)

    async def scenario() -> None:
        async with shipping(tmp_path) as scene:
            scene.shipper.follow_log(LAUNCHED)
            for number in range(1, 4):
                scene.write(b"line\n")
                await scene.arrived(b"line\n" * number)

    play(scenario)
    assert "no inotify: [Errno 24]" in caplog.text


def test_shipper_without_anything_to_ship_sets_no_timer(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with shipping(tmp_path) as scene:
            scene.write(b"line\n")
            scene.shipper.follow_log(LAUNCHED)
            await scene.arrived(b"line\n")
            scene.end()
            scene.acknowledge()
            assert scene.shipper._idle_wait_s() is None

    play(scenario)
