"""The bridge's parts as its program wires them, without sockets: packets go in, and nothing may go wrong inside."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx

from edge_mqtt.broker_bridge.background_tasks import BackgroundTasks
from edge_mqtt.broker_bridge.bootstrap import Resources, Services, wire_services
from edge_mqtt.broker_bridge.broker.packets import Publish
from edge_mqtt.broker_bridge.broker.router import InProcessRouter, TopicRouter
from edge_mqtt.broker_bridge.config import BridgeSettings
from edge_mqtt.broker_bridge.dispatch.change_feed import ChangeFeed
from edge_mqtt.broker_bridge.dispatch.core.dispatcher import Dispatcher
from edge_mqtt.broker_bridge.dispatch.core.events import Tick
from edge_mqtt.broker_bridge.dispatch.ledger.async_ledger import AsyncLedger
from edge_mqtt.broker_bridge.dispatch.ledger.sql import SqlLedger
from edge_mqtt.broker_bridge.dispatch.retention import SteadyClock
from edge_mqtt.broker_bridge.dispatch.service import DispatchService
from edge_mqtt.broker_bridge.execution_api.client import ExecutionApiClient
from edge_mqtt.broker_bridge.logs.store import LogStore
from edge_mqtt.broker_bridge.protocol.topics import Topics
from tests.fuzz.odd_messages import Odd, OddMessages, odd_values

#: Packets between two looks at how the bridge is.
ROUND = 200
#: Seconds in which it must have worked off so many.
ROUND_S = 60.0


class Problems(logging.Handler):
    """Keeps what must not be said: errors, and whatever has a traceback."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR or record.exc_info:
            self.found.append(self.format(record))


class NoIssuer:
    """Makes no tokens."""

    def issue_token(self, task_instance_id: str) -> str | None:
        del task_instance_id
        return None


class OddAirflow:
    """Answers every call at once, and oddly."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def answer(self, request: httpx.Request) -> httpx.Response:
        chance = self._chance
        if request.url.path.endswith(("/run", "/heartbeat")) and chance.random() < 0.8:
            return httpx.Response(200, json={})
        detail = {"detail": {"reason": chance.choice(odd_values(chance)), "message": "a\0b\ud800"}}
        body = chance.choice([b"", b"{}", b"\xff", b"[" * 5000, str(detail).encode(errors="replace"), b'"\\ud800"'])
        headers = {"content-type": "x" * chance.choice([3, 300])}
        if chance.random() < 0.2:
            headers["refreshed-api-token"] = "t" * chance.choice([1, 9000])
        return httpx.Response(
            chance.choice([200, 204, 302, 403, 404, 409, 410, 422, 500]), content=body, headers=headers
        )


class BridgeUnderFuzz:
    """A bridge that runs; see :func:`running`."""

    def __init__(self, router: TopicRouter, resources: Resources, services: Services, problems: Problems) -> None:
        self._router = router
        self._resources = resources
        self._services = services
        self.problems = problems
        self.packets = 0

    async def receive(self, packets: Iterable[Odd]) -> None:
        """Publish packets, and wait until everything about them is decided."""
        for odd in packets:
            self._router.publish_from(
                odd.identity, Publish(topic=odd.topic, payload=odd.payload, packet_id=None, retain=False)
            )
            self.packets += 1
        async with asyncio.timeout(ROUND_S):
            await self._resources.dispatch.commit(Tick())
            # The answers of the relay, of tails and of logs.
            for _ in range(5):
                await asyncio.sleep(0)

    @property
    def rejected(self) -> int:
        return self._services.channel.rejected

    @property
    def problem(self) -> str | None:
        return self._resources.dispatch.ledger_problem

    @property
    def jobs(self) -> Counter[str]:
        """How many jobs are in which state."""
        return Counter(job.state.value for job in self._resources.dispatcher._state.jobs.values())


def settings_of(folder: Path, ledger_url: str) -> BridgeSettings:
    """Return settings of a bridge that listens nowhere."""
    return BridgeSettings(
        certs=folder,
        host="127.0.0.1",
        port=0,
        health_host="127.0.0.1",
        health_port=0,
        ledger_url=ledger_url,
        ledger_retention_s=3600,
        topic_prefix="edge",
        offline_grace_s=900,
        queue_offline_grace_s={},
        queues_keeping_logs=frozenset({"r/1"}),
        kill_grace_s=10,
        presence_interval_s=20,
        heartbeat_interval_s=0.2,
        max_message_bytes=2**20,
        log_folder=folder / "logs",
        execution_api_url="http://airflow.test/execution/",
    )


@asynccontextmanager
async def running(
    folder: Path, ledger_url: str, chance: random.Random
) -> AsyncIterator[tuple[BridgeUnderFuzz, OddMessages]]:
    """Run a bridge on a ledger, and give what makes odd messages for it."""
    settings = settings_of(folder, ledger_url)
    topics, change_feed, dispatcher = Topics(settings.topic_prefix), ChangeFeed(), Dispatcher(settings.dispatch())
    ledger, clock = AsyncLedger(SqlLedger(ledger_url)), SteadyClock()
    router = TopicRouter(topics)
    api = ExecutionApiClient(settings.execution_api_url)
    await api._client.aclose()
    api._client = httpx.AsyncClient(transport=httpx.MockTransport(OddAirflow(chance).answer))
    resources = Resources(
        topics=topics,
        certificate=cast("Any", None),
        broker=cast("Any", SimpleNamespace(router=InProcessRouter(router, asyncio.get_running_loop()))),
        ledger=ledger,
        store=LogStore(settings.log_folder),
        api=api,
        issuer=NoIssuer(),
        change_feed=change_feed,
        dispatcher=dispatcher,
        dispatch=DispatchService(dispatcher, ledger, change_feed),
        clock=clock,
    )
    problems = Problems()
    logging.getLogger().addHandler(problems)
    answers, loops = BackgroundTasks(), BackgroundTasks()
    try:
        await resources.dispatch.load()
        services = wire_services(settings, resources, answers)
        services.channel.start(
            services.router,
            answer_topic=topics.error_to,
            serves_many=True,
            refuse_submit=services.router.refuse_submit,
        )
        loops.start("dispatch", resources.dispatch.run(services.outbound.perform, services.relay.forget_job))
        loops.start("logs", services.receiver.run())
        loops.start("heartbeats", services.heartbeats.run())
        yield BridgeUnderFuzz(router, resources, services, problems), OddMessages(chance, topics, dispatcher.view)
    finally:
        await loops.stop()
        await answers.stop()
        await api.aclose()
        await ledger.close()
        logging.getLogger().removeHandler(problems)
