"""Where every message to the bridge arrives."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from edge_mqtt.broker_bridge.background_tasks import BackgroundTasks
from edge_mqtt.broker_bridge.dispatch.core.events import SubmissionFailed
from edge_mqtt.broker_bridge.dispatch.event_mapping import event_for
from edge_mqtt.broker_bridge.dispatch.service import DispatchService
from edge_mqtt.broker_bridge.execution_api.relay import Relay
from edge_mqtt.broker_bridge.logs.receiver import LogReceiver
from edge_mqtt.broker_bridge.logs.tail_service import TailService
from edge_mqtt.broker_bridge.outbound import Outbound
from edge_mqtt.broker_bridge.protocol.errors import (
    InvalidTopic,
    MalformedSubmit,
    ProtocolError,
    failure_line,
    one_line,
)
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import (
    ApiRequest,
    ErrorReply,
    LogChunk,
    Message,
    Presence,
    StartRequest,
    TailReply,
    TailRequest,
    WorkerState,
)
from edge_mqtt.broker_bridge.protocol.topics import Topics, sender_of
from edge_mqtt.broker_bridge.transport.channel import MessageChannel
from edge_mqtt.broker_bridge.transport.interface import Refusal
from edge_mqtt.broker_bridge.worker_clocks import WorkerClocks
from edge_mqtt.certs.identity import Identity, InvalidName

log = logging.getLogger(__name__)


class MessageRouter:
    """Hands every message to the part that answers it: the dispatcher, the relay, or what is there for logs.

    :param note: what operators who follow a run are told; empty for nothing.
    """

    def __init__(
        self,
        topics: Topics,
        channel: MessageChannel,
        *,
        outbound: Outbound,
        dispatch: DispatchService,
        relay: Relay,
        receiver: LogReceiver,
        tail: TailService,
        tasks: BackgroundTasks,
        note: str = "",
    ) -> None:
        self._topics = topics
        self._channel = channel
        self._outbound = outbound
        self._dispatch = dispatch
        self._relay = relay
        self._receiver = receiver
        self._tail = tail
        self._tasks = tasks
        self._note = note
        self._clocks = WorkerClocks()
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
            if isinstance(message, Presence) and message.state is not WorkerState.OFFLINE:
                self._clocks.record_offset(WorkerName(levels[1]), message.clock_offset_s)
            if not self._begin_answer(levels, message):
                event = event_for(levels, message)
                if event is None:
                    raise InvalidTopic(f"a {message.kind} message has no business on {topic}")
                self._dispatch.post(event, partial(self._channel.tell_rejected, topic))
        except (ProtocolError, InvalidName) as error:
            self._channel.reject(topic, one_line(str(error)))

    def refuse_submit(self, topic: str, error: MalformedSubmit) -> None:
        """Have a job fail that is malformed."""
        match self._topics.parse(topic):
            case ("jobs", _, "from", executor):
                failure = SubmissionFailed(executor=ExecutorName(executor), job_id=error.job_id, reason=str(error))
                self._dispatch.post(failure)

    # ------------------------------------------------------------ answers

    def _begin_answer(self, levels: tuple[str, ...], message: Message) -> bool:
        """Begin to answer what is answered by other parts than the dispatcher; tell whether it was that."""
        match levels, message:
            case ("logs", worker, job_id), LogChunk() if message.job_id == job_id:
                self._receiver.accept_chunk(WorkerName(worker), message)
            case ("rpc", worker, "request"), (ApiRequest() | StartRequest()):
                self._tasks.start("call", self._answer_call(WorkerName(worker), message))
            case ("admin", client_id, "request"), TailRequest():
                before = self._tailing.pop(client_id, None)
                if before is not None:
                    before.cancel()
                self._tailing[client_id] = self._tasks.start("tail", self._answer_tail(client_id, message))
            case _:
                return False
        return True

    async def _answer_call(self, worker: WorkerName, request: ApiRequest | StartRequest) -> None:
        response = await self._relay.answer(worker, request)
        if response is not None:
            self._outbound.send(self._topics.rpc_response(worker), response)

    async def _answer_tail(self, client_id: str, request: TailRequest) -> None:
        try:
            reply = await self._tail.answer(request)
        except Exception as error:  # noqa: BLE001  who asks is told, and nobody else notices
            problem = f"the bridge failed: {failure_line(error)}"
            log.error("a tail request failed: %s", problem, extra={"action": "tail_failed"})  # noqa: TRY400  one line
            reply = TailReply(request_id=request.request_id, error=problem, ended=True)
        if self._note and request.wait_s > 0 and request.selector.dag_id is not None:
            reply = reply.model_copy(update={"note": self._note})
        self._outbound.send(self._topics.admin_response(Identity.from_client_id(client_id)), reply)
