"""asyncio's TLS layer for accepted connections, changed for a broker. The only user of asyncio's inner names.

asyncio.sslproto is not documented. Three things are changed, for our connections and no others:

* asyncio reads each connection into a buffer of its own of 256 KiB. Here all connections of a loop share one: what
  was read is taken out before anything else happens in the loop.
* It throws away the alert of a failed handshake: the client would never learn the reason.
* It asks OpenSSL once more when everything is read. That lets another thread take the interpreter's lock each time.

tests/contract/test_private_names.py checks what is used of it.
"""

from __future__ import annotations

import asyncio
import ssl
from asyncio import sslproto
from collections.abc import Callable
from typing import Any, Final, cast

#: Bytes that are read at once. A TLS record has no more.
TLS_READ_BYTES: Final = 16 * 1024


class TlsObject(ssl.SSLObject):
    """The TLS state of one connection; made by a context whose ``sslobject_class`` it is."""

    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO
    connection: asyncio.Transport

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002  the interface's name
        """Return what has been received.

        :raises ssl.SSLError: there is nothing, or it is not what the peer may send.
        """
        if not (self.incoming.pending or self.incoming.eof or self.pending()):
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "nothing is received")
        return super().read(len, buffer)

    def do_handshake(self) -> None:
        """Go on with the handshake; when it fails, tell the client why.

        :raises ssl.SSLError: it failed, or waits for the peer.
        """
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError:
            self.connection.write(self.outgoing.read())
            raise


class _ContextOfOne:
    """What asyncio takes for the TLS context of a connection: tells its TLS object what it is part of."""

    incoming: ssl.MemoryBIO

    def __init__(self, context: ssl.SSLContext, connection: asyncio.Transport) -> None:
        self._context = context
        self._connection = connection

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | None = None,
    ) -> ssl.SSLObject:
        made = self._context.wrap_bio(incoming, outgoing, server_side=server_side, server_hostname=server_hostname)
        self.incoming = incoming
        if isinstance(made, TlsObject):
            made.incoming, made.outgoing, made.connection = incoming, outgoing, self._connection
        return made


class _ServerTls(sslproto.SSLProtocol):
    #: Bytes of the buffer that asyncio makes for the connection, which is not used.
    max_size = 0

    def __init__(self, loop: asyncio.AbstractEventLoop, shared: memoryview, context: _ContextOfOne, **options: Any):
        super().__init__(loop, sslcontext=cast("ssl.SSLContext", context), server_side=True, **options)
        # From here on: bytes to ask OpenSSL for at a time.
        self.max_size = TLS_READ_BYTES  # type: ignore[misc]  # only for this connection
        self._shared = shared
        self._undecrypted = context.incoming

    def get_buffer(self, n: int) -> memoryview:
        del n  # asyncio asks for as much as there may be
        return self._shared

    def buffer_updated(self, nbytes: int) -> None:
        self._undecrypted.write(self._shared[:nbytes])
        super().buffer_updated(0)


class ServerTlsLayer:
    """Makes TLS connections of accepted TCP connections, in one event loop.

    :param contexts: gives each connection a server's context.
    :param handshake_timeout_s: seconds for a handshake.
    :param shutdown_timeout_s: seconds to wait for the peer's farewell.
    """

    def __init__(
        self, contexts: Callable[[], ssl.SSLContext], *, handshake_timeout_s: float, shutdown_timeout_s: float
    ) -> None:
        self._contexts = contexts
        self._handshake_timeout_s = handshake_timeout_s
        self._shutdown_timeout_s = shutdown_timeout_s
        self._shared = memoryview(bytearray(TLS_READ_BYTES))

    def begin(self, connection: asyncio.Transport, protocol: asyncio.Protocol) -> asyncio.Future[None]:
        """Begin the handshake on a connection that has just been made, before anything was read from it.

        :param protocol: is told ``connection_made``, with the TLS transport, once the handshake is done, and never
            hears of a connection whose handshake failed.
        :return: done when the handshake is, or with an OSError when it failed; also done, without one, when the
            connection was closed meanwhile.
        """
        loop = asyncio.get_running_loop()
        handshake: asyncio.Future[None] = loop.create_future()
        context = self._contexts()
        context.sslobject_class = TlsObject
        tls = _ServerTls(
            loop,
            self._shared,
            _ContextOfOne(context, connection),
            app_protocol=protocol,
            waiter=handshake,
            ssl_handshake_timeout=self._handshake_timeout_s,
            ssl_shutdown_timeout=self._shutdown_timeout_s,
        )
        connection.set_protocol(tls)
        tls.connection_made(connection)
        return handshake
