"""Builds the bridge: what it opens before it listens, and the services that work from then on."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from edge_mqtt.broker_bridge.background_tasks import BackgroundTasks
from edge_mqtt.broker_bridge.broker.embedded import EmbeddedBroker
from edge_mqtt.broker_bridge.config import BridgeSettings
from edge_mqtt.broker_bridge.dispatch.change_feed import ChangeFeed
from edge_mqtt.broker_bridge.dispatch.core.dispatcher import Dispatcher
from edge_mqtt.broker_bridge.dispatch.job_records import JobRecords
from edge_mqtt.broker_bridge.dispatch.ledger.async_ledger import AsyncLedger
from edge_mqtt.broker_bridge.dispatch.ledger.interface import LedgerError
from edge_mqtt.broker_bridge.dispatch.ledger.sql import SqlLedger
from edge_mqtt.broker_bridge.dispatch.retention import Retention, SteadyClock
from edge_mqtt.broker_bridge.dispatch.service import DispatchService
from edge_mqtt.broker_bridge.errors import ConfigurationError, StartupError
from edge_mqtt.broker_bridge.execution_api.client import API_VERSION, ExecutionApiClient
from edge_mqtt.broker_bridge.execution_api.dag_runs import DagRuns
from edge_mqtt.broker_bridge.execution_api.forwarding import RelayLimits
from edge_mqtt.broker_bridge.execution_api.heartbeats import Heartbeats, HeartbeatTiming
from edge_mqtt.broker_bridge.execution_api.relay import Relay
from edge_mqtt.broker_bridge.execution_api.token_issuer import AirflowTokenIssuer, TokenIssuer
from edge_mqtt.broker_bridge.job_log import JobLog
from edge_mqtt.broker_bridge.logs.completeness import Completeness
from edge_mqtt.broker_bridge.logs.receiver import LogReceiver
from edge_mqtt.broker_bridge.logs.segment_allocator import SegmentAllocator
from edge_mqtt.broker_bridge.logs.store import LogStore
from edge_mqtt.broker_bridge.logs.tail_service import TailService
from edge_mqtt.broker_bridge.message_router import MessageRouter
from edge_mqtt.broker_bridge.outbound import Outbound
from edge_mqtt.broker_bridge.protocol.topics import Topics
from edge_mqtt.broker_bridge.transport.channel import MessageChannel
from edge_mqtt.broker_bridge.transport.inprocess import InProcessTransport
from edge_mqtt.certs.credentials import Credentials, expiry_warning
from edge_mqtt.certs.identity import Role
from edge_mqtt.certs.loading import load_credentials
from edge_mqtt.certs.renewal import CurrentContext
from edge_mqtt.certs.tls import server_context

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """What is opened before anything listens. ``dispatch`` has loaded nothing yet, and ``broker`` does not listen."""

    topics: Topics
    certificate: CurrentContext
    broker: EmbeddedBroker
    ledger: AsyncLedger
    store: LogStore
    api: ExecutionApiClient
    issuer: TokenIssuer
    change_feed: ChangeFeed
    dispatcher: Dispatcher
    dispatch: DispatchService
    #: Unix time in seconds.
    clock: SteadyClock


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """What works once the broker listens. Nothing of it has been started."""

    channel: MessageChannel
    router: MessageRouter
    outbound: Outbound
    relay: Relay
    receiver: LogReceiver
    heartbeats: Heartbeats
    retention: Retention


def open_resources(settings: BridgeSettings) -> Resources:
    """Open what the bridge needs.

    :raises ConfigurationError: the certificate is not a bridge's.
    :raises StartupError: the ledger cannot be opened, or logs cannot be written.
    """
    credentials = _load_credentials(settings)
    clock = SteadyClock()
    topics, change_feed, dispatcher = Topics(settings.topic_prefix), ChangeFeed(), Dispatcher(settings.dispatch())
    try:
        ledger = AsyncLedger(SqlLedger(settings.ledger_url, clock))
    except LedgerError as error:
        raise StartupError(str(error)) from error
    certificate = CurrentContext(credentials, server_context)
    return Resources(
        topics=topics,
        certificate=certificate,
        broker=EmbeddedBroker(ssl_contexts=certificate, topics=topics, host=settings.host, port=settings.port),
        ledger=ledger,
        store=_open_log_store(settings),
        api=ExecutionApiClient(settings.execution_api_url),
        issuer=AirflowTokenIssuer(),
        change_feed=change_feed,
        dispatcher=dispatcher,
        dispatch=DispatchService(dispatcher, ledger, change_feed),
        clock=clock,
    )


def wire_services(settings: BridgeSettings, resources: Resources, answers: BackgroundTasks) -> Services:
    """Build what works with the resources. The broker listens.

    :param answers: where answers under way are kept.
    """
    topics, view, dispatch = resources.topics, resources.dispatcher.view, resources.dispatch
    channel = MessageChannel(InProcessTransport(resources.broker.router, topics.for_bridge()))
    records = JobRecords(view, resources.ledger)
    completeness = Completeness(view.is_reachable, clock=time.monotonic)
    allocator, receiver = _wire_logs(resources, records, completeness, channel)
    limits = RelayLimits(answer_bytes=settings.max_message_bytes)
    relay = Relay(resources.api, view, dispatch, resources.issuer, limits=limits)
    runs = DagRuns(resources.api, resources.issuer, api_version=API_VERSION)
    outbound = Outbound(topics, channel, job_log=JobLog(view), receiver=receiver, allocator=allocator, tasks=answers)
    return Services(
        channel=channel,
        router=MessageRouter(
            topics,
            channel,
            outbound=outbound,
            dispatch=dispatch,
            relay=relay,
            receiver=receiver,
            tail=_tail_service(resources, records, runs, completeness),
            tasks=answers,
            note=runs.note,
        ),
        outbound=outbound,
        relay=relay,
        receiver=receiver,
        heartbeats=_heartbeats(settings, resources, relay),
        retention=Retention(
            resources.ledger, dispatch, retention_s=settings.ledger_retention_s, clock=resources.clock
        ),
    )


def _wire_logs(
    resources: Resources, records: JobRecords, completeness: Completeness, channel: MessageChannel
) -> tuple[SegmentAllocator, LogReceiver]:
    allocator = SegmentAllocator(
        resources.store, records, resources.dispatch.commit, completeness, now=lambda: datetime.now(UTC)
    )
    receiver = LogReceiver(
        resources.store,
        allocator,
        completeness,
        acknowledge=lambda worker, ack: channel.send(resources.topics.control(worker), ack),
        change_feed=resources.change_feed,
    )
    return allocator, receiver


def _load_credentials(settings: BridgeSettings) -> Credentials:
    credentials = load_credentials(settings.certs)
    if credentials.identity.role is not Role.BRIDGE:
        raise ConfigurationError(
            f"{settings.certs} holds the certificate of {credentials.identity}, not of a bridge: "
            "name the folder that 'edge-certs init' wrote as bridge/"
        )
    warning = expiry_warning(credentials, datetime.now(UTC))
    if warning is not None:
        log.warning(warning, extra={"action": "certificate_expires"})
    return credentials


def _open_log_store(settings: BridgeSettings) -> LogStore:
    store = LogStore(settings.log_folder, modes=settings.log_modes)
    try:
        store.check_writable()
    except OSError as error:
        raise StartupError(
            f"task logs cannot be written below {settings.log_folder} ({error.strerror or error}): "
            "fix the folder, or set [logging] base_log_folder or --log-folder"
        ) from error
    return store


def _tail_service(
    resources: Resources, records: JobRecords, runs: DagRuns, completeness: Completeness
) -> TailService:
    return TailService(
        resources.store,
        records,
        resources.ledger,
        runs=runs,
        change_feed=resources.change_feed,
        completeness=completeness,
        clock=time.monotonic,
    )


def _heartbeats(settings: BridgeSettings, resources: Resources, relay: Relay) -> Heartbeats:
    return Heartbeats(
        resources.api,
        resources.dispatcher.view,
        resources.dispatch,
        relay,
        resources.change_feed,
        timing=HeartbeatTiming(interval_s=settings.heartbeat_interval_s),
        clock=time.monotonic,
    )
