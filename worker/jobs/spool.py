"""What must survive the worker: accepted jobs, what was launched, results on their way. One SQLite file."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from pydantic import ValidationError

from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId
from edge_mqtt.broker_bridge.protocol.messages import Finished, JobSpec, WorkloadType
from edge_mqtt.worker.core.job import LocalJob, LocalJobState
from edge_mqtt.worker.errors import SpoolError

#: In order; the file's ``user_version`` counts those that are done.
MIGRATIONS: Final = (
    """
    CREATE TABLE jobs (
        sequence     INTEGER PRIMARY KEY AUTOINCREMENT,
        job_id       TEXT    NOT NULL UNIQUE,
        fence        INTEGER NOT NULL,
        state        TEXT    NOT NULL,
        spec         TEXT    NOT NULL,
        secret       TEXT    NOT NULL,
        log_base     INTEGER NOT NULL,
        result       TEXT,
        result_acked INTEGER NOT NULL,
        lease_s      REAL    NOT NULL,
        ships_log    INTEGER NOT NULL,
        launch       TEXT    NOT NULL
    ) STRICT;
    CREATE TABLE home (id TEXT NOT NULL) STRICT;
    INSERT INTO home VALUES (lower(hex(randomblob(16))));
    """,
)

_COLUMNS: Final = "job_id, fence, state, spec, secret, log_base, result, result_acked, lease_s, ships_log, launch"
_UPSERT: Final = f"""
    INSERT INTO jobs ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (job_id) DO UPDATE SET
        fence = excluded.fence, state = excluded.state, spec = excluded.spec, secret = excluded.secret,
        log_base = excluded.log_base, result = excluded.result, result_acked = excluded.result_acked,
        lease_s = excluded.lease_s, ships_log = excluded.ships_log, launch = excluded.launch
"""  # noqa: S608 -- the columns are a constant above


class Spool:
    """The open file: a table of jobs by id, and the id of the state folder.

    :meth:`open` comes first and :meth:`close` last. The methods may be called in any thread, by one at a time: the
    job store calls :meth:`load_jobs` once, before its loop has anything to do, and the rest from a thread of its own.
    When :meth:`store_job` or :meth:`delete_job` returns, the change is committed and synced to the disk. When it
    raises :class:`SpoolError`, there is no change: the disk is full, another program has locked the file for longer
    than 5 s, or what is in it is damaged.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    def open(cls, path: Path, migrations: Sequence[str] = MIGRATIONS) -> Self:
        """Open the spool at ``path``, creating it (mode 0600) or bringing it up to date.

        :param migrations: scripts in SQL, in order, each applied once.
        :raises SpoolError: it cannot be opened, is damaged or was written by a newer version.
        """
        with _translated(path):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                _migrate(connection, path, migrations)
            except BaseException:
                connection.close()
                raise
        return cls(connection)

    def load_jobs(self) -> list[LocalJob]:
        """Return the jobs in the order of their arrival."""
        with _translated(None):
            rows = self._connection.execute(f"SELECT {_COLUMNS} FROM jobs ORDER BY sequence").fetchall()  # noqa: S608 -- constant
            return [_job(row) for row in rows]

    def home(self) -> str:
        """Return what tells this state folder from any other; a copy of the folder has the same."""
        with _translated(None):
            ((home,),) = self._connection.execute("SELECT id FROM home").fetchall()
            return str(home)

    def store_job(self, job: LocalJob) -> None:
        """Store ``job`` in the place of what there is of it."""
        with _translated(None):
            self._connection.execute(_UPSERT, _row(job))

    def delete_job(self, job_id: JobId) -> None:
        """Delete a job."""
        with _translated(None):
            self._connection.execute("DELETE FROM jobs WHERE job_id = ?", (job_id,))

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def _migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[str]) -> None:
    done = connection.execute("PRAGMA user_version").fetchone()[0]
    if done > len(migrations):
        raise SpoolError(
            f"{path} was written by a newer edge-worker: upgrade this one, or give it another --state-dir"
        )
    for number, script in enumerate(migrations[done:], start=done + 1):
        connection.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT;")


def _row(job: LocalJob) -> tuple[object, ...]:
    return (
        job.job_id,
        job.fence,
        job.state.value,
        job.spec.model_dump_json(),
        job.secret,
        job.log_base,
        None if job.result is None else job.result.model_dump_json(),
        int(job.result_acked),
        job.lease_s,
        int(job.ships_log),
        job.launch,
    )


def _spec(text: str) -> JobSpec:
    facts = json.loads(text)
    return JobSpec.stored({**facts, "type": WorkloadType(facts["type"])})


def _job(row: tuple[str, int, str, str, str, int, str | None, int, float, int, str]) -> LocalJob:
    _, fence, state, spec, secret, log_base, result, result_acked, lease_s, ships_log, launch = row
    return LocalJob(
        spec=_spec(spec),
        fence=Fence(fence),
        state=LocalJobState(state),
        secret=secret,
        log_base=log_base,
        result=None if result is None else Finished.model_validate_json(result),
        result_acked=bool(result_acked),
        lease_s=lease_s,
        ships_log=bool(ships_log),
        launch=launch,
    )


@contextmanager
def _translated(path: Path | None) -> Iterator[None]:
    where = f"the spool {path}" if path else "the spool"
    try:
        yield
    except sqlite3.OperationalError as error:
        raise SpoolError(f"{where} cannot be written: {error}. Check the disk of --state-dir") from error
    except (sqlite3.Error, ValidationError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise SpoolError(f"{where} is damaged: {error}. Move the file away and start again") from error
    except OSError as error:
        raise SpoolError(f"{where} cannot be opened: {error.strerror}") from error
