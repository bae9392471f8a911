"""Which of the accepted jobs may be launched now."""

from __future__ import annotations

from collections.abc import Iterable

from edge_mqtt.worker.core.job import LocalJob, LocalJobState


def cost(job: LocalJob, concurrency: int) -> int:
    """Return the slots that ``job`` takes; one that is larger than the worker takes all of it."""
    return min(job.spec.slots, concurrency)


def used(jobs: Iterable[LocalJob], concurrency: int) -> int:
    """Return the slots that are in use."""
    return sum(cost(job, concurrency) for job in jobs if job.state in (LocalJobState.LAUNCHED, LocalJobState.DROPPED))


def launchable(jobs: Iterable[LocalJob], concurrency: int) -> list[LocalJob]:
    """Return the accepted jobs that fit, in the order of their arrival; none overtakes one that does not fit."""
    present = list(jobs)
    free = concurrency - used(present, concurrency)
    chosen: list[LocalJob] = []
    for job in present:
        if job.state is not LocalJobState.ACCEPTED:
            continue
        price = cost(job, concurrency)
        if price > free:
            break
        free -= price
        chosen.append(job)
    return chosen
