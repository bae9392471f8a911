"""Who holds a certificate: a role and a name, written into a certificate and used as the MQTT client id."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

#: What a name may look like; it appears in certificates, client ids, topics, file names and log lines.
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
#: How a certificate's subject alternative name (a URI) begins.
URN_PREFIX = "urn:edge-mqtt:"


class InvalidName(ValueError):
    """The name or client id cannot be used for a worker, executor, operator or bridge."""


class Role(StrEnum):
    """What a holder may do."""

    BRIDGE = "bridge"
    EXECUTOR = "executor"
    WORKER = "worker"
    OPERATOR = "operator"


def check_name(name: str) -> str:
    """Return ``name`` when it may be used on the wire.

    :raises InvalidName: it is empty, too long, or has a character outside letters, digits, ``_ . -``.
    """
    if NAME_PATTERN.fullmatch(name) is None:
        raise InvalidName(
            f"{name!r} is not a valid name: use 1 to 63 letters, digits, '_', '.' or '-', "
            "beginning with a letter or digit"
        )
    return name


@dataclass(frozen=True, slots=True)
class Identity:
    """A role and a name."""

    role: Role
    name: str

    @property
    def client_id(self) -> str:
        """The only MQTT client id that the holder may use."""
        return f"{self.role}:{self.name}"

    @property
    def urn(self) -> str:
        """The URI in the certificate's subject alternative name."""
        return f"{URN_PREFIX}{self.role}:{self.name}"

    @classmethod
    def from_client_id(cls, client_id: str) -> Identity:
        """Parse ``<role>:<name>``.

        :raises InvalidName: it is not of that form.
        """
        role, _, name = client_id.partition(":")
        try:
            return cls(Role(role), check_name(name))
        except ValueError:
            raise InvalidName(f"{client_id!r} is not of the form <role>:<name>") from None

    @classmethod
    def from_urn(cls, urn: str) -> Identity:
        """Parse ``urn:edge-mqtt:<role>:<name>``.

        :raises InvalidName: it is not of that form.
        """
        if not urn.startswith(URN_PREFIX):
            raise InvalidName(f"{urn!r} does not begin with {URN_PREFIX}")
        return cls.from_client_id(urn.removeprefix(URN_PREFIX))

    def __str__(self) -> str:
        return self.client_id
