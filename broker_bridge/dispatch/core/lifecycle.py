"""A job from its submission to its result."""

from __future__ import annotations

from dataclasses import replace

from edge_mqtt.broker_bridge.dispatch.core import completion, events
from edge_mqtt.broker_bridge.dispatch.core.draft import Draft
from edge_mqtt.broker_bridge.dispatch.core.effects import StartDecided, ToExecutor, ToWorker
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, Fence, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import Cancel, CancelAck, JobAccepted, JobFinished, Outcome, ResultAck

#: What a worker is told about a job that it holds no more.
NOT_YOURS = "the job is no longer assigned to this worker"
#: What an executor is told whose submission comes too late.
GIVEN_UP = "the job arrived after Airflow had given it up"
#: Why a job ends whose task instance has another one by now.
SUPERSEDED = "Airflow has queued the task again: this run of it is over"


def submit_job(draft: Draft, event: events.Submitted) -> None:
    """Take a job in, once; a repetition is answered with what is known."""
    job = draft.state.jobs.get(event.job.job_id)
    denied = draft.state.denied.get(event.job.job_id)
    if job is None and denied is not None:
        denial = JobFinished(
            job_id=event.job.job_id,
            type=event.job.type,
            outcome=denied,
            detail=GIVEN_UP,
            revoked=denied is Outcome.CANCELLED,
        )
        draft.emit(ToExecutor(executor=event.executor, message=denial))
        return
    if job is not None:
        _repeat_acceptance(draft, event.executor, job)
        return
    draft.emit(ToExecutor(executor=event.executor, message=JobAccepted(job_id=event.job.job_id)))
    job = _new_job(draft, event)
    draft.put_job(job)
    _withdraw_superseded(draft, job)


def fail_submission(draft: Draft, event: events.SubmissionFailed) -> None:
    """Tell an executor that a job has failed which was not taken in; one that was, before, goes on."""
    job = draft.state.jobs.get(event.job_id)
    if job is not None:
        _repeat_acceptance(draft, event.executor, job)
        return
    failure = JobFinished(job_id=event.job_id, outcome=Outcome.FAILED, detail=event.reason)
    draft.emit(ToExecutor(executor=event.executor, message=failure))


def _repeat_acceptance(draft: Draft, executor: ExecutorName, job: Job) -> None:
    draft.emit(ToExecutor(executor=executor, message=JobAccepted(job_id=job.id)))
    if job.state is CentralJobState.FINISHED and not job.event_acked:
        completion.send_finished(draft, job)


def fail_unsendable_job(draft: Draft, event: events.SendingFailed) -> None:
    """End a job that no worker can be given. What runs was sent before: it goes on."""
    job = draft.state.jobs.get(event.job_id)
    if job is None or job.state not in (CentralJobState.QUEUED, CentralJobState.ASSIGNED):
        return
    if job.cancel_reason is None:
        completion.finish_job(draft, job, Outcome.FAILED, event.reason)
    else:
        completion.requeue_job(draft, job)


def _new_job(draft: Draft, event: events.Submitted) -> Job:
    settings, queue = draft.settings, event.job.queue
    draft.state.last_sequence += 1
    return Job(
        spec=event.job,
        executor=event.executor,
        lease_s=settings.lease_s_of.get(queue, settings.lease_s),
        ships_log=queue not in settings.queues_keeping_logs,
        token=event.token,
        sequence=draft.state.last_sequence,
    )


def _withdraw_superseded(draft: Draft, job: Job) -> None:
    """End what has not started of a task instance that was queued again; what runs is left to the relay's refusal."""
    for one in draft.indexes.sibling_jobs(job):
        if one.id in draft.state.superseded and one.state is not CentralJobState.RUNNING:
            completion.withdraw_job(draft, one, SUPERSEDED)


def record_acceptance(draft: Draft, event: events.JobAccepted) -> None:
    """Note that a worker has an assignment in its spool; one that is out of date is taken from it."""
    job = draft.state.find_assignment(event.worker, event.job_id, event.fence)
    if job is None:
        cancel_stale_assignment(draft, event.worker, event.job_id, event.fence)
        return
    draft.renew_lease(event.worker)
    mark_accepted(draft, job)
    if job.cancel_reason is not None:
        completion.send_cancel(draft, job)


def mark_accepted(draft: Draft, job: Job) -> None:
    """Note that the holder of an assigned job has it."""
    if job.state is CentralJobState.ASSIGNED and job.worker is not None and not job.accepted:
        draft.put_job(replace(job, accepted=True))
        draft.forget_pause(job.worker)


def cancel_stale_assignment(draft: Draft, worker: WorkerName, job_id: JobId, fence: Fence) -> None:
    """Tell a worker to let go of an assignment that is no longer its own."""
    draft.emit(ToWorker(worker=worker, message=Cancel(job_id=job_id, fence=fence, reason=NOT_YOURS)))


