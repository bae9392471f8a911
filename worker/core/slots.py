"""Which of the accepted jobs may be launched now."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.worker.core.job import LocalJob, LocalJobState


def cost(job: LocalJob, concurrency: int) -> int:
    """Return the slots that ``job`` takes; one that is larger than the worker takes all of it."""
    return min(job.spec.slots, concurrency)


def used(jobs: Iterable[LocalJob], concurrency: int) -> int:
    """Return the slots that are in use."""
    return sum(cost(job, concurrency) for job in jobs if job.state in (LocalJobState.LAUNCHED, LocalJobState.DROPPED))


def launchable(jobs: Iterable[LocalJob], concurrency: int, *, but: Collection[JobId] = ()) -> list[LocalJob]:
    """Return the accepted jobs that fit, in the order of their arrival; none overtakes one that does not fit.

    :param but: jobs that are stepped over: those behind them need not wait for them.
    """
    present = list(jobs)
    free = concurrency - used(present, concurrency)
    chosen: list[LocalJob] = []
    for job in present:
        if job.state is not LocalJobState.ACCEPTED or job.job_id in but:
            continue
        price = cost(job, concurrency)
        if price > free:
            break
        free -= price
        chosen.append(job)
    return chosen
