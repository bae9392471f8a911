"""Where a broker is and how to get there: its URL, and the proxy on the way."""

from __future__ import annotations

import urllib.request
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

#: The port of HTTPS, the one that firewalls let out.
DEFAULT_PORT = 443
#: The path that the bridge serves.
DEFAULT_PATH = "/mqtt"


class InvalidUrl(ValueError):
    """The broker's URL or the proxy's cannot be used."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A broker that speaks MQTT over WebSockets over TLS."""

    host: str
    port: int
    path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Proxy:
    """An HTTP proxy that opens tunnels (CONNECT)."""

    host: str
    port: int
    username: str | None
    password: str | None


def parse_url(url: str) -> Endpoint:
    """Parse ``wss://host[:port][/path]``.

    :raises InvalidUrl: it is not of that form.
    """
    try:
        parts = urlsplit(url)
        port = DEFAULT_PORT if parts.port is None else parts.port
    except ValueError:
        port = 0
    if not port or parts.scheme != "wss" or not parts.hostname:
        raise InvalidUrl(f"{url!r} must look like wss://bridge.example.com:443/mqtt")
    path = parts.path if parts.path not in ("", "/") else DEFAULT_PATH
    return Endpoint(parts.hostname, port, path)


def proxy_for(host: str) -> Proxy | None:
    """Return the proxy that HTTPS_PROXY and NO_PROXY name for ``host``.

    :raises InvalidUrl: HTTPS_PROXY is not of the form http://[user:password@]host:port.
    """
    url = urllib.request.getproxies().get("https")
    if not url or urllib.request.proxy_bypass(host):
        return None
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme != "http" or not parts.hostname or port is None:
        # The URL may hold a password: it is not repeated.
        raise InvalidUrl("HTTPS_PROXY is not of the form http://[USER:PASSWORD@]HOST:PORT")
    return Proxy(
        host=parts.hostname,
        port=port,
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
    )
