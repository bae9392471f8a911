"""A bridge for edge-logs' reader: logs in memory, answers at once or when there is something new."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from edge_mqtt.broker_bridge.edge_logs.line_assembler import LogLine
from edge_mqtt.broker_bridge.protocol.messages import LogStream, Message, StreamBytes, TailReply, TailRequest
from edge_mqtt.broker_bridge.protocol.topics import Topics
from edge_mqtt.broker_bridge.transport.channel import MessageChannel
from edge_mqtt.broker_bridge.transport.interface import Refusal
from edge_mqtt.broker_bridge.transport.memory import MemoryBroker, MemoryTransport
from edge_mqtt.certs.identity import Identity, Role

TOPICS = Topics()
ME = Identity(Role.OPERATOR, "ann")
#: Seconds that anything may take on a busy machine.
PATIENCE_S = 20.0


class TwinBridge:
    """Answers requests over a memory broker; logs are whatever the test says."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._changed = threading.Condition(threading.RLock())
        self._logs: dict[str, bytes] = {}
        self._parked: TailRequest | None = None
        #: The positions after each reply.
        self._answered: dict[str, dict[str, int]] = {}
        self._complete: frozenset[str] = frozenset()
        self._run_state = "running"
        #: Every request that arrived.
        self.requests: list[TailRequest] = []
        #: When each arrived, in monotonic seconds.
        self.asked_at: list[float] = []
        #: Set: requests are noted and not answered.
        self.mute = False
        #: Set: the answer to the next request.
        self.error = ""
        #: Set: what every answer notes.
        self.note = ""
        #: What the logs of an ended run lack.
        self.missing: dict[str, str] = {}
        self._channel = MessageChannel(MemoryTransport(broker, "bridge:b", (TOPICS.admin_request(ME),)))
        self._channel.start(self)

    # ------------------------------------------------------------ what the test does

    def write(self, stream_id: str, data: bytes) -> None:
        """Append to a log and answer whoever waits for it."""
        with self._changed:
            self._logs[stream_id] = self._logs.get(stream_id, b"") + data
            self._answer_parked()

    def end_run(self, state: str) -> None:
        """End the run; nothing will be added."""
        with self._changed:
            self._run_state = state
            self._complete = frozenset(self._logs)
            self._answer_parked()

    def forget_request(self) -> None:
        """Lose what waits for an answer, as a restart does."""
        with self._changed:
            self._parked = None
            self._answered.clear()

    def send(self, message: Message) -> None:
        """Send the reader anything."""
        self._channel.send(TOPICS.admin_response(ME), message)

    def wait_for_requests(self, count: int) -> None:
        """Wait until ``count`` requests have arrived."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.requests) >= count, PATIENCE_S)

    def wait_until_parked(self, positions: dict[str, int]) -> None:
        """Wait until a request with these positions waits for news."""
        with self._changed:
            assert self._changed.wait_for(
                lambda: self._parked is not None and self._parked.positions == positions, PATIENCE_S
            )

    # ------------------------------------------------------------ MessageReceiver

    def connected(self) -> None:
        """Do nothing."""

    def disconnected(self, reason: str) -> None:
        """Do nothing."""

    def refused(self, refusal: Refusal) -> None:
        """Do nothing."""

    def received(self, topic: str, message: Message) -> None:
        """Answer a request, or park it."""
        assert isinstance(message, TailRequest)
        with self._changed:
            if message.continues:
                positions = self._answered.pop(message.continues, None)
                if positions is None:
                    self.send(TailReply(request_id=message.request_id, forgotten=True))
                    return
                message = message.model_copy(update={"positions": positions})
            self.requests.append(message)
            self.asked_at.append(time.monotonic())
            self._parked = message
            self._answer_parked()
            self._changed.notify_all()

    def _answer_parked(self) -> None:
        request = self._parked
        if request is None or self.mute:
            return
        reply = self._reply(request)
        if reply.slices or reply.ended or reply.error or request.wait_s == 0:
            self._parked = None
            self._answered[request.request_id] = dict(request.positions) | {
                part.stream_id: part.offset + part.length for part in reply.slices
            }
            self.send(reply)

    def _reply(self, request: TailRequest) -> TailReply:
        slices: list[StreamBytes] = []
        body = b""
        for stream_id, data in self._logs.items():
            position = request.positions.get(stream_id, 0)
            if position < len(data) or stream_id not in request.positions:
                slices.append(StreamBytes(stream_id=stream_id, offset=position, length=len(data) - position))
                body += data[position:]
        return TailReply(
            request_id=request.request_id,
            streams=tuple(self._stream(stream_id) for stream_id in self._logs),
            slices=tuple(slices),
            body=body,
            run_id="r1",
            run_state=self._run_state,
            ended=not slices and self._run_state in ("success", "failed"),
            error=self.error,
            note=self.note,
        )

    def _stream(self, stream_id: str) -> LogStream:
        return LogStream(
            stream_id=stream_id,
            dag_id="d",
            run_id="r1",
            task_id=stream_id,
            map_index=-1,
            try_number=1,
            worker="w",
            queue="q",
            complete=stream_id in self._complete,
            missing=self.missing.get(stream_id, "") if stream_id in self._complete else "",
        )


class Paper:
    """An output that keeps everything."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._printed: list[tuple[str, bytes]] = []
        self._news: list[str] = []

    @property
    def printed(self) -> list[tuple[str, bytes]]:
        """Stream id and line of everything printed."""
        with self._changed:
            return list(self._printed)

    @property
    def told(self) -> list[str]:
        """What was told of the connection."""
        with self._changed:
            return list(self._news)

    def lines(self, lines: Sequence[LogLine]) -> None:
        """Keep lines."""
        with self._changed:
            self._printed.extend((line.stream.stream_id, line.data) for line in lines)
            self._changed.notify_all()

    def news(self, text: str) -> None:
        """Keep news."""
        with self._changed:
            self._news.append(text)
            self._changed.notify_all()

    def wait_for_lines(self, count: int) -> None:
        """Wait until ``count`` lines are printed."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._printed) >= count, PATIENCE_S)

    def wait_for_news(self, count: int) -> None:
        """Wait until ``count`` things are told."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._news) >= count, PATIENCE_S)
