"""Simulated workers and an executor on one epoll loop: they say what ours say, and run nothing."""

from __future__ import annotations

import re
import select
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from edge_mqtt.broker_bridge.protocol.codec import MAX_MESSAGE_BYTES
from edge_mqtt.broker_bridge.protocol.packing import MAGIC, pack, unpack
from edge_mqtt.certs.identity import Identity, Role
from tests.benchmarks.bridge.certificates import Parties
from tests.benchmarks.bridge.wire import (
    CONNACK,
    PUBLISH,
    SUBACK,
    Connection,
    connect_packet,
    publish_head,
    subscribe_packet,
)

#: Seconds after which something that should have happened has not.
PATIENCE_S: Final = 180.0
KEEP_ALIVE_S: Final = 60
#: Connections that are being set up at once.
SETTING_UP: Final = 64
QUEUE: Final = "default"
EXECUTOR: Final = Identity(Role.EXECUTOR, "bench")
#: Bytes of log of a job.
LOG: Final = b'{"timestamp":"2026-01-01T00:00:00.000000Z","level":"info","event":"done","logger":"task"}\n' * 3
#: About what Airflow hands an executor for one task.
_WORKLOAD: Final = b'{"callback":{"data":{"kwargs":{"text":"%s"}}},"dag_rel_path":"lab.py"}' % (b"x" * 800)
_TOKEN: Final = b"t" * 400
_ENVELOPE: Final = b'"v":1,"id":"0123456789abcdef0123456789abcdef","sent_at":1790000000.123}'
_KIND: Final = re.compile(rb'"kind":"([a-z_]+)"')
_JOB: Final = re.compile(rb'"job_id":"([^"]+)"')
_FENCE: Final = re.compile(rb'"fence":(\d+)')
_REQUEST: Final = re.compile(rb'"request_id":"([^"]+)"')
_STATUS: Final = re.compile(rb'"status":(\d+)')


class Simulated:
    """What workers and the executor have in common."""

    def __init__(self, fleet: Fleet, identity: Identity, filters: Iterable[bytes]) -> None:
        self.fleet = fleet
        self.identity = identity
        self.context = fleet.parties.context(identity)
        self.connection: Connection | None = None
        self.welcomed = False
        self._subscribe = subscribe_packet(*filters)

    def connect(self) -> None:
        """Begin a connection."""
        self.welcomed = False
        packet = connect_packet(self.identity.client_id, keep_alive_s=KEEP_ALIVE_S, will=self.will())
        self.connection = Connection(self.context, self.fleet.address, packet, self._packet)
        self.fleet.watch(self)

    def will(self) -> tuple[bytes, bytes] | None:
        """Return topic and message of the will."""
        return None

    def line(self) -> Connection:
        """Return the connection."""
        assert self.connection is not None
        return self.connection

    def subscribed(self) -> None:
        """Do what comes first on a connection."""

    def message(self, kind: bytes, payload: bytes) -> None:
        """Take one message."""

    def _packet(self, kind: int, start: int, body: bytes) -> None:
        if kind == PUBLISH:
            payload = body[start:]
            if payload.startswith(MAGIC):
                payload = unpack(payload, MAX_MESSAGE_BYTES)
            match = _KIND.search(payload)
            assert match is not None, payload[:100]
            self.message(match[1], payload)
        elif kind == CONNACK:
            if body[1]:
                raise ConnectionRefusedError(f"{self.identity} is refused with code {body[1]}")
            self.line().send(self._subscribe)
        elif kind == SUBACK:
            self.subscribed()


