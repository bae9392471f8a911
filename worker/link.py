"""The worker's end of the connection, seen from its loop."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from edge_mqtt.broker_bridge.protocol.ids import JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import (
    AssignmentAccepted,
    AssignmentRejected,
    Finished,
    Message,
    Presence,
    WorkerState,
)
from edge_mqtt.broker_bridge.protocol.topics import Topics
from edge_mqtt.broker_bridge.transport.channel import MessageChannel
from edge_mqtt.broker_bridge.transport.interface import Refusal, Will
from edge_mqtt.certs.identity import Identity, Role

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Connected:
    """The connection is up."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection is down."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """There will be no connection."""

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Received:
    """A message came."""

    message: Message


LinkEvent = Connected | Disconnected | Refused | Received


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerAddress:
    """Who we are on the wire: what a transport must be given to be this worker's."""

    name: WorkerName
    #: New at every start of the program.
    incarnation: str
    topics: Topics

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """The topic filters of what is sent to us."""
        topics = self.topics
        return (topics.assignments(self.name), topics.control(self.name), topics.rpc_response(self.name))

    def will(self, connection: int) -> Will:
        """Return what the broker says when the connection number ``connection`` breaks."""
        offline = Presence(incarnation=self.incarnation, connection=connection, state=WorkerState.OFFLINE)
        return Will(topic=self.topics.presence(self.name), message=offline)


class Link:
    """Hands the transport's events to the loop, in order, and sends to the right topics."""

    def __init__(self, channel: MessageChannel, address: WorkerAddress) -> None:
        self._channel = channel
        self.address = address
        self._loop = asyncio.get_running_loop()
        #: What happened, for the message router.
        self.events: asyncio.Queue[LinkEvent] = asyncio.Queue()
        #: The bridge has welcomed this connection: what waits may be sent.
        self.ready = False

    @property
    def connection(self) -> int:
        """The number of the present connection."""
        return self._channel.connection

    @property
    def is_busy(self) -> bool:
        """Whether large messages wait or are on the way."""
        return self._channel.is_busy

    def start(self) -> None:
        """Begin connecting."""
        topic = self.address.topics.error_from(Identity(Role.WORKER, self.address.name))
        self._channel.start(self, answer_topic=lambda _: topic)

    def stop(self) -> None:
        """Say goodbye."""
        self.ready = False
        self._channel.stop()

    # ------------------------------------------------------------ MessageReceiver, from the transport's thread

    def connected(self) -> None:
        """Pass on."""
        self._put(Connected())

    def disconnected(self, reason: str) -> None:
        """Pass on."""
        self._put(Disconnected(reason))

    def refused(self, refusal: Refusal) -> None:
        """Pass on."""
        self._put(Refused(refusal))

    def received(self, topic: str, message: Message) -> None:  # noqa: ARG002 -- the listener's signature
        """Pass on. Only the bridge may write to our topics, says the access table."""
        self._put(Received(message))

    def _put(self, event: LinkEvent) -> None:
        try:
            self._loop.call_soon_threadsafe(self.events.put_nowait, event)
        except RuntimeError:
            # The loop is closed: the program is ending.
            log.debug("event after the end", extra={"action": "event_dropped"})

    def fail(self, message: Message, error: Exception) -> None:
        """Count and log that we fail at a message, and tell the bridge."""
        self._channel.fail(self.address.topics.control(self.address.name), message, error)

    # ------------------------------------------------------------ sending

    def send_presence(self, presence: Presence) -> bool:
        """Say that we are there."""
        return self._channel.send(self.address.topics.presence(self.address.name), presence, retain=True)

    def send_ack(self, message: AssignmentAccepted | AssignmentRejected) -> bool:
        """Answer an assignment."""
        return self._channel.send(self.address.topics.acks(self.address.name), message)

    def send_result(self, message: Finished) -> bool:
        """Report an outcome."""
        return self._channel.send(self.address.topics.results(self.address.name), message)

    def send_request(self, message: Message) -> bool:
        """Send a call.

        :raises CannotBeSent: its body is over the limit of a message.
        """
        return self._channel.send(self.address.topics.rpc_request(self.address.name), message)

    def send_log(self, job_id: JobId, message: Message) -> int:
        """Ship a chunk of log; return its bytes as they travel, 0 while there is no connection."""
        return self._channel.send_counted(self.address.topics.log(self.address.name, job_id), message)
