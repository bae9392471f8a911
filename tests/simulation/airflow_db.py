"""Airflow's database and Execution API, as far as they decide what the others see. Never crashes, never forgets."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from airflow.models.callback import CallbackKey
from airflow.models.taskinstancekey import TaskInstanceKey

from edge_mqtt.broker_bridge.execution_api.client import ApiCall, ApiResult
from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import JobSpec, Outcome, WorkloadType
from edge_mqtt.executor.workloads import callback_key
from tests.simulation.dag_runs import TARGET, DagRuns
from tests.simulation.plan import GOES_ON, MAX_TRIES, PAUSES, Work

if TYPE_CHECKING:
    from tests.simulation.world import World

#: Seconds until a failed task is tried again, and until a deferred or rescheduled one goes on.
RETRY_S: Final = 5.0
TRIGGER_S: Final = 2.0
#: Seconds that one which goes on waits for a slot in its pool, for example.
NO_SLOT_S: Final = (0.0, 0.0, 20.0)
#: Seconds without a heartbeat after which a running task is given up: longer than any outage of the centre here.
HEARTBEAT_TIMEOUT_S: Final = 200.0


def _folder(work: Work) -> str:
    return f"loop/task={work.number}" if work.has_no_log else f"task={work.number}"


Key = CallbackKey | TaskInstanceKey

OK, FORBIDDEN, NOT_FOUND, CONFLICT = 200, 403, 404, 409
#: Seconds that an Execution API token is good for; in the last fifth a call brings a newer one.
TOKEN_S: Final = 60.0


@dataclass
class TaskInstance:
    """A row. ``state`` is Airflow's."""

    work: Work
    state: str = "none"
    try_number: int = 1
    job_id: JobId | None = None
    #: The scheduler that queued it.
    owner: str | None = None
    #: Host and pid of the supervisor whose ``run`` call was granted.
    starter: str | None = None
    has_paused: bool = False
    #: When its process was last heard of.
    heard_at: float = 0.0
    #: Until when there is no slot for it in its pool.
    no_slot_until: float = 0.0
    #: The scheduler that holds the row while it asks about it.
    locked_by: str | None = None
    #: A user cleared it while it ran.
    cleared: bool = False
    #: It has been queued for too long: every scheduler's look revokes it until that is stored.
    is_stuck: bool = False

    @property
    def key(self) -> Key:
        """What executors call it."""
        if self.work.callback:
            return callback_key(self.job_id or JobId(""))
        return TaskInstanceKey("dag", str(self.work.number), "", self.try_number, -1)

    @property
    def id(self) -> str:
        """Its id, which is another one in every try; a deferred task keeps it."""
        return f"ti-{self.work.number}-{self.try_number}"


