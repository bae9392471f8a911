"""Executors come, go, acknowledge, and take over from each other."""

from __future__ import annotations

from dataclasses import replace

from edge_mqtt.broker_bridge.dispatch.core import completion, events
from edge_mqtt.broker_bridge.dispatch.core.draft import Draft
from edge_mqtt.broker_bridge.dispatch.core.effects import ToAdmin, ToExecutor
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState
from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import TAKEN, AdoptReply, JobAccepted, Outcome

#: Why a job is stopped whose revocation died with its executor: Airflow does not know of it and is told the end.
HALF_REVOKED = "revoked by an executor that ended before Airflow had noted it"


def repeat_events(draft: Draft, event: events.ExecutorConnected) -> None:
    """Repeat what an executor may have missed, and name what waits: one that was restarted knows of none of it."""
    for job_id in draft.indexes.jobs.waiting:
        if draft.state.jobs[job_id].executor == event.executor:
            draft.emit(ToExecutor(executor=event.executor, message=JobAccepted(job_id=job_id)))
    for job_id in draft.indexes.jobs.running:
        job = draft.state.jobs[job_id]
        if job.executor == event.executor and not job.event_acked:
            completion.send_started(draft, job)
    for job_id in draft.indexes.jobs.unacked:
        job = draft.state.jobs[job_id]
        if job.executor == event.executor:
            completion.send_finished(draft, job)


def record_event_ack(draft: Draft, event: events.EventAcked) -> None:
    """Note that Airflow has a job's end. The word of an executor that the job was taken from does not count."""
    job = draft.state.jobs.get(event.job_id)
    if job is not None and job.state is CentralJobState.FINISHED and job.executor == event.executor:
        draft.put_job(replace(job, event_acked=True))


def give_up_events(draft: Draft, event: events.EventsGivenUp) -> None:
    """Wait no longer for the acknowledgement of final events that were never fetched."""
    for job_id in event.job_ids:
        job = draft.state.jobs.get(job_id)
        if job is not None and job.state is CentralJobState.FINISHED:
            draft.put_job(replace(job, event_acked=True))


def adopt_jobs(draft: Draft, event: events.AdoptAsked) -> None:
    """Hand jobs over to the asker, unless it only wants to know of its own, and tell their states.

    Airflow asks only about what it believes to be unfinished. So a final event that was acknowledged before is
    told again: whoever acknowledged it did not live to pass it on. A job that is unknown is given up: Airflow queues
    its task anew, so its submission, should it be on its way still, must not be accepted any more.
    """
    states: dict[JobId, str] = {}
    for job_id in dict.fromkeys(event.job_ids):
        job = draft.state.jobs.get(job_id)
        if job is None:
            draft.state.denied.put(job_id, Outcome.LOST)
        elif event.take_over or job.executor == event.executor:
            states[job_id] = job.state.value
        else:
            states[job_id] = TAKEN
    draft.emit(ToAdmin(executor=event.executor, message=AdoptReply(request_id=event.request_id, states=states)))
    for job_id in (known for known, state in states.items() if state != TAKEN):
        before = draft.state.jobs[job_id]
        if before.executor != event.executor:
            completion.send_taken_over(draft, before)
        job = replace(before, executor=event.executor, event_acked=False)
        if event.take_over and job.cancel_reason == completion.REVOKED:
            job = replace(job, cancel_reason=HALF_REVOKED)
        draft.put_job(job)
        if job.state is CentralJobState.FINISHED:
            completion.send_finished(draft, job)
