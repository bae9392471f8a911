"""What happens when nothing happens: leases end, unconfirmed assignments return."""

from __future__ import annotations

from edge_mqtt.broker_bridge.dispatch.core import assignment, completion
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState
from edge_mqtt.broker_bridge.dispatch.core.state import MAX_SENDINGS, Board
from edge_mqtt.broker_bridge.protocol.ids import JobId, WorkerName


def expire(board: Board) -> None:
    """Do what is due."""
    for kind, name in board.deadlines.due(board.now):
        if kind == "lease":
            _end_lease(board, WorkerName(name))
        elif kind == "handout":
            _end_handout(board, JobId(name))
        elif kind == "stranded":
            _end_stranded(board, JobId(name))
        else:
            board.resume(JobId(name))


def _end_lease(board: Board, worker: WorkerName) -> None:
    """End the running jobs of a silent worker whose lease is over, and take back what it has not started.

    A worker that is silent but connected is forgotten, so that it gets nothing more; its next presence is a hello.
    """
    view = board.view(worker)
    silence_s = board.now - view.lease_from
    for job in board.held(worker):
        if job.state is not CentralJobState.RUNNING:
            completion.give_back(board, job)
        elif view.lease_from + job.lease_s <= board.now:
            completion.lose(board, job, f"no contact with worker {worker} for {silence_s:.0f} s")
    if view.connected:
        board.forget_worker(worker)


def _end_stranded(board: Board, job_id: JobId) -> None:
    """End a running job whose machine is silent since before another one took its name."""
    job = board.jobs[job_id]
    completion.lose(board, job, f"no contact with the former machine of worker {job.worker} for {job.lease_s:.0f} s")


def _end_handout(board: Board, job_id: JobId) -> None:
    """Send an unconfirmed assignment again, or take it back when that has been done."""
    job = board.jobs[job_id]
    handout = board.handouts.get(job_id)
    if handout is None or job.worker is None:
        return
    if handout.sendings < MAX_SENDINGS and board.view(job.worker).connected:
        assignment.send(board, job, job.worker, handout.sendings + 1)
    else:
        completion.give_back(board, job, spare=job.worker)
