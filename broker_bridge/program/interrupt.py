"""Ctrl-C in the first second of a command, while Python imports what it needs: the end, without a traceback.

The commands' ``__main__`` modules import this one before anything that takes time. What this one imports is time in
which Ctrl-C still shows a traceback, as it does in the 30 ms before, of Python's own start.
"""

from __future__ import annotations

import os
import signal

from edge_mqtt.broker_bridge.program.exit_codes import ExitCode

# Not typing's own: importing that would take as long as all else here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn


def end_quietly() -> None:
    """Let SIGINT end the process on the spot, until another handler is installed.

    Nothing has been begun that would have to be finished. A process that was started with SIGINT ignored, as programs
    in the background are, keeps it ignored.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raise_again() -> None:
    """Let SIGINT raise KeyboardInterrupt again, for a program that takes it for its request to end."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    # An exception could surface in the middle of an import, where other code swallows it or prints it.
    os._exit(ExitCode.INTERRUPTED)
