"""The one place that builds and reads topics.

A segment (queue, name, job id) is percent-encoded, so that ``/ + # . $`` and spaces in a queue's name are
legal, survive every broker and round-trip.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, unquote

from edge_mqtt.broker_bridge.protocol.errors import InvalidTopic
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, JobId, WorkerName
from edge_mqtt.certs.identity import Identity, InvalidName, Role

#: The protocol's major version as it appears in every topic.
VERSION_SEGMENT = "v1"
DEFAULT_PREFIX = "edge"
#: Single-level wildcard of a topic filter [MQTT-4.7.1-3].
ANY = "+"


def escape(segment: str) -> str:
    """Return ``segment`` as one topic level, free of every character that MQTT or a broker treats specially."""
    if not segment:
        raise InvalidTopic("a topic segment cannot be empty: name the queue, worker or job")
    return quote(segment, safe="").replace(".", "%2E")


def unescape(segment: str) -> str:
    """Return what :func:`escape` was given."""
    return unquote(segment)


@dataclass(frozen=True, slots=True)
class Topics:
    """Builds every topic and topic filter below one prefix, so that several Airflows can share a broker."""

    prefix: str = DEFAULT_PREFIX

    def _join(self, *levels: str) -> str:
        return "/".join((self.prefix, VERSION_SEGMENT, *levels))

    def submit(self, queue: str, executor: ExecutorName) -> str:
        """Return where ``executor`` submits jobs of ``queue``."""
        return self._join("jobs", escape(queue), "from", escape(executor))

    def assignment(self, queue: str, worker: WorkerName) -> str:
        """Return where the bridge hands ``worker`` a job of ``queue``."""
        return self._join("jobs", escape(queue), "to", escape(worker))

    def assignments(self, worker: WorkerName) -> str:
        """Return the filter for ``worker``'s assignments of every queue."""
        return self._join("jobs", ANY, "to", escape(worker))

    def acks(self, worker: WorkerName) -> str:
        """Return where ``worker`` accepts or rejects assignments."""
        return self._join("acks", escape(worker))

    def results(self, worker: WorkerName) -> str:
        """Return where ``worker`` reports outcomes."""
        return self._join("results", escape(worker))

    def log(self, worker: WorkerName, job: JobId) -> str:
        """Return where ``worker`` ships the log of ``job``."""
        return self._join("logs", escape(worker), escape(job))

    def presence(self, worker: WorkerName) -> str:
        """Return the retained topic that says whether ``worker`` is there; also its will's topic."""
        return self._join("workers", escape(worker))

    def control(self, worker: WorkerName) -> str:
        """Return where the bridge speaks to ``worker``."""
        return self._join("control", escape(worker))

    def rpc_request(self, worker: WorkerName) -> str:
        """Return where ``worker`` sends Execution API calls."""
        return self._join("rpc", escape(worker), "request")

    def rpc_response(self, worker: WorkerName) -> str:
        """Return where the answers to :meth:`rpc_request` come."""
        return self._join("rpc", escape(worker), "response")

    def events(self, executor: ExecutorName) -> str:
        """Return where the bridge reports to ``executor``."""
        return self._join("events", escape(executor))

    def admin_request(self, identity: Identity) -> str:
        """Return where an operator or executor asks and commands."""
        return self._join("admin", escape(identity.client_id), "request")

    def admin_response(self, identity: Identity) -> str:
        """Return where the answers to :meth:`admin_request` come."""
        return self._join("admin", escape(identity.client_id), "response")

    def error_from(self, identity: Identity) -> str:
        """Return where a client tells the bridge that it did not understand a message."""
        return self.acks(WorkerName(identity.name)) if identity.role is Role.WORKER else self.admin_request(identity)

    def error_to(self, topic: str) -> str | None:
        """Return where the bridge tells the publisher of what came on ``topic`` that it did not understand it.

        None when no client may publish there.
        """
        try:
            identity = Identity.from_client_id(sender_of(topic))
        except InvalidName:
            return None
        if identity.role is Role.WORKER:
            return self.control(WorkerName(identity.name))
        return self.admin_response(identity)

    def for_bridge(self) -> tuple[str, ...]:
        """Return every filter that the dispatcher listens to."""
        return (
            self._join("jobs", ANY, "from", ANY),
            self._join("acks", ANY),
            self._join("results", ANY),
            self._join("logs", ANY, ANY),
            self._join("workers", ANY),
            self._join("rpc", ANY, "request"),
            self._join("admin", ANY, "request"),
        )

    def parse(self, topic: str) -> tuple[str, ...]:
        """Return the levels below prefix and version, unescaped: ``("logs", "lab-3", "0199…")``.

        :raises InvalidTopic: the topic is not below this prefix and version.
        """
        prefix, _, rest = topic.partition("/")
        version, _, rest = rest.partition("/")
        if prefix != self.prefix or version != VERSION_SEGMENT or not rest:
            raise InvalidTopic(f"topic {topic!r} is not below {self.prefix}/{VERSION_SEGMENT}/")
        return tuple(unescape(level) for level in rest.split("/"))


def sender_of(topic: str) -> str:
    """Return the client id of the one client that may publish on ``topic``; ``bridge`` where only the bridge may."""
    match topic.split("/")[2:]:
        case ["admin", client_id, "request"]:
            return unescape(client_id)
        case ["jobs", _, "from", executor]:
            return Identity(Role.EXECUTOR, unescape(executor)).client_id
        case [("acks" | "results" | "workers"), worker] | ["logs", worker, _] | ["rpc", worker, "request"]:
            return Identity(Role.WORKER, unescape(worker)).client_id
    return Role.BRIDGE


def matches(topic_filter: str, topic: str) -> bool:
    """Tell whether ``topic`` matches ``topic_filter`` [MQTT-4.7.1]; a wildcard matches no first $ [MQTT-4.7.2-1]."""
    if topic.startswith("$") and not topic_filter.startswith("$"):
        return False
    filter_levels = topic_filter.split("/")
    levels = topic.split("/")
    for position, level in enumerate(filter_levels):
        if level == "#":
            return True
        if position >= len(levels) or level not in (ANY, levels[position]):
            return False
    return len(filter_levels) == len(levels)
