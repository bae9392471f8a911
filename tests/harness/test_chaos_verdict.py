"""Every check of the verdict of chaos can fail."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.chaos.evidence import Evidence, Try, read_evidence
from tests.chaos.faults import Kind
from tests.chaos.judge_logs import differing_logs, handled_events, missing_lines, tokens_in, two_ends
from tests.chaos.judge_tries import duplicates, event_problems, final_tries, judge_ends, judge_tries
from tests.chaos.record import Record, Silence
from tests.chaos.site import Site
from tests.chaos.verdict import ledger_problems, left_over

RUN, BRIEF_RUN, HELD_RUN = "chaos_lines-0001", "chaos_brief-0002", "chaos_held-0003"
FIRST = Try(run=RUN, task="part", map=0, number=1)
SECOND = Try(run=RUN, task="part", map=0, number=2)
ROW: dict[str, Any] = {
    "job_id": "j",
    "run_id": RUN,
    "task_id": "part",
    "map_index": 0,
    "try_number": 1,
    "state": "finished",
    "event_acked": 1,
    "live": 0,
    "token": None,
    "starter": "edge-1:7",
    "worker": "edge-1",
    "outcome": "success",
    "detail": "",
    "told": "success",
    "created_at": 100.0,
    "finished_at": 130.0,
}
FAILED = ROW | {"outcome": "failed"}
LATE, DURING = 200.0, 120.0
FINISHED_LINE = (
    "[info] TaskInstance Finished: dag_id=chaos_lines, task_id=part, run_id=chaos_lines-0001, map_index=0, "
    "ti_id=0, run_start_date=None, state=success, executor=E(parallelism=32), executor_state=success, try_number=1, "
    "max_tries=2, pool=default_pool"
)


def seen(what: Try = FIRST, worker: str = "edge-1", **fields: Any) -> Evidence:
    return Evidence(what=what, worker=worker, **({"pid": 1} | fields))


# -------------------------------------------------------------------- what the tasks leave


def test_a_line_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    whole = '{"run": "r", "task": "t", "map": -1, "try": 2, "stage": "", "pid": 7, "at": 1.5, "alone": true}\n'
    file = tmp_path / "evidence.jsonl"
    assert read_evidence("edge-1", file) == []
    file.write_text(whole + whole[:20])
    what = Try(run="r", task="t", map=-1, number=2)
    assert read_evidence("edge-1", file) == [Evidence(what=what, worker="edge-1", pid=7, at=1.5)]


def test_a_try_that_began_twice_is_found() -> None:
    assert duplicates([seen(), seen(SECOND)]) == []
    assert duplicates([seen(stage="before"), seen(stage="after", worker="edge-2")]) == []
    assert len(duplicates([seen(), seen(worker="edge-2")])) == 1


def test_a_try_that_began_while_another_process_ran_the_task_is_found() -> None:
    assert len(duplicates([seen(), seen(SECOND, worker="edge-2", alone=False)])) == 1


# -------------------------------------------------------------------- tries


def test_the_last_try_is_taken_from_what_airflow_says() -> None:
    instance = {"task_id": "part", "map_index": 0, "try_number": 2}
    assert final_tries({RUN: [instance]}) == [SECOND]


@pytest.mark.parametrize(
    "record",
    [
        Record(killed={FIRST}),
        Record(stopped={FIRST.instance: Kind.CLEAR}),
        Record(reboots=[("edge-1", DURING)]),
    ],
)
def test_a_retry_is_allowed_when_a_fault_explains_it(record: Record) -> None:
    found = judge_tries([SECOND], {FIRST, SECOND}, [FAILED], record)
    assert (found.problems, found.retries, found.empty) == ([], 1, [])


@pytest.mark.parametrize(
    "record",
    [
        Record(),
        Record(killed={SECOND}),
        Record(scheduler_deaths=[DURING]),
        Record(reboots=[("edge-2", DURING)]),
        Record(reboots=[("edge-1", LATE)]),
        Record(silences=[Silence("edge-1", DURING, DURING)]),
    ],
)
def test_a_retry_that_no_fault_explains_is_found(record: Record) -> None:
    assert len(judge_tries([SECOND], {FIRST, SECOND}, [FAILED], record).problems) == 1


@pytest.mark.parametrize(
    ("silence", "allowed"),
    [
        (Silence("edge-1", DURING, DURING), True),
        (Silence(None, DURING, DURING), True),
        (Silence("edge-2", DURING, DURING), False),
        (Silence("edge-1", LATE, LATE), False),
        (Silence("edge-1", 0.0, 1.0), False),
    ],
)
def test_a_brief_task_may_fail_when_its_worker_was_out_of_reach(silence: Silence, allowed: bool) -> None:
    tries = [Try(run=BRIEF_RUN, task="part", map=0, number=number) for number in (1, 2)]
    found = judge_tries(tries[1:], set(tries), [FAILED | {"run_id": BRIEF_RUN}], Record(silences=[silence]))
    assert (found.problems == []) is allowed


def test_a_task_that_outlived_its_lease_is_found() -> None:
    record = Record(outages=[FIRST])
    assert len(judge_tries([FIRST], {FIRST}, [ROW], record).problems) == 1


def test_a_try_without_code_is_allowed_only_when_a_scheduler_or_the_database_died() -> None:
    for record in (Record(scheduler_deaths=[DURING]), Record(database_deaths=[DURING])):
        handed_back = judge_tries([SECOND], {SECOND}, [], record)
        assert (handed_back.problems, handed_back.empty) == ([], [FIRST])
    assert len(judge_tries([SECOND], {SECOND}, [], Record()).problems) == 1


def test_a_task_that_is_over_without_having_run_is_found() -> None:
    assert len(judge_tries([FIRST], set(), [], Record(scheduler_deaths=[DURING])).problems) == 1


def test_a_run_and_a_task_that_did_not_end_as_their_dag_says_are_found() -> None:
    def ends(run_state: str, hold: str, after: str, record: Record) -> list[str]:
        instances = [
            {"task_id": task, "map_index": -1, "state": state} for task, state in (("hold", hold), ("after", after))
        ]
        return judge_ends({HELD_RUN: run_state}, {HELD_RUN: instances}, record)

    marked = Record(stopped={(HELD_RUN, "hold", -1): Kind.MARK})
    assert ends("success", "success", "success", Record()) == []
    assert ends("success", "failed", "success", marked) == []
    assert len(ends("success", "success", "success", marked)) == 1
    assert len(ends("success", "failed", "success", Record())) == 1
    assert len(ends("failed", "success", "success", Record())) == 1
    assert len(judge_ends({HELD_RUN: "success"}, {HELD_RUN: []}, Record())) == 1


# -------------------------------------------------------------------- events


def test_an_event_that_airflow_handled_twice_or_never_is_found() -> None:
    assert event_problems({FIRST: 1}, [ROW], Record()) == []
    assert len(event_problems({FIRST: 2}, [ROW], Record())) == 1
    assert len(event_problems({}, [ROW], Record())) == 1


def test_an_event_may_get_lost_with_a_scheduler_or_be_handled_by_the_next_one_again() -> None:
    assert event_problems({}, [ROW], Record(scheduler_deaths=[DURING])) == []
    assert event_problems({FIRST: 2}, [ROW], Record(scheduler_deaths=[DURING])) == []
    assert len(event_problems({FIRST: 3}, [ROW], Record(scheduler_deaths=[DURING]))) == 1
    assert len(event_problems({}, [ROW], Record(scheduler_deaths=[99.0]))) == 1


def test_the_event_of_a_deferred_task_may_be_overtaken_by_its_next_job() -> None:
    both = [ROW, ROW | {"job_id": "k"}]
    assert event_problems({FIRST: 1}, both, Record()) == event_problems({FIRST: 2}, both, Record()) == []
    assert len(event_problems({FIRST: 3}, both, Record())) == 1


def test_an_event_of_a_job_whose_task_goes_on_is_one_too_many() -> None:
    paused = ROW | {"job_id": "k", "told": "deferred"}
    assert event_problems({FIRST: 1}, [paused, ROW], Record()) == event_problems({}, [paused], Record()) == []
    assert len(event_problems({FIRST: 2}, [paused, ROW], Record())) == 1


def test_handled_events_are_counted_over_all_schedulers() -> None:
    assert handled_events([f"{FINISHED_LINE}\n", f"other\n{FINISHED_LINE}\n"]) == {FIRST: 2}


def test_a_job_with_two_different_ends_is_found() -> None:
    line = "INFO    job finished [action=job_finished job_id={} worker=edge-1 outcome={}]\n".format
    assert two_ends(line(1, "success") + line(1, "success") + line(2, "failed")) == []
    assert len(two_ends(line(1, "success") + line(1, "lost"))) == 1


# -------------------------------------------------------------------- logs, secrets


def write_log(home: Path, content: bytes) -> None:
    path = home / f"logs/dag_id=chaos_lines/run_id={RUN}/task_id=part/map_index=0/attempt=1.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def site_in(folder: Path) -> Site:
    stack = SimpleNamespace(central_home=folder / "central", worker_home=folder.joinpath)
    return cast("Site", SimpleNamespace(stack=stack))


def test_a_log_that_is_not_the_worker_s_is_found(tmp_path: Path) -> None:
    for home, content in (("central", b"one\n"), ("edge-1", b"one\ntwo\n"), ("edge-2", b"one\n")):
        write_log(tmp_path / home, content)
    assert len(differing_logs(site_in(tmp_path), [seen()], {})) == 1
    write_log(tmp_path / "central", b"one\ntwo\n")
    assert differing_logs(site_in(tmp_path), [seen()], {}) == []


def test_the_log_of_a_deferred_task_is_that_of_both_its_workers_in_their_order(tmp_path: Path) -> None:
    for home, content in (("central", b"one\ntwo\n"), ("edge-1", b"two\n"), ("edge-2", b"one\n")):
        write_log(tmp_path / home, content)
    evidence = [seen(stage="after", at=2.0), seen(stage="before", at=1.0, worker="edge-2")]
    assert differing_logs(site_in(tmp_path), evidence, {}) == []
    write_log(tmp_path / "central", b"two\none\n")
    assert len(differing_logs(site_in(tmp_path), evidence, {})) == 1


def test_a_line_about_a_job_that_was_taken_away_stays_on_its_worker(tmp_path: Path) -> None:
    for home, content in (("central", b"one\ntwo\n"), ("edge-1", b"one\nit is gone\n"), ("edge-2", b"two\n")):
        write_log(tmp_path / home, content)
    first = ROW | {"fence": 1, "log_base": 0, "log_size": 4}
    second = first | {"worker": "edge-2", "fence": 2, "log_base": 4}

    def differing(*jobs: dict[str, Any]) -> int:
        evidence = [seen(stage="before", at=1.0), seen(stage="after", at=2.0, worker="edge-2")]
        return len(differing_logs(site_in(tmp_path), evidence, {FIRST: list(jobs)}))

    assert differing(first, second) == 0
    assert differing(first, second | {"fence": 1}) == 1
    assert differing(first | {"log_size": 3}, second) == 1
    assert differing(first, second | {"worker": "edge-1"}) == 1
    assert differing(first | {"fence": 2}) == 1


def test_a_log_with_a_missing_doubled_or_exchanged_line_is_found() -> None:
    lines = [b'{"event":"line %d of 3 by r/part/0/"}\n' % number for number in range(3)]
    assert missing_lines(b"".join(lines)) is None
    for wrong in ([], lines[:2], [*lines, lines[2]], [lines[1], lines[0], lines[2]]):
        assert missing_lines(b"".join(wrong)) is not None


def test_a_log_without_the_lines_of_a_stage_is_found() -> None:
    lines = [b'{"event":"line 0 of 1 by r/nap/-1/%s"}\n' % stage for stage in (b"before", b"after")]
    assert missing_lines(b"".join(lines), {"before", "after"}) is None
    assert missing_lines(lines[0], {"before", "after"}) is not None


def test_a_token_in_a_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "quiet.log").write_text("eyJ is how they begin\n")
    assert tokens_in({"output": tmp_path}) == []
    (tmp_path / "loud.log").write_text("Bearer eyJhbGciOiJIUzUxMiJ9.eyJzdWIiOiIwMWEyMDIifQ.c2lnbmF0dXJl\n")
    assert tokens_in({"output": tmp_path}) == ["there is a token in output: loud.log"]


# -------------------------------------------------------------------- ledger, processes


@pytest.mark.parametrize(
    "wrong",
    [
        {"state": "running"},
        {"event_acked": 0},
        {"live": 1},
        {"token": "secret"},
        {"outcome": "lost"},
    ],
)
def test_a_job_that_is_not_properly_over_is_found_in_the_ledger(wrong: dict[str, Any]) -> None:
    assert ledger_problems([ROW], Record()) == []
    assert len(ledger_problems([ROW | wrong], Record())) == 1


def test_a_job_may_fail_when_a_fault_explains_it_or_it_never_ran() -> None:
    assert ledger_problems([FAILED], Record(killed={FIRST})) == []
    assert ledger_problems([ROW | {"outcome": "lost", "starter": None}], Record()) == []


def test_a_process_too_many_and_a_process_too_few_are_found() -> None:
    assert left_over({"edge-worker: launcher": 3}, {"edge-worker: launcher": 3}) == []
    assert len(left_over({"edge-worker: launcher": 3}, {"edge-worker: launcher": 4, "task": 1})) == 2
    assert len(left_over({"edge-worker: launcher": 3}, {"edge-worker: launcher": 2})) == 1
