"""A task's calls on their whole way: Airflow's client, the worker's socket, the bridge's relay, Airflow."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from airflow.sdk.api.client import Client

from edge_mqtt.broker_bridge.execution_api.client import ExecutionApiClient
from edge_mqtt.broker_bridge.execution_api.forwarding import RelayLimits
from edge_mqtt.broker_bridge.execution_api.relay import Relay
from edge_mqtt.broker_bridge.protocol.codec import Decoder, encode
from edge_mqtt.broker_bridge.protocol.messages import ApiRequest, ApiResponse, StartRequest
from edge_mqtt.broker_bridge.transport.channel import MessageChannel
from edge_mqtt.broker_bridge.transport.memory import MemoryBroker, MemoryTransport
from edge_mqtt.worker.api.server import ExecutionApiServer
from edge_mqtt.worker.bridge.clock_watch import ClockWatch
from edge_mqtt.worker.core.job import LocalJob, LocalJobState
from edge_mqtt.worker.jobs.spool import Spool
from edge_mqtt.worker.jobs.store import JobStore
from edge_mqtt.worker.link import Link, Received
from edge_mqtt.worker.supervisor.airflow_internals import WorkerClient
from edge_mqtt.worker.supervisor.api_transport import WorkerTransport
from tests.support.scenario_relay import Held, Issuer
from tests.support.scenario_worker_parts import ADDRESS, assignment

T = TypeVar("T")
SECRET = "the job's secret"


class EdgeCalls:
    """A worker's API server and the bridge's relay on a loop in a thread, with a link in memory between them."""

    def __init__(self, folder: Path, held: Held, api_url: str) -> None:
        """Describe them.

        :param held: the job that the calls are of, with a token that the api-server takes.
        :param api_url: where the bridge finds the Execution API.
        """
        self._folder = folder
        self._held = held
        self._api_url = api_url
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="edge calls")
        self._works: set[asyncio.Task[None]] = set()
        self._decoder = Decoder()
        self._broker = MemoryBroker()

    @contextmanager
    def running(self) -> Iterator[Callable[[], Client]]:
        """Run them; give what makes Airflow's client as a supervisor has it."""
        self._thread.start()
        self._await(self._start())
        with ExitStack() as clients:
            yield lambda: clients.enter_context(WorkerClient(WorkerTransport(self._socket), SECRET))
        self._await(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def replace_bridge(self, api_url: str | None = None) -> None:
        """Have another bridge take over the job as the ledger has it; the one before ends without a word."""
        self._await(self._replace_bridge(api_url or self._api_url))

    @property
    def _socket(self) -> Path:
        return self._folder / "api.sock"

    def _await(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _start(self) -> None:
        self._jobs = JobStore(Spool.open(self._folder / "spool.db"))
        job = LocalJob.from_assignment(assignment(self._held.current.fence)).moved_to(
            LocalJobState.LAUNCHED, secret=SECRET
        )
        await self._jobs.change_job(job.job_id, lambda _: job)
        self._held.adopt(job.job_id, ADDRESS.name)
        transport = MemoryTransport(self._broker, "worker:w", ADDRESS.subscriptions)
        self._link = Link(MessageChannel(transport), ADDRESS)
        self._link.start()
        self._link.ready = True
        self._server = ExecutionApiServer(
            self._jobs,
            self._link,
            stop_reason=lambda _: None,
            record_permission=lambda _: None,
            record_call=lambda _: None,
            clock=ClockWatch(),
        )
        await self._server.serve(self._socket)
        self._broker.subscribe([ADDRESS.topics.rpc_request(ADDRESS.name)], self._heard_by_bridge)
        self._start_bridge(self._api_url)
        self._hearing = asyncio.create_task(self._hear())

    def _start_bridge(self, api_url: str) -> None:
        self._api = ExecutionApiClient(api_url)
        self._relay = Relay(self._api, self._held, self._held, Issuer(), limits=RelayLimits(retry_s=0.05))

    async def _replace_bridge(self, api_url: str) -> None:
        await self._end_bridge()
        self._start_bridge(api_url)
        self._server.resend_calls()

    async def _end_bridge(self) -> None:
        works = list(self._works)
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)
        await self._api.aclose()

    def _heard_by_bridge(self, topic: str, payload: bytes) -> None:
        message = self._decoder.feed(topic, payload)
        if isinstance(message, ApiRequest | StartRequest):
            work = self._loop.create_task(self._answer(message))
            self._works.add(work)
            work.add_done_callback(self._works.discard)

    async def _answer(self, request: ApiRequest | StartRequest) -> None:
        response = await self._relay.answer(ADDRESS.name, request)
        if response is not None:
            for packet in encode(response):
                self._broker.publish(ADDRESS.topics.rpc_response(ADDRESS.name), packet, qos=1, retain=False)

    async def _hear(self) -> None:
        while True:
            event = await self._link.events.get()
            if isinstance(event, Received) and isinstance(event.message, ApiResponse):
                self._server.record_response(event.message)

    async def _stop(self) -> None:
        await self._end_bridge()
        self._hearing.cancel()
        await self._server.stop()
        self._link.stop()
        self._jobs.close()
