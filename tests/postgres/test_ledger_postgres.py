"""The ledger on a real PostgreSQL: the same contract, and one bridge at a time whatever happens to its sessions."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
import sqlalchemy as sa

from edge_mqtt.broker_bridge.dispatch.ledger.interface import (
    Ledger,
    LedgerBusy,
    LedgerError,
    LedgerRefused,
    LedgerTaken,
    LedgerTooNew,
    LedgerUnavailable,
)
from edge_mqtt.broker_bridge.dispatch.ledger.migrations import MIGRATIONS, migrate
from edge_mqtt.broker_bridge.dispatch.ledger.schema import JOBS, METADATA
from edge_mqtt.broker_bridge.dispatch.ledger.sql import SqlLedger
from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId
from edge_mqtt.broker_bridge.protocol.messages import Finished, JobSpec
from tests.chaos.postgres import Postgres
from tests.support.ledger_contract import Clock, LedgerContract, ids, make_job


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sql(url: str, clock: Clock) -> Iterator[SqlLedger]:
    opened = SqlLedger(url, clock)
    yield opened
    opened.close()


@pytest.fixture
def ledger(sql: SqlLedger) -> Ledger:
    return sql


class TestPostgresqlLedger(LedgerContract):
    """The SQL adapter on PostgreSQL."""


@pytest.mark.parametrize(
    "changes",
    [{"slots": 2**31}, {"log_path": "".join(f"{number:x}" for number in range(5000))}, {"map_index": -(2**63)}],
)
def test_a_value_that_postgresql_never_takes_is_that_job_s_fault(sql: SqlLedger, changes: dict[str, object]) -> None:
    job = make_job(1)
    job = replace(job, spec=JobSpec.stored({**dict(job.spec), **changes}))
    with pytest.raises(LedgerRefused, match="the database cannot store a value of the job"):
        sql.commit([job])
    sql.commit([make_job(2)])
    assert ids(sql.load_live()) == ["job-2"]


def session_of(ledger: SqlLedger) -> int:
    """Return the server's process of a ledger's session."""
    with ledger._transaction() as connection:
        pid: int = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        return pid


def end_session(admin: sa.Engine, pid: int) -> None:
    """Have the server end a session, and wait until it has."""
    with admin.connect() as connection:
        connection.exec_driver_sql(f"SELECT pg_terminate_backend({pid}, 10000)")


def test_a_later_migration_is_done_once_and_keeps_the_jobs(sql: SqlLedger) -> None:
    sql.commit([make_job(1)])
    later = (*MIGRATIONS, ("ALTER TABLE jobs ADD COLUMN colour TEXT", "UPDATE jobs SET colour = 'red'"))
    with sql._transaction() as connection:
        assert migrate(connection, later) == 1
    with sql._transaction() as connection:
        assert migrate(connection, later) == 0
        rows = connection.exec_driver_sql("SELECT job_id, colour FROM jobs").all()
    assert rows == [("job-1", "red")]


def test_the_migrations_make_the_tables_that_the_program_uses(sql: SqlLedger) -> None:
    with sql._transaction() as connection:
        inspector = sa.inspect(connection)
        assert set(inspector.get_table_names()) == set(METADATA.tables)
        made = {column["name"]: column for column in inspector.get_columns("jobs")}
    assert {name: made[name]["nullable"] for name in made} == {
        column.name: column.nullable for column in JOBS.columns
    }


def test_a_ledger_of_a_newer_program_is_refused(url: str) -> None:
    ledger = SqlLedger(url)
    with ledger._transaction() as connection:
        connection.exec_driver_sql("UPDATE schema_version SET version = 99")
    ledger.close()
    with pytest.raises(LedgerTooNew, match="schema version 99"):
        SqlLedger(url)


def test_a_commit_is_durable_whatever_the_database_s_default_is(url: str, admin: sa.Engine) -> None:
    with admin.connect() as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {url.rpartition('/')[2]} SET synchronous_commit = off")
    ledger = SqlLedger(url)
    with ledger._transaction() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
    ledger.close()


def test_a_nul_in_a_worker_s_words_does_no_harm(sql: SqlLedger) -> None:
    said = Finished(job_id=JobId("job-1"), fence=Fence(1), exit_code=1, error="exit\0code \ud800").error
    sql.commit([make_job(1, detail=said)])
    assert [job.detail for job in sql.load_live()] == [said] == ["exit\ufffdcode \ufffd"]


# ---------------------------------------------------------------- one bridge at a time


def test_a_second_bridge_is_refused_with_a_clear_line(sql: SqlLedger, url: str) -> None:
    with pytest.raises(LedgerBusy, match=r"is in use by another edge-bridge: end that one") as refused:
        SqlLedger(url)
    assert "\n" not in str(refused.value)
    assert str(sa.make_url(url).password) not in str(refused.value)
    sql.commit([make_job(1)])
    sql.close()
    second = SqlLedger(url)
    assert ids(second.load_live()) == ["job-1"]
    second.close()


def test_ledgers_in_two_schemas_of_one_database_are_two_ledgers(sql: SqlLedger, url: str) -> None:
    with sql._transaction() as connection:
        connection.exec_driver_sql("CREATE SCHEMA other")
    other = SqlLedger(f"{url}?options=-csearch_path%3Dother")
    other.commit([make_job(1)])
    assert sql.load_live() == []
    other.close()


def test_the_ledger_is_free_when_the_process_that_had_it_is_killed(url: str) -> None:
    program = f"""
