"""A job from its submission to its result."""

from __future__ import annotations

from dataclasses import replace

from edge_mqtt.broker_bridge.dispatch.core import completion, events
from edge_mqtt.broker_bridge.dispatch.core.effects import StartDecided, ToExecutor, ToWorker
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job
from edge_mqtt.broker_bridge.dispatch.core.state import Board
from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import Cancel, CancelAck, JobAccepted, JobFinished, Outcome, ResultAck

#: What a worker is told about a job that it holds no more.
NOT_YOURS = "the job is no longer assigned to this worker"
#: What an executor is told whose submission comes too late.
GIVEN_UP = "the job arrived after Airflow had given it up"
#: Why a job ends whose task instance has another one by now.
SUPERSEDED = "Airflow has queued the task again: this run of it is over"


def submitted(board: Board, event: events.Submitted) -> None:
    """Take a job in, once; a repetition is answered with what is known."""
    job = board.jobs.get(event.job.job_id)
    denied = board.denied.get(event.job.job_id)
    if job is None and denied is not None:
        denial = JobFinished(
            job_id=event.job.job_id,
            type=event.job.type,
            outcome=denied,
            detail=GIVEN_UP,
            revoked=denied is Outcome.CANCELLED,
        )
        board.emit(ToExecutor(executor=event.executor, message=denial))
        return
    board.emit(ToExecutor(executor=event.executor, message=JobAccepted(job_id=event.job.job_id)))
    if job is None:
        job = _new_job(board, event)
        board.put_job(job)
        _withdraw_superseded(board, job)
    elif job.state is CentralJobState.FINISHED and not job.event_acked:
        completion.tell_finished(board, job)


def _new_job(board: Board, event: events.Submitted) -> Job:
    settings, queue = board.settings, event.job.queue
    return Job(
        spec=event.job,
        executor=event.executor,
        lease_s=settings.lease_s_of.get(queue, settings.lease_s),
        ships_log=queue not in settings.queues_keeping_logs,
        token=event.token,
        sequence=board.next_sequence(),
    )


def _withdraw_superseded(board: Board, job: Job) -> None:
    """End what has not started of a task instance that was queued again; what runs is left to the relay's refusal."""
    for one in board.same_task(job):
        if one.id in board.superseded and one.state is not CentralJobState.RUNNING:
            completion.withdraw(board, one, SUPERSEDED)


def accepted(board: Board, event: events.JobAccepted) -> None:
    """Note that a worker has an assignment in its spool; one that is out of date is taken from it."""
    job = board.current(event.worker, event.job_id, event.fence)
    if job is None:
        stop_stale(board, event.worker, event.job_id, event.fence)
        return
    board.heard(event.worker)
    confirm(board, job)
    if job.cancel_reason is not None:
        completion.tell_cancel(board, job)


def confirm(board: Board, job: Job) -> None:
    """Note that the holder of an assigned job has it."""
    if job.state is CentralJobState.ASSIGNED and not job.accepted:
        board.put_job(replace(job, accepted=True))


def stop_stale(board: Board, worker: WorkerName, job_id: JobId, fence: Fence) -> None:
    """Tell a worker to let go of an assignment that is no longer its own."""
    board.emit(ToWorker(worker=worker, message=Cancel(job_id=job_id, fence=fence, reason=NOT_YOURS)))


def rejected(board: Board, event: events.JobRejected) -> None:
    """Give a refused job to another worker, or end it when no worker could take it."""
    job = board.current(event.worker, event.job_id, event.fence)
    if job is None or job.state is not CentralJobState.ASSIGNED:
        return
    board.heard(event.worker)
    if event.permanent and job.cancel_reason is None:
        completion.finish(board, job, Outcome.FAILED, event.reason)
    else:
        completion.give_back(board, job, spare=event.worker)


def start_asked(board: Board, event: events.StartAsked) -> None:
    """Permit one process, and only one, to run a job's user code."""
    job = board.current(event.worker, event.job_id, event.fence)
    reason = SUPERSEDED if event.job_id in board.superseded else _refusal(job, event.starter)
    if job is not None and not reason:
        # The worker counts its lease from this question on once it is answered: so must we.
        board.heard(event.worker)
        if job.state is CentralJobState.ASSIGNED:
            job = replace(job, state=CentralJobState.RUNNING, accepted=True, starter=event.starter)
            board.put_job(job)
            completion.tell_started(board, job)
    board.emit(
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


def result_reported(board: Board, event: events.ResultReported) -> None:
    """Store the result of a job's current assignment; any other is acknowledged, so that its worker forgets it."""
    result = event.result
    job = board.current(event.worker, result.job_id, result.fence)
    if job is not None:
        board.heard(event.worker)
        outcome, detail = completion.outcome_of(job, result)
        completion.finish(board, job, outcome, detail, log_size=result.log_size)
    ack = ResultAck(job_id=result.job_id, fence=result.fence)
    board.emit(ToWorker(worker=event.worker, message=ack))


def token_refreshed(board: Board, event: events.TokenRefreshed) -> None:
    """Keep a live job's newest token."""
    job = board.jobs.get(event.job_id)
    if job is not None and job.state is not CentralJobState.FINISHED:
        board.put_job(replace(job, token=event.token))


def log_opened(board: Board, event: events.LogOpened) -> None:
    """Keep where a job's log begins in its file; it moves when others have changed the file."""
    job = board.jobs.get(event.job_id)
    if job is not None and job.log_base != event.base:
        board.put_job(replace(job, log_base=event.base))


def cancel_asked(board: Board, event: events.CancelAsked) -> None:
    """Stop a job wherever it is. Its executor is told its end, unless it is the one that asks."""
    board.emit(ToExecutor(executor=event.executor, message=CancelAck(job_id=event.job_id)))
    job = board.jobs.get(event.job_id)
    if job is None:
        # Its submission may be on its way still.
        board.denied.put(event.job_id, Outcome.CANCELLED)
    elif job.executor == event.executor:
        completion.withdraw(board, replace(job, event_acked=True), completion.REVOKED)
    else:
        completion.withdraw(board, job, completion.REVOKED)


def task_ended(board: Board, event: events.TaskEnded) -> None:
    """Stop a job that Airflow does not want to run any more; its end is reported as usual."""
    job = board.jobs.get(event.job_id)
    if job is not None and job.holder is not None and job.cancel_reason is None:
        completion.cancel(board, job, event.reason)


def start_refused(board: Board, event: events.StartRefused) -> None:
    """Note why a process is about to end that was not permitted to run user code: not as its failure."""
    job = board.jobs.get(event.job_id)
    if job is not None and job.state is CentralJobState.RUNNING and job.cancel_reason is None:
        board.put_job(replace(job, cancel_reason=event.reason))
