"""How the worker ends: signals and time in, phases out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

#: Seconds that running tasks get after SIGTERM: service managers and container runtimes kill soon after it.
SIGTERM_DRAIN_S: Final = 20.0


class Phase(StrEnum):
    """How far the end is."""

    SERVING = "serving"
    #: No new jobs; running ones go on.
    DRAINING = "draining"
    #: Running ones are being stopped.
    TERMINATING = "terminating"


class StopSignal(StrEnum):
    """How the worker is asked to end."""

    INTERRUPT = "interrupt"
    TERMINATE = "terminate"


@dataclass(frozen=True, kw_only=True, slots=True)
class Drain:
    """The phase and, while draining, when it becomes the next one. Times are monotonic seconds."""

    phase: Phase = Phase.SERVING
    deadline: float | None = None

    def after_signal(self, signal: StopSignal, now: float, *, drain_timeout_s: float) -> Drain:
        """Return the state after a signal; the second one means at once.

        :param drain_timeout_s: seconds that running jobs get, 0 for as long as they take.
        """
        if self.phase is not Phase.SERVING:
            return replace(self, phase=Phase.TERMINATING, deadline=None)
        limits = [drain_timeout_s] if drain_timeout_s > 0 else []
        if signal is StopSignal.TERMINATE:
            limits.append(SIGTERM_DRAIN_S)
        return Drain(phase=Phase.DRAINING, deadline=now + min(limits) if limits else None)

    def at(self, now: float) -> Drain:
        """Return the state at ``now``."""
        if self.phase is Phase.DRAINING and self.deadline is not None and now >= self.deadline:
            return Drain(phase=Phase.TERMINATING)
        return self

    @property
    def accepts_jobs(self) -> bool:
        """Tell whether new jobs are accepted."""
        return self.phase is Phase.SERVING
