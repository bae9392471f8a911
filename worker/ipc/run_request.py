"""What the worker hands its launcher for one job: a small JSON document.

Nothing in it is secret but ``secret``, which opens the worker's own socket and nothing else; it travels in a pipe,
never in arguments or the environment.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId
from edge_mqtt.worker.ipc.run_files import RunFiles


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRequest:
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
    #: Seconds that the run may go on after a confirmed contact with the bridge.
    lease_s: float
    runs_dir: str
    title: str

    def to_json(self) -> bytes:
        """Return it as JSON."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read what :meth:`to_json` wrote."""
        return cls(**json.loads(data))

    @property
    def files(self) -> RunFiles:
        """The run's files."""
        return RunFiles.of(Path(self.runs_dir), self.job_id, self.fence, self.launch)
