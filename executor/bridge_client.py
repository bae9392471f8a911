"""The executor's link to the bridge: everything handed to it is kept until the bridge has answered for it.

Independent of Airflow. Calls come from the scheduler's thread, news from the transport's thread; a thread of the
link's own repeats what is unanswered and dials again after a refusal. Nothing here waits for the network except
``adopt`` and ``flush``, which have a time limit.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_mqtt.broker_bridge.protocol.errors import MessageTooLarge
from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import (
    ErrorReply,
    EventAck,
    ExecutorHello,
    JobSpec,
    Message,
)
from edge_mqtt.broker_bridge.protocol.topics import Topics
from edge_mqtt.broker_bridge.transport.channel import MessageChannel
from edge_mqtt.broker_bridge.transport.interface import Refusal, Transport
from edge_mqtt.certs.identity import Identity
from edge_mqtt.executor.errors import CannotDial
from edge_mqtt.executor.outbox import Adoption, News, Outbox, Unanswered

log = logging.getLogger(__name__)

#: Seconds that ``stop`` waits for the link's thread.
_JOIN_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class BridgeConnector:
    """A transport that has not been started, and who we are on it."""

    identity: Identity
    transport: Transport


@dataclass(frozen=True, kw_only=True, slots=True)
class BridgeClientTiming:
    """Waits, in seconds."""

    #: Until something unanswered is sent again; doubled each time up to ``resend_at_most_s``.
    resend_s: float = 5.0
    resend_at_most_s: float = 60.0
    #: Between attempts after a refusal, and between complaints while the bridge is out of reach.
    redial_s: float = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class BridgeStatus:
    """A look at the link, for people."""

    connected: bool
    #: How many connections the present line has had.
    connections: int
    #: Why there is no connection.
    problem: str
    unanswered: int
    unsent_acks: int


@dataclass(frozen=True, slots=True)
class _Open:
    """A line in use."""

    identity: Identity
    channel: MessageChannel


class BridgeClient:
    """Keeps the connection, repeats what is unanswered, collects what comes in. Thread-safe."""

    def __init__(
        self,
        dial: Callable[[], BridgeConnector],
        *,
        topics: Topics,
        name: str = "executor",
        timing: BridgeClientTiming | None = None,
    ) -> None:
        """Prepare; nothing is connected before ``start``.

        :param dial: makes a fresh line; raises CannotDial, which is tried again later.
        :param name: for the thread's name.
        """
        self._dial = dial
        self._topics = topics
        self._timing = timing or BridgeClientTiming()
        self._exchange = Outbox(
            topics, resend_s=self._timing.resend_s, resend_at_most_s=self._timing.resend_at_most_s
        )
        # Reentrant, because a signal handler that asks for the status may interrupt a call in the same thread.
        self._changed = threading.Condition(threading.RLock())
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{name}.link", daemon=True)
        self._line: _Open | None = None
        self._connected = False
        self._greeted = False
        self._stopping = False
        self._problem = "not connected yet"
        #: When to dial, in monotonic seconds; None: there is a line, which its transport keeps up.
        self._dial_at: float | None = 0.0
        self._complain_at = time.monotonic() + self._timing.redial_s

    # ------------------------------------------------------------ for the executor

    def start(self) -> None:
        """Begin connecting; return at once."""
        self._thread.start()

    def submit(self, job: JobSpec, token: str) -> None:
        """Hand over a job; repeated until the bridge has it."""
        with self._changed:
            item = self._exchange.submit(job, token, time.monotonic())
        self._send_first(item)

    def cancel(self, job_id: JobId) -> None:
        """Have a job stopped; repeated until the bridge has taken note."""
        with self._changed:
            item = self._exchange.cancel(job_id, time.monotonic())
        self._send_first(item)

    def acknowledge(self, job_id: JobId) -> None:
        """Tell the bridge that Airflow has the job's final event."""
        with self._changed:
            self._exchange.acknowledge(job_id)
        self._send_acks()

    def dismiss(self, job_id: JobId) -> None:
        """Acknowledge the job's final event whenever it comes, without handing it out; submit it no more."""
        with self._changed:
            self._exchange.dismiss(job_id)
        self._wake.set()

    def adopt(self, job_ids: Sequence[JobId], *, timeout_s: float) -> Adoption:
        """Take over jobs of another executor; tell which of them the bridge does not know.

        :param timeout_s: seconds to wait for the answer. What is not answered in time is asked again, and jobs that
            turn out to be unknown come as :class:`UnknownJobs`.
        """
        with self._changed:
            asked = self._exchange.adopt(job_ids)
        self._wake.set()
        with self._changed:
            self._changed.wait_for(lambda: self._exchange.is_answered(asked) or self._stopping, timeout_s)
            return self._exchange.answer(asked)

    def news(self) -> list[News]:
        """Return what has come in since the last call, oldest first."""
        with self._changed:
            news = self._exchange.read()
        self._send_acks()
        return news

    def flush(self, *, timeout_s: float) -> bool:
        """Wait until the bridge has every submitted job and acknowledgement; False when there is something left."""
        with self._changed:
            self._changed.wait_for(lambda: not self._connected or self._exchange.is_clear, timeout_s)
            return self._exchange.is_clear

    def stop(self) -> None:
        """End the connection; what is unanswered is forgotten."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(_JOIN_S)
        with self._changed:
            line, self._line, self._connected = self._line, None, False
            self._problem = "stopped"
        if line is not None:
            line.channel.stop()

    def status(self) -> BridgeStatus:
        """Return how things stand."""
        with self._changed:
            return BridgeStatus(
                connected=self._connected,
                connections=0 if self._line is None else self._line.channel.connection,
                problem="" if self._connected else self._problem,
                unanswered=self._exchange.unanswered,
                unsent_acks=self._exchange.acks,
            )

    # ------------------------------------------------------------ for the transport

    def connected(self) -> None:
        """Have everything unanswered sent again: the bridge may never have seen it."""
        with self._changed:
            self._connected, self._greeted = True, False
            self._exchange.restart()
            waiting = self._exchange.unanswered
        log.info(
            "connected to the bridge, %d messages to send", waiting, extra={"action": "link_up", "waiting": waiting}
        )
        self._wake.set()

    def disconnected(self, reason: str) -> None:
        """Note that the connection is gone; the transport goes on trying."""
        with self._changed:
            was_connected, self._connected, self._problem = self._connected, False, reason
            if was_connected:
                self._complain_at = time.monotonic() + self._timing.redial_s
            quiet = self._stopping or not was_connected
            self._changed.notify_all()
        if not quiet:
            log.warning(
                "lost the connection to the bridge (%s): new jobs wait until it is back",
                reason,
                extra={"action": "link_down", "reason": reason},
            )
        self._wake.set()

    def refused(self, refusal: Refusal) -> None:
        """Say why the bridge will not have us and plan to try again: somebody may mend it meanwhile."""
        with self._changed:
            refused, self._line, self._connected = self._line, None, False
        if refused is not None:
            # It may have stopped by itself: this lets go of what it holds.
            refused.channel.stop()
        self._redial_later(refusal.message)
        self._wake.set()

    def received(self, topic: str, message: Message) -> None:
        """Take one message."""
        with self._changed:
            postponed = self._exchange.postponed
            understood = self._exchange.take(message)
            has_to_send = self._exchange.acks > 0 or self._exchange.postponed < postponed
            self._changed.notify_all()
        if has_to_send:
            self._wake.set()
        if isinstance(message, ErrorReply):
            log.warning(
                "the bridge did not understand a message: %s", message.error, extra={"action": "bridge_error"}
            )
        elif not understood:
            log.warning(
                "a %s message is nothing for an executor: ignored",
                message.kind,
                extra={"action": "message_ignored", "topic": topic},
            )

    # ------------------------------------------------------------ sending

    def _open_line(self) -> _Open | None:
        with self._changed:
            return self._line if self._connected else None

    def _send_first(self, item: Unanswered) -> None:
        """Send at once when there is a connection, else the next one will; have the link's thread repeat it."""
        self._send(item)
        self._wake.set()

    def _send(self, item: Unanswered) -> None:
        """Send, outside the lock because a transport may deliver the answer in the same call."""
        line = self._open_line()
        if line is None:
            return
        try:
            for topic, message in item.post(line.identity):
                line.channel.send(topic, message)
        except MessageTooLarge as error:
            # Reported to Airflow as the job's failure, which is where its owner looks.
            log.error("not sent: %s", error, extra={"action": "message_too_large", "jobs": item.jobs})  # noqa: TRY400
            with self._changed:
                self._exchange.give_up(item, str(error))

    def _send_acks(self) -> None:
        line = self._open_line()
        if line is None:
            return
        with self._changed:
            acks = self._exchange.take_acks()
        topic = self._topics.admin_request(line.identity)
        unsent = [job_id for job_id in acks if not line.channel.send(topic, EventAck(job_id=job_id))]
        with self._changed:
            for job_id in unsent:
                self._exchange.acknowledge(job_id)
            self._changed.notify_all()

    def _greet(self) -> None:
        line = self._open_line()
        if line is None or self._greeted:
            return
        self._greeted = True
        line.channel.send(self._topics.admin_request(line.identity), ExecutorHello())

    # ------------------------------------------------------------ the link's thread

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            self._dial_when_due()
            self._greet()
            self._send_due()
            self._send_acks()
            self._complain_when_due()
            self._wake.wait(self._pause_s())

    def _pause_s(self) -> float | None:
        """Return the seconds until there is something to do; None: until something happens."""
        with self._changed:
            if self._dial_at is not None:
                next_at: float | None = self._dial_at
            elif self._connected:
                next_at = self._exchange.next_due_at()
            else:
                next_at = self._complain_at
        return None if next_at is None else max(0.0, next_at - time.monotonic())

    def _send_due(self) -> None:
        with self._changed:
            due = self._exchange.due(time.monotonic()) if self._connected else []
        for item in due:
            self._send(item)

    def _dial_when_due(self) -> None:
        with self._changed:
            if self._dial_at is None or time.monotonic() < self._dial_at:
                return
        try:
            line = self._dial()
        except CannotDial as error:
            self._redial_later(str(error))
            return
        channel = MessageChannel(line.transport)
        with self._changed:
            if self._stopping:
                return
            self._line, self._dial_at = _Open(line.identity, channel), None
            self._complain_at = time.monotonic() + self._timing.redial_s
        error_topic = self._topics.error_from(line.identity)
        channel.start(self, answer_topic=lambda _: error_topic)

    def _redial_later(self, problem: str) -> None:
        with self._changed:
            self._problem = problem
            self._dial_at = time.monotonic() + self._timing.redial_s
            waiting = self._exchange.unanswered
            self._changed.notify_all()
        log.error(
            "no connection to the bridge: %s (%d messages wait; next attempt in %.0f s)",
            problem,
            waiting,
            self._timing.redial_s,
            extra={"action": "link_refused", "waiting": waiting},
        )

    def _complain_when_due(self) -> None:
        with self._changed:
            if self._connected or self._dial_at is not None or time.monotonic() < self._complain_at:
                return
            self._complain_at = time.monotonic() + self._timing.redial_s
            problem, waiting = self._problem, self._exchange.unanswered
        log.warning(
            "the bridge is still out of reach (%s): %d messages wait",
            problem,
            waiting,
            extra={"action": "link_down", "waiting": waiting},
        )
