"""A scheduler's program: the real executor with its link, and as much of Airflow's loop as the executor sees of it.

Not real: the thread that repeats what is unanswered (its steps are taken here), Airflow's workloads and rows, whose
stand-ins bring the jobs ready made, and waiting, which lets the rest of the world go on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from airflow.models.taskinstancekey import TaskInstanceKey

from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, JobId
from edge_mqtt.broker_bridge.protocol.messages import JobSpec, Outcome
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.executor import edge_mqtt_executor, job_events
from edge_mqtt.executor.bridge_client import BridgeClient, BridgeClientTiming, PreparedConnection
from edge_mqtt.executor.edge_mqtt_executor import EdgeMqttExecutor
from edge_mqtt.executor.outbox import UnknownJobs
from edge_mqtt.executor.settings import ExecutorSettings
from edge_mqtt.executor.workloads import Submission
from tests.simulation.airflow_db import TaskInstance
from tests.simulation.clock import Killed, Life, Shell
from tests.simulation.transport import SimulatedTransport

if TYPE_CHECKING:
    from tests.simulation.world import World

#: Airflow's loop, and its look for tasks of dead schedulers, in seconds.
LOOP_S: Final = 1.0
ORPHANS_EVERY_S: Final = 20.0
#: How long a final event waits for an adoption: two looks, and the time until a scheduler counts as dead.
UNCLAIMED_S: Final = 60.0
#: How often a row is locked when its event is to be taken.
LOCKED: Final = 0.1
#: How long a callback may wait: longer than anything here keeps it waiting.
QUEUED_TIMEOUT_S: Final = 100_000.0
TIMING: Final = BridgeClientTiming(resend_s=5.0, resend_at_most_s=20.0)


@dataclass(frozen=True, slots=True)
class Workload:
    """Stands in for Airflow's workload: the job that the executor would make of it."""

    order: Submission

    @property
    def key(self) -> Any:
        """Airflow's key."""
        return self.order.key


@dataclass(frozen=True, slots=True)
class Row:
    """Stands in for Airflow's task instance as an adopting executor sees it."""

    key: Any
    external_executor_id: str | None
    state: str
    #: None when it has gone beyond its queue.
    order: Submission | None = None


