"""A bridge for the executor's tests: remembers what it is sent, answers what a test tells it to."""

from __future__ import annotations

import queue
import uuid
from typing import TypeVar

from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, JobId
from edge_mqtt.broker_bridge.protocol.messages import (
    AdoptReply,
    AdoptRequest,
    CancelAck,
    CancelJob,
    ExecutorHello,
    JobAccepted,
    JobFinished,
    JobStarted,
    Message,
    Outcome,
    Submit,
)
from edge_mqtt.broker_bridge.protocol.topics import Topics
from edge_mqtt.broker_bridge.transport.channel import MessageChannel
from edge_mqtt.broker_bridge.transport.interface import Refusal
from edge_mqtt.broker_bridge.transport.memory import MemoryBroker, MemoryTransport
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.executor.bridge_client import PreparedConnection

#: Seconds that a test waits for something that must come.
PATIENCE_S = 10.0
ME = Identity(Role.EXECUTOR, "exec-1")
TOPICS = Topics()

M = TypeVar("M", bound=Message)


def line_to(broker: MemoryBroker) -> PreparedConnection:
    """Return a line over memory with an executor's subscriptions."""
    subscriptions = (TOPICS.events(ExecutorName(ME.name)), TOPICS.admin_response(ME))
    return PreparedConnection(identity=ME, transport=MemoryTransport(broker, ME.client_id, subscriptions))


class TwinBridge:
    """Speaks the bridge's side over a memory broker."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.broker = broker
        self.inbox: queue.Queue[tuple[str, Message]] = queue.Queue()
        #: Jobs that it knows, by state; a submit adds one when ``accepts``.
        self.states: dict[JobId, str] = {}
        self.accepts = True
        #: Jobs that it was asked about and did not know: it takes them no more.
        self.denied: set[JobId] = set()
        self.answers_adoption = True
        self.answers_cancels = True
        self._channel = MessageChannel(MemoryTransport(broker, "bridge:b", TOPICS.for_bridge()))
        self._channel.start(self)

    # ------------------------------------------------------------ MessageReceiver

    def connected(self) -> None:
        pass

    def disconnected(self, reason: str) -> None:
        pass

    def refused(self, refusal: Refusal) -> None:
        raise AssertionError(refusal)

    def received(self, topic: str, message: Message) -> None:
        if isinstance(message, Submit) and self.accepts:
            self.take(message.job.job_id)
        if isinstance(message, AdoptRequest) and self.answers_adoption:
            self.answer(message)
        if isinstance(message, CancelJob) and self.answers_cancels:
            self.tell(CancelAck(job_id=message.job_id))
        self.inbox.put((topic, message))

    # ------------------------------------------------------------ what tests use

    def take(self, job_id: JobId) -> None:
        if job_id in self.denied - self.states.keys():
            self.tell(JobFinished(job_id=job_id, outcome=Outcome.LOST, detail="given up"))
            return
        self.states.setdefault(job_id, "queued")
        self.tell(JobAccepted(job_id=job_id))

    def answer(self, request: AdoptRequest) -> None:
        self.denied.update(request.job_ids)
        known = {job_id: self.states[job_id] for job_id in request.job_ids if job_id in self.states}
        self._channel.send(TOPICS.admin_response(ME), AdoptReply(request_id=request.request_id, states=known))

    def tell(self, message: Message) -> None:
        self._channel.send(TOPICS.events(ExecutorName(ME.name)), message)

    def started(self, job_id: JobId) -> None:
        self.states[job_id] = "running"
        self.tell(JobStarted(job_id=job_id, worker="lab-3"))

    def finished(
        self, job_id: JobId, outcome: Outcome = Outcome.SUCCESS, detail: str = "", *, told: str | None = None
    ) -> None:
        """Tell the end of a job.

        :param told: what its task has told Airflow; None: what goes with the outcome.
        """
        self.states[job_id] = "finished"
        if told is None:
            told = "success" if outcome is Outcome.SUCCESS else ""
        self.tell(JobFinished(job_id=job_id, outcome=outcome, detail=detail, told=told, worker="lab-3"))

    def next_message(self) -> tuple[str, Message]:
        return self.inbox.get(timeout=PATIENCE_S)

    def expect(self, kind: type[M]) -> M:
        """Return the next message of ``kind``, passing over others."""
        while True:
            _, message = self.next_message()
            if isinstance(message, kind):
                return message

    def hear_everything(self) -> list[Message]:
        """Return, and forget, what has come so far."""
        heard = []
        while not self.inbox.empty():
            heard.append(self.inbox.get_nowait()[1])
        return heard

    def reconnect(self) -> None:
        """Have the executor lose its connection and come back."""
        self.broker.cut(ME.client_id)
        self.broker.restore(ME.client_id)
        self.wait_for_executor()

    def wait_for_executor(self) -> None:
        """Wait until an executor has said hello."""
        self.expect(ExecutorHello)


def new_job_id() -> JobId:
    return JobId(str(uuid.uuid4()))
