"""Modules that the setting ``preload_imports`` names: imported in the launcher, ahead of every task.

Each is imported in a child process first. A thread that an import starts cannot be stopped again, and with a second
thread the launcher could not fork safely any more.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NoReturn

#: Seconds that importing one module may take, on a slow machine too.
IMPORT_LIMIT_S: Final = 60
#: Bytes of a child's answer at most: less than a pipe holds (pipe(7)), so that it need not be read meanwhile.
_ANSWER_BYTES: Final = 4096
#: What a child answers when nothing speaks against the import. One that answers nothing was ended by the module.
_HARMLESS: Final = "harmless"


def preload_modules(names: Iterable[str], *, limit_s: int = IMPORT_LIMIT_S) -> dict[str, str]:
    """Import modules in this process, which has one thread; return those that were left out, each with the reason.

    :param limit_s: seconds that importing one module may take.
    """
    left_out = {name: reason for name in names if (reason := _import_if_harmless(name, limit_s))}
    # What they have brought in is never collected: forks go on sharing its memory.
    gc.freeze()
    return left_out


def seed_again() -> None:
    """Let what is forked from here draw other random numbers than the next process that the launcher forks.

    Python does so for its own generator. NumPy makes its global one when it is imported.
    """
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def _import_if_harmless(name: str, limit_s: int) -> str:
    """Import a module; return why it was not, empty if it was."""
    if name in sys.modules:
        return ""
    return _try_in_child(name, limit_s) or _import(name)


def _try_in_child(name: str, limit_s: int) -> str:
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        _try(name, theirs, limit_s)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        _, status = os.waitpid(pid, 0)
        # Whatever the import has left running may hold the pipe open: what there is by now is all that counts.
        os.set_blocking(pipe.fileno(), False)
        answer = (pipe.read(_ANSWER_BYTES) or b"").decode(errors="replace")
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == signal.SIGALRM:
            return f"importing it takes longer than {limit_s} s"
        return f"importing it ends the process with signal {number}"
    if not answer:
        return "importing it ends the process"
    return "" if answer == _HARMLESS else answer


def _try(name: str, output: int, limit_s: int) -> NoReturn:
    """Be the child: import a module, and say what speaks against it."""
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(limit_s)
        before = _threads()
        reason = _import(name)
        if not reason and _threads() > before:
            reason = "importing it starts a thread"
        os.write(output, (reason or _HARMLESS).encode()[:_ANSWER_BYTES])
    finally:
        os._exit(0)


def _import(name: str) -> str:
    try:
        importlib.import_module(name)
    except BaseException as error:  # noqa: BLE001 -- a module may raise anything; tasks do without it
        first_line = (str(error).splitlines() or [""])[0]
        return f"{type(error).__name__}: {first_line}".rstrip(": ")
    return ""


def _threads() -> int:
    """Return how many threads this process has, those that Python does not know included."""
    return len(list(Path("/proc/self/task").iterdir()))
