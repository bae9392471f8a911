"""What must hold at the end, however much was killed and cut: each check names what it found wrong."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deploy.quickstart.errors import WaitedTooLong
from tests.chaos.site import Evidence, Site, Try
from tests.chaos.stream import DAG, PARTS, TASKS, Stream
from tests.e2e.checks import log_path

#: Seconds in which the last log byte, acknowledgement and process must be where they belong.
SETTLE_S = 90.0
_NUMBERED = re.compile(rb"line (\d+) of (\d+) by ")


@dataclass(kw_only=True)
class Verdict:
    """What was found."""

    faults: Counter[str]
    problems: list[str] = field(default_factory=list)
    #: What is remarkable but allowed.
    remarks: list[str] = field(default_factory=list)
    runs: int = 0
    tasks: int = 0
    tries_begun: int = 0
    #: Tries whose task process was killed by us, and those of them that were tried again.
    killed: int = 0
    retries: int = 0
    #: Jobs that one scheduler took over from another.
    adopted: int = 0
    #: Tries in which no user code began.
    empty_tries: int = 0
    duplicates: int = 0
    xcoms: int = 0
    logs: int = 0
    log_bytes: int = 0
    jobs: int = 0
    seconds: float = 0.0
    #: Of these, from the end of the last fault to the end of the last run.
    seconds_to_end: float = 0.0

    def after_the_end(self, site: Site) -> None:
        """Add what is only known once everything is stopped."""
        self.problems += [f"left over after the stop: {process}" for process in site.stack.left_over()]

    def figures(self) -> list[tuple[str, str]]:
        """Return what is shown in the table."""
        return [
            ("Dag runs", str(self.runs)),
            ("task instances", str(self.tasks)),
            ("tries begun", str(self.tries_begun)),
            *((f"  {sort}", str(number)) for sort, number in sorted(self.faults.items())),
            ("faults", str(self.faults.total())),
            ("tasks killed", str(self.killed)),
            ("retries of killed tasks", str(self.retries)),
            ("tries handed back before any code ran", str(self.empty_tries)),
            ("jobs adopted by a scheduler", str(self.adopted)),
            ("duplicates", str(self.duplicates)),
            ("XComs checked", str(self.xcoms)),
            ("logs compared", str(self.logs)),
            ("log bytes compared", f"{self.log_bytes:,}"),
            ("jobs in the ledger", str(self.jobs)),
            ("seconds", f"{self.seconds:.0f}"),
            ("  of these after the last fault, until every run had ended", f"{self.seconds_to_end:.0f}"),
            ("problems", str(len(self.problems))),
        ]


def judge(site: Site, stream: Stream, verdict: Verdict) -> None:
    """Check everything; called when nothing is disturbed any more and the system still runs."""
    evidence = site.evidence()
    instances = {run: stream.task_instances(run) for run in stream.states}
    verdict.runs = len(stream.states)
    verdict.tasks = sum(map(len, instances.values()))
    verdict.tries_begun = len({line.what for line in evidence})
    verdict.adopted = site.adopted()
    _judge_runs(stream.states, instances, verdict)
    _judge_xcoms(stream, verdict)
    again = duplicates(evidence)
    verdict.duplicates = len(again)
    verdict.problems += again
    final = final_tries(instances)
    tries = judge_tries(
        final,
        {line.what for line in evidence},
        site.killed,
        scheduler_died=any("scheduler" in sort for sort in verdict.faults),
    )
    verdict.problems += tries.problems
    verdict.killed, verdict.retries, verdict.empty_tries = len(site.killed), tries.retries, len(tries.empty)
    verdict.remarks += [f"no code ran in {what}" for what in tries.empty]
    verdict.problems += _settled(site, lambda: differing_logs(site, evidence), "equal logs")
    _judge_logs(site, evidence, final, verdict)
    verdict.problems += _settled(site, lambda: ledger_problems(ledger_rows(site), site.killed), "a quiet ledger")
    rows = ledger_rows(site)
    verdict.jobs = len(rows)
    verdict.remarks += [
        f"job of {what_of(row)}: {row['outcome']} ({row['detail']})" for row in rows if not _fine(row)
    ]
    verdict.remarks += [
        f"{count} tracebacks in what {name} wrote"
        for name in site.stack.parts
        if (count := site.stack.log_of(name).count("Traceback (most recent call last)"))
    ]
    verdict.problems += _settled(site, lambda: left_over(site.idle_processes, site.processes()), "no process left")


# -------------------------------------------------------------------- runs, tries, XComs


@dataclass(kw_only=True)
class Tries:
    """What was found about tries."""

    problems: list[str] = field(default_factory=list)
    #: Those that ended before any code ran.
    empty: list[Try] = field(default_factory=list)
    #: How many were tried again because their task was killed.
    retries: int = 0


def duplicates(evidence: Iterable[Evidence]) -> list[str]:
    """Return a line for every try whose code began more than once."""
    places: dict[Try, list[str]] = defaultdict(list)
    for line in evidence:
        places[line.what].append(f"pid {line.pid} on {line.worker}")
    return [f"{what} ran {len(where)} times: {', '.join(where)}" for what, where in places.items() if len(where) > 1]


def final_tries(instances: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Try]:
    """Return the last try of every task instance."""
    return [
        Try(run=run, task=each["task_id"], map=each["map_index"], number=each["try_number"])
        for run, some in instances.items()
        for each in some
    ]


def judge_tries(
    final: Iterable[Try], begun: Collection[Try], killed: Collection[Try], *, scheduler_died: bool
) -> Tries:
    """Find tasks that were tried again though nothing was allowed to fail them, or that ended without having run.

    A try that ends before its code began is allowed when a scheduler died: Airflow counts one more for each task
    that the dead one had queued and whose job had not reached the bridge.
    """
    found = Tries()
    for last in final:
        if last not in begun:
            found.problems.append(f"{last} is over, but its code never began")
        for number in range(1, last.number):
            earlier = Try(run=last.run, task=last.task, map=last.map, number=number)
            if earlier in killed:
                found.retries += 1
            elif earlier in begun:
                found.problems.append(f"{earlier} failed though no fault was allowed to fail it")
            else:
                found.empty.append(earlier)
                if not scheduler_died:
                    found.problems.append(f"{earlier} ended before its code began, and no scheduler had died")
    return found


def _judge_runs(
    states: Mapping[str, str], instances: Mapping[str, Sequence[Mapping[str, Any]]], verdict: Verdict
) -> None:
    for run, state in states.items():
        if state != "success":
            open_ones = [f"{i['task_id']}[{i['map_index']}] {i['state']}" for i in instances[run]]
            verdict.problems.append(f"{run} is {state}: {', '.join(open_ones)}")
        elif len(instances[run]) != TASKS:
            verdict.problems.append(f"{run} has {len(instances[run])} task instances, not {TASKS}")


def _judge_xcoms(stream: Stream, verdict: Verdict) -> None:
    for run in stream.states:
        checked = stream.checked_parts(run)
        if checked == PARTS:
            verdict.xcoms += PARTS
        else:
            verdict.problems.append(f"{run}: its last task handed on {checked!r}, not {PARTS}")


# -------------------------------------------------------------------- logs


def differing_logs(site: Site, evidence: Iterable[Evidence]) -> list[str]:
    """Return a line for every log that is not the same at the centre and on the worker that ran the task."""
    wrong = []
    for line in evidence:
        centre, edge = _both_logs(site, line)
        if centre != edge:
            same = next((i for i, (a, b) in enumerate(zip(centre, edge, strict=False)) if a != b), None)
            where = "one is the other's beginning" if same is None else f"they differ from byte {same} on"
            wrong.append(f"log of {line.what}: {len(centre)} bytes at the centre, {len(edge)} on the edge; {where}")
    return wrong


def missing_lines(log: bytes) -> str | None:
    """Return what is wrong with the numbered lines of the log of a task that succeeded; None: nothing."""
    found = [(int(number), int(of)) for number, of in _NUMBERED.findall(log)]
    expected = [(number, found[0][1]) for number in range(found[0][1])] if found else None
    return None if found == expected else f"numbered lines {[number for number, _ in found]}"


def _both_logs(site: Site, line: Evidence) -> tuple[bytes, bytes]:
    what = line.what
    instance = {"dag_id": DAG, "dag_run_id": what.run, "task_id": what.task, "map_index": what.map}
    path = log_path(instance, what.number)
    files = [home / "logs" / path for home in (site.stack.central_home, site.stack.worker_home(line.worker))]
    centre, edge = (file.read_bytes() if file.exists() else b"" for file in files)
    return centre, edge


def _judge_logs(site: Site, evidence: Iterable[Evidence], final: Collection[Try], verdict: Verdict) -> None:
    succeeded = set(final)
    for line in evidence:
        centre, _ = _both_logs(site, line)
        verdict.logs += 1
        verdict.log_bytes += len(centre)
        wrong = missing_lines(centre) if line.what in succeeded else None
        if wrong is not None:
            verdict.problems.append(f"log of {line.what}: {wrong}")


# -------------------------------------------------------------------- ledger, processes


def ledger_rows(site: Site) -> list[dict[str, Any]]:
    """Return every job in the bridge's ledger."""
    connection = sqlite3.connect(f"file:{site.ledger}?mode=ro", uri=True, timeout=5.0)
    try:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute("SELECT * FROM jobs ORDER BY sequence")]
    finally:
        connection.close()


