"""The five promises, checked while everything happens and once more when all is quiet."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job
from edge_mqtt.broker_bridge.protocol.ids import JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import LogSelector, Outcome, WorkloadType
from tests.simulation.dag_runs import ALREADY_EXISTS, Maker
from tests.simulation.plan import GOES_ON, LEASE_BEYOND_GRACE_S
from tests.simulation.worker import ERROR, Answer

if TYPE_CHECKING:
    from tests.simulation.airflow_db import TaskInstance
    from tests.simulation.process import Process
    from tests.simulation.world import World


class PromiseBroken(AssertionError):
    """A promise was broken; its number and how."""


class Promises:
    """What happened so far, as far as a promise is about it."""

    def __init__(self, world: World) -> None:
        self._world = world
        #: Which process began a job's user code.
        self.started: dict[JobId, list[Process]] = defaultdict(list)
        #: What Airflow was told, and took.
        self.ends: dict[JobId, list[Outcome]] = defaultdict(list)
        #: Why a job may end otherwise than its script does.
        self.excuses: dict[JobId, list[str]] = defaultdict(list)
        #: Jobs whose task has told Airflow that it goes on as another one.
        self.going_on: set[JobId] = set()
        #: Jobs that Airflow took back before any bridge knew them, gave up, or has another one for.
        self.over_in_airflow: set[JobId] = set()
        #: Jobs whose scheduler died: nobody may have asked for their end any more when it came.
        self.orphaned: set[JobId] = set()
        #: Calls of user code as they reached Airflow.
        self.calls: dict[JobId, list[int]] = defaultdict(list)
        #: Calls of user code that have made a Dag run.
        self._makers: set[Maker] = set()
        #: Jobs whose worker lost its disk before the centre had their whole log.
        self.lost_logs: set[JobId] = set()
        self._ended: set[JobId] = set()

    def _broken(self, number: int, what: str) -> PromiseBroken:
        broken = PromiseBroken(f"promise {number}: {what}")
        # Whoever is running may catch it.
        self._world.clock.failure = self._world.clock.failure or broken
        return broken

    def excuse(self, job_ids: Iterable[JobId], why: str) -> None:
        """Let jobs fail from now on: something happened to them that no system could hide."""
        for job_id in job_ids:
            self.excuses[job_id].append(why)

    # ------------------------------------------------------------ while it happens

    def user_code_begins(self, process: Process) -> None:
        """Promise 2: at most one process ever runs a job's user code."""
        self._world.tally["user code"] += 1
        if process.work.has_no_log:
            raise self._broken(2, f"{process} runs without a log")
        ran = self.started[process.job_id]
        ran.append(process)
        if len(ran) > 1:
            raise self._broken(2, f"{process.job_id} runs twice, as {' and '.join(str(p) for p in ran)}")
        for other in self._of_same_try(process):
            if other.alive:
                raise self._broken(2, f"{process} begins while {other} still runs the same task")

    def _of_same_try(self, process: Process) -> list[Process]:
        """Return the other processes of the same task whose job Airflow believes to be over by failure."""
        number, world = process.spec.task_id, self._world
        return [
            other
            for job_id, ran in self.started.items()
            for other in ran
            if other is not process and other.spec.task_id == number and world.was_lost(job_id)
        ]

    def given_away(self, job_id: JobId) -> None:
        """Promise 2: a job is over on its worker, and its slot free, when its process is gone and not before."""
        raise self._broken(2, f"the slot of {job_id} is given away while its process runs")

    def signalled(self, process: Process, why: str) -> None:
        """Promise 4: nobody stops a running task without a cause."""
        excused = self._is_excused(process.job_id)
        if process.has_begun and not excused:
            raise self._broken(4, f"{process} is stopped: {why}")

    def called(self, job_id: JobId, number: int) -> None:
        """Promise 4: calls arrive in the order in which they were made; a repeat of the last one counts once."""
        calls = self.calls[job_id]
        if calls and calls[-1] == number:
            return
        if number != len(calls):
            raise self._broken(4, f"call {number} of {job_id} arrives after {len(calls)} others")
        calls.append(number)

    def run_made(self, call: Maker) -> None:
        """Promise 4: a call makes one Dag run, however often it is made."""
        if call in self._makers:
            raise self._broken(4, f"{call} makes a second Dag run")
        self._makers.add(call)

    def triggered(self, run_id: str, call: Maker, answer: Answer) -> None:
        """Promise 4: a task hears that its call has made a Dag run when it has, and only then."""
        maker = self._world.airflow.dag_runs.maker(run_id)
        if answer.status < ERROR and maker != call:
            raise self._broken(4, f"{call} is told that it has made the Dag run {run_id}, which {maker} made")
        if answer.reason == ALREADY_EXISTS and maker == call:
            raise self._broken(4, f"{call} is told that the Dag run {run_id}, which it has made, was there already")

    def ended_by_another(self, caller: str, starter: str | None) -> None:
        """Promise 4: what one process says of its task's end does not end another's run of it."""
        raise self._broken(4, f"{caller} tells the end of a task that {starter} runs")

    def committed(self, changed: Iterable[Job]) -> None:
        """Promises 2 and 4: a job ends at the centre as it did on its worker, and not before."""
        for job in changed:
            if job.state is CentralJobState.FINISHED and job.id not in self._ended:
                self._ended.add(job.id)
                self._check_end(job)

    def _check_end(self, job: Job) -> None:
        running = [process for process in self.started[job.id] if process.alive and process.has_begun]
        if running and job.outcome is not Outcome.CANCELLED:
            raise self._broken(2, f"{job.id} is {job.outcome} ({job.detail}) while {running[0]} runs")
        if self._world.plan.work[int(job.spec.task_id)].has_no_log and "times)" in job.detail:
            raise self._broken(4, f"{job.id} was refused again and again: {job.detail}")
        wanted = self._world.expected(job.id)
        if job.outcome is not wanted and not self._is_excused(job.id):
            raise self._broken(4, f"{job.id} is {job.outcome} ({job.detail}) and not {wanted}")

    def _is_excused(self, job_id: JobId) -> bool:
        job = self._world.bridge.known(job_id)
        if job is None or job.worker is None:
            return bool(self.excuses[job_id])
        if self._world.outages.is_long(job.worker, job.lease_s - LEASE_BEYOND_GRACE_S):
            self.excuse([job_id], "its worker was out of reach for too long")
        return bool(self.excuses[job_id])

    def taken(self, job_id: JobId, outcome: Outcome) -> None:
        """Promise 1: Airflow takes one final event of a job."""
        self._world.tally["final event"] += 1
        if job_id in self.going_on:
            raise self._broken(1, f"Airflow is told the end of {job_id}, whose task goes on")
        ends = self.ends[job_id]
        ends.append(outcome)
        # Airflow asks for no callback after a crash: its end is told again, and Airflow stores the same once more.
        may_repeat = self._world.jobs[job_id].type is WorkloadType.CALLBACK and job_id in self.orphaned
        if len(ends) > 1 and not (may_repeat and len(set(ends)) == 1):
            raise self._broken(1, f"Airflow takes {len(ends)} final events of {job_id}: {ends}")

    def failed_by_end(self, job_id: JobId | None, row: TaskInstance) -> None:
        """Promise 4: the end of a job whose task goes on as another one fails that task in no state."""
        if job_id in self.going_on:
            raise self._broken(4, f"the end of {job_id}, whose task goes on, fails the task in state {row.state}")

    def given_up(self, job_id: JobId | None) -> None:
        """Promise 4: Airflow does not miss the heartbeats of a task that runs."""
        self._world.tally["task given up"] += 1
        running = [process for process in self.started[job_id or JobId("")] if process.alive and process.has_begun]
        if running and not self._is_excused(running[0].job_id):
            raise self._broken(4, f"Airflow gives up {job_id}, which runs as {running[0]}")
        if job_id is not None:
            self.excuse([job_id], "Airflow has given its task up")
            self.over_in_airflow.add(job_id)

    def renamed(self, job_id: JobId | None, given: object) -> None:
        """Promise 1: a task's job keeps its id in Airflow, or nobody could adopt it.

        Unless it was revoked: until the bridge hears of that, the earlier job may start, and is the one that runs.
        """
        if given != job_id and (job_id is None or not self.excuses[job_id]):
            raise self._broken(1, f"Airflow is told that {job_id} is {given}")

    def given_back(self, job_id: JobId) -> None:
        """Promise 1: the bridge does not deny a job that it has accepted."""
        self.over_in_airflow.add(job_id)
        if self._world.bridge.on_disk(job_id) is not None:
            raise self._broken(1, f"{job_id} was accepted, and is denied")

    def wrote(self, worker: WorkerName, job_id: JobId, what: str) -> None:
        """Promise 5: what a worker says counts for its own jobs only."""
        job = self._world.bridge.known(job_id)
        if job is None or job.worker != worker:
            raise self._broken(5, f"{worker} writes {what} of {job_id}, which is {job and job.worker}'s")

    def asked(self, body: dict[str, Any]) -> None:
        """Promise 5: a worker calls Airflow for its own jobs only."""
        if "rogue" in body:
            raise self._broken(5, f"a call for another worker's job reaches Airflow: {body}")

    # ------------------------------------------------------------ when all is quiet

    def check_quiet(self) -> None:
        """All promises are due."""
        self._check_ends()
        self._check_nothing_is_held()
        for what in self.unsaid():
            raise self._broken(3, f"nothing says where the log is, or why there is none: {what}")
        for job in self._world.bridge.ledger.find(LogSelector(), 10_000):
            self._check_log(job)

    def _check_ends(self) -> None:
        world = self._world
        for job_id in world.jobs:
            job, ends = world.bridge.on_disk(job_id), self.ends[job_id]
            if job is None and job_id not in self.over_in_airflow | self.orphaned and not ends:
                raise self._broken(1, f"{job_id} is lost without a trace")
            if job is not None and (job.state is not CentralJobState.FINISHED or not job.event_acked):
                raise self._broken(1, f"{job_id} never ended: {job.state}, holder {job.holder}, {job.event_acked=}")
            # What its task told may not have reached Airflow, which then misses the heartbeats.
            goes_on = job is not None and job.told in GOES_ON
            if not ends and not goes_on and job_id not in self.over_in_airflow | self.orphaned:
                raise self._broken(1, f"Airflow never heard of the end of {job_id}")
        for row in world.airflow.rows:
            if row.state not in ("success", "failed") and not world.is_stranded(row):
                raise self._broken(1, f"task {row.work.number} never ended: {row.state} as {row.job_id}")

    def _check_nothing_is_held(self) -> None:
        for machine in self._world.machines:
            for held in machine.worker.held().values():
                raise self._broken(1, f"{machine.name} still holds {held.job_id}: {held.state}, {held.result_acked=}")
            for process in machine.living():
                raise self._broken(2, f"{process} still runs")
            for name in machine.leftovers():
                raise self._broken(1, f"{machine.name} keeps {name} for ever")
        for what in self._world.bridge.leftovers():
            raise self._broken(1, f"the bridge keeps {what} for ever")
        for scheduler in self._world.schedulers:
            for what in scheduler.leftovers():
                raise self._broken(1, f"{scheduler.name} keeps {what} for ever")

    def _check_log(self, job: Job) -> None:
        """Promise 3: the central log equals the worker's, byte for byte; of a lost job, as far as it came."""
        if job.spec.type is not WorkloadType.TASK:
            return
        stored = b"" if job.log_base is None else self._world.bridge.stored_bytes(job)
        if not job.ships_log:
            self._check_kept_log(job, stored)
            return
        written, *before = self._world.written(job)
        ours = without_markers(stored)
        if ours != stored and not written.startswith(ours):
            # What is given up may end in the middle of a line, which is ended before the bridge's own begins.
            ours = ours.removesuffix(b"\n")
        # What the supervisor of a job says that never began is nobody's: it may have come too late to be in order.
        given_up = job.starter is None or job.id in self.lost_logs or (ours != stored and bool(self.excuses[job.id]))
        whole = job.outcome is not Outcome.LOST and job.log_size is not None and not given_up
        if ours == written or (not whole and written.startswith(ours)):
            return
        if not any(_is_of_both(ours, torn, written) for torn in before):
            raise self._broken(3, f"the log of {job.id} is {_short(ours)} and not {_short(written)}")

    def _check_kept_log(self, job: Job, stored: bytes) -> None:
        """Where a log stays on its worker, the centre has a line that says so, and nothing else."""
        if without_markers(stored):
            raise self._broken(3, f"the log of {job.id} is {_short(stored)}, and should have stayed on {job.worker}")

    def unsaid(self) -> list[str]:
        """Return the jobs whose log stays on its worker, or that failed unstarted, and nothing says so yet."""
        return list(self._world.bridge.ledger.without_notice())


def without_markers(stored: bytes) -> bytes:
    """Return a log without the bridge's own lines at its end, which stand before what comes next in the file."""
    begin = stored.rfind(b'{"timestamp"')
    if begin < 0 or b'"logger": "edge_mqtt.bridge"' not in stored[begin:]:
        return stored
    return without_markers(stored[:begin])


def _is_of_both(stored: bytes, torn: bytes, rest: bytes) -> bool:
    """Tell whether a log is what was shipped before a loss of power and what came after it, each at its place."""
    both = zip(stored, torn, strict=False)
    same = next((at for at, (ours, theirs) in enumerate(both) if ours != theirs), len(torn))
    return stored[same:] == rest[same : len(stored)]


def _short(data: bytes) -> str:
    return f"{len(data)} bytes ({data[:24]!r}...{data[-24:]!r})" if len(data) > 48 else repr(data)
