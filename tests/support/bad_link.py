"""A network link that can be made bad: a TCP proxy in one thread, for tests of what an outage does."""

from __future__ import annotations

import contextlib
import math
import random
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

_HOST: Final = "127.0.0.1"
#: Bytes held for a direction whose receiver is slow or far; the sender waits then, as it would for a real link.
_WINDOW_BYTES: Final = 1 << 18
_CHUNK_BYTES: Final = 1 << 16
#: Chunks a second on a link of limited bandwidth, so that bytes trickle instead of coming in heaps.
_CHUNKS_PER_S: Final = 50
#: close() sends RST instead of FIN: an abort, as when the way back is gone.
_ABORT: Final = struct.pack("ii", 1, 0)


class _Flow:
    """One direction of one connection."""

    def __init__(self, source: socket.socket, sink: socket.socket, *, up: bool) -> None:
        self.source = source
        self.sink = sink
        self.up = up
        #: What is under way and when it arrives: bytes, none for the end, None for a reset.
        self.waiting: deque[tuple[float, bytes | None]] = deque()
        self.held = 0
        self.ended = False
        self.last_due = 0.0
        #: When a byte of this connection was last taken, in either direction.
        self.moved_at = time.monotonic()


class BadLink:
    """Forwards connections to a port of this machine until told to be bad.

    "Up" is from those who connect, "down" to them. Public methods return when the link has become what they ask for.
    """

    def __init__(self, target_port: int) -> None:
        """Start forwarding from :attr:`port`; nothing needs to listen on ``target_port`` yet."""
        #: Seconds that every byte is under way, in each direction, and seconds more at most, at random.
        self.delay_s = 0.0
        self.jitter_s = 0.0
        #: Bytes a second that all connections together get through in each direction; None: as many as there are.
        self.bytes_per_s: float | None = None
        #: Seconds without a byte after which a connection is ended, as proxies and balancers do; None: never.
        self.idle_s: float | None = None
        #: Connections that were.
        self.idled_out = 0
        #: Bytes taken from those who connect, and for them.
        self.bytes_up = 0
        self.bytes_down = 0
        #: Connections forwarded since the start.
        self.connections = 0
        self._target_port = target_port
        self._listener: socket.socket | None = None
        self.port = 0
        self._listen()
        self._flows: dict[socket.socket, _Flow] = {}
        self._chance = random.Random(0)
        #: By direction, True for up: whether bytes vanish, how many pass before a reset, when the line is free again.
        self._silent = {True: False, False: False}
        self._until_reset: dict[bool, int] = {}
        self._free_at = {True: 0.0, False: 0.0}
        self._orders: deque[tuple[Callable[[], None], threading.Event]] = deque()
        self._bell, self._doorbell = socket.socketpair()
        self._running = True
        self._thread = threading.Thread(target=self._loop, name=f"bad-link[{target_port}]", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        """Use it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    @property
    def open_connections(self) -> int:
        """How many connections it forwards now."""
        return len(self._flows) // 2

    def cut(self) -> None:
        """Reset every connection and refuse new ones."""
        self._order(self._cut)

    def reset(self) -> None:
        """Reset every connection; new ones are welcome."""
        self._order(self._reset_all)

    def refuse(self) -> None:
        """Refuse new connections; those that there are go on."""
        self._order(self._refuse)

    def reset_after(self, count: int, *, up: bool) -> None:
        """Reset the connection whose bytes are the ``count``-th to pass from now on: in mid-frame."""
        self._order(lambda: self._until_reset.update({up: count}))

    def blackhole(self, *, up: bool = True, down: bool = True) -> None:
        """Let every byte vanish: nobody is told anything, new connections hang. In one direction: half-open."""
        self._order(lambda: self._silent.update({True: up, False: down}))

    def restore(self) -> None:
        """Forward and accept again; delay, jitter and bandwidth stay."""
        self._order(self._restore)

    def close(self) -> None:
        """Reset every connection and end."""
        if self._running:
            self._order(self._end)
            self._thread.join()
            self._bell.close()
            self._doorbell.close()

    # ---------------------------------------------------------------- what the orders do, in the thread

    def _cut(self) -> None:
        self._refuse()
        self._reset_all()

    def _reset_all(self) -> None:
        for flow in list(self._flows.values()):
            self._abort(flow)

    def _refuse(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _restore(self) -> None:
        self._silent = {True: False, False: False}
        self._until_reset.clear()
        if self._listener is None:
            self._listen()

    def _end(self) -> None:
        self._cut()
        self._running = False

    def _order(self, order: Callable[[], None]) -> None:
        done = threading.Event()
        self._orders.append((order, done))
        self._doorbell.send(b"!")
        done.wait()

    # ---------------------------------------------------------------- the loop

    def _loop(self) -> None:
        while self._running:
            for act in self._ready():
                act()
            self._deliver()
            self._end_idle()

    def _ready(self) -> list[Callable[[], None]]:
        """Wait until something can be done; return what."""
        actions: dict[int, Callable[[], None]] = {self._bell.fileno(): self._obey}
        waiting = select.poll()
        waiting.register(self._bell, select.POLLIN)
        if self._listener is not None and not any(self._silent.values()):
            waiting.register(self._listener, select.POLLIN)
            actions[self._listener.fileno()] = self._accept
        for flow in self._flows.values():
            if not flow.ended and not self._silent[flow.up] and flow.held < _WINDOW_BYTES:
                waiting.register(flow.source, select.POLLIN)
                actions[flow.source.fileno()] = _bound(self._read, flow)
        return [actions[descriptor] for descriptor, _ in waiting.poll(self._timeout_ms())]

    def _timeout_ms(self) -> int | None:
        due = [flow.waiting[0][0] for flow in self._flows.values() if flow.waiting and not self._silent[flow.up]]
        if self.idle_s is not None:
            due += [flow.moved_at + self.idle_s for flow in self._flows.values()]
        # At least 1 ms: a receiver that takes nothing now must not make the loop spin.
        return max(1, int((min(due) - time.monotonic()) * 1000)) if due else None

    def _end_idle(self) -> None:
        oldest = -math.inf if self.idle_s is None else time.monotonic() - self.idle_s
        for flow in [flow for flow in self._flows.values() if flow.up and flow.moved_at < oldest]:
            self.idled_out += 1
            for end in (flow.source, flow.sink):
                del self._flows[end]
                end.close()

    def _obey(self) -> None:
        self._bell.recv(1024)
        while self._orders:
            order, done = self._orders.popleft()
            order()
            done.set()

    def _accept(self) -> None:
        if self._listener is None or any(self._silent.values()):
            return
        near, _ = self._listener.accept()
        try:
            far = socket.create_connection((_HOST, self._target_port), timeout=5.0)
        except OSError:
            _reset(near)
            return
        for end in (near, far):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._flows[near] = _Flow(near, far, up=True)
        self._flows[far] = _Flow(far, near, up=False)
        self.connections += 1

    def _read(self, flow: _Flow) -> None:
        if self._silent[flow.up] or flow.source not in self._flows:
            return
        size = _CHUNK_BYTES if self.bytes_per_s is None else int(self.bytes_per_s / _CHUNKS_PER_S) + 1
        try:
            data = flow.source.recv(min(size, self._until_reset.get(flow.up, size)))
        except BlockingIOError:
            return
        except OSError:
            self._abort(flow)
            return
        flow.ended = not data
        flow.held += len(data)
        flow.moved_at = self._flows[flow.sink].moved_at = time.monotonic()
        if flow.up:
            self.bytes_up += len(data)
        else:
            self.bytes_down += len(data)
        due = self._arrival(flow, len(data))
        flow.waiting.append((due, data))
        if data and flow.up in self._until_reset:
            self._until_reset[flow.up] -= len(data)
            if not self._until_reset[flow.up]:
                del self._until_reset[flow.up]
                flow.ended = True
                flow.waiting.append((due, None))

    def _arrival(self, flow: _Flow, size: int) -> float:
        leaves = time.monotonic()
        if self.bytes_per_s is not None:
            leaves = self._free_at[flow.up] = max(leaves, self._free_at[flow.up]) + size / self.bytes_per_s
        # TCP keeps the order: nothing overtakes what was sent before.
        flow.last_due = max(flow.last_due, leaves + self.delay_s + self._chance.uniform(0.0, self.jitter_s))
        return flow.last_due

    def _deliver(self) -> None:
        now = time.monotonic()
        for flow in list(self._flows.values()):
            while not self._silent[flow.up] and flow.waiting and flow.waiting[0][0] <= now:
                if not self._send(flow, *flow.waiting.popleft()):
                    break

    def _send(self, flow: _Flow, due: float, data: bytes | None) -> bool:
        """Pass on what has arrived; False when the receiver takes no more of this direction now."""
        if data is None:
            self._abort(flow)
            return False
        try:
            if not data:
                flow.sink.shutdown(socket.SHUT_WR)
                if self._flows[flow.sink].ended and not self._flows[flow.sink].waiting:
                    self._abort(flow)
                return False
            sent = flow.sink.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._abort(flow)
            return False
        flow.held -= sent
        if sent < len(data):
            flow.waiting.appendleft((due, data[sent:]))
            return False
        return True

    def _abort(self, flow: _Flow) -> None:
        for end in (flow.source, flow.sink):
            if self._flows.pop(end, None) is not None:
                _reset(end)

    def _listen(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((_HOST, self.port))
        listener.listen()
        self.port = listener.getsockname()[1]
        self._listener = listener


def _bound(method: Callable[[_Flow], None], flow: _Flow) -> Callable[[], None]:
    return lambda: method(flow)


def _reset(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
    end.close()
