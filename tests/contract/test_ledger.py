"""The ledger's contract on SQLite and in memory; then what only files can do."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from edge_mqtt.broker_bridge.dispatch.ledger import sql
from edge_mqtt.broker_bridge.dispatch.ledger.error_translation import translated
from edge_mqtt.broker_bridge.dispatch.ledger.interface import (
    Ledger,
    LedgerBusy,
    LedgerError,
    LedgerFull,
    LedgerTooNew,
    LedgerUnavailable,
)
from edge_mqtt.broker_bridge.dispatch.ledger.memory import MemoryLedger
from edge_mqtt.broker_bridge.dispatch.ledger.migrations import MIGRATIONS, migrate
from edge_mqtt.broker_bridge.dispatch.ledger.row_writers import upsert
from edge_mqtt.broker_bridge.dispatch.ledger.schema import JOBS, METADATA, WRITTEN_ONCE
from edge_mqtt.broker_bridge.dispatch.ledger.sql import SqlLedger
from tests.support.ledger_contract import Clock, LedgerContract, finished, ids, make_job


@pytest.fixture(params=["memory", "sqlite"])
def ledger(request: pytest.FixtureRequest, path: Path, clock: Clock) -> Iterator[Ledger]:
    opened: Ledger = MemoryLedger(clock) if request.param == "memory" else SqlLedger(f"sqlite:///{path}", clock)
    yield opened
    opened.close()


class TestEveryLedger(LedgerContract):
    """The SQL adapter on SQLite, and the twin in memory."""


# ---------------------------------------------------------------- the file


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
    SqlLedger(f"sqlite:///{path}").close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_commit_survives_the_end_of_the_process(path: Path) -> None:
    program = f"""
import os
from edge_mqtt.broker_bridge.dispatch.core.model import Job
from edge_mqtt.broker_bridge.dispatch.ledger.sql import SqlLedger
from edge_mqtt.broker_bridge.protocol.messages import JobSpec
ledger = SqlLedger("sqlite:///{path}")
spec = JobSpec(job_id="job-1", type="ExecuteTask", queue="q")
ledger.commit([Job(spec=spec, executor="e", lease_s=935.0, sequence=5)])
os.kill(os.getpid(), 9)
"""
    ended = subprocess.run([sys.executable, "-c", program], check=False, timeout=60)
    assert ended.returncode == -9
    reopened = SqlLedger(f"sqlite:///{path}")
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
        SqlLedger(f"sqlite:///{path}")
    sql.close()
    SqlLedger(f"sqlite:///{path}").close()


def test_closing_twice_does_no_harm(path: Path) -> None:
    ledger = SqlLedger(f"sqlite:///{path}")
    ledger.close()
    ledger.close()
    SqlLedger(f"sqlite:///{path}").close()


def test_a_ledger_of_a_newer_program_is_refused_and_left_alone(path: Path) -> None:
    SqlLedger(f"sqlite:///{path}").close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE schema_version SET version = 99")
    connection.commit()
    connection.close()
    with pytest.raises(LedgerTooNew, match="schema version 99, this program knows"):
        SqlLedger(f"sqlite:///{path}")
    assert rows(path, "SELECT version FROM schema_version") == [(99,)]


def test_a_later_migration_is_done_once_and_keeps_the_jobs(sql: SqlLedger, path: Path) -> None:
    sql.commit([make_job(1)])
    later = (*MIGRATIONS, ("ALTER TABLE jobs ADD COLUMN colour TEXT", "UPDATE jobs SET colour = 'red'"))
    with sql._transaction() as connection:
        assert migrate(connection, later) == 1
    with sql._transaction() as connection:
        assert migrate(connection, later) == 0
    assert rows(path, "SELECT job_id, colour FROM jobs") == [("job-1", "red")]


def test_logs_of_an_older_ledger_keep_their_place(tmp_path: Path) -> None:
    new = {"log_kept", "log_left"}
    needed = {column.name: 0 for column in JOBS.columns if not column.nullable and column.name not in new}
    columns = (*needed, "job_id", "log_path", "log_base")
    older = next(number for number, statements in enumerate(MIGRATIONS) if "log_kept" in statements[0])
    engine = sa.create_engine(f"sqlite:///{tmp_path}/old.db")
    with engine.begin() as connection:
        migrate(connection, MIGRATIONS[:older])
        insert = sa.insert(sa.table("jobs", *map(sa.column, dict.fromkeys(columns))))
        for sequence, (log_path, base) in enumerate([("a", 0), ("a", 30), ("a", None), ("b", 0), (None, None)]):
            job = {"job_id": str(sequence), "sequence": sequence, "log_path": log_path, "log_base": base}
            connection.execute(insert.values({**needed, **job}))
        migrate(connection)
        kept = connection.execute(sa.text("SELECT log_kept, log_left FROM jobs ORDER BY sequence")).all()
    engine.dispose()
    assert [tuple(row) for row in kept] == [(30, 1), (0, 0), (0, 0), (0, 0), (0, 0)]


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


def test_a_start_looks_at_no_job_that_is_over(sql: SqlLedger) -> None:
    plans: list[str] = []

    def explain(
        connection: sa.Connection, _cursor: object, statement: str, parameters: Any, _context: object, _many: bool
    ) -> None:
        if statement.startswith("SELECT jobs"):
            (plan,) = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
            plans.append(plan[3])

    sa.event.listen(sql._engine, "before_cursor_execute", explain)
    sql.load_live()
    sql.without_notice()
    indexes = ("jobs_live", "jobs_without_notice", "jobs_unstarted")
    assert plans == [f"SCAN jobs USING INDEX {name}" for name in indexes]


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
        ("postgresql+asyncpg://bridge:sesame@localhost/ledger", r"asyncpg will not do: use postgresql\+psycopg2"),
        ("postgresql+psycopg2://bridge:sesame@127.0.0.1:1/ledger", "can't be used: connection to server .* refused"),
    ],
)
def test_a_url_that_cannot_be_used_is_told_in_one_line(url: str, message: str) -> None:
    with pytest.raises(LedgerUnavailable, match=message) as refused:
        SqlLedger(url)
    assert "\n" not in str(refused.value)
    assert "sesame" not in str(refused.value)


def test_a_file_in_a_folder_that_is_a_file_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LedgerUnavailable, match="check ledger_url and the folder's owner"):
        SqlLedger(f"sqlite:///{tmp_path}/file/ledger.db")


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
    text = str(upsert("postgresql").compile(dialect=sa.make_url("postgresql://").get_dialect()()))
    assert "ON CONFLICT (job_id) DO UPDATE SET" in text
    assert "finished_at = coalesce(jobs.finished_at, excluded.finished_at)" in text
    assert "workload = excluded.workload" not in text


def test_open_ledger_gives_the_file_back_when_it_fails(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_connection: sa.Connection) -> int:
        raise LedgerTooNew("newer")

    with monkeypatch.context() as for_now:
        for_now.setattr(sql, "migrate", fail)
        with pytest.raises(LedgerTooNew):
            SqlLedger(f"sqlite:///{path}")
    SqlLedger(f"sqlite:///{path}").close()
    assert os.access(path, os.R_OK)
