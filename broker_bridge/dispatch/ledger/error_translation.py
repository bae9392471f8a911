"""What a database's errors mean to us, decided in one place."""

from __future__ import annotations

from typing import Final

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from edge_mqtt.broker_bridge.dispatch.ledger.interface import (
    LedgerBusy,
    LedgerCorrupt,
    LedgerError,
    LedgerFull,
    LedgerRefused,
    LedgerUnavailable,
)

#: Where sqlite3, psycopg and psycopg2 put an error's code.
_CODES: Final = ("sqlite_errorname", "sqlstate", "pgcode")
#: Names of SQLite's result codes (https://www.sqlite.org/rescode.html), and PostgreSQL's classes of SQLSTATE
#: (https://www.postgresql.org/docs/current/errcodes-appendix.html).
_MEANINGS: Final[tuple[tuple[tuple[str, ...], type[LedgerError], str], ...]] = (
    (("SQLITE_FULL", "53100"), LedgerFull, "the disk is full: free some space; nothing accepted is lost"),
    (
        ("SQLITE_BUSY", "SQLITE_LOCKED", "55P03", "40001", "40P01"),
        LedgerBusy,
        "another process holds it: end that process, or wait for it",
    ),
    (
        ("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM"),
        LedgerUnavailable,
        "it can't be written: check the owner of the file and of its folder, and whether the disk is read-only",
    ),
    (
        # Classes 22 and 54: what a value is, and how much of it an index can have.
        ("SQLITE_TOOBIG", "22", "54"),
        LedgerRefused,
        "the database cannot store a value of the job",
    ),
    (
        ("SQLITE_CORRUPT", "SQLITE_NOTADB"),
        LedgerCorrupt,
        "the file is damaged or not a ledger: restore it from a backup, or move it away to begin anew",
    ),
)


def translated(error: SQLAlchemyError, where: str) -> LedgerError:
    """Return what to raise instead of ``error``.

    :param where: the ledger's URL without its password.
    """
    original = error.orig if isinstance(error, DBAPIError) else None
    code = next((str(found) for name in _CODES if (found := getattr(original, name, None))), "")
    for codes, kind, advice in _MEANINGS:
        if code.startswith(codes):
            return kind(f"ledger {where}: {advice}")
    # Only the first line: SQLAlchemy's own text and PostgreSQL's DETAIL quote the row, and with it the token.
    words = next(iter(str(original or type(error).__name__).strip().splitlines()), "no reason given")
    return LedgerUnavailable(f"ledger {where} can't be used: {words}")
