"""A small world around the dispatcher: executors, workers, processes, a ledger, and a network that cannot be trusted.

Every party is a few lines of what the real one promises. The bridge is the real decision core with the real order
of its service: decide, commit, then speak. The world counts what must never happen.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from enum import Enum

from edge_mqtt.broker_bridge.dispatch.core import effects, events
from edge_mqtt.broker_bridge.dispatch.core.dispatcher import Dispatcher
from edge_mqtt.broker_bridge.dispatch.core.effects import Effect
from edge_mqtt.broker_bridge.dispatch.core.events import Event
from edge_mqtt.broker_bridge.dispatch.core.model import Job, JobState
from edge_mqtt.broker_bridge.dispatch.core.settings import DispatchSettings
from edge_mqtt.broker_bridge.dispatch.ledger_memory import MemoryLedger
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, Fence, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import (
    AdoptReply,
    Assign,
    Cancel,
    Finished,
    HeldJob,
    HeldJobState,
    JobAccepted,
    JobFinished,
    JobSpec,
    LogSelector,
    Message,
    Outcome,
    Presence,
    PresenceAck,
    ResultAck,
    Welcome,
    WorkerState,
    WorkloadType,
)

SETTINGS = DispatchSettings(offline_grace_s=100.0, kill_grace_s=10.0, settle_s=20.0, remembered_jobs=0)
#: How much earlier than the centre a worker ends the lease of its jobs.
STOP_EARLY_S = SETTINGS.kill_grace_s + 5.0

Downward = Message | effects.StartDecided


class Batch(Enum):
    """How a batch of the bridge goes."""

    GOOD = "good"
    #: The ledger refuses the commit; the bridge lives on.
    REFUSED = "refused"
    CRASH_BEFORE_COMMIT = "crash before commit"
    CRASH_AFTER_COMMIT = "crash after commit"
    #: Half of the effects are performed.
    CRASH_WHILE_SPEAKING = "crash while speaking"


@dataclass
class Link:
    """One party's connection. What is in flight when it breaks may be lost."""

    connected: bool = False
    up: list[Event] = field(default_factory=list)
    down: list[Downward] = field(default_factory=list)


class Party:
    """Somebody with a link to the bridge."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.link = Link()
        self.alive = True

    def send(self, event: Event) -> None:
        """Send when connected: a transport never queues."""
        if self.link.connected:
            self.link.up.append(event)

    def connect(self) -> None:
        """Connect, and say what is held."""
        if self.alive and not self.link.connected:
            self.link.connected = True
            self.hello()

    def disconnect(self) -> None:
        """Break the connection. In an untidy world messages may outlive it on the way to the bridge."""
        if self.link.connected:
            self.link.connected = False
            self.link.down.clear()
            if self.world.tidy:
                self.link.up.clear()
            self.last_will()

    def hello(self) -> None:
        """Say what is held."""
        raise NotImplementedError

    def last_will(self) -> None:
        """Have the broker tell of the end of the connection."""

    def receive(self, message: Downward) -> None:
        """Take a message from the bridge."""
        raise NotImplementedError


@dataclass
class Record:
    """A job in Airflow's own database."""

    executor: str
    state: str = "open"
    #: Final events that reached Airflow.
    ends: list[Outcome] = field(default_factory=list)


