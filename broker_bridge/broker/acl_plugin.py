"""The access table's word on who may connect, as an amqtt plugin."""

from __future__ import annotations

from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session

from edge_mqtt.broker_bridge.broker.acl import CLIENT_ROLES
from edge_mqtt.certs.identity import Identity, InvalidName


class AccessPlugin(BaseAuthPlugin):  # type: ignore[misc]  # amqtt has no types
    """Lets in whoever has a role of clients. Without such a plugin amqtt lets in nobody."""

    async def authenticate(self, *, session: Session) -> bool:
        """Tell whether the client id is one of ours; the listener has compared it with the certificate."""
        try:
            identity = Identity.from_client_id(session.client_id or "")
        except InvalidName:
            return False
        return identity.role in CLIENT_ROLES
