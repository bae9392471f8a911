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
from edge_mqtt.certs.tls import client_context
from edge_mqtt.executor.bridge_client import BridgeConnector
from edge_mqtt.executor.errors import CannotDial
from edge_mqtt.executor.settings import ExecutorSettings

log = logging.getLogger(__name__)


def open_line(settings: ExecutorSettings, *, incarnation: str) -> BridgeConnector:
    """Return a fresh line to the bridge, not started; the certificate is read anew each time.

    :param incarnation: this start of the program, by which the bridge knows that a reconnect is not a stranger's.
    :raises CannotDial: the certificate cannot be used; one line that says what to do.
    """
    try:
        party = load_credentials(settings.certs)
        context = client_context(party)
    except ProgramError as error:
        raise CannotDial(str(error)) from error
    check_role(party, settings)
    me = party.identity
    warning = expiry_warning(party, datetime.now(UTC))
    if warning is not None:
        log.warning("%s", warning, extra={"action": "certificate_expires"})
    options = connect_options(me, settings, incarnation=incarnation)
    return BridgeConnector(identity=me, transport=PahoTransport(settings.bridge_url, context, options))


def connect_options(me: Identity, settings: ExecutorSettings, *, incarnation: str) -> ConnectOptions:
    """Return who connects and what it subscribes to."""
    topics = Topics(settings.topic_prefix)
    return ConnectOptions(
        identity=me,
        incarnation=incarnation,
        keep_alive_s=settings.keep_alive_s,
        subscriptions=(topics.events(ExecutorName(me.name)), topics.admin_response(me)),
    )


def check_role(party: Credentials, settings: ExecutorSettings) -> None:
    """Return when the certificate is an executor's.

    :raises CannotDial: it is somebody else's.
    """
    if party.identity.role is not Role.EXECUTOR:
        raise CannotDial(
            f"the certificate in {settings.certs} belongs to {party.identity}, not to an executor: "
            "make one with `edge-certs issue executor NAME` and set [edge_mqtt] executor_certs to its folder"
        )
