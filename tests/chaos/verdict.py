"""What must hold at the end, however much was killed and cut: each check names what it found wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from deploy.quickstart.errors import WaitedTooLong
from deploy.quickstart.services import BRIDGE
from tests.chaos.evidence import Evidence, Try
from tests.chaos.faults import SCHEDULERS, WORKERS
from tests.chaos.judge_logs import (
    both_logs,
    differing_logs,
    handled_events,
    missing_lines,
    places,
    tokens_in,
    two_ends,
)
from tests.chaos.judge_tries import (
    SUCCESS,
    Row,
    by_try,
    duplicates,
    event_problems,
    final_tries,
    judge_ends,
    judge_tries,
    try_of,
    why,
)
from tests.chaos.record import Record
from tests.chaos.site import Site
from tests.chaos.stream import LINES, XCOMS, Stream, dag_of

#: Seconds in which the last log byte, acknowledgement and process must be where they belong.
SETTLE_S = 90.0


@dataclass(kw_only=True)
class Verdict:
    """What was found."""

    record: Record
    problems: list[str] = field(default_factory=list)
    #: What is remarkable but allowed.
    remarks: list[str] = field(default_factory=list)
    runs: int = 0
    tasks: int = 0
    tries_begun: int = 0
    #: Tries that were followed by another because of a fault.
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
    events: int = 0
    seconds: float = 0.0
    #: Of these, from the end of the last planned fault to the end of the last run.
    seconds_to_end: float = 0.0

    def after_the_end(self, site: Site) -> None:
        """Add what is only known once everything is stopped."""
        self.problems += [f"left over after the stop: {process}" for process in site.stack.left_over()]
        folders = {worker: site.stack.worker_home(worker) for worker in WORKERS}
        self.problems += tokens_in(folders | {"output": site.stack.directory / "output"})

    def figures(self) -> list[tuple[str, str]]:
        """Return what is shown in the table."""
        return [
            *((f"  {sort}", str(number)) for sort, number in sorted(self.record.faults.items())),
            ("faults", str(self.record.faults.total())),
            ("services that fell with the database", str(self.record.fell.total())),
            ("Dag runs", str(self.runs)),
            ("task instances", str(self.tasks)),
            ("tries begun", str(self.tries_begun)),
            ("tries that a fault ended", str(self.retries)),
            ("tries handed back before any code ran", str(self.empty_tries)),
            ("jobs adopted by a scheduler", str(self.adopted)),
            ("duplicates", str(self.duplicates)),
            ("XComs checked", str(self.xcoms)),
            ("logs compared", str(self.logs)),
            ("log bytes compared", f"{self.log_bytes:,}"),
            ("jobs in the ledger", str(self.jobs)),
            ("final events that Airflow handled", str(self.events)),
            ("seconds", f"{self.seconds:.0f}"),
            ("  of these after the last fault, until every run had ended", f"{self.seconds_to_end:.0f}"),
            ("problems", str(len(self.problems))),
        ]


def judge(site: Site, stream: Stream, verdict: Verdict) -> None:
    """Check everything; called when nothing is disturbed any more and the system still runs."""
    record, problems = verdict.record, verdict.problems
    problems += record.problems
    evidence = site.evidence()
    states = stream.states
    instances = {run: stream.task_instances(run) for run in states}
    verdict.runs, verdict.tasks = len(states), sum(map(len, instances.values()))
    verdict.tries_begun = len({line.what for line in evidence})
    verdict.adopted = site.adopted()
    problems += judge_ends(states, instances, record)
    _judge_xcoms(stream, verdict)
    again = duplicates(evidence)
    verdict.duplicates = len(again)
    problems += again
    # The last message of the last job may still be on its way.
    problems += _settled(site, lambda: ledger_problems(site.ledger_rows(), record), "a quiet ledger")
    rows = site.ledger_rows()
    final = final_tries(instances)
    tries = judge_tries(final, {line.what for line in evidence}, rows, record)
    problems += tries.problems
    verdict.retries, verdict.empty_tries = tries.retries, len(tries.empty)
    _judge_events(site, rows, verdict)
    problems += _settled(site, lambda: differing_logs(site, evidence, by_try(rows)), "equal logs")
    succeeded = set(final) - {what for what in final if what.instance in record.stopped}
    _judge_logs(site, evidence, succeeded, verdict)
    problems += _settled(site, lambda: left_over(site.idle_processes, site.processes()), "no process left")
    verdict.remarks += _remarks(site, rows, tries.empty, record)


def _judge_xcoms(stream: Stream, verdict: Verdict) -> None:
    for run in stream.states:
        if dag_of(run) != LINES:
            continue
        checked = stream.checked_xcoms(run)
        if checked == XCOMS:
            verdict.xcoms += XCOMS
        else:
            verdict.problems.append(f"{run}: its last task handed on {checked!r}, not {XCOMS}")


def _judge_events(site: Site, rows: Sequence[Row], verdict: Verdict) -> None:
    verdict.jobs = len(rows)

    def wrong() -> list[str]:
        handled = handled_events(map(site.stack.log_of, SCHEDULERS))
        verdict.events = handled.total()
        return event_problems(handled, rows, verdict.record)

    verdict.problems += _settled(site, wrong, "final events")
    verdict.problems += two_ends(site.stack.log_of(BRIDGE))


def _judge_logs(site: Site, evidence: Iterable[Evidence], succeeded: set[Try], verdict: Verdict) -> None:
    stages: dict[Try, set[str]] = defaultdict(set)
    for line in evidence:
        stages[line.what].add(line.stage)
    for what, workers in places(evidence).items():
        centre, _ = both_logs(site, what, workers)
        verdict.logs += 1
        verdict.log_bytes += len(centre)
        wrong = missing_lines(centre, stages[what]) if what in succeeded else None
        if wrong is not None:
            verdict.problems.append(f"log of {what}: {wrong}")


def ledger_problems(rows: Iterable[Row], record: Record) -> list[str]:
    """Return a line for everything in the ledger that is not as it must be once every run has ended."""
    wrong = []
    jobs = by_try(rows)
    for what, some in jobs.items():
        for row in some:
            name = f"job {row['job_id']} of {what}"
            if row["state"] != "finished":
                wrong.append(f"{name} is {row['state']}")
                continue
            if not row["event_acked"] or row["live"]:
                wrong.append(f"{name}: its final event is not acknowledged")
            if row["token"] is not None:
                wrong.append(f"{name} is finished and has a token")
            if row["starter"] is not None and row["outcome"] != SUCCESS and why(what, some, record) is None:
                wrong.append(f"{name} ran and ended as {row['outcome']} ({row['detail']})")
    return wrong


def left_over(idle: Mapping[str, int], now: Mapping[str, int]) -> list[str]:
    """Return a line for every kind of process of which there are more or fewer than when no task had run yet."""
    return [
        f"{now.get(name, 0)} processes {name!r}, {idle.get(name, 0)} before the first task"
        for name in sorted({*idle, *now})
        if now.get(name, 0) != idle.get(name, 0)
    ]


def _remarks(site: Site, rows: Iterable[Row], empty: Iterable[Try], record: Record) -> list[str]:
    found = [f"no code ran in {what}" for what in empty]
    jobs = by_try(rows)
    for row in rows:
        if row["outcome"] != SUCCESS:
            what = try_of(row)
            reason = why(what, jobs[what], record) or "it had not begun"
            found.append(f"job of {what}: {row['outcome']} ({row['detail']}); {reason}")
    tracebacks = {
        name: site.stack.log_of(name).count("Traceback (most recent call last)") for name in site.stack.services
    }
    return found + [f"{count} tracebacks in what {name} wrote" for name, count in tracebacks.items() if count]


def _settled(site: Site, problems: Callable[[], list[str]], what: str) -> list[str]:
    """Give ``problems`` the time to go away; return those that did not."""
    try:
        site.stack.wait_until(lambda: not problems(), what, timeout_s=SETTLE_S, poll_s=0.5)
    except WaitedTooLong:
        return problems()
    return []
