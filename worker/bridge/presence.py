"""Says that we are there, counts the leases by what the centre confirms, and stops each job when its lease ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edge_mqtt.broker_bridge.protocol.messages import Presence, PresenceAck, Welcome, WorkerState
from edge_mqtt.worker.core.job import LocalJob
from edge_mqtt.worker.core.lease import Contact, Lease
from edge_mqtt.worker.ipc.run_files import contact_file
from edge_mqtt.worker.jobs.store import JobStore
from edge_mqtt.worker.link import Link
from edge_mqtt.worker.logs.log_file import note
from edge_mqtt.worker.runs.supervisors import Supervisors
from edge_mqtt.worker.system.boot_clock import boottime
from edge_mqtt.worker.system.files import write_atomically

log = logging.getLogger(__name__)

#: Seconds after which a presence that nobody welcomed is sent again: the bridge may just not be there yet.
WELCOME_WAIT_S: Final = 5.0
#: Seconds between looks at a lease that is running out: the machine may have slept meanwhile.
LEASE_LOOK_S: Final = 2.0
#: Presences whose confirmation may still come.
SENT_KEPT: Final = 16
OUT_OF_REACH: Final = "the bridge was out of reach for longer than offline_grace"


class PresenceLoop:
    """One worker's presence, and the leases of its jobs."""

    def __init__(
        self,
        link: Link,
        held: JobStore,
        runs: Supervisors,
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
        self._kill_grace_s = 10.0
        self._sequence = 0
        #: When the presences of this connection were sent, by their sequence.
        self._sent: OrderedDict[int, float] = OrderedDict()
        self._contact_file = contact_file(runs.plan.runs_dir)
        #: What the leases count from; at first, what the worker before us left.
        self._contact = Contact.from_json(_read(self._contact_file), now=boottime())
        self._busy = bool(held.with_process())
        #: Since when there is always a process; those of the worker before us have the leases that it left.
        self._busy_since = -math.inf
        self._wake = asyncio.Event()
        #: There is nothing to say until a job comes.
        self._quiet = False
        held.on_change = self._held_changed

    # ------------------------------------------------------------ what happens

    def connected(self) -> None:
        """Introduce ourselves on a new connection."""
        self._sequence = 0
        self._sent.clear()
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
        self._kill_grace_s = welcome.kill_grace_s
        self._confirm(0)
        self._wake.set()

    def confirmed(self, ack: PresenceAck) -> None:
        """Count the leases from a presence that the centre has."""
        if (ack.incarnation, ack.connection) == (self._link.address.incarnation, self._link.connection):
            self._confirm(ack.sequence)

    def permitted(self, asked_at: float) -> None:
        """Count the leases from the question whether a job may start, which the centre has answered with yes.

        :param asked_at: when it was sent, in seconds since boot.
        """
        self._grant(asked_at)

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
                # The last job may be gone since the wait began: then there is nothing to say any more.
                if len(self._held):
                    self._sequence += 1
                    self._send()
            elif self._sent:
                # Still the first: nobody has answered it.
                self._send()

    async def guard(self) -> None:
        """Stop each running job when its lease ends."""
        while True:
            await self._held.until(lambda held: bool(held.with_process()))
            await asyncio.sleep(self._end_leases())

    def _end_leases(self) -> float:
        """Stop the jobs whose lease is over; return the seconds until the next look."""
        contact, now = self._valid_contact(), boottime()
        wait_s = LEASE_LOOK_S
        if contact is None:
            return wait_s
        for job in self._held.with_process():
            lease = contact.lease(job.lease_s)
            if now >= lease.stop_at:
                self._stop(job, lease)
            else:
                wait_s = min(wait_s, lease.stop_at - now)
        return wait_s

    def _stop(self, job: LocalJob, lease: Lease) -> None:
        if not self._runs.goes_on(job.job_id):
            return
        note(self._runs.plan.log_file(job), f"Stopped by the edge worker: {OUT_OF_REACH}")
        self._runs.stop(job, OUT_OF_REACH, grace_s=max(0.0, lease.kill_at - boottime()))

    # ------------------------------------------------------------ parts

    def _valid_contact(self) -> Contact | None:
        """Return what leases count from; None while the processes are new and the centre has permitted none to start.

        An idle worker says nothing, so that its contact is an old one when it gets something to do.
        """
        contact = self._contact
        return contact if contact is not None and contact.confirmed_at >= self._busy_since else None

    def _held_changed(self) -> None:
        before, self._busy = self._busy, bool(self._held.with_process())
        if self._busy and not before:
            self._busy_since = boottime()
            # For whoever looks after the processes should we die now: they are permitted to start from here on only.
            self._write(Contact(confirmed_at=self._busy_since, kill_grace_s=self._kill_grace_s))
        if self._quiet:
            self._wake.set()

    def _send(self, state: WorkerState | None = None) -> None:
        jobs = (job.for_presence() for job in self._held)
        presence = Presence(
            incarnation=self._link.address.incarnation,
            home=self._held.home,
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
        if sent_at is not None:
            self._grant(sent_at)

    def _grant(self, sent_at: float) -> None:
        if self._contact is not None and sent_at < self._contact.confirmed_at:
            return
        self._contact = Contact(confirmed_at=sent_at, kill_grace_s=self._kill_grace_s)
        self._write(self._contact)

    def _write(self, contact: Contact) -> None:
        # Not synced to the disk: after a loss of power there is nothing left to stop.
        try:
            write_atomically(self._contact_file, contact.to_json(), durable=False)
        except OSError as error:
            log.warning("the lease cannot be written: %s", error.strerror, extra={"action": "lease_unwritable"})


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
