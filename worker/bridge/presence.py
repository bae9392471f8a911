"""Tells the bridge that this worker is there, and what it has: at every connection, and while it has jobs."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from edge_mqtt.broker_bridge.protocol.messages import Presence, PresenceAck, Welcome, WorkerState
from edge_mqtt.worker.bridge.clock_watch import ClockWatch, moment_now
from edge_mqtt.worker.jobs.store import JobStore
from edge_mqtt.worker.link import Link
from edge_mqtt.worker.system.boot_clock import boottime
from edge_mqtt.worker.timing import WorkerTiming

#: Presences whose confirmation may still come.
SENT_KEPT: Final = 16


class PresenceLoop:
    """One worker's presence.

    :param concurrency: slots of the worker.
    :param state: returns what the presence says of the worker.
    :param clock: learns from the answers.
    :param record_contact: told when a presence was sent, in seconds since boot, that the bridge has confirmed.
    """

    def __init__(
        self,
        link: Link,
        jobs: JobStore,
        *,
        version: str,
        queues: tuple[str, ...],
        concurrency: int,
        state: Callable[[], WorkerState],
        record_contact: Callable[[float], None],
        clock: ClockWatch,
        timing: WorkerTiming | None = None,
    ) -> None:
        self._link = link
        self._jobs = jobs
        self._version = version
        self._queues = queues
        self._concurrency = concurrency
        self._state = state
        self._record_contact = record_contact
        self._clock = clock
        self._timing = timing or WorkerTiming()
        self._interval_s = 20.0
        self._sequence = 0
        #: When the presences of this connection were sent, by their sequence.
        self._sent: OrderedDict[int, float] = OrderedDict()
        self._wake = asyncio.Event()
        #: The bridge has not been told yet how far our clock is from its own.
        self._clock_is_news = False
        #: There is nothing to say until a job comes.
        self._is_quiet = False
        jobs.add_listener(self._wake_if_quiet)

    # ------------------------------------------------------------ what happens

    def introduce_worker(self) -> None:
        """Send the first presence of a new connection."""
        self._sequence = 0
        self._sent.clear()
        self._send_presence()

    def announce_change(self) -> None:
        """Say at once what is new about us, and look at the clock again."""
        if self._link.ready:
            self._send_next()
        self._wake.set()

    def record_welcome(self, welcome: Welcome) -> None:
        """Go by what the bridge wants; being welcomed also confirms the first presence."""
        self._interval_s = welcome.presence_interval_s
        self._confirm_presence(0, welcome.sent_at)
        self._wake.set()

    def record_ack(self, ack: PresenceAck) -> None:
        """Count the leases from a presence that the bridge has."""
        if (ack.incarnation, ack.connection) == (self._link.address.incarnation, self._link.connection):
            self._confirm_presence(ack.sequence, ack.sent_at)

    def send_farewell(self) -> None:
        """Say that we are going."""
        self._send_next(WorkerState.OFFLINE)

    # ------------------------------------------------------------ loop

    async def run(self) -> None:
        """Send presences: until we are welcome, and then for as long as there are jobs."""
        while True:
            self._wake.clear()
            wait_s = self._interval_s if self._link.ready else self._timing.welcome_wait_s
            self._is_quiet = self._link.ready and not len(self._jobs)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if self._is_quiet else wait_s):
                    await self._wake.wait()
                    continue
            if self._link.ready:
                # The last job may be gone since the wait began: then there is nothing to say any more.
                if len(self._jobs):
                    self._send_next()
            elif self._sent:
                # Still the first: it has not been answered.
                self._send_presence()

    def _wake_if_quiet(self) -> None:
        if self._is_quiet:
            self._wake.set()

    def _send_next(self, state: WorkerState | None = None) -> None:
        self._sequence += 1
        self._send_presence(state)

    def _send_presence(self, state: WorkerState | None = None) -> None:
        reports = (job.to_report() for job in self._jobs)
        presence = Presence(
            incarnation=self._link.address.incarnation,
            home=self._jobs.home,
            connection=self._link.connection,
            sequence=self._sequence,
            state=state or self._state(),
            version=self._version,
            queues=self._queues,
            concurrency=self._concurrency,
            jobs=tuple(report for report in reports if report is not None),
            clock_offset_s=self._clock.offset_s(moment_now()),
        )
        now = boottime()
        if self._link.send_presence(presence):
            # A repeated one counts from its first sending: the answer may be to that.
            self._sent.setdefault(self._sequence, now)
            while len(self._sent) > SENT_KEPT:
                self._sent.popitem(last=False)

    def _confirm_presence(self, sequence: int, centre: float | None) -> None:
        sent_at = self._sent.get(sequence)
        if sent_at is None:
            return
        self._record_contact(sent_at)
        if centre is not None and self._clock.record_answer(sent_at, centre):
            self._clock_is_news = True
        # The confirmation of the first presence may come before the welcome.
        if self._clock_is_news and self._link.ready:
            self._clock_is_news = False
            self._send_next()
