"""How a job leaves its worker: back to the queue, or for good."""

from __future__ import annotations

from dataclasses import replace
from signal import Signals

from edge_mqtt.broker_bridge.dispatch.core.draft import Draft
from edge_mqtt.broker_bridge.dispatch.core.effects import ToExecutor, ToWorker
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job
from edge_mqtt.broker_bridge.protocol.ids import Fence, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import (
    TAKEN_OVER,
    Cancel,
    Finished,
    JobFinished,
    JobStarted,
    Outcome,
)

#: Why a job is stopped that an executor took back.
REVOKED = "revoked by Airflow"
#: Characters of a worker's error text that are kept.
MAX_DETAIL_CHARS = 500


def requeue_job(draft: Draft, job: Job) -> None:
    """Return an assigned job to its queue under a new fence; a cancelled one ends here."""
    if job.cancel_reason is not None:
        finish_job(draft, job, Outcome.CANCELLED, job.cancel_reason)
        return
    fence = Fence(job.fence + 1)
    draft.put_job(
        replace(job, state=CentralJobState.QUEUED, fence=fence, worker=None, home="", accepted=False, log_base=None)
    )


def refuse_job(draft: Draft, job: Job, worker: WorkerName, reason: str) -> None:
    """Return a job to its queue that ``worker`` has refused, or end it when all have refused it often enough."""
    times = draft.spare_worker(job, worker, refused=True)
    refusals = draft.state.refusals[job.id]
    serving = draft.indexes.worker_index.serving(job.spec.queue)
    enough = draft.settings.max_refusals
    if serving and all(one in refusals and refusals[one].times >= enough for one in serving):
        who = f"worker {worker} has" if len(serving) == 1 else f"each of the {len(serving)} workers has"
        fail_job(draft, job, f"{reason} ({who} refused it {times} times)")
    else:
        requeue_job(draft, job)


def fail_job(draft: Draft, job: Job, reason: str) -> None:
    """End a job that no worker takes; a cancelled one was not wanted any more."""
    if job.cancel_reason is not None:
        finish_job(draft, job, Outcome.CANCELLED, job.cancel_reason)
    else:
        finish_job(draft, job, Outcome.FAILED, " ".join(reason.split())[:MAX_DETAIL_CHARS])


def lose_job(draft: Draft, job: Job, why: str) -> None:
    """End a running job whose process is beyond reach."""
    if job.cancel_reason is not None:
        finish_job(draft, job, Outcome.CANCELLED, job.cancel_reason)
    else:
        finish_job(draft, job, Outcome.LOST, why)


def finish_job(draft: Draft, job: Job, outcome: Outcome, detail: str, log_size: int | None = None) -> None:
    """End a job: its token goes, and its executor is told unless it does not want to know."""
    finished = replace(
        job, state=CentralJobState.FINISHED, outcome=outcome, detail=detail, log_size=log_size, token=None
    )
    draft.put_job(finished)
    if not finished.event_acked:
        send_finished(draft, finished)


def stop_job(draft: Draft, job: Job, reason: str) -> None:
    """Have a worker stop a job that it holds; repeated at each of its presences until it is done."""
    stopping = job if job.cancel_reason is not None else replace(job, cancel_reason=reason)
    draft.put_job(stopping)
    send_cancel(draft, stopping)


def withdraw_job(draft: Draft, job: Job, reason: str) -> None:
    """End a job that is not wanted any more: at once when it waits, else by having its worker stop it."""
    if job.state is CentralJobState.QUEUED:
        finish_job(draft, replace(job, cancel_reason=reason), Outcome.CANCELLED, reason)
    elif job.state is CentralJobState.FINISHED:
        draft.put_job(job)
    else:
        stop_job(draft, job, reason)


def send_cancel(draft: Draft, job: Job) -> None:
    """Repeat to the holder of a job that it is to stop it."""
    if job.worker is not None and draft.state.is_reachable(job):
        message = Cancel(job_id=job.id, fence=job.fence, reason=job.cancel_reason or "")
        draft.emit(ToWorker(worker=job.worker, message=message))


def send_started(draft: Draft, job: Job) -> None:
    """Tell the executor that the job runs."""
    draft.emit(ToExecutor(executor=job.executor, message=JobStarted(job_id=job.id, worker=job.worker or "")))


def send_finished(draft: Draft, job: Job) -> None:
    """Tell the executor the job's end."""
    message = JobFinished(
        job_id=job.id,
        type=job.spec.type,
        outcome=job.outcome or Outcome.FAILED,
        detail=job.detail,
        told=job.told,
        worker=job.worker or "",
        revoked=job.cancel_reason == REVOKED,
    )
    draft.emit(ToExecutor(executor=job.executor, message=message))


def send_taken_over(draft: Draft, job: Job) -> None:
    """Tell the executor of a job that another one takes it. Not repeated: it asks when it reconnects."""
    message = JobFinished(
        job_id=job.id, type=job.spec.type, outcome=Outcome.CANCELLED, detail=TAKEN_OVER, revoked=True
    )
    draft.emit(ToExecutor(executor=job.executor, message=message))


def outcome_of(job: Job, result: Finished) -> tuple[Outcome, str]:
    """Return a result's outcome, and one line about it."""
    if result.exit_code == 0:
        return Outcome.SUCCESS, ""
    if job.cancel_reason is not None:
        return Outcome.CANCELLED, job.cancel_reason
    return Outcome.FAILED, _detail(result)


def _detail(result: Finished) -> str:
    parts = []
    if result.signal is not None:
        # With a reason given, it was the worker that killed it.
        parts.append(f"killed by {_signal_name(result.signal)}{'' if result.error else _likely_cause(result.signal)}")
    elif result.exit_code is not None:
        parts.append(f"exit code {result.exit_code}")
    if result.error:
        parts.append(" ".join(result.error.split())[:MAX_DETAIL_CHARS])
    return ": ".join(parts) or "the worker gave no reason"


def _signal_name(number: int) -> str:
    try:
        return Signals(number).name
    except ValueError:
        return f"signal {number}"


def _likely_cause(number: int) -> str:
    return " (likely out of memory)" if number == Signals.SIGKILL else ""
