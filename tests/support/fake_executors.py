"""The executors around the dispatcher, as small as they can be and still keep what the real ones promise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edge_mqtt.broker_bridge.dispatch.core import effects, events
from edge_mqtt.broker_bridge.dispatch.core.events import Event
from edge_mqtt.broker_bridge.dispatch.core.settings import DispatchSettings
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, JobId
from edge_mqtt.broker_bridge.protocol.messages import (
    AdoptReply,
    JobAccepted,
    JobFinished,
    JobSpec,
    Message,
    Outcome,
)

if TYPE_CHECKING:
    from tests.support.scenario_dispatch_world import World

SETTINGS = DispatchSettings(lease_s=100.0, kill_grace_s=10.0, settle_s=20.0, remembered_jobs=0)
#: How much earlier than the centre a worker ends the lease of its jobs.
STOP_EARLY_S = SETTINGS.kill_grace_s + 5.0

Downward = Message | effects.StartDecided


@dataclass
class Link:
    """One party's connection. What is in flight when it breaks may be lost."""

    connected: bool = False
    up: list[Event] = field(default_factory=list)
    down: list[Downward] = field(default_factory=list)


class Party(ABC):
    """Somebody with a link to the bridge."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.link = Link()
        self.alive = True

    def send(self, event: Event) -> None:
        """Send when connected: a transport never queues."""
        if self.link.connected:
            self.link.up.append(event)

    def connect(self) -> None:
        """Connect, and say what is held."""
        if self.alive and not self.link.connected:
            self.link.connected = True
            self.hello()

    def disconnect(self) -> None:
        """Break the connection. In an untidy world messages may outlive it on the way to the bridge."""
        if self.link.connected:
            self.link.connected = False
            self.link.down.clear()
            if self.world.tidy:
                self.link.up.clear()
            self.last_will()

    @abstractmethod
    def hello(self) -> None:
        """Say what is held."""

    @abstractmethod
    def last_will(self) -> None:
        """Have the broker tell of the end of the connection."""

    @abstractmethod
    def receive(self, message: Downward) -> None:
        """Take a message from the bridge."""


@dataclass
class Record:
    """A job in Airflow's own database."""

    executor: str
    state: str = "open"
    #: Final events that reached Airflow.
    ends: list[Outcome] = field(default_factory=list)


class Executor(Party):
    """Keeps what is not acknowledged, repeats it, and asks about the rest at every connection."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self.pending: dict[JobId, JobSpec] = {}
        self.waiting: set[JobId] = set()
        self.revoked: set[JobId] = set()
        self.asked: dict[str, tuple[JobId, ...]] = {}

    def last_will(self) -> None:
        """Do nothing: an executor leaves no will."""

    @property
    def executor(self) -> ExecutorName:
        """Its name, typed."""
        return ExecutorName(self.name)

    def submit(self, spec: JobSpec) -> None:
        """Queue a job."""
        self.world.airflow[spec.job_id] = Record(self.name)
        self.pending[spec.job_id] = spec
        self.waiting.add(spec.job_id)
        self._submit(spec)

    def _submit(self, spec: JobSpec) -> None:
        self.send(events.Submitted(executor=self.executor, job=spec, token="t"))

    def revoke(self, job_id: JobId) -> None:
        """Stop a job and hear no more of it."""
        self.waiting.discard(job_id)
        self.pending.pop(job_id, None)
        self.revoked.add(job_id)
        self.world.airflow[job_id].state = "revoked"
        self.send(events.CancelAsked(executor=self.executor, job_id=job_id))

    def restart(self) -> None:
        """Die and begin again with what Airflow's database knows."""
        self.disconnect()
        self.pending.clear()
        self.revoked.clear()
        self.asked.clear()
        self.waiting = {
            job_id
            for job_id, record in self.world.airflow.items()
            if record.executor == self.name and record.state == "open"
        }

    def adopt_from(self, other: Executor) -> None:
        """Take over from an executor that is dead."""
        for record in self.world.airflow.values():
            if record.executor == other.name:
                record.executor = self.name
        mine = {
            job_id
            for job_id, record in self.world.airflow.items()
            if record.executor == self.name and record.state == "open"
        }
        news = mine - self.waiting
        self.waiting |= news
        self._ask(news)

    def _ask(self, jobs: set[JobId]) -> None:
        if jobs and self.link.connected:
            request = f"a{self.world.count()}"
            self.asked[request] = tuple(sorted(jobs))
            self.send(events.AdoptAsked(executor=self.executor, request_id=request, job_ids=self.asked[request]))

    def hello(self) -> None:
        """Say what is held."""
        self.asked.clear()
        self.send(events.ExecutorConnected(executor=self.executor))
        for spec in self.pending.values():
            self._submit(spec)
        for job_id in sorted(self.revoked):
            self.send(events.CancelAsked(executor=self.executor, job_id=job_id))
        self._ask(self.waiting - set(self.pending))

    def receive(self, message: Downward) -> None:
        """Take an event."""
        if isinstance(message, JobAccepted):
            self.pending.pop(message.job_id, None)
            self.world.accepted.add(message.job_id)
        elif isinstance(message, JobFinished):
            self._finished(message)
        elif isinstance(message, AdoptReply):
            for job_id in self.asked.pop(message.request_id, ()):
                if job_id not in message.states and job_id in self.waiting:
                    self._give_up(job_id)

    def _finished(self, message: JobFinished) -> None:
        job_id = message.job_id
        self.pending.pop(job_id, None)
        if job_id in self.waiting:
            self.waiting.discard(job_id)
            record = self.world.airflow[job_id]
            record.state = "ended"
            record.ends.append(message.outcome)
            self.world.check_end(message)
        self.send(events.EventAcked(executor=self.executor, job_id=job_id))

    def _give_up(self, job_id: JobId) -> None:
        """Airflow resets a job that the bridge has never heard of."""
        assert job_id not in self.world.accepted, f"{job_id} was accepted, and is unknown"
        self.waiting.discard(job_id)
        self.world.airflow[job_id].state = "reset"
