"""HTTP to Airflow's Execution API: one pooled, kept-alive client."""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import httpx

#: The version of the Execution API in which the bridge makes calls of its own: that of Airflow 3.3's tasks, so that
#: the api-server has to build it in any case. A task's calls carry their own.
API_VERSION: Final = "2026-06-30"
#: Connections to the api-server at most: fewer than it has to its database (``[database] sql_alchemy_pool_size`` and
#: ``sql_alchemy_max_overflow``, 15 in all). With more calls than that under way its threads wait for connections that
#: only its threads can give back, and it stands still until the pool's timeout of 30 s.
MAX_CONNECTIONS: Final = 14
#: Seconds for one call. Airflow's own calls take milliseconds; a large XCom on a busy database takes longer.
CALL_TIMEOUT_S: Final = 60.0
#: Answers of proxies and of a server that is starting, stopping or overloaded: ask again. With a gateway timeout, and
#: no other of them, a proxy says that it has passed the call on.
UNAVAILABLE: Final = frozenset(
    {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}
)
#: What fails before a byte of the call is sent.
NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
#: What Airflow answers with status 500 to any call while its database is away (SQLAlchemyErrorHandler in its
#: api_fastapi/common/exceptions.py), but also to the rare call that its database will never take.
DATABASE_ERROR: Final = re.compile(rb'"reason":\s*"Database error"')
#: The header by which Airflow hands out a newer token (JWTReissueMiddleware in airflow's execution_api/app.py).
REFRESHED_TOKEN_HEADER: Final = "refreshed-api-token"  # noqa: S105  a header's name
#: Request headers that come from the edge; the token and the correlation id are added here.
RELAYED: Final = frozenset({"airflow-api-version", "content-type", "traceparent", "tracestate"})
#: Response headers that go to the edge: those that Airflow's client reads (airflow.sdk's api/client.py). All others
#: are of one connection, repeat the request's, or are the token.
ANSWERED: Final = frozenset({"content-range", "content-type"})
#: The header by which a call is found in the logs of both sides: its id.
CORRELATION_ID_HEADER: Final = "correlation-id"


class ApiUnavailable(Exception):
    """The api-server cannot be reached, is not ready or did not answer in time; the call may be made again.

    :param in_doubt: the call was sent, and it is not known whether it was carried out.
    """

    def __init__(self, message: str, *, in_doubt: bool) -> None:
        super().__init__(message)
        self.in_doubt = in_doubt


class InvalidCall(ValueError):
    """The call can never be made: its target is no path below the Execution API, or a header is not one of HTTP's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiCall:
    """One call: ``target`` is the path below the API's root, with its query, percent-encoded."""

    method: str
    target: str
    token: str
    headers: dict[str, str]
    body: bytes = b""
    #: What the api-server logs the call under; empty: something of its own.
    correlation_id: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiResult:
    """The answer, and the newer token when one came with it."""

    status: int
    headers: dict[str, str]
    body: bytes
    refreshed_token: str | None = None


class ExecutionApiClient:
    """Calls the Execution API at ``base_url``."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url.rstrip("/")
        self._root = httpx.URL(self._base_url + "/")
        self._client = httpx.AsyncClient(
            timeout=CALL_TIMEOUT_S,
            limits=httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS),
            trust_env=False,
        )

    async def call(self, call: ApiCall, *, patient: bool = True) -> ApiResult:
        """Make one call.

        :param patient: take an error of Airflow's database for one that passes, and do not hand it on.
        :raises InvalidCall: it can never be made.
        :raises ApiUnavailable: the api-server is away or not ready.
        """
        url = target_url(self._root, call.target)
        headers = {name: value for name, value in call.headers.items() if name.lower() in RELAYED}
        if call.token:
            headers["authorization"] = f"Bearer {call.token}"
        if call.correlation_id:
            headers[CORRELATION_ID_HEADER] = call.correlation_id
        try:
            response = await self._client.request(call.method, url, content=call.body or None, headers=headers)
        except (httpx.LocalProtocolError, httpx.UnsupportedProtocol, httpx.InvalidURL, UnicodeError) as error:
            raise InvalidCall(f"the call cannot be made: {error}") from error
        except httpx.HTTPError as error:
            message = f"{type(error).__name__} at {self._base_url}: {error}"
            raise ApiUnavailable(message, in_doubt=not isinstance(error, NOT_SENT)) from error
        if response.status_code in UNAVAILABLE:
            in_doubt = response.status_code == HTTPStatus.GATEWAY_TIMEOUT
            raise ApiUnavailable(f"{self._base_url} answered {response.status_code}", in_doubt=in_doubt)
        if patient and response.is_server_error and DATABASE_ERROR.search(response.content):
            # It may have failed after the commit.
            raise ApiUnavailable(f"the api-server at {self._base_url} cannot use its database", in_doubt=True)
        return ApiResult(
            status=response.status_code,
            headers={name: value for name, value in response.headers.items() if name in ANSWERED},
            body=response.content,
            refreshed_token=response.headers.get(REFRESHED_TOKEN_HEADER),
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()


def target_url(root: httpx.URL, target: str) -> httpx.URL:
    """Return the address of ``target``, which stands below ``root`` byte for byte.

    What is percent-encoded in it stays that: a key may have any character, so ``%2E%2E`` and ``a%2F..%2Fb`` are keys
    and no way up. A ``..`` of its own is one, and httpx would follow it.

    :param root: the API's root, with a slash at its end.
    :raises InvalidCall: it would be another address, or is not how an address is written.
    """
    try:
        raw_path = root.raw_path + target.encode("ascii")
        url = root.copy_with(raw_path=raw_path)
    except (UnicodeError, httpx.InvalidURL) as error:
        raise InvalidCall(f"{target!r} is not a path of the Execution API: {error}") from error
    if (url.scheme, url.netloc, url.raw_path) != (root.scheme, root.netloc, raw_path):
        raise InvalidCall(f"{target!r} is not a path of the Execution API")
    return url
