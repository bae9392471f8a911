"""Jobs meet workers. Within a queue the order is strict: a job that does not fit waits, and nothing overtakes it.
Only a job that a worker has just refused is stepped over: it waits for that worker's pause, and not for a slot.

Among queues the first job in order goes first, and a worker is reserved for one that does not fit anywhere: until it
does, that worker gets nothing of a later order. Otherwise small jobs of another queue would take each slot as it
becomes free, and a large job would wait for ever.
"""

from __future__ import annotations

import heapq
from dataclasses import replace

from edge_mqtt.broker_bridge.dispatch.core.draft import Draft
from edge_mqtt.broker_bridge.dispatch.core.effects import Assigned
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job
from edge_mqtt.broker_bridge.dispatch.core.ready_queue import Priority
from edge_mqtt.broker_bridge.protocol.ids import JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import Assign


def match_jobs(draft: Draft) -> None:
    """Assign whatever has found a worker since the last call."""
    _release_reservations(draft)
    while draft.indexes.ready.unmatched:
        _match_unmatched(draft)
        _release_reservations(draft)


def send_assignment(draft: Draft, job: Job, worker: WorkerName, sendings: int) -> None:
    """Send an assignment for the ``sendings``-th time and expect its confirmation."""
    draft.expect_confirmation(job.id, sendings)
    message = Assign(fence=job.fence, job=job.spec, lease_s=job.lease_s, ships_log=job.ships_log)
    draft.emit(Assigned(worker=worker, queue=job.spec.queue, message=message))


def _match_unmatched(draft: Draft) -> None:
    ready = draft.indexes.ready
    heads: list[tuple[Priority, JobId]] = []
    for queue in ready.unmatched:
        for paused in ready.get_paused(queue):
            heapq.heappush(heads, paused)
        _push_head(draft, queue, heads)
    while heads:
        _, job_id = heapq.heappop(heads)
        job = draft.state.jobs[job_id]
        worker = _choose_worker(draft, job, job.spec.slots)
        if worker is not None:
            was_head = not ready.is_paused(job)
            _assign(draft, job, worker)
            if was_head:
                _push_head(draft, job.spec.queue, heads)
        elif job.spec.slots > 1:
            _reserve_worker(draft, job)
    # What assignments have marked is matched too: they only take slots away.
    ready.unmatched.clear()


def _push_head(draft: Draft, queue: str, heads: list[tuple[Priority, JobId]]) -> None:
    head = draft.indexes.ready.get_head(queue)
    if head is not None:
        heapq.heappush(heads, head)


def _choose_worker(draft: Draft, job: Job, slots: int) -> WorkerName | None:
    return draft.indexes.worker_index.choose(job.spec.queue, slots, lambda worker: _is_barred(draft, job, worker))


def _is_barred(draft: Draft, job: Job, worker: WorkerName) -> bool:
    """Tell whether ``worker`` must not get ``job`` now: it has just refused it, or waits for an earlier one."""
    if draft.state.is_spared(worker, job.id):
        return True
    earlier = _reserved_for(draft, worker)
    return earlier is not None and earlier.order < job.order


def _reserved_for(draft: Draft, worker: WorkerName) -> Job | None:
    """Return the job that ``worker`` is reserved for: first in a queue that it serves, and not just refused by it."""
    job = draft.state.jobs.get(draft.indexes.reservations.get(worker, JobId("")))
    if job is None or not draft.indexes.worker_index.serves(worker, job.spec.queue):
        return None
    ready = draft.indexes.ready
    is_next = ready.is_paused(job) or ready.get_head(job.spec.queue) == (job.order, job.id)
    return job if is_next and not draft.state.is_spared(worker, job.id) else None


def _release_reservations(draft: Draft) -> None:
    """Give the workers that need not be reserved any more back to all of their queues."""
    for worker in list(draft.indexes.reservations):
        if _reserved_for(draft, worker) is None:
            del draft.indexes.reservations[worker]
            draft.indexes.ready.mark_unmatched(draft.state.get_worker(worker).queues)


def _reserve_worker(draft: Draft, job: Job) -> None:
    """Reserve one worker for a job that fits none now, and stay with it: its jobs end, and then the job fits.

    A worker without a free slot is not reserved: when it gets one, the queue is looked at again.
    """
    if job.id in draft.indexes.reservations.values():
        return
    worker = _choose_worker(draft, job, 1)
    if worker is not None:
        draft.indexes.reservations[worker] = job.id


def _assign(draft: Draft, job: Job, worker: WorkerName) -> None:
    view = draft.state.get_worker(worker)
    assigned = replace(job, state=CentralJobState.ASSIGNED, worker=worker, home=view.home, accepted=False)
    draft.state.last_assignment += 1
    draft.put_worker(replace(view, last_assigned=draft.state.last_assignment))
    draft.put_job(assigned)
    send_assignment(draft, assigned, worker, 1)
