"""Errors of the executor's side.

ExecutorError
└── CannotConnect   the connection can't even be tried: its certificate is missing or not an executor's
"""

from __future__ import annotations

from edge_mqtt.broker_bridge.program.errors import ProgramError


class ExecutorError(ProgramError):
    """Root of the executor's errors; the text is one line that says what to do."""


class CannotConnect(ExecutorError):
    """There is nothing to connect with; may be fixed while the scheduler runs."""
