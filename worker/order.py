"""What the worker hands its launcher for one job, and what comes back: small JSON documents.

Nothing here is secret but ``secret``, which opens the worker's own socket and nothing else; it travels in a pipe,
never in arguments or the environment.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import signal
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId

OUT_OF_MEMORY: Final = "out of memory: the kernel's OOM killer was at work meanwhile"
#: Letters of a job id that its file names keep, so that people find them.
_READABLE = 40
#: Names of runs' files, half-written ones too; the stem tells the run.
_RUN_FILE: Final = re.compile(r"\.?(?P<stem>.+\.[0-9a-f]{12}\.\d+(\.[0-9a-f]+)?)\.(pid|exit|out)(\.\d+)?")
#: Where the link leads that stands in the place of a process when nobody is to run a job any more.
NOBODY: Final = "nobody"


def contact_file(runs_dir: Path) -> Path:
    """Return where the last confirmed contact stands, next to the runs whose leases count from it."""
    return runs_dir / "lease"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFiles:
    """The files of one launch, in the state folder."""

    #: Who runs it: pid, start and boot. Whoever creates it owns the run; it is created once.
    process: Path
    #: How it ended.
    outcome: Path
    #: What the supervisor said on its own behalf.
    output: Path

    @classmethod
    def of(cls, folder: Path, job_id: JobId, fence: Fence, launch: str) -> Self:
        """Return the paths; a job id may hold anything, so the names are made from its digest.

        :param launch: tells this launch from any other of the same assignment, whose supervisor may come too late;
            empty for those of the first versions.
        """
        readable = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in job_id)[:_READABLE]
        digest = hashlib.sha256(job_id.encode()).hexdigest()[:12]
        stem = f"{readable}.{digest}.{fence}{'.' if launch else ''}{launch}"
        return cls(process=folder / f"{stem}.pid", outcome=folder / f"{stem}.exit", output=folder / f"{stem}.out")

    def claim_for_nobody(self) -> bool:
        """Make sure that nobody runs this who has not begun; False when somebody has."""
        # A link is there whole or not at all, and is in the way of whoever wants to create the file.
        try:
            self.process.symlink_to(NOBODY)
        except FileExistsError:
            # Perhaps a worker that died before it could store that the job is given back.
            return self.process.is_symlink()
        return True

    def remove(self) -> None:
        """Delete them."""
        for path in (self.outcome, self.output, self.process):
            path.unlink(missing_ok=True)


def sweep(folder: Path, kept: Iterable[RunFiles]) -> int:
    """Delete the files of all runs but ``kept``; return how many there were.

    :raises OSError: they cannot be deleted.
    """
    stems = {files.process.stem for files in kept}
    found = ((path, _RUN_FILE.fullmatch(path.name)) for path in folder.iterdir())
    orphans = [path for path, run in found if run is not None and run["stem"] not in stems]
    for path in orphans:
        path.unlink(missing_ok=True)
    return len(orphans)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOrder:
    """One job to run."""

    job_id: JobId
    fence: Fence
    #: Tells this launch's files from those of any other.
    launch: str
    #: Airflow's name of the workload's type.
    type: str
    workload: dict[str, Any] = field(repr=False)
    log_path: str | None
    socket_path: str
    secret: str = field(repr=False)
    #: Seconds that the run may go on after a confirmed contact with the centre.
    lease_s: float
    runs_dir: str
    title: str

    def to_json(self) -> bytes:
        """Return it as JSON."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @property
    def files(self) -> RunFiles:
        """The run's files."""
        return RunFiles.of(Path(self.runs_dir), self.job_id, self.fence, self.launch)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOutcome:
    """How a run ended."""

    exit_code: int | None = None
    signal: int | None = None
    error: str = ""
    #: Unix times in seconds.
    started_at: float | None = None
    ended_at: float | None = None

    @property
    def cause(self) -> str:
        """What people are told of how it failed."""
        if self.signal is None:
            return self.error or f"exit code {self.exit_code}"
        with contextlib.suppress(ValueError):
            killed = f"killed by {signal.Signals(self.signal).name}"
            return f"{killed}: {self.error}" if self.error else killed
        return f"killed by signal {self.signal}"

    def to_json(self) -> bytes:
        """Return it as JSON."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read what :meth:`to_json` wrote.

        :raises ValueError: it is something else.
        """
        try:
            return cls(**json.loads(data))
        except TypeError as error:
            raise ValueError(f"not a run's outcome: {error}") from error

    @classmethod
    def of_exit_code(
        cls, code: int, *, oom_kills: int = 0, started_at: float | None = None, ended_at: float | None = None
    ) -> Self:
        """Return the outcome for ``code`` as Python gives it: negative for a signal.

        :param oom_kills: processes of the worker that the kernel has killed for want of memory meanwhile.
        """
        return cls(
            exit_code=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            error=OUT_OF_MEMORY if code == -signal.SIGKILL and oom_kills > 0 else "",
            started_at=started_at,
            ended_at=ended_at,
        )
