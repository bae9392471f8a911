"""The access table as an amqtt plugin."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from amqtt.contexts import Action as AmqttAction
from amqtt.contexts import BaseContext
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
from amqtt.session import Session

from edge_mqtt.broker_bridge.broker.acl import CLIENT_ROLES, Action, allowed
from edge_mqtt.broker_bridge.protocol.topics import DEFAULT_PREFIX, Topics
from edge_mqtt.certs.identity import Identity, InvalidName

log = logging.getLogger(__name__)

_ACTIONS = {AmqttAction.PUBLISH: Action.PUBLISH, AmqttAction.SUBSCRIBE: Action.SUBSCRIBE}


class AccessPlugin(BaseAuthPlugin, BaseTopicPlugin):  # type: ignore[misc]  # amqtt has no types
    """Asks the access table. A refusal is one line in the log; the session goes on."""

    @dataclass
    class Config:
        """What amqtt's configuration may say."""

        prefix: str = DEFAULT_PREFIX

    def __init__(self, context: BaseContext) -> None:
        super().__init__(context)
        self._topics = Topics(getattr(self.config, "prefix", DEFAULT_PREFIX))
        #: Publishes and subscriptions that were refused.
        self.denied = 0

    async def authenticate(self, *, session: Session) -> bool:
        """Tell whether the client id is one of ours; the listener has compared it with the certificate."""
        identity = _identity(session)
        return identity is not None and identity.role in CLIENT_ROLES

    async def topic_filtering(
        self, *, session: Session | None = None, topic: str | None = None, action: AmqttAction | None = None
    ) -> bool:
        """Tell whether a client may publish to a topic or subscribe with a filter."""
        identity = _identity(session)
        wanted = _ACTIONS.get(action) if action is not None else None
        if identity is not None and topic and wanted is not None and allowed(identity, wanted, topic, self._topics):
            return True
        self.denied += 1
        log.warning(
            "%s may not %s %s",
            identity,
            "publish to" if wanted is Action.PUBLISH else "subscribe to",
            topic,
            extra={"action": "access_denied", "client": str(identity), "topic": topic},
        )
        return False


def _identity(session: Session | None) -> Identity | None:
    try:
        return Identity.from_client_id((session.client_id if session is not None else None) or "")
    except InvalidName:
        return None
