"""The bridge's program: ``edge_mqtt.broker_bridge.app`` itself, with the simulation in the place of what is outside.

Not real: the listener and the broker (``network.py``), HTTP to the api-server, Airflow's signing key, and the
database, whose twin in memory stands in.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_mqtt.broker_bridge import app, bootstrap
from edge_mqtt.broker_bridge.config import BridgeSettings
from edge_mqtt.broker_bridge.dispatch.core import events
from edge_mqtt.broker_bridge.dispatch.core.batch import Batch
from edge_mqtt.broker_bridge.dispatch.core.dispatcher import Dispatcher
from edge_mqtt.broker_bridge.dispatch.core.model import Job
from edge_mqtt.broker_bridge.dispatch.core.settings import DispatchSettings
from edge_mqtt.broker_bridge.dispatch.ledger.interface import LedgerFull
from edge_mqtt.broker_bridge.dispatch.ledger.memory import MemoryLedger
from edge_mqtt.broker_bridge.errors import StartupError
from edge_mqtt.broker_bridge.execution_api.client import ApiCall, ApiResult, ApiUnavailable
from edge_mqtt.broker_bridge.logs.segments import count_stored
from edge_mqtt.broker_bridge.logs.store import Appended, LogStore, Write
from edge_mqtt.broker_bridge.message_router import MessageRouter
from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.limits import MAX_MESSAGE_BYTES
from edge_mqtt.certs.identity import Identity, Role
from tests.simulation.plan import GRACE_S, KEEPING_QUEUE, KILL_GRACE_S, PATIENT_QUEUE, PRESENCE_S
from tests.simulation.programs import Now, Program

if TYPE_CHECKING:
    from edge_mqtt.broker_bridge.dispatch.core.effects import Decision
    from tests.simulation.world import World

#: Seconds for which a worker is spared a job that it has refused.
REFUSAL_BACKOFF_S = 2.0
#: Seconds after which a service manager starts a program again that has ended.
SERVICE_MANAGER_S = 5.0


class Bridge(Program):
    """One bridge, over all its restarts. Ledger and log files stay."""

    kind = "bridge"

    def __init__(self, world: World) -> None:
        super().__init__(world, world.central)
        self.ledger = Ledger(world)
        self.ledger_is_full = False
        #: Whether the disk of base_log_folder takes nothing.
        self.log_disk_is_full = False
        self.folder = Path(world.folder) / "central"
        self.store = LogStore(self.folder)
        self._dispatcher: Dispatcher | None = None
        self._router: MessageRouter | None = None

    async def main(self) -> None:
        """Run the program once."""
        await app.Bridge(self._settings()).run()

    def _settings(self) -> BridgeSettings:
        """Return the settings: somebody may have changed those of leases and logs before this start."""
        chance, plan = self.world.chance, self.world.plan
        return BridgeSettings(
            certs=self.folder,
            host="",
            port=443,
            health_host="",
            health_port=8766,
            ledger_url="",
            ledger_retention_s=604_800.0,
            topic_prefix=self.world.topics.prefix,
            offline_grace_s=chance.choice(plan.graces_s),
            queue_offline_grace_s={PATIENT_QUEUE: 2 * GRACE_S},
            queues_keeping_logs=frozenset({KEEPING_QUEUE} if chance.random() < 0.9 else ()),
            kill_grace_s=KILL_GRACE_S,
            presence_interval_s=PRESENCE_S,
            heartbeat_interval_s=5.0,
            max_message_bytes=MAX_MESSAGE_BYTES,
            log_folder=self.folder,
            execution_api_url="http://airflow/execution/",
        )

    def kill(self) -> None:
        """Die at once, and the broker in it."""
        super().kill()
        self.world.network.close()

    def ended(self, task: asyncio.Task[None]) -> None:
        """Have the service manager start it again when it could not begin with a ledger that is full."""
        if isinstance(task.exception(), StartupError):
            self.world.restart_later(self, SERVICE_MANAGER_S)
        else:
            super().ended(task)

    # ------------------------------------------------------------ looks

    def leftovers(self) -> list[str]:
        """Return what is still kept about something in memory when nothing is going on any more."""
        assert self._router is not None
        relay, service = self._router._relay, self._router._dispatch
        kept: dict[str, Collection[object]] = {
            "calls under way": relay._under_way,
            "answers": relay._responses._responses,
            "jobs with answers": relay._responses._calls,
            "jobs without heartbeats": relay._muted,
            "jobs that have begun": relay._begun,
            "starts that are not decided": service._starts,
            "events": service._events,
        }
        return [f"{len(things)} {what}" for what, things in kept.items() if things]

    def on_disk(self, job_id: JobId) -> Job | None:
        """Return a job as the ledger has it."""
        return next(iter(self.ledger.get([job_id])), None)

    def known(self, job_id: JobId) -> Job | None:
        """Return a job as memory has it, else the ledger."""
        live = self._dispatcher.view.get_job(job_id) if self.life.alive and self._dispatcher is not None else None
        return live or self.on_disk(job_id)

    def stored_bytes(self, job: Job) -> bytes:
        """Return what is stored of a job's log: up to its size, and no further than where another one goes on."""
        assert job.log_base is not None
        assert job.spec.log_path is not None
        stored = count_stored(job, self.store.size(job.spec.log_path))
        return self.store.read(job.spec.log_path, job.log_base, stored)


