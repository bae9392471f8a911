"""The ledger in a SQL database: SQLite in a file by default, PostgreSQL by URL.

SQLite runs in WAL mode with ``synchronous=FULL``: a commit is on the disk when it returns
(https://www.sqlite.org/pragma.html#pragma_synchronous). One bridge at a time may have the file.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from edge_mqtt.broker_bridge.dispatch.core.model import Job, JobState
from edge_mqtt.broker_bridge.dispatch.ledger import LedgerError, LedgerUnavailable
from edge_mqtt.broker_bridge.dispatch.ledger_errors import translated
from edge_mqtt.broker_bridge.dispatch.ledger_file import LedgerFile
from edge_mqtt.broker_bridge.dispatch.ledger_migrations import migrate
from edge_mqtt.broker_bridge.dispatch.ledger_schema import JOBS, WRITTEN_ONCE
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, Fence, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import JobSpec, LogSelector, Outcome, WorkloadType

#: Seconds to wait for somebody who only looks at the file, such as a backup.
BUSY_TIMEOUT_S: Final = 5.0
#: Ids in one query: below SQLite's limit on variables, however it was built.
IDS_PER_QUERY: Final = 500

_INSERTS: Final[Mapping[str, Callable[[sa.Table], Any]]] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
}


class SqlLedger:
    """Fills the :class:`~edge_mqtt.broker_bridge.dispatch.ledger.Ledger` port through SQLAlchemy Core."""

    def __init__(self, url: str, clock: Callable[[], float] = time.time) -> None:
        """Open the ledger, and create or migrate it when need be.

        :param url: SQLAlchemy URL, such as ``sqlite:////var/lib/edge/ledger.db``.
        :param clock: gives Unix time in seconds, for the rows' time stamps.
        :raises LedgerError: it cannot be opened, is in use, is damaged or belongs to a newer program.
        """
        self._clock = clock
        parsed = _parse(url)
        self._where = parsed.render_as_string(hide_password=True)
        self._file = LedgerFile.claim(parsed.database) if parsed.get_backend_name() == "sqlite" else None
        try:
            self._engine = _engine(parsed)
        except LedgerUnavailable:
            self._release()
            raise
        self._upsert = _upsert(self._engine.dialect.name)
        try:
            with self._transaction() as connection:
                migrate(connection)
        except LedgerError:
            self.close()
            raise

    def load_live(self) -> list[Job]:
        """Return the jobs that are not over, in order of arrival."""
        return self._jobs(sa.select(JOBS).where(JOBS.c.live).order_by(JOBS.c.sequence))

    def commit(self, changes: Sequence[Job]) -> None:
        """Store ``changes`` in one transaction."""
        newest = {job.id: job for job in changes}
        if not newest:
            return
        now = self._clock()
        rows = [_row(job, now) for job in newest.values()]
        with self._transaction() as connection:
            connection.execute(self._upsert, rows)

    def get(self, job_ids: Iterable[JobId]) -> list[Job]:
        """Return those of ``job_ids`` that are known."""
        wanted = list(dict.fromkeys(job_ids))
        found: list[Job] = []
        for start in range(0, len(wanted), IDS_PER_QUERY):
            some = wanted[start : start + IDS_PER_QUERY]
            found += self._jobs(sa.select(JOBS).where(JOBS.c.job_id.in_(some)))
        return found

    def find(self, selector: LogSelector, limit: int) -> list[Job]:
        """Return at most ``limit`` jobs that match, newest first."""
        query = sa.select(JOBS).order_by(JOBS.c.sequence.desc()).limit(limit)
        for field, value in selector.model_dump(exclude_none=True).items():
            query = query.where(JOBS.c[field] == value)
        return self._jobs(query)

    def newest_run(self, dag_id: str) -> str | None:
        """Return the run of ``dag_id`` whose job came last."""
        query = sa.select(JOBS.c.run_id).where(JOBS.c.dag_id == dag_id).order_by(JOBS.c.sequence.desc())
        with self._transaction() as connection:
            run_id: str | None = connection.execute(query.limit(1)).scalar()
        return run_id

    def same_log(self, log_path: str) -> list[Job]:
        """Return the jobs that write to one log file, in order of arrival."""
        return self._jobs(sa.select(JOBS).where(JOBS.c.log_path == log_path).order_by(JOBS.c.sequence))

    def purge(self, finished_before: float) -> int:
        """Forget the jobs that are over since before ``finished_before``."""
        over = sa.and_(sa.not_(JOBS.c.live), JOBS.c.finished_at < finished_before)
        with self._transaction() as connection:
            return connection.execute(sa.delete(JOBS).where(over)).rowcount

    def max_sequence(self) -> int:
        """Return the highest sequence stored, 0 for none."""
        with self._transaction() as connection:
            return connection.execute(sa.select(sa.func.max(JOBS.c.sequence))).scalar() or 0

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()
        self._release()

    def _release(self) -> None:
        if self._file is not None:
            self._file.release()

    def _jobs(self, query: sa.Select[Any]) -> list[Job]:
        with self._transaction() as connection:
            return [_job(row) for row in connection.execute(query).mappings()]

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise translated(error, self._where) from error


def open_ledger(url: str, clock: Callable[[], float] = time.time) -> SqlLedger:
    """Open the ledger at ``url`` as :class:`SqlLedger` does; its errors are one line each."""
    return SqlLedger(url, clock)


def _parse(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
    except ArgumentError:
        raise LedgerUnavailable(
            "ledger_url is not a database URL: use sqlite:////path/to/ledger.db or postgresql://user@host/database"
        ) from None
    if parsed.get_backend_name() not in _INSERTS:
        raise LedgerUnavailable(f"ledger_url: {parsed.get_backend_name()} is not supported: use sqlite or postgresql")
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise LedgerUnavailable("ledger_url names no file: a ledger in memory would lose every job with the process")
    return parsed


def _engine(url: sa.URL) -> sa.Engine:
    try:
        if url.get_backend_name() != "sqlite":
            return sa.create_engine(url, pool_pre_ping=True)
        engine = sa.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise LedgerUnavailable(f"ledger_url needs a database driver that is not installed: {error}") from error
    sa.event.listen(engine, "connect", _prepare)
    sa.event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: sqlite3.Connection, _record: object) -> None:
    # Python's own transaction handling leaves schema changes outside of transactions: _begin does it.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    # A finished job's token is overwritten, not just unlinked.
    connection.execute("PRAGMA secure_delete=ON")


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _upsert(dialect: str) -> Any:
    insert = _INSERTS[dialect](JOBS)
    news = {
        column.name: insert.excluded[column.name]
        for column in JOBS.columns
        if column.name not in WRITTEN_ONCE and column.name != "finished_at"
    }
    first_end = sa.func.coalesce(JOBS.c.finished_at, insert.excluded.finished_at)
    return insert.on_conflict_do_update(index_elements=[JOBS.c.job_id], set_={**news, "finished_at": first_end})


def _row(job: Job, now: float) -> dict[str, object]:
    spec = job.spec
    finished = job.state is JobState.FINISHED
    return {
        "job_id": spec.job_id,
        "sequence": job.sequence,
        "type": spec.type.value,
        "queue": spec.queue,
        "priority": spec.priority,
        "slots": spec.slots,
        "dag_id": spec.dag_id,
        "run_id": spec.run_id,
        "task_id": spec.task_id,
        "map_index": spec.map_index,
        "try_number": spec.try_number,
        "log_path": spec.log_path,
        "workload": json.dumps(spec.workload, separators=(",", ":")),
        "executor": job.executor,
        "token": job.token,
        "state": job.state.value,
        "fence": job.fence,
        "worker": job.worker,
        "accepted": job.accepted,
        "starter": job.starter,
        "outcome": None if job.outcome is None else job.outcome.value,
        "detail": job.detail,
        "event_acked": job.event_acked,
        "cancel_reason": job.cancel_reason,
        "log_base": job.log_base,
        "log_size": job.log_size,
        "live": not (finished and job.event_acked),
        "created_at": now,
        "updated_at": now,
        "finished_at": now if finished else None,
    }


def _job(row: sa.RowMapping) -> Job:
    spec = JobSpec(
        job_id=JobId(row["job_id"]),
        type=WorkloadType(row["type"]),
        queue=row["queue"],
        priority=row["priority"],
        slots=row["slots"],
        dag_id=row["dag_id"],
        run_id=row["run_id"],
        task_id=row["task_id"],
        map_index=row["map_index"],
        try_number=row["try_number"],
        log_path=row["log_path"],
        workload=json.loads(row["workload"]),
    )
    return Job(
        spec=spec,
        executor=ExecutorName(row["executor"]),
        token=row["token"],
        state=JobState(row["state"]),
        fence=Fence(row["fence"]),
        worker=None if row["worker"] is None else WorkerName(row["worker"]),
        accepted=row["accepted"],
        starter=row["starter"],
        sequence=row["sequence"],
        outcome=None if row["outcome"] is None else Outcome(row["outcome"]),
        detail=row["detail"],
        event_acked=row["event_acked"],
        cancel_reason=row["cancel_reason"],
        log_base=row["log_base"],
        log_size=row["log_size"],
    )