import os
from edge_mqtt.broker_bridge.dispatch.ledger.sql import SqlLedger
ledger = SqlLedger({url!r})
os.kill(os.getpid(), 9)
"""
    ended = subprocess.run([sys.executable, "-c", program], check=False, timeout=60)
    assert ended.returncode == -9
    for _ in range(1000):
        try:
            SqlLedger(url).close()
        except LedgerBusy:
            # The server has not read the end of the connection yet.
            continue
        return
    pytest.fail("the lock outlives its process")


def test_a_session_that_is_lost_is_made_anew_and_has_the_lock_again(
    sql: SqlLedger, url: str, admin: sa.Engine
) -> None:
    sql.commit([make_job(1)])
    end_session(admin, session_of(sql))
    sql.commit([make_job(2)])
    assert ids(sql.load_live()) == ["job-1", "job-2"]
    with pytest.raises(LedgerBusy):
        SqlLedger(url)


def test_a_session_that_is_lost_within_a_transaction_leaves_nothing_of_it(sql: SqlLedger, admin: sa.Engine) -> None:
    sql.commit([make_job(1)])
    writing = sql._writing()
    connection = writing.__enter__()
    connection.exec_driver_sql("UPDATE jobs SET fence = 9")
    end_session(admin, connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())
    with pytest.raises(LedgerUnavailable) as refused:
        writing.__exit__(None, None, None)
    assert refused.value.retryable
    assert "\n" not in str(refused.value)
    assert [job.fence for job in sql.load_live()] == [1]
    sql.commit([replace(make_job(1), fence=Fence(2))])
    assert [job.fence for job in sql.load_live()] == [2]


def test_a_bridge_whose_ledger_another_has_taken_meanwhile_stops(sql: SqlLedger, url: str, admin: sa.Engine) -> None:
    end_session(admin, session_of(sql))
    second = SqlLedger(url)
    with pytest.raises(LedgerTaken, match="this edge-bridge has to stop") as refused:
        sql.commit([make_job(1)])
    assert not refused.value.retryable
    second.commit([make_job(2)])
    second.close()


def test_a_bridge_whose_ledger_another_had_for_a_moment_stops_too(sql: SqlLedger, url: str, admin: sa.Engine) -> None:
    end_session(admin, session_of(sql))
    SqlLedger(url).close()
    with pytest.raises(LedgerTaken, match="this edge-bridge has to stop"):
        sql.commit([make_job(1)])
    assert sql.load_live() == []


def test_our_own_former_session_is_waited_for(sql: SqlLedger, admin: sa.Engine) -> None:
    former = session_of(sql)
    # What a session is to us whose end the server has not noticed: it is there, and we have another.
    sql._engine.pool = sql._engine.pool.recreate()
    sql._writer = sql._engine.execution_options(ledger_writes=True)
    with pytest.raises(LedgerBusy) as refused:
        sql.commit([make_job(1)])
    assert refused.value.retryable
    end_session(admin, former)
    sql.commit([make_job(1)])
    assert ids(sql.load_live()) == ["job-1"]


def test_a_server_that_restarts_is_waited_for_and_nothing_committed_is_lost(sql: SqlLedger, server: Postgres) -> None:
    sql.commit([make_job(1)])
    server.stop()
    with pytest.raises(LedgerUnavailable) as refused:
        sql.commit([make_job(2)])
    assert refused.value.retryable
    assert "\n" not in str(refused.value)
    server.start()
    sql.commit([make_job(2)])
    assert ids(sql.load_live()) == ["job-1", "job-2"]


# ---------------------------------------------------------------- what the server says


def test_a_table_that_somebody_locks_is_told_as_busy(sql: SqlLedger, url: str) -> None:
    with sql._transaction() as connection:
        connection.exec_driver_sql("SET lock_timeout = '50ms'")
    stranger = sa.create_engine(url)
    with stranger.begin() as lock:
        lock.exec_driver_sql("LOCK TABLE jobs")
        with pytest.raises(LedgerBusy, match="another process holds it"):
            sql.commit([make_job(1)])
    stranger.dispose()
    sql.commit([make_job(1)])


def test_a_database_that_may_only_be_read_takes_nothing_and_says_so_in_one_line(
    sql: SqlLedger, url: str, admin: sa.Engine
) -> None:
    name = url.rpartition("/")[2]
    with admin.connect() as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    end_session(admin, session_of(sql))
    with pytest.raises(LedgerUnavailable, match="read-only transaction") as refused:
        sql.commit([make_job(1)])
    assert "\n" not in str(refused.value)
    with admin.connect() as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {name} SET default_transaction_read_only = off")
    end_session(admin, session_of(sql))
    sql.commit([make_job(1)])


def test_a_wrong_password_is_told_in_one_line_without_it(url: str) -> None:
    wrong = sa.make_url(url).set(password="sesame")
    with pytest.raises(LedgerError, match="password authentication failed") as refused:
        SqlLedger(wrong.render_as_string(hide_password=False))
    assert "sesame" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_error_never_quotes_the_row(sql: SqlLedger) -> None:
    with sql._transaction() as connection:
        connection.exec_driver_sql("ALTER TABLE jobs ADD CHECK (priority < 5)")
    with pytest.raises(LedgerUnavailable) as refused:
        sql.commit([make_job(7, token="very-secret")])
    assert "very-secret" not in str(refused.value)
    assert "\n" not in str(refused.value)
