"""Time that passes only when nothing is left to do, and lives that can end between any two steps.

A shell (the behaviour of a simulated process or person) is written as a generator: it yields whenever it waits, so
other shells run in between, and it is never resumed after its life has ended.
"""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Callable, Generator
from typing import Any, Final

Action = Callable[[], object]
#: The shortest wait: less would be lost in the rounding of a clock that counts from long before the run.
SHORTEST_S: Final = 1e-9
#: More than ever happens at one moment.
MOST_AT_ONCE: Final = 100_000
#: Begins something, and calls back with what came of it.
Wait = Callable[[Callable[[Any], None]], None]
Shell = Generator[Wait, Any, Any]


class Killed(BaseException):
    """Ends the step in which a program dies, which must not catch it. There is nothing left to clean up."""


class Life:
    """One run of one program: from its start to its end, after which nothing of it happens any more."""

    __slots__ = ("_clock", "alive")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.alive = True

    def end(self) -> None:
        """Die."""
        self.alive = False

    def after(self, delay_s: float, action: Action) -> None:
        """Do something later, if still alive then."""
        self._clock.after(delay_s, action, self)

    def spawn(self, shell: Shell) -> None:
        """Run a shell until it ends or this life does."""

        def resume(value: Any = None) -> None:
            if self.alive:
                try:
                    wait = shell.send(value)
                except StopIteration:
                    return
                wait(resume)

        resume()

    def sleep(self, delay_s: float) -> Wait:
        """Wait for some time."""
        return lambda resume: self.after(delay_s, lambda: resume(None))


class Clock:
    """The one clock and everything that is planned."""

    def __init__(self) -> None:
        self.now = 0.0
        self._planned: list[tuple[float, int, Action, Life | None]] = []
        self._count = 0
        #: How much has happened at this very moment.
        self._at_once = 0
        #: Ends the run: raised before anything else happens.
        self.failure: BaseException | None = None

    def after(self, delay_s: float, action: Action, life: Life | None = None) -> None:
        """Plan something; of two things planned for one moment the earlier planned comes first."""
        self._count += 1
        when = self.now + max(delay_s, SHORTEST_S) if delay_s > 0.0 else self.now
        heapq.heappush(self._planned, (when, self._count, action, life))

    def run(self, until: float, *, enough: Callable[[], bool], look_every_s: float = 1.0) -> None:
        """Let time pass until ``until``, or until it is ``enough``. Who waits in a step of a run may do so itself."""
        ask_at = self.now + look_every_s
        planned = self._planned
        while planned and planned[0][0] <= until:
            when, _, action, life = heapq.heappop(planned)
            self._at_once = self._at_once + 1 if when == self.now else 0
            if self._at_once > MOST_AT_ONCE:
                raise RuntimeError(f"something goes round and round, and time stands still at {when:.3f} s")
            self.now = when
            if life is None or life.alive:
                with contextlib.suppress(Killed):
                    action()
                if self.failure is not None:
                    raise self.failure
            if when >= ask_at:
                ask_at = when + look_every_s
                if enough():
                    return
        self.now = max(self.now, until)


class Event:
    """Something that happens once and can be waited for."""

    def __init__(self) -> None:
        self.is_set = False
        self._waiting: list[Callable[[Any], None]] = []

    def set(self) -> None:
        """Let it happen."""
        self.is_set = True
        waiting, self._waiting = self._waiting, []
        for resume in waiting:
            resume(None)

    def wait(self, resume: Callable[[Any], None]) -> None:
        """Wait for it (a :data:`Wait`)."""
        if self.is_set:
            resume(None)
        else:
            self._waiting.append(resume)

    def within(self, life: Life, limit_s: float) -> Wait:
        """Wait for it, but no longer than ``limit_s`` seconds."""

        def begin(resume: Callable[[Any], None]) -> None:
            done = False

            def once(_value: Any = None) -> None:
                nonlocal done
                if not done:
                    done = True
                    resume(None)

            self.wait(once)
            life.after(limit_s, once)

        return begin
