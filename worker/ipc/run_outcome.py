"""How a run ended: what a supervisor leaves for the worker."""

from __future__ import annotations

import contextlib
import json
import signal
from dataclasses import asdict, dataclass
from typing import Final, Self

OUT_OF_MEMORY: Final = "out of memory: the kernel's OOM killer was at work meanwhile"


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

        :param oom_kills: processes of the worker that the kernel has killed meanwhile because memory ran out.
        """
        return cls(
            exit_code=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            error=OUT_OF_MEMORY if code == -signal.SIGKILL and oom_kills > 0 else "",
            started_at=started_at,
            ended_at=ended_at,
        )
