"""What can go wrong while the stack is put up or used.

::

    StackError
    ├── DirectoryInUse      another quickstart runs there, or the folder is not ours to clear
    ├── ServiceFailed          a service died or did not come up in time
    ├── RestFailed          Airflow's REST API answered with an error
    └── WaitedTooLong       what was waited for did not happen in time
"""

from __future__ import annotations


class StackError(Exception):
    """The stack cannot do what was asked; the message is one line that says why."""


class DirectoryInUse(StackError):
    """The folder is in use, or it is not the quickstart's to clear."""


class ServiceFailed(StackError):
    """A service of the stack died or did not come up in time."""

    def __init__(self, name: str, problem: str, last_lines: list[str]) -> None:
        super().__init__(f"{name} {problem}")
        self.name = name
        #: The end of the service's output.
        self.last_lines = last_lines


class RestFailed(StackError):
    """Airflow's REST API answered with an error."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class WaitedTooLong(StackError):
    """What was waited for did not happen in time."""
