"""The bridge's own log lines about jobs: one at each step of a job's life, whoever is told of it how often."""

from __future__ import annotations

import logging

from edge_mqtt.broker_bridge.dispatch.core.effects import Assigned
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job
from edge_mqtt.broker_bridge.dispatch.core.view import DispatchView
from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import TAKEN_OVER, JobAccepted, JobFinished, Message, Outcome

log = logging.getLogger(__name__)


class JobLog:
    """Writes the lines, and a warning when no worker serves the queue of a job that was accepted."""

    def __init__(self, view: DispatchView) -> None:
        self._view = view
        #: Queues of which the warning was written that no worker serves them.
        self._unserved: set[str] = set()

    def log_assignment(self, effect: Assigned) -> None:
        """Log that a job goes to a worker."""
        _log_job("job assigned", effect.message.job.job_id, worker=effect.worker, fence=effect.message.fence)

    def log_event(self, message: Message) -> None:
        """Log what an executor is told, unless :meth:`log_move` has logged it."""
        match message:
            case JobAccepted():
                self._log_acceptance(message.job_id)
            case JobFinished(detail=detail) if detail == TAKEN_OVER:
                _log_job("job taken over", message.job_id)
            case JobFinished() if self._view.get_job(message.job_id) is None:
                _log_job("job denied", message.job_id, detail=message.detail)

    def log_move(self, job: Job) -> None:
        """Log that a job has begun to run, or has ended."""
        if job.state is CentralJobState.RUNNING:
            _log_job("job started", job.id, worker=job.worker)
            return
        what = "job cancelled" if job.outcome is Outcome.CANCELLED else "job finished"
        _log_job(what, job.id, worker=job.worker or "", outcome=job.outcome, detail=job.detail or None)

    def _log_acceptance(self, job_id: JobId) -> None:
        job = self._view.get_job(job_id)
        queue = job.spec.queue if job is not None else None
        _log_job("job accepted", job_id, queue=queue, dag_id=job.spec.dag_id if job is not None else None)
        if queue is None or self._view.is_served(queue):
            self._unserved.discard(queue or "")
        elif queue not in self._unserved:
            self._unserved.add(queue)
            log.warning(
                "no connected worker serves queue %r: its jobs wait; start one with --queues %s",
                queue,
                queue,
                extra={"action": "queue_unserved"},
            )


def _log_job(what: str, job_id: JobId, **fields: object) -> None:
    given = {name: value for name, value in fields.items() if value is not None}
    log.info(what, extra={"action": what.replace(" ", "_"), "job_id": job_id, **given})
