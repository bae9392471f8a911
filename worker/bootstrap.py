"""A worker with its connection, from settings and credentials; importing this imports all of its parts."""

from __future__ import annotations

import contextlib
import importlib
import uuid
from typing import TYPE_CHECKING

from inotify_simple import INotify  # type: ignore[import-untyped]

from edge_mqtt.broker_bridge.protocol.ids import WorkerName
from edge_mqtt.broker_bridge.protocol.messages import MESSAGE_OF_KIND
from edge_mqtt.broker_bridge.protocol.topics import Topics
from edge_mqtt.certs.renewal import CurrentContext
from edge_mqtt.certs.tls import client_context
from edge_mqtt.worker.launcher.hidden_modules import hide_modules
from edge_mqtt.worker.link import WorkerAddress

# What we never ask for: paho would look for brokers in the DNS, uvicorn would watch source files.
with hide_modules("dns", "watchfiles"):
    from edge_mqtt.broker_bridge.transport.paho import ConnectOptions, PahoTransport
    from edge_mqtt.worker.app import Worker

if TYPE_CHECKING:
    from edge_mqtt.certs.credentials import Credentials
    from edge_mqtt.worker.config import WorkerSettings
    from edge_mqtt.worker.runs.launcher_client import LauncherClient


def prepare_parts() -> None:
    """Load and build what a worker's parts load and build when they are first used."""
    importlib.import_module("uvicorn.protocols.http.h11_impl")
    with contextlib.suppress(OSError):  # There may be none, or no more of it: the log shipper sees to that.
        INotify().close()  # The first one looks for the C library.
    for message in MESSAGE_OF_KIND.values():
        message.model_rebuild()


def assemble_worker(
    settings: WorkerSettings, credentials: Credentials, launcher: LauncherClient, *, version: str
) -> Worker:
    """Return the worker, not connected yet."""
    address = WorkerAddress(
        name=WorkerName(credentials.identity.name),
        incarnation=uuid.uuid4().hex,
        topics=Topics(settings.topic_prefix),
    )
    connect = ConnectOptions(
        identity=credentials.identity,
        incarnation=address.incarnation,
        keep_alive_s=settings.keep_alive_s,
        subscriptions=address.subscriptions,
        will=address.will,
    )
    transport = PahoTransport(settings.bridge_url, CurrentContext(credentials, client_context), connect)
    try:
        return Worker(settings, address, transport, launcher, version=version)
    except BaseException:
        transport.stop()
        raise
