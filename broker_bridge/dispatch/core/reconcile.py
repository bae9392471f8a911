"""A worker says what it is and what it holds; both sides leave agreed on it."""

from __future__ import annotations

from dataclasses import replace

from edge_mqtt.broker_bridge.dispatch.core import assignment, completion, events, lifecycle
from edge_mqtt.broker_bridge.dispatch.core.effects import ToWorker
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job, WorkerView
from edge_mqtt.broker_bridge.dispatch.core.state import Board
from edge_mqtt.broker_bridge.protocol.messages import (
    HeldJob,
    JobRef,
    LogPosition,
    Presence,
    PresenceAck,
    ReportedJobState,
    Welcome,
    WorkerState,
)


def worker_seen(board: Board, event: events.WorkerSeen) -> None:
    """Take in a presence: the first of a connection is a hello and settles everything, later ones renew the lease."""
    presence = event.presence
    view = board.view(event.worker)
    if presence.state is WorkerState.OFFLINE:
        _gone(board, view, presence)
        return
    same = view.incarnation == presence.incarnation
    if same and presence.connection < view.connection:
        return
    contact = view.lease_from
    hello = not (same and presence.connection == view.connection)
    if not hello and not view.connected:
        # Said before the will of its connection, and overtaken by it.
        return
    if hello or presence.sequence > view.sequence:
        view = _renew(board, view, presence)
        if not hello:
            _remind(board, view, presence)
    if hello or presence.sequence == 0:
        # Repeated until it is welcomed: the first welcome may not have arrived.
        _welcome(board, view, presence)
    _confirm_lease(board, view, presence)
    if hello:
        _settle(board, view, presence, contact)


def _gone(board: Board, view: WorkerView, presence: Presence) -> None:
    outdated = presence.incarnation != view.incarnation or presence.connection < view.connection
    if view.incarnation and outdated:
        return
    board.put_worker(
        replace(
            view,
            incarnation=presence.incarnation,
            connection=presence.connection,
            state=WorkerState.OFFLINE,
        )
    )
    for job in board.held(view.name):
        if job.state is CentralJobState.ASSIGNED:
            completion.give_back(board, job)


def _renew(board: Board, view: WorkerView, presence: Presence) -> WorkerView:
    renewed = replace(
        view,
        incarnation=presence.incarnation,
        home=presence.home,
        connection=presence.connection,
        sequence=presence.sequence,
        state=presence.state,
        queues=presence.queues,
        concurrency=presence.concurrency,
        last_contact=board.now,
        lease_from=board.now,
    )
    board.put_worker(renewed)
    return renewed


def _confirm_lease(board: Board, view: WorkerView, presence: Presence) -> None:
    ack = PresenceAck(incarnation=presence.incarnation, connection=presence.connection, sequence=presence.sequence)
    board.emit(ToWorker(worker=view.name, message=ack))


def _welcome(board: Board, view: WorkerView, presence: Presence) -> None:
    """Tell a worker what of the things that it holds is settled."""
    drop: list[JobRef] = []
    known: list[JobRef] = []
    logs: list[LogPosition] = []
    for held in presence.jobs:
        ref = JobRef(job_id=held.job_id, fence=held.fence)
        job = board.jobs.get(held.job_id)
        if job is None or job.worker != view.name or job.fence != held.fence:
            drop.append(ref)
            continue
        logs.append(LogPosition(job_id=held.job_id, offset=0))
        if job.state is CentralJobState.FINISHED:
            # A hello can arrive twice, late: it may have said "running" before the result that has come since.
            has_result = held.state is ReportedJobState.FINISHED or job.log_size is not None
            (known if has_result else drop).append(ref)
    settings = board.settings
    message = Welcome(
        incarnation=presence.incarnation,
        connection=presence.connection,
        kill_grace_s=settings.kill_grace_s,
        presence_interval_s=settings.presence_interval_s,
        logs=tuple(logs),
        drop=tuple(drop),
        known_results=tuple(known),
    )
    board.emit(ToWorker(worker=view.name, message=message))


def _settle(board: Board, view: WorkerView, presence: Presence, contact: float) -> None:
    """Bring what we believe a worker holds in line with what it says.

    Its state folder no longer has what ran there: then it runs no more. Of what another folder has it knows nothing.

    :param contact: when whoever had the name before was last heard.
    """
    held = {(job.job_id, job.fence): job for job in presence.jobs}
    for job in (*board.held(view.name), *board.left_behind(view.name)):
        said = held.get((job.id, job.fence))
        if said is not None:
            _still_held(board, view, job, said)
        elif job.home != view.home:
            _leave(board, job, contact)
        elif job.state is CentralJobState.RUNNING:
            completion.lose(board, job, f"worker {view.name} came back without it")
        elif view.state is WorkerState.ONLINE and job.cancel_reason is None:
            board.put_job(replace(job, accepted=False))
            assignment.send(board, job, view.name, 1)
        else:
            completion.give_back(board, job)


def _leave(board: Board, job: Job, contact: float) -> None:
    if job.state is CentralJobState.ASSIGNED:
        completion.give_back(board, job)
    elif job.id not in board.stranded:
        board.strand(job, contact)


def _remind(board: Board, view: WorkerView, presence: Presence) -> None:
    """Make good what was lost on the way since the hello: confirmations and cancellations."""
    for held in presence.jobs:
        job = board.current(view.name, held.job_id, held.fence)
        if job is not None:
            _still_held(board, view, job, held)
        elif held.state is not ReportedJobState.FINISHED:
            lifecycle.stop_stale(board, view.name, held.job_id, held.fence)


def _still_held(board: Board, view: WorkerView, job: Job, held: HeldJob) -> None:
    if job.id in board.stranded:
        board.regain(job)
    if job.home != view.home:
        job = replace(job, home=view.home)
        board.put_job(job)
    lifecycle.confirm(board, job)
    if job.cancel_reason is not None and held.state is not ReportedJobState.FINISHED:
        completion.tell_cancel(board, job)
