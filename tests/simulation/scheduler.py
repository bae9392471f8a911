"""A scheduler with its executor: the real ``Exchange`` and ``JobBook``, and thin models of the shells around them.

Modelled after ``executor/link.py`` (what is sent when) and ``executor/edge_mqtt_executor.py`` (what Airflow is told
when), without their threads. Left out: refusals and redials, messages that are too large, workloads that Airflow's
scheduler gives up by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, JobId
from edge_mqtt.broker_bridge.protocol.messages import (
    AdoptRequest,
    EventAck,
    ExecutorHello,
    JobFinished,
    JobStarted,
    Message,
    Outcome,
)
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.executor.exchange import Exchange, Unanswered
from edge_mqtt.executor.jobs import JobBook, Offer
from tests.simulation.airflow_db import Key, TaskInstance
from tests.simulation.clock import Event, Life, Shell

if TYPE_CHECKING:
    from tests.simulation.world import World

#: Airflow's loop, its look for tasks of dead schedulers, how long those count as alive, in seconds.
LOOP_S: Final = 1.0
ORPHANS_EVERY_S: Final = 20.0
ADOPT_TIMEOUT_S: Final = 3.0
#: How long a final event waits for an adoption: two looks, and the time until a scheduler counts as dead.
UNCLAIMED_S: Final = 60.0
#: How often a row is locked when its event is to be taken.
LOCKED: Final = 0.1


class Scheduler:
    """One scheduler, over all its restarts."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._chance = world.chance
        self.identity = Identity(Role.EXECUTOR, name)
        self.name = ExecutorName(name)
        topics = world.topics
        subscriptions = (topics.events(self.name), topics.admin_response(self.identity))
        self.wire = world.network.wire(self.identity, subscriptions)
        self.life = Life(world.clock)
        self.life.end()
        self.incarnation = ""

    def start(self) -> None:
        """Begin with nothing but Airflow's database."""
        world = self._world
        self.life = Life(world.clock)
        self.incarnation = f"{self.name}.{world.count()}"
        self.exchange = Exchange(world.topics, resend_s=5.0, resend_at_most_s=20.0)
        self.book: JobBook[Key] = JobBook()
        self.running: set[Key] = set()
        self._buffer: dict[Key, tuple[Outcome, JobId]] = {}
        self._handed_out: list[dict[Key, tuple[Outcome, JobId]]] = []
        self._answered = Event()
        self._orphans_at = world.clock.now + self._chance.uniform(0.0, ORPHANS_EVERY_S)
        self.wire.start(self, self.incarnation)
        self.life.spawn(self._link())
        self.life.spawn(self._run())

    def kill(self) -> None:
        """Die at once."""
        self.life.end()
        self.wire.stop()

    def step(self) -> None:
        """Perhaps die here."""
        self._world.perhaps_die("executor", self)

    # ------------------------------------------------------------ the link

    def will(self, _connection: int) -> None:
        """Leave nothing to say."""

    def connected(self) -> None:
        """Repeat everything."""
        self.exchange.restart()
        self._send(self._world.topics.admin_request(self.identity), ExecutorHello())
        self._send_due()

    def disconnected(self) -> None:
        """Do nothing: it is all kept."""

    def received(self, topic: str, message: Message) -> None:
        """Take one message."""
        assert self.exchange.take(message), f"{message.kind} on {topic}"
        self._answered.set()
        self._send_acks()

    def _send(self, topic: str, message: Message) -> bool:
        self.step()
        return self.wire.send(topic, message)

    def _send_item(self, item: Unanswered) -> None:
        if self.wire.session is not None:
            for topic, message in item.post(self.identity):
                self._send(topic, message)

    def _send_due(self) -> None:
        if self.wire.session is not None:
            for item in self.exchange.due(self._world.clock.now):
                self._send_item(item)

    def _send_acks(self) -> None:
        if self.wire.session is None:
            return
        topic = self._world.topics.admin_request(self.identity)
        for job_id in self.exchange.take_acks():
            if not self._send(topic, EventAck(job_id=job_id)):
                self.exchange.acknowledge(job_id)

    def _link(self) -> Shell:
        while True:
            yield self.life.sleep(1.0)
            self._send_due()
            self._send_acks()

    # ------------------------------------------------------------ Airflow's loop

    def _run(self) -> Shell:
        world = self._world
        while True:
            yield self.life.sleep(LOOP_S)
            if world.clock.now >= self._orphans_at:
                self._orphans_at = world.clock.now + ORPHANS_EVERY_S
                yield from self._adopt_orphans()
            self._queue_scheduled()
            self._sync()
            self._take_events()

    def _queue_scheduled(self) -> None:
        for row in self._world.airflow.rows:
            if row.state == "scheduled" and self._chance.random() < 0.7:
                spec = self._world.airflow.queue(row, self.incarnation)
                self.step()
                self._retire(row.key, self.book.begin(row.key, spec.job_id))
                self._send_item(self.exchange.submit(spec, "token", self._world.clock.now))
                self.running.add(row.key)

    def _retire(self, key: Key, earlier: JobId | None) -> None:
        if earlier is not None:
            self.exchange.dismiss(earlier)
        for job_id in self.book.offered_for(key):
            self._settle(job_id)

    def revoke(self, row: TaskInstance) -> None:
        """Have a task's job stopped, and forget it."""
        self.running.discard(row.key)
        job_id = self.book.forget(row.key) or row.job_id
        self._retire(row.key, None)
        if job_id is not None:
            self._send_item(self.exchange.cancel(job_id, self._world.clock.now))
        self._world.airflow.reset(row)

    # ------------------------------------------------------------ adoption

    def _adopt_orphans(self) -> Shell:
        world = self._world
        living = {scheduler.incarnation for scheduler in world.schedulers if scheduler.life.alive}
        orphans = {
            row.job_id: row
            for row in world.airflow.rows
            if row.job_id is not None
            and row.owner not in living
            and row.state in ("queued", "running")
            and not row.work.callback
            and row.locked_by not in living
        }
        if not orphans:
            return
        for row in orphans.values():
            row.locked_by = self.incarnation
        request = AdoptRequest(request_id=f"a{world.count()}", job_ids=tuple(orphans))
        self._send_item(self.exchange.adopt(request, world.clock.now))
        limit = world.clock.now + ADOPT_TIMEOUT_S
        while not self.exchange.is_answered(request.request_id) and world.clock.now < limit:
            self._answered = Event()
            yield self._answered.within(self.life, limit - world.clock.now)
        known = self.exchange.answer(request.request_id)
        self.step()
        for job_id, row in orphans.items():
            row.locked_by = None
            if row.job_id != job_id or row.state not in ("queued", "running"):
                continue
            if known is None or job_id in known:
                self._adopt(row, job_id)
            else:
                world.promises.given_back(job_id)
                world.airflow.reset(row)

    def _adopt(self, row: TaskInstance, job_id: JobId) -> None:
        row.owner = self.incarnation
        self._retire(row.key, self.book.begin(row.key, job_id))
        self.running.add(row.key)
        finished = self.book.claim(job_id)
        if finished is not None:
            self._on_finished(finished)

    # ------------------------------------------------------------ sync

    def _sync(self) -> None:
        self._follow_up_offers()
        for event in self.exchange.read():
            if isinstance(event, JobStarted):
                self.book.start(event.job_id)
            elif isinstance(event, JobFinished):
                self._on_finished(event)
            else:
                for job_id in event.job_ids:
                    self._on_unknown(job_id)
        self._send_acks()
        for job_id in self.book.expire_unclaimed(self._world.clock.now - UNCLAIMED_S):
            self.exchange.acknowledge(job_id)

    def _on_unknown(self, job_id: JobId) -> None:
        self._world.promises.given_back(job_id)
        if self.book.key_of(job_id) is not None:
            self._on_finished(JobFinished(job_id=job_id, outcome=Outcome.LOST, detail="unknown"))

    def _on_finished(self, event: JobFinished) -> None:
        if self.book.is_offered(event.job_id):
            return
        now = self._world.clock.now
        key = self.book.key_of(event.job_id)
        if key is None:
            self.book.keep_unclaimed(event, now)
            return
        self.running.discard(key)
        self._buffer[key] = (event.outcome, event.job_id)
        self.book.forget(key)
        self.book.offer(Offer(key=key, job_id=event.job_id, event=self._buffer[key], offered_at=now))

    def _follow_up_offers(self) -> None:
        passed_over: dict[Key, tuple[Outcome, JobId]] = {}
        for events in self._handed_out:
            passed_over.update(events)
        self._handed_out.clear()
        now = self._world.clock.now
        for offer in self.book.offers():
            if offer.due_at is not None:
                if offer.due_at <= now:
                    offer.due_at = None
                    self._buffer.setdefault(offer.key, offer.event)
            elif offer.key in self._buffer:
                continue
            elif passed_over.get(offer.key) != offer.event or not offer.passed_over(now):
                self._settle(offer.job_id)

    def _settle(self, job_id: JobId) -> None:
        self.book.settle(job_id)
        self.exchange.acknowledge(job_id)
        self._send_acks()

    def _take_events(self) -> None:
        events, self._buffer = self._buffer, {}
        self._handed_out.append(events)
        for key, (outcome, job_id) in list(events.items()):
            self.step()
            callback = self._world.airflow.rows[key[0]].work.callback
            if callback or self._chance.random() >= LOCKED:
                has_task = key in self.running
                self._world.airflow.take(self.incarnation, key, job_id, outcome, has_task=has_task)
                del events[key]
        self.step()
