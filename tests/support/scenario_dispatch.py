"""A stage for the dispatcher's tests: short words for events, and eyes for what comes of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, TypeVar

from edge_mqtt.broker_bridge.dispatch.core import effects, events
from edge_mqtt.broker_bridge.dispatch.core.batch import Batch
from edge_mqtt.broker_bridge.dispatch.core.dispatcher import Dispatcher
from edge_mqtt.broker_bridge.dispatch.core.effects import Decision, Effect, StartDecided
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job
from edge_mqtt.broker_bridge.dispatch.core.settings import DispatchSettings
from edge_mqtt.broker_bridge.dispatch.ledger.interface import LedgerFull
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, Fence, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import (
    Finished,
    HeldJob,
    JobSpec,
    Message,
    Presence,
    ReportedJobState,
    WorkerState,
    WorkloadType,
)

M = TypeVar("M", bound=Message)

GRACE_S = 900.0
SETTLE_S = 30.0
ALICE = ExecutorName("alice")
BOB = ExecutorName("bob")


def spec(job: str, **changes: Any) -> JobSpec:
    """Return the spec of a task in queue ``q``."""
    values: dict[str, Any] = {"type": WorkloadType.TASK, "queue": "q", "job_id": JobId(job)}
    return JobSpec(**(values | changes))


def held(job: str, fence: int = 1, state: ReportedJobState = ReportedJobState.RUNNING) -> HeldJob:
    """Return what a worker says of a job that it holds."""
    return HeldJob(job_id=JobId(job), fence=Fence(fence), state=state)


class Scene:
    """One dispatcher, its clock, and the effects of the latest event."""

    def __init__(self, **settings: Any) -> None:
        self.settings = DispatchSettings(
            **({"lease_s": GRACE_S, "settle_s": SETTLE_S, "refusal_backoff_s": 5.0} | settings)
        )
        self.dispatcher = Dispatcher(self.settings)
        self.view = self.dispatcher.view
        self._batch: Batch | None = None
        self.now = 1000.0
        self.last = Decision()
        self.all_changed: dict[JobId, Job] = {}
        self._connections: dict[str, int] = {}
        self._presences: dict[str, Presence] = {}

    def do(self, event: events.Event) -> Scene:
        """Let one event happen, in the batch that is under way, else in one of its own."""
        with self._begun() as batch:
            self.last = batch.handle(event, self.now)
        self.all_changed.update((job.id, job) for job in self.last.changed)
        return self

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Let everything in the block happen in one batch, whose commit fails."""
        with suppress(LedgerFull), self.dispatcher.batch() as batch:
            self._batch = batch
            yield
            self._batch = None
            raise LedgerFull

    @contextmanager
    def _begun(self) -> Iterator[Batch]:
        if self._batch is not None:
            yield self._batch
        else:
            with self.dispatcher.batch() as batch:
                yield batch

    def missing(self, event: events.Event) -> tuple[JobId, ...]:
        """Return what the ledger is asked about an event."""
        with self._begun() as batch:
            return batch.missing(event)

    def recall(self, *jobs: Job) -> Scene:
        """Let the ledger know some jobs that memory does not."""
        with self._begun() as batch:
            batch.recall(jobs, self.now)
        return self

    # ------------------------------------------------------------ what happens

    def submit(self, job: str, executor: ExecutorName = ALICE, **changes: Any) -> Scene:
        """Submit a job."""
        return self.do(events.Submitted(executor=executor, job=spec(job, **changes), token=f"token of {job}"))

    def hello(
        self,
        worker: str,
        *jobs: HeldJob,
        queues: tuple[str, ...] = ("q",),
        concurrency: int = 8,
        incarnation: str = "first",
        home: str = "",
        state: WorkerState = WorkerState.ONLINE,
    ) -> Scene:
        """Let a worker connect."""
        self._connections[worker] = self._connections.get(worker, 0) + 1
        presence = Presence(
            incarnation=incarnation,
            home=home,
            connection=self._connections[worker],
            state=state,
            queues=queues,
            concurrency=concurrency,
            jobs=jobs,
        )
        return self.present(worker, presence)

    def present(self, worker: str, presence: Presence) -> Scene:
        """Let a presence arrive."""
        self._presences[worker] = presence
        return self.do(events.WorkerSeen(worker=WorkerName(worker), presence=presence))

    def presence(self, worker: str, *jobs: HeldJob, **changes: Any) -> Scene:
        """Let a worker's next presence on its connection arrive."""
        known = self._presences[worker]
        update = {"sequence": known.sequence + 1, "jobs": jobs} | changes
        return self.present(worker, known.model_copy(update=update))

    def will(self, worker: str, **changes: Any) -> Scene:
        """Let the will of a worker's connection arrive."""
        known = self._presences[worker]
        update = {"state": WorkerState.OFFLINE, "sequence": 0, "jobs": ()} | changes
        will = known.model_copy(update=update)
        return self.do(events.WorkerSeen(worker=WorkerName(worker), presence=will))

    def accept(self, worker: str, job: str, fence: int = 1) -> Scene:
        """Let a worker confirm an assignment."""
        return self.do(events.JobAccepted(worker=WorkerName(worker), job_id=JobId(job), fence=Fence(fence)))

    def reject(
        self, worker: str, job: str, fence: int = 1, *, permanent: bool = False, takes_none: bool = False
    ) -> Scene:
        """Let a worker refuse an assignment."""
        return self.do(
            events.JobRejected(
                worker=WorkerName(worker),
                job_id=JobId(job),
                fence=Fence(fence),
                reason="spool full",
                permanent=permanent,
                takes_none=takes_none,
            )
        )

    def start(self, worker: str, job: str, fence: int = 1, starter: str = "host:1") -> Scene:
        """Let a process ask to start."""
        return self.do(
            events.StartAsked(
                worker=WorkerName(worker),
                job_id=JobId(job),
                fence=Fence(fence),
                starter=starter,
                request_id="r-1",
            )
        )

    def result(self, worker: str, job: str, fence: int = 1, **changes: Any) -> Scene:
        """Let a result arrive; by default a success."""
        values: dict[str, Any] = {"exit_code": 0} | changes
        finished = Finished(job_id=JobId(job), fence=Fence(fence), **values)
        return self.do(events.ResultReported(worker=WorkerName(worker), result=finished))

    def cancel(self, job: str, executor: ExecutorName = ALICE) -> Scene:
        """Let an executor revoke a job."""
        return self.do(events.CancelAsked(executor=executor, job_id=JobId(job)))

    def withdraw(self, job: str, executor: ExecutorName = ALICE) -> Scene:
        """Let an executor take back a job unless it has started."""
        return self.do(events.CancelAsked(executor=executor, job_id=JobId(job), unless_started=True))

    def ended(self, job: str) -> Scene:
        """Let Airflow want a task no more."""
        return self.do(events.TaskEnded(job_id=JobId(job), reason="marked failed in the UI"))

    def ack(self, job: str, executor: ExecutorName = ALICE) -> Scene:
        """Let an executor acknowledge a final event."""
        return self.do(events.EventAcked(executor=executor, job_id=JobId(job)))

    def adopt(self, *jobs: str, executor: ExecutorName = BOB) -> Scene:
        """Let an executor take jobs over."""
        ids = tuple(JobId(job) for job in jobs)
        return self.do(events.AdoptAsked(executor=executor, request_id="a-1", job_ids=ids))

    def connect(self, executor: ExecutorName = ALICE) -> Scene:
        """Let an executor connect."""
        return self.do(events.ExecutorConnected(executor=executor))

    def tick(self, seconds: float = 0.0) -> Scene:
        """Let time pass."""
        self.now += seconds
        return self.do(events.Tick())

    def assigned(self, job: str = "j", worker: str = "w") -> Scene:
        """Bring a job to an idle worker."""
        return self.hello(worker).submit(job)

    def running(self, job: str = "j", worker: str = "w") -> Scene:
        """Bring a job to run on a worker."""
        return self.assigned(job, worker).accept(worker, job).start(worker, job)

    # ------------------------------------------------------------ what came of it

    def job(self, job: str = "j") -> Job:
        """Return a job."""
        known = self.view.get_job(JobId(job))
        assert known is not None
        return known

    def state(self, job: str = "j") -> tuple[CentralJobState, str | None, int]:
        """Return a job's state, worker and fence."""
        known = self.job(job)
        return known.state, known.worker, known.fence

    @property
    def effects(self) -> tuple[Effect, ...]:
        """Return what there is to do, latest."""
        return tuple(effect for effect in self.last.effects if not isinstance(effect, effects.Moved))

    def moves(self) -> list[tuple[str, CentralJobState]]:
        """Return the latest beginnings and ends."""
        moved = [effect.job for effect in self.last.effects if isinstance(effect, effects.Moved)]
        return [(job.id, job.state) for job in moved]

    def assignments(self) -> list[tuple[str, str, int]]:
        """Return the latest assignments: job, worker, fence."""
        return [
            (effect.message.job.job_id, effect.worker, effect.message.fence)
            for effect in self.effects
            if isinstance(effect, effects.Assigned)
        ]

    def to_worker(self, kind: type[M], worker: str = "w") -> list[M]:
        """Return the latest messages of one kind to a worker."""
        return [
            effect.message
            for effect in self.effects
            if isinstance(effect, effects.ToWorker) and effect.worker == worker and isinstance(effect.message, kind)
        ]

    def to_executor(self, kind: type[M], executor: ExecutorName = ALICE) -> list[M]:
        """Return the latest messages of one kind to an executor."""
        return [
            effect.message
            for effect in self.effects
            if isinstance(effect, effects.ToExecutor)
            and effect.executor == executor
            and isinstance(effect.message, kind)
        ]

    def decided(self) -> StartDecided:
        """Return the answer to a process that asked to start."""
        (answer,) = [effect for effect in self.effects if isinstance(effect, StartDecided)]
        return answer

    def restarted(self, **settings: Any) -> Scene:
        """Return a new scene that begins with what a ledger would have kept of this one."""
        fresh = Scene(**settings)
        fresh.now = 5.0
        live = [
            replace(job)
            for job in self.all_changed.values()
            if not (job.state is CentralJobState.FINISHED and job.event_acked)
        ]
        fresh.dispatcher.load(live, fresh.now, last_sequence=max(job.sequence for job in live))
        return fresh
