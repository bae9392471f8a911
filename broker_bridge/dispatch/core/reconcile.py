"""A worker says what it is and what it holds; both sides leave agreed on it."""

from __future__ import annotations

from dataclasses import replace

from edge_mqtt.broker_bridge.dispatch.core import assignment, completion, events, lifecycle
from edge_mqtt.broker_bridge.dispatch.core.draft import Draft
from edge_mqtt.broker_bridge.dispatch.core.effects import ToWorker
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job, WorkerView
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


def update_worker(draft: Draft, event: events.WorkerSeen) -> None:
    """Take in a presence: the first of a connection is a hello and settles everything, later ones renew the lease."""
    presence = event.presence
    view = draft.state.get_worker(event.worker)
    if presence.state is WorkerState.OFFLINE:
        _record_disconnect(draft, view, presence)
        return
    same = view.incarnation == presence.incarnation
    if same and presence.connection < view.connection:
        return
    contact = view.lease_from
    hello = not (same and presence.connection == view.connection)
    if not hello and not view.connected:
        # Sent before the will of its connection, and overtaken by it.
        return
    if hello:
        # It may have been repaired.
        draft.forget_pause(event.worker)
    if hello or presence.sequence > view.sequence:
        view = _update_view(draft, view, presence)
        if not hello:
            _repeat_lost(draft, view, presence)
    if hello or presence.sequence == 0:
        # Repeated until it is welcomed: the first welcome may not have arrived.
        _send_welcome(draft, view, presence)
    _send_lease_ack(draft, view, presence)
    if hello:
        _settle_jobs(draft, view, presence, contact)


def _record_disconnect(draft: Draft, view: WorkerView, presence: Presence) -> None:
    outdated = presence.incarnation != view.incarnation or presence.connection < view.connection
    if view.incarnation and outdated:
        return
    draft.put_worker(
        replace(
            view,
            incarnation=presence.incarnation,
            connection=presence.connection,
            state=WorkerState.OFFLINE,
        )
    )
    for job in draft.indexes.held_jobs(view.name):
        if job.state is CentralJobState.ASSIGNED:
            completion.requeue_job(draft, job)


def _update_view(draft: Draft, view: WorkerView, presence: Presence) -> WorkerView:
    renewed = replace(
        view,
        incarnation=presence.incarnation,
        home=presence.home,
        connection=presence.connection,
        sequence=presence.sequence,
        state=presence.state,
        queues=presence.queues,
        concurrency=presence.concurrency,
        lease_from=draft.now,
    )
    draft.put_worker(renewed)
    return renewed


def _send_lease_ack(draft: Draft, view: WorkerView, presence: Presence) -> None:
    ack = PresenceAck(incarnation=presence.incarnation, connection=presence.connection, sequence=presence.sequence)
    draft.emit(ToWorker(worker=view.name, message=ack))


def _send_welcome(draft: Draft, view: WorkerView, presence: Presence) -> None:
    """Tell a worker what of the things that it holds is settled."""
    drop: list[JobRef] = []
    known: list[JobRef] = []
    logs: list[LogPosition] = []
    for held in presence.jobs:
        ref = JobRef(job_id=held.job_id, fence=held.fence)
        job = draft.state.jobs.get(held.job_id)
        if job is None or job.worker != view.name or job.fence != held.fence:
            drop.append(ref)
            continue
        logs.append(LogPosition(job_id=held.job_id, offset=0))
        if job.state is CentralJobState.FINISHED:
            # A hello can arrive twice, late: it may say "running" from before the result that has come since.
            has_result = held.state is ReportedJobState.FINISHED or job.log_size is not None
            (known if has_result else drop).append(ref)
    settings = draft.settings
    message = Welcome(
        incarnation=presence.incarnation,
        connection=presence.connection,
        kill_grace_s=settings.kill_grace_s,
        presence_interval_s=settings.presence_interval_s,
        logs=tuple(logs),
        drop=tuple(drop),
        known_results=tuple(known),
    )
    draft.emit(ToWorker(worker=view.name, message=message))


def _settle_jobs(draft: Draft, view: WorkerView, presence: Presence, contact: float) -> None:
    """Bring what we believe a worker holds in line with what it says.

    Its state folder no longer has what ran there: then it runs no more. Of what another folder has it knows nothing.

    :param contact: when whoever had the name before was last heard.
    """
    held = {(job.job_id, job.fence): job for job in presence.jobs}
    for job in (*draft.indexes.held_jobs(view.name), *draft.indexes.orphaned_jobs(view.name)):
        report = held.get((job.id, job.fence))
        if report is not None:
            _confirm_held(draft, view, job, report)
        elif job.home != view.home:
            _orphan_or_requeue(draft, job, contact)
        elif job.state is CentralJobState.RUNNING:
            completion.lose_job(draft, job, f"worker {view.name} came back without it")
        elif view.state is WorkerState.ONLINE and job.cancel_reason is None:
            draft.put_job(replace(job, accepted=False))
            assignment.send_assignment(draft, job, view.name, 1)
        else:
            completion.requeue_job(draft, job)


def _orphan_or_requeue(draft: Draft, job: Job, contact: float) -> None:
    if job.state is CentralJobState.ASSIGNED:
        completion.requeue_job(draft, job)
    elif job.id not in draft.state.orphaned:
        draft.orphan_job(job, contact)


def _repeat_lost(draft: Draft, view: WorkerView, presence: Presence) -> None:
    """Make good what was lost on the way since the hello: confirmations and cancellations."""
    for held in presence.jobs:
        job = draft.state.find_assignment(view.name, held.job_id, held.fence)
        if job is not None:
            _confirm_held(draft, view, job, held)
        elif held.state is not ReportedJobState.FINISHED:
            lifecycle.cancel_stale_assignment(draft, view.name, held.job_id, held.fence)


def _confirm_held(draft: Draft, view: WorkerView, job: Job, held: HeldJob) -> None:
    if job.id in draft.state.orphaned:
        draft.reclaim_job(job)
    if job.home != view.home:
        job = replace(job, home=view.home)
        draft.put_job(job)
    lifecycle.mark_accepted(draft, job)
    if job.cancel_reason is not None and held.state is not ReportedJobState.FINISHED:
        completion.send_cancel(draft, job)
