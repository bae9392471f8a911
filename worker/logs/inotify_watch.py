"""Tells when files grow, by inotify, so that they need not be looked at."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from inotify_simple import INotify, flags  # type: ignore[import-untyped]

#: Bytes of events that are read, and thrown away, at a time.
_READ_BYTES: Final = 64 * 1024


class InotifyWatch:
    """Watches files. Tells once that some have grown, and again only after :meth:`listen`.

    What another machine writes on a network mount is not seen; a file may then be looked at, as where there is no
    inotify at all.

    :param grown: called in the loop.
    :raises OSError: the system has no inotify, or gives no more of it to this user.
    """

    def __init__(self, grown: Callable[[], None]) -> None:
        self._grown = grown
        self._loop = asyncio.get_running_loop()
        self._inotify = INotify(nonblocking=True)
        #: Two jobs may write one file, which has one watch.
        self._watches: Counter[int] = Counter()
        self._listening = False

    def add(self, path: Path) -> int | None:
        """Watch a file from now on, wherever it is moved; return the watch's number, None when that is impossible."""
        try:
            number: int = self._inotify.add_watch(path, flags.MODIFY)
        except OSError:
            return None
        self._watches[number] += 1
        return number

    def remove(self, number: int) -> None:
        """Watch a file no more."""
        self._watches[number] -= 1
        if not self._watches[number]:
            del self._watches[number]
            # A deleted file's watch is gone already.
            with contextlib.suppress(OSError):
                self._inotify.rm_watch(number)

    def listen(self) -> None:
        """Forget what has happened, tell what happens from now on."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._inotify.fileno(), _READ_BYTES):
                pass
        if not self._listening:
            self._loop.add_reader(self._inotify.fileno(), self._tell_grown)
            self._listening = True

    def close(self) -> None:
        """End."""
        self._stop_listening()
        self._inotify.close()

    def _tell_grown(self) -> None:
        self._stop_listening()
        self._grown()

    def _stop_listening(self) -> None:
        if self._listening:
            self._loop.remove_reader(self._inotify.fileno())
            self._listening = False
