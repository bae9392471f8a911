"""Jobs meet workers. Within a queue the order is strict: a job that does not fit waits, and nothing overtakes it."""

from __future__ import annotations

import heapq
from dataclasses import replace

from edge_mqtt.broker_bridge.dispatch.core.board import Board
from edge_mqtt.broker_bridge.dispatch.core.effects import Assigned
from edge_mqtt.broker_bridge.dispatch.core.model import Job, JobState
from edge_mqtt.broker_bridge.dispatch.core.ready import Order
from edge_mqtt.broker_bridge.protocol.ids import JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import Assign


def match(board: Board) -> None:
    """Assign whatever has found a worker since the last call; among queues the first job in order goes first."""
    heads: list[tuple[Order, JobId, str]] = []
    for queue in board.unsettled:
        _push_head(board, queue, heads)
    while heads:
        _, job_id, queue = heapq.heappop(heads)
        job = board.jobs[job_id]
        worker = _choose(board, job)
        if worker is not None:
            _assign(board, job, worker)
            _push_head(board, queue, heads)
    board.unsettled.clear()


def send(board: Board, job: Job, worker: WorkerName, sendings: int) -> None:
    """Send an assignment for the ``sendings``-th time and expect its confirmation."""
    board.hand_out(job.id, sendings)
    board.emit(Assigned(worker=worker, queue=job.spec.queue, message=Assign(fence=job.fence, job=job.spec)))


def _push_head(board: Board, queue: str, heads: list[tuple[Order, JobId, str]]) -> None:
    head = board.ready[queue].head()
    if head is None:
        del board.ready[queue]
    else:
        heapq.heappush(heads, (*head, queue))


def _choose(board: Board, job: Job) -> WorkerName | None:
    pause = board.pauses.get(job.id)
    return board.pool.choose(job.spec.queue, job.spec.slots, avoid=None if pause is None else pause.worker)


def _assign(board: Board, job: Job, worker: WorkerName) -> None:
    assigned = replace(job, state=JobState.ASSIGNED, worker=worker, accepted=False)
    board.put_worker(replace(board.view(worker), last_assigned=board.next_assignment()))
    board.put_job(assigned)
    send(board, assigned, worker, 1)
