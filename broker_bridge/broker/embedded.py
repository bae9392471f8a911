"""The embedded broker, ready to run: listener, access table and amqtt put together."""

from __future__ import annotations

import asyncio
import logging
import resource
import ssl
from typing import TypeVar

from amqtt.contexts import BrokerConfig

from edge_mqtt.broker_bridge.broker.acl_plugin import AccessPlugin
from edge_mqtt.broker_bridge.broker.listener import WssListener
from edge_mqtt.broker_bridge.broker.router import BrokerRouter, IndexedBroker
from edge_mqtt.broker_bridge.protocol.topics import Topics

T = TypeVar("T")

#: amqtt's loggers: debug lines hold payloads, and info lines come with every packet.
_LOUD_LOGGERS = ("amqtt", "transitions")
#: Open files to ask for, one a client: many systems let a program have more than they give it at first.
WANTED_FILES = 65536


class EmbeddedBroker:
    """An MQTT broker for parties with certificates of our authority, over WSS, and for the program around it.

    :param ssl_context: a server's, requiring client certificates (``certs.tls.server_context``).
    :param topics: builds the topics of the access table.
    :param port: 0 takes a free one.
    """

    def __init__(self, *, ssl_context: ssl.SSLContext, topics: Topics, host: str, port: int) -> None:
        self._ssl_context = ssl_context
        self._topics = topics
        self._host = host
        self._port = port
        self._broker: IndexedBroker | None = None
        self._listener: WssListener | None = None
        self._router: BrokerRouter | None = None

    async def start(self) -> None:
        """Start and listen.

        :raises OSError: the address is taken or may not be used.
        """
        if self._ssl_context.verify_mode is not ssl.CERT_REQUIRED:
            raise ValueError("the TLS context does not require client certificates")
        for name in _LOUD_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        _allow_many_connections()
        plugin = f"{AccessPlugin.__module__}.{AccessPlugin.__qualname__}"
        config = BrokerConfig.from_dict({"listeners": {"default": {"type": "external"}}, "plugins": {plugin: {}}})
        self._broker = broker = IndexedBroker(config, self._topics)
        await broker.start()
        self._router = BrokerRouter(broker, asyncio.get_running_loop())
        self._listener = listener = WssListener(broker, context=self._ssl_context, topics=self._topics)
        try:
            await listener.start(self._host, self._port)
        except OSError:
            await broker.shutdown()
            raise

    async def stop(self) -> None:
        """End every connection and stop. Nothing is delivered any more: wills would be untrue."""
        if self._broker is None or self._listener is None:
            return
        self._broker.silent = True
        await self._listener.stop()
        await self._broker.shutdown()

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return self._started(self._listener).port

    @property
    def router(self) -> BrokerRouter:
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
        return self._started(self._broker).denied

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
