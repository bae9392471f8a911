"""Which MQTT quality of service each kind of message travels with.

Reliability is not left to the broker: every handover is kept by its sender until our own acknowledgement, and is
sent again after a reconnect. QoS 1 on the handovers themselves still helps within one connection and keeps other
MQTT clients (bridges, recorders) honest; answers and acknowledgements, which are repeated on demand, go with QoS 0.
"""

from __future__ import annotations

from typing import Final, Literal

QoS = Literal[0, 1]

#: Kinds that are answers to something that its sender repeats until it is answered.
_REPEATED_ON_DEMAND: Final = frozenset(
    {
        "admin_reply",
        "api_request",
        "api_response",
        "fragment",
        "log_ack",
        "presence_ack",
        "result_ack",
        "tail_reply",
    }
)


def qos_of(kind: str) -> QoS:
    """Return the QoS for messages of ``kind``."""
    return 0 if kind in _REPEATED_ON_DEMAND else 1
