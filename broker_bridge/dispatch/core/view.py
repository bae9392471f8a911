"""What others than the dispatcher may read of what it knows."""

from __future__ import annotations

from edge_mqtt.broker_bridge.dispatch.core.indexes import Indexes
from edge_mqtt.broker_bridge.dispatch.core.model import Job, WorkerView
from edge_mqtt.broker_bridge.dispatch.core.state import DispatchState
from edge_mqtt.broker_bridge.protocol.ids import JobId, WorkerName


class DispatchView:
    """The present, which may not be committed yet: for answers that a later commit could not make wrong.

    Belongs to the dispatcher's event loop.
    """

    def __init__(self, state: DispatchState, indexes: Indexes) -> None:
        self._state = state
        self._indexes = indexes

    def get_job(self, job_id: JobId) -> Job | None:
        """Return a job that is in memory: every live one, and some of those that are over."""
        return self._state.jobs.get(job_id)

    def is_superseded(self, job_id: JobId) -> bool:
        """Tell whether Airflow has queued the task of an unfinished job again since."""
        return job_id in self._state.superseded

    def is_reachable(self, job: Job) -> bool:
        """Tell whether a message to the machine that has, or had, ``job`` can arrive now, as far as we know."""
        return self._state.is_reachable(job)

    def running_jobs(self) -> tuple[Job, ...]:
        """Return every running job."""
        return tuple(self._state.jobs[job_id] for job_id in self._indexes.jobs.running)

    def jobs_of(self, worker: WorkerName) -> tuple[Job, ...]:
        """Return the jobs that ``worker`` holds, assigned or running; also on former machines of its name."""
        return (*self._indexes.held_jobs(worker), *self._indexes.orphaned_jobs(worker))

    def workers(self) -> tuple[WorkerView, ...]:
        """Return every worker that is known."""
        return tuple(self._state.workers.values())

    def is_served(self, queue: str) -> bool:
        """Tell whether a connected worker serves ``queue``, though it may take no new jobs now."""
        # Asked for every job that comes: who takes jobs is known without a look at each worker.
        return self._indexes.worker_index.is_served(queue) or any(
            worker.connected and queue in worker.queues for worker in self._state.workers.values()
        )