class SimulatedWorker(Simulated):
    """Asks of every assignment whether it may start it at once, ships a log, reports success."""

    def __init__(self, fleet: Fleet, number: int) -> None:
        name = f"w{number:04d}"
        topic = name.encode()
        super().__init__(
            fleet,
            Identity(Role.WORKER, name),
            (b"edge/v1/jobs/+/" + topic, b"edge/v1/control/" + topic, b"edge/v1/rpc/" + topic + b"/response"),
        )
        self._topic = topic
        self._results = publish_head(b"edge/v1/results/" + topic, "finished")
        self._rpc = publish_head(b"edge/v1/rpc/" + topic + b"/request", "start_request")
        self._presence = publish_head(b"edge/v1/workers/" + topic, "presence", retain=True)
        self._connections = 0
        #: Fence of each job that it holds.
        self.holds: dict[bytes, bytes] = {}
        self.running: set[bytes] = set()

    def will(self) -> tuple[bytes, bytes]:
        """Return the presence that says that it is gone."""
        self._connections += 1
        return b"edge/v1/workers/" + self._topic, pack(self._said(b"offline"))

    def _said(self, state: bytes) -> bytes:
        jobs = b",".join(
            b'{"job_id":"%s","fence":%s,"state":"%s"}'
            % (job, fence, b"running" if job in self.running else b"accepted")
            for job, fence in self.holds.items()
        )
        return (
            b'{"kind":"presence","incarnation":"one","home":"%s","connection":%d,"state":"%s","version":"1",'
            b'"queues":["%s"],"concurrency":%d,"jobs":[%s],'
            % (self._topic, self._connections, state, QUEUE.encode(), self.fleet.concurrency, jobs)
            + _ENVELOPE
        )

    def subscribed(self) -> None:
        """Introduce itself."""
        self.line().publish(self._presence, pack(self._said(b"online")))

    def message(self, kind: bytes, payload: bytes) -> None:
        """Take one message."""
        if kind == b"assign":
            self._assigned(_JOB.search(payload)[1], _FENCE.search(payload)[1])  # type: ignore[index]  # our own format
        elif kind == b"api_response":
            self._answered(_REQUEST.search(payload)[1], _STATUS.search(payload)[1])  # type: ignore[index]  # the same
        elif kind == b"result_ack":
            self.holds.pop(_JOB.search(payload)[1], None)  # type: ignore[index]  # the same
        elif kind == b"log_ack":
            self.fleet.logs_stored.add(_JOB.search(payload)[1])  # type: ignore[index]  # the same
        elif kind == b"welcome":
            self.welcomed = True
            self.fleet.welcomed += 1

    def _assigned(self, job: bytes, fence: bytes) -> None:
        self.fleet.assigned_at.setdefault(job, time.perf_counter())
        self.holds[job] = fence
        asks = b'{"kind":"start_request","request_id":"%s","job_id":"%s","fence":%s,' % (job, job, fence)
        self.line().publish(self._rpc, pack(asks + _ENVELOPE))

    def _answered(self, job: bytes, status: bytes) -> None:
        if status != b"200" or job not in self.holds:
            self.fleet.refused_starts += 1
            return
        self.running.add(job)
        if not self.fleet.hold:
            self.finish(job)

    def finish(self, job: bytes) -> None:
        """Ship the log and report success."""
        self.running.discard(job)
        fence = self.holds[job]
        line = self.line()
        head = publish_head(b"edge/v1/logs/" + self._topic + b"/" + job, "log_chunk")
        chunk = b'{"kind":"log_chunk","job_id":"%s","fence":%s,"offset":0,' % (job, fence)
        line.publish(head, pack(chunk + _ENVELOPE + b"\n" + LOG))
        result = b'{"kind":"finished","job_id":"%s","fence":%s,"exit_code":0,"log_size":%d,' % (job, fence, len(LOG))
        line.publish(self._results, pack(result + _ENVELOPE))


