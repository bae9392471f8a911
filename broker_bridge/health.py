"""``/healthz`` on a port of its own, for the machine the bridge runs on."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

from edge_mqtt.broker_bridge.errors import StartupError


async def serve_health(host: str, port: int, problem: Callable[[], str | None]) -> Server:
    """Answer ``GET /healthz`` with 200, or with 503 and one line while ``problem`` returns one.

    :raises StartupError: the port cannot be opened.
    """

    def answer(connection: ServerConnection, request: Request) -> Response:
        if request.path != "/healthz":
            return connection.respond(HTTPStatus.NOT_FOUND, "there is only /healthz here\n")
        wrong = problem()
        if wrong is not None:
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, f"{wrong}\n")
        return connection.respond(HTTPStatus.OK, "ok\n")

    async def nothing(_: ServerConnection) -> None:
        """Never reached: every request is answered as plain HTTP."""

    try:
        return await serve(nothing, host, port, process_request=answer)
    except OSError as error:
        raise StartupError(
            f"cannot listen on {host}:{port} for /healthz ({error.strerror or error}): "
            "another bridge may be running; set [edge_mqtt] health_port or --health-port"
        ) from error
