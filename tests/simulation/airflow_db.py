"""Airflow's database and Execution API, as far as they decide what the others see. Never crashes, never forgets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import JobSpec, Outcome, WorkloadType
from tests.simulation.plan import Work

if TYPE_CHECKING:
    from tests.simulation.world import World

#: Tries of a task.
MAX_TRIES: Final = 2
#: Seconds until a failed task is tried again, and until a deferred one goes on.
RETRY_S: Final = 5.0
TRIGGER_S: Final = 8.0

#: Task and try: what Airflow's executors call a key.
Key = tuple[int, int]

OK, CONFLICT = 200, 409


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

    @property
    def key(self) -> Key:
        """What executors call it."""
        return (self.work.number, self.try_number)


class Airflow:
    """Every task instance, and what may be done to it."""

    #: Airflow itself knows task instances only: a final call that a deferred job repeats, because a crash of the
    #: bridge took the answer, counts for the job that goes on with the task. Whether the bridge keeps that from
    #: happening is seen with False.
    knows_jobs = True

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
            row.state, row.owner, row.starter, row.cleared = "scheduled", None, None, False
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
            queue="lab",
            priority=work.priority,
            slots=work.slots,
            dag_id="dag",
            task_id=str(work.number),
            try_number=row.try_number,
            log_path=None if work.callback else f"task={work.number}/attempt={row.try_number}.log",
            workload={
                "callback" if work.callback else "ti": {"id": str(work.number)},
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

    def take(self, scheduler: str, key: Key, job_id: JobId, outcome: Outcome, *, has_task: bool) -> None:
        """Take an executor's final event (``process_executor_events``): one committed transaction."""
        self._world.promises.taken(job_id, outcome)
        row = self.rows[key[0]]
        if row.key != key or row.owner != scheduler or has_task:
            return
        if row.work.callback:
            row.state = "success" if outcome is Outcome.SUCCESS else "failed"
        elif row.cleared or row.state in ("queued", "running"):
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

    def run(self, number: int, starter: str) -> int:
        """Answer a ``run`` call; the same process may repeat it."""
        row = self.rows[number]
        if row.state == "queued" and not row.cleared:
            row.state, row.starter = "running", starter
        return OK if row.state == "running" and row.starter == starter else CONFLICT

    def end(self, number: int, state: str) -> int:
        """Answer a ``state`` call; it may be repeated."""
        row = self.rows[number]
        if row.state == state or (state == "failed" and row.state == "up for retry"):
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

    def heartbeat(self, number: int, starter: str) -> int:
        """Answer a heartbeat."""
        row = self.rows[number]
        return OK if row.state == "running" and row.starter == starter and not row.cleared else CONFLICT
