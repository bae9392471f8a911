"""Every message, by who sends it. Frozen, discriminated by ``kind``, unknown fields ignored.

The sender's identity is never a field: it is the topic, which the access table ties to the certificate.
``id`` and ``sent_at`` of the envelope are stamped when a message is encoded; nothing is decided by them.
What must be recognised when it is sent again has an id of its own (``job_id`` and ``fence``, ``request_id``,
``sequence``, a log offset).
"""

from __future__ import annotations

from edge_mqtt.broker_bridge.protocol.messages.base import (
    PROTOCOL_VERSION,
    BinaryMessage,
    ErrorReply,
    Fragment,
    Message,
    Part,
)
from edge_mqtt.broker_bridge.protocol.messages.executor import (
    TAKEN,
    TAKEN_OVER,
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
from edge_mqtt.broker_bridge.protocol.messages.jobs import (
    JobSpec,
    Outcome,
    WorkloadType,
)
from edge_mqtt.broker_bridge.protocol.messages.operator import (
    LogSelector,
    LogStream,
    StreamBytes,
    TailReply,
    TailRequest,
)
from edge_mqtt.broker_bridge.protocol.messages.registry import MESSAGE_ADAPTER, AnyMessage
from edge_mqtt.broker_bridge.protocol.messages.worker import (
    ApiRequest,
    ApiResponse,
    Assign,
    AssignmentAccepted,
    AssignmentRejected,
    Cancel,
    Finished,
    HeldJob,
    HeldJobState,
    JobRef,
    LogAck,
    LogChunk,
    LogPosition,
    Presence,
    PresenceAck,
    ResultAck,
    StartRequest,
    Welcome,
    WorkerState,
)

__all__ = [
    "MESSAGE_ADAPTER",
    "PROTOCOL_VERSION",
    "TAKEN",
    "TAKEN_OVER",
    "AdoptReply",
    "AdoptRequest",
    "AnyMessage",
    "ApiRequest",
    "ApiResponse",
    "Assign",
    "AssignmentAccepted",
    "AssignmentRejected",
    "BinaryMessage",
    "Cancel",
    "CancelAck",
    "CancelJob",
    "ErrorReply",
    "EventAck",
    "ExecutorHello",
    "Finished",
    "Fragment",
    "HeldJob",
    "HeldJobState",
    "JobAccepted",
    "JobFinished",
    "JobRef",
    "JobSpec",
    "JobStarted",
    "LogAck",
    "LogChunk",
    "LogPosition",
    "LogSelector",
    "LogStream",
    "Message",
    "Outcome",
    "Part",
    "Presence",
    "PresenceAck",
    "ResultAck",
    "StartRequest",
    "StreamBytes",
    "Submit",
    "TailReply",
    "TailRequest",
    "Welcome",
    "WorkerState",
    "WorkloadType",
]
