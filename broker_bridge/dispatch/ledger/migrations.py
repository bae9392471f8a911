"""How the ledger's tables come to be and change: an ordered list that is only ever added to.

Each migration is plain SQL that SQLite and PostgreSQL both understand, and runs in one transaction with the others.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from edge_mqtt.broker_bridge.dispatch.ledger.interface import LedgerTooNew
from edge_mqtt.broker_bridge.dispatch.ledger.schema import SCHEMA_VERSION

_JOBS: Final = """
CREATE TABLE jobs (
    job_id TEXT PRIMARY KEY,
    sequence BIGINT NOT NULL,
    type TEXT NOT NULL,
    queue TEXT NOT NULL,
    priority BIGINT NOT NULL,
    slots INTEGER NOT NULL,
    dag_id TEXT NOT NULL,
    run_id TEXT NOT NULL,
    task_id TEXT NOT NULL,
    map_index INTEGER NOT NULL,
    try_number INTEGER NOT NULL,
    log_path TEXT,
    workload TEXT NOT NULL,
    lease_s DOUBLE PRECISION NOT NULL,
    ships_log BOOLEAN NOT NULL,
    executor TEXT NOT NULL,
    token TEXT,
    state TEXT NOT NULL,
    fence BIGINT NOT NULL,
    worker TEXT,
    home TEXT NOT NULL,
    accepted BOOLEAN NOT NULL,
    starter TEXT,
    outcome TEXT,
    detail TEXT NOT NULL,
    event_acked BOOLEAN NOT NULL,
    cancel_reason TEXT,
    log_base BIGINT,
    log_size BIGINT,
    live BOOLEAN NOT NULL,
    created_at DOUBLE PRECISION NOT NULL,
    updated_at DOUBLE PRECISION NOT NULL,
    finished_at DOUBLE PRECISION
)
"""

#: Where the log begins that goes on behind a job's in one file.
_NEXT_BASE: Final = """
SELECT MIN(later.log_base) FROM jobs AS later
WHERE later.log_path = jobs.log_path AND later.sequence > jobs.sequence
"""

_LEAVE_LOGS: Final = f"""
UPDATE jobs SET log_left = TRUE, log_kept = ({_NEXT_BASE}) - log_base
WHERE log_base IS NOT NULL AND ({_NEXT_BASE}) IS NOT NULL
"""  # noqa: S608 -- a constant of our own

_JOBS_UNSTARTED: Final = """
CREATE INDEX jobs_unstarted ON jobs (sequence)
WHERE outcome = 'failed' AND starter IS NULL AND log_base IS NULL
"""

#: The statements of migration 1, 2, and so on.
MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        _JOBS,
        # Partial, as the last one: what a start looks at is little among all the finished jobs that are kept.
        "CREATE INDEX jobs_live ON jobs (sequence) WHERE live",
        "CREATE INDEX jobs_sequence ON jobs (sequence)",
        "CREATE INDEX jobs_dag ON jobs (dag_id, sequence)",
        "CREATE INDEX jobs_log_path ON jobs (log_path, sequence)",
        "CREATE INDEX jobs_finished_at ON jobs (finished_at)",
        # Behind jobs_sequence: of two indexes that seem as good, SQLite takes the later one.
        "CREATE INDEX jobs_without_notice ON jobs (sequence) WHERE NOT ships_log AND log_base IS NULL",
        "CREATE TABLE holder (bridge TEXT NOT NULL)",
    ),
    # The latest call that may not simply be made twice.
    ("ALTER TABLE jobs ADD COLUMN forwarded TEXT",),
    # What a task has told Airflow last: of those that run when this is added it is not known.
    ("ALTER TABLE jobs ADD COLUMN told TEXT NOT NULL DEFAULT ''",),
    (
        "ALTER TABLE jobs ADD COLUMN log_kept BIGINT NOT NULL DEFAULT 0",
        "ALTER TABLE jobs ADD COLUMN log_left BOOLEAN NOT NULL DEFAULT FALSE",
        _LEAVE_LOGS,
    ),
    # Jobs that failed before they began, and of which no line in the central file says why.
    (_JOBS_UNSTARTED,),
)


def migrate(connection: sa.Connection, migrations: tuple[tuple[str, ...], ...] = MIGRATIONS) -> int:
    """Bring the ledger to this program's version; return how many migrations that took.

    :raises LedgerTooNew: a newer program has been here.
    """
    SCHEMA_VERSION.create(connection, checkfirst=True)
    done = connection.execute(sa.select(SCHEMA_VERSION.c.version)).scalar()
    if done is None:
        connection.execute(sa.insert(SCHEMA_VERSION).values(version=0))
        done = 0
    if done > len(migrations):
        raise LedgerTooNew(
            f"the ledger has schema version {done}, this program knows {len(migrations)}: "
            "start the newer edge-bridge again, or give this one a ledger of its own (ledger_url)"
        )
    for statements in migrations[done:]:
        for statement in statements:
            connection.execute(sa.text(statement))
    connection.execute(sa.update(SCHEMA_VERSION).values(version=len(migrations)))
    return len(migrations) - done
