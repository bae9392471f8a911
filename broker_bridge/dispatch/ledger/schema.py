"""The ledger's tables as this version of the program uses them. How they come to be is in ``ledger_migrations``."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

METADATA: Final = sa.MetaData()

#: One row for every job that was accepted and not purged.
JOBS: Final = sa.Table(
    "jobs",
    METADATA,
    sa.Column("job_id", sa.Text, primary_key=True),
    # What the job is: written once.
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("queue", sa.Text, nullable=False),
    sa.Column("priority", sa.BigInteger, nullable=False),
    sa.Column("slots", sa.Integer, nullable=False),
    sa.Column("dag_id", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("task_id", sa.Text, nullable=False),
    sa.Column("map_index", sa.Integer, nullable=False),
    sa.Column("try_number", sa.Integer, nullable=False),
    sa.Column("log_path", sa.Text),
    sa.Column("workload", sa.Text, nullable=False),
    # Seconds from the worker's last contact until the running job is given up.
    sa.Column("lease_s", sa.Double, nullable=False),
    sa.Column("ships_log", sa.Boolean, nullable=False),
    # What becomes of it.
    sa.Column("executor", sa.Text, nullable=False),
    sa.Column("token", sa.Text),
    # Its latest call that may not simply be made twice.
    sa.Column("forwarded", sa.Text),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("fence", sa.BigInteger, nullable=False),
    sa.Column("worker", sa.Text),
    # That worker's state folder.
    sa.Column("home", sa.Text, nullable=False),
    sa.Column("accepted", sa.Boolean, nullable=False),
    sa.Column("starter", sa.Text),
    sa.Column("outcome", sa.Text),
    sa.Column("detail", sa.Text, nullable=False),
    # The state that the task told Airflow last.
    sa.Column("told", sa.Text, nullable=False),
    sa.Column("event_acked", sa.Boolean, nullable=False),
    sa.Column("cancel_reason", sa.Text),
    sa.Column("log_base", sa.BigInteger),
    sa.Column("log_kept", sa.BigInteger, nullable=False),
    sa.Column("log_left", sa.Boolean, nullable=False),
    sa.Column("log_size", sa.BigInteger),
    # Not over: unfinished, or the final event is not acknowledged.
    sa.Column("live", sa.Boolean, nullable=False),
    # Unix seconds by the bridge's clock.
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("updated_at", sa.Double, nullable=False),
    sa.Column("finished_at", sa.Double),
)

#: Columns that never change once the row is there.
WRITTEN_ONCE: Final = frozenset(
    {
        "job_id",
        "sequence",
        "type",
        "queue",
        "priority",
        "slots",
        "dag_id",
        "run_id",
        "task_id",
        "map_index",
        "try_number",
        "log_path",
        "workload",
        "lease_s",
        "ships_log",
        "created_at",
    }
)

#: One row: the number of the newest migration that has been done.
SCHEMA_VERSION: Final = sa.Table("schema_version", METADATA, sa.Column("version", sa.Integer, nullable=False))

#: One row: the bridge that opened the ledger last. It differs for every start, and for a backup that was put back.
HOLDER: Final = sa.Table("holder", METADATA, sa.Column("bridge", sa.Text, nullable=False))
