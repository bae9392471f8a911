"""Ctrl-C at any moment of a command: its end, without a traceback, with the exit code for it.

Nothing of ours ever has a KeyboardInterrupt raised: it could surface anywhere, in an import, while an object is
deleted, in what Python does at its own end, where it is swallowed or printed. From a command's first instruction on
SIGINT ends the process on the spot, until the command has something to finish, and says so here.

What this module imports is there before the first command's code, or quick to load.
"""

from __future__ import annotations

import os
import signal

from edge_mqtt.broker_bridge.program.exit_codes import ExitCode

# Not typing's own: importing that would take as long as all else here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable, Mapping
    from types import FrameType, TracebackType
    from typing import NoReturn


def end_quietly() -> None:
    """Let SIGINT end the process on the spot, until something else is asked for here.

    Nothing has been begun that would have to be finished. A process that was started with SIGINT ignored, as programs
    in the background are, keeps it ignored. One that waits since the command held SIGINT back ends it now.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def call_once(call: Callable[[], None]) -> None:
    """Let the first SIGINT call ``call``, which is to bring the end about; the next one ends the process on the spot.

    :param call: must not wait; it may be called between any two instructions of the main thread.
    """

    def interrupted(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, _end)
        call()

    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, interrupted)


def call_in_loop(loop: AbstractEventLoop, calls: Mapping[signal.Signals, Callable[[], None]]) -> None:
    """Let signals make calls in an event loop, for as long as it is open.

    The loop's own ``add_signal_handler`` is no use: at the loop's end SIGINT would raise KeyboardInterrupt again.
    """

    def came(number: int, _frame: FrameType | None) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(calls[signal.Signals(number)])

    for number in calls:
        signal.signal(number, came)


def ignore() -> None:
    """Ignore SIGINT from now on: all is done, and one more could only spoil the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class HeldBack:
    """Holds SIGINT back from the main thread of a program that has one thread, while something is done as a whole."""

    def __enter__(self) -> None:
        """Begin."""
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; a SIGINT that came meanwhile comes now."""
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    os._exit(ExitCode.INTERRUPTED)
