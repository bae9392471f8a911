"""Presences and the lease. A thin model of ``worker/presence.py`` around the real ``Lease``."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from edge_mqtt.broker_bridge.protocol.messages import Presence, PresenceAck, Welcome, WorkerState
from edge_mqtt.worker.core.lease import Lease
from tests.simulation.clock import Shell
from tests.simulation.plan import PRESENCE_S

if TYPE_CHECKING:
    from tests.simulation.worker import Worker

WELCOME_WAIT_S: Final = 5.0
LEASE_LOOK_S: Final = 2.0
SENT_KEPT: Final = 16
OUT_OF_REACH: Final = "the bridge was out of reach for longer than offline_grace"


class Presences:
    """One worker's presence and lease, for one life of it."""

    #: A mutation: processes that begin after an idle time find the lease of the last contact before it.
    spares_new_processes = True

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._machine = worker.machine
        self._life = worker.life
        self._offline_grace_s: float | None = None
        self._welcomed = False
        self._kill_grace_s = 10.0
        self._sequence = 0
        self._sent: OrderedDict[int, float] = OrderedDict()
        self._lease = self._machine.lease_file
        self._confirmed_at = 0.0
        self._busy = bool(worker.runs.with_process())
        self._busy_since = 0.0

    # ------------------------------------------------------------ what happens

    def connected(self) -> None:
        """Introduce ourselves."""
        self._sequence = 0
        self._sent.clear()
        self._welcomed = False
        self._send()

    def held_changed(self) -> None:
        """Take note of when there began to be something to stop."""
        before, self._busy = self._busy, bool(self._worker.runs.with_process())
        if self._busy and not before:
            self._busy_since = self._machine.boottime()

    def permitted(self, asked_at: float) -> None:
        """Count the lease from the question whether a job may start, which the centre has answered with yes."""
        if self._offline_grace_s is not None:
            self._grant(asked_at, self._offline_grace_s)

    def welcomed(self, welcome: Welcome) -> None:
        """Take over what the centre wants."""
        self._offline_grace_s, self._kill_grace_s = welcome.offline_grace_s, welcome.kill_grace_s
        self._welcomed = True
        self._worker.runs.kill_grace_s = welcome.kill_grace_s
        self._confirm(0)

    def confirmed(self, ack: PresenceAck) -> None:
        """Count the lease from a presence that the centre has."""
        if (ack.incarnation, ack.connection) == (self._worker.incarnation, self._worker.wire.connection):
            self._confirm(ack.sequence)

    # ------------------------------------------------------------ loops

    def run(self) -> Shell:
        """Send presences: until we are welcome, and then for as long as there are jobs."""
        while True:
            yield self._life.sleep(PRESENCE_S if self._worker.ready else WELCOME_WAIT_S)
            if self._worker.ready and self._worker.held:
                self._sequence += 1
                self._send()
            elif not self._worker.ready and self._sent:
                self._send()

    def guard(self) -> Shell:
        """Stop the running jobs when the lease ends."""
        while True:
            yield self._life.sleep(LEASE_LOOK_S)
            lease = self._lease
            if self.spares_new_processes and self._confirmed_at < self._busy_since:
                # The centre has permitted none of them to start yet.
                continue
            if lease is None or self._machine.boottime() < lease.stop_at:
                continue
            for job in self._worker.runs.with_process():
                if not self._worker.runs.is_stopping(job.job_id):
                    self._worker.note(job, f"Stopped by the edge worker: {OUT_OF_REACH}")
                    left_s = max(0.0, lease.kill_at - self._machine.boottime())
                    self._worker.runs.stop(job, OUT_OF_REACH, grace_s=left_s)

    # ------------------------------------------------------------ parts

    def _send(self) -> None:
        worker = self._worker
        jobs = (job.for_presence() for job in worker.held.values())
        presence = Presence(
            incarnation=worker.incarnation,
            connection=worker.wire.connection,
            sequence=self._sequence,
            state=WorkerState.ONLINE,
            queues=("lab",),
            concurrency=worker.concurrency,
            jobs=tuple(job for job in jobs if job is not None),
        )
        now = self._machine.boottime()
        if worker.send(worker.topics.presence(worker.name), presence):
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
        self._confirmed_at = sent_at
        self._machine.lease_file = self._lease = Lease.granted(
            confirmed_at=sent_at, offline_grace_s=offline_grace_s, kill_grace_s=self._kill_grace_s
        )
