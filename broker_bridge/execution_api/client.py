"""HTTP to Airflow's Execution API: one pooled, kept-alive client."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote

import httpx

#: Connections to the api-server at most.
MAX_CONNECTIONS: Final = 32
#: Seconds for one call. Airflow's own calls take milliseconds; a large XCom on a busy database takes longer.
CALL_TIMEOUT_S: Final = 60.0
#: Answers of proxies and of a server that is starting or stopping: nothing was done, ask again.
UNAVAILABLE: Final = frozenset(
    {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}
)
#: The header by which Airflow hands out a newer token (JWTReissueMiddleware in airflow's execution_api/app.py).
REFRESHED_TOKEN_HEADER: Final = "refreshed-api-token"  # noqa: S105  a header's name
#: Response headers that end here: those of one connection, those that no longer fit the decoded body, and the token.
NOT_RELAYED: Final = frozenset(
    {
        "connection",
        "content-encoding",
        "content-length",
        "date",
        "keep-alive",
        REFRESHED_TOKEN_HEADER,
        "server",
        "set-cookie",
        "transfer-encoding",
    }
)


class ApiUnavailable(Exception):
    """The api-server cannot be reached or is not ready; the call may be made again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiCall:
    """One call: ``target`` is the path below the API's root, with its query, percent-encoded."""

    method: str
    target: str
    token: str
    headers: dict[str, str]
    body: bytes = b""


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiResult:
    """The answer, and the newer token when one came with it."""

    status: int
    headers: dict[str, str]
    body: bytes
    refreshed_token: str | None = None


class InvalidTarget(ValueError):
    """The target would leave the Execution API."""


class ExecutionApiClient:
    """Calls the Execution API at ``base_url``."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url.rstrip("/")
        self._client = httpx.AsyncClient(
            timeout=CALL_TIMEOUT_S,
            limits=httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS),
            trust_env=False,
        )

    async def call(self, call: ApiCall) -> ApiResult:
        """Make one call.

        :raises InvalidTarget: the target has ``..`` or a scheme in it.
        :raises ApiUnavailable: the api-server is away or not ready.
        """
        url = self._base_url + "/" + checked_target(call.target)
        headers = {**call.headers, "authorization": f"Bearer {call.token}"}
        try:
            response = await self._client.request(call.method, url, content=call.body or None, headers=headers)
        except httpx.HTTPError as error:
            raise ApiUnavailable(f"{type(error).__name__} at {self._base_url}: {error}") from error
        if response.status_code in UNAVAILABLE:
            raise ApiUnavailable(f"{self._base_url} answered {response.status_code}")
        return ApiResult(
            status=response.status_code,
            headers={name: value for name, value in response.headers.items() if name not in NOT_RELAYED},
            body=response.content,
            refreshed_token=response.headers.get(REFRESHED_TOKEN_HEADER),
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()


def checked_target(target: str) -> str:
    """Return ``target`` without leading slashes.

    :raises InvalidTarget: it would address something outside the Execution API.
    """
    path = target.partition("?")[0]
    parts = unquote(path).split("/")
    if "://" in path or "\\" in path or ".." in parts or "." in parts:
        raise InvalidTarget(f"{path!r} is not a path of the Execution API")
    return target.lstrip("/")
