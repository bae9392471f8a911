"""Airflow's database and Execution API, as far as they decide what the others see. Never crashes, never forgets."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from airflow.models.callback import CallbackKey
from airflow.models.taskinstancekey import TaskInstanceKey

from edge_mqtt.broker_bridge.execution_api.client import ApiCall, ApiResult
from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import JobSpec, Outcome, WorkloadType
from edge_mqtt.executor.workloads import callback_key
from tests.simulation.plan import MAX_TRIES, Work

if TYPE_CHECKING:
    from tests.simulation.world import World

#: Seconds until a failed task is tried again, and until a deferred one goes on.
RETRY_S: Final = 5.0
TRIGGER_S: Final = 2.0

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
    has_deferred: bool = False
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
        #: Whether the Execution API answers.
        self.api_is_up = True

    def schedule_everything(self) -> None:
        """Let every task become ready at its time."""
        for row in self.rows:
            self._schedule(row, row.work.at)

    def _schedule(self, row: TaskInstance, delay_s: float) -> None:
        def ready() -> None:
            row.state, row.owner, row.starter, row.cleared, row.is_stuck = "scheduled", None, None, False, False
            self._supersede(row)

        self._world.clock.after(delay_s, ready)

    def _supersede(self, row: TaskInstance) -> None:
        if row.job_id is not None:
            self._world.promises.over_in_airflow.add(row.job_id)
        row.job_id = None

    # ------------------------------------------------------------ schedulers

    def queue(self, row: TaskInstance, scheduler: str) -> JobSpec:
        """Queue a scheduled task: one committed transaction; return its job."""
        job_id = JobId(f"j{self._world.count()}")
        row.state, row.job_id, row.owner = "queued", job_id, scheduler
        work = row.work
        spec = JobSpec(
            job_id=job_id,
            type=WorkloadType.CALLBACK if work.callback else WorkloadType.TASK,
            queue=work.queue,
            priority=work.priority,
            slots=work.slots,
            dag_id="dag",
            task_id=str(work.number),
            try_number=row.try_number,
            log_path=None if work.callback else f"task={work.number}/attempt={row.try_number}.log",
            workload={
                "callback" if work.callback else "ti": {"id": row.id},
                "bundle_info": {"name": "dags"},
                "dag_rel_path": "dag.py",
                "resumed": row.has_deferred,
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

    def note_job(self, key: Key, job_id: object) -> None:
        """Take an executor's word about which job runs a task (``process_executor_events``)."""
        row = self.row_of(key)
        if row is not None and row.state in ("queued", "running"):
            self._world.promises.renamed(row.job_id, job_id)

    def take(self, scheduler: str, key: Key, job_id: JobId | None, outcome: Outcome, *, has_task: bool) -> None:
        """Take an executor's final event (``process_executor_events``): one committed transaction."""
        if job_id is not None:
            self._world.promises.taken(job_id, outcome)
        row = self.row_of(key)
        if row is None:
            return
        if row.work.callback:
            row.state = "success" if outcome is Outcome.SUCCESS else "failed"
        elif row.owner == scheduler and not has_task and (row.cleared or row.state in ("queued", "running")):
            # Its task never said so itself: for Airflow it failed, whatever the executor says.
            self._fail(row)

    def _fail(self, row: TaskInstance) -> None:
        row.cleared = False
        if row.try_number < MAX_TRIES:
            row.state = "up for retry"
            row.try_number += 1
            row.has_deferred = False
            self._schedule(row, RETRY_S)
        else:
            row.state = "failed"

    # ------------------------------------------------------------ the Execution API

    def restart_api(self) -> None:
        """Let the Execution API be away for a while; what it was doing is done, and nobody hears of it."""
        self.api_is_up = False
        self._world.clock.after(self._world.chance.uniform(1.0, 40.0), lambda: setattr(self, "api_is_up", True))

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
        status = self._answer(call, identity, json.loads(call.body))
        refreshed = self.token(identity) if left_s < TOKEN_S / 5 else None
        detail = {"reason": str(status), "message": "no", "previous_state": self._previous_state(identity)}
        body = b"" if status == OK else json.dumps({"detail": detail}).encode()
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
            return self._end(row, body["state"], starter)
        return self._run(row, starter) if path[2] == "run" else self._heartbeat(row, starter)

    def _run(self, row: TaskInstance, starter: str) -> int:
        """Answer a ``run`` call; the same process may repeat it."""
        if row.state == "queued" and not row.cleared:
            row.state, row.starter = "running", starter
        return OK if row.state == "running" and row.starter == starter else CONFLICT

    def _end(self, row: TaskInstance, state: str, starter: str) -> int:
        """Answer a ``state`` call; it may be repeated."""
        job_id = row.job_id
        if row.state == "running" and row.starter != starter:
            self._world.promises.ended_by_another(starter, row.starter)
        status = self._set_end(row, state)
        if status == OK and job_id is not None:
            # What becomes of the process from here on changes nothing for the task.
            self._world.promises.excuse([job_id], "its task has told Airflow its end")
        return status

    def _set_end(self, row: TaskInstance, state: str) -> int:
        if row.state == state:
            return OK
        if row.state != "running" or row.cleared:
            return CONFLICT
        if state == "failed":
            self._fail(row)
        else:
            row.state = state
        if state == "deferred":
            row.has_deferred = True
            self._schedule(row, TRIGGER_S)
        return OK

    def _heartbeat(self, row: TaskInstance, starter: str) -> int:
        """Answer a heartbeat."""
        return OK if row.state == "running" and row.starter == starter and not row.cleared else CONFLICT
