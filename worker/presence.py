"""Says that we are there, counts the lease by what the centre confirms, and stops jobs when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edge_mqtt.broker_bridge.protocol.messages import Presence, PresenceAck, Welcome, WorkerState
from edge_mqtt.worker.core.lease import Lease
from edge_mqtt.worker.held import HeldJobs
from edge_mqtt.worker.link import Link
from edge_mqtt.worker.log_shipping import note
from edge_mqtt.worker.order import lease_file
from edge_mqtt.worker.running import Runs
from edge_mqtt.worker.sysinfo import boottime, write_atomically

log = logging.getLogger(__name__)

#: Seconds after which a presence that nobody welcomed is sent again: the bridge may just not be there yet.
WELCOME_WAIT_S: Final = 5.0
#: Seconds between looks at a lease that is running out: the machine may have slept meanwhile.
LEASE_LOOK_S: Final = 2.0
#: Presences whose confirmation may still come.
SENT_KEPT: Final = 16
OUT_OF_REACH: Final = "the bridge was out of reach for longer than offline_grace"


class PresenceLoop:
    """One worker's presence and lease."""

    def __init__(
        self,
        link: Link,
        held: HeldJobs,
        runs: Runs,
        *,
        version: str,
        queues: tuple[str, ...],
        state: Callable[[], WorkerState],
    ) -> None:
        self._link = link
        self._held = held
        self._runs = runs
        self._version = version
        self._queues = queues
        self._state = state
        self._interval_s = 20.0
        #: What the centre said last; None before its first word.
        self._offline_grace_s: float | None = None
        #: It has said so on this connection.
        self._welcomed = False
        self._kill_grace_s = 10.0
        self._sequence = 0
        #: When the presences of this connection were sent, by their sequence.
        self._sent: OrderedDict[int, float] = OrderedDict()
        self._lease_file = lease_file(runs.plan.runs_dir)
        self._lease = Lease.from_json(_read(self._lease_file))
        #: When that was sent which the lease counts from.
        self._confirmed_at = 0.0
        self._busy = bool(held.with_process())
        #: Since when there is always a process; one of a worker before us has the lease that it left.
        self._busy_since = 0.0
        self._wake = asyncio.Event()
        #: There is nothing to say until a job comes.
        self._quiet = False
        held.on_change = self._held_changed

    # ------------------------------------------------------------ what happens

    def connected(self) -> None:
        """Introduce ourselves on a new connection."""
        self._sequence = 0
        self._sent.clear()
        # The bridge may have been started again with another grace: a confirmation counts once it has said which.
        self._welcomed = False
        self._send()

    def changed(self) -> None:
        """Say at once what is new about us, and look at the clock again."""
        if self._link.ready:
            self._sequence += 1
            self._send()
        self._wake.set()

    def welcomed(self, welcome: Welcome) -> None:
        """Take over what the centre wants; being welcomed also confirms the first presence."""
        self._interval_s = welcome.presence_interval_s
        self._offline_grace_s = welcome.offline_grace_s
        self._welcomed = True
        self._kill_grace_s = welcome.kill_grace_s
        self._confirm(0)
        self._wake.set()

    def confirmed(self, ack: PresenceAck) -> None:
        """Count the lease from a presence that the centre has."""
        if (ack.incarnation, ack.connection) == (self._link.address.incarnation, self._link.connection):
            self._confirm(ack.sequence)

    def permitted(self, asked_at: float) -> None:
        """Count the lease from the question whether a job may start, which the centre has answered with yes.

        :param asked_at: when it was sent, in seconds since boot.
        """
        if self._offline_grace_s is not None:
            self._grant(asked_at, self._offline_grace_s)

    def farewell(self) -> None:
        """Say that we are going."""
        self._sequence += 1
        self._send(WorkerState.OFFLINE)

    # ------------------------------------------------------------ loops

    async def run(self) -> None:
        """Send presences: until we are welcome, and then for as long as there are jobs."""
        while True:
            self._wake.clear()
            wait_s = self._interval_s if self._link.ready else WELCOME_WAIT_S
            self._quiet = self._link.ready and not len(self._held)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if self._quiet else wait_s):
                    await self._wake.wait()
                    continue
            if self._link.ready:
                self._sequence += 1
                self._send()
            elif self._sent:
                # Still the first: nobody has answered it.
                self._send()

    async def guard(self) -> None:
        """Stop the running jobs when the lease ends."""
        while True:
            await self._held.until(lambda held: bool(held.with_process()))
            lease = self._valid_lease()
            left = LEASE_LOOK_S if lease is None else lease.stop_at - boottime()
            if lease is not None and left <= 0:
                self._stop_all(lease)
            await asyncio.sleep(min(LEASE_LOOK_S, max(left, 0.1)))

    def _stop_all(self, lease: Lease) -> None:
        for job in self._held.with_process():
            if self._runs.is_stopping(job.job_id):
                continue
            note(self._runs.plan.log_file(job), f"Stopped by the edge worker: {OUT_OF_REACH}")
            self._runs.stop(job, OUT_OF_REACH, grace_s=max(0.0, lease.kill_at - boottime()))

    # ------------------------------------------------------------ parts

    def _valid_lease(self) -> Lease | None:
        """Return the lease; None while the processes are new and the centre has permitted none to start.

        An idle worker says nothing, so that its lease ends with nothing to stop.
        """
        return self._lease if self._confirmed_at >= self._busy_since else None

    def _held_changed(self) -> None:
        before, self._busy = self._busy, bool(self._held.with_process())
        if self._busy and not before:
            self._busy_since = boottime()
        if self._quiet:
            self._wake.set()

    def _send(self, state: WorkerState | None = None) -> None:
        jobs = (job.for_presence() for job in self._held)
        presence = Presence(
            incarnation=self._link.address.incarnation,
            connection=self._link.connection,
            sequence=self._sequence,
            state=state or self._state(),
            version=self._version,
            queues=self._queues,
            concurrency=self._runs.plan.concurrency,
            jobs=tuple(job for job in jobs if job is not None),
        )
        now = boottime()
        if self._link.send_presence(presence):
            # A repeated one counts from its first sending: the answer may be to that.
            self._sent.setdefault(self._sequence, now)
            while len(self._sent) > SENT_KEPT:
                self._sent.popitem(last=False)

    def _confirm(self, sequence: int) -> None:
        sent_at = self._sent.get(sequence)
        if sent_at is not None and self._offline_grace_s is not None and self._welcomed:
            self._grant(sent_at, self._offline_grace_s)

    def _grant(self, sent_at: float, offline_grace_s: float) -> None:
        if sent_at < self._confirmed_at:
            return
        lease = Lease.granted(confirmed_at=sent_at, offline_grace_s=offline_grace_s, kill_grace_s=self._kill_grace_s)
        # The later confirmation counts, not the longer lease: the centre may grant less than it did.
        self._confirmed_at, self._lease = sent_at, lease
        # For the launcher, which guards it when we are dead, and for a restarted worker. Not synced to the disk:
        # after a loss of power there is nothing left to stop.
        try:
            write_atomically(self._lease_file, lease.to_json(), durable=False)
        except OSError as error:
            log.warning("the lease cannot be written: %s", error.strerror, extra={"action": "lease_unwritable"})


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
