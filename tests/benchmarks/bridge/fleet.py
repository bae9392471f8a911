"""Everybody who connects to one bridge."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from tests.benchmarks.bridge.certificates import Parties
from tests.benchmarks.bridge.loop import Loop
from tests.benchmarks.bridge.simulated import QUEUE, Life, SimulatedExecutor, SimulatedWorker
from tests.support.bad_link import BadLink

#: Connections that are being set up at once.
SETTING_UP: Final = 64
#: Served by the worker at the end of the long link only.
FAR_QUEUE: Final = b"far"


class Fleet:
    """An executor, workers, and one worker at the end of a link of its own."""

    def __init__(self, loop: Loop, parties: Parties, port: int) -> None:
        self.loop = loop
        self.parties = parties
        self.address = ("127.0.0.1", port)
        self.jobs: dict[bytes, Life] = {}
        self.welcomed = 0
        self.refused_starts = 0
        #: Whether jobs that have started go on until they are told to end.
        self.hold = False
        self.executor = SimulatedExecutor(self)
        self.workers: list[SimulatedWorker] = []
        self.link = BadLink(port)
        self._far = SimulatedWorker(self, "far", queue=FAR_QUEUE, address=("127.0.0.1", self.link.port))

    def begin(self, *, rtt_s: float) -> None:
        """Connect the executor, and the far worker over a link of some round trip time."""
        self.executor.connect()
        self.loop.run_until(lambda: self.executor.welcomed, "the executor's connection")
        self.connect([self._far])
        self.link.delay_s = rtt_s / 2

    def grow(self, count: int) -> None:
        """Connect workers until there are ``count``."""
        new = [SimulatedWorker(self, f"w{number:04d}") for number in range(len(self.workers), count)]
        self.workers += new
        self.connect(new)

    def connect(self, workers: Sequence[SimulatedWorker], *, at_once: int = SETTING_UP) -> None:
        """Connect workers and wait until all are welcome."""
        before, waiting, begun = self.welcomed, deque(workers), 0

        def go_on() -> bool:
            nonlocal begun
            while waiting and begun - (self.welcomed - before) < at_once:
                waiting.popleft().connect()
                begun += 1
            return self.welcomed - before >= len(workers)

        self.loop.run_until(go_on, "every worker's welcome")

    def reconnect(self) -> None:
        """Drop every near worker's connection at once; wait until all are back and welcome."""
        for worker in self.workers:
            worker.cut()
        self.connect(self.workers, at_once=len(self.workers))

    def run_jobs(self, count: int, *, outstanding: int, queue: bytes = QUEUE) -> list[Life]:
        """Have jobs run, so many at a time; return them when they and their logs are stored."""
        known = len(self.jobs)
        self.executor.left = count - min(count, outstanding)
        for _ in range(count - self.executor.left):
            self.executor.submit(queue)
        return self.drain(known)

    def drain(self, known: int) -> list[Life]:
        """Wait until all jobs and their logs are stored; return those after the first ``known``."""
        self.loop.run_until(lambda: not self.executor.left, "the submission of all jobs")
        lives = list(self.jobs.values())[known:]
        self.loop.run_until(
            lambda: all(life.finished and life.log_stored for life in lives), f"the end of {len(lives)} jobs"
        )
        return lives

    def round_trip(self) -> float:
        """Return how long the long link takes there and back: its proxy adds to what it was told."""
        far, pongs, began = self._far, self._far.pongs, time.perf_counter()
        far.line().ping()
        self.loop.run_until(lambda: far.pongs > pongs, "the answer to a ping")
        return time.perf_counter() - began

    def close(self) -> None:
        """End the link; the connections are the loop's."""
        self.link.close()
