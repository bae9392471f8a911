"""Who may publish and subscribe where: one table and one pure function. What is not granted is denied."""

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
    retain: bool = False

    def topic_filter(self, identity: Identity, topics: Topics) -> str:
        """Return the topic filter that is granted to ``identity``."""
        levels = self.template.format(name=escape(identity.name), client_id=escape(identity.client_id))
        return f"{topics.prefix}/{VERSION_SEGMENT}/{levels}"


TABLE: Final = (
    Grant(Role.WORKER, Action.PUBLISH, "acks/{name}"),
    Grant(Role.WORKER, Action.PUBLISH, "results/{name}"),
    Grant(Role.WORKER, Action.PUBLISH, "logs/{name}/+"),
    Grant(Role.WORKER, Action.PUBLISH, "rpc/{name}/request"),
    Grant(Role.WORKER, Action.PUBLISH, "workers/{name}", retain=True),
    Grant(Role.WORKER, Action.SUBSCRIBE, "jobs/+/{name}"),
    Grant(Role.WORKER, Action.SUBSCRIBE, "control/{name}"),
    Grant(Role.WORKER, Action.SUBSCRIBE, "rpc/{name}/response"),
    Grant(Role.EXECUTOR, Action.PUBLISH, "jobs/+"),
    Grant(Role.EXECUTOR, Action.PUBLISH, "admin/{client_id}/request"),
    Grant(Role.EXECUTOR, Action.SUBSCRIBE, "admin/{client_id}/response"),
    Grant(Role.EXECUTOR, Action.SUBSCRIBE, "events/{name}"),
    Grant(Role.EXECUTOR, Action.SUBSCRIBE, "workers/+"),
    Grant(Role.OPERATOR, Action.PUBLISH, "admin/{client_id}/request"),
    Grant(Role.OPERATOR, Action.SUBSCRIBE, "admin/{client_id}/response"),
    Grant(Role.OPERATOR, Action.SUBSCRIBE, "workers/+"),
    Grant(Role.OPERATOR, Action.SUBSCRIBE, "logs/+/+"),
)

#: The roles that may connect at all. The bridge is inside the broker.
CLIENT_ROLES: Final = frozenset(grant.role for grant in TABLE)


def allowed(identity: Identity, action: Action, topic_or_filter: str, topics: Topics) -> bool:
    """Tell whether ``identity`` may publish to a topic or subscribe with a filter.

    A filter with wildcards must be granted exactly: what another filter would let through is never worked out.
    """
    wildcards = "+" in topic_or_filter or "#" in topic_or_filter
    if wildcards and action is Action.PUBLISH:
        return False
    filters = _filters(identity, action, topics)
    # Most topics and filters are granted as they are.
    return topic_or_filter in filters or (
        not wildcards and any(matches(topic_filter, topic_or_filter) for topic_filter in filters)
    )


def may_retain(identity: Identity, topic: str, topics: Topics) -> bool:
    """Tell whether a message that ``identity`` may publish to ``topic`` may also be retained."""
    return any(
        grant.retain and matches(topic_filter, topic)
        for grant, topic_filter in _grants(identity, Action.PUBLISH, topics)
    )


@lru_cache(maxsize=16384)
def _filters(identity: Identity, action: Action, topics: Topics) -> tuple[str, ...]:
    # Asked for every message; the answer never changes.
    return tuple(topic_filter for _, topic_filter in _grants(identity, action, topics))


def _grants(identity: Identity, action: Action, topics: Topics) -> tuple[tuple[Grant, str], ...]:
    return tuple(
        (grant, grant.topic_filter(identity, topics))
        for grant in TABLE
        if grant.role is identity.role and grant.action is action
    )
