"""Writes the logs that workers ship under Airflow's base_log_folder, byte for byte.

A job's bytes begin at its base in the file: see ``segments``. Bytes are only ever appended without a gap, so a file's
size says how much of its last job has arrived, and nothing but the base has to be remembered. What is remembered
besides, for as long as this program runs, only serves to notice that another program has changed a file.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from cachetools import LRUCache

from edge_mqtt.broker_bridge.logs.segments import Found, find_base
from edge_mqtt.broker_bridge.program.log_files import LogModes, make_log_folder, open_log_file
from edge_mqtt.broker_bridge.protocol.ids import JobId

log = logging.getLogger(__name__)

#: Files that are remembered as we left them.
REMEMBERED_FILES: Final = 10_000
#: Files that are synced at a time: the file system writes its journal once for all of them. More do not gain.
SYNCS_AT_ONCE: Final = 4
#: Bytes of a name on nearly every file system, where the folder itself can't be asked.
_USUAL_NAME_MAX: Final = 255
#: Files that are open at a time.
FILES_AT_ONCE: Final = 64


class LogPathRefused(Exception):
    """The log's path leads outside base_log_folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Write:
    """Bytes of one job: ``offset`` counts from the job's first byte, which stands at ``base`` in the file.

    Lines of our own stand before the job's bytes, and have offsets below those.
    """

    job_id: JobId
    log_path: str
    base: int
    offset: int
    data: bytes
    #: The offset of the first byte that is the job's to write here; what is before it is others', or there already.
    begin: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Appended:
    """What became of some writes."""

    #: How many bytes of each job are stored now.
    stored: dict[JobId, int]
    #: The files that could not be written (disk full, permissions), and why.
    failed: dict[str, str]
    #: The files that others have changed so that their job has to go on elsewhere. Nothing was written to these.
    changed: dict[str, Found] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Left:
    """A file as we left it."""

    device: int
    inode: int
    size: int


@dataclass(frozen=True, slots=True)
class _Written:
    """A file that is written, and not synced yet."""

    descriptor: int
    #: How many bytes of each job are in it.
    stored: dict[JobId, int]


