"""The spool, on real files."""

from __future__ import annotations

import sqlite3
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId
from edge_mqtt.broker_bridge.protocol.messages import Finished, JobSpec, WorkloadType
from edge_mqtt.worker.core.job import LocalJob, LocalJobState
from edge_mqtt.worker.errors import SpoolError
from edge_mqtt.worker.jobs.spool import MIGRATIONS, Spool


def job(job_id: str, **fields: object) -> LocalJob:
    spec = JobSpec(job_id=JobId(job_id), type=WorkloadType.TASK, queue="q/1", workload={"ti": {"id": job_id}})
    return LocalJob(spec=spec, fence=Fence(1), lease_s=60.0, **fields)  # type: ignore[arg-type]  # real fields


def test_stored_jobs_come_back_in_the_order_of_their_arrival(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path / "spool.db")
    for name in ("b", "a", "c"):
        spool.store_job(job(name))
    launched = job("b").moved_to(LocalJobState.LAUNCHED, secret="s", launch="0a1b", log_base=12)
    result = Finished(job_id=JobId("b"), fence=Fence(1), signal=9, log_size=3)
    done = launched.moved_to(LocalJobState.FINISHED, result=result, result_acked=True)
    spool.store_job(done)
    spool.delete_job(JobId("a"))
    kept_here = job("d", ships_log=False)
    spool.store_job(kept_here)
    spool.close()
    again = Spool.open(tmp_path / "spool.db")
    assert again.load_jobs() == [done, job("c"), kept_here]
    again.close()


def test_spool_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path / "spool.db")
    spool.store_job(job("a"))
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    spool.close()


def test_commits_are_synced_to_the_disk(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path / "spool.db")
    assert spool._connection.execute("PRAGMA synchronous").fetchone()[0] == 2
    assert spool._connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    spool.close()


def test_spool_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    Spool.open(path).close()
    raw = sqlite3.connect(path)
    raw.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    raw.close()
    with pytest.raises(SpoolError, match="newer edge-worker"):
        Spool.open(path)


LATER = (*MIGRATIONS, "ALTER TABLE jobs ADD COLUMN colour TEXT; UPDATE jobs SET colour = 'red';")


def test_spool_of_an_older_version_is_brought_up_to_date_once(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    older = Spool.open(path)
    older.store_job(job("a"))
    home = older.home()
    older.close()
    for _ in range(2):
        spool = Spool.open(path, LATER)
        assert spool.load_jobs() == [job("a")]
        assert spool.home() == home
        assert spool._connection.execute("SELECT colour FROM jobs").fetchall() == [("red",)]
        assert spool._connection.execute("PRAGMA user_version").fetchone() == (len(LATER),)
        spool.close()


def test_migration_that_fails_leaves_the_spool_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    older = Spool.open(path)
    older.store_job(job("a"))
    older.close()
    with pytest.raises(SpoolError):
        Spool.open(path, (*LATER, "ALTER TABLE jobs ADD COLUMN size TEXT; no such statement;"))
    spool = Spool.open(path, LATER)
    assert spool.load_jobs() == [job("a")]
    spool.close()


def test_a_state_folder_has_a_name_that_no_other_has_and_keeps_it(tmp_path: Path) -> None:
    homes = []
    for name in ("a.db", "a.db", "b.db"):
        spool = Spool.open(tmp_path / name)
        homes.append(spool.home())
        spool.close()
    first, again, other = homes
    assert first == again != other
    assert len(first) == 32


def test_damaged_spool_is_said_to_be_damaged(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(SpoolError, match="damaged"):
        Spool.open(path)


def test_a_job_from_before_the_wire_had_bounds_is_there_again(tmp_path: Path) -> None:
    deep: dict[str, object] = {}
    for _ in range(150):
        deep = {"x": deep}
    before = job("a")
    before = replace(before, spec=JobSpec.stored(dict(before.spec, workload={"ti": deep}, dag_id="d" * 600)))
    spool = Spool.open(tmp_path / "spool.db")
    spool.store_job(before)
    assert spool.load_jobs() == [before]
    spool.close()


def test_row_that_cannot_be_read_is_said_to_be_damage(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path / "spool.db")
    spool.store_job(job("a"))
    spool._connection.execute("UPDATE jobs SET spec = '{}'")
    with pytest.raises(SpoolError, match="damaged"):
        spool.load_jobs()
    spool.close()


def test_spool_in_a_folder_that_is_not_there_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(SpoolError, match=r"none/spool\.db cannot be opened"):
        Spool.open(tmp_path / "none" / "spool.db")


def test_full_disk_is_said_to_be_the_disks_trouble(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path / "spool.db")
    spool.store_job(job("a"))
    pages = spool._connection.execute("PRAGMA page_count").fetchone()[0]
    spool._connection.execute(f"PRAGMA max_page_count = {pages}")
    big = LocalJob(
        spec=JobSpec(job_id=JobId("b"), type=WorkloadType.TASK, queue="q", workload={"x": "y" * 100_000}),
        fence=Fence(1),
        lease_s=60.0,
    )
    with pytest.raises(SpoolError, match="cannot be written: database or disk is full"):
        spool.store_job(big)
    assert [kept.job_id for kept in spool.load_jobs()] == ["a"]
    spool.close()
