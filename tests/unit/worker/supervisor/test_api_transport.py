"""The supervisor's transport to its worker's socket, and what it reports when a run fails."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

import httpx
import pytest

from edge_mqtt.worker.ipc.api_contract import BASE_URL, REPEATED_HEADER, REQUEST_ID_HEADER
from edge_mqtt.worker.supervisor.api_transport import HEARTBEAT_SPARED_S, WorkerTransport
from edge_mqtt.worker.supervisor.main import ERROR_LENGTH, describe_error

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data or not data.endswith(b"body"):
        piece = connection.recv(65536)
        if not piece:
            break
        data += piece
    return data


class Listening:
    """A socket that treats one connection after the other as told."""

    def __init__(self, path: Path, behaviours: list[bytes | None]) -> None:
        self.path = path
        self.requests: list[bytes] = []
        self._behaviours = behaviours
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        with self._listener:
            for answer in self._behaviours:
                connection, _ = self._listener.accept()
                with connection:
                    self.requests.append(read_request(connection))
                    if answer is not None:
                        connection.sendall(answer)


def request_ids(requests: list[bytes]) -> set[bytes]:
    lines = [line for request in requests for line in request.split(b"\r\n")]
    return {line for line in lines if line.lower().startswith(REQUEST_ID_HEADER.encode())}


def call(path: Path, sleep: Callable[[float], None], **headers: str) -> httpx.Response:
    transport = WorkerTransport(path, sleep=sleep)
    with httpx.Client(base_url=BASE_URL, transport=transport, timeout=None, trust_env=False) as client:  # noqa: S113 -- as in production
        return client.post("variables/x", content=b"body", headers=headers)


def test_call_whose_connection_breaks_is_made_again_with_the_same_id(tmp_path: Path) -> None:
    half = b"HTTP/1.1 200 OK\r\ncontent-length: 200\r\n\r\nhal"
    server = Listening(tmp_path / "s", [None, half, ANSWER])
    response = call(server.path, lambda _: None)
    server.thread.join()
    assert response.text == "ok"
    assert len(server.requests) == 3
    assert len(request_ids(server.requests)) == 1
    assert all(request.endswith(b"body") for request in server.requests)
    assert [REPEATED_HEADER.encode() in request.lower() for request in server.requests] == [False, True, True]


def test_call_waits_for_a_worker_that_is_being_restarted(tmp_path: Path) -> None:
    servers: list[Listening] = []
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 8:
            servers.append(Listening(tmp_path / "s", [ANSWER]))

    assert call(tmp_path / "s", sleep).text == "ok"
    servers[0].thread.join()
    assert waits == sorted(waits)
    assert max(waits) <= 1.0


def test_call_that_reached_nobody_was_not_made_before(tmp_path: Path) -> None:
    # A worker that was killed leaves its socket's file.
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left_behind:
        left_behind.bind(str(tmp_path / "s"))
    servers: list[Listening] = []

    def sleep(_: float) -> None:
        (tmp_path / "s").unlink()
        servers.append(Listening(tmp_path / "s", [ANSWER]))

    assert call(tmp_path / "s", sleep).text == "ok"
    servers[0].thread.join()
    assert REPEATED_HEADER.encode() not in servers[0].requests[0].lower()


def test_call_that_found_the_kept_connection_broken_was_not_made_before(tmp_path: Path) -> None:
    before = Listening(tmp_path / "s", [ANSWER])
    transport = WorkerTransport(tmp_path / "s", sleep=lambda _: None)
    request = httpx.Request("POST", f"{BASE_URL}variables/x", content=b"body")
    transport.handle_request(request)
    before.thread.join()
    (tmp_path / "s").unlink()
    after = Listening(tmp_path / "s", [ANSWER])
    transport.handle_request(request)
    transport.close()
    after.thread.join()
    assert REPEATED_HEADER.encode() not in after.requests[0].lower()


HEARTBEAT = f"{BASE_URL}task-instances/7/heartbeat"


def answer_after(path: Path, seconds: float, request: httpx.Request, behaviours: list[bytes | None]) -> int:
    """Make a call, and ``request`` so many seconds after its answer; return the status of its own."""
    now = [100.0]
    server = Listening(path, behaviours)
    transport = WorkerTransport(path, clock=lambda: now[0])
    transport.handle_request(httpx.Request("PATCH", f"{BASE_URL}task-instances/7/run", content=b"body"))
    now[0] += seconds
    status = transport.handle_request(request).status_code
    transport.close()
    server.thread.join()
    return status


def test_heartbeat_right_after_an_answer_is_not_made(tmp_path: Path) -> None:
    heartbeat = httpx.Request("PUT", HEARTBEAT, content=b"body")
    status = answer_after(tmp_path / "s", HEARTBEAT_SPARED_S / 2, heartbeat, [ANSWER])
    assert status == HTTPStatus.NO_CONTENT


@pytest.mark.parametrize(
    ("method", "url", "seconds"),
    [
        ("PUT", HEARTBEAT, HEARTBEAT_SPARED_S),
        ("PATCH", f"{BASE_URL}task-instances/7/state", 0.0),
        ("PUT", f"{BASE_URL}task-instances/7/rtif", 0.0),
        ("PUT", f"{BASE_URL}variables/x/task-instances/7/heartbeat", 0.0),
        ("PUT", f"{BASE_URL}variables/x%2Ftask-instances%2F7%2Fheartbeat", 0.0),
    ],
)
def test_any_other_call_is_made(tmp_path: Path, method: str, url: str, seconds: float) -> None:
    request = httpx.Request(method, url, content=b"body")
    assert answer_after(tmp_path / "s", seconds, request, [ANSWER, ANSWER]) == HTTPStatus.OK


def test_first_heartbeat_is_made(tmp_path: Path) -> None:
    server = Listening(tmp_path / "s", [ANSWER])
    transport = WorkerTransport(server.path)
    assert transport.handle_request(httpx.Request("PUT", HEARTBEAT, content=b"body")).text == "ok"
    transport.close()
    server.thread.join()


def test_every_call_has_an_id_of_its_own(tmp_path: Path) -> None:
    server = Listening(tmp_path / "s", [ANSWER, ANSWER])
    for _ in range(2):
        call(server.path, lambda _: None)
    server.thread.join()
    assert len(request_ids(server.requests)) == 2


def test_call_has_the_id_that_airflow_gave_it(tmp_path: Path) -> None:
    server = Listening(tmp_path / "s", [ANSWER])
    call(server.path, lambda _: None, **{"correlation-id": "0199-abc"})
    server.thread.join()
    assert request_ids(server.requests) == {REQUEST_ID_HEADER.encode() + b": 0199-abc"}


@pytest.mark.parametrize(
    ("detail", "said"),
    [
        ({"reason": "not_yours", "message": "held by another"}, "ValueError: held by another"),
        ({"reason": "invalid_state"}, "ValueError: invalid_state"),
        ("plain", "ValueError: plain"),
        (None, "ValueError: first line"),
    ],
)
def test_refusal_is_told_in_the_centres_words(detail: object, said: str) -> None:
    error = ValueError("first line\nsecond line")
    if detail is not None:
        error.detail = detail  # type: ignore[attr-defined]  # as Airflow's ServerResponseError has
    assert describe_error(error) == said


def test_error_is_one_short_line() -> None:
    assert len(describe_error(ValueError("x" * 10_000))) == ERROR_LENGTH
    assert describe_error(ValueError()) == "ValueError"
