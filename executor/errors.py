"""Errors of the executor's side.

ExecutorError
└── CannotDial      the connection can't even be tried: its certificate is missing or not an executor's
"""

from __future__ import annotations

from edge_mqtt.broker_bridge.program.errors import ProgramError


class ExecutorError(ProgramError):
    """Root of what can go wrong on the executor's side; its text is one line that says what to do."""


class CannotDial(ExecutorError):
    """There is nothing to connect with; may be cured while the scheduler runs."""