def _bridge() -> Bridge:
    program = Now.program
    assert isinstance(program, Bridge)
    return program


class Ledger(MemoryLedger):
    """The twin, which can be full, and whose commits are seen."""

    def __init__(self, world: World) -> None:
        super().__init__(world.central.wall)
        self._world = world

    def commit(self, changes: Sequence[Job]) -> None:
        """Store ``changes``."""
        if changes and self._world.bridge.ledger_is_full:
            raise LedgerFull("the ledger is full")
        super().commit(changes)
        self._world.promises.committed(changes)


class WatchedDispatcher(Dispatcher):
    """The real one, with shorter times."""

    def __init__(self, settings: DispatchSettings) -> None:
        bridge = _bridge()
        plan = bridge.world.plan
        short = replace(settings, refusal_backoff_s=REFUSAL_BACKOFF_S, settle_s=plan.settle_s)
        short = replace(short, refusal_backoff_at_most_s=4 * REFUSAL_BACKOFF_S)
        super().__init__(replace(short, remembered_jobs=plan.remembered_jobs))
        bridge._dispatcher = self


_handle = Batch.handle


def _watched_handle(self: Batch, event: events.Event, now: float) -> Decision:
    """Decide, and check whose word is taken."""
    decision = _handle(self, event, now)
    _bridge().world.check_author(event, decision.changed)
    return decision


class WatchedRouter(MessageRouter):
    """The real one, at which the simulation may look."""

    def __init__(self, *parts: Any, **options: Any) -> None:
        super().__init__(*parts, **options)
        _bridge()._router = self


class TornStore(LogStore):
    """The real one, which a crash may interrupt."""

    def append(self, writes: Iterable[Write]) -> Appended:
        """Store ``writes``, or some of them and die."""
        bridge, given = _bridge(), list(writes)
        chance = bridge.world.chance
        if bridge.world.is_deadly("bridge"):
            kept = given[: chance.randint(0, len(given))]
            if kept:
                last = kept[-1]
                kept[-1] = replace(last, data=last.data[: chance.randint(0, len(last.data))])
                super().append(kept)
            bridge.world.die(bridge)
        return super().append(given)


class Broker:
    """Stands in for listener and broker."""

    def __init__(self, **_options: object) -> None:
        self.router = _bridge().world.network
        self.port = 443

    async def start(self) -> None:
        """Listen."""
        self.router.open()


class ApiClient:
    """Stands in for HTTP to the api-server."""

    def __init__(self, _base_url: str) -> None:
        self._bridge = _bridge()

    async def call(self, call: ApiCall, **_: bool) -> ApiResult:
        """Make one call; the request and the answer take their time."""
        bridge, world = self._bridge, self._bridge.world
        await asyncio.sleep(world.chance.uniform(0.005, 0.3))
        if not world.airflow.api_is_up or world.airflow.is_busy():
            raise ApiUnavailable("the api-server is away", in_doubt=False)
        bridge.step()
        if world.is_deadly("api"):
            world.airflow.restart_api()
            if world.chance.random() < 0.5:
                raise ApiUnavailable("the call is lost", in_doubt=True)
        answer = world.airflow.answer(call)
        bridge.step()
        await asyncio.sleep(world.chance.uniform(0.005, 0.1))
        if not world.airflow.api_is_up:
            raise ApiUnavailable("the answer is lost", in_doubt=True)
        return answer


class TokenIssuer:
    """Stands in for Airflow's signing key."""

    def issue_token(self, task_instance_id: str) -> str | None:
        """Return a fresh token."""
        return _bridge().world.airflow.token(task_instance_id)


class Party:
    """Stands in for the bridge's certificate."""

    identity = Identity(Role.BRIDGE, "bridge")


class Certificate:
    """Stands in for its files."""

    def __init__(self, *_: object) -> None:
        """Have none."""

    def warn_of_expiry(self) -> None:
        """Never expire."""


async def _no_health(*_: object) -> None:
    """Serve nothing."""


_write = os.pwrite


def _pwrite(descriptor: int, data: memoryview, offset: int) -> int:
    """Write into a log, or some of it until the disk is full."""
    program = Now.program
    if isinstance(program, Bridge) and program.log_disk_is_full:
        room = program.world.chance.randint(0, len(data))
        if room in (0, len(data)):
            raise OSError(errno.ENOSPC, "No space left on device")
        data = data[:room]
    return _write(descriptor, data, offset)


def replaced(world: World) -> list[tuple[Any, str, Any]]:
    """Return what of the bridge's program is replaced by what is here."""
    return [
        (Batch, "handle", _watched_handle),
        (app, "serve_health", _no_health),
        (bootstrap, "load_credentials", lambda _: Party),
        (bootstrap, "expiry_warning", lambda *_: None),
        (bootstrap, "CurrentContext", Certificate),
        (bootstrap, "SqlLedger", lambda *_: world.bridge.ledger),
        (bootstrap, "LogStore", TornStore),
        (bootstrap, "Dispatcher", WatchedDispatcher),
        (bootstrap, "MessageRouter", WatchedRouter),
        (bootstrap, "EmbeddedBroker", Broker),
        (bootstrap, "ExecutionApiClient", ApiClient),
        (bootstrap, "AirflowTokenIssuer", TokenIssuer),
        (os, "pwrite", _pwrite),
    ]
