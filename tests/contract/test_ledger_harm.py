"""What others do to the ledger's file, its disk and its content: told in one line, and nothing accepted is lost."""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.dispatch.ledger.interface import (
    LedgerBusy,
    LedgerCorrupt,
    LedgerFull,
    LedgerTaken,
    LedgerUnavailable,
)
from edge_mqtt.broker_bridge.dispatch.ledger.sql import SqlLedger
from edge_mqtt.broker_bridge.protocol.ids import Fence
from tests.support.ledger_contract import ids, make_job


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


def test_a_probe_fails_for_as_long_as_nothing_can_be_written(sql: SqlLedger, path: Path) -> None:
    with sql._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA query_only=ON")
    with pytest.raises(LedgerUnavailable, match="it can't be written"):
        sql.probe()
    with sql._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA query_only=OFF")
    written = path.with_name("ledger.db-wal").stat().st_size
    sql.probe()
    assert path.with_name("ledger.db-wal").stat().st_size > written


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


def test_a_reader_does_not_keep_a_commit_from_going_through(sql: SqlLedger, path: Path) -> None:
    stranger = sqlite3.connect(path, isolation_level=None)
    stranger.execute("BEGIN")
    assert stranger.execute("SELECT count(*) FROM jobs").fetchall() == [(0,)]
    sql.commit([make_job(1)])
    stranger.close()
    assert sql.load_live() == [make_job(1)]


def test_a_commit_waits_for_a_stranger_who_is_quick(sql: SqlLedger, path: Path) -> None:
    stranger = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    stranger.execute("BEGIN IMMEDIATE")
    commit = threading.Thread(target=sql.commit, args=([make_job(1)],))
    commit.start()
    commit.join(0.2)
    assert commit.is_alive()
    stranger.execute("ROLLBACK")
    stranger.close()
    commit.join()
    assert sql.load_live() == [make_job(1)]


def test_a_file_that_was_moved_away_takes_nothing_until_it_is_back(sql: SqlLedger, path: Path) -> None:
    sql.commit([make_job(1)])
    away = path.with_name("away.db")
    path.rename(away)
    with pytest.raises(LedgerUnavailable, match=r"is gone \(No such file or directory\): move it back") as refused:
        sql.commit([make_job(2)])
    assert refused.value.retryable
    assert "\n" not in str(refused.value)
    away.rename(path)
    sql.commit([make_job(2)])
    assert len(sql.load_live()) == 2


def test_a_file_that_was_replaced_ends_the_work_with_the_old_one(sql: SqlLedger, path: Path) -> None:
    sql.commit([make_job(1)])
    backup = path.with_name("backup.db")
    copy = sqlite3.connect(backup)
    with sqlite3.connect(path) as source:
        source.backup(copy)
    source.close()
    copy.close()
    sql.commit([make_job(2)])
    backup.replace(path)
    with pytest.raises(LedgerTaken, match="was replaced by another file: this edge-bridge has to stop") as refused:
        sql.commit([make_job(3)])
    assert not refused.value.retryable


def test_a_backup_that_is_written_over_the_ledger_ends_the_work_with_it(sql: SqlLedger, path: Path) -> None:
    sql.commit([make_job(1)])
    other = path.with_name("other.db")
    SqlLedger(f"sqlite:///{other}").close()
    with sqlite3.connect(other) as source, sqlite3.connect(path) as target:
        source.backup(target)
    source.close()
    target.close()
    with pytest.raises(LedgerTaken, match="was taken by another edge-bridge, or replaced by a backup"):
        sql.commit([make_job(2)])
    with pytest.raises(LedgerTaken):
        sql.purge(0.0)


def test_a_bridge_whose_lock_was_deleted_stops_when_another_has_opened_its_ledger(sql: SqlLedger, path: Path) -> None:
    path.with_name("ledger.db.lock").unlink()
    second = SqlLedger(f"sqlite:///{path}")
    with pytest.raises(LedgerTaken):
        sql.commit([make_job(1)])
    second.commit([make_job(2)])
    assert ids(second.load_live()) == ["job-2"]
    second.close()


def test_a_row_that_makes_no_sense_is_told_as_damage(sql: SqlLedger) -> None:
    sql.commit([make_job(1)])
    with sql._transaction() as connection:
        connection.exec_driver_sql("UPDATE jobs SET workload = '{\"ti\": '")
    with pytest.raises(LedgerCorrupt, match="job job-1 can't be read: restore the ledger from a backup"):
        sql.load_live()


def test_a_damaged_page_is_told_as_damage(path: Path) -> None:
    ledger = SqlLedger(f"sqlite:///{path}")
    ledger.commit([make_job(number) for number in range(500)])
    ledger.close()
    damaged = bytearray(path.read_bytes())
    middle = len(damaged) // 2
    damaged[middle : middle + 65_536] = b"\xa5" * 65_536
    path.write_bytes(damaged)
    reopened = SqlLedger(f"sqlite:///{path}")
    with pytest.raises(LedgerCorrupt, match="damaged or not a ledger: restore it from a backup"):
        reopened.load_live()
    reopened.close()


def test_a_disk_that_became_read_only_is_told_in_one_line(sql: SqlLedger) -> None:
    with sql._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA query_only=ON")
    with pytest.raises(LedgerUnavailable, match="it can't be written: check the owner of the file") as refused:
        sql.commit([make_job(1)])
    assert refused.value.retryable
    with sql._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA query_only=OFF")
    sql.commit([make_job(1)])


def test_a_file_that_is_no_ledger_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"certainly not a database" * 100)
    with pytest.raises(LedgerCorrupt, match="damaged or not a ledger") as refused:
        SqlLedger(f"sqlite:///{path}")
    assert not refused.value.retryable
