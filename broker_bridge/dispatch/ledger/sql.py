"""The ledger in a SQL database: SQLite in a file by default, PostgreSQL by URL. One bridge at a time may have it."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import SQLAlchemyError

from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job
from edge_mqtt.broker_bridge.dispatch.ledger.engine import WRITES, make_engine, parse_url
from edge_mqtt.broker_bridge.dispatch.ledger.error_translation import translated
from edge_mqtt.broker_bridge.dispatch.ledger.file_lock import LedgerFile
from edge_mqtt.broker_bridge.dispatch.ledger.interface import (
    NONE,
    LedgerBusy,
    LedgerCorrupt,
    LedgerError,
    LedgerTaken,
)
from edge_mqtt.broker_bridge.dispatch.ledger.migrations import migrate
from edge_mqtt.broker_bridge.dispatch.ledger.row_writers import writer
from edge_mqtt.broker_bridge.dispatch.ledger.schema import HOLDER, JOBS
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, Fence, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import JobSpec, LogSelector, Outcome, WorkloadType

#: Ids, or paths with an id each, in one query: below SQLite's limit on variables, however it was built.
VALUES_PER_QUERY: Final = 400

#: Seconds to wait for another process that only looks at the database, such as a backup.
BUSY_TIMEOUT_S: Final = 5.0
#: Conditions of partial indexes, word for word as in ``ledger_migrations``: only then does SQLite use the indexes.
_LIVE: Final = sa.text("live")
_WITHOUT_NOTICE: Final = sa.text("NOT ships_log AND log_base IS NULL")
_UNSTARTED: Final = sa.text("outcome = 'failed' AND starter IS NULL AND log_base IS NULL")
#: Who has the ledger, in SQL that every database understands.
_HOLDER: Final = str(sa.select(HOLDER.c.bridge))


class SqlLedger:
    """Fills the :class:`~edge_mqtt.broker_bridge.dispatch.ledger.interface.Ledger` port through SQLAlchemy Core."""

    def __init__(
        self, url: str, clock: Callable[[], float] = time.time, *, busy_timeout_s: float = BUSY_TIMEOUT_S
    ) -> None:
        """Open the ledger, and create or migrate it when need be.

        :param url: SQLAlchemy URL, such as ``sqlite:////var/lib/edge/ledger.db``.
        :param clock: gives Unix time in seconds, for the rows' time stamps.
        :param busy_timeout_s: seconds to wait for another process that only looks at the database.
        :raises LedgerError: it cannot be opened, is in use, is damaged or belongs to a newer program.
        """
        self._clock = clock
        self._bridge = uuid.uuid4().hex
        self._opened = False
        parsed = parse_url(url)
        self._where = parsed.render_as_string(hide_password=True)
        self._engine = make_engine(parsed, self._refused, busy_timeout_s=busy_timeout_s)
        self._writer = self._engine.execution_options(**{WRITES: True})
        self._rows = writer(self._engine.dialect.name)
        self._file = LedgerFile.claim(parsed.database) if self._engine.dialect.name == "sqlite" else None
        try:
            with self._transaction(self._writer) as connection:
                migrate(connection)
                self._hold(connection)
        except LedgerError:
            self.close()
            raise
        self._opened = True

    def load_live(self) -> list[Job]:
        """Return the jobs that are not over, in order of arrival."""
        return self._jobs(sa.select(JOBS).where(_LIVE).order_by(JOBS.c.sequence))

    def commit(self, jobs: Sequence[Job]) -> None:
        """Store ``jobs`` in one transaction."""
        self.add(jobs, ())

    def add(self, jobs: Sequence[Job], new: Collection[JobId]) -> list[Job]:
        """Store ``jobs`` in one transaction; when some of ``new`` are known, store nothing and return those."""
        newest = {job.id: job for job in jobs}
        if not newest:
            return []
        now = self._clock()
        with self._writing() as connection:
            known = self._known(connection, new)
            if not known:
                self._rows.write(connection, list(newest.values()), now)
        return known

    def probe(self) -> None:
        """Write, and change nothing."""
        with self._writing() as connection:
            self._hold(connection)

    def get(self, job_ids: Iterable[JobId]) -> list[Job]:
        """Return those of ``job_ids`` that are known."""
        with self._transaction() as connection:
            return self._known(connection, job_ids)

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

    def find_of_logs(self, log_paths: Collection[str], but: Mapping[str, JobId] = NONE) -> list[Job]:
        """Return the jobs that write to one of some log files, without those of ``but``, in order of arrival."""
        found: list[Job] = []
        with self._transaction() as connection:
            for paths in _portions(log_paths):
                query = sa.select(JOBS).where(JOBS.c.log_path.in_(paths))
                left_out = [but[path] for path in paths if path in but]
                found += self._read(connection, query.where(JOBS.c.job_id.not_in(left_out)) if left_out else query)
        return sorted(found, key=lambda job: job.sequence)

    def without_notice(self) -> list[JobId]:
        """Return the jobs of whose log the central file is to have a line, and does not have it yet."""
        begun = sa.and_(JOBS.c.starter.is_not(None), JOBS.c.log_path.is_not(None))
        without_log = sa.and_(JOBS.c.log_path.is_not(None), sa.func.coalesce(JOBS.c.log_size, 0) == 0)
        columns = sa.select(JOBS.c.job_id, JOBS.c.sequence).order_by(JOBS.c.sequence)
        with self._transaction() as connection:
            kept = connection.execute(columns.where(_WITHOUT_NOTICE, begun)).all()
            failed = connection.execute(columns.where(_UNSTARTED, without_log)).all()
        return [JobId(job_id) for job_id, _ in sorted((*kept, *failed), key=lambda row: row.sequence)]

    def unacknowledged(self, finished_before: float) -> list[JobId]:
        """Return the jobs that ended before ``finished_before`` and whose end was not acknowledged."""
        query = sa.select(JOBS.c.job_id).where(JOBS.c.live, JOBS.c.finished_at < finished_before)
        with self._transaction() as connection:
            return [JobId(job_id) for job_id in connection.execute(query).scalars()]

    def purge(self, finished_before: float) -> int:
        """Forget the jobs that are over since before ``finished_before``."""
        over = sa.and_(sa.not_(JOBS.c.live), JOBS.c.finished_at < finished_before)
        with self._writing() as connection:
            return connection.execute(sa.delete(JOBS).where(over)).rowcount

    def max_sequence(self) -> int:
        """Return the highest sequence stored, 0 for none."""
        with self._transaction() as connection:
            return connection.execute(sa.select(sa.func.max(JOBS.c.sequence))).scalar() or 0

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()
        if self._file is not None:
            self._file.release()

    def _hold(self, connection: sa.Connection) -> None:
        # Not an update: SQLite writes nothing when the row stays as it is.
        connection.execute(sa.delete(HOLDER))
        connection.execute(sa.insert(HOLDER).values(bridge=self._bridge))

    def _known(self, connection: sa.Connection, job_ids: Iterable[JobId]) -> list[Job]:
        found: list[Job] = []
        for some in _portions(job_ids):
            found += self._read(connection, sa.select(JOBS).where(JOBS.c.job_id.in_(some)))
        return found

    def _jobs(self, query: sa.Select[Any]) -> list[Job]:
        with self._transaction() as connection:
            return self._read(connection, query)

    def _read(self, connection: sa.Connection, query: sa.Select[Any]) -> list[Job]:
        return [self._job(row) for row in connection.execute(query).mappings()]

    def _job(self, row: sa.RowMapping) -> Job:
        try:
            return _job(row)
        except ValueError as error:
            raise LedgerCorrupt(
                f"ledger {self._where}: job {row['job_id']} can't be read: restore the ledger from a backup, "
                "or begin a new one"
            ) from error

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        if self._file is not None:
            self._file.check()
        with self._transaction(self._writer) as connection:
            if connection.exec_driver_sql(_HOLDER).scalar() != self._bridge:
                raise self._taken()
            yield connection

    @contextmanager
    def _transaction(self, engine: sa.Engine | None = None) -> Iterator[sa.Connection]:
        try:
            with (engine or self._engine).begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise translated(error, self._where) from error

    def _refused(self, connection: DBAPIConnection) -> LedgerError:
        """Return what it means that another session holds the lock: our own former one perhaps, when we had it."""
        if self._opened:
            cursor = connection.cursor()
            cursor.execute(_HOLDER)
            if cursor.fetchone() != (self._bridge,):
                return self._taken()
        return LedgerBusy(
            f"ledger {self._where} is in use by another edge-bridge: end that one, or set another ledger_url"
        )

    def _taken(self) -> LedgerTaken:
        return LedgerTaken(
            f"ledger {self._where} was taken by another edge-bridge, or replaced by a backup: "
            "this edge-bridge has to stop, the next start goes on with what the ledger has then"
        )


def _portions(values: Iterable[str]) -> Iterator[list[str]]:
    each = list(dict.fromkeys(values))
    for start in range(0, len(each), VALUES_PER_QUERY):
        yield each[start : start + VALUES_PER_QUERY]


def _workload(text: str) -> object:
    try:
        return json.loads(text)
    except RecursionError:
        # Of an earlier version: such a job cannot be sent, and fails.
        return None


def _job(row: sa.RowMapping) -> Job:
    facts = {name: row[name] for name in JobSpec.model_fields}
    facts.update(type=WorkloadType(row["type"]), workload=_workload(row["workload"]))
    spec = JobSpec.stored(facts)
    return Job(
        spec=spec,
        executor=ExecutorName(row["executor"]),
        lease_s=row["lease_s"],
        ships_log=row["ships_log"],
        token=row["token"],
        forwarded=row["forwarded"],
        state=CentralJobState(row["state"]),
        fence=Fence(row["fence"]),
        worker=None if row["worker"] is None else WorkerName(row["worker"]),
        home=row["home"],
        accepted=row["accepted"],
        starter=row["starter"],
        sequence=row["sequence"],
        outcome=None if row["outcome"] is None else Outcome(row["outcome"]),
        detail=row["detail"],
        told=row["told"],
        event_acked=row["event_acked"],
        cancel_reason=row["cancel_reason"],
        log_base=row["log_base"],
        log_kept=row["log_kept"],
        log_left=row["log_left"],
        log_size=row["log_size"],
    )
