"""Where every message to the bridge arrives and every message of it leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from edge_mqtt.broker_bridge.dispatch.core.effects import Assigned, Effect, Moved, ToAdmin, ToExecutor, ToWorker
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job
from edge_mqtt.broker_bridge.dispatch.event_mapping import event_for
from edge_mqtt.broker_bridge.dispatch.ledger.interface import LedgerError
from edge_mqtt.broker_bridge.dispatch.service import DispatchService
from edge_mqtt.broker_bridge.execution_api.relay import Relay
from edge_mqtt.broker_bridge.logs.receiver import LogReceiver
from edge_mqtt.broker_bridge.logs.store import LogPathRefused
from edge_mqtt.broker_bridge.logs.tail_service import TailService
from edge_mqtt.broker_bridge.protocol.errors import InvalidTopic, MessageTooLarge, ProtocolError, one_line
from edge_mqtt.broker_bridge.protocol.ids import JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import (
    TAKEN_OVER,
    ApiRequest,
    ErrorReply,
    JobAccepted,
    JobFinished,
    LogChunk,
    LogPosition,
    Message,
    Outcome,
    StartRequest,
    TailRequest,
    Welcome,
)
from edge_mqtt.broker_bridge.protocol.topics import Topics, sender_of
from edge_mqtt.broker_bridge.transport.channel import MessageChannel
from edge_mqtt.broker_bridge.transport.interface import Refusal
from edge_mqtt.certs.identity import Identity, InvalidName, Role

log = logging.getLogger(__name__)


class MessageRouter:
    """Sends every message that arrives to the part that answers it, and the dispatcher's effects out."""

    def __init__(
        self,
        topics: Topics,
        channel: MessageChannel,
        *,
        service: DispatchService,
        relay: Relay,
        intake: LogReceiver,
        tail: TailService,
        note: str = "",
    ) -> None:
        """Prepare.

        :param note: what operators who follow a run are told; empty for nothing.
        """
        self._topics = topics
        self._channel = channel
        self._service = service
        self._relay = relay
        self._intake = intake
        self._tail = tail
        self._note = note
        #: Queues that an operator has been told nobody serves.
        self._unserved: set[str] = set()
        self._answering: set[asyncio.Task[None]] = set()
        #: What each operator reads at the moment: one thing, so that a repeated request replaces the one before.
        self._tailing: dict[str, asyncio.Task[None]] = {}

    # ------------------------------------------------------------ MessageReceiver

    def connected(self) -> None:
        """Do nothing: the broker is in this process."""

    def disconnected(self, reason: str) -> None:
        """Do nothing: see :meth:`connected`."""

    def refused(self, refusal: Refusal) -> None:
        """Do nothing: see :meth:`connected`."""

    def received(self, topic: str, message: Message) -> None:
        """Hand ``message`` on."""
        if isinstance(message, ErrorReply):
            log.warning(
                "%s did not understand a message of this bridge: %s",
                sender_of(topic),
                one_line(message.error),
                extra={"action": "message_not_understood", "topic": topic},
            )
            return
        try:
            levels = self._topics.parse(topic)
            if not self._answer(levels, message):
                event = event_for(levels, message)
                if event is None:
                    raise InvalidTopic(f"a {message.kind} message has no business on {topic}")
                self._service.post(event)
        except (ProtocolError, InvalidName) as error:
            self._channel.reject(topic, one_line(str(error)))

    def _answer(self, levels: tuple[str, ...], message: Message) -> bool:
        """Begin to answer what is answered by other parts than the dispatcher; tell whether it was that."""
        match levels, message:
            case ("logs", worker, job_id), LogChunk() if message.job_id == job_id:
                self._intake.put(WorkerName(worker), message)
            case ("rpc", worker, "request"), (ApiRequest() | StartRequest()):
                self._begin("call", self._answer_call(WorkerName(worker), message))
            case ("admin", client_id, "request"), TailRequest():
                before = self._tailing.pop(client_id, None)
                if before is not None:
                    before.cancel()
                self._tailing[client_id] = self._begin("tail", self._answer_tail(client_id, message))
            case _:
                return False
        return True

    def _begin(self, name: str, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine, name=f"bridge.{name}")
        self._answering.add(task)
        task.add_done_callback(self._answered)
        return task

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._answering.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error, extra={"action": "answer_failed"})

    async def _answer_call(self, worker: WorkerName, request: ApiRequest | StartRequest) -> None:
        response = await self._relay.answer(worker, request)
        if response is not None:
            self._send(self._topics.rpc_response(worker), response)

    async def _answer_tail(self, client_id: str, request: TailRequest) -> None:
        reply = await self._tail.answer(request)
        if self._note and request.wait_s > 0 and request.selector.dag_id is not None:
            reply = reply.model_copy(update={"note": self._note})
        self._send(self._topics.admin_response(Identity.from_client_id(client_id)), reply)

    async def stop(self) -> None:
        """End every answer under way."""
        for task in self._answering:
            task.cancel()
        await asyncio.gather(*self._answering, return_exceptions=True)

    # ------------------------------------------------------------ what the parts want to say

    def perform(self, effect: Effect) -> None:
        """Send what the dispatcher decided to send."""
        match effect:
            case ToWorker(worker=worker, message=Welcome() as welcome):
                self._begin("welcome", self._welcome(worker, welcome))
            case ToWorker():
                self._send(self._topics.control(effect.worker), effect.message)
            case Assigned():
                self._send(self._topics.assignment(effect.queue, effect.worker), effect.message)
                _log_job("job assigned", effect.message.job.job_id, worker=effect.worker, fence=effect.message.fence)
            case ToExecutor():
                self._send(self._topics.events(effect.executor), effect.message)
                self._log_event(effect.message)
            case Moved():
                self._moved(effect.job)
            case ToAdmin():
                self._send(self._topics.admin_response(Identity(Role.EXECUTOR, effect.executor)), effect.message)

    def _log_event(self, message: Message) -> None:
        match message:
            case JobAccepted():
                self._accepted(message.job_id)
            case JobFinished(detail=detail) if detail == TAKEN_OVER:
                _log_job("job taken over", message.job_id)
            case JobFinished() if self._service.job(message.job_id) is None:
                _log_job("job denied", message.job_id, detail=message.detail)

    def _moved(self, job: Job) -> None:
        if job.state is CentralJobState.RUNNING:
            if not job.ships_log:
                self._intake.started(job.id)
            _log_job("job started", job.id, worker=job.worker)
            return
        what = "job cancelled" if job.outcome is Outcome.CANCELLED else "job finished"
        _log_job(what, job.id, worker=job.worker or "", outcome=job.outcome, detail=job.detail or None)

    def _accepted(self, job_id: JobId) -> None:
        job = self._service.job(job_id)
        queue = job.spec.queue if job is not None else None
        _log_job("job accepted", job_id, queue=queue, dag_id=job.spec.dag_id if job is not None else None)
        if queue is None or self._service.is_served(queue):
            self._unserved.discard(queue or "")
        elif queue not in self._unserved:
            self._unserved.add(queue)
            log.warning(
                "no connected worker serves queue %r: its jobs wait; start one with --queues %s",
                queue,
                queue,
                extra={"action": "queue_unserved"},
            )

    async def _welcome(self, worker: WorkerName, welcome: Welcome) -> None:
        """Complete the welcome with how much of each log is here."""
        logs = [
            LogPosition(job_id=position.job_id, offset=await self._stored(position.job_id))
            for position in welcome.logs
        ]
        self._send(self._topics.control(worker), welcome.model_copy(update={"logs": tuple(logs)}))

    async def _stored(self, job_id: JobId) -> int:
        try:
            return await self._intake.stored(job_id)
        except (OSError, LogPathRefused, LedgerError) as error:
            # From the beginning, then: what is here is recognised. Without a welcome the worker could not go on.
            log.warning(
                "a log's size is not known: %s", error, extra={"action": "log_size_unknown", "job_id": job_id}
            )
            return 0

    def _send(self, topic: str, message: Message) -> None:
        try:
            self._channel.send(topic, message)
        except MessageTooLarge as error:
            log.error(  # noqa: TRY400  a traceback says nothing more
                "message not sent: %s", error, extra={"action": "message_too_large", "topic": topic}
            )


def _log_job(what: str, job_id: JobId, **fields: object) -> None:
    given = {name: value for name, value in fields.items() if value is not None}
    log.info(what, extra={"action": what.replace(" ", "_"), "job_id": job_id, **given})
