"""Reads task logs from the bridge, to their end or for as long as they grow.

One request at a time; the same positions again after a reconnect, so that no byte is missed and none comes twice.
"""

from __future__ import annotations

import queue
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol

from edge_mqtt.broker_bridge.edge_logs.line_assembler import LineAssembler, LogLine
from edge_mqtt.broker_bridge.protocol.messages import ErrorReply, Message, TailReply
from edge_mqtt.broker_bridge.transport.channel import MessageChannel
from edge_mqtt.broker_bridge.transport.interface import Refusal, RefusalReason

#: enough that what holds idle connections to account (proxies: often 30 s or 60 s) sees traffic.
WAIT_S: Final = 20.0
#: Seconds for an answer to arrive on top of the time that the bridge may hold the request.
ANSWER_WITHIN_S: Final = 20.0
#: Without following: seconds to get a connection or an answer.
GIVE_UP_AFTER_S: Final = 10.0
#: Seconds between requests when answers bring nothing and come at once, whatever makes the bridge do that.
PAUSE_S: Final = 0.5
#: Without following: an answer below this many bytes was not cut short by any limit of the bridge, so everything
#: that was there has been read; what a busy task adds meanwhile is not waited for.
SHORT_REPLY_BYTES: Final = 4096
#: Seconds of connecting before it is told that it takes a while.
QUIET_S: Final = 2.0
#: What to do when the bridge says that our name is in use.
NAME_IN_USE: Final = (
    "another edge-logs is connected to the bridge with this certificate, and only one at a time can be: stop it, or "
    "make a second certificate with 'edge-certs issue operator NAME' and name its folder with --certs"
)


class End(Enum):
    """Why reading is over."""

    #: Everything that was asked for has been printed.
    DONE = "done"
    #: The same, and the run that was followed failed.
    RUN_FAILED = "run_failed"
    #: There is no such Dag, run or task.
    NOT_FOUND = "not_found"
    #: The bridge does not let us in, or does not understand us.
    REFUSED = "refused"
    #: Another program is connected with this certificate.
    NAME_IN_USE = "name_in_use"
    #: The bridge's version is not ours.
    VERSION = "version"
    #: Ctrl-C.
    INTERRUPTED = "interrupted"
    #: No connection, or no answer, in time.
    AWAY = "away"


