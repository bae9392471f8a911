"""How long a running job may go on without the bridge."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import Enum, auto
from typing import Self

from edge_mqtt.broker_bridge.protocol.limits import LEASE_MARGIN_S


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """When a running job is stopped. Times are seconds since boot, suspension included."""

    #: SIGTERM from here on.
    stop_at: float
    #: SIGKILL from here on.
    kill_at: float

    @classmethod
    def granted(cls, *, confirmed_at: float, lease_s: float, kill_grace_s: float) -> Self:
        """Return the lease that a confirmed contact gives.

        It ends on the worker before it ends in the bridge, which counts from the receipt of the same message.

        :param confirmed_at: when the presence that the bridge has confirmed was sent.
        :param lease_s: the job's, in seconds.
        """
        kill_at = confirmed_at + lease_s - LEASE_MARGIN_S
        return cls(stop_at=kill_at - kill_grace_s, kill_at=kill_at)


@dataclass(frozen=True, kw_only=True, slots=True)
class Contact:
    """The last contact that the bridge has confirmed: every job's lease counts from it.

    It lies in a file, for launcher and supervisors, which guard the leases when the worker is dead, and for the next
    worker.
    """

    #: When the confirmed message was sent, in seconds since boot.
    confirmed_at: float
    #: Seconds between SIGTERM and SIGKILL.
    kill_grace_s: float

    def lease(self, lease_s: float) -> Lease:
        """Return the lease of a job that may go on for ``lease_s`` seconds."""
        return Lease.granted(confirmed_at=self.confirmed_at, lease_s=lease_s, kill_grace_s=self.kill_grace_s)

    def to_json(self) -> bytes:
        """Return it as JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes, *, now: float) -> Self | None:
        """Read what :meth:`to_json` wrote; None when it is something else.

        :param now: seconds since boot; a contact later than that was one of an earlier boot, and is none.
        """
        try:
            read = json.loads(data)
            contact = cls(confirmed_at=float(read["confirmed_at"]), kill_grace_s=float(read["kill_grace_s"]))
        except (ValueError, KeyError, TypeError):
            return None
        return contact if contact.confirmed_at <= now else None


class Due(Enum):
    """What a running job has coming to it."""

    NOTHING = auto()
    #: SIGTERM, once.
    STOP = auto()
    #: SIGKILL, for everything that it started.
    KILL = auto()


def due(contact: Contact | None, *, lease_s: float, now: float) -> Due:
    """Return what is due to a job that has no worker to look after it.

    :param contact: the last one; without any the bridge has permitted nothing to run.
    :param lease_s: the job's, in seconds.
    :param now: seconds since boot.
    """
    lease = None if contact is None else contact.lease(lease_s)
    if lease is None or now >= lease.kill_at:
        return Due.KILL
    return Due.STOP if now >= lease.stop_at else Due.NOTHING
