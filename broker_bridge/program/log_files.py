"""Log files and their folders, made with the modes that Airflow's settings say, whatever the umask is.

Airflow gives the mode of folders to the last one only, and takes off what the umask says (``init_log_file`` in
airflow.sdk _shared/logging/structlog.py).
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from edge_mqtt.broker_bridge.program.settings.airflow_settings import NEW_FILE_MODE, NEW_FOLDER_MODE
from edge_mqtt.broker_bridge.program.settings.sources import Values

#: A folder may be deleted, since it is empty, between its making and that of the file in it.
ATTEMPTS: Final = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class LogModes:
    """Modes of what is made new. What is there already keeps its own."""

    folder: int = 0o775
    file: int = 0o664

    @classmethod
    def of(cls, values: Values) -> Self:
        """Return what Airflow's settings say.

        :raises SettingError: one of them is wrong.
        """
        return cls(folder=values[NEW_FOLDER_MODE], file=values[NEW_FILE_MODE])


def make_log_folder(folder: Path, modes: LogModes) -> None:
    """Make a folder, and those above it that are not there.

    :raises OSError: it cannot be made.
    """
    try:
        folder.mkdir(modes.folder)
    except FileNotFoundError:
        if folder.parent.is_dir():
            raise  # No folders can be made there, as below /proc.
        make_log_folder(folder.parent, modes)
        make_log_folder(folder, modes)
    except FileExistsError:
        if not folder.is_dir():
            raise
    else:
        # Some file systems have no modes.
        with contextlib.suppress(OSError):
            folder.chmod(modes.folder)


def open_log_file(file: Path, flags: int, modes: LogModes) -> int:
    """Return a descriptor of a file, which is made with its folders when it is not there.

    :param flags: of open(2), without O_CREAT.
    :raises OSError: it cannot be opened or made.
    """
    for _ in range(ATTEMPTS - 1):
        with contextlib.suppress(FileNotFoundError):
            return _open(file, flags | os.O_CLOEXEC, modes)
    return _open(file, flags | os.O_CLOEXEC, modes)


def _open(file: Path, flags: int, modes: LogModes) -> int:
    with contextlib.suppress(FileNotFoundError):
        return os.open(file, flags)
    make_log_folder(file.parent, modes)
    try:
        descriptor = os.open(file, flags | os.O_CREAT | os.O_EXCL, modes.file)
    except FileExistsError:
        # Somebody else was first.
        return os.open(file, flags)
    with contextlib.suppress(OSError):
        os.fchmod(descriptor, modes.file)
    return descriptor


def delete_log_file(file: Path, base_folder: Path) -> None:
    """Delete a file, and the folders below ``base_folder`` that are empty without it.

    :raises OSError: it cannot be deleted.
    """
    file.unlink(missing_ok=True)
    # A folder that is not empty stays.
    with contextlib.suppress(OSError):
        for folder in file.parents:
            if folder == base_folder or not folder.is_relative_to(base_folder):
                return
            folder.rmdir()
