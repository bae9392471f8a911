"""How long running jobs may go on without the centre."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Self

from edge_mqtt.broker_bridge.protocol.lease import LEASE_MARGIN_S


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """When running jobs are stopped. Times are seconds since boot, suspension included."""

    #: SIGTERM from here on.
    stop_at: float
    #: SIGKILL from here on.
    kill_at: float

    @classmethod
    def granted(cls, *, confirmed_at: float, offline_grace_s: float, kill_grace_s: float) -> Self:
        """Return the lease that a confirmed contact gives.

        It ends on the worker before it ends in the centre, which counts from the receipt of the same message.

        :param confirmed_at: when the presence that the centre has confirmed was sent.
        """
        kill_at = confirmed_at + offline_grace_s - LEASE_MARGIN_S
        return cls(stop_at=kill_at - kill_grace_s, kill_at=kill_at)

    def to_json(self) -> bytes:
        """Return it as JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self | None:
        """Read what :meth:`to_json` wrote; None when it is something else."""
        try:
            read = json.loads(data)
            return cls(stop_at=float(read["stop_at"]), kill_at=float(read["kill_at"]))
        except (ValueError, KeyError, TypeError):
            return None
