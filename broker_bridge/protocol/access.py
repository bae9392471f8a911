"""Who may publish and subscribe where: one table and one pure function. What is not granted is denied.

The embedded broker asks :func:`allowed` about every message and subscription; docs/protocol.md's table and the
configuration of any other broker are written from :data:`TABLE`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final

from edge_mqtt.broker_bridge.protocol.topics import VERSION_SEGMENT, Topics, escape, matches
from edge_mqtt.certs.identity import Identity, Role


class Action(StrEnum):
    """What somebody wants to do with a topic."""

    PUBLISH = "publish"
    #: Have the broker keep a message for later subscribers; publishing it has to be granted too.
    RETAIN = "retain"
    SUBSCRIBE = "subscribe"


@dataclass(frozen=True, slots=True)
class Grant:
    """A role may do something with the topics that match a filter.

    In ``template``, which stands below the prefix and the protocol's version, ``{name}`` is the party's own name
    and ``{client_id}`` its own client id, both as one topic level.
    """

    role: Role
    action: Action
    template: str

    def topic_filter(self, identity: Identity, topics: Topics) -> str:
        """Return the topic filter that is granted to ``identity``."""
        levels = self.template.format(name=escape(identity.name), client_id=escape(identity.client_id))
        return f"{topics.prefix}/{VERSION_SEGMENT}/{levels}"


TABLE: Final = (
    Grant(Role.WORKER, Action.PUBLISH, "acks/{name}"),
    Grant(Role.WORKER, Action.PUBLISH, "results/{name}"),
    Grant(Role.WORKER, Action.PUBLISH, "logs/{name}/+"),
    Grant(Role.WORKER, Action.PUBLISH, "rpc/{name}/request"),
    Grant(Role.WORKER, Action.PUBLISH, "workers/{name}"),
    Grant(Role.WORKER, Action.RETAIN, "workers/{name}"),
    Grant(Role.WORKER, Action.SUBSCRIBE, "jobs/+/to/{name}"),
    Grant(Role.WORKER, Action.SUBSCRIBE, "control/{name}"),
    Grant(Role.WORKER, Action.SUBSCRIBE, "rpc/{name}/response"),
    Grant(Role.EXECUTOR, Action.PUBLISH, "jobs/+/from/{name}"),
    Grant(Role.EXECUTOR, Action.PUBLISH, "admin/{client_id}/request"),
    Grant(Role.EXECUTOR, Action.SUBSCRIBE, "admin/{client_id}/response"),
    Grant(Role.EXECUTOR, Action.SUBSCRIBE, "events/{name}"),
    Grant(Role.OPERATOR, Action.PUBLISH, "admin/{client_id}/request"),
    Grant(Role.OPERATOR, Action.SUBSCRIBE, "admin/{client_id}/response"),
)

#: The roles that may connect at all. The bridge is inside the broker.
CLIENT_ROLES: Final = frozenset(grant.role for grant in TABLE)


def allowed(identity: Identity, action: Action, topic_or_filter: str, topics: Topics) -> bool:
    """Tell whether ``identity`` may publish to a topic, retain a message on it, or subscribe with a filter.

    A filter with wildcards must be granted exactly: what another filter would let through is never worked out.
    """
    wildcards = "+" in topic_or_filter or "#" in topic_or_filter
    if wildcards and action is not Action.SUBSCRIBE:
        return False
    filters = _filters(identity, action, topics)
    # Most topics and filters are granted as they are.
    return topic_or_filter in filters or (
        not wildcards and any(matches(topic_filter, topic_or_filter) for topic_filter in filters)
    )


@lru_cache(maxsize=16384)
def _filters(identity: Identity, action: Action, topics: Topics) -> tuple[str, ...]:
    # Asked for every message; the answer never changes.
    return tuple(
        grant.topic_filter(identity, topics)
        for grant in TABLE
        if grant.role is identity.role and grant.action is action
    )
