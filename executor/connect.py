"""How the executor reaches the bridge: its certificate, its topics, a WSS connection."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from edge_mqtt.broker_bridge.program.errors import ProgramError
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName
from edge_mqtt.broker_bridge.protocol.topics import Topics
from edge_mqtt.broker_bridge.transport.paho import ConnectOptions, PahoTransport
from edge_mqtt.certs.credentials import Credentials, expiry_warning
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.certs.loading import load_credentials
from edge_mqtt.certs.renewal import CurrentContext
from edge_mqtt.certs.tls import client_context
from edge_mqtt.executor.bridge_client import PreparedConnection
from edge_mqtt.executor.errors import CannotConnect
from edge_mqtt.executor.settings import ExecutorSettings

log = logging.getLogger(__name__)


def prepare_connection(settings: ExecutorSettings, *, incarnation: str) -> PreparedConnection:
    """Return a new connection to the bridge, not started; the certificate is read anew each time.

    :param incarnation: this start of the program, by which the bridge tells a reconnect from another program.
    :raises CannotConnect: the certificate cannot be used; one line that says what to do.
    """
    try:
        credentials = load_credentials(settings.certs)
        contexts = CurrentContext(credentials, client_context)
    except ProgramError as error:
        raise CannotConnect(str(error)) from error
    check_role(credentials, settings)
    identity = credentials.identity
    warning = expiry_warning(credentials, datetime.now(UTC))
    if warning is not None:
        log.warning("%s", warning, extra={"action": "certificate_expires"})
    options = connect_options(identity, settings, incarnation=incarnation)
    return PreparedConnection(identity=identity, transport=PahoTransport(settings.bridge_url, contexts, options))


def connect_options(identity: Identity, settings: ExecutorSettings, *, incarnation: str) -> ConnectOptions:
    """Return who connects and what it subscribes to."""
    topics = Topics(settings.topic_prefix)
    return ConnectOptions(
        identity=identity,
        incarnation=incarnation,
        keep_alive_s=settings.keep_alive_s,
        subscriptions=(topics.events(ExecutorName(identity.name)), topics.admin_response(identity)),
    )


def check_role(credentials: Credentials, settings: ExecutorSettings) -> None:
    """Return when the certificate is an executor's.

    :raises CannotConnect: it is another role's.
    """
    if credentials.identity.role is not Role.EXECUTOR:
        raise CannotConnect(
            f"the certificate in {settings.certs} belongs to {credentials.identity}, not to an executor: "
            "make one with `edge-certs issue executor NAME` and set [edge_mqtt] executor_certs to its folder"
        )
