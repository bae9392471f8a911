"""Real asyncio programs in simulated time: each life of a program has an event loop of its own on the one clock.

A program is killed by never resuming its loop again, between two callbacks or in the middle of a step that reaches
the outside (a packet, a disk write): what was done is done, what was not never happens. What its coroutines would do
while they are torn down reaches nothing either: a dead loop lets nobody begin anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Generator, Iterator
from concurrent.futures import Executor
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

from tests.simulation.clock import Clock, Killed, Life

if TYPE_CHECKING:
    from tests.simulation.world import World

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

#: How long a disk takes for something that a program waits for, in seconds.
DISK_S = (0.001, 0.03)


class Computer:
    """Where programs run: its clocks are nobody else's."""

    def __init__(self, clock: Clock, *, uptime_s: float) -> None:
        self._clock = clock
        self._booted_at = -uptime_s
        self._wall_offset_s = 1_700_000_000.0

    def boottime(self) -> float:
        """Return seconds since boot."""
        return self._clock.now - self._booted_at

    def wall(self) -> float:
        """Return what it takes for the Unix time."""
        return self._clock.now + self._wall_offset_s

    def set_wall(self, change_s: float) -> None:
        """Have somebody set the clock on the wall."""
        self._wall_offset_s += change_s

    def reboot(self) -> None:
        """Begin counting anew."""
        self._booted_at = self._clock.now


class Program(ABC):
    """A program over all its restarts. :meth:`main` is what one run of it does."""

    #: Its name among the plan's dangers.
    kind = ""

    def __init__(self, world: World, computer: Computer) -> None:
        self.world = world
        self.computer = computer
        self.life = Life(world.clock)
        self.life.end()
        self.loop: SimulatedLoop | None = None

    def start(self) -> None:
        """Begin."""
        self.life = Life(self.world.clock)
        self.loop = SimulatedLoop(self)  # type: ignore[abstract]  # what it lacks nobody asks for
        self.loop.create_task(self.main()).add_done_callback(self._ended)

    @abstractmethod
    async def main(self) -> None:
        """Live."""

    def kill(self) -> None:
        """Die at once."""
        self.life.end()
        if self.loop is not None:
            # Not now: one of its steps may be what kills it.
            self.world.clock.after(0.0, self.loop.bury)

    def step(self) -> None:
        """Perhaps die here.

        :raises Killed: it is dead.
        """
        if not self.life.alive:
            raise Killed
        self.world.perhaps_die(self.kind, self)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and isinstance(task.exception(), Killed):
            return
        self.ended(task)

    def ended(self, task: asyncio.Task[None]) -> None:
        """Take note that :meth:`main` has returned or failed; by default neither may happen."""
        self.world.clock.failure = task.exception() or RuntimeError(f"{type(self).__name__} ended by itself")


class Now:
    """Whose code runs at the moment; nobody's between steps."""

    program: Program | None = None


@contextlib.contextmanager
def running(program: Program | None) -> Iterator[None]:
    """Let everything inside happen on that program's computer."""
    before, Now.program = Now.program, program
    try:
        yield
    finally:
        Now.program = before


class SimulatedLoop(asyncio.AbstractEventLoop):
    """One life's event loop. It has what asyncio's own parts ask for, and nothing that waits for real."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._life = program.life
        self._clock = program.world.clock
        self._chance = program.world.chance
        self._tasks: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        #: When each thread will have done what it was given so far.
        self._busy_until: dict[int, float] = {}

    # ------------------------------------------------------------ callbacks

    def time(self) -> float:
        return self._clock.now

    def call_soon(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if self._life.alive:
            self._clock.after(0.0, lambda: self._run(handle), self._life)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self, delay: float, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self._call_after(delay, callback, args, context)

    def call_at(
        self, when: float, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self._call_after(when - self._clock.now, callback, args, context)

    def _call_after(
        self, delay_s: float, callback: Callable[[*_Ts], object], args: tuple[*_Ts], context: Context | None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(self._clock.now + delay_s, callback, args, self, context)
        if self._life.alive:
            self._clock.after(delay_s, lambda: self._run(handle), self._life)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Do nothing: it is passed over when its time comes."""

    def _run(self, handle: asyncio.Handle) -> None:
        if handle.cancelled():
            return
        before, Now.program = Now.program, self._program
        asyncio._set_running_loop(self)
        try:
            handle._run()
        finally:
            asyncio._set_running_loop(None)
            Now.program = before

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        # Without a handle it is about something that nobody looked at before it was thrown away.
        if self._life.alive and "handle" in context and not isinstance(error, Killed):
            self._clock.failure = error

    # ------------------------------------------------------------ futures, tasks and threads

    def create_future(self) -> asyncio.Future[Any]:
        if not self._life.alive:
            raise Killed
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Generator[Any, None, _T] | Coroutine[Any, Any, _T],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[_T]:
        if not self._life.alive:
            coro.close()
            raise Killed
        assert inspect.iscoroutine(coro)
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        self._tasks.add(task)
        return task

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*_Ts], _T], *args: *_Ts
    ) -> asyncio.Future[_T]:
        done: asyncio.Future[_T] = self.create_future()
        thread = id(executor) if executor is not None else id(done)
        begin = max(self._clock.now, self._busy_until.get(thread, 0.0))
        end = self._busy_until[thread] = begin + self._chance.uniform(*DISK_S)
        self._life.after(end - self._clock.now, lambda: self._in_thread(done, func, args))
        return done

    def _in_thread(self, done: asyncio.Future[_T], func: Callable[[*_Ts], _T], args: tuple[*_Ts]) -> None:
        with running(self._program):
            self._program.step()
            try:
                result = func(*args)
            except Exception as error:  # noqa: BLE001 -- whoever waits for it gets it
                if not done.done():
                    done.set_exception(error)
                return
            self._program.step()
        if not done.done():
            done.set_result(result)

    # ------------------------------------------------------------ what asyncio asks

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return self._life.alive

    def is_closed(self) -> bool:
        return not self._life.alive

    def add_signal_handler(self, sig: int, callback: Callable[[*_Ts], object], *args: *_Ts) -> None:
        """Do nothing: nobody sends signals to it."""

    def bury(self) -> None:
        """Let go of a dead program's coroutines, so that none is torn down later in the midst of something else."""
        asyncio._set_running_loop(self)
        try:
            for task in list(self._tasks):
                coroutine = task.get_coro()
                while inspect.iscoroutine(coroutine) and coroutine.cr_frame is not None:
                    # Again when it waits for something on its way out.
                    with contextlib.suppress(BaseException):
                        coroutine.close()
        finally:
            asyncio._set_running_loop(None)
