"""All kinds of message, told apart by ``kind``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, get_args

from edge_mqtt.broker_bridge.protocol.messages.base import (
    ErrorReply,
    Fragment,
)
from edge_mqtt.broker_bridge.protocol.messages.executor import (
    AdoptReply,
    AdoptRequest,
    CancelAck,
    CancelJob,
    EventAck,
    ExecutorHello,
    JobAccepted,
    JobFinished,
    JobStarted,
    Submit,
)
from edge_mqtt.broker_bridge.protocol.messages.operator import (
    TailReply,
    TailRequest,
)
from edge_mqtt.broker_bridge.protocol.messages.worker import (
    ApiRequest,
    ApiResponse,
    Assign,
    AssignmentAccepted,
    AssignmentRejected,
    Cancel,
    Finished,
    LogAck,
    LogChunk,
    Presence,
    PresenceAck,
    ResultAck,
    StartRequest,
    Welcome,
)

AnyMessage = (
    Submit
    | ExecutorHello
    | EventAck
    | CancelJob
    | AdoptRequest
    | JobAccepted
    | JobStarted
    | JobFinished
    | AdoptReply
    | CancelAck
    | Assign
    | Welcome
    | PresenceAck
    | ResultAck
    | LogAck
    | Cancel
    | Presence
    | AssignmentAccepted
    | AssignmentRejected
    | Finished
    | LogChunk
    | ApiRequest
    | StartRequest
    | ApiResponse
    | TailRequest
    | TailReply
    | Fragment
    | ErrorReply
)

MESSAGE_OF_KIND: Final[Mapping[str, type[AnyMessage]]] = {
    model.model_fields["kind"].default: model for model in get_args(AnyMessage)
}