class Executor(Party):
    """Keeps what is not acknowledged, repeats it, and asks about the rest at every connection."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self.pending: dict[JobId, JobSpec] = {}
        self.waiting: set[JobId] = set()
        self.revoked: set[JobId] = set()
        self.asked: dict[str, tuple[JobId, ...]] = {}

    @property
    def executor(self) -> ExecutorName:
        """Its name, typed."""
        return ExecutorName(self.name)

    def submit(self, spec: JobSpec) -> None:
        """Queue a job."""
        self.world.airflow[spec.job_id] = Record(self.name)
        self.pending[spec.job_id] = spec
        self.waiting.add(spec.job_id)
        self._submit(spec)

    def _submit(self, spec: JobSpec) -> None:
        self.send(events.Submitted(executor=self.executor, job=spec, token="t"))

    def revoke(self, job_id: JobId) -> None:
        """Stop a job and hear no more of it."""
        self.waiting.discard(job_id)
        self.pending.pop(job_id, None)
        self.revoked.add(job_id)
        self.world.airflow[job_id].state = "revoked"
        self.send(events.CancelAsked(executor=self.executor, job_id=job_id))

    def restart(self) -> None:
        """Die and begin again with what Airflow's database knows."""
        self.disconnect()
        self.pending.clear()
        self.revoked.clear()
        self.asked.clear()
        self.waiting = {
            job_id
            for job_id, record in self.world.airflow.items()
            if record.executor == self.name and record.state == "open"
        }

    def adopt_from(self, other: Executor) -> None:
        """Take over from an executor that is dead."""
        for record in self.world.airflow.values():
            if record.executor == other.name:
                record.executor = self.name
        mine = {
            job_id
            for job_id, record in self.world.airflow.items()
            if record.executor == self.name and record.state == "open"
        }
        news = mine - self.waiting
        self.waiting |= news
        self._ask(news)

    def _ask(self, jobs: set[JobId]) -> None:
        if jobs and self.link.connected:
            request = f"a{self.world.count()}"
            self.asked[request] = tuple(sorted(jobs))
            self.send(events.AdoptAsked(executor=self.executor, request_id=request, job_ids=self.asked[request]))

    def hello(self) -> None:
        """Say what is held."""
        self.asked.clear()
        self.send(events.ExecutorConnected(executor=self.executor))
        for spec in self.pending.values():
            self._submit(spec)
        for job_id in sorted(self.revoked):
            self.send(events.CancelAsked(executor=self.executor, job_id=job_id))
        self._ask(self.waiting - set(self.pending))

    def receive(self, message: Downward) -> None:
        """Take an event."""
        if isinstance(message, JobAccepted):
            self.pending.pop(message.job_id, None)
            self.world.accepted.add(message.job_id)
            # Should an older question about it be answered with "unknown" now, that is out of date.
            for request, jobs in self.asked.items():
                self.asked[request] = tuple(job_id for job_id in jobs if job_id != message.job_id)
        elif isinstance(message, JobFinished):
            self._finished(message)
        elif isinstance(message, AdoptReply):
            for job_id in self.asked.pop(message.request_id, ()):
                if job_id not in message.states and job_id in self.waiting:
                    self._give_up(job_id)

    def _finished(self, message: JobFinished) -> None:
        job_id = message.job_id
        self.pending.pop(job_id, None)
        if job_id in self.waiting:
            self.waiting.discard(job_id)
            record = self.world.airflow[job_id]
            record.state = "ended"
            record.ends.append(message.outcome)
            self.world.check_end(message)
        self.send(events.EventAcked(executor=self.executor, job_id=job_id))

    def _give_up(self, job_id: JobId) -> None:
        """Airflow resets a job that the bridge has never heard of."""
        assert job_id not in self.world.accepted, f"{job_id} was accepted, and is unknown"
        self.waiting.discard(job_id)
        self.world.airflow[job_id].state = "reset"


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

    def __init__(self, world: World, name: str, queues: tuple[str, ...], concurrency: int) -> None:
        super().__init__(world, name)
        self.queues = queues
        self.concurrency = concurrency
        self.spool: dict[JobId, Entry] = {}
        self.incarnation = "0"
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
            process for process in self.world.processes if process.alive and process.pid.startswith(f"{self.name}:")
        ]

    def waiting(self) -> list[JobId]:
        """Return the jobs that no process was started for."""
        return [job_id for job_id, entry in self.spool.items() if entry.process is None and entry.result is None]

    def launch(self, job_id: JobId) -> Process:
        """Start the process of a job."""
        entry = self.spool[job_id]
        entry.process = Process(f"{self.name}:{self.world.count()}", job_id, entry.fence)
        self.world.processes.append(entry.process)
        return entry.process

    def refuse(self, job_id: JobId) -> None:
        """Refuse a job after all."""
        fence = self.spool.pop(job_id).fence
        self.send(events.JobRejected(worker=self.worker, job_id=job_id, fence=fence, reason="no room"))

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
        return self.confirmed + SETTINGS.offline_grace_s - STOP_EARLY_S

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


