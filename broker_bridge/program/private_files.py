"""Files and folders for their owner's eyes only: written whole or not at all, locked, and failing with one line."""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from edge_mqtt.broker_bridge.program.errors import ProgramError
from edge_mqtt.broker_bridge.program.interrupt import HeldBack

#: Mode of every file we write: a key is its owner's alone, and certificates travel with it.
FILE_MODE = 0o600
#: Mode of every folder we make.
DIRECTORY_MODE = 0o700


class FileUnusable(ProgramError):
    """A file or folder cannot be read, understood or written."""


def read_bytes(path: Path, *, if_missing: str = "") -> bytes:
    """Return what ``path`` holds.

    :param if_missing: what to do when it is not there, for the error.
    :raises FileUnusable: it is not there or cannot be read.
    """
    with reading(path, if_missing=if_missing):
        return path.read_bytes()


@contextmanager
def reading(path: Path, *, if_missing: str = "") -> Iterator[None]:
    """Turn the system's errors while ``path`` is read, or only looked at, into one line.

    :param if_missing: what to do when it is not there.
    :raises FileUnusable: there was one.
    """
    try:
        yield
    except FileNotFoundError:
        advice = f": {if_missing}" if if_missing else ""
        raise FileUnusable(f"{path} does not exist{advice}") from None
    except PermissionError:
        raise FileUnusable(
            f"{path} cannot be read by this user: give it to the user that runs this program"
        ) from None
    except OSError as error:
        raise FileUnusable(f"{path} cannot be read: {error.strerror}") from error


def is_there(path: Path) -> bool:
    """Tell whether there is something at ``path``.

    Unlike ``Path.exists``, which from Python 3.14 on is False as well when the path cannot be looked at.

    :raises OSError: it cannot be looked at.
    """
    return _mode(path) is not None


def is_folder(path: Path) -> bool:
    """Tell whether there is a folder at ``path``; see :func:`is_there`.

    :raises OSError: it cannot be looked at.
    """
    mode = _mode(path)
    return mode is not None and stat.S_ISDIR(mode)


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's errors while ``path`` is written into one line.

    :raises FileUnusable: there was one.
    """
    try:
        yield
    except OSError as error:
        raise FileUnusable(f"{path} cannot be written: {error.strerror}") from error


def make_private_directory(path: Path) -> None:
    """Make ``path`` and the folders above it that are missing, for their owner only.

    :raises FileUnusable: that cannot be done.
    """
    with writing(path):
        missing = [folder for folder in (path, *path.parents) if not is_there(folder)]
        for folder in reversed(missing):
            folder.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
        if not is_folder(path):
            raise FileUnusable(f"{path} is a file, not a folder")


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write all of ``contents``: each file is replaced as a whole, after every one is safe on the disk.

    :raises FileUnusable: one cannot be written; then no file has changed, unless it failed in the last step.
    """
    # A file with half of a key must not be left.
    with HeldBack():
        _write_files(contents)


def _write_files(contents: Mapping[Path, bytes]) -> None:
    staged: dict[Path, Path] = {}
    try:
        for path, content in contents.items():
            with writing(path):
                temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
                staged[temporary] = path
                _write_new(temporary, content)
        for temporary, path in list(staged.items()):
            with writing(path):
                temporary.replace(path)
            del staged[temporary]
        for folder in {path.parent for path in contents}:
            sync_directory(folder)
    finally:
        for temporary in staged:
            temporary.unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Put the names in folder ``path`` on the disk, so that a rename survives a power cut.

    :raises FileUnusable: that cannot be done.
    """
    with writing(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for the lock on file ``path`` and hold it, so that two commands on one folder go one after the other.

    :raises FileUnusable: the file cannot be made.
    """
    descriptor = _open_lock(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def try_lock(path: Path) -> int | None:
    """Take the lock on file ``path`` until the descriptor that is returned is closed; None: another process has it.

    :raises FileUnusable: the file cannot be made.
    """
    descriptor = _open_lock(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _open_lock(path: Path) -> int:
    with writing(path):
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)


def _write_new(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
