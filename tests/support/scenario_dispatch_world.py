"""A small world around the dispatcher: executors, workers, processes, a ledger, and a network that cannot be trusted.

Every party is a few lines of what the real one promises. The bridge is the real decision core with the real order
of its service: decide, commit, then speak. The world counts what must never happen.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from enum import Enum

from edge_mqtt.broker_bridge.dispatch.core import effects, events
from edge_mqtt.broker_bridge.dispatch.core.dispatcher import Dispatcher
from edge_mqtt.broker_bridge.dispatch.core.effects import Effect
from edge_mqtt.broker_bridge.dispatch.core.events import Event
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job
from edge_mqtt.broker_bridge.dispatch.ledger.interface import LedgerFull
from edge_mqtt.broker_bridge.dispatch.ledger.memory import MemoryLedger
from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import JobFinished, JobSpec, LogSelector, Outcome, WorkloadType
from tests.support.fake_executors import SETTINGS, Executor, Party, Record
from tests.support.fake_workers import Process, Worker


class BatchEnd(Enum):
    """How a batch of the bridge goes."""

    GOOD = "good"
    #: The ledger refuses the commit; the bridge lives on.
    REFUSED = "refused"
    CRASH_BEFORE_COMMIT = "crash before commit"
    CRASH_AFTER_COMMIT = "crash after commit"
    #: Half of the effects are performed.
    CRASH_WHILE_SPEAKING = "crash while speaking"


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
        self.workers = [
            Worker(self, "v", ("q",), 2),
            Worker(self, "w", ("q", "r"), 3),
            Worker(self, "w", ("q", "r"), 3, machine="another w"),
        ]
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

    def decide(self, together: list[Event], mode: BatchEnd = BatchEnd.GOOD) -> None:
        """Let the bridge take some events together, as its service does."""
        with suppress(LedgerFull), self.dispatcher.batch() as batch:
            for event in together:
                batch.recall(self.ledger.get(batch.missing(event)), self.now)
                batch.handle(event, self.now)
            if self.speaks_first:
                self._perform(batch.effects)
            if mode is BatchEnd.REFUSED:
                raise LedgerFull
            if mode is not BatchEnd.CRASH_BEFORE_COMMIT:
                self.ledger.commit(list(batch.changed.values()))
                self.check_losses(batch.changed)
        to_do = [] if self.speaks_first else batch.effects
        if mode is BatchEnd.GOOD:
            self._perform(to_do)
        elif mode is BatchEnd.CRASH_WHILE_SPEAKING:
            self._perform(to_do[: len(to_do) // 2])
        if mode in (BatchEnd.CRASH_AFTER_COMMIT, BatchEnd.CRASH_WHILE_SPEAKING):
            # What was spoken may have arrived before the crash.
            self._receive_all()
        if mode not in (BatchEnd.GOOD, BatchEnd.REFUSED):
            self.crash_bridge()

    def _perform(self, to_do: list[Effect]) -> None:
        by_name: dict[str, Party] = {party.name: party for party in self.parties if party.link.connected}
        for effect in to_do:
            if isinstance(effect, effects.Moved):
                continue
            name = effect.executor if isinstance(effect, effects.ToExecutor | effects.ToAdmin) else effect.worker
            receiver = by_name.get(name)
            if receiver is not None:
                receiver.link.down.append(effect if isinstance(effect, effects.StartDecided) else effect.message)

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
            assert job.state is CentralJobState.FINISHED, f"{job} is not over"
            assert job.event_acked, f"the end of {job} is not acknowledged"
            assert job.token is None
        assert not any(worker.spool for worker in self.workers)
        assert self.dispatcher.view.running_jobs() == ()

    def heal(self) -> None:
        """Bring everybody back, let all work end and all messages arrive."""
        for worker in self.workers:
            if not worker.alive:
                worker.restart()
        for executor in self.executors:
            executor.alive = True
        for number in range(12):
            for party in self.parties:
                party.disconnect()
            self.flow()
            # The machines of one name have it in turns.
            for party in self.parties[:: (-1) ** number]:
                party.connect()
            self.flow()
            for worker in self.workers:
                if worker.link.connected:
                    self._let_work(worker)
            # Together longer than a lease: some machines do not come back.
            self.advance(10.0)
            self.flow()
            if self._is_quiet():
                return

    def _is_quiet(self) -> bool:
        open_in_airflow = any(record.state == "open" for record in self.airflow.values())
        return not (open_in_airflow or self.ledger.load_live() or any(worker.spool for worker in self.workers))

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
