"""A worker's link that counts what crosses it, and that can be made slow."""

from __future__ import annotations

from collections import defaultdict

from tests.benchmarks.executors.traffic import RequestCounter, Traffic
from tests.support.bad_link import BadLink, _Flow


class CountingLink(BadLink):
    """Forwards connections to a port of this machine and counts."""

    def __init__(self, target_port: int) -> None:
        """Start forwarding; nothing needs to listen there yet."""
        self._requests = 0
        self._writes = 0
        self._counters: defaultdict[_Flow, RequestCounter] = defaultdict(RequestCounter)
        super().__init__(target_port)

    @property
    def traffic(self) -> Traffic:
        """What has crossed since the start."""
        return Traffic(
            bytes_up=self.bytes_up,
            bytes_down=self.bytes_down,
            connections=self.connections,
            requests=self._requests,
            writes=self._writes,
        )

    def make_wan(self, *, rtt_s: float, bytes_per_s: float | None) -> None:
        """Delay every byte by half of ``rtt_s`` in each direction; 0 and None: a local link again."""
        self.delay_s = rtt_s / 2
        self.bytes_per_s = bytes_per_s

    def _read(self, flow: _Flow) -> None:
        before = len(flow.waiting)
        super()._read(flow)
        if flow.up and len(flow.waiting) > before and (data := flow.waiting[before][1]):
            self._writes += 1
            self._requests += self._counters[flow].feed(data)

    def _abort(self, flow: _Flow) -> None:
        self._counters.pop(flow, None)
        super()._abort(flow)
