"""The ledger: the durable memory of every accepted job.

LedgerError
├── LedgerFull           the disk is full: nothing was stored, nothing already stored is lost
├── LedgerBusy           another process holds the ledger
├── LedgerUnavailable    it cannot be opened, read or written
├── LedgerRefused        the database takes a job as it is never, all others it does
├── LedgerTaken          another bridge has written it since it was opened: this one must stop
├── LedgerCorrupt        the file is not a ledger, or damaged
└── LedgerTooNew         a newer version of this program wrote it
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Protocol

from edge_mqtt.broker_bridge.dispatch.core.model import Job
from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import LogSelector

#: No job of any log file.
NONE: Final[Mapping[str, JobId]] = MappingProxyType({})


class LedgerError(Exception):
    """Root of what can go wrong with the ledger; its text is one line that says what to do."""

    #: The same call may succeed later without a change to this program or its settings.
    retryable = False


class LedgerFull(LedgerError):
    """The disk or the quota is full."""

    retryable = True


class LedgerBusy(LedgerError):
    """Another process holds the ledger."""

    retryable = True


class LedgerUnavailable(LedgerError):
    """The ledger cannot be opened, read or written."""

    retryable = True


class LedgerRefused(LedgerError):
    """A value of a job is none that the database can store; it takes others."""


class LedgerTaken(LedgerError):
    """Another bridge has opened it, or a backup was put in its place: what this bridge believes is out of date."""


class LedgerCorrupt(LedgerError):
    """The file is not a ledger, or it is damaged."""


class LedgerTooNew(LedgerError):
    """A newer version of this program wrote the ledger."""


class Ledger(Protocol):
    """What the dispatcher needs of a database.

    A ledger is open from its construction on, and belongs to one bridge until :meth:`close`, the last call.
    :meth:`load_live` and :meth:`max_sequence` come first, once. Methods that read may be called from any thread;
    those that write (``commit``, ``add``, ``probe``, ``purge``) from one thread at a time. In the bridge one thread
    makes all calls: :class:`~edge_mqtt.broker_bridge.dispatch.ledger.async_ledger.AsyncLedger`.

    What ``commit``, ``add`` or ``purge`` has done is on the disk when it returns. When it raises, nothing of it is
    there; or all of it, when the connection to the database broke in the middle of the commit. Every method may raise
    :class:`LedgerError`. The caller may call again after one that is ``retryable``; after :class:`LedgerTaken` it has
    to end, because what it believes is out of date.
    """

    def load_live(self) -> list[Job]:
        """Return the jobs that are not over: unfinished, or their final event not acknowledged."""

    def commit(self, jobs: Sequence[Job]) -> None:
        """Store ``jobs`` in one transaction that survives a power cut; of a job named twice the later wins."""

    def add(self, jobs: Sequence[Job], new: Collection[JobId]) -> list[Job]:
        """Store ``jobs`` as ``commit`` does; when some of ``new`` are known, store nothing and return those."""

    def probe(self) -> None:
        """Write as ``commit`` does, and change nothing: it fails as long as nothing could be stored."""

    def get(self, job_ids: Iterable[JobId]) -> list[Job]:
        """Return those of ``job_ids`` that are known, in any order."""

    def find(self, selector: LogSelector, limit: int) -> list[Job]:
        """Return at most ``limit`` jobs that match every field set in ``selector``, newest first."""

    def newest_run(self, dag_id: str) -> str | None:
        """Return the run of ``dag_id`` whose job came last."""

    def find_of_logs(self, log_paths: Collection[str], but: Mapping[str, JobId] = NONE) -> list[Job]:
        """Return the jobs that write to one of some log files, in order of arrival.

        :param but: a job of some of the files, which is left out.
        """

    def without_notice(self) -> list[JobId]:
        """Return the jobs of whose log the central file is to have a line (``Job.lacks_notice``) and none is noted
        (``log_base``), in order of arrival.
        """

    def unacknowledged(self, finished_before: float) -> list[JobId]:
        """Return the jobs that ended before ``finished_before`` (Unix seconds) and whose end was not acknowledged."""

    def purge(self, finished_before: float) -> int:
        """Forget the jobs that are over since before ``finished_before`` (Unix seconds); return how many."""

    def max_sequence(self) -> int:
        """Return the highest sequence ever stored, 0 for none."""

    def close(self) -> None:
        """Let go of the database."""
