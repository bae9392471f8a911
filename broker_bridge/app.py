"""Wires the bridge together and runs it until it is told to stop."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import signal
import time
from collections.abc import Coroutine, Iterable
from datetime import UTC, datetime
from typing import Any, Final

from edge_mqtt.broker_bridge.broker.embedded import EmbeddedBroker
from edge_mqtt.broker_bridge.config import BridgeSettings
from edge_mqtt.broker_bridge.dispatch.change_feed import ChangeFeed
from edge_mqtt.broker_bridge.dispatch.core.dispatcher import Dispatcher
from edge_mqtt.broker_bridge.dispatch.ledger.async_ledger import AsyncLedger
from edge_mqtt.broker_bridge.dispatch.ledger.interface import LedgerError, LedgerTaken
from edge_mqtt.broker_bridge.dispatch.ledger.sql import open_ledger
from edge_mqtt.broker_bridge.dispatch.retention import Retention, SteadyClock
from edge_mqtt.broker_bridge.dispatch.service import DispatchService
from edge_mqtt.broker_bridge.errors import ConfigurationError, StartupError
from edge_mqtt.broker_bridge.execution_api.client import API_VERSION, ExecutionApiClient
from edge_mqtt.broker_bridge.execution_api.dag_runs import DagRuns
from edge_mqtt.broker_bridge.execution_api.heartbeats import Heartbeats
from edge_mqtt.broker_bridge.execution_api.relay import Relay
from edge_mqtt.broker_bridge.execution_api.token_issuer import AirflowTokenIssuer
from edge_mqtt.broker_bridge.execution_api.warm_up import warm_up
from edge_mqtt.broker_bridge.health import serve_health
from edge_mqtt.broker_bridge.logs.completeness import Completeness
from edge_mqtt.broker_bridge.logs.receiver import LogReceiver
from edge_mqtt.broker_bridge.logs.segment_allocator import SegmentAllocator
from edge_mqtt.broker_bridge.logs.store import LogStore
from edge_mqtt.broker_bridge.logs.tail_service import TailService
from edge_mqtt.broker_bridge.message_router import MessageRouter
from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.topics import Topics
from edge_mqtt.broker_bridge.transport.channel import MessageChannel
from edge_mqtt.broker_bridge.transport.inprocess import InProcessTransport
from edge_mqtt.certs.credentials import expiry_warning
from edge_mqtt.certs.identity import Role
from edge_mqtt.certs.loading import load_credentials
from edge_mqtt.certs.tls import server_context

log = logging.getLogger(__name__)

#: When Python looks for garbage (``gc.set_threshold``): after so many more objects were made than freed, and at the
#: old ones at every 200th time. A look at those takes half a second when thousands of workers are connected.
GC_THRESHOLDS: Final = (5000, 20, 10)
#: What helps when a port cannot be opened.
_ADVICE: Final = {
    errno.EACCES: ": ports below 1024 need root or CAP_NET_BIND_SERVICE",
    errno.EADDRINUSE: ": another program listens there",
    errno.EADDRNOTAVAIL: ": this machine does not have that address",
}


class Bridge:
    """The running bridge: embedded broker, dispatcher, relay and logs in one event loop."""

    def __init__(self, settings: BridgeSettings) -> None:
        """Open what must be there before anything listens.

        :raises ConfigurationError: the certificate is not a bridge's.
        :raises StartupError: the ledger cannot be opened.
        """
        self._settings = settings
        self._clock = SteadyClock()
        party = load_credentials(settings.certs)
        if party.identity.role is not Role.BRIDGE:
            raise ConfigurationError(
                f"{settings.certs} holds the certificate of {party.identity}, not of a bridge: "
                "name the folder that 'edge-certs init' wrote as bridge/"
            )
        warning = expiry_warning(party, datetime.now(UTC))
        if warning is not None:
            log.warning(warning, extra={"action": "certificate_expires"})
        try:
            self._ledger = AsyncLedger(open_ledger(settings.ledger_url, self._clock))
        except LedgerError as error:
            raise StartupError(str(error)) from error
        self._store = LogStore(settings.log_folder)
        try:
            self._store.check_writable()
        except OSError as error:
            raise StartupError(
                f"task logs cannot be written below {settings.log_folder} ({error.strerror or error}): "
                "mend the folder, or set [logging] base_log_folder or --log-folder"
            ) from error
        self._topics = Topics(settings.topic_prefix)
        self._changes = ChangeFeed()
        self._broker = EmbeddedBroker(
            ssl_context=server_context(party),
            topics=self._topics,
            host=settings.host,
            port=settings.port,
        )
        self._service = DispatchService(Dispatcher(settings.dispatch()), self._ledger, self._changes)
        self._api = ExecutionApiClient(settings.execution_api_url)
        self._mint = AirflowTokenIssuer()
        self._intake: LogReceiver | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()
        self._failure: BaseException | None = None

    @property
    def port(self) -> int:
        """The port that workers connect to."""
        return self._broker.port

    def problem(self) -> str | None:
        """Return what keeps the bridge from accepting jobs, in one line; None when all is well."""
        if self._intake is None:
            return "the bridge is starting"
        return self._service.ledger_problem or self._intake.problem

    def _supervise(self, name: str, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine, name=f"bridge.{name}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        self._failure = task.exception() or RuntimeError(f"{task.get_name()} ended")
        log.critical(
            "%s failed: the bridge stops; its service manager should start it again%s",
            task.get_name(),
            f": {self._failure}" if isinstance(self._failure, LedgerTaken) else "",
            exc_info=None if isinstance(self._failure, LedgerTaken) else self._failure,
            extra={"action": "task_failed"},
        )
        self._over.set()

    async def run(self) -> int:
        """Run until SIGTERM or SIGINT; return the exit code: 0, or 1 when a part failed.

        :raises StartupError: the ledger cannot be read, or a port cannot be opened.
        """
        settings = self._settings
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop)
        try:
            live = await self._service.load()
            unsaid = await self._service.unsaid()
        except LedgerError as error:
            raise StartupError(str(error)) from error
        health = await serve_health(settings.health_host, settings.health_port, self.problem)
        await self._listen()
        desk = self._begin_work(unsaid)
        gc.set_threshold(*GC_THRESHOLDS)
        # What is here now, the imported modules above all, stays.
        gc.collect()
        gc.freeze()
        log.info(
            "bridge is ready: wss://%s:%s/mqtt, %s live jobs",
            settings.host,
            self.port,
            live,
            extra={"action": "ready"},
        )
        await self._over.wait()
        log.info("bridge stops", extra={"action": "stopping"})
        for task in self._tasks:
            task.remove_done_callback(self._ended)
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await desk.stop()
        self._warming.cancel()
        await self._broker.stop()
        health.close()
        await self._api.aclose()
        await self._ledger.close()
        return 0 if self._failure is None else 1

    def _asked_to_stop(self) -> None:
        if self._over.is_set():
            # What is accepted is in the ledger: ending now loses nothing.
            log.warning("told twice to stop: the bridge ends at once", extra={"action": "aborted"})
            os._exit(1)
        self._over.set()

    async def _listen(self) -> None:
        try:
            await self._broker.start()
        except OSError as error:
            settings = self._settings
            raise StartupError(
                f"cannot listen on {settings.host}:{settings.port} ({error.strerror or error})"
                f"{_ADVICE.get(error.errno or 0, '')}; set [edge_mqtt] bridge_host and bridge_port, "
                "or --host and --port"
            ) from error

    def _begin_work(self, unsaid: Iterable[JobId]) -> MessageRouter:
        """Put the parts together and start their loops; nothing has been received before.

        :param unsaid: jobs of whose logs the bridge before this one did not live to say where they are.
        """
        settings, service, topics = self._settings, self._service, self._topics
        channel = MessageChannel(InProcessTransport(self._broker.router, topics.for_bridge()))
        store = self._store
        relay = Relay(self._api, service, self._mint, max_answer_bytes=settings.max_message_bytes)
        patience = Completeness(service.is_reachable, clock=time.monotonic)
        intake = LogReceiver(
            store,
            SegmentAllocator(store, service, patience, now=lambda: datetime.now(UTC)),
            acknowledge=lambda worker, ack: channel.send(topics.control(worker), ack),
            changes=self._changes,
        )
        self._intake = intake
        for job_id in unsaid:
            intake.started(job_id)
        runs = DagRuns(self._api, self._mint, api_version=API_VERSION)
        tail = TailService(store, service, runs, self._changes, patience, clock=time.monotonic)
        heartbeats = Heartbeats(
            self._api,
            service,
            relay,
            self._changes,
            interval_s=settings.heartbeat_interval_s,
            clock=time.monotonic,
        )
        desk = MessageRouter(topics, channel, service=service, relay=relay, intake=intake, tail=tail, note=runs.note)
        channel.start(desk, answer_topic=topics.error_to, serves_many=True)
        self._supervise("dispatch", service.run(desk.perform, relay.forget))
        self._supervise("logs", intake.run())
        self._supervise("heartbeats", heartbeats.run())
        retention = Retention(self._ledger, service, retention_s=settings.ledger_retention_s, clock=self._clock)
        self._supervise("retention", retention.run())
        self._warming = asyncio.create_task(warm_up(self._api, API_VERSION), name="bridge.warm_up")
        return desk
