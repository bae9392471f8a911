"""The embedded broker, ready to run: listener, access table and amqtt put together."""

from __future__ import annotations

import asyncio
import resource
import ssl
from collections.abc import Callable
from typing import TypeVar

from edge_mqtt.broker_bridge.broker.amqtt_session import AmqttSessions
from edge_mqtt.broker_bridge.broker.limits import Limits, Timing
from edge_mqtt.broker_bridge.broker.listener import WssListener
from edge_mqtt.broker_bridge.broker.router import InProcessRouter, TopicRouter
from edge_mqtt.broker_bridge.protocol.topics import Topics

T = TypeVar("T")

#: Open files to ask for, one a client: many systems let a program have more than they give it at first.
WANTED_FILES = 65536


class EmbeddedBroker:
    """An MQTT broker for parties with certificates of our authority, over WSS, and for the program around it.

    :param ssl_contexts: gives each connection a server's, which requires a client certificate
        (``certs.tls.server_context``).
    :param topics: builds the topics of the access table.
    :param port: 0 takes a free one.
    """

    def __init__(
        self,
        *,
        ssl_contexts: Callable[[], ssl.SSLContext],
        topics: Topics,
        host: str,
        port: int,
        timing: Timing | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._ssl_contexts = ssl_contexts
        self._topics = topics
        self._host = host
        self._port = port
        self._timing = timing or Timing()
        self._limits = limits or Limits()
        self._topic_router: TopicRouter | None = None
        self._sessions: AmqttSessions | None = None
        self._listener: WssListener | None = None
        self._router: InProcessRouter | None = None

    async def start(self) -> None:
        """Start and listen.

        :raises OSError: the address is taken or may not be used.
        """
        if self._ssl_contexts().verify_mode is not ssl.CERT_REQUIRED:
            raise ValueError("the TLS context does not require client certificates")
        _allow_many_connections()
        self._topic_router = topic_router = TopicRouter(self._topics)
        self._sessions = sessions = AmqttSessions(topic_router)
        await sessions.start()
        self._router = InProcessRouter(topic_router, asyncio.get_running_loop())
        self._listener = WssListener(
            sessions,
            topic_router,
            contexts=self._ssl_contexts,
            topics=self._topics,
            timing=self._timing,
            limits=self._limits,
        )
        try:
            await self._listener.start(self._host, self._port)
        except OSError:
            await sessions.stop()
            raise

    async def stop(self) -> None:
        """End every connection and stop. Nothing is delivered any more: wills would be untrue."""
        if self._topic_router is None or self._sessions is None or self._listener is None:
            return
        self._topic_router.silence()
        await self._listener.stop()
        await self._sessions.stop()

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return self._started(self._listener).port

    @property
    def router(self) -> InProcessRouter:
        """The broker for the program that it runs in."""
        return self._started(self._router)

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return self._started(self._listener).connections

    @property
    def refused(self) -> int:
        """How many connections were turned down since the start."""
        return self._started(self._listener).refused

    @property
    def denied(self) -> int:
        """How many publishes and subscriptions were refused since the start."""
        return self._started(self._topic_router).denied

    @staticmethod
    def _started(part: T | None) -> T:
        if part is None:
            raise RuntimeError("the broker is not started")
        return part


def _allow_many_connections() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_FILES if hard == resource.RLIM_INFINITY else min(hard, WANTED_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
