"""Names and identities: who somebody is on the wire."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

from edge_mqtt.broker_bridge.protocol.errors import InvalidName

#: One queueing of one workload: the external_executor_id that Airflow assigns when it queues.
JobId = NewType("JobId", str)
#: A worker's name, which is its certificate's common name.
WorkerName = NewType("WorkerName", str)
#: An executor's name, which is its certificate's common name.
ExecutorName = NewType("ExecutorName", str)
#: Counts the assignments of one job. Only the holder of the newest may start it.
Fence = NewType("Fence", int)

#: What a name may look like; it appears in certificates, client ids, topics, file names and log lines.
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


class Role(StrEnum):
    """What a party may do; written into its certificate."""

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
            f"{name!r} is not a valid name: 1 to 63 letters, digits, '_', '.' or '-', "
            "beginning with a letter or digit"
        )
    return name


@dataclass(frozen=True, slots=True)
class Identity:
    """A role and a name: the subject of a certificate and, joined by a colon, the MQTT client id."""

    role: Role
    name: str

    @property
    def client_id(self) -> str:
        """The only MQTT client id that this party may use."""
        return f"{self.role}:{self.name}"

    @classmethod
    def from_client_id(cls, client_id: str) -> Identity:
        """Parse ``<role>:<name>``.

        :raises InvalidName: it is not of that form.
        """
        role, _, name = client_id.partition(":")
        try:
            return cls(Role(role), check_name(name))
        except ValueError:
            raise InvalidName(f"client id {client_id!r} is not of the form <role>:<name>") from None

    def __str__(self) -> str:
        return self.client_id