class LogStore:
    """Files below one folder.

    :meth:`check_writable` comes first, at the start. :meth:`append` is called by one thread at a time, and by nothing
    else for the same files; all other methods may be called at any time, from any thread. Every method does file I/O:
    a thread that calls it may wait for the disk, and the event loop never does. What :meth:`append` says is stored is
    on the disk (``fdatasync``) when it returns; it raises nothing, for one file's failure is told beside the others'
    success. The methods for reading raise :class:`LogPathRefused` and OSError, and find nothing where no file is.
    """

    def __init__(
        self, folder: Path, *, modes: LogModes | None = None, remembered_files: int = REMEMBERED_FILES
    ) -> None:
        """Prepare; nothing is looked at.

        :param folder: Airflow's ``base_log_folder``.
        :param modes: of new files and folders; None: Airflow's defaults.
        :param remembered_files: files that are remembered as we left them.
        """
        self._folder = Path(os.path.realpath(folder))
        self._root = str(self._folder).rstrip("/")
        self._modes = modes or LogModes()
        self._left: LRUCache[str, _Left] = LRUCache(remembered_files)
        self._syncing = ThreadPoolExecutor(SYNCS_AT_ONCE, thread_name_prefix="bridge.log_sync")

    def check_writable(self) -> None:
        """Make the folder when it is not there, and a file in it, which is removed again.

        :raises OSError: one of these cannot be done.
        """
        make_log_folder(self._folder, self._modes)
        with tempfile.TemporaryFile(dir=self._folder):
            return

    def path(self, log_path: str) -> Path:
        """Return the file for ``log_path``.

        :raises LogPathRefused: it is absolute or leads outside the folder, through ``..`` or a link, or nowhere, or
            has a name that is too long.
        """
        parts = log_path.split("/")
        if any(len(os.fsencode(part)) > self._longest_name for part in parts):
            text = os.strerror(errno.ENAMETOOLONG)
            raise LogPathRefused(f"log path {log_path!r} below {self._folder} cannot be used: {text}")
        if "" in parts or "." in parts or ".." in parts:
            return self._resolved(log_path)
        # To look whether any part is a link takes a tenth of the time of a look where all of it leads.
        file = self._root
        try:
            for part in parts:
                file = f"{file}/{part}"
                if stat.S_ISLNK(os.lstat(file).st_mode):
                    return self._resolved(log_path)
        except FileNotFoundError:
            # What is below is not there either.
            return Path(self._root, log_path)
        except (OSError, ValueError):
            return self._resolved(log_path)
        return Path(file)

    @cached_property
    def _longest_name(self) -> int:
        """Bytes that a name in the folder has at most."""
        try:
            return os.pathconf(self._folder, "PC_NAME_MAX")
        except OSError:
            return _USUAL_NAME_MAX

    def _resolved(self, log_path: str) -> Path:
        try:
            # Not Path.resolve: what that does with a link that leads to itself differs with the version of Python.
            candidate = Path(os.path.realpath(self._folder / log_path))
        except ValueError as error:
            # A character that no path may have.
            raise LogPathRefused(f"log path {log_path!r} below {self._folder} cannot be used: {error}") from error
        if _leads_in_a_circle(candidate):
            raise LogPathRefused(f"log path {log_path!r} below {self._folder} cannot be used: a link leads to itself")
        if not log_path or candidate == self._folder or not candidate.is_relative_to(self._folder):
            raise LogPathRefused(f"log path {log_path!r} leads outside {self._folder}")
        return candidate

    def size(self, log_path: str) -> int:
        """Return the file's size in bytes; 0 when there is none."""
        try:
            return self.path(log_path).stat().st_size
        except FileNotFoundError:
            return 0

    def sizes(self, log_paths: Iterable[str]) -> dict[str, int | Exception]:
        """Return the size of each file, or why it cannot be told."""
        sizes: dict[str, int | Exception] = {}
        for log_path in log_paths:
            try:
                sizes[log_path] = self.size(log_path)
            except (OSError, LogPathRefused) as error:
                sizes[log_path] = error
        return sizes

    def append(self, writes: Iterable[Write]) -> Appended:
        """Store ``writes`` on disk, file by file: one that cannot be written holds up no other.

        A write that begins before the end is stored from the end on; one that begins after it is not stored, and its
        sender learns from the answer where to go on.

        :param writes: those of one file are of one job.
        """
        by_path: dict[str, list[Write]] = {}
        for write in writes:
            by_path.setdefault(write.log_path, []).append(write)
        appended = Appended(stored={}, failed={})
        paths = list(by_path)
        for start in range(0, len(paths), FILES_AT_ONCE):
            with contextlib.ExitStack() as opened:
                written: dict[str, _Written] = {}
                for log_path in paths[start : start + FILES_AT_ONCE]:
                    try:
                        self._write_to(log_path, by_path[log_path], opened, written, appended)
                    except (OSError, LogPathRefused) as error:
                        self._record_failure(log_path, error, appended)
                self._sync(written, appended)
        return appended

    def _record_failure(self, log_path: str, error: Exception, appended: Appended) -> None:
        # Some of it may be written: whatever the size is next time, it is our own doing.
        self._left.pop(log_path, None)
        appended.failed[log_path] = str(error)

    def _write_to(
        self,
        log_path: str,
        writes: list[Write],
        opened: contextlib.ExitStack,
        written: dict[str, _Written],
        appended: Appended,
    ) -> None:
        descriptor = open_log_file(self.path(log_path), os.O_WRONLY, self._modes)
        opened.callback(os.close, descriptor)
        status = os.fstat(descriptor)
        found = self._find(log_path, status)
        base = writes[0].base
        begin = base + writes[0].begin
        size = found.size
        if find_base(base, begin, found) != base:
            appended.changed[log_path] = found
        else:
            size, stored = _append(descriptor, writes, size)
            written[log_path] = _Written(descriptor, stored)
        self._left[log_path] = _Left(status.st_dev, status.st_ino, size)

    def _sync(self, written: dict[str, _Written], appended: Appended) -> None:
        """Wait until what was written is on the disk. Files that are synced at once share the disk's work."""
        log_paths = list(written)
        # A thread has its share from the start: to hand it one after the other costs more than some of the syncs.
        shares = [log_paths[first::SYNCS_AT_ONCE] for first in range(min(SYNCS_AT_ONCE, len(log_paths)))]
        descriptors = [[written[log_path].descriptor for log_path in share] for share in shares]
        run = map if len(shares) == 1 else self._syncing.map
        for share, errors in zip(shares, run(_sync_errors, descriptors), strict=True):
            for log_path, error in zip(share, errors, strict=True):
                if error is None:
                    appended.stored.update(written[log_path].stored)
                else:
                    self._record_failure(log_path, error, appended)

    def _find(self, log_path: str, status: os.stat_result) -> Found:
        left = self._left.get(log_path)
        if left is None:
            return Found(size=status.st_size, left_at=None, same=True)
        same = (status.st_dev, status.st_ino) == (left.device, left.inode)
        if not same or status.st_size != left.size:
            log.warning(
                "log file %s was changed by another program: it has %d bytes and had %d; what its worker still has "
                "of its last job is stored again",
                log_path,
                status.st_size,
                left.size,
                extra={"action": "log_file_changed", "log_path": log_path},
            )
        return Found(size=status.st_size, left_at=left.size, same=same)

    def read(self, log_path: str, offset: int, limit: int) -> bytes:
        """Return at most ``limit`` bytes from ``offset`` on."""
        try:
            with self.path(log_path).open("rb") as file:
                file.seek(offset)
                return file.read(limit)
        except FileNotFoundError:
            return b""

    def ends_with_line(self, log_path: str, size: int) -> bool:
        """Tell whether a file of ``size`` bytes has nothing behind its last newline."""
        return size == 0 or self.read(log_path, size - 1, 1) == b"\n"

    def offset_of_last_lines(self, log_path: str, lines: int) -> int:
        """Return where the last ``lines`` lines begin."""
        size = self.size(log_path)
        if lines == 0 or size == 0:
            return size
        block = 64 * 1024
        # A newline at the very end ends the last line; it does not begin another.
        position, wanted = size, lines + 1 if self.read(log_path, size - 1, 1) == b"\n" else lines
        while position > 0:
            start = max(0, position - block)
            data = self.read(log_path, start, position - start)
            found = data.count(b"\n")
            if found >= wanted:
                at = len(data)
                for _ in range(wanted):
                    at = data.rindex(b"\n", 0, at)
                return start + at + 1
            wanted -= found
            position = start
        return 0


def _leads_in_a_circle(path: Path) -> bool:
    try:
        path.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def _append(descriptor: int, writes: Iterable[Write], end: int) -> tuple[int, dict[JobId, int]]:
    """Write what goes on at ``end``, the file's size; return its size then, and how much there is of each job."""
    stored: dict[JobId, int] = {}
    for write in writes:
        start = write.base + write.offset
        if start <= end < start + len(write.data):
            end += _write_all(descriptor, write.data[end - start :], end)
        stored[write.job_id] = max(end - write.base, 0)
    return end, stored


def _sync_errors(descriptors: Iterable[int]) -> list[OSError | None]:
    return [_sync_error(descriptor) for descriptor in descriptors]


def _sync_error(descriptor: int) -> OSError | None:
    try:
        os.fdatasync(descriptor)
    except OSError as error:
        return error
    return None


def _write_all(descriptor: int, data: bytes, at: int) -> int:
    """Write all of ``data``, or none of it: half a line of ours would stay, and the next log be glued to it."""
    done = 0
    try:
        while done < len(data):
            done += os.pwrite(descriptor, memoryview(data)[done:], at + done)
    except OSError:
        if done and os.fstat(descriptor).st_size == at + done:
            os.ftruncate(descriptor, at)
        raise
    return done
