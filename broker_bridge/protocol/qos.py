"""Which MQTT quality of service each kind of message travels with, and which kinds wait for their turn.

Reliability is not left to the broker: every handover is kept by its sender until our own acknowledgement, and is sent
again on a live connection and after a reconnect. What is repeated so, and what answers it, travels with QoS 0: a
PUBACK would say less, for 30 bytes and a wake-up of both sides. QoS 1 is for what no party repeats while the
connection lasts.
"""

from __future__ import annotations

from typing import Final, Literal

from edge_mqtt.broker_bridge.protocol.limits import MAX_PACKET_BYTES, MAX_TURN_BYTES

QoS = Literal[0, 1]

#: Kinds that their sender repeats until they are answered.
_REPEATED: Final = frozenset(
    {
        "adopt_request",
        "api_request",
        "assign",
        "assignment_accepted",
        "cancel_job",
        "finished",
        "log_chunk",
        "start_request",
        "submit",
        "tail_request",
    }
)
#: Kinds that are answers to something that its sender repeats until it is answered.
_ANSWERS: Final = frozenset(
    {
        "adopt_reply",
        "api_response",
        "cancel_ack",
        "job_accepted",
        "log_ack",
        "presence_ack",
        "result_ack",
        "tail_reply",
    }
)


#: Kinds that travel with QoS 0.
WITHOUT_PUBACK: Final = _REPEATED | _ANSWERS


def qos_of(kind: str) -> QoS:
    """Return the QoS for messages of ``kind``; fragments have 1, as their PUBACK says how fast the link is."""
    return 0 if kind in WITHOUT_PUBACK else 1


#: Kinds that may be large. They travel in small fragments, and what is of other kinds, or small, goes before these.
TAKE_TURNS: Final = frozenset({"api_request", "api_response", "assign", "submit", "tail_reply"})


def largest_packet(kind: str) -> int:
    """Return the bytes of a packet of ``kind`` that travels as a whole, at most."""
    return MAX_TURN_BYTES if kind in TAKE_TURNS else MAX_PACKET_BYTES
