"""Workers around the dispatcher, as small as they can be and still keep what the real ones promise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_mqtt.broker_bridge.dispatch.core import effects, events
from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import (
    Assign,
    Cancel,
    Finished,
    HeldJob,
    Presence,
    PresenceAck,
    ReportedJobState,
    ResultAck,
    Welcome,
    WorkerState,
)
from tests.support.fake_executors import SETTINGS, STOP_EARLY_S, Downward, Party

if TYPE_CHECKING:
    from tests.support.scenario_dispatch_world import World


@dataclass
class Process:
    """A supervisor and its task. Outlives its worker's program."""

    pid: str
    job_id: JobId
    fence: Fence
    asked: bool = False
    granted: bool = False
    alive: bool = True
    exit_code: int | None = None


@dataclass
class Entry:
    """A job in a worker's spool."""

    fence: Fence
    process: Process | None = None
    result: Finished | None = None


class Worker(Party):
    """Spools before it acts, reports until it is acknowledged, and ends leases before the centre does."""

    def __init__(
        self, world: World, name: str, queues: tuple[str, ...], concurrency: int, *, machine: str = ""
    ) -> None:
        super().__init__(world, name)
        #: Differs for the machines of one name.
        self.machine = self.home = machine or name
        self.queues = queues
        self.concurrency = concurrency
        self.spool: dict[JobId, Entry] = {}
        self.incarnation = self.machine
        self.connection = 0
        self.sequence = 0
        self.sent_at: dict[int, float] = {}
        self.asks: dict[str, tuple[Process, float]] = {}
        #: From when its jobs' lease counts, kept in the spool.
        self.confirmed = 0.0

    @property
    def worker(self) -> WorkerName:
        """Its name, typed."""
        return WorkerName(self.name)

    # ------------------------------------------------------------ presence

    def connect(self) -> None:
        """Connect, unless a machine with the name is connected."""
        if not any(worker.link.connected for worker in self.world.workers if worker.name == self.name):
            super().connect()

    def hello(self) -> None:
        """Say what is held, and repeat what is unanswered."""
        self.connection += 1
        self.sequence = -1
        self.presence()
        for job_id, entry in self.spool.items():
            if entry.result is not None:
                self.send(events.ResultReported(worker=self.worker, result=entry.result))
            elif entry.process is None:
                self.send(events.JobAccepted(worker=self.worker, job_id=job_id, fence=entry.fence))
        for process in self.processes():
            if process.asked and not process.granted:
                self.ask(process)

    def presence(self) -> None:
        """Say that it is there."""
        self.sequence += 1
        # A confirmation names no connection: it may be about the earliest presence of that number.
        self.sent_at.setdefault(self.sequence, self.world.now)
        self.send(events.WorkerSeen(worker=self.worker, presence=self._presence(WorkerState.ONLINE)))

    def _presence(self, state: WorkerState) -> Presence:
        return Presence(
            incarnation=self.incarnation,
            home=self.home,
            connection=self.connection,
            sequence=self.sequence,
            state=state,
            queues=self.queues,
            concurrency=self.concurrency,
            jobs=tuple(
                HeldJob(job_id=job_id, fence=entry.fence, state=_held_state(entry))
                for job_id, entry in self.spool.items()
            ),
        )

    def last_will(self) -> None:
        """Have the broker tell that it is gone."""
        will = self._presence(WorkerState.OFFLINE).model_copy(update={"jobs": (), "sequence": 0})
        self.link.up.append(events.WorkerSeen(worker=self.worker, presence=will))

    # ------------------------------------------------------------ work

    def processes(self) -> list[Process]:
        """Return the processes that run here."""
        return [
            process
            for process in self.world.processes
            if process.alive and process.pid.startswith(f"{self.machine}:")
        ]

    def waiting(self) -> list[JobId]:
        """Return the jobs that no process was started for."""
        return [job_id for job_id, entry in self.spool.items() if entry.process is None and entry.result is None]

    def launch(self, job_id: JobId) -> Process:
        """Start the process of a job."""
        entry = self.spool[job_id]
        entry.process = Process(f"{self.machine}:{self.world.count()}", job_id, entry.fence)
        self.world.processes.append(entry.process)
        return entry.process

    def refuse(self, job_id: JobId, *, permanent: bool = False, takes_none: bool = False) -> None:
        """Refuse a job after all."""
        fence = self.spool.pop(job_id).fence
        self.send(
            events.JobRejected(
                worker=self.worker,
                job_id=job_id,
                fence=fence,
                reason="no room",
                permanent=permanent,
                takes_none=takes_none,
            )
        )

    def ask(self, process: Process) -> None:
        """Pass on a process's wish to start."""
        process.asked = True
        request = f"r{self.world.count()}"
        self.asks[request] = (process, self.world.now)
        self.send(
            events.StartAsked(
                worker=self.worker,
                job_id=process.job_id,
                fence=process.fence,
                starter=process.pid,
                request_id=request,
            )
        )

    def end(self, process: Process, exit_code: int | None) -> None:
        """Let a process end; its worker sees it when it lives."""
        process.alive = False
        process.exit_code = exit_code
        if self.alive:
            self.notice()

    def notice(self) -> None:
        """Report the processes that have ended."""
        for job_id, entry in self.spool.items():
            if entry.process is not None and not entry.process.alive and entry.result is None:
                self._finish(job_id, entry, entry.process.exit_code)

    def _finish(self, job_id: JobId, entry: Entry, exit_code: int | None) -> None:
        entry.result = Finished(job_id=job_id, fence=entry.fence, exit_code=exit_code)
        self.send(events.ResultReported(worker=self.worker, result=entry.result))

    # ------------------------------------------------------------ messages

    def receive(self, message: Downward) -> None:
        """Take a message from the bridge."""
        if isinstance(message, Assign):
            self._assigned(message)
        elif isinstance(message, Welcome):
            for ref in (*message.drop, *message.known_results):
                self._drop(ref.job_id, ref.fence)
        elif isinstance(message, ResultAck):
            entry = self.spool.get(message.job_id)
            if entry is not None and entry.fence == message.fence and entry.result is not None:
                del self.spool[message.job_id]
        elif isinstance(message, Cancel):
            self._cancel(message)
        elif isinstance(message, PresenceAck):
            if message.incarnation == self.incarnation:
                self.confirmed = max(self.confirmed, self.sent_at[message.sequence])
        elif isinstance(message, effects.StartDecided):
            self._answered(message)

    def _assigned(self, message: Assign) -> None:
        job_id = message.job.job_id
        entry = self.spool.get(job_id)
        if entry is None or message.fence > entry.fence:
            if entry is not None:
                self._drop(job_id, entry.fence)
            entry = self.spool[job_id] = Entry(message.fence)
        if entry.fence == message.fence:
            self.send(events.JobAccepted(worker=self.worker, job_id=job_id, fence=message.fence))

    def _drop(self, job_id: JobId, fence: Fence) -> None:
        entry = self.spool.get(job_id)
        if entry is not None and entry.fence == fence:
            del self.spool[job_id]
            if entry.process is not None:
                entry.process.alive = False

    def _cancel(self, message: Cancel) -> None:
        entry = self.spool.get(message.job_id)
        if entry is None or entry.fence != message.fence or entry.result is not None:
            return
        if entry.process is not None and entry.process.alive:
            self.end(entry.process, None)
        else:
            self._finish(message.job_id, entry, None)

    def _answered(self, message: effects.StartDecided) -> None:
        process, asked_at = self.asks.pop(message.request_id, (None, 0.0))
        if process is None or not process.alive or process.granted:
            return
        if message.granted:
            self.confirmed = max(self.confirmed, asked_at)
            if self.world.now >= self.lease_end():
                # The answer was so long on its way that the centre may count the job as lost by now.
                self.end(process, None)
                return
            process.granted = True
            self.world.check_start(process)
        else:
            self.end(process, 1)

    # ------------------------------------------------------------ trouble

    def lease_end(self) -> float:
        """Return when it must stop what runs."""
        return self.confirmed + SETTINGS.lease_s - STOP_EARLY_S

    def check_lease(self) -> None:
        """Stop what runs when there was no contact for too long."""
        if self.alive and self.world.now >= self.lease_end():
            for process in self.processes():
                if process.granted:
                    self.end(process, None)

    def crash(self, *, reboot: bool, forget: bool = False, wipe: bool = False) -> None:
        """Kill the program.

        :param reboot: its processes die with it.
        :param forget: it will not find its processes again, and start those jobs once more (a careless worker).
        :param wipe: its spool is lost; implies a reboot.
        """
        self.disconnect()
        self.alive = False
        self.asks.clear()
        if reboot or wipe:
            for process in self.processes():
                process.alive = False
        if wipe:
            self.world.wiped |= set(self.spool)
            self.spool.clear()
        if forget:
            for job_id, entry in self.spool.items():
                if entry.result is None and entry.process is not None:
                    self.world.careless.add(job_id)
                    entry.process = None

    def restart(self) -> None:
        """Begin a new incarnation with what the spool knows."""
        self.alive = True
        self.incarnation = f"{self.world.count()}"
        self.connection = 0
        self.sent_at.clear()
        self.check_lease()
        self.notice()


def _held_state(entry: Entry) -> ReportedJobState:
    if entry.result is not None:
        return ReportedJobState.FINISHED
    return ReportedJobState.ACCEPTED if entry.process is None else ReportedJobState.RUNNING