class Airflow:
    """Every task instance, and what may be done to it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.rows = [TaskInstance(work) for work in world.plan.work]
        self.dag_runs = DagRuns(world)
        #: Whether the Execution API answers.
        self.api_is_up = True

    def schedule_everything(self) -> None:
        """Let every task become ready at its time."""
        for row in self.rows:
            self._schedule(row, row.work.at)
        self.dag_runs.plan_others()

    def _schedule(self, row: TaskInstance, delay_s: float) -> None:
        def ready() -> None:
            row.state, row.starter, row.cleared, row.is_stuck = "scheduled", None, False, False
            row.no_slot_until = self._world.clock.now + self._world.chance.choice(NO_SLOT_S)
            self._supersede(row)

        self._world.clock.after(delay_s, ready)

    def _supersede(self, row: TaskInstance) -> None:
        if row.job_id is not None:
            self._world.promises.over_in_airflow.add(row.job_id)
        row.job_id = None

    # ------------------------------------------------------------ schedulers

    def queue(self, row: TaskInstance, scheduler: str) -> JobSpec:
        """Queue a scheduled task: one committed transaction; return its job."""
        work, number = row.work, self._world.count()
        job_id = JobId(str(uuid.UUID(int=number)) if work.callback else f"j{number}")
        row.state, row.job_id, row.owner = "queued", job_id, scheduler
        spec = JobSpec(
            job_id=job_id,
            type=WorkloadType.CALLBACK if work.callback else WorkloadType.TASK,
            queue=work.queue,
            priority=work.priority,
            slots=work.slots,
            dag_id="dag",
            task_id=str(work.number),
            try_number=row.try_number,
            log_path=None if work.callback else f"{_folder(work)}/attempt={row.try_number}.log",
            workload={
                "callback" if work.callback else "ti": {"id": row.id},
                "may_retry": row.try_number < MAX_TRIES,
                "bundle_info": {"name": "dags"},
                "dag_rel_path": "dag.py",
                "resumed": row.has_paused,
            },
        )
        self._world.add_job(spec)
        self._world.trace("airflow: task %d is queued as %s", work.number, job_id)
        return spec

    def reset(self, row: TaskInstance) -> None:
        """Take a task back from a job: it will be queued as another one."""
        self._schedule(row, 0.0)

    def row_of(self, key: Key) -> TaskInstance | None:
        """Return whose key it is; None for nobody's, or nobody's any more."""
        return next((row for row in self.rows if row.key == key), None)

    def wanted_jobs(self, job_ids: Iterable[JobId]) -> dict[JobId, WorkloadType]:
        """Return those of ``job_ids`` that Airflow waits for, and what they are."""
        alive = {row.job_id: row.work for row in self.rows if row.state in ("queued", "running")}
        return {
            job_id: WorkloadType.CALLBACK if alive[job_id].callback else WorkloadType.TASK
            for job_id in job_ids
            if job_id in alive
        }

    def mark(self, row: TaskInstance) -> None:
        """Let a user mark a task that waits as failed."""
        if row.job_id is not None:
            self._world.promises.over_in_airflow.add(row.job_id)
        row.state = "failed"

    def note_job(self, key: Key, job_id: object) -> None:
        """Take an executor's word about which job runs a task (``process_executor_events``)."""
        row = self.row_of(key)
        if row is not None and row.state in ("queued", "running"):
            self._world.promises.renamed(row.job_id, job_id)

    def give_up_silent(self, scheduler: str) -> list[Key]:
        """Give up the running tasks whose heartbeats are missing; return the keys of a scheduler's own."""
        limit = self._world.clock.now - HEARTBEAT_TIMEOUT_S
        silent = [
            row for row in self.rows if row.state == "running" and row.heard_at < limit and not row.work.callback
        ]
        keys = [row.key for row in silent if row.owner == scheduler]
        for row in silent:
            self._world.promises.given_up(row.job_id)
            self._fail(row)
        return keys

    def take(self, scheduler: str, key: Key, job_id: JobId | None, outcome: Outcome, *, has_task: bool) -> None:
        """Take an executor's final event (``process_executor_events``): one committed transaction."""
        if job_id is not None:
            self._world.promises.taken(job_id, outcome)
        row = self.row_of(key)
        if row is None:
            return
        if row.work.callback:
            row.state = "success" if outcome is Outcome.SUCCESS else "failed"
        elif row.owner == scheduler and not has_task and self._is_unexpected(row, outcome):
            # Its task never said so itself: for Airflow it failed, whatever the executor says.
            self._world.promises.failed_by_end(job_id, row)
            self._fail(row)

    def _is_unexpected(self, row: TaskInstance, outcome: Outcome) -> bool:
        resumes = row.state == "scheduled" and row.has_paused and row.work.pauses == "deferred"
        if resumes and outcome is Outcome.SUCCESS:
            return False
        return row.cleared or row.state in ("scheduled", "queued", "running")

    def _fail(self, row: TaskInstance) -> None:
        row.cleared = False
        if row.try_number < MAX_TRIES:
            row.state = "up for retry"
            row.try_number += 1
            row.has_paused = False
            self._schedule(row, RETRY_S)
        else:
            row.state = "failed"

    # ------------------------------------------------------------ the Execution API

    def restart_api(self) -> None:
        """Let the Execution API be away for a while; what it was doing is done, and nobody hears of it."""
        self.api_is_up = False
        self._world.clock.after(self._world.chance.uniform(1.0, 40.0), lambda: setattr(self, "api_is_up", True))

    def is_busy(self) -> bool:
        """Tell whether the api-server turns a call away, with status 503."""
        return not self._world.healed and self._world.chance.random() < self._world.plan.busy

    def token(self, task_instance_id: str) -> str:
        """Return a fresh token: whose it is, and until when it is good."""
        return f"{task_instance_id} {self._world.central.wall() + TOKEN_S}"

    def answer(self, call: ApiCall) -> ApiResult:
        """Answer a call."""
        if call.target == "health":
            return ApiResult(status=OK, headers={}, body=b"")
        identity, _, until = call.token.partition(" ")
        left_s = float(until or 0.0) - self._world.central.wall()
        if left_s <= 0.0:
            return ApiResult(status=FORBIDDEN, headers={}, body=b"Invalid auth token")
        if call.target.startswith(TARGET):
            status, body = self.dag_runs.answer(call.method, call.target, call.body)
        else:
            status = self._answer(call, identity, json.loads(call.body))
            detail = {"reason": str(status), "message": "no", "previous_state": self._previous_state(identity)}
            body = b"" if status == OK else json.dumps({"detail": detail}).encode()
        refreshed = self.token(identity) if left_s < TOKEN_S / 5 else None
        return ApiResult(status=status, headers={}, body=body, refreshed_token=refreshed)

    def _previous_state(self, identity: str) -> str | None:
        row = next((row for row in self.rows if row.id == identity), None)
        return None if row is None else "restarting" if row.cleared else row.state

    def _answer(self, call: ApiCall, identity: str, body: dict[str, Any]) -> int:
        self._world.promises.asked(body)
        row = next((row for row in self.rows if row.id == identity), None)
        path = call.target.split("/")
        if call.target == "xcoms":
            self._world.promises.called(JobId(body["job"]), body["call"])
            return OK if row is not None and row.state == "running" else CONFLICT
        if path[1] != identity:
            return FORBIDDEN
        if row is None:
            return NOT_FOUND
        starter = f"{body['hostname']}:{body['pid']}"
        if path[2] == "state":
            return self._end(row, body["state"], starter, JobId(body["job"]))
        return self._run(row, starter) if path[2] == "run" else self._heartbeat(row, starter)

    def _run(self, row: TaskInstance, starter: str) -> int:
        """Answer a ``run`` call; the same process may repeat it."""
        if row.state == "queued" and not row.cleared:
            row.state, row.starter = "running", starter
            row.heard_at = self._world.clock.now
        return OK if row.state == "running" and row.starter == starter else CONFLICT

    def _end(self, row: TaskInstance, state: str, starter: str, caller: JobId) -> int:
        """Answer a ``state`` call; it may be repeated."""
        job_id, promises = row.job_id, self._world.promises
        if row.state == "running" and row.starter != starter:
            promises.ended_by_another(starter, row.starter)
        status = self._set_end(row, state)
        if status == OK and job_id is not None:
            if caller != job_id:
                # The earlier job was revoked, and began before the bridge heard of that: Airflow, which looks at the
                # process only, had it run the task. It waits for nothing of the later job any more.
                promises.over_in_airflow.add(job_id)
            if state in GOES_ON:
                promises.going_on |= {job_id, caller}
            # What becomes of the process from here on changes nothing for the task.
            promises.excuse({job_id, caller}, "its task has told Airflow its end")
        return status

    def _set_end(self, row: TaskInstance, state: str) -> int:
        if row.state == state:
            return OK
        if row.state != "running" or row.cleared:
            return CONFLICT
        if state in ("failed", "up_for_retry"):
            self._fail(row)
        else:
            row.state = state
        if state in PAUSES:
            row.has_paused = True
            self._schedule(row, TRIGGER_S)
        return OK

    def _heartbeat(self, row: TaskInstance, starter: str) -> int:
        """Answer a heartbeat."""
        if row.state != "running" or row.starter != starter or row.cleared:
            return CONFLICT
        row.heard_at = self._world.clock.now
        return OK
