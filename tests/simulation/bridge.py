"""The bridge: the real dispatcher and ledger twin, and thin models of the service loop and the desk.

Modelled after ``dispatch/service.py`` (batches, commit, then speak; what happens when a commit fails) and ``desk.py``
(who answers what). The relay and the logs have files of their own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_mqtt.broker_bridge.dispatch.core import events
from edge_mqtt.broker_bridge.dispatch.core.dispatcher import Dispatcher
from edge_mqtt.broker_bridge.dispatch.core.effects import (
    Assigned,
    Effect,
    StartDecided,
    ToAdmin,
    ToExecutor,
    ToWorker,
)
from edge_mqtt.broker_bridge.dispatch.core.model import Job
from edge_mqtt.broker_bridge.dispatch.inbound import event_for
from edge_mqtt.broker_bridge.dispatch.ledger_memory import MemoryLedger
from edge_mqtt.broker_bridge.dispatch.service import BATCH_EVENTS, LEDGER_RETRY_S, REPEATED_BY_SENDER
from edge_mqtt.broker_bridge.protocol.ids import JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import (
    ApiRequest,
    JobFinished,
    LogChunk,
    LogPosition,
    Message,
    StartRequest,
    Welcome,
)
from edge_mqtt.certs.identity import Identity, Role
from tests.simulation.bridge_logs import CentralLogs
from tests.simulation.clock import Event as Signal
from tests.simulation.clock import Life, Shell, Wait
from tests.simulation.plan import UNAVAILABLE
from tests.simulation.relay import Heartbeats, Relay

if TYPE_CHECKING:
    from tests.simulation.world import World


@dataclass
class _Waiting:
    event: events.Event
    #: Called with None, or with why it could not be stored.
    committed: Callable[[str | None], None] | None


class Bridge:
    """One bridge, over all its restarts. Ledger and log files stay."""

    #: A mutation: effects are performed before what they follow from is committed.
    speaks_first = False

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = world.chance
        self.ledger = MemoryLedger(lambda: world.clock.now)
        self.ledger_is_full = False
        self.logs = CentralLogs(world, self)
        self.life = Life(world.clock)
        self.life.end()

    # ------------------------------------------------------------ life

    def start(self) -> None:
        """Load what the ledger has, then listen."""
        world = self._world
        self.life = Life(world.clock)
        self._events: deque[_Waiting] = deque()
        self._arrived = Signal()
        self._starts: dict[str, Callable[[str | None], None]] = {}
        self.dispatcher = Dispatcher(world.plan.settings)
        live = self.ledger.load_live()
        self.dispatcher.load(live, world.clock.now, last_sequence=self.ledger.max_sequence())
        self.relay = Relay(world, self)
        self.logs.start()
        world.network.open(self.received)
        self.life.spawn(self._run())
        self.life.spawn(Heartbeats(world, self).run())

    def kill(self) -> None:
        """Die at once, and the broker in it."""
        self.life.end()
        self._world.network.close()

    def step(self) -> None:
        """Perhaps die here."""
        self._world.perhaps_die("bridge", self)

    # ------------------------------------------------------------ the desk

    def received(self, topic: str, message: Message) -> None:
        """Hand a message to whom it is for."""
        levels = self._world.topics.parse(topic)
        match levels, message:
            case ("logs", worker, job_id), LogChunk() if message.job_id == job_id:
                self.logs.put(WorkerName(worker), message)
            case ("rpc", worker, "request"), (ApiRequest() | StartRequest()):
                self.life.spawn(self.relay.answer(WorkerName(worker), message))
            case _:
                event = event_for(levels, message)
                if event is not None:
                    self.post(event)

    def send(self, topic: str, message: Message) -> None:
        """Publish."""
        self._world.network.publish(topic, message)

    def _perform(self, effect: Effect) -> None:
        topics = self._world.topics
        match effect:
            case ToWorker(worker=worker, message=Welcome() as welcome):
                self.life.spawn(self._welcome(worker, welcome))
            case ToWorker():
                self.send(topics.control(effect.worker), effect.message)
            case Assigned():
                self.send(topics.assignment(effect.queue, effect.worker), effect.message)
            case ToExecutor():
                if isinstance(effect.message, JobFinished):
                    self.relay.forget(effect.message.job_id)
                self.send(topics.events(effect.executor), effect.message)
            case ToAdmin():
                self.send(topics.admin_response(Identity(Role.EXECUTOR, effect.executor)), effect.message)
            case StartDecided():
                self._start_decided(effect)

    def _welcome(self, worker: WorkerName, welcome: Welcome) -> Shell:
        positions = []
        for position in welcome.logs:
            yield self.disk()
            positions.append(LogPosition(job_id=position.job_id, offset=self.logs.stored(position.job_id)))
        self.send(self._world.topics.control(worker), welcome.model_copy(update={"logs": tuple(positions)}))

    # ------------------------------------------------------------ the service

    def post(self, event: events.Event) -> None:
        """Queue an event."""
        self._put(_Waiting(event, None))

    def commit(self, event: events.Event) -> Wait:
        """Queue an event and wait until what it changed is on disk; brings None, or why it could not be stored."""
        return lambda resume: self._put(_Waiting(event, resume))

    def ask_start(self, worker: WorkerName, request: ApiRequest | StartRequest, starter: str) -> Wait:
        """Record the start of user code; brings None when it may start, else why not."""

        def begin(resume: Callable[[Any], None]) -> None:
            request_id = f"s{self._world.count()}"
            self._starts[request_id] = resume
            event = events.StartAsked(
                worker=worker,
                job_id=request.job_id,
                fence=request.fence,
                starter=starter,
                request_id=request_id,
            )
            self.post(event)

        return begin

    def _start_decided(self, effect: StartDecided) -> None:
        resume = self._starts.pop(effect.request_id, None)
        if resume is not None:
            resume(None if effect.granted else effect.reason)

    def _put(self, waiting: _Waiting) -> None:
        self._events.append(waiting)
        self._arrived.set()

    def disk(self) -> Wait:
        """Wait as long as a disk takes."""
        return self.life.sleep(self._chance.uniform(0.001, 0.05))

    def _run(self) -> Shell:
        while True:
            if not self._events:
                self._arrived = Signal()
                deadline = self.dispatcher.next_deadline()
                if deadline is None:
                    yield self._arrived.wait
                else:
                    yield self._arrived.within(self.life, max(0.0, deadline - self._world.clock.now))
            batch = [self._events.popleft() for _ in range(min(len(self._events), BATCH_EVENTS))]
            yield from self._decide(batch or [_Waiting(events.Tick(), None)])

    def _decide(self, batch: list[_Waiting]) -> Shell:
        self.dispatcher.checkpoint()
        changed, effects = self._decide_each([waiting.event for waiting in batch])
        if self.speaks_first:
            for effect in effects:
                self._perform(effect)
            effects = []
        if changed:
            yield self.disk()
            self.step()
            if self.ledger_is_full:
                self.dispatcher.rollback()
                yield from self._refuse(batch)
                return
            self.ledger.commit(list(changed.values()))
            self._world.promises.committed(changed.values())
            self.step()
        for waiting in batch:
            if waiting.committed is not None:
                waiting.committed(None)
        for effect in effects:
            self._perform(effect)
            self.step()

    def _decide_each(self, batch: list[events.Event]) -> tuple[dict[JobId, Job], list[Effect]]:
        missing = dict.fromkeys(job_id for event in batch for job_id in self.dispatcher.missing(event))
        self.dispatcher.recall(self.ledger.get(missing))
        changed: dict[JobId, Job] = {}
        effects: list[Effect] = []
        for event in batch:
            decision = self.dispatcher.handle(event, self._world.clock.now)
            self._world.check_author(event, decision.changed)
            changed.update((job.id, job) for job in decision.changed)
            effects.extend(decision.effects)
        return changed, effects

    def _refuse(self, batch: list[_Waiting]) -> Shell:
        again: list[_Waiting] = []
        for waiting in batch:
            asker = waiting.committed
            if asker is None and isinstance(waiting.event, events.StartAsked):
                asker = self._starts.pop(waiting.event.request_id, None)
            if asker is not None:
                asker(UNAVAILABLE)
            elif not isinstance(waiting.event, REPEATED_BY_SENDER):
                again.append(waiting)
        self._events.extendleft(reversed(again))
        yield self.life.sleep(LEDGER_RETRY_S)

    # ------------------------------------------------------------ looks

    def on_disk(self, job_id: JobId) -> Job | None:
        """Return a job as the ledger has it."""
        return next(iter(self.ledger.get([job_id])), None)

    def known(self, job_id: JobId) -> Job | None:
        """Return a job as memory has it, else the ledger."""
        live = self.dispatcher.job(job_id) if self.life.alive else None
        return live or self.on_disk(job_id)
