"""Workers and an executor that say what ours say, and run nothing."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from edge_mqtt.broker_bridge.protocol.compression import MAGIC, compress, decompress
from edge_mqtt.broker_bridge.protocol.limits import MAX_MESSAGE_BYTES
from edge_mqtt.certs.identity import Identity, Role
from tests.benchmarks.bridge.certificates import Parties
from tests.benchmarks.bridge.loop import KEEP_ALIVE_S, Loop
from tests.benchmarks.bridge.wire import (
    CONNACK,
    PINGRESP,
    PUBLISH,
    SUBACK,
    Connection,
    connect_packet,
    publish_head,
    subscribe_packet,
)

QUEUE: Final = b"default"
#: Slots of every worker.
CONCURRENCY: Final = 16
_EXECUTOR: Final = Identity(Role.EXECUTOR, "bench")
#: Log of a job.
_LOG: Final = b'{"timestamp":"2026-01-01T00:00:00.000000Z","level":"info","event":"done","logger":"task"}\n' * 3
#: About what Airflow hands an executor for one task.
_WORKLOAD: Final = b'{"callback":{"data":{"kwargs":{"text":"%s"}}},"dag_rel_path":"lab.py"}' % (b"x" * 800)
_TOKEN: Final = b"t" * 400
_ENVELOPE: Final = b'"v":1,"id":"0123456789abcdef0123456789abcdef","sent_at":1790000000.123}'
_KIND: Final = re.compile(rb'"kind":"([a-z_]+)"')
_JOB: Final = re.compile(rb'"job_id":"([^"]+)"')
_FENCE: Final = re.compile(rb'"fence":(\d+)')
_REQUEST: Final = re.compile(rb'"request_id":"([^"]+)"')
_STATUS: Final = re.compile(rb'"status":(\d+)')


def _find(pattern: re.Pattern[bytes], payload: bytes) -> bytes:
    match = pattern.search(payload)
    assert match is not None, payload[:200]
    return match[1]


@dataclass(slots=True)
class Life:
    """When what became of one job, in seconds of the same clock; 0: not yet."""

    submitted: float
    accepted: float = 0.0
    #: Arrival at its worker.
    assigned: float = 0.0
    #: Arrival of the permission to run, for which the worker asks at once: what is recorded centrally as its start.
    started: float = 0.0
    finished: float = 0.0
    #: Its log is on the bridge's disk, says the bridge.
    log_stored: bool = False


class Site(Protocol):
    """What the parties of one bridge share."""

    parties: Parties
    loop: Loop
    address: tuple[str, int]
    jobs: dict[bytes, Life]
    welcomed: int
    refused_starts: int
    hold: bool


class Simulated:
    """What workers and the executor have in common.

    :param address: the bridge's, or that of a link to it.
    """

    def __init__(self, site: Site, identity: Identity, filters: Iterable[bytes], address: tuple[str, int]) -> None:
        self.site = site
        self.identity = identity
        self.connection: Connection | None = None
        self.welcomed = False
        #: Answers to pings.
        self.pongs = 0
        self._context = site.parties.context(identity)
        self._address = address
        self._subscribe = subscribe_packet(*filters)

    def connect(self) -> None:
        """Begin a connection."""
        self.welcomed = False
        packet = connect_packet(self.identity.client_id, keep_alive_s=KEEP_ALIVE_S, will=self.will())
        self.connection = Connection(self._context, self._address, packet, self._packet)
        self.site.loop.watch(self)

    def cut(self) -> None:
        """Drop the connection without a word."""
        self.site.loop.cut(self)
        self.connection = None
        self.welcomed = False

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
                payload = decompress(payload, MAX_MESSAGE_BYTES)
            self.message(_find(_KIND, payload), payload)
        elif kind == CONNACK:
            if body[1]:
                raise ConnectionRefusedError(f"{self.identity} is refused with code {body[1]}")
            self.line().send(self._subscribe)
        elif kind == SUBACK:
            self.site.loop.keep_alive(self)
            self.subscribed()
        elif kind == PINGRESP:
            self.pongs += 1


class SimulatedWorker(Simulated):
    """Asks of every assignment whether it may start it at once, ships a log, reports success.

    :param queue: the one that it serves.
    :param address: None for the bridge's own.
    """

    def __init__(
        self, site: Site, name: str, *, queue: bytes = QUEUE, address: tuple[str, int] | None = None
    ) -> None:
        topic = name.encode()
        filters = (b"edge/v1/jobs/+/to/" + topic, b"edge/v1/control/" + topic, b"edge/v1/rpc/" + topic + b"/response")
        super().__init__(site, Identity(Role.WORKER, name), filters, address or site.address)
        self._topic = topic
        self._queue = queue
        self._results = publish_head(b"edge/v1/results/" + topic, "finished")
        self._rpc = publish_head(b"edge/v1/rpc/" + topic + b"/request", "start_request")
        self._presence = publish_head(b"edge/v1/workers/" + topic, "presence", retain=True)
        self._connections = 0
        #: Fence of each job that it holds.
        self._holds: dict[bytes, bytes] = {}
        self.running: set[bytes] = set()

    def will(self) -> tuple[bytes, bytes]:
        """Return the presence that says that it is gone."""
        self._connections += 1
        return b"edge/v1/workers/" + self._topic, compress(self._said(b"offline"))

    def _said(self, state: bytes) -> bytes:
        jobs = b",".join(
            b'{"job_id":"%s","fence":%s,"state":"%s"}'
            % (job, fence, b"running" if job in self.running else b"accepted")
            for job, fence in self._holds.items()
        )
        return (
            b'{"kind":"presence","incarnation":"one","home":"%s","connection":%d,"state":"%s","version":"1",'
            b'"queues":["%s"],"concurrency":%d,"jobs":[%s],'
            % (self._topic, self._connections, state, self._queue, CONCURRENCY, jobs)
            + _ENVELOPE
        )

    def subscribed(self) -> None:
        """Introduce itself."""
        self.line().publish(self._presence, compress(self._said(b"online")))

    def message(self, kind: bytes, payload: bytes) -> None:
        """Take one message."""
        if kind == b"assign":
            self._assigned(_find(_JOB, payload), _find(_FENCE, payload))
        elif kind == b"api_response":
            self._answered(_find(_REQUEST, payload), _find(_STATUS, payload))
        elif kind == b"result_ack":
            self._holds.pop(_find(_JOB, payload), None)
        elif kind == b"log_ack":
            self.site.jobs[_find(_JOB, payload)].log_stored = True
        elif kind == b"welcome":
            self.welcomed = True
            self.site.welcomed += 1

    def _assigned(self, job: bytes, fence: bytes) -> None:
        life = self.site.jobs[job]
        life.assigned = life.assigned or time.perf_counter()
        self._holds[job] = fence
        asks = b'{"kind":"start_request","request_id":"%s","job_id":"%s","fence":%s,' % (job, job, fence)
        self.line().publish(self._rpc, compress(asks + _ENVELOPE))

    def _answered(self, job: bytes, status: bytes) -> None:
        if status != b"200" or job not in self._holds:
            self.site.refused_starts += 1
            return
        self.site.jobs[job].started = time.perf_counter()
        self.running.add(job)
        if not self.site.hold:
            self.finish(job)

    def finish(self, job: bytes) -> None:
        """Ship the log and report success."""
        self.running.discard(job)
        fence = self._holds[job]
        line = self.line()
        head = publish_head(b"edge/v1/logs/" + self._topic + b"/" + job, "log_chunk")
        chunk = b'{"kind":"log_chunk","job_id":"%s","fence":%s,"offset":0,' % (job, fence)
        line.publish(head, compress(chunk + _ENVELOPE + b"\n" + _LOG))
        result = b'{"kind":"finished","job_id":"%s","fence":%s,"exit_code":0,"log_size":%d,' % (job, fence, len(_LOG))
        line.publish(self._results, compress(result + _ENVELOPE))


class SimulatedExecutor(Simulated):
    """Submits jobs and acknowledges their ends."""

    def __init__(self, site: Site) -> None:
        filters = (b"edge/v1/events/bench", b"edge/v1/admin/executor%3Abench/response")
        super().__init__(site, _EXECUTOR, filters, site.address)
        self._admin = publish_head(b"edge/v1/admin/executor%3Abench/request", "event_ack")
        self._began = int(time.time())
        self.finished = 0
        self.failed = 0
        #: How many more are submitted, each when another one ends.
        self.left = 0
        self._next_queue = QUEUE

    def subscribed(self) -> None:
        """Say hello."""
        self.welcomed = True
        self.line().publish(self._admin, compress(b'{"kind":"executor_hello",' + _ENVELOPE))

    def submit(self, queue: bytes = QUEUE) -> bytes:
        """Submit a job, and on the same queue those that are left; return its id."""
        self._next_queue = queue
        job = b"%08x-0000-4000-8000-%012x" % (self._began, len(self.site.jobs))
        self.site.jobs[job] = Life(time.perf_counter())
        message = (
            b'{"kind":"submit","job":{"job_id":"%s","type":"ExecuteCallback","queue":"%s",'
            b'"log_path":"bench/%s.log","workload":%s},"token":"%s",' % (job, queue, job, _WORKLOAD, _TOKEN)
        )
        topic = b"edge/v1/jobs/" + queue + b"/from/bench"
        self.line().publish(publish_head(topic, "submit"), compress(message + _ENVELOPE))
        return job

    def message(self, kind: bytes, payload: bytes) -> None:
        """Take one event."""
        if kind == b"job_accepted":
            life = self.site.jobs[_find(_JOB, payload)]
            life.accepted = life.accepted or time.perf_counter()
        elif kind == b"job_finished":
            self._finished(_find(_JOB, payload), payload)

    def _finished(self, job: bytes, payload: bytes) -> None:
        self.line().publish(self._admin, compress(b'{"kind":"event_ack","job_id":"%s",' % job + _ENVELOPE))
        life = self.site.jobs[job]
        if life.finished:
            return
        life.finished = time.perf_counter()
        self.finished += 1
        self.failed += b'"outcome":"success"' not in payload
        if self.left:
            self.left -= 1
            self.submit(self._next_queue)
