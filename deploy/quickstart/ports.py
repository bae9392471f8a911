"""Which TCP ports the stack listens on."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass

#: Everything in the stack listens on this machine's loopback only.
HOST = "127.0.0.1"
#: Where a bridge is expected: the one port that every firewall lets out.
BRIDGE_PORT = 443
#: Where Airflow's UI is expected.
UI_PORT = 8080


@dataclass(frozen=True, kw_only=True, slots=True)
class Ports:
    """The ports of one stack."""

    ui: int
    bridge: int
    health: int

    @classmethod
    def free(cls) -> Ports:
        """Return ports that are free now."""
        return cls.preferring(ui=0, bridge=0)

    @classmethod
    def preferring(cls, *, ui: int = UI_PORT, bridge: int = BRIDGE_PORT) -> Ports:
        """Return these ports, each replaced by a free one when it cannot be had."""
        # All are held until the last is chosen, so that none is given out twice.
        with contextlib.ExitStack() as held:
            return cls(ui=_take(held, ui), bridge=_take(held, bridge), health=_take(held, 0))


def _take(held: contextlib.ExitStack, wanted: int) -> int:
    probe = held.enter_context(socket.socket())
    # As the servers do it: a connection in TIME_WAIT must not make a port look taken.
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind((HOST, wanted))
        probe.listen(1)
    except OSError:
        if not wanted:
            raise
        return _take(held, 0)
    port: int = probe.getsockname()[1]
    return port
