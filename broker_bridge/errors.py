"""Errors that end the bridge with one line.

BridgeError
├── ConfigurationError   a setting is missing or wrong
└── StartupError         something it needs could not be opened
"""

from __future__ import annotations

from edge_mqtt.broker_bridge.program.errors import ProgramError


class BridgeError(ProgramError):
    """Root of what can stop the bridge from starting; its text says what is wrong and what to do."""


class ConfigurationError(BridgeError):
    """A setting is missing or wrong."""


class StartupError(BridgeError):
    """A port, folder or database that the bridge needs cannot be used."""
