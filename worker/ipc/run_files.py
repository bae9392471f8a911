"""The files of one launch in the state folder: who runs it, how it ended, what its supervisor printed."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId

#: Letters of a job id that its file names keep, so that people find them.
_READABLE = 40

#: Names of runs' files, half-written ones too; the stem tells the run.
_RUN_FILE: Final = re.compile(r"\.?(?P<stem>.+\.[0-9a-f]{12}\.\d+\.[0-9a-f]+)\.(pid|exit|out|stop)(\.\d+)?")

#: Where the link leads that stands in the place of a process when no process is to run a job any more.
NO_PROCESS: Final = "no-process"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFiles:
    """The files of one launch, in the state folder."""

    #: The supervisor's pid, start and boot. The process that creates it owns the run; it is created once.
    process: Path
    #: How it ended.
    outcome: Path
    #: What the supervisor printed on its own behalf.
    output: Path
    #: Until when the run was given time to end, once it was asked to.
    stop: Path

    @classmethod
    def of(cls, folder: Path, job_id: JobId, fence: Fence, launch: str) -> Self:
        """Return the paths; a job id may hold anything, so the names are made from its digest.

        :param launch: tells this launch from any other of the same assignment, whose supervisor may come too late.
        """
        readable = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in job_id)[:_READABLE]
        digest = hashlib.sha256(job_id.encode()).hexdigest()[:12]
        stem = f"{readable}.{digest}.{fence}.{launch}"
        paths = (folder / f"{stem}.{suffix}" for suffix in ("pid", "exit", "out", "stop"))
        return cls(**dict(zip(("process", "outcome", "output", "stop"), paths, strict=True)))

    @property
    def run(self) -> str:
        """What tells the run from any other."""
        return self.process.stem

    def claim_for_no_process(self) -> bool:
        """Make sure that no supervisor begins any more; False when one has."""
        # A link is there whole or not at all, and is in the way of a supervisor that wants to create the file.
        try:
            self.process.symlink_to(NO_PROCESS)
        except FileExistsError:
            # Perhaps a worker that died before it could store that the job is given back.
            return self.process.is_symlink()
        return True

    def ask_stop(self, until: float) -> None:
        """Take note that the run is asked to end.

        :param until: when everything of it is killed, in seconds since boot.
        """
        with contextlib.suppress(OSError):  # On a full disk the run's exit code has to do.
            self.stop.write_text(str(until), encoding="ascii")

    def stop_asked(self) -> float | None:
        """Return until when the run was given time to end, in seconds since boot; None if it was not asked to."""
        try:
            return float(self.stop.read_text(encoding="ascii"))
        except OSError:
            return None
        except ValueError:
            return 0.0

    def delete(self) -> None:
        """Delete them."""
        for path in (self.outcome, self.output, self.stop, self.process):
            path.unlink(missing_ok=True)


def sweep_files(folder: Path, kept: Iterable[RunFiles]) -> int:
    """Delete the files of all runs but ``kept``; return how many there were.

    :raises OSError: they cannot be deleted.
    """
    stems = {files.process.stem for files in kept}
    found = ((path, _RUN_FILE.fullmatch(path.name)) for path in folder.iterdir())
    orphans = [path for path, run in found if run is not None and run["stem"] not in stems]
    for path in orphans:
        path.unlink(missing_ok=True)
    return len(orphans)
