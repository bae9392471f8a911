"""Whether every task ended as its Dag says, ran once a try, and was tried again for a reason only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.evidence import Evidence, Try
from tests.chaos.faults import Kind
from tests.chaos.record import Record
from tests.chaos.stream import BRIEF, TASKS, dag_of

#: A row of the ledger.
Row = Mapping[str, Any]
SUCCESS = "success"
#: What a task tells Airflow that goes on as another job.
GOES_ON = frozenset({"deferred", "up_for_reschedule", "up_for_retry", "awaiting_input"})
#: Seconds after a job's end in which Airflow may still be busy with it.
_AFTERMATH_S = 120.0


@dataclass(kw_only=True)
class Tries:
    """What was found about tries."""

    problems: list[str] = field(default_factory=list)
    #: Those that ended before any code ran.
    empty: list[Try] = field(default_factory=list)
    #: How many were followed by another because of a fault.
    retries: int = 0


def try_of(row: Row) -> Try:
    """Return the try that a job in the ledger was of."""
    return Try(run=row["run_id"], task=row["task_id"], map=row["map_index"], number=row["try_number"])


def by_try(rows: Iterable[Row]) -> dict[Try, list[Row]]:
    """Return the jobs of each try; there are several of one that was deferred."""
    found: dict[Try, list[Row]] = defaultdict(list)
    for row in rows:
        found[try_of(row)].append(row)
    return found


def why(what: Try, jobs: Sequence[Row], record: Record) -> str | None:
    """Return the fault that may have ended a try before its code was done; None: there was none."""
    unfinished = [row for row in jobs if row["outcome"] != SUCCESS]
    if what in record.killed:
        return "its process was killed"
    if what.instance in record.stopped:
        return f"stopped through the REST API: {record.stopped[what.instance]}"
    if any(record.rebooted(row["worker"], row["created_at"], _end(row)) for row in unfinished):
        return "its machine was rebooted"
    if dag_of(what.run) == BRIEF and any(
        record.silent(row["worker"], row["created_at"], _end(row)) for row in unfinished
    ):
        return "its worker was out of reach for longer than it may be"
    return None


def judge_tries(final: Iterable[Try], begun: Collection[Try], rows: Iterable[Row], record: Record) -> Tries:
    """Find tasks that were tried again though nothing was allowed to fail them, or that ended without having run.

    A try that ends before its code began is allowed when a scheduler died: Airflow counts one more for each task
    that the dead one had queued and whose job had not reached the bridge.
    """
    found = Tries()
    jobs = by_try(rows)
    for last in final:
        if last not in begun:
            found.problems.append(f"{last} is over, but its code never began")
        for earlier in last.earlier:
            reason = why(earlier, jobs.get(earlier, []), record)
            found.retries += reason is not None
            if earlier not in begun:
                found.empty.append(earlier)
            if reason is not None:
                continue
            if earlier in begun:
                found.problems.append(f"{earlier} failed though no fault was allowed to fail it")
            elif not (record.scheduler_deaths or record.database_deaths):
                found.problems.append(f"{earlier} ended before its code began, and no scheduler had died")
    found.problems += [
        f"{what} went on though its worker was out of reach for longer than it may be"
        for what in record.outages
        if what in final
    ]
    return found


def final_tries(instances: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Try]:
    """Return the last try of every task instance."""
    return [
        Try(run=run, task=each["task_id"], map=each["map_index"], number=each["try_number"])
        for run, some in instances.items()
        for each in some
    ]


def duplicates(evidence: Iterable[Evidence]) -> list[str]:
    """Return a line for every try whose code began more than once, or while another try of its task still ran."""
    places: dict[tuple[Try, str], list[str]] = defaultdict(list)
    for line in evidence:
        places[(line.what, line.stage)].append(f"pid {line.pid} on {line.worker}")
    again = [
        f"{what} {stage} ran {len(where)} times: {', '.join(where)}".replace("  ", " ")
        for (what, stage), where in places.items()
        if len(where) > 1
    ]
    return again + [
        f"{line.what} began (pid {line.pid} on {line.worker}) while another process ran the same task"
        for line in evidence
        if not line.alone
    ]


def judge_ends(
    states: Mapping[str, str], instances: Mapping[str, Sequence[Mapping[str, Any]]], record: Record
) -> list[str]:
    """Return a line for every run and task instance that did not end as its Dag says."""
    wrong = []
    for run, state in states.items():
        if state != SUCCESS:
            wrong.append(f"{run} is {state}")
        if len(instances[run]) != TASKS[dag_of(run)]:
            wrong.append(f"{run} has {len(instances[run])} task instances, not {TASKS[dag_of(run)]}")
        for each in instances[run]:
            how = record.stopped.get((run, each["task_id"], each["map_index"]))
            expected = "failed" if how is Kind.MARK else SUCCESS
            if each["state"] != expected:
                wrong.append(f"{run} {each['task_id']}[{each['map_index']}] is {each['state']}, not {expected}")
    return wrong


def event_problems(handled: Mapping[Try, int], rows: Iterable[Row], record: Record) -> list[str]:
    """Return a line for every job whose final event Airflow did not handle exactly once; of a job whose task goes on
    as another one it is told none.

    A scheduler that dies may take with it the event of a task whose end Airflow knows already, or its note that the
    event is handled; and the event of a task that was deferred may be overtaken by the next job of the same try.

    :param handled: how often Airflow says to have handled a final event of each try.
    """
    wrong = []
    for what, jobs in by_try(rows).items():
        deaths = record.scheduler_deaths_between(
            min(row["created_at"] for row in jobs), max(map(_end, jobs)) + _AFTERMATH_S
        )
        count, due = handled.get(what, 0), sum(row["told"] not in GOES_ON for row in jobs)
        if count > due + deaths or (count < 1 and due and not deaths):
            wrong.append(f"Airflow handled {count} final events of the {due} jobs of {what} that had one")
    return wrong


def _end(row: Row) -> float:
    return float("inf") if row["finished_at"] is None else float(row["finished_at"])
