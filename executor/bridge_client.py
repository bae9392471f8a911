"""The executor's client of the bridge: what is handed to it is kept until the bridge has answered it.

Independent of Airflow. Calls come from the scheduler's thread, news from the transport's thread; a thread of the
client's own repeats what is unanswered and connects again after a refusal. Nothing here waits for the network except
``adopt`` and ``flush``, which have a time limit.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from edge_mqtt.broker_bridge.protocol.errors import ProtocolError, failure_line, problem_of
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
from edge_mqtt.executor.errors import CannotConnect
from edge_mqtt.executor.outbox import Adoption, News, Outbox, Unanswered

log = logging.getLogger(__name__)

#: Seconds that ``stop`` waits for the client's thread.
_JOIN_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedConnection:
    """A transport that has not been started, and who we are on it."""

    identity: Identity
    transport: Transport


@dataclass(frozen=True, kw_only=True, slots=True)
class BridgeClientTiming:
    """Waits, in seconds."""

    #: Until something unanswered is sent again; doubled each time up to ``resend_at_most_s``.
    resend_s: float = 5.0
    resend_at_most_s: float = 60.0
    #: Between attempts after a refusal, and between warnings while the bridge is out of reach.
    reconnect_s: float = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class BridgeStatus:
    """How the connection is, for people."""

    connected: bool
    #: How many connections the present transport has had.
    connections: int
    #: Why there is no connection.
    problem: str
    unanswered: int
    unsent_acks: int


@dataclass(frozen=True, slots=True)
class _Connection:
    """A connection in use."""

    identity: Identity
    channel: MessageChannel


class BridgeClient:
    """Keeps the connection, repeats what is unanswered, collects what comes in. Thread-safe."""

    def __init__(
        self,
        prepare: Callable[[], PreparedConnection],
        *,
        topics: Topics,
        team: str | None = None,
        timing: BridgeClientTiming | None = None,
    ) -> None:
        """Prepare; nothing is connected before ``start``.

        :param prepare: makes a new connection, not started; raises CannotConnect, which is tried again later.
        :param team: whose executor it is of several in one scheduler, for log lines and the thread's name.
        """
        self._prepare = prepare
        self._topics = topics
        name = "executor" if team is None else f"executor[{team}]"
        self._of_team = "" if team is None else f" of team {team!r}"
        self._timing = timing or BridgeClientTiming()
        self._outbox = Outbox(topics, resend_s=self._timing.resend_s, resend_at_most_s=self._timing.resend_at_most_s)
        # Reentrant, because a signal handler that asks for the status may interrupt a call in the same thread.
        self._changed = threading.Condition(threading.RLock())
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{name}.bridge", daemon=True)
        self._connection: _Connection | None = None
        self._connected = False
        self._hello_sent = False
        self._stopping = False
        self._problem = "not connected yet"
        #: When to connect, in monotonic seconds; None: there is a connection, which its transport keeps up.
        self._connect_at: float | None = 0.0
        self._warn_at = time.monotonic() + self._timing.reconnect_s

    # ------------------------------------------------------------ for the executor

    def start(self) -> None:
        """Begin connecting; return at once."""
        self._thread.start()

    def submit(self, job: JobSpec, token: str) -> None:
        """Hand over a job; repeated until the bridge has it."""
        with self._changed:
            item = self._outbox.submit(job, token, time.monotonic())
        self._send_first(item)

    def cancel(self, job_id: JobId) -> None:
        """Have a job stopped; repeated until the bridge has taken note."""
        with self._changed:
            item = self._outbox.cancel(job_id, time.monotonic())
        self._send_first(item)

    def withdraw(self, job_id: JobId) -> None:
        """Have a job ended that has not started; its end is news. Repeated until the bridge has taken note."""
        with self._changed:
            item = self._outbox.withdraw(job_id, time.monotonic())
        self._send_first(item)

    def acknowledge(self, job_id: JobId) -> None:
        """Tell the bridge that Airflow has the job's final event."""
        with self._changed:
            self._outbox.acknowledge(job_id)
        self._send_acks()

    def dismiss(self, job_id: JobId) -> None:
        """Acknowledge the job's final event whenever it comes, without handing it out; submit it no more."""
        with self._changed:
            self._outbox.dismiss(job_id)
        self._wake.set()

    def adopt(self, job_ids: Sequence[JobId], *, timeout_s: float) -> Adoption:
        """Take over jobs of another executor; tell which of them the bridge does not know.

        :param timeout_s: seconds to wait for the answer. What is not answered in time is asked again, and jobs that
            turn out to be unknown come as :class:`UnknownJobs`.
        """
        with self._changed:
            asked = self._outbox.adopt(job_ids)
        self._wake.set()
        with self._changed:
            self._changed.wait_for(lambda: self._outbox.is_answered(asked) or self._stopping, timeout_s)
            return self._outbox.collect_answers(asked)

    def read_news(self) -> list[News]:
        """Return what has come in since the last call, oldest first."""
        with self._changed:
            news = self._outbox.pop_news()
        self._send_acks()
        return news

    def flush(self, *, timeout_s: float) -> bool:
        """Wait until the bridge has every submitted job and acknowledgement; False when there is something left."""
        with self._changed:
            self._changed.wait_for(lambda: not self._connected or self._outbox.is_clear, timeout_s)
            return self._outbox.is_clear

    def stop(self) -> None:
        """End the connection; what is unanswered is forgotten."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(_JOIN_S)
        with self._changed:
            connection, self._connection, self._connected = self._connection, None, False
            self._problem = "stopped"
        if connection is not None:
            connection.channel.stop()

    def status(self) -> BridgeStatus:
        """Return how things stand."""
        with self._changed:
            return BridgeStatus(
                connected=self._connected,
                connections=0 if self._connection is None else self._connection.channel.connection,
                problem="" if self._connected else self._problem,
                unanswered=self._outbox.unanswered,
                unsent_acks=self._outbox.unsent_acks,
            )

    # ------------------------------------------------------------ for the transport

    def connected(self) -> None:
        """Have everything unanswered sent again: the bridge may never have seen it."""
        with self._changed:
            self._connected, self._hello_sent = True, False
            self._outbox.resend_all()
            waiting = self._outbox.unanswered
        log.info(
            "connected to the bridge%s, %d messages to send",
            self._of_team,
            waiting,
            extra={"action": "connected", "waiting": waiting},
        )
        self._wake.set()

    def disconnected(self, reason: str) -> None:
        """Note that the connection is gone; the transport goes on trying."""
        with self._changed:
            was_connected, self._connected, self._problem = self._connected, False, reason
            if was_connected:
                self._warn_at = time.monotonic() + self._timing.reconnect_s
            quiet = self._stopping or not was_connected
            self._changed.notify_all()
        if not quiet:
            log.warning(
                "lost the connection to the bridge%s (%s): new jobs wait until it is back",
                self._of_team,
                reason,
                extra={"action": "disconnected", "reason": reason},
            )
        self._wake.set()

    def refused(self, refusal: Refusal) -> None:
        """Log why the bridge refuses the connection and plan to try again: the reason may be fixed meanwhile."""
        with self._changed:
            refused, self._connection, self._connected = self._connection, None, False
        if refused is not None:
            # It may have stopped by itself: this lets go of what it holds.
            refused.channel.stop()
        self._reconnect_later(refusal.message)
        self._wake.set()

    def received(self, topic: str, message: Message) -> None:
        """Take one message."""
        with self._changed:
            postponed = self._outbox.postponed
            understood = self._outbox.accept_message(message)
            has_to_send = self._outbox.unsent_acks > 0 or self._outbox.postponed < postponed
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

    def _usable_connection(self) -> _Connection | None:
        with self._changed:
            return self._connection if self._connected else None

    def _send_first(self, item: Unanswered) -> None:
        """Send at once when there is a connection, else the next one will; have the client's thread repeat it."""
        self._send(item)
        self._wake.set()

    def _send(self, item: Unanswered) -> None:
        """Send, outside the lock because a transport may deliver the answer in the same call."""
        connection = self._usable_connection()
        if connection is None:
            return
        try:
            for topic, message in item.messages(connection.identity):
                connection.channel.send(topic, message)
        except (ProtocolError, ValidationError) as error:
            # Reported to Airflow as the job's failure, which is where its owner looks.
            why = problem_of(error) if isinstance(error, ValidationError) else str(error)
            log.error("not sent: %s", why, extra={"action": "message_not_sent", "jobs": item.jobs})  # noqa: TRY400
            with self._changed:
                self._outbox.fail_item(item, why)

    def _send_acks(self) -> None:
        connection = self._usable_connection()
        if connection is None:
            return
        with self._changed:
            acks = self._outbox.pop_acks()
        topic = self._topics.admin_request(connection.identity)
        unsent = [job_id for job_id in acks if not connection.channel.send(topic, EventAck(job_id=job_id))]
        with self._changed:
            for job_id in unsent:
                self._outbox.acknowledge(job_id)
            self._changed.notify_all()

    def _send_hello(self) -> None:
        connection = self._usable_connection()
        if connection is None or self._hello_sent:
            return
        self._hello_sent = True
        connection.channel.send(self._topics.admin_request(connection.identity), ExecutorHello())

    # ------------------------------------------------------------ the client's thread

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                self._work()
                pause_s = self._pause_s()
            except Exception as error:  # noqa: BLE001  without this thread nothing would be repeated, and none would know
                log.error(  # noqa: TRY400  one line
                    "the client of the bridge failed, and goes on: %s",
                    failure_line(error),
                    extra={"action": "client_failed"},
                )
                pause_s = self._timing.resend_s
            self._wake.wait(pause_s)

    def _work(self) -> None:
        self._connect_when_due()
        self._send_hello()
        self._send_due()
        self._send_acks()
        self._warn_when_due()

    def _pause_s(self) -> float | None:
        """Return the seconds until there is something to do; None: until something happens."""
        with self._changed:
            if self._connect_at is not None:
                next_at: float | None = self._connect_at
            elif self._connected:
                next_at = self._outbox.next_due_at()
            else:
                next_at = self._warn_at
        return None if next_at is None else max(0.0, next_at - time.monotonic())

    def _send_due(self) -> None:
        with self._changed:
            due = self._outbox.due(time.monotonic()) if self._connected else []
        for item in due:
            self._send(item)

    def _connect_when_due(self) -> None:
        with self._changed:
            if self._connect_at is None or time.monotonic() < self._connect_at:
                return
        try:
            connection = self._prepare()
        except CannotConnect as error:
            self._reconnect_later(str(error))
            return
        channel = MessageChannel(connection.transport)
        with self._changed:
            if self._stopping:
                # It has never been started: this closes what it holds.
                channel.stop()
                return
            self._connection, self._connect_at = _Connection(connection.identity, channel), None
            self._warn_at = time.monotonic() + self._timing.reconnect_s
        error_topic = self._topics.error_from(connection.identity)
        channel.start(self, answer_topic=lambda _: error_topic)

    def _reconnect_later(self, problem: str) -> None:
        with self._changed:
            self._problem = problem
            self._connect_at = time.monotonic() + self._timing.reconnect_s
            waiting = self._outbox.unanswered
            self._changed.notify_all()
        log.error(
            "no connection to the bridge%s: %s (%d messages wait; next attempt in %.0f s)",
            self._of_team,
            problem,
            waiting,
            self._timing.reconnect_s,
            extra={"action": "connection_refused", "waiting": waiting},
        )

    def _warn_when_due(self) -> None:
        with self._changed:
            if self._connected or self._connect_at is not None or time.monotonic() < self._warn_at:
                return
            self._warn_at = time.monotonic() + self._timing.reconnect_s
            problem, waiting = self._problem, self._outbox.unanswered
        log.warning(
            "the bridge%s is still out of reach (%s): %d messages wait",
            self._of_team,
            problem,
            waiting,
            extra={"action": "out_of_reach", "waiting": waiting},
        )
