"""Where each job's bytes stand in a log file that several jobs write. No I/O, no clock.

A deferred task comes back as a new job that goes on in the same file: behind all that its earlier jobs have logged,
to which nothing is added any more. Where the template of log paths tells less, tasks that run at the same time share
a file, on several workers perhaps. Their logs take turns at the file's end: the one that has it is open, and each of
the others was left when another went on behind it. A job's base is where its first byte would stand if all that is
there of it stood together with what comes next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job


@dataclass(frozen=True, kw_only=True, slots=True)
class Gap:
    """What is not here of the log of a job that has ended."""

    job: Job
    #: Bytes that are here.
    here: int
    #: Bytes that are not; None when its worker has not said how many there are.
    missing: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A file as it is before it is written."""

    size: int
    #: Its size after it was last written; None when this program has not written it.
    left_at: int | None
    #: It is still the same file.
    same: bool


def is_open(job: Job) -> bool:
    """Tell whether a job's log has the file's end, behind which all others go on."""
    return job.log_base is not None and not job.log_left


def writes_same_task(job: Job, other: Job) -> bool:
    """Tell whether two jobs of one file are of the same task, so that one of them has ended when the other begins."""
    ours, others = job.spec, other.spec
    return (ours.dag_id, ours.run_id, ours.task_id, ours.map_index) == (
        others.dag_id,
        others.run_id,
        others.task_id,
        others.map_index,
    )


def is_closed(job: Job, of_file: Iterable[Job]) -> bool:
    """Tell whether a later job of the same task has begun in the file, so that nothing can be added to this one."""
    return any(
        other.sequence > job.sequence and other.log_base is not None and writes_same_task(job, other)
        for other in of_file
    )


def count_stored(job: Job, size: int) -> int:
    """Return how many bytes of the job are in its file of ``size`` bytes."""
    if job.log_base is None:
        return 0
    stored = job.log_kept if job.log_left else max(size - job.log_base, job.log_kept)
    return stored if job.log_size is None else min(stored, job.log_size)


def find_gaps(of_file: Sequence[Job], size: int) -> tuple[Gap, ...]:
    """Return what is not here of the jobs that have ended, in order, from the last one on that has begun.

    What is missing of jobs before that one will never be here, and a line before it says so. One that is to begin
    behind the file's end has not begun: the line is not there.

    :param of_file: the file's jobs in the order in which they were queued.
    """
    not_there = find_unwritten(of_file, size)
    begun = [job for job in of_file if job not in not_there]
    recent = (job for job in of_file if job.state is CentralJobState.FINISHED and not is_closed(job, begun))
    found = (_gap(job, count_stored(job, size)) for job in recent)
    return tuple(gap for gap in found if gap is not None)


def _gap(job: Job, here: int) -> Gap | None:
    if job.log_size is None:
        # It ended without a word of its worker. Before its start there was nothing to log.
        return Gap(job=job, here=here, missing=None) if job.starter is not None and job.ships_log else None
    return Gap(job=job, here=here, missing=job.log_size - here) if job.log_size > here else None


def find_unwritten(of_file: Iterable[Job], size: int) -> list[Job]:
    """Return the jobs that are to begin behind the file's end, which may be in the middle of a line of ours."""
    return [job for job in of_file if job.log_base is not None and job.log_kept == 0 and job.log_base > size]


def final_gaps(of_file: Sequence[Job], size: int, is_given_up: Callable[[Job, int], bool]) -> tuple[Gap, ...] | None:
    """Return what a file will never have of its jobs; None while something of one of them may still come.

    A job that was lost is not waited for: its lease is over. One that has not started has written nothing.

    :param of_file: jobs in the order in which they were queued: all that the file has, or all before one of them.
    :param is_given_up: tells of a job, and how many of its bytes are here, whether the others will not come.
    """
    for job in of_file:
        if is_closed(job, of_file):
            continue
        if job.state is CentralJobState.RUNNING or (job.lacks_notice and not is_given_up(job, 0)):
            return None
    gaps = find_gaps(of_file, size)
    for gap in gaps:
        # One after the other: the second cannot come before the first is here or given up.
        is_over = gap.missing is None or is_closed(gap.job, of_file) or is_given_up(gap.job, gap.here)
        if not is_over:
            return None
    return gaps


def find_base(base: int, begin: int, found: Found) -> int | None:
    """Return where the job that is written stands in a file which others may have changed.

    Its base as it was: go on at the end of the file, which may have lost bytes that its worker still has. A greater
    one: go on behind what others have added. None: this is not the file, or what stood before the job is gone; it
    has to begin anew behind what is there.

    :param begin: where what is to be written begins at the earliest: the base, or before it.
    """
    if found.size < begin:
        return None
    if found.left_at is None or found.size in (0, found.left_at):
        return base
    if not found.same:
        return None
    return base + max(found.size - max(found.left_at, begin), 0)


def describe_gap(gap: Gap, log: str) -> str:
    """Return one line for people about what is missing of ``log``."""
    worker = gap.job.worker or "gone"
    if gap.missing is None:
        return f"the end of {log} may be missing: contact with worker {worker} was lost"
    return f"the last {gap.missing} bytes of {log} are missing: worker {worker} has not brought them"
