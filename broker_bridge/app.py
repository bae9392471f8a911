"""Runs the bridge until it is told to stop."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
from collections.abc import Iterable
from typing import Final

from websockets.asyncio.server import Server

from edge_mqtt.broker_bridge.background_tasks import BackgroundTasks, repeat
from edge_mqtt.broker_bridge.bootstrap import Services, open_resources, wire_services
from edge_mqtt.broker_bridge.config import BridgeSettings
from edge_mqtt.broker_bridge.dispatch.ledger.interface import Ledger, LedgerError, LedgerTaken
from edge_mqtt.broker_bridge.errors import StartupError
from edge_mqtt.broker_bridge.execution_api.client import API_VERSION
from edge_mqtt.broker_bridge.execution_api.warm_up import warm_up
from edge_mqtt.broker_bridge.health import serve_health
from edge_mqtt.broker_bridge.protocol.ids import JobId

log = logging.getLogger(__name__)

#: When Python looks for garbage (``gc.set_threshold``): after so many more objects were made than freed, and at the
#: old ones at every 200th time. A look at those takes half a second when thousands of workers are connected.
GC_THRESHOLDS: Final = (5000, 20, 10)
#: Seconds between looks at whether the bridge's certificate expires soon.
EXPIRY_LOOK_S: Final = 3600.0
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
        :raises StartupError: the ledger cannot be opened, or logs cannot be written.
        """
        self._settings = settings
        self._resources = open_resources(settings)
        self._services: Services | None = None
        #: The parts' loops: none of them may end.
        self._loops = BackgroundTasks(on_end=self._stop_after)
        self._answers = BackgroundTasks()
        self._over = asyncio.Event()
        self._failure: BaseException | None = None

    @property
    def port(self) -> int:
        """The port that workers connect to."""
        return self._resources.broker.port

    def problem(self) -> str | None:
        """Return what keeps the bridge from accepting jobs, in one line; None when all is well."""
        if self._services is None:
            return "the bridge is starting"
        return self._resources.dispatch.ledger_problem or self._services.receiver.health.problem

    async def run(self) -> int:
        """Run until :meth:`ask_to_stop`; return the exit code: 0, or 1 when a part failed.

        :raises StartupError: the ledger cannot be read, or a port cannot be opened.
        """
        settings, resources = self._settings, self._resources
        try:
            live = await resources.dispatch.load()
            without_notice = await resources.ledger.run(Ledger.without_notice)
        except LedgerError as error:
            raise StartupError(str(error)) from error
        health = await serve_health(settings.health_host, settings.health_port, self.problem)
        await self._listen()
        self._start_services(without_notice)
        _tune_garbage_collection()
        log.info(
            "bridge is ready: wss://%s:%s/mqtt, %s live jobs",
            settings.host,
            self.port,
            live,
            extra={"action": "ready"},
        )
        await self._over.wait()
        log.info("bridge stops", extra={"action": "stopping"})
        await self._shut_down(health)
        return 0 if self._failure is None else 1

    async def _listen(self) -> None:
        try:
            await self._resources.broker.start()
        except OSError as error:
            settings = self._settings
            raise StartupError(
                f"cannot listen on {settings.host}:{settings.port} ({error.strerror or error})"
                f"{_ADVICE.get(error.errno or 0, '')}; set [edge_mqtt] bridge_host and bridge_port, "
                "or --host and --port"
            ) from error

    def _start_services(self, without_notice: Iterable[JobId]) -> None:
        """Start every loop. Nothing has been received before: it would wait for the first round of the event loop.

        :param without_notice: jobs whose logs stay on their worker, of which the bridge before this one did not live
            to say so.
        """
        resources = self._resources
        services = self._services = wire_services(self._settings, resources, self._answers)
        for job_id in without_notice:
            services.receiver.write_notice(job_id)
        services.channel.start(
            services.router,
            answer_topic=resources.topics.error_to,
            serves_many=True,
            refuse_submit=services.router.refuse_submit,
        )
        self._loops.start("dispatch", resources.dispatch.run(services.outbound.perform, services.relay.forget_job))
        self._loops.start("logs", services.receiver.run())
        self._loops.start("heartbeats", services.heartbeats.run())
        self._loops.start("retention", services.retention.run())
        self._loops.start("certificate", repeat(resources.certificate.warn_of_expiry, every_s=EXPIRY_LOOK_S))
        self._answers.start("warm_up", warm_up(resources.api, API_VERSION))

    def ask_to_stop(self) -> None:
        """End in good order; asked again, at once."""
        if self._over.is_set():
            # What is accepted is in the ledger: ending now loses nothing.
            log.warning("told twice to stop: the bridge ends at once", extra={"action": "aborted"})
            os._exit(1)
        self._over.set()

    def _stop_after(self, task: asyncio.Task[None]) -> None:
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

    async def _shut_down(self, health: Server) -> None:
        await self._loops.stop()
        await self._answers.stop()
        await self._resources.broker.stop()
        health.close()
        await self._resources.api.aclose()
        await self._resources.ledger.close()


def _tune_garbage_collection() -> None:
    gc.set_threshold(*GC_THRESHOLDS)
    # What is here now, the imported modules above all, stays.
    gc.collect()
    gc.freeze()