def record_rejection(draft: Draft, event: events.JobRejected) -> None:
    """Give a refused job to another worker, or end it when no worker can take it."""
    job = draft.state.find_assignment(event.worker, event.job_id, event.fence)
    if job is None or job.state is not CentralJobState.ASSIGNED:
        return
    draft.renew_lease(event.worker)
    if event.takes_none:
        draft.pause_worker(event.worker)
    if event.permanent:
        completion.fail_job(draft, job, event.reason)
    else:
        completion.refuse_job(draft, job, event.worker, event.reason)


def decide_start(draft: Draft, event: events.StartAsked) -> None:
    """Permit one process, and only one, to run a job's user code."""
    job = draft.state.find_assignment(event.worker, event.job_id, event.fence)
    reason = SUPERSEDED if event.job_id in draft.state.superseded else _refusal(job, event.starter)
    if job is not None and not reason:
        # The worker counts its lease from this question on once it is answered: so must we.
        draft.renew_lease(event.worker)
        if job.state is CentralJobState.ASSIGNED:
            job = replace(job, state=CentralJobState.RUNNING, accepted=True, starter=event.starter)
            draft.put_job(job)
            draft.forget_pause(event.worker)
            completion.send_started(draft, job)
    draft.emit(
        StartDecided(
            request_id=event.request_id,
            worker=event.worker,
            job_id=event.job_id,
            granted=not reason,
            reason=reason,
        )
    )


def _refusal(job: Job | None, starter: str) -> str:
    if job is None:
        return NOT_YOURS
    if job.cancel_reason is not None:
        return job.cancel_reason
    if job.state is CentralJobState.RUNNING and job.starter != starter:
        return f"the job was started by {job.starter}"
    return ""


def record_result(draft: Draft, event: events.ResultReported) -> None:
    """Store the result of a job's current assignment; any other is acknowledged, so that its worker forgets it."""
    result = event.result
    job = draft.state.find_assignment(event.worker, result.job_id, result.fence)
    if job is not None:
        draft.renew_lease(event.worker)
        outcome, detail = completion.outcome_of(job, result)
        completion.finish_job(draft, job, outcome, detail, log_size=result.log_size)
    ack = ResultAck(job_id=result.job_id, fence=result.fence)
    draft.emit(ToWorker(worker=event.worker, message=ack))


def store_token(draft: Draft, event: events.TokenRefreshed) -> None:
    """Keep a live job's newest token."""
    job = draft.state.jobs.get(event.job_id)
    if job is not None and job.state is not CentralJobState.FINISHED:
        draft.put_job(replace(job, token=event.token))


def store_forwarded_call(draft: Draft, event: events.CallForwarded) -> None:
    """Keep what is known of a live job's latest call that may not simply be made twice."""
    job = draft.state.jobs.get(event.job_id)
    if job is not None and job.state is not CentralJobState.FINISHED:
        draft.put_job(replace(job, forwarded=event.call))


def store_last_word(draft: Draft, event: events.TaskTold) -> None:
    """Keep what a running task has told Airflow last: what the end of its job means follows from that."""
    job = draft.state.jobs.get(event.job_id)
    if job is not None and job.state is CentralJobState.RUNNING and job.told != event.state:
        draft.put_job(replace(job, told=event.state))


def store_log_base(draft: Draft, event: events.LogOpened) -> None:
    """Keep where a job's log goes on in its file; it moves when others have changed the file, or written to it."""
    for left in event.left:
        other = draft.state.jobs.get(left.job_id)
        if other is not None:
            draft.put_job(replace(other, log_base=left.base, log_kept=left.kept, log_left=True))
    job = draft.state.jobs.get(event.job_id)
    if job is not None and event.base is not None and (job.log_left or job.log_base != event.base):
        draft.put_job(replace(job, log_base=event.base, log_left=False))


def cancel_job(draft: Draft, event: events.CancelAsked) -> None:
    """Stop a job wherever it is. Its executor is told its end, unless it is the one that asks for it at any price."""
    draft.emit(ToExecutor(executor=event.executor, message=CancelAck(job_id=event.job_id)))
    job = draft.state.jobs.get(event.job_id)
    if job is None:
        # Its submission may be on its way still.
        draft.state.denied.put(event.job_id, Outcome.CANCELLED)
    elif event.unless_started:
        if job.state in (CentralJobState.QUEUED, CentralJobState.ASSIGNED):
            completion.withdraw_job(draft, job, completion.REVOKED)
    elif job.executor == event.executor:
        completion.withdraw_job(draft, replace(job, event_acked=True), completion.REVOKED)
    else:
        completion.withdraw_job(draft, job, completion.REVOKED)


def stop_unwanted_job(draft: Draft, event: events.TaskEnded) -> None:
    """Stop a job that Airflow does not want to run any more; its end is reported as usual."""
    job = draft.state.jobs.get(event.job_id)
    if job is not None and job.holder is not None and job.cancel_reason is None:
        completion.stop_job(draft, job, event.reason)


def record_start_refusal(draft: Draft, event: events.StartRefused) -> None:
    """Note why a process is about to end that was not permitted to run user code: not as its failure."""
    job = draft.state.jobs.get(event.job_id)
    if job is not None and job.state is CentralJobState.RUNNING and job.cancel_reason is None:
        draft.put_job(replace(job, cancel_reason=event.reason))
