"""The worker's program: real decisions (``worker/core``), thin models of the shells around them.

Modelled line by line after ``worker/app.py`` (what is done in which order), ``held.py`` (every change is stored
before it is seen, changes never overlap), ``intake.py`` and ``reporting.py``; runs, calls, lease and log shipping
have files of their own. Left out: draining, a spool that cannot be written, calls that are too large.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import (
    ApiResponse,
    Assign,
    AssignmentAccepted,
    AssignmentRejected,
    Cancel,
    Finished,
    JobRef,
    LogAck,
    Message,
    Presence,
    PresenceAck,
    ResultAck,
    Welcome,
    WorkerState,
)
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.worker.core.jobs import HeldByUs, JobState, Verdict, decide_assignment
from edge_mqtt.worker.core.slots import launchable
from edge_mqtt.worker.order import RunOutcome
from tests.simulation.clock import Event, Life, Lock, Shell
from tests.simulation.worker_calls import Calls
from tests.simulation.worker_lease import Presences
from tests.simulation.worker_logs import LogShipper
from tests.simulation.worker_runs import Runs

if TYPE_CHECKING:
    from tests.simulation.machine import Machine, Process
    from tests.simulation.world import World

QUEUES: Final = ("lab",)
#: Seconds after which an unacknowledged result is sent again.
REPEAT_S: Final = 30.0
Decide = Callable[[HeldByUs | None], HeldByUs | None]


class Worker:
    """One worker, over all its restarts."""

    def __init__(self, world: World, machine: Machine) -> None:
        self.world = world
        self.machine = machine
        self.name = WorkerName(machine.name)
        identity = Identity(Role.WORKER, machine.name)
        topics = world.topics
        self.topics = topics
        self.wire = world.network.wire(
            identity, (topics.assignments(self.name), topics.control(self.name), topics.rpc_response(self.name))
        )
        self.concurrency = world.plan.concurrency
        self.life = Life(world.clock)
        self.life.end()
        self.incarnation = ""
        self.held: dict[JobId, HeldByUs] = {}
        self.ready = False

    # ------------------------------------------------------------ life

    def start(self) -> None:
        """Begin with what the disk has."""
        self.life = Life(self.world.clock)
        self.incarnation = f"i{self.world.count()}"
        self.held = dict(self.machine.spool)
        self.ready = False
        self._lock = Lock()
        self._inbox: deque[Message | None] = deque()
        self._news = Event()
        self._calls = Calls(self)
        self.logs = LogShipper(self)
        self.runs = Runs(self)
        self.presences = Presences(self)
        self.life.spawn(self._main())

    def kill(self) -> None:
        """Die at once."""
        self.life.end()
        self.wire.stop()
        self.world.outages.look()

    def step(self) -> None:
        """Perhaps die here."""
        self.world.perhaps_die("worker", self)

    def _main(self) -> Shell:
        yield from self.runs.find_again()
        for job in list(self.held.values()):
            if job.result is not None:
                self.logs.follow(job)
        yield from self.runs.launch_ready()
        for loop in (self.presences.run(), self.presences.guard(), self.logs.run(), self._repeat()):
            self.life.spawn(loop)
        self.wire.start(self, self.incarnation)
        yield from self._handle()

    # ------------------------------------------------------------ the wire

    def will(self, connection: int) -> tuple[str, Message] | None:
        """Return what the broker says when we are gone."""
        offline = Presence(incarnation=self.incarnation, connection=connection, state=WorkerState.OFFLINE)
        return self.topics.presence(self.name), offline

    def connected(self) -> None:
        """Take note; None stands for it in the inbox."""
        self._put(None)

    def disconnected(self) -> None:
        """Take note."""
        self.ready = False

    def received(self, topic: str, message: Message) -> None:
        """Take note."""
        self._put(message)

    def _put(self, message: Message | None) -> None:
        self._inbox.append(message)
        self._news.set()

    def send(self, topic: str, message: Message) -> bool:
        """Send; False without a connection."""
        self.step()
        return self.wire.send(topic, message)

    def _handle(self) -> Shell:
        while True:
            if not self._inbox:
                self._news = Event()
                yield self._news.wait
            message = self._inbox.popleft()
            if message is None:
                self.ready = False
                self.presences.connected()
            else:
                yield from self._received(message)

    def _received(self, message: Message) -> Shell:
        match message:
            case Assign():
                yield from self._assigned(message)
            case Cancel():
                yield from self._cancelled(message)
            case ApiResponse():
                self._calls.answered(message)
            case LogAck():
                self.logs.acknowledge(message.job_id, message.offset)
                yield from self.settle(message.job_id)
            case ResultAck():
                yield from self._acknowledged(message.job_id, message.fence)
            case PresenceAck():
                self.presences.confirmed(message)
            case Welcome():
                yield from self._welcomed(message)

    def _welcomed(self, welcome: Welcome) -> Shell:
        if (welcome.incarnation, welcome.connection) != (self.incarnation, self.wire.connection):
            return
        for ref in welcome.drop:
            yield from self._dropped(ref)
        for ref in welcome.known_results:
            yield from self._acknowledged(ref.job_id, ref.fence)
        self.ready = True
        self.logs.resume(welcome.logs)
        self.presences.welcomed(welcome)
        for job in list(self.held.values()):
            self._send_result(job)
        self._calls.resend()

    # ------------------------------------------------------------ the spool

    def change(self, job_id: JobId, decide: Decide) -> Shell:
        """Store what ``decide`` makes of a job, then let everybody see it; None forgets it."""
        yield self._lock.acquire
        before = self.held.get(job_id)
        after = decide(before)
        if after is not before:
            yield self.life.sleep(self.world.chance.uniform(0.001, 0.03))
            self.step()
            _keep(self.machine.spool, job_id, after)
            self.step()
            _keep(self.held, job_id, after)
            self.presences.held_changed()
        self._lock.release()
        return after

    def current(self, job_id: JobId, fence: Fence) -> HeldByUs | None:
        """Return a job if ``fence`` is the one that we hold."""
        job = self.held.get(job_id)
        return job if job is not None and job.fence == fence else None

    # ------------------------------------------------------------ intake

    def _assigned(self, assign: Assign) -> Shell:
        job_id, fence = assign.job.job_id, assign.fence
        before = self.held.get(job_id)
        decision = decide_assignment(assign, before, queues=QUEUES, draining=False)
        accepted = AssignmentAccepted(job_id=job_id, fence=fence)
        if decision.verdict is Verdict.IGNORE:
            return
        if decision.verdict is Verdict.REJECT:
            self._reject(job_id, fence, decision.reason, permanent=decision.permanent)
            return
        taken: list[HeldByUs] = []

        def take(current: HeldByUs | None) -> HeldByUs | None:
            if current is not before:
                return current
            taken.append(self._ready_or_waiting(assign))
            return taken[0]

        if decision.verdict is not Verdict.CONFIRM:
            yield from self.change(job_id, take)
            if not taken:
                return
        self.send(self.topics.acks(self.name), accepted)
        if taken and taken[0].state is JobState.LAUNCHED:
            yield from self.runs.start(taken[0])

    def _ready_or_waiting(self, assign: Assign) -> HeldByUs:
        job = HeldByUs(spec=assign.job, fence=assign.fence)
        others = [other for other in self.held.values() if other.job_id != job.job_id]
        return self.runs.prepared(job) if job in launchable([*others, job], self.concurrency) else job

    def _reject(self, job_id: JobId, fence: Fence, reason: str, *, permanent: bool = False) -> None:
        rejected = AssignmentRejected(job_id=job_id, fence=fence, reason=reason, permanent=permanent)
        self.send(self.topics.acks(self.name), rejected)

    def unstarted(self, job: HeldByUs, reason: str) -> Shell:
        """Give back a job that never started."""
        yield from self._forget(job)
        self._reject(job.job_id, job.fence, reason)

    def _cancelled(self, cancel: Cancel) -> Shell:
        job = self.current(cancel.job_id, cancel.fence)
        if job is None:
            return
        if job.state is JobState.ACCEPTED:
            yield from self.finished(job, RunOutcome(error=f"cancelled before it started: {cancel.reason}"))
        elif job.state is JobState.LAUNCHED:
            if not self.runs.is_stopping(job.job_id):
                self.note(job, f"Stopped by the edge worker: {cancel.reason}")
            self.runs.stop(job, cancel.reason)

    def _dropped(self, ref: JobRef) -> Shell:
        job = self.current(ref.job_id, ref.fence)
        if job is None or job.state is JobState.DROPPED:
            return
        if job.state is not JobState.LAUNCHED:
            yield from self._forget(job)
            return
        yield from self.change(job.job_id, lambda now: now.to(JobState.DROPPED) if now is job else now)
        self.logs.forget(job.job_id)
        self.runs.stop(job, "no longer this worker's")

    # ------------------------------------------------------------ results

    def log_size(self, job: HeldByUs) -> int:
        """Return the bytes in the job's log file."""
        return 0 if job.spec.log_path is None else len(self.machine.logs.get(job.spec.log_path, b""))

    def note(self, job: HeldByUs, text: str) -> None:
        """Add a line of our own to a task's log, if it has one already."""
        log = None if job.spec.log_path is None else self.machine.logs.get(job.spec.log_path)
        if log is not None:
            log.extend(text.encode() + b"\n")

    def finished(self, job: HeldByUs, outcome: RunOutcome) -> Shell:
        """Store and report a job's end."""
        size = max(0, self.log_size(job) - job.log_base) if job.state is JobState.LAUNCHED else 0
        result = Finished(
            job_id=job.job_id,
            fence=job.fence,
            exit_code=outcome.exit_code,
            signal=outcome.signal,
            error=outcome.error,
            log_size=size,
        )

        def finish(current: HeldByUs | None) -> HeldByUs | None:
            if current is None or current.fence != job.fence or current.state is JobState.DROPPED:
                return None
            return current.to(JobState.FINISHED, result=result)

        self.machine.bound_log(job, job.log_base + size)
        stored = yield from self.change(job.job_id, finish)
        if stored is None:
            self.forget_files(job)
            self.logs.forget(job.job_id)
            return
        self.logs.ended(stored)
        self._send_result(stored)

    def _send_result(self, job: HeldByUs) -> None:
        if job.result is not None and not job.result_acked and self.ready:
            self.send(self.topics.results(self.name), job.result)

    def _acknowledged(self, job_id: JobId, fence: Fence) -> Shell:
        def acked(job: HeldByUs | None) -> HeldByUs | None:
            if job is None or job.fence != fence or job.result is None or job.result_acked:
                return job
            return replace(job, result_acked=True)

        yield from self.change(job_id, acked)
        yield from self.settle(job_id)

    def settle(self, job_id: JobId) -> Shell:
        """Forget a job of which the centre has everything."""
        job = self.held.get(job_id)
        if job is not None and job.settled(log_stored=self.logs.stored(job_id)):
            yield from self._forget(job)

    def _forget(self, job: HeldByUs) -> Shell:
        yield from self.change(job.job_id, lambda current: None if current is job else current)
        if job.job_id not in self.held:
            self.logs.forget(job.job_id)
            self.forget_files(job)

    def forget_files(self, job: HeldByUs) -> None:
        """Delete the run's files."""
        self.machine.runs.pop((job.job_id, job.fence), None)

    def _repeat(self) -> Shell:
        while True:
            yield self.life.sleep(REPEAT_S)
            for job in [job for job in self.held.values() if job.result is not None]:
                yield from self.settle(job.job_id)
                self._send_result(job)

    # ------------------------------------------------------------ what supervisors ask

    def refuses(self, job_id: JobId) -> bool:
        """Tell whether a supervisor's heartbeat is refused; one that cannot be asked refuses nothing."""
        return self.life.alive and self.runs.refuses(job_id)

    def log_written(self) -> None:
        """Take note that there is something to ship."""
        if self.life.alive:
            self.logs.wake()

    def call(self, process: Process, request_id: str, target: str, body: str, answer: Callable[[int], None]) -> None:
        """Take a supervisor's call; nobody is there to take it while the worker is dead."""
        if self.life.alive:
            self._calls.take(process, request_id, target, body, answer)

    def exited(self, job: HeldByUs, outcome: RunOutcome) -> Shell:
        """Report how a run ended."""
        self._calls.forget(job.job_id)
        yield from self.finished(job, outcome)


def _keep(jobs: dict[JobId, HeldByUs], job_id: JobId, job: HeldByUs | None) -> None:
    if job is None:
        jobs.pop(job_id, None)
    else:
        jobs[job_id] = job
