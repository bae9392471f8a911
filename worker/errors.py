"""Errors of the worker.

WorkerError
├── ConfigurationError   a setting or option is wrong; the message says which and what to do
├── StateDirError        the state folder cannot be used (not writable, in use, path too long)
├── SpoolError           the spool cannot store or read (disk full, damaged)
├── LaunchRefused        a job can never be launched here, whatever is tried
└── LauncherError        the launcher process cannot be started or is gone
"""

from __future__ import annotations

from edge_mqtt.broker_bridge.program.errors import ProgramError


class WorkerError(ProgramError):
    """Root of what the worker raises itself; the message is one line for people."""


class ConfigurationError(WorkerError):
    """A setting or an option is missing or wrong."""


class StateDirError(WorkerError):
    """The state folder cannot be used."""


class SpoolError(WorkerError):
    """The spool cannot store or read."""


class LaunchRefused(WorkerError):
    """The job can never be launched here: it has failed, with the message as the reason."""


class LauncherError(WorkerError):
    """The launcher process cannot be started, or is gone."""
