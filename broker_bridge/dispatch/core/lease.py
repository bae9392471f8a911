"""What happens when nothing happens: leases end, unconfirmed assignments return."""

from __future__ import annotations

from edge_mqtt.broker_bridge.dispatch.core import assignment, completion
from edge_mqtt.broker_bridge.dispatch.core.draft import MAX_SENDINGS, Draft
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState
from edge_mqtt.broker_bridge.protocol.ids import JobId, WorkerName


def expire(draft: Draft) -> None:
    """Do what is due."""
    for kind, name in draft.indexes.deadlines.pop_until(draft.now):
        if kind == "lease":
            _end_lease(draft, WorkerName(name))
        elif kind == "unconfirmed":
            _end_unconfirmed(draft, JobId(name))
        elif kind == "orphaned":
            _end_orphaned(draft, JobId(name))
        elif kind == "backoff":
            draft.end_backoffs(JobId(name))
        else:
            draft.end_pause(WorkerName(name))


def _end_lease(draft: Draft, worker: WorkerName) -> None:
    """End the running jobs of a silent worker whose lease is over, and take back what it has not started.

    A worker that is silent but connected is forgotten, so that it gets nothing more; its next presence is a hello.
    """
    view = draft.state.get_worker(worker)
    silence_s = draft.now - view.lease_from
    for job in draft.indexes.held_jobs(worker):
        if job.state is not CentralJobState.RUNNING:
            completion.requeue_job(draft, job)
        elif view.lease_from + job.lease_s <= draft.now:
            completion.lose_job(draft, job, f"no contact with worker {worker} for {silence_s:.0f} s")
    if view.connected:
        draft.forget_worker(worker)


def _end_orphaned(draft: Draft, job_id: JobId) -> None:
    """End a running job whose machine is silent since before another one took its name."""
    job = draft.state.jobs[job_id]
    why = f"no contact with the former machine of worker {job.worker} for {job.lease_s:.0f} s"
    completion.lose_job(draft, job, why)


def _end_unconfirmed(draft: Draft, job_id: JobId) -> None:
    """Send an unconfirmed assignment again, or take it back when that has been done."""
    job = draft.state.jobs[job_id]
    assigned = draft.state.unconfirmed.get(job_id)
    if assigned is None or job.worker is None:
        return
    if assigned.sendings < MAX_SENDINGS and draft.state.get_worker(job.worker).connected:
        assignment.send_assignment(draft, job, job.worker, assigned.sendings + 1)
    else:
        draft.spare_worker(job, job.worker, refused=False)
        completion.requeue_job(draft, job)
