"""What a database's errors mean to us, decided in one place."""

from __future__ import annotations

from typing import Final

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from edge_mqtt.broker_bridge.dispatch.ledger import (
    LedgerBusy,
    LedgerCorrupt,
    LedgerError,
    LedgerFull,
    LedgerUnavailable,
)

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
    code = str(getattr(original, "sqlite_errorname", None) or getattr(original, "sqlstate", None) or "")
    for codes, kind, advice in _MEANINGS:
        if code.startswith(codes):
            return kind(f"ledger {where}: {advice}")
    # Only the driver's words: SQLAlchemy's own text would quote the row, and with it the token.
    words = " ".join(str(original or type(error).__name__).split())
    return LedgerUnavailable(f"ledger {where} can't be used: {words}")
