"""A job from its submission to its result."""

from __future__ import annotations

from dataclasses import replace

from edge_mqtt.broker_bridge.dispatch.core import ending, events
from edge_mqtt.broker_bridge.dispatch.core.board import Board
from edge_mqtt.broker_bridge.dispatch.core.effects import StartDecided, ToExecutor, ToWorker
from edge_mqtt.broker_bridge.dispatch.core.model import Job, JobState
from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import Cancel, JobAccepted, JobFinished, Outcome, ResultAck

#: What a worker is told about a job that it holds no more.
NOT_YOURS = "the job is no longer assigned to this worker"
#: What an executor is told whose submission comes too late.
GIVEN_UP = "the job arrived after Airflow had given it up"
REVOKED = "revoked by Airflow"


def submitted(board: Board, event: events.Submitted) -> None:
    """Take a job in, once; a repetition is answered with what is known."""
    job = board.jobs.get(event.job.job_id)
    if job is None and event.job.job_id in board.denied:
        denial = JobFinished(job_id=event.job.job_id, outcome=Outcome.LOST, detail=GIVEN_UP)
        board.emit(ToExecutor(executor=event.executor, message=denial))
        return
    if job is None:
        job = Job(spec=event.job, executor=event.executor, token=event.token, sequence=board.next_sequence())
        board.put_job(job)
    board.emit(ToExecutor(executor=event.executor, message=JobAccepted(job_id=job.id)))
    if job.state is JobState.FINISHED and not job.event_acked:
        ending.tell_finished(board, job)


def accepted(board: Board, event: events.JobAccepted) -> None:
    """Note that a worker has an assignment in its spool; one that is out of date is taken from it."""
    job = board.current(event.worker, event.job_id, event.fence)
    if job is None:
        stop_stale(board, event.worker, event.job_id, event.fence)
        return
    board.heard(event.worker)
    confirm(board, job)
    if job.cancel_reason is not None:
        ending.tell_cancel(board, job)


def confirm(board: Board, job: Job) -> None:
    """Note that the holder of an assigned job has it."""
    if job.state is JobState.ASSIGNED and not job.accepted:
        board.put_job(replace(job, accepted=True))


def stop_stale(board: Board, worker: WorkerName, job_id: JobId, fence: Fence) -> None:
    """Tell a worker to let go of an assignment that is no longer its own."""
    board.emit(ToWorker(worker=worker, message=Cancel(job_id=job_id, fence=fence, reason=NOT_YOURS)))


def rejected(board: Board, event: events.JobRejected) -> None:
    """Give a refused job to another worker, or end it when no worker could take it."""
    job = board.current(event.worker, event.job_id, event.fence)
    if job is None or job.state is not JobState.ASSIGNED:
        return
    board.heard(event.worker)
    if event.permanent and job.cancel_reason is None:
        ending.finish(board, job, Outcome.FAILED, event.reason)
    else:
        ending.give_back(board, job, spare=event.worker)


def start_asked(board: Board, event: events.StartAsked) -> None:
    """Permit one process, and only one, to run a job's user code."""
    job = board.current(event.worker, event.job_id, event.fence)
    reason = _refusal(job, event.starter)
    if job is not None and not reason:
        # The worker counts its lease from this question on once it is answered: so must we.
        board.heard(event.worker)
        if job.state is JobState.ASSIGNED:
            job = replace(job, state=JobState.RUNNING, accepted=True, starter=event.starter)
            board.put_job(job)
            ending.tell_started(board, job)
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
    if job.state is JobState.RUNNING and job.starter != starter:
        return f"the job was started by {job.starter}"
    return ""


def result_reported(board: Board, event: events.ResultReported) -> None:
    """Store the result of a job's current assignment; any other is acknowledged, so that its worker forgets it."""
    result = event.result
    job = board.current(event.worker, result.job_id, result.fence)
    if job is not None:
        board.heard(event.worker)
        outcome, detail = ending.outcome_of(job, result)
        ending.finish(board, job, outcome, detail, log_size=result.log_size)
    ack = ResultAck(job_id=result.job_id, fence=result.fence)
    board.emit(ToWorker(worker=event.worker, message=ack))


def token_refreshed(board: Board, event: events.TokenRefreshed) -> None:
    """Keep a live job's newest token."""
    job = board.jobs.get(event.job_id)
    if job is not None and job.state is not JobState.FINISHED:
        board.put_job(replace(job, token=event.token))


def log_opened(board: Board, event: events.LogOpened) -> None:
    """Keep where a job's log begins in its file."""
    job = board.jobs.get(event.job_id)
    if job is not None and job.log_base is None:
        board.put_job(replace(job, log_base=event.base))


def cancel_asked(board: Board, event: events.CancelAsked) -> None:
    """Stop a job wherever it is; nobody wants to hear of its end."""
    job = board.jobs.get(event.job_id)
    if job is None:
        return
    unwanted = replace(job, event_acked=True)
    if job.state is JobState.QUEUED:
        ending.finish(board, replace(unwanted, cancel_reason=REVOKED), Outcome.CANCELLED, REVOKED)
    elif job.state is JobState.FINISHED:
        board.put_job(unwanted)
    else:
        ending.cancel(board, unwanted, REVOKED)


def task_ended(board: Board, event: events.TaskEnded) -> None:
    """Stop a job that Airflow does not want to run any more; its end is reported as usual."""
    job = board.jobs.get(event.job_id)
    if job is not None and job.holder is not None and job.cancel_reason is None:
        ending.cancel(board, job, event.reason)
