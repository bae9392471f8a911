"""How the ledger's database is opened, and kept from two bridges at a time.

SQLite runs in WAL mode with ``synchronous=FULL``: a commit is on the disk when it returns
(https://www.sqlite.org/pragma.html#pragma_synchronous). Its file is claimed by ``ledger_file``.

On PostgreSQL every session takes an advisory lock before anything else and holds it to its end
(https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS). There is one session at a time, and it
is the one that writes: when it is lost, the lock is lost too, and the next must have the lock again before it writes.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from edge_mqtt.broker_bridge.dispatch.ledger.interface import LedgerError, LedgerUnavailable

#: Databases that the ledger's SQL is written for.
DIALECTS: Final = ("sqlite", "postgresql")
#: Marks a connection that will write: SQLite is told at once, for it refuses a reader that begins to write too late.
WRITES: Final = "ledger_writes"

#: Read by libpq, hence by psycopg and psycopg2: a server that has vanished is noticed after a minute at the latest.
_LIBPQ: Final = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
#: The same for the server, which holds a vanished bridge's lock until it notices; and a commit is a durable commit.
_SESSION: Final = (
    "SET tcp_keepalives_idle = 30",
    "SET tcp_keepalives_interval = 10",
    "SET tcp_keepalives_count = 3",
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'",
)
#: Ours among a database's advisory locks ("edge"); ledgers in several schemas of one database are several ledgers.
_LOCK: Final = f"SELECT pg_try_advisory_lock({0x65646765}, hashtext(current_schema()))"


def parse_url(url: str) -> sa.URL:
    """Return the parts of ``ledger_url``.

    :raises LedgerUnavailable: it is no URL, or of a database that cannot hold a ledger.
    """
    try:
        parsed = sa.make_url(url)
    except ArgumentError:
        raise LedgerUnavailable(
            "ledger_url is not a database URL: use sqlite:////path/to/ledger.db or "
            "postgresql+psycopg2://user@host/database"
        ) from None
    if parsed.get_backend_name() not in DIALECTS:
        raise LedgerUnavailable(f"ledger_url: {parsed.get_backend_name()} is not supported: use sqlite or postgresql")
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise LedgerUnavailable("ledger_url names no file: a ledger in memory would lose every job with the process")
    return parsed


def make_engine(
    url: sa.URL, refused: Callable[[DBAPIConnection], LedgerError], *, busy_timeout_s: float
) -> sa.Engine:
    """Return an engine of one connection, which claims the ledger when it is opened.

    :param refused: returns what to raise when another session holds PostgreSQL's lock.
    :param busy_timeout_s: seconds to wait for another process that only looks at the database, such as a backup.
    :raises LedgerUnavailable: the database's driver is not installed, or of the wrong kind.
    """
    sqlite = url.get_backend_name() == "sqlite"
    arguments: dict[str, Any] = {"timeout": busy_timeout_s}
    if not sqlite:
        arguments = {name: value for name, value in _LIBPQ.items() if name not in url.query}
    try:
        engine = sa.create_engine(url, connect_args=arguments, pool_size=1, max_overflow=0, pool_pre_ping=not sqlite)
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise LedgerUnavailable(f"ledger_url needs a database driver that is not installed: {error}") from error
    if engine.dialect.is_async:
        raise LedgerUnavailable(f"ledger_url: {engine.driver} will not do: use postgresql+psycopg2 or +psycopg")
    if sqlite:
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    else:
        session = (*_SESSION, f"SET lock_timeout = '{busy_timeout_s * 1000:.0f}ms'")
        sa.event.listen(engine, "connect", lambda connection, _record: _claim_session(connection, session, refused))
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # Python's own transaction handling leaves schema changes outside of transactions: _begin_sqlite does it.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    # A finished job's token is overwritten, not just unlinked.
    connection.execute("PRAGMA secure_delete=ON")


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _claim_session(
    connection: DBAPIConnection, session: Iterable[str], refused: Callable[[DBAPIConnection], LedgerError]
) -> None:
    """Prepare a session of PostgreSQL and take the lock, or close it."""
    with contextlib.ExitStack() as undo:
        undo.callback(connection.close)
        cursor = connection.cursor()
        for statement in session:
            cursor.execute(statement)
        cursor.execute(_LOCK)
        if cursor.fetchone() != (True,):
            raise refused(connection)
        # The lock is the session's: it outlives the transaction.
        connection.commit()
        undo.pop_all()
