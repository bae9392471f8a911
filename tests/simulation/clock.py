"""Time that passes only when nothing is left to do, and lives that can end between any two steps.

A shell (a loop around decisions) is written as a generator: it yields whenever the original awaits, so other shells
run in between, and it is never resumed after its life has ended. That is what kill -9 looks like from inside.
"""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Callable, Generator
from typing import Any

Action = Callable[[], None]
#: Begins something, and calls back with what came of it.
Wait = Callable[[Callable[[Any], None]], None]
Shell = Generator[Wait, Any, Any]


class Killed(Exception):
    """Ends the step in which a program dies. Raised after the death, so there is nothing left to clean up."""


class Life:
    """One run of one program: from its start to its end, after which nothing of it happens any more."""

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

    def after(self, delay_s: float, action: Action, life: Life | None = None) -> None:
        """Plan something; of two things planned for one moment the earlier planned comes first."""
        self._count += 1
        heapq.heappush(self._planned, (self.now + max(0.0, delay_s), self._count, action, life))

    def run(self, until: float, enough: Callable[[], bool] = lambda: False) -> None:
        """Let time pass until ``until``, or until it is ``enough``, which is asked once a simulated second."""
        ask_at = self.now + 1.0
        while self._planned and self._planned[0][0] <= until:
            when, _, action, life = heapq.heappop(self._planned)
            self.now = when
            if life is None or life.alive:
                with contextlib.suppress(Killed):
                    action()
            if when >= ask_at:
                ask_at = when + 1.0
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


class Lock:
    """Lets one shell of a life in at a time, in the order in which they came."""

    def __init__(self) -> None:
        self._held = False
        self._waiting: list[Callable[[Any], None]] = []

    def acquire(self, resume: Callable[[Any], None]) -> None:
        """Wait for the lock (a :data:`Wait`)."""
        if self._held:
            self._waiting.append(resume)
        else:
            self._held = True
            resume(None)

    def release(self) -> None:
        """Let the next one in."""
        if self._waiting:
            self._waiting.pop(0)(None)
        else:
            self._held = False
