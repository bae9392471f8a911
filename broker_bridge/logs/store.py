"""Writes the logs that workers ship under Airflow's base_log_folder, byte for byte.

A job's bytes begin at its base in the file, because a deferred task comes back as a new job that goes on in the same
file. Bytes are only ever appended without a gap, so a file's size says how much of its last job has arrived, and
nothing but the base has to be remembered.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edge_mqtt.broker_bridge.protocol.ids import JobId

log = logging.getLogger(__name__)


class LogPathRefused(Exception):
    """The log's path leads outside base_log_folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Write:
    """Bytes of one job: ``offset`` counts from the job's first byte, which stands at ``base`` in the file."""

    job_id: JobId
    log_path: str
    base: int
    offset: int
    data: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Appended:
    """What became of some writes."""

    #: How many bytes of each job are stored now.
    stored: dict[JobId, int]
    #: The files that could not be written (disk full, permissions), and why.
    failed: dict[str, str]


class LogStore:
    """Files below one folder. Every method does file I/O: call it from a thread that may wait."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()

    def check_writable(self) -> None:
        """Make the folder when it is not there, and a file in it, which is removed again.

        :raises OSError: one of these cannot be done.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self._folder):
            return

    def path(self, log_path: str) -> Path:
        """Return the file for ``log_path``.

        :raises LogPathRefused: it is absolute or leads outside the folder, through ``..`` or a link.
        """
        candidate = (self._folder / log_path).resolve()
        if not log_path or candidate == self._folder or not candidate.is_relative_to(self._folder):
            raise LogPathRefused(f"log path {log_path!r} leads outside {self._folder}")
        return candidate

    def size(self, log_path: str) -> int:
        """Return the file's size in bytes; 0 when there is none."""
        try:
            return self.path(log_path).stat().st_size
        except FileNotFoundError:
            return 0

    def append(self, writes: Iterable[Write]) -> Appended:
        """Store ``writes`` on disk, file by file: one that cannot be written holds up no other.

        A write that begins before the end is stored from the end on; one that begins after it is not stored, and its
        sender learns from the answer where to go on.
        """
        by_path: dict[str, list[Write]] = {}
        for write in writes:
            by_path.setdefault(write.log_path, []).append(write)
        stored: dict[JobId, int] = {}
        failed: dict[str, str] = {}
        for log_path, of_path in by_path.items():
            try:
                stored.update(self._append_to(self.path(log_path), of_path))
            except (OSError, LogPathRefused) as error:
                failed[log_path] = str(error)
        return Appended(stored=stored, failed=failed)

    def _append_to(self, path: Path, writes: list[Write]) -> dict[JobId, int]:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Airflow's own mode for log files ([logging] file_task_handler_new_file_permissions).
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o664)
        try:
            end = os.fstat(descriptor).st_size
            stored: dict[JobId, int] = {}
            for write in writes:
                start = write.base + write.offset
                if start <= end < start + len(write.data):
                    end += _write_all(descriptor, write.data[end - start :], end)
                stored[write.job_id] = max(end - write.base, 0)
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        return stored

    def read(self, log_path: str, offset: int, limit: int) -> bytes:
        """Return at most ``limit`` bytes from ``offset`` on."""
        try:
            with self.path(log_path).open("rb") as file:
                file.seek(offset)
                return file.read(limit)
        except FileNotFoundError:
            return b""

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
            piece = self.read(log_path, start, position - start)
            found = piece.count(b"\n")
            if found >= wanted:
                at = len(piece)
                for _ in range(wanted):
                    at = piece.rindex(b"\n", 0, at)
                return start + at + 1
            wanted -= found
            position = start
        return 0


def _write_all(descriptor: int, data: bytes, at: int) -> int:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, memoryview(data)[done:], at + done)
    return done
