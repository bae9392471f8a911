"""One contract for every ledger: the SQL adapter and its in-memory twin; then what only files can do."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import OperationalError

from edge_mqtt.broker_bridge.dispatch import ledger_sql
from edge_mqtt.broker_bridge.dispatch.core.model import Job, JobState
from edge_mqtt.broker_bridge.dispatch.ledger import (
    Ledger,
    LedgerBusy,
    LedgerCorrupt,
    LedgerError,
    LedgerFull,
    LedgerTooNew,
    LedgerUnavailable,
)
from edge_mqtt.broker_bridge.dispatch.ledger_errors import translated
from edge_mqtt.broker_bridge.dispatch.ledger_memory import MemoryLedger
from edge_mqtt.broker_bridge.dispatch.ledger_migrations import MIGRATIONS, migrate
from edge_mqtt.broker_bridge.dispatch.ledger_schema import JOBS, METADATA, WRITTEN_ONCE
from edge_mqtt.broker_bridge.dispatch.ledger_sql import SqlLedger, open_ledger
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, Fence, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import JobSpec, LogSelector, Outcome, WorkloadType


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger.db"


@pytest.fixture(params=["memory", "sqlite"])
def ledger(request: pytest.FixtureRequest, path: Path, clock: Clock) -> Iterator[Ledger]:
    opened: Ledger = MemoryLedger(clock) if request.param == "memory" else open_ledger(f"sqlite:///{path}", clock)
    yield opened
    opened.close()


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
    job = Job(spec=spec, executor=ExecutorName("scheduler-1"), token=f"token-{number}", sequence=number)
    return replace(job, **changes)


def finished(job: Job, *, acked: bool = True) -> Job:
    return replace(
        job,
        state=JobState.FINISHED,
        token=None,
        outcome=Outcome.FAILED,
        detail="exit code 1",
        event_acked=acked,
        log_size=42,
    )


def ids(jobs: list[Job]) -> list[str]:
    return [job.id for job in jobs]


# ---------------------------------------------------------------- the contract


def test_a_new_ledger_is_empty(ledger: Ledger) -> None:
    assert ledger.load_live() == []
    assert ledger.max_sequence() == 0
    assert ledger.newest_run("weather") is None


def test_every_field_of_a_job_comes_back_as_it_was(ledger: Ledger) -> None:
    job = make_job(
        7,
        state=JobState.RUNNING,
        fence=Fence(3),
        worker=WorkerName("lab-3"),
        accepted=True,
        starter="lab-3:4711",
        cancel_reason="revoked by Airflow",
        log_base=2**40,
        detail="so far",
    )
    bare = make_job(8, token=None, log_path=None, workload={})
    over = finished(make_job(9), acked=False)
    ledger.commit([job, bare, over])
    assert ledger.load_live() == [job, bare, over]


def test_a_later_commit_replaces_what_becomes_of_a_job(ledger: Ledger) -> None:
    job = make_job(1)
    ledger.commit([job])
    running = replace(job, state=JobState.RUNNING, fence=Fence(2), worker=WorkerName("lab-3"), token="newer")
    ledger.commit([running])
    assert ledger.load_live() == [running]


def test_of_a_job_named_twice_in_one_commit_the_later_wins(ledger: Ledger) -> None:
    job = make_job(1)
    ledger.commit([job, replace(job, fence=Fence(2))])
    assert [known.fence for known in ledger.load_live()] == [2]


def test_an_empty_commit_changes_nothing(ledger: Ledger) -> None:
    ledger.commit([])
    assert ledger.load_live() == []


def test_live_are_the_unfinished_and_the_unacknowledged_in_order_of_arrival(ledger: Ledger) -> None:
    ledger.commit([make_job(3), finished(make_job(2), acked=False), finished(make_job(1)), make_job(0)])
    assert ids(ledger.load_live()) == ["job-0", "job-2", "job-3"]


def test_get_returns_what_is_known_of_many_ids(ledger: Ledger) -> None:
    ledger.commit([make_job(number) for number in range(1200)])
    wanted = [JobId(f"job-{number}") for number in range(0, 2400, 2)]
    assert sorted(ids(ledger.get([*wanted, *wanted]))) == sorted(f"job-{number}" for number in range(0, 1200, 2))
    assert ledger.get([]) == []


def test_get_returns_jobs_that_are_over(ledger: Ledger) -> None:
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
def test_find_matches_every_field_that_is_set(ledger: Ledger, selector: LogSelector, numbers: list[int]) -> None:
    ledger.commit([make_job(number) for number in (0, 1, 10, 11, 21)])
    ledger.commit([finished(make_job(20, worker=WorkerName("lab-3")))])
    assert ids(ledger.find(selector, 100)) == [f"job-{number}" for number in numbers]


def test_find_keeps_to_its_limit_with_the_newest(ledger: Ledger) -> None:
    ledger.commit([make_job(number) for number in range(5)])
    assert ids(ledger.find(LogSelector(dag_id="weather"), 2)) == ["job-4", "job-3"]


def test_the_newest_run_is_that_of_the_job_that_came_last(ledger: Ledger) -> None:
    ledger.commit([make_job(25), make_job(31, dag_id="other"), finished(make_job(12))])
    assert ledger.newest_run("weather") == "manual__2"
    assert ledger.newest_run("other") == "manual__3"
    assert ledger.newest_run("none") is None


def test_jobs_of_one_log_file_come_in_order_of_arrival(ledger: Ledger) -> None:
    ledger.commit([make_job(number) for number in (6, 3, 0, 1)])
    assert ids(ledger.same_log("dag_id=weather/0.log")) == ["job-0", "job-3", "job-6"]
    assert ledger.same_log("dag_id=weather/none.log") == []


def test_purge_forgets_only_what_is_over_for_long_enough(ledger: Ledger, clock: Clock) -> None:
    ledger.commit([finished(make_job(1)), finished(make_job(2), acked=False), make_job(3)])
    clock.now = 2_000.0
    ledger.commit([finished(make_job(4))])
    assert ledger.purge(1_000.0) == 0
    assert ledger.purge(1_500.0) == 1
    assert ids(ledger.find(LogSelector(), 10)) == ["job-4", "job-3", "job-2"]


def test_a_job_is_kept_by_when_it_ended_not_by_when_that_was_acknowledged(ledger: Ledger, clock: Clock) -> None:
    ledger.commit([finished(make_job(1), acked=False)])
    clock.now = 9_000.0
    ledger.commit([finished(make_job(1))])
    assert ledger.purge(1_001.0) == 1


def test_the_highest_sequence_counts_finished_jobs(ledger: Ledger) -> None:
    ledger.commit([finished(make_job(12)), make_job(3)])
    assert ledger.max_sequence() == 12


def test_calls_may_come_from_several_threads(ledger: Ledger) -> None:
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


# ---------------------------------------------------------------- the file


@pytest.fixture
def sql(path: Path, clock: Clock) -> Iterator[SqlLedger]:
    opened = open_ledger(f"sqlite:///{path}", clock)
    yield opened
    opened.close()


def rows(path: Path, query: str) -> list[Any]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def test_nobody_else_may_read_the_file(sql: SqlLedger, path: Path) -> None:
    sql.commit([make_job(1)])
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {
        "ledger.db": 0o600,
        "ledger.db-wal": 0o600,
        "ledger.db-shm": 0o600,
        "ledger.db.lock": 0o600,
    }


def test_a_file_that_others_may_read_is_closed_to_them(path: Path) -> None:
    path.parent.mkdir()
    path.touch(mode=0o644)
    open_ledger(f"sqlite:///{path}").close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_commit_survives_the_end_of_the_process(path: Path) -> None:
    program = f"""