class SimulatedExecutor(Simulated):
    """Submits jobs, a number of them at a time, and acknowledges their ends."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet, EXECUTOR, (b"edge/v1/events/bench", b"edge/v1/admin/executor%3Abench/response"))
        self._submit = publish_head(b"edge/v1/jobs/" + QUEUE.encode(), "submit")
        self._admin = publish_head(b"edge/v1/admin/executor%3Abench/request", "event_ack")
        self._count = 0
        self.submitted_at: dict[bytes, float] = {}
        self.accepted_at: dict[bytes, float] = {}
        self.finished_at: dict[bytes, float] = {}
        self.failed = 0
        #: How many are submitted as soon as others end.
        self.left = 0

    def subscribed(self) -> None:
        """Say hello."""
        self.welcomed = True
        self.line().publish(self._admin, pack(b'{"kind":"executor_hello",' + _ENVELOPE))

    def submit(self) -> bytes:
        """Submit a job; return its id."""
        self._count += 1
        job = b"%08x-0000-4000-8000-%012x" % (int(self.fleet.started), self._count)
        self.submitted_at[job] = time.perf_counter()
        self.line().publish(
            self._submit,
            pack(
                b'{"kind":"submit","executor":"bench","job":{"job_id":"%s","type":"ExecuteCallback","queue":"%s",'
                b'"log_path":"bench/%s.log","workload":%s},"token":"%s",'
                % (job, QUEUE.encode(), job, _WORKLOAD, _TOKEN)
                + _ENVELOPE
            ),
        )
        return job

    def message(self, kind: bytes, payload: bytes) -> None:
        """Take one event."""
        job = _JOB.search(payload)[1]  # type: ignore[index]  # our own format
        if kind == b"job_accepted":
            self.accepted_at.setdefault(job, time.perf_counter())
        elif kind == b"job_finished":
            self.line().publish(self._admin, pack(b'{"kind":"event_ack","job_id":"%s",' % job + _ENVELOPE))
            if job in self.finished_at:
                return
            self.finished_at[job] = time.perf_counter()
            self.failed += b'"outcome":"success"' not in payload
            if self.left:
                self.left -= 1
                self.submit()


class Fleet:
    """Everybody who connects, and the loop that serves them."""

    def __init__(self, parties: Parties, port: int, *, concurrency: int = 16) -> None:
        self.parties = parties
        self.address = ("127.0.0.1", port)
        self.concurrency = concurrency
        self.started = time.time()
        self.workers: list[SimulatedWorker] = []
        self.welcomed = 0
        self.refused_starts = 0
        #: Whether jobs that have started go on until they are told to end.
        self.hold = False
        self.assigned_at: dict[bytes, float] = {}
        #: Jobs whose logs are on the bridge's disk.
        self.logs_stored: set[bytes] = set()
        self._epoll = select.epoll()
        self._watched: dict[int, Simulated] = {}
        self._pings: deque[tuple[float, Simulated]] = deque()
        self.executor = SimulatedExecutor(self)

    def watch(self, party: Simulated) -> None:
        """Serve a party's new connection."""
        number = party.line().fileno()
        self._watched[number] = party
        self._epoll.register(number, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
        self._pings.append((time.monotonic() + KEEP_ALIVE_S, party))

    def grow(self, count: int) -> None:
        """Add workers until there are ``count``; they are not connected yet."""
        self.workers += [SimulatedWorker(self, number) for number in range(len(self.workers), count)]

    def connect(self, parties: list[SimulatedWorker], *, at_once: int = SETTING_UP) -> None:
        """Connect workers and wait until all are welcome."""
        before, waiting, begun = self.welcomed, deque(parties), 0

        def go_on() -> bool:
            nonlocal begun
            while waiting and begun - (self.welcomed - before) < at_once:
                waiting.popleft().connect()
                begun += 1
            return self.welcomed - before >= len(parties)

        self.run_until(go_on, "every worker's welcome")

    def cut(self) -> None:
        """Drop every worker's connection at once."""
        for worker in self.workers:
            del self._watched[worker.line().fileno()]
            worker.line().cut()
            worker.connection = None
            worker.welcomed = False
        executor = [entry for entry in self._pings if entry[1] is self.executor]
        self._pings = deque(executor)

    def run_until(self, condition: Callable[[], bool], what: str, *, patience_s: float = PATIENCE_S) -> None:
        """Serve everybody until ``condition``.

        :raises TimeoutError: it does not come true.
        """
        deadline = time.monotonic() + patience_s
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} did not happen within {patience_s:g} s")
            for number, _ in self._epoll.poll(0.05):
                party = self._watched.get(number)
                if party is not None:
                    party.line().ready()
            self._ping()

    def run_for(self, seconds: float) -> None:
        """Serve everybody for some time."""
        end = time.monotonic() + seconds
        self.run_until(lambda: time.monotonic() >= end, "the end of the wait", patience_s=seconds + 60)

    def _ping(self) -> None:
        now = time.monotonic()
        while self._pings and self._pings[0][0] <= now:
            _, party = self._pings.popleft()
            if party.connection is not None:
                party.connection.ping()
                self._pings.append((now + KEEP_ALIVE_S, party))

    def close(self) -> None:
        """End every connection."""
        for party in self._watched.values():
            party.line().cut()
        self._watched.clear()
        self._epoll.close()