def _held_state(entry: Entry) -> HeldJobState:
    if entry.result is not None:
        return HeldJobState.FINISHED
    return HeldJobState.ACCEPTED if entry.process is None else HeldJobState.RUNNING


class World:
    """Everything at once, and what must never happen in it."""

    #: Tests replace it by one that breaks a rule.
    dispatcher_class: type[Dispatcher] = Dispatcher
    #: A bridge that speaks first and commits afterwards; tests set it to see that it is caught.
    speaks_first = False

    def __init__(self, *, tidy: bool) -> None:
        #: Connections keep order and lose nothing while they last.
        self.tidy = tidy
        self.now = 0.0
        self._count = 0
        self.ledger = MemoryLedger(lambda: self.now)
        self.airflow: dict[JobId, Record] = {}
        self.accepted: set[JobId] = set()
        self.processes: list[Process] = []
        self.permitted: defaultdict[JobId, set[str]] = defaultdict(set)
        self.careless: set[JobId] = set()
        self.wiped: set[JobId] = set()
        self.executors = [Executor(self, "east"), Executor(self, "west")]
        self.workers = [Worker(self, "v", ("q",), 2), Worker(self, "w", ("q", "r"), 3)]
        self.parties: list[Party] = [*self.executors, *self.workers]
        self.boot()

    def count(self) -> int:
        """Return a new number."""
        self._count += 1
        return self._count

    def in_flight(self) -> bool:
        """Tell whether a message is on its way."""
        return any(party.link.up or party.link.down for party in self.parties)

    def health(self) -> int:
        """Return how many parties are alive and connected."""
        return sum(party.alive and party.link.connected for party in self.parties)

    # ------------------------------------------------------------ the bridge

    def boot(self) -> None:
        """Start the bridge with what the ledger has."""
        self.dispatcher = self.dispatcher_class(SETTINGS)
        self.dispatcher.load(self.ledger.load_live(), self.now, last_sequence=self.ledger.max_sequence())

    def crash_bridge(self) -> None:
        """Kill the bridge and the broker in it, with everything that is in flight; start it again."""
        for party in self.parties:
            party.link.connected = False
            party.link.up.clear()
            party.link.down.clear()
        self.boot()

    def decide(self, batch: list[Event], mode: Batch = Batch.GOOD) -> None:
        """Let the bridge take a batch of events, as its service does."""
        self.dispatcher.checkpoint()
        changed: dict[JobId, Job] = {}
        to_do: list[Effect] = []
        for event in batch:
            missing = self.dispatcher.missing(event)
            self.dispatcher.recall(self.ledger.get(missing))
            decision = self.dispatcher.handle(event, self.now)
            changed.update((job.id, job) for job in decision.changed)
            to_do += decision.effects
        if self.speaks_first:
            self._perform(to_do)
            to_do = []
        if mode is Batch.REFUSED:
            self.dispatcher.rollback()
        elif mode is Batch.CRASH_BEFORE_COMMIT:
            self.crash_bridge()
        else:
            self.ledger.commit(list(changed.values()))
            self.check_losses(changed)
            if mode is not Batch.CRASH_AFTER_COMMIT:
                spoken = to_do if mode is Batch.GOOD else to_do[: len(to_do) // 2]
                self._perform(spoken)
            if mode is not Batch.GOOD:
                # What was spoken may have arrived before the crash.
                self._receive_all()
                self.crash_bridge()

    def _perform(self, to_do: list[Effect]) -> None:
        by_name = {party.name: party for party in self.parties}
        for effect in to_do:
            if isinstance(effect, effects.StartDecided):
                receiver, message = by_name[effect.worker], effect
            elif isinstance(effect, effects.ToExecutor | effects.ToAdmin):
                receiver, message = by_name[effect.executor], effect.message
            else:
                receiver, message = by_name[effect.worker], effect.message
            if receiver.link.connected:
                receiver.link.down.append(message)

    def _receive_all(self) -> None:
        for party in self.parties:
            while party.link.down:
                party.receive(party.link.down.pop(0))

    def advance(self, seconds: float) -> None:
        """Let time pass, with every deadline in its turn."""
        target = self.now + seconds
        while True:
            dues = [worker.lease_end() for worker in self.workers if worker.alive and self.now < worker.lease_end()]
            deadline = self.dispatcher.next_deadline()
            upcoming = min([target, *dues, *([] if deadline is None else [max(deadline, self.now)])])
            self.now = upcoming
            for worker in self.workers:
                worker.check_lease()
            if deadline is not None and deadline <= self.now:
                self.decide([events.Tick()])
            elif self.now >= target:
                return

    def flow(self) -> None:
        """Let everything that is in flight arrive, in order, and what follows from it."""
        for _ in range(200):
            batch: list[Event] = []
            for party in self.parties:
                batch += party.link.up
                party.link.up.clear()
            if not batch and not any(party.link.down for party in self.parties):
                return
            self.decide(batch)
            self._receive_all()
        raise AssertionError("messages go round and round")

    # ------------------------------------------------------------ what must never happen

    def check_start(self, process: Process) -> None:
        """Promise 2: at most one process ever has the permission to run a job's user code."""
        self.permitted[process.job_id].add(process.pid)
        assert len(self.permitted[process.job_id]) == 1, (
            f"{process.job_id} runs twice: {self.permitted[process.job_id]}"
        )

    def check_end(self, message: JobFinished) -> None:
        """Promise 1: one final event, and a true one: a job that ended does not run."""
        ends = self.airflow[message.job_id].ends
        assert len(ends) == 1, f"{message.job_id} ended {len(ends)} times"
        if message.outcome in (Outcome.SUCCESS, Outcome.FAILED) and message.job_id not in self.careless:
            running = [process.pid for process in self._running(message.job_id)]
            assert not running, f"{message.job_id} is said to have ended, and runs as {running}"

    def check_losses(self, changed: dict[JobId, Job]) -> None:
        """No lease ends at the centre before it ended on a worker that lives; no job is lost without a cause."""
        for job in changed.values():
            if job.outcome is not Outcome.LOST or job.event_acked:
                continue
            if job.detail.startswith("no contact"):
                living = [worker for worker in self.workers if worker.alive]
                running = {process.pid for worker in living for process in worker.processes() if process.granted}
                still = {process.pid for process in self._running(job.id)} & running
                assert not still, f"the lease of {job.id} ended while its worker lets {still} run"
            elif self.tidy:
                assert job.id in self.wiped | self.careless, f"{job.id} is said to be lost: {job.detail}"

    def _running(self, job_id: JobId) -> list[Process]:
        return [
            process for process in self.processes if process.job_id == job_id and process.alive and process.granted
        ]

    def check_quiet(self) -> None:
        """When everything has healed: every job has its one end, and nothing is held anywhere."""
        for job_id, record in self.airflow.items():
            assert record.state != "open", f"{job_id} never ended: {self.ledger.get([job_id])}"
            assert len(record.ends) == (1 if record.state == "ended" else 0)
        for job in self.ledger.find(LogSelector(), 10_000):
            assert job.state is JobState.FINISHED, f"{job} is not over"
            assert job.event_acked, f"the end of {job} is not acknowledged"
            assert job.token is None
        assert not any(worker.spool for worker in self.workers)
        assert self.dispatcher.running_jobs() == ()

    def heal(self) -> None:
        """Bring everybody back, let all work end and all messages arrive."""
        for worker in self.workers:
            if not worker.alive:
                worker.restart()
        for executor in self.executors:
            executor.alive = True
        for _ in range(12):
            for party in self.parties:
                party.disconnect()
            self.flow()
            for party in self.parties:
                party.connect()
            self.flow()
            for worker in self.workers:
                self._let_work(worker)
            self.advance(6.0)
            self.flow()
            if not self.ledger.load_live() and all(record.state != "open" for record in self.airflow.values()):
                return

    def _let_work(self, worker: Worker) -> None:
        """Let a worker do all that it has."""
        for job_id in worker.waiting():
            worker.launch(job_id)
        for process in worker.processes():
            if not process.granted:
                worker.ask(process)
        self.flow()
        for process in worker.processes():
            worker.end(process, 0)
        self.flow()


def task(number: int, queue: str, slots: int, priority: int) -> JobSpec:
    """Return the spec of a task."""
    return JobSpec(job_id=JobId(f"j{number}"), type=WorkloadType.TASK, queue=queue, slots=slots, priority=priority)
