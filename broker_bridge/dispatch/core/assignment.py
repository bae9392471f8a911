"""Jobs meet workers. Within a queue the order is strict: a job that does not fit waits, and nothing overtakes it.

Among queues the first job in order goes first, and a worker is kept for one that does not fit anywhere: until it
does, that worker gets nothing of a later order. Otherwise small jobs of another queue would take each slot as it
becomes free, and a large job would wait for ever.
"""

from __future__ import annotations

import heapq
from dataclasses import replace

from edge_mqtt.broker_bridge.dispatch.core.effects import Assigned
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job
from edge_mqtt.broker_bridge.dispatch.core.ready_queue import Priority
from edge_mqtt.broker_bridge.dispatch.core.state import Board
from edge_mqtt.broker_bridge.protocol.ids import JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import Assign


def match(board: Board) -> None:
    """Assign whatever has found a worker since the last call."""
    _release_kept(board)
    while board.unsettled:
        _match_unsettled(board)
        _release_kept(board)


def _match_unsettled(board: Board) -> None:
    heads: list[tuple[Priority, JobId, str]] = []
    for queue in board.unsettled:
        _push_head(board, queue, heads)
    while heads:
        _, job_id, queue = heapq.heappop(heads)
        job = board.jobs[job_id]
        worker = _choose(board, job)
        if worker is not None:
            _assign(board, job, worker)
            _push_head(board, queue, heads)
        elif job.spec.slots > 1:
            _keep_a_worker(board, job)
    board.unsettled.clear()


def send(board: Board, job: Job, worker: WorkerName, sendings: int) -> None:
    """Send an assignment for the ``sendings``-th time and expect its confirmation."""
    board.hand_out(job.id, sendings)
    message = Assign(fence=job.fence, job=job.spec, lease_s=job.lease_s, ships_log=job.ships_log)
    board.emit(Assigned(worker=worker, queue=job.spec.queue, message=message))


def _push_head(board: Board, queue: str, heads: list[tuple[Priority, JobId, str]]) -> None:
    head = board.ready[queue].head()
    if head is None:
        del board.ready[queue]
    else:
        heapq.heappush(heads, (*head, queue))


def _choose(board: Board, job: Job) -> WorkerName | None:
    return board.pool.choose(job.spec.queue, job.spec.slots, lambda worker: _is_barred(board, job, worker))


def _is_barred(board: Board, job: Job, worker: WorkerName) -> bool:
    """Tell whether ``worker`` is not to get ``job`` now: it has just refused it, or is kept for an earlier one."""
    pause = board.pauses.get(job.id)
    if pause is not None and pause.worker == worker:
        return True
    earlier = _kept_for(board, worker)
    return earlier is not None and earlier.order < job.order


def _kept_for(board: Board, worker: WorkerName) -> Job | None:
    """Return the job that ``worker`` is kept for: the next of a queue that it serves, and not just refused by it."""
    job = board.jobs.get(board.kept_for.get(worker, JobId("")))
    if job is None or not board.pool.serves(worker, job.spec.queue):
        return None
    ready, pause = board.ready.get(job.spec.queue), board.pauses.get(job.id)
    is_next = ready is not None and ready.head() == (job.order, job.id)
    return job if is_next and (pause is None or pause.worker != worker) else None


def _release_kept(board: Board) -> None:
    """Give the workers that need not be kept any more back to all of their queues."""
    for worker in list(board.kept_for):
        if _kept_for(board, worker) is None:
            del board.kept_for[worker]
            board.unsettled.update(queue for queue in board.view(worker).queues if board.ready.get(queue))


def _keep_a_worker(board: Board, job: Job) -> None:
    """Keep one worker for a job that fits none now, and stay with it: its jobs end, and then the job fits.

    A worker without a free slot is not kept: when it gets one, the queue is looked at again.
    """
    if job.id in board.kept_for.values():
        return
    worker = board.pool.choose(job.spec.queue, 1, lambda worker: _is_barred(board, job, worker))
    if worker is not None:
        board.kept_for[worker] = job.id


def _assign(board: Board, job: Job, worker: WorkerName) -> None:
    view = board.view(worker)
    assigned = replace(job, state=CentralJobState.ASSIGNED, worker=worker, home=view.home, accepted=False)
    board.put_worker(replace(view, last_assigned=board.next_assignment()))
    board.put_job(assigned)
    send(board, assigned, worker, 1)
