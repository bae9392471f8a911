"""All kinds of message, told apart by ``kind``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, TypeAdapter

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

AnyMessage = Annotated[
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
    | ErrorReply,
    Field(discriminator="kind"),
]

MESSAGE_ADAPTER: TypeAdapter[AnyMessage] = TypeAdapter(AnyMessage)
