"""How changed jobs are written: whole rows by an upsert, and on SQLite no more of a known job than what changes.

SQLite is given SQLAlchemy's statements past SQLAlchemy's handling of parameters, which costs twice what SQLite itself
takes, and all of it with the interpreter's lock held, for which the event loop waits. PostgreSQL's driver sends many
rows at once only when SQLAlchemy puts them together, and tells of many updates only how many rows the last one found.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job
from edge_mqtt.broker_bridge.dispatch.ledger.schema import JOBS, WRITTEN_ONCE

_INSERTS: Final[Mapping[str, Callable[[sa.Table], Any]]] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
}
#: Columns that an update may change. When a job ended is written once too.
_CHANGING: Final = tuple(
    column.name for column in JOBS.columns if column.name not in WRITTEN_ONCE and column.name != "finished_at"
)

Row = dict[str, object]


class UpsertWriter:
    """Writes whole rows, and lets SQLAlchemy send them."""

    def __init__(self, dialect: str) -> None:
        self._statement = upsert(dialect)

    def write(self, connection: sa.Connection, jobs: Sequence[Job], now: float) -> None:
        """Store ``jobs``, each at most once, as they are at ``now`` (Unix seconds)."""
        connection.execute(self._statement, [whole_row(job, now) for job in jobs])


class SqliteWriter:
    """Writes whole rows of jobs that may be new, and of the others what changes."""

    def __init__(self) -> None:
        self._upsert = _Compiled(upsert("sqlite"))
        self._update = _Compiled(_update())

    def write(self, connection: sa.Connection, jobs: Sequence[Job], now: float) -> None:
        """Store ``jobs``, each at most once, as they are at ``now`` (Unix seconds)."""
        whole = [job for job in jobs if _may_be_new(job)]
        known = [job for job in jobs if not _may_be_new(job)]
        if known and self._update.execute(connection, [_changing_row(job, now) for job in known]) < len(known):
            # Purged meanwhile, or here for the first time: what is not there is not updated.
            whole += known
        if whole:
            self._upsert.execute(connection, [whole_row(job, now) for job in whole])


def writer(dialect: str) -> UpsertWriter | SqliteWriter:
    """Return what writes to a database of this kind."""
    return SqliteWriter() if dialect == "sqlite" else UpsertWriter(dialect)


class _Compiled:
    """A statement of SQLAlchemy's that its driver is given as text and tuples."""

    def __init__(self, statement: Any) -> None:
        compiled = statement.compile(dialect=sqlite.dialect())
        self._text = str(compiled)
        self._values = itemgetter(*compiled.positiontup)

    def execute(self, connection: sa.Connection, rows: Sequence[Row]) -> int:
        """Execute it for each of some rows; return how many rows it has touched."""
        return connection.exec_driver_sql(self._text, [self._values(row) for row in rows]).rowcount


def _may_be_new(job: Job) -> bool:
    return job.state is CentralJobState.QUEUED or (job.state is CentralJobState.ASSIGNED and not job.accepted)


def upsert(dialect: str) -> Any:
    """Return the statement that inserts a row, or updates what may change of it."""
    insert = _INSERTS[dialect](JOBS)
    news = {name: insert.excluded[name] for name in _CHANGING}
    first_end = sa.func.coalesce(JOBS.c.finished_at, insert.excluded.finished_at)
    return insert.on_conflict_do_update(index_elements=[JOBS.c.job_id], set_={**news, "finished_at": first_end})


def _update() -> sa.Update:
    first_end = sa.func.coalesce(JOBS.c.finished_at, sa.bindparam("finished_at", type_=sa.Double))
    values = {name: sa.bindparam(name, type_=JOBS.c[name].type) for name in _CHANGING}
    return sa.update(JOBS).where(JOBS.c.job_id == sa.bindparam("job_id")).values({**values, "finished_at": first_end})


def whole_row(job: Job, now: float) -> Row:
    """Return a job's row as it is written at ``now`` (Unix seconds)."""
    spec = job.spec
    row: Row = {
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
        "lease_s": job.lease_s,
        "ships_log": job.ships_log,
        "created_at": now,
    }
    return {**row, **_changing_row(job, now)}


def _changing_row(job: Job, now: float) -> Row:
    finished = job.state is CentralJobState.FINISHED
    return {
        "job_id": job.id,
        "executor": job.executor,
        "token": job.token,
        "forwarded": job.forwarded,
        "state": job.state.value,
        "fence": job.fence,
        "worker": job.worker,
        "home": job.home,
        "accepted": job.accepted,
        "starter": job.starter,
        "outcome": None if job.outcome is None else job.outcome.value,
        "detail": job.detail,
        "told": job.told,
        "event_acked": job.event_acked,
        "cancel_reason": job.cancel_reason,
        "log_base": job.log_base,
        "log_kept": job.log_kept,
        "log_left": job.log_left,
        "log_size": job.log_size,
        "live": not (finished and job.event_acked),
        "updated_at": now,
        "finished_at": now if finished else None,
    }
