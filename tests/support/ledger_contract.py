"""What every ledger promises, wherever it keeps its jobs: the base of test classes that have a ``ledger``."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job
from edge_mqtt.broker_bridge.dispatch.ledger.interface import Ledger
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, Fence, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import JobSpec, LogSelector, Outcome, WorkloadType


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def make_job(number: int, **changes: Any) -> Job:
    spec = JobSpec(
        job_id=JobId(f"job-{number}"),
        type=WorkloadType.TASK,
        queue="field lab/3",
        priority=number,
        slots=2,
        dag_id="weather",
        run_id=f"manual__{number // 10}",
        task_id=f"measure_{number % 2}",
        map_index=number,
        try_number=1,
        log_path=f"dag_id=weather/{number % 3}.log",
        workload={"ti": {"id": number, "context": {"ü": [1, 2.5, None]}}},
    )
    spec = spec.model_copy(update={key: changes.pop(key) for key in list(changes) if key in JobSpec.model_fields})
    job = Job(
        spec=spec, executor=ExecutorName("scheduler-1"), lease_s=935.0, token=f"token-{number}", sequence=number
    )
    return replace(job, **changes)


def finished(job: Job, *, acked: bool = True) -> Job:
    return replace(
        job,
        state=CentralJobState.FINISHED,
        token=None,
        outcome=Outcome.FAILED,
        detail="exit code 1",
        told="failed",
        event_acked=acked,
        log_size=42,
    )


def ids(jobs: list[Job]) -> list[str]:
    return [job.id for job in jobs]


class LedgerContract:
    """The tests of the promises."""

    def test_a_new_ledger_is_empty(self, ledger: Ledger) -> None:
        assert ledger.load_live() == []
        assert ledger.max_sequence() == 0
        assert ledger.newest_run("weather") is None

    def test_every_field_of_a_job_comes_back_as_it_was(self, ledger: Ledger) -> None:
        job = make_job(
            7,
            state=CentralJobState.RUNNING,
            fence=Fence(3),
            worker=WorkerName("lab-3"),
            home="1f0e",
            accepted=True,
            starter="lab-3:4711",
            forwarded="absent 0199-abc",
            cancel_reason="revoked by Airflow",
            log_base=2**40,
            log_kept=2**41,
            log_left=True,
            detail="so far",
            told="deferred",
            lease_s=7_235.5,
            ships_log=False,
        )
        bare = make_job(8, token=None, log_path=None, workload={})
        over = finished(make_job(9), acked=False)
        ledger.commit([job, bare, over])
        assert ledger.load_live() == [job, bare, over]

    def test_a_later_commit_replaces_what_becomes_of_a_job(self, ledger: Ledger) -> None:
        job = make_job(1)
        ledger.commit([job])
        running = replace(
            job, state=CentralJobState.RUNNING, fence=Fence(2), worker=WorkerName("lab-3"), token="newer"
        )
        ledger.commit([running])
        assert ledger.load_live() == [running]

    def test_every_field_that_changes_in_a_job_s_life_is_replaced(self, ledger: Ledger) -> None:
        job = make_job(1, state=CentralJobState.RUNNING, accepted=True)
        ledger.commit([make_job(1)])
        changed = replace(
            job,
            executor=ExecutorName("scheduler-2"),
            token=None,
            forwarded="3 0199-abd",
            fence=Fence(7),
            worker=WorkerName("lab-3"),
            home="1f0e",
            starter="lab-3:4711",
            outcome=Outcome.LOST,
            detail="so far",
            told="deferred",
            cancel_reason="revoked by Airflow",
            log_base=2**40,
            log_size=2**41,
        )
        ledger.commit([changed])
        assert ledger.load_live() == [changed]
        over = replace(changed, state=CentralJobState.FINISHED, event_acked=True)
        ledger.commit([over])
        assert ledger.load_live() == []
        assert ledger.get([job.id]) == [over]

    def test_a_job_that_was_purged_meanwhile_is_stored_whole_again(self, ledger: Ledger, clock: Clock) -> None:
        purged, kept, new = finished(make_job(1)), finished(make_job(2), acked=False), make_job(3)
        ledger.commit([purged, kept])
        clock.now = 2_000.0
        assert ledger.purge(1_500.0) == 1
        ledger.commit([replace(purged, log_base=5), replace(kept, log_base=6), new])
        assert sorted(ledger.get([purged.id, kept.id, new.id]), key=lambda job: job.sequence) == [
            replace(purged, log_base=5),
            replace(kept, log_base=6),
            new,
        ]

    def test_of_a_job_named_twice_in_one_commit_the_later_wins(self, ledger: Ledger) -> None:
        job = make_job(1)
        ledger.commit([job, replace(job, fence=Fence(2))])
        assert [known.fence for known in ledger.load_live()] == [2]

    def test_an_empty_commit_changes_nothing(self, ledger: Ledger) -> None:
        ledger.commit([])
        assert ledger.load_live() == []

    def test_live_are_the_unfinished_and_the_unacknowledged_in_order_of_arrival(self, ledger: Ledger) -> None:
        ledger.commit([make_job(3), finished(make_job(2), acked=False), finished(make_job(1)), make_job(0)])
        assert ids(ledger.load_live()) == ["job-0", "job-2", "job-3"]

    def test_get_returns_what_is_known_of_many_ids(self, ledger: Ledger) -> None:
        ledger.commit([make_job(number) for number in range(1200)])
        wanted = [JobId(f"job-{number}") for number in range(0, 2400, 2)]
        assert sorted(ids(ledger.get([*wanted, *wanted]))) == sorted(f"job-{number}" for number in range(0, 1200, 2))
        assert ledger.get([]) == []

    def test_get_returns_jobs_that_are_over(self, ledger: Ledger) -> None:
        job = finished(make_job(1))
        ledger.commit([job])
        assert ledger.get([job.id]) == [job]

    @pytest.mark.parametrize(
        ("selector", "numbers"),
        [
            (LogSelector(), [21, 20, 11, 10, 1, 0]),
            (LogSelector(dag_id="weather"), [21, 20, 11, 10, 1, 0]),
            (LogSelector(dag_id="other"), []),
            (LogSelector(dag_id="weather", run_id="manual__1"), [11, 10]),
            (LogSelector(dag_id="weather", task_id="measure_0"), [20, 10, 0]),
            (LogSelector(run_id="manual__2", task_id="measure_1", map_index=21, try_number=1), [21]),
            (LogSelector(try_number=2), []),
            (LogSelector(worker="lab-3"), [20]),
            (LogSelector(queue="field lab/3"), [21, 20, 11, 10, 1, 0]),
            (LogSelector(queue="field"), []),
        ],
    )
    def test_find_matches_every_field_that_is_set(
        self, ledger: Ledger, selector: LogSelector, numbers: list[int]
    ) -> None:
        ledger.commit([make_job(number) for number in (0, 1, 10, 11, 21)])
        ledger.commit([finished(make_job(20, worker=WorkerName("lab-3")))])
        assert ids(ledger.find(selector, 100)) == [f"job-{number}" for number in numbers]

    def test_find_keeps_to_its_limit_with_the_newest(self, ledger: Ledger) -> None:
        ledger.commit([make_job(number) for number in range(5)])
        assert ids(ledger.find(LogSelector(dag_id="weather"), 2)) == ["job-4", "job-3"]

    def test_the_newest_run_is_that_of_the_job_that_came_last(self, ledger: Ledger) -> None:
        ledger.commit([make_job(25), make_job(31, dag_id="other"), finished(make_job(12))])
        assert ledger.newest_run("weather") == "manual__2"
        assert ledger.newest_run("other") == "manual__3"
        assert ledger.newest_run("none") is None

    def test_jobs_of_one_log_file_come_in_order_of_arrival(self, ledger: Ledger) -> None:
        ledger.commit([make_job(number) for number in (6, 3, 0, 1)])
        assert ids(ledger.find_of_logs(["dag_id=weather/0.log"])) == ["job-0", "job-3", "job-6"]
        assert ledger.find_of_logs(["dag_id=weather/none.log"]) == []
        both = ledger.find_of_logs(["dag_id=weather/1.log", "dag_id=weather/0.log"])
        assert ids(both) == ["job-0", "job-1", "job-3", "job-6"]

    def test_of_the_jobs_of_a_log_file_one_may_be_left_out(self, ledger: Ledger) -> None:
        ledger.commit([make_job(number) for number in (6, 3, 0, 1)])
        paths = ["dag_id=weather/0.log", "dag_id=weather/1.log"]
        assert ids(ledger.find_of_logs(paths, {paths[0]: JobId("job-3")})) == ["job-0", "job-1", "job-6"]
        assert ids(ledger.find_of_logs(paths[1:], {paths[1]: JobId("job-1")})) == []
        assert ids(ledger.find_of_logs(paths[:1], {paths[1]: JobId("job-0")})) == ["job-0", "job-3", "job-6"]

    def test_many_logs_are_asked_about_at_once(self, ledger: Ledger) -> None:
        jobs = [make_job(number, log_path=f"{number}.log") for number in range(1200)]
        ledger.commit(jobs)
        other = make_job(1200, log_path="7.log")
        ledger.commit([other])
        but = {f"{number}.log": JobId(f"job-{number}") for number in range(1200)}
        assert ledger.find_of_logs(list(but), but) == [other]

    def test_new_jobs_are_added_with_what_else_has_changed(self, ledger: Ledger) -> None:
        ledger.commit([make_job(1)])
        changed = replace(make_job(1), fence=Fence(2))
        assert ledger.add([changed, make_job(2)], [JobId("job-2")]) == []
        assert ledger.load_live() == [changed, make_job(2)]

    def test_nothing_is_stored_with_a_job_that_is_not_new(self, ledger: Ledger) -> None:
        known = finished(make_job(1))
        ledger.commit([known])
        new = [JobId("job-1"), JobId("job-2")]
        assert ledger.add([make_job(1), make_job(2), make_job(3)], new) == [known]
        assert ledger.find(LogSelector(), 10) == [known]

    def test_purge_forgets_only_what_is_over_for_long_enough(self, ledger: Ledger, clock: Clock) -> None:
        ledger.commit([finished(make_job(1)), finished(make_job(2), acked=False), make_job(3)])
        clock.now = 2_000.0
        ledger.commit([finished(make_job(4))])
        assert ledger.purge(1_000.0) == 0
        assert ledger.purge(1_500.0) == 1
        assert ids(ledger.find(LogSelector(), 10)) == ["job-4", "job-3", "job-2"]

    def test_a_job_is_kept_by_when_it_ended_not_by_when_that_was_acknowledged(
        self, ledger: Ledger, clock: Clock
    ) -> None:
        ledger.commit([finished(make_job(1), acked=False)])
        clock.now = 9_000.0
        ledger.commit([finished(make_job(1))])
        assert ledger.purge(1_001.0) == 1

    def test_ends_that_nobody_acknowledged_are_found_by_when_they_came(self, ledger: Ledger, clock: Clock) -> None:
        ledger.commit([finished(make_job(1), acked=False), finished(make_job(2)), make_job(3)])
        clock.now = 2_000.0
        ledger.commit([finished(make_job(4), acked=False)])
        assert ledger.unacknowledged(1_000.0) == []
        assert ledger.unacknowledged(1_500.0) == ["job-1"]
        assert sorted(ledger.unacknowledged(2_001.0)) == ["job-1", "job-4"]

    def test_jobs_are_unsaid_that_have_begun_with_a_log_which_stays_on_its_worker(self, ledger: Ledger) -> None:
        kept = {"ships_log": False, "starter": "lab-3:4711"}
        ledger.commit([make_job(number, **kept) for number in (5, 1, 2)])
        ledger.commit([finished(make_job(1, **kept)), make_job(2, **kept, log_base=0)])
        ledger.commit([make_job(3, **kept, log_path=None), make_job(4, ships_log=False), make_job(6)])
        assert ledger.without_notice() == ["job-1", "job-5"]

    def test_jobs_that_failed_before_they_began_and_of_which_nothing_says_why_are_found(self, ledger: Ledger) -> None:
        failed = {"starter": None, "state": CentralJobState.FINISHED, "outcome": Outcome.FAILED, "log_base": None}
        ledger.commit([make_job(3, **failed, log_size=None), make_job(1, **failed, log_size=0)])
        ledger.commit([make_job(2, **failed, log_size=7), make_job(4, **failed, log_size=0, log_path=None)])
        ledger.commit([make_job(5, **(failed | {"outcome": Outcome.CANCELLED}), log_size=0)])
        ledger.commit([make_job(6, **(failed | {"log_base": 90}), log_size=0)])
        assert ledger.without_notice() == ["job-1", "job-3"]

    def test_a_probe_changes_nothing(self, ledger: Ledger) -> None:
        ledger.commit([make_job(1)])
        ledger.probe()
        ledger.probe()
        ledger.commit([make_job(2)])
        assert ids(ledger.load_live()) == ["job-1", "job-2"]

    def test_the_highest_sequence_counts_finished_jobs(self, ledger: Ledger) -> None:
        ledger.commit([finished(make_job(12)), make_job(3)])
        assert ledger.max_sequence() == 12

    def test_calls_may_come_from_several_threads(self, ledger: Ledger) -> None:
        ledger.commit([make_job(0)])
        found: list[int] = []

        def read() -> None:
            found.extend(len(ledger.find(LogSelector(), 1000)) for _ in range(20))

        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        for number in range(20):
            ledger.commit([make_job(number)])
        for reader in readers:
            reader.join()
        assert len(found) == 60
        assert all(1 <= count <= 20 for count in found)
        assert len(ledger.find(LogSelector(), 1000)) == 20
