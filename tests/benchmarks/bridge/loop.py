"""One epoll loop that serves every simulated party's connection, and keeps the idle ones alive."""

from __future__ import annotations

import heapq
import itertools
import random
import select
import time
from collections.abc import Callable
from typing import Final, Protocol

from tests.benchmarks.bridge.wire import Connection

#: Seconds after which something that should have happened has not.
PATIENCE_S: Final = 180.0
KEEP_ALIVE_S: Final = 60


class Party(Protocol):
    """Whoever has a connection."""

    @property
    def connection(self) -> Connection | None:
        """Return the connection; None when there is none now."""


class Loop:
    """Serves all connections of all fleets, so that none misses its pings while another one is measured."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, Connection] = {}
        self._order = itertools.count()
        #: When the next ping is due, whose, and on which of its connections.
        self._pings: list[tuple[float, int, Party, Connection]] = []
        self._chance = random.Random(0)

    def watch(self, party: Party) -> None:
        """Serve a party's new connection."""
        connection = party.connection
        assert connection is not None
        number = connection.fileno()
        self._watched[number] = connection
        self._epoll.register(number, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)

    def keep_alive(self, party: Party) -> None:
        """Send pings on a party's connection, which is up, as long as it lasts."""
        connection = party.connection
        assert connection is not None
        # Those who came in one second do not ping in one second: their idle time would depend on when one looks.
        first = time.monotonic() + self._chance.uniform(0.0, KEEP_ALIVE_S)
        heapq.heappush(self._pings, (first, next(self._order), party, connection))

    def cut(self, party: Party) -> None:
        """Drop a party's connection without a word."""
        connection = party.connection
        assert connection is not None
        del self._watched[connection.fileno()]
        connection.cut()

    def run_until(self, condition: Callable[[], bool], what: str, *, patience_s: float = PATIENCE_S) -> None:
        """Serve everybody until ``condition``.

        :raises TimeoutError: it does not come true.
        :raises OSError: a connection has ended.
        """
        deadline = time.monotonic() + patience_s
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} did not happen within {patience_s:g} s")
            for number, _ in self._epoll.poll(0.05):
                connection = self._watched.get(number)
                if connection is not None:
                    connection.ready()
            self._ping()

    def run_for(self, seconds: float) -> None:
        """Serve everybody for some time."""
        end = time.monotonic() + seconds
        self.run_until(lambda: time.monotonic() >= end, "the end of the wait", patience_s=seconds + 60)

    def _ping(self) -> None:
        now = time.monotonic()
        while self._pings and self._pings[0][0] <= now:
            _, _, party, connection = heapq.heappop(self._pings)
            if party.connection is connection:
                connection.ping()
                heapq.heappush(self._pings, (now + KEEP_ALIVE_S, next(self._order), party, connection))

    def close(self) -> None:
        """End every connection."""
        for connection in self._watched.values():
            connection.cut()
        self._watched.clear()
        self._epoll.close()