import os
from edge_mqtt.broker_bridge.dispatch.core.model import Job
from edge_mqtt.broker_bridge.dispatch.ledger_sql import open_ledger
from edge_mqtt.broker_bridge.protocol.messages import JobSpec
ledger = open_ledger("sqlite:///{path}")
ledger.commit([Job(spec=JobSpec(job_id="job-1", type="ExecuteTask", queue="q"), executor="e", sequence=5)])
os.kill(os.getpid(), 9)
"""
    ended = subprocess.run([sys.executable, "-c", program], check=False, timeout=60)
    assert ended.returncode == -9
    reopened = open_ledger(f"sqlite:///{path}")
    assert ids(reopened.load_live()) == ["job-1"]
    reopened.close()


def test_every_commit_is_synced_to_the_disk(sql: SqlLedger) -> None:
    with sql._engine.connect() as connection:
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "secure_delete")
        ]
    assert pragmas == ["wal", 2, 1]


def test_a_second_bridge_is_refused_with_a_clear_line(sql: SqlLedger, path: Path) -> None:
    with pytest.raises(LedgerBusy, match=r"is in use by another edge-bridge: end that one"):
        open_ledger(f"sqlite:///{path}")
    sql.close()
    open_ledger(f"sqlite:///{path}").close()


def test_closing_twice_does_no_harm(path: Path) -> None:
    ledger = open_ledger(f"sqlite:///{path}")
    ledger.close()
    ledger.close()
    open_ledger(f"sqlite:///{path}").close()


def test_a_full_disk_refuses_the_commit_and_loses_nothing(sql: SqlLedger) -> None:
    sql.commit([make_job(1)])
    with sql._engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    large = {"text": "x" * 200_000}
    with pytest.raises(LedgerFull, match="the disk is full") as refused:
        sql.commit([replace(make_job(1), fence=Fence(9)), make_job(2, workload=large)])
    assert refused.value.retryable
    assert sql.load_live() == [make_job(1)]
    with sql._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=1000000")
    sql.commit([make_job(2, workload=large)])
    assert len(sql.load_live()) == 2


def test_a_lock_by_a_stranger_is_told_as_busy(sql: SqlLedger, path: Path) -> None:
    with sql._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout=0")
    stranger = sqlite3.connect(path, isolation_level=None)
    stranger.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerBusy, match="another process holds it") as refused:
        sql.commit([make_job(1)])
    assert refused.value.retryable
    stranger.execute("ROLLBACK")
    stranger.close()
    sql.commit([make_job(1)])


def test_a_file_that_is_no_ledger_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"certainly not a database" * 100)
    with pytest.raises(LedgerCorrupt, match="damaged or not a ledger") as refused:
        open_ledger(f"sqlite:///{path}")
    assert not refused.value.retryable


def test_a_ledger_of_a_newer_program_is_refused_and_left_alone(path: Path) -> None:
    open_ledger(f"sqlite:///{path}").close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE schema_version SET version = 99")
    connection.commit()
    connection.close()
    with pytest.raises(LedgerTooNew, match="schema version 99, this program knows"):
        open_ledger(f"sqlite:///{path}")
    assert rows(path, "SELECT version FROM schema_version") == [(99,)]


def test_a_later_migration_is_done_once_and_keeps_the_jobs(sql: SqlLedger, path: Path) -> None:
    sql.commit([make_job(1)])
    later = (*MIGRATIONS, ("ALTER TABLE jobs ADD COLUMN colour TEXT", "UPDATE jobs SET colour = 'red'"))
    with sql._transaction() as connection:
        assert migrate(connection, later) == 1
    with sql._transaction() as connection:
        assert migrate(connection, later) == 0
    assert rows(path, "SELECT job_id, colour FROM jobs") == [("job-1", "red")]


def test_a_migration_that_fails_leaves_the_ledger_as_it_was(sql: SqlLedger, path: Path) -> None:
    broken = (*MIGRATIONS, ("ALTER TABLE jobs ADD COLUMN colour TEXT", "no such statement"))
    with pytest.raises(LedgerUnavailable, match="syntax error"), sql._transaction() as connection:
        migrate(connection, broken)
    assert rows(path, "SELECT version FROM schema_version") == [(len(MIGRATIONS),)]
    assert "colour" not in {row[1] for row in rows(path, "PRAGMA table_info(jobs)")}


def test_the_migrations_make_the_tables_that_the_program_uses(sql: SqlLedger) -> None:
    inspector = sa.inspect(sql._engine)
    assert set(inspector.get_table_names()) == set(METADATA.tables)
    made = {column["name"]: column for column in inspector.get_columns("jobs")}
    assert set(made) == set(JOBS.columns.keys())
    for column in JOBS.columns:
        if not column.primary_key:
            assert made[column.name]["nullable"] == column.nullable, column.name
    assert set(JOBS.columns.keys()) >= WRITTEN_ONCE


def test_a_token_is_gone_from_the_file_when_its_job_is_finished(sql: SqlLedger, path: Path) -> None:
    secret = "eyJhbGciOi-very-secret"
    sql.commit([make_job(1, token=secret)])
    sql.commit([finished(make_job(1))])
    with sql._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    assert all(secret.encode() not in file.read_bytes() for file in path.parent.iterdir())


def test_rows_carry_the_times_of_the_clock(sql: SqlLedger, path: Path, clock: Clock) -> None:
    sql.commit([make_job(1)])
    clock.now = 1_010.0
    sql.commit([finished(make_job(1), acked=False)])
    clock.now = 1_020.0
    sql.commit([finished(make_job(1))])
    assert rows(path, "SELECT created_at, finished_at, updated_at FROM jobs") == [(1000.0, 1010.0, 1020.0)]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("not a url", "ledger_url is not a database URL"),
        ("mysql://root@localhost/ledger", "mysql is not supported: use sqlite or postgresql"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:////proc/none/ledger.db", r"ledger /proc/none/ledger\.db can't be used: No such file"),
        ("postgresql+pg8000://bridge:sesame@localhost/ledger", "a database driver that is not installed"),
        ("postgresql+nothing://bridge:sesame@localhost/ledger", "a database driver that is not installed"),
    ],
)
def test_a_url_that_cannot_be_used_is_told_in_one_line(url: str, message: str) -> None:
    with pytest.raises(LedgerUnavailable, match=message) as refused:
        open_ledger(url)
    assert "\n" not in str(refused.value)
    assert "sesame" not in str(refused.value)


def test_a_file_in_a_folder_that_is_a_file_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LedgerUnavailable, match="check ledger_url and the folder's owner"):
        open_ledger(f"sqlite:///{tmp_path}/file/ledger.db")


def test_an_error_never_quotes_the_row(sql: SqlLedger) -> None:
    with sql._transaction() as connection:
        connection.exec_driver_sql("DROP TABLE jobs")
    with pytest.raises(LedgerUnavailable, match="no such table") as refused:
        sql.commit([make_job(1, token="very-secret")])
    assert "very-secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


class Stated(Exception):
    """A driver's error as PostgreSQL's drivers raise it."""

    def __init__(self, sqlstate: str) -> None:
        super().__init__("could not extend file")
        self.sqlstate = sqlstate


@pytest.mark.parametrize(
    ("state", "kind"),
    [("53100", LedgerFull), ("40001", LedgerBusy), ("55P03", LedgerBusy), ("08006", LedgerUnavailable)],
)
def test_postgresql_errors_mean_the_same(state: str, kind: type[LedgerError]) -> None:
    error = OperationalError("INSERT", {"token": "secret"}, Stated(state))
    told = translated(error, "postgresql://bridge@db/ledger")
    assert type(told) is kind
    assert "secret" not in str(told)


def test_the_upsert_is_understood_by_postgresql() -> None:
    text = str(ledger_sql._upsert("postgresql").compile(dialect=postgresql.dialect()))
    assert "ON CONFLICT (job_id) DO UPDATE SET" in text
    assert "finished_at = coalesce(jobs.finished_at, excluded.finished_at)" in text
    assert "workload = excluded.workload" not in text


def test_open_ledger_gives_the_file_back_when_it_fails(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_connection: sa.Connection) -> int:
        raise LedgerTooNew("newer")

    keep: Callable[..., int] = ledger_sql.migrate
    monkeypatch.setattr(ledger_sql, "migrate", fail)
    with pytest.raises(LedgerTooNew):
        open_ledger(f"sqlite:///{path}")
    monkeypatch.setattr(ledger_sql, "migrate", keep)
    open_ledger(f"sqlite:///{path}").close()
    assert os.access(path, os.R_OK)