#: Refusals that have an end of their own.
_END_OF: Final = {
    RefusalReason.NAME_IN_USE: End.NAME_IN_USE,
    RefusalReason.PROTOCOL_VERSION: End.VERSION,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """Why reading is over, with one line for people where something is wrong."""

    end: End
    message: str = ""
    #: Airflow's state of the run that was followed, when it has ended.
    run_state: str = ""


class Output(Protocol):
    """Where lines and news go."""

    def lines(self, lines: Sequence[LogLine]) -> None:
        """Print lines, now.

        :raises BrokenPipeError: the reader of the output is gone.
        """

    def news(self, text: str) -> None:
        """Tell something about the connection."""


@dataclass(frozen=True, slots=True)
class _Up:
    pass


@dataclass(frozen=True, slots=True)
class _Down:
    reason: str


@dataclass(frozen=True, slots=True)
class _Trouble:
    reason: str
    name_in_use: bool


@dataclass(frozen=True, slots=True)
class _Got:
    message: Message


@dataclass(frozen=True, slots=True)
class _Unread:
    pass


@dataclass(frozen=True, slots=True)
class _Interrupted:
    pass


_Event = _Up | _Down | _Trouble | _Got | _Unread | _Interrupted | Refusal


@dataclass(slots=True)
class _Asked:
    """The request that is outstanding."""

    request_id: str
    at: float


@dataclass(slots=True)
class _Link:
    """What is known of the connection."""

    up: bool = False
    #: That it is away has been told.
    told: bool = False
    #: The bridge says that another program is connected with our certificate.
    name_in_use: bool = False
    asked: _Asked | None = field(default=None)


class TailClient:
    """Asks the bridge and prints its answers until there is nothing more to come.

    :param channel: is subscribed to the answers.
    :param url: the bridge's address, for people.
    :param request_topic: where to ask.
    :param follow: go on when everything that is there has been read.
    :param clock: monotonic seconds.
    """

    def __init__(
        self,
        channel: MessageChannel,
        *,
        url: str,
        request_topic: str,
        tail: LineAssembler,
        output: Output,
        follow: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._channel = channel
        self._url = url
        self._request_topic = request_topic
        self._tail = tail
        self._output = output
        self._follow = follow
        self._clock = clock
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._link = _Link()
        self._ask_at: float | None = None
        self._noted = ""
        self._began = self._give_up_at = clock()

    # ------------------------------------------------------------ MessageReceiver, in the transport's thread

    def connected(self) -> None:
        """Note that the connection is up."""
        self._events.put(_Up())

    def disconnected(self, reason: str) -> None:
        """Note that it is down."""
        self._events.put(_Down(reason))

    def refused(self, refusal: Refusal) -> None:
        """Note that it will never be up."""
        self._events.put(refusal)

    def received(self, topic: str, message: Message) -> None:  # noqa: ARG002  there is one topic
        """Note an answer."""
        self._events.put(_Got(message))

    def trouble(self, reason: str, *, name_in_use: bool) -> None:
        """Note that an attempt to connect failed; there will be another."""
        self._events.put(_Trouble(reason, name_in_use))

    def unread(self) -> None:
        """Note that the reader of our output is gone."""
        self._events.put(_Unread())

    def interrupt(self) -> None:
        """End."""
        self._events.put(_Interrupted())

    # ------------------------------------------------------------ the loop, in the caller's thread

    def run(self) -> Ending:
        """Read until the end.

        :raises BrokenPipeError: the reader of our output is gone.
        """
        self._began = self._clock()
        self._give_up_at = self._began + GIVE_UP_AFTER_S
        self._channel.start(self, answer_topic=lambda _: self._request_topic)
        try:
            while True:
                try:
                    event = self._events.get(timeout=self._patience_s())
                except queue.Empty:
                    ending = self._time_passed()
                else:
                    ending = self._handle(event)
                if ending is not None:
                    return ending
        finally:
            self._channel.stop()

    def _patience_s(self) -> float | None:
        """Return the seconds until something is to be done though nothing happens; None: there is no such thing."""
        deadlines = [self._ask_at, self._lost_at, self._tell_at, None if self._follow else self._give_up_at]
        until = min((at for at in deadlines if at is not None), default=None)
        return None if until is None else max(until - self._clock(), 0.0)

    @property
    def _lost_at(self) -> float | None:
        """When the answer that is outstanding counts as lost."""
        asked = self._link.asked
        return None if asked is None else asked.at + self._tail.wait_s + ANSWER_WITHIN_S

    @property
    def _tell_at(self) -> float | None:
        """When to tell that there is no connection."""
        return None if self._link.up or self._link.told else self._began + QUIET_S

    def _time_passed(self) -> Ending | None:
        now = self._clock()
        if not self._follow and now >= self._give_up_at:
            return self._given_up()
        if _is_past(self._tell_at, now):
            self._link.told = True
            self._output.news(f"waiting for the bridge at {self._url}")
        if _is_past(self._lost_at, now) or _is_past(self._ask_at, now):
            self._ask()
        return None

    def _given_up(self) -> Ending:
        if self._link.name_in_use:
            return Ending(end=End.NAME_IN_USE, message=NAME_IN_USE)
        missing = "answer from" if self._link.up else "connection to"
        message = f"no {missing} the bridge at {self._url} within {GIVE_UP_AFTER_S:g} s: check that it runs"
        return Ending(end=End.AWAY, message=message)

    def _handle(self, event: _Event) -> Ending | None:
        match event:
            case _Up():
                if self._link.told:
                    self._output.news("connected to the bridge")
                self._link = _Link(up=True)
                self._ask()
            case _Down(reason) | _Trouble(reason):
                self._away(event, reason)
            case _Unread():
                raise BrokenPipeError
            case _Interrupted():
                return Ending(end=End.INTERRUPTED)
            case Refusal():
                end = _END_OF.get(event.reason, End.REFUSED)
                return Ending(end=end, message=NAME_IN_USE if end is End.NAME_IN_USE else event.message)
            case _Got(TailReply() as reply):
                return self._answered(reply)
            case _Got(ErrorReply() as reply):
                return Ending(end=End.REFUSED, message=f"the bridge does not understand us: {reply.error}")
            case _:
                pass
        return None

    def _away(self, event: _Down | _Trouble, reason: str) -> None:
        link = self._link
        link.up, link.asked, self._ask_at = False, None, None
        in_use = isinstance(event, _Trouble) and event.name_in_use
        if in_use and not link.name_in_use:
            self._output.news(f"{NAME_IN_USE}; waiting for its end")
        elif not link.told and not in_use:
            self._output.news(f"waiting for the bridge at {self._url}: {reason}")
        link.told = True
        link.name_in_use = in_use

    def _ask(self) -> None:
        request_id = uuid.uuid4().hex
        self._ask_at = None
        if self._channel.send(self._request_topic, self._tail.request(request_id)):
            self._link.asked = _Asked(request_id, self._clock())
        else:
            # The transport will tell that the connection is down, and when it is up again.
            self._link.asked = None

    def _answered(self, reply: TailReply) -> Ending | None:
        asked = self._link.asked
        if asked is None or reply.request_id != asked.request_id:
            # Of before the reconnect: what it brings has been asked for again.
            return None
        self._link.asked = None
        if reply.error:
            return Ending(end=End.NOT_FOUND, message=reply.error)
        if reply.note not in ("", self._noted):
            self._noted = reply.note
            self._output.news(reply.note)
        taken = self._tail.accept(reply)
        if reply.forgotten:
            self._ask()
            return None
        self._output.lines(taken.lines)
        if reply.ended or (not self._follow and len(reply.body) < SHORT_REPLY_BYTES):
            self._output.lines(self._tail.rest())
            self._tell_incomplete()
            failed = self._follow and reply.ended and reply.run_state == "failed"
            return Ending(
                end=End.RUN_FAILED if failed else End.DONE, run_state=reply.run_state if reply.ended else ""
            )
        now = self._clock()
        self._give_up_at = now + GIVE_UP_AFTER_S
        if taken.progress or now - asked.at >= PAUSE_S:
            self._ask()
        else:
            self._ask_at = now + PAUSE_S
        return None

    def _tell_incomplete(self) -> None:
        first, *others = self._tail.incomplete() or (None,)
        if first is not None:
            more = f"; {len(others)} more logs are incomplete too" if others else ""
            self._output.news(f"{first.dag_id} {first.task_id} try {first.try_number}: {first.missing}{more}")


def _is_past(deadline: float | None, now: float) -> bool:
    return deadline is not None and now >= deadline