class Scheduler:
    """One scheduler, over all its restarts."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
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
        world = self.world
        self.life = Life(world.clock)
        self.incarnation = f"{self.name}.{world.count()}"
        world.trace("%s begins", self.incarnation)
        self.link = SteppedLink(self)
        self.executor = Executor(self, self.link)
        self._orphans_at = world.clock.now + self._chance.uniform(0.0, ORPHANS_EVERY_S)
        self.life.spawn(self.link.steps())
        self.life.spawn(self._run())

    def leftovers(self) -> list[str]:
        """Return what is still kept about something when nothing is going on any more."""
        book, status = self.executor.job_index, self.link.status()
        kept = {
            "slots": len(self.executor.running),
            "jobs": len(book),
            "waiting jobs": len(self.executor.waiting),
            "offers": len(book.offers()),
            "unanswered messages": status.unanswered,
            "acknowledgements": status.unsent_acks,
            "jobs that the bridge has": len(self.link._outbox._held),
        }
        return [f"{count} {what}" for what, count in kept.items() if count]

    def kill(self) -> None:
        """Die at once."""
        self.life.end()
        self.wire.stop()

    def step(self) -> None:
        """Perhaps die here."""
        if not self.life.alive:
            raise Killed
        self.world.perhaps_die("executor", self)

    # ------------------------------------------------------------ Airflow's loop

    def _run(self) -> Shell:
        while True:
            yield self.life.sleep(LOOP_S)
            if self.world.clock.now >= self._orphans_at:
                self._orphans_at = self.world.clock.now + ORPHANS_EVERY_S
                self._adopt_orphans()
            self._revoke_stuck()
            self._give_up_silent()
            self._queue_scheduled()
            self.executor.sync()
            self._take_events()

    def _queue_scheduled(self) -> None:
        for row in self.world.airflow.rows:
            has_slot = self.world.healed or row.no_slot_until <= self.world.clock.now
            if row.state == "scheduled" and has_slot and self._chance.random() < 0.7:
                spec = self.world.airflow.queue(row, self.incarnation)
                self.step()
                self.executor._process_workloads([Workload(self._order(row, spec))])  # type: ignore[list-item]

    def _order(self, row: TaskInstance, spec: JobSpec) -> Submission:
        return Submission(key=row.key, job=spec, token=self.world.airflow.token(row.id))

    def _give_up_silent(self) -> None:
        """Give up tasks without heartbeats (``_purge_task_instances_without_heartbeats``)."""
        for key in self.world.airflow.give_up_silent(self.incarnation):
            self.executor.running.discard(key)
            self.step()

    def _revoke_stuck(self) -> None:
        """Have the jobs of stuck tasks stopped, and forget them."""
        for row in self.world.airflow.rows:
            if row.is_stuck and row.state == "queued":
                self.executor.revoke_task(ti=Row(row.key, row.job_id, row.state))  # type: ignore[arg-type]  # a stand-in
                self.step()
                self.world.airflow.reset(row)

    def _adopt_orphans(self) -> None:
        world = self.world
        living = {scheduler.incarnation for scheduler in world.schedulers if scheduler.life.alive}
        orphans = [
            row
            for row in world.airflow.rows
            if row.job_id is not None
            and row.owner not in living
            and row.state in ("queued", "running")
            and not row.work.callback
            and row.locked_by not in living
        ]
        if not orphans:
            return
        for row in orphans:
            row.locked_by = self.incarnation
        asked = [Row(row.key, row.job_id, row.state, self._order_again(row)) for row in orphans]
        given_back = self.executor.try_adopt_task_instances(asked)  # type: ignore[arg-type]  # stand-ins
        self.step()
        returned = {ti.external_executor_id for ti in given_back}
        for row, ti in zip(orphans, asked, strict=True):
            row.locked_by = None
            if row.job_id != ti.external_executor_id or row.state not in ("queued", "running"):
                continue
            if row.job_id in returned:
                world.promises.given_back(row.job_id or JobId(""))
                world.airflow.reset(row)
            else:
                row.owner = self.incarnation
                world.trace("%s adopts %s", self.incarnation, row.job_id)

    def _order_again(self, row: TaskInstance) -> Submission | None:
        if row.state != "queued" or row.job_id is None:
            return None
        return self._order(row, self.world.jobs[row.job_id])

    def _take_events(self) -> None:
        events: dict[Any, tuple[Any, Any]] = self.executor.get_event_buffer()
        for key, (state, info) in list(events.items()):
            self.step()
            row = self.world.airflow.row_of(key)
            if row is None or row.work.callback or self._chance.random() >= LOCKED:
                if state.value != "running":
                    self._take_final(key, (state, info))
                elif isinstance(key, TaskInstanceKey):
                    self.world.airflow.note_job(key, info)
                del events[key]
        self.step()

    def _take_final(self, key: Any, event: tuple[Any, Any]) -> None:
        # None: a later job of the task has taken the place of the one that ended.
        offers = self.executor.job_index.offers()
        job_id = next((offer.job_id for offer in offers if offer.key == key and offer.event == event), None)
        outcome = Outcome.SUCCESS if event[0].value == "success" else Outcome.FAILED
        has_task = key in self.executor.running
        self.world.airflow.take(self.incarnation, key, job_id, outcome, has_task=has_task)


class Executor(EdgeMqttExecutor):
    """The real one, which is given its settings and its link."""

    def __init__(self, scheduler: Scheduler, link: BridgeClient) -> None:
        super().__init__(parallelism=1_000)
        self._scheduler = scheduler
        self._client = link
        self._settings = ExecutorSettings(
            bridge_url="wss://bridge/mqtt",
            certs=Path(),
            topic_prefix=scheduler.world.topics.prefix,
            keep_alive_s=60,
            max_message_bytes=1024 * 1024,
            default_queue="lab",
            callback_queue="",
            queued_timeout_s=QUEUED_TIMEOUT_S,
            unclaimed_for_s=UNCLAIMED_S,
        )

    #: Nothing is signed here.
    jwt_generator = None  # type: ignore[assignment]

    def log_task_event(self, **_: object) -> None:
        """Write nothing into Airflow's audit log."""

    def on_fault(self, job_id: JobId, why: str) -> None:
        raise AssertionError(f"there is nothing odd in {job_id}: {why}")

    def _refuse(self, workload: Any, why: str) -> None:
        raise AssertionError(f"there is nothing odd in {workload}: {why}")

    def _on_unknown(self, event: UnknownJobs) -> None:
        for job_id in event.job_ids:
            self._scheduler.world.promises.given_back(job_id)
        super()._on_unknown(event)


class SteppedLink(BridgeClient):
    """The real one, whose thread is the simulation's."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__(self._open, topics=scheduler.world.topics, timing=TIMING)
        self._scheduler = scheduler
        self._changed = Waiting(scheduler)  # type: ignore[assignment]  # a stand-in

    def _open(self) -> PreparedConnection:
        owner = self._scheduler
        transport = SimulatedTransport(owner.wire, owner.life, owner.incarnation, step=owner.step)
        return PreparedConnection(identity=owner.identity, transport=transport)

    def steps(self) -> Shell:
        """Do what its thread does, at every moment at which that has something to do."""
        life = self._scheduler.life
        while True:
            self._wake.clear()
            self._connect_when_due()
            self._send_hello()
            self._send_due()
            self._send_acks()
            yield life.sleep(LOOP_S / 2)


class Waiting:
    """Stands in for the link's condition: whoever waits on it lets the rest of the world go on."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._clock = scheduler.world.clock
        self._life = scheduler.life

    def __enter__(self) -> None:
        """Do nothing: there is one thread."""

    def __exit__(self, *_: object) -> None:
        """Do nothing: see :meth:`__enter__`."""

    def notify_all(self) -> None:
        """Do nothing: who waits looks after every event."""

    def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until ``condition`` holds, but no longer than ``timeout_s`` seconds."""
        self._clock.run(self._clock.now + timeout_s, enough=condition, look_every_s=0.0)
        if not self._life.alive:
            raise Killed
        return condition()


def replaced(world: World) -> list[tuple[Any, str, Any]]:
    """Return what of the executor's modules is replaced by what is here."""

    def submission_of(workload: Workload, **_: object) -> Submission:
        return workload.order

    def resubmission_of(row: Row, **_: object) -> Submission | None:
        return row.order

    return [
        (job_events, "wanted_jobs", world.airflow.wanted_jobs),
        (edge_mqtt_executor, "submission_of", submission_of),
        (edge_mqtt_executor, "resubmission_of", resubmission_of),
    ]