def ledger_problems(rows: Iterable[Mapping[str, Any]], killed: Collection[Try]) -> list[str]:
    """Return a line for everything in the ledger that is not as it must be once every run has ended."""
    wrong = []
    for row in rows:
        what = f"job {row['job_id']} of {what_of(row)}"
        if row["state"] != "finished":
            wrong.append(f"{what} is {row['state']}")
            continue
        if not row["event_acked"] or row["live"]:
            wrong.append(f"{what}: its final event is not acknowledged")
        if row["token"] is not None:
            wrong.append(f"{what} is finished and has a token")
        if row["starter"] is not None and not _fine(row) and what_of(row) not in killed:
            wrong.append(f"{what} ran and ended as {row['outcome']} ({row['detail']})")
    return wrong


def what_of(row: Mapping[str, Any]) -> Try:
    """Return the try that a job in the ledger was."""
    return Try(run=row["run_id"], task=row["task_id"], map=row["map_index"], number=row["try_number"])


def _fine(row: Mapping[str, Any]) -> bool:
    return bool(row["outcome"] == "success")


def left_over(idle: Mapping[str, int], now: Mapping[str, int]) -> list[str]:
    """Return a line for every kind of process of which there are more or fewer than when no task had run yet."""
    return [
        f"{now.get(name, 0)} processes {name!r}, {idle.get(name, 0)} before the first task"
        for name in sorted({*idle, *now})
        if now.get(name, 0) != idle.get(name, 0)
    ]


def _settled(site: Site, problems: Callable[[], list[str]], what: str) -> list[str]:
    """Give ``problems`` the time to go away; return those that did not."""
    try:
        site.stack.wait_until(lambda: not problems(), what, timeout_s=SETTLE_S, poll_s=1.0)
    except WaitedTooLong:
        return problems()
    return []
