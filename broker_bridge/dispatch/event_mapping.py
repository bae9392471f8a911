"""From messages to events: the sender is read off the topic, which the access table ties to a certificate."""

from __future__ import annotations

from edge_mqtt.broker_bridge.dispatch.core import events
from edge_mqtt.broker_bridge.dispatch.core.events import Event
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import (
    AdoptRequest,
    AssignmentAccepted,
    AssignmentRejected,
    CancelJob,
    EventAck,
    ExecutorHello,
    Finished,
    Message,
    Presence,
    Submit,
)
from edge_mqtt.certs.identity import Identity, Role


def event_for(levels: tuple[str, ...], message: Message) -> Event | None:
    """Return the event that ``message`` on the topic with these levels is; None when it is none.

    :param levels: the topic's levels below prefix and version, as :meth:`Topics.parse` gives them.
    """
    match levels, message:
        case ("jobs", queue, "from", executor), Submit() if message.job.queue == queue:
            return events.Submitted(executor=ExecutorName(executor), job=message.job, token=message.token)
        case ("workers", worker), Presence():
            return events.WorkerSeen(worker=WorkerName(worker), presence=message)
        case ("results", worker), Finished():
            return events.ResultReported(worker=WorkerName(worker), result=message)
        case ("acks", worker), _:
            return _acknowledgement(WorkerName(worker), message)
        case ("admin", client_id, "request"), _:
            identity = Identity.from_client_id(client_id)
            return _command(ExecutorName(identity.name), message) if identity.role is Role.EXECUTOR else None
    return None


def _acknowledgement(worker: WorkerName, message: Message) -> Event | None:
    match message:
        case AssignmentAccepted():
            return events.JobAccepted(worker=worker, job_id=message.job_id, fence=message.fence)
        case AssignmentRejected():
            return events.JobRejected(
                worker=worker,
                job_id=message.job_id,
                fence=message.fence,
                reason=message.reason,
                permanent=message.permanent,
                takes_none=message.takes_none,
            )
    return None


def _command(executor: ExecutorName, message: Message) -> Event | None:
    match message:
        case ExecutorHello():
            return events.ExecutorConnected(executor=executor)
        case EventAck():
            return events.EventAcked(executor=executor, job_id=message.job_id)
        case CancelJob():
            return events.CancelAsked(executor=executor, job_id=message.job_id, unless_started=message.unless_started)
        case AdoptRequest():
            return events.AdoptAsked(
                executor=executor,
                request_id=message.request_id,
                job_ids=message.job_ids,
                take_over=message.take_over,
            )
    return None
