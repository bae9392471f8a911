"""What a WebSocket client costs a worker: CPU by message, the time to connect, and memory.

``--against`` names another checkout, whose broker_bridge/transport/websocket.py is measured in turn with this one's,
in one process and over TLS on loopback. The other side is a process of its own. Memory is that of a whole worker at
rest, which is started from the checkout's .venv.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import platform
import socket
import ssl
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol

from edge_mqtt.broker_bridge.broker.tls_connection import MAX_FRAME_BYTES
from edge_mqtt.broker_bridge.transport.endpoint import Endpoint
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.certs.loading import load_credentials
from edge_mqtt.certs.store import Store
from edge_mqtt.certs.tls import client_context, server_context
from tests.benchmarks.weight.idle import Site

TREE: Final = Path(__file__).parents[2]
#: Bytes of a message, and how many of them make a round.
MESSAGES: Final = {200: 2000, 2000: 2000, 64 * 1024: 200, 256 * 1024: 60}
#: Connections of a round.
CONNECTS: Final = 10


class Server:
    """The other side: a process that sends or takes as many frames as it is asked to."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pipe, theirs = multiprocessing.Pipe()
        fork = multiprocessing.get_context("fork")
        self._process = fork.Process(target=_serve, args=(self._listener, context, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, *order: object) -> None:
        """Say what the open connection is for."""
        self._pipe.send(order)

    def wait(self) -> None:
        """Wait until the last order has been carried out."""
        self._pipe.recv()

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.join()
        self._process.close()
        self._pipe.close()
        self._listener.close()


def _serve(listener: socket.socket, context: ssl.SSLContext, orders: Connection) -> None:
    while True:
        plain, _ = listener.accept()
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(plain, server_side=True) as tls:
            protocol = ServerProtocol(subprotocols=["mqtt"])  # type: ignore[list-item]  # a NewType of str
            while not (requests := protocol.events_received()):
                protocol.receive_data(tls.recv(4096))
            protocol.send_response(protocol.accept(requests[0]))  # type: ignore[arg-type]  # the first is a request
            tls.sendall(b"".join(protocol.data_to_send()))
            _obey(tls, orders)


def _as_the_bridge_sends(packet: bytes) -> bytes:
    cuts = range(0, len(packet), MAX_FRAME_BYTES)
    return b"".join(Frame(Opcode.BINARY, packet[cut : cut + MAX_FRAME_BYTES]).serialize(mask=False) for cut in cuts)


def _obey(tls: ssl.SSLSocket, orders: Connection) -> None:
    while True:
        order, size, count = orders.recv()
        if order == "hang up":
            return
        if order == "send":
            message = _as_the_bridge_sends(bytes(size))
            for _ in range(count):
                tls.sendall(message)
        else:
            left = count * len(Frame(Opcode.BINARY, bytes(size)).serialize(mask=True))
            while left:
                left -= len(tls.recv(64 * 1024))
        orders.send("done")


class Bench:
    """Measures one client after the other against the same server."""

    def __init__(self, folder: Path) -> None:
        store, now = Store(folder), datetime.now(UTC)
        worker = Identity(Role.WORKER, "lab-3")
        store.create(hosts=["localhost"], force=False, now=now)
        store.issue(worker, force=False, now=now)
        self._context = client_context(load_credentials(store.folder(worker)))
        self.server = Server(server_context(load_credentials(folder / "bridge")))
        self._endpoint = Endpoint("localhost", self.server.port, "/mqtt")

    def connect(self, client: ModuleType) -> Any:
        """Return an open WebSocket of this client's."""
        return client.open_websocket(
            self._endpoint, self._context, proxy=None, timeout_s=10.0, opened=lambda _sock: None
        )

    def connect_ms(self, client: ModuleType) -> dict[str, float]:
        """Return the milliseconds of a connection, by the clock and of CPU."""
        wall = cpu = 0.0
        for _ in range(CONNECTS):
            begun, used = time.perf_counter(), time.process_time()
            websocket = self.connect(client)
            wall, cpu = wall + time.perf_counter() - begun, cpu + time.process_time() - used
            self.server.ask("hang up", 0, 0)
            websocket.close()
        return {"connect, ms": wall / CONNECTS * 1000, "connect, ms of CPU": cpu / CONNECTS * 1000}

    def messages_us(self, client: ModuleType) -> dict[str, float]:
        """Return the microseconds of CPU of a message, by direction and size."""
        websocket = self.connect(client)
        figures = {}
        for size, count in MESSAGES.items():
            name = f"{size:,} bytes, µs of CPU"
            self.server.ask("take", size, count)
            figures[f"send {name}"] = _cpu_us(lambda n=count, s=size: _send(websocket, s, n)) / count  # type: ignore[misc]  # defaults
            self.server.wait()
            self.server.ask("send", size, count)
            figures[f"receive {name}"] = _cpu_us(lambda n=count, s=size: _receive(websocket, s, n)) / count  # type: ignore[misc]  # defaults
            self.server.wait()
        self.server.ask("hang up", 0, 0)
        websocket.close()
        return figures


def _cpu_us(work: Callable[[], None]) -> float:
    begun = time.process_time()
    work()
    return (time.process_time() - begun) * 1e6


def _send(websocket: Any, size: int, count: int) -> None:
    packet = bytearray(size)
    for _ in range(count):
        websocket.send(packet)


def _receive(websocket: Any, size: int, count: int) -> None:
    """Read as paho does: a packet's type, its length byte by byte, and the rest."""
    head = 2 + (size > 127) + (size > 16383)
    for _ in range(count):
        left = size
        while left:
            try:
                left -= len(websocket.recv(1 if size - left < head else left))
            except BlockingIOError:
                continue


def load(tree: Path) -> ModuleType:
    """Return a checkout's client."""
    spec = importlib.util.spec_from_file_location(f"websocket_of_{tree.name}", source(tree))
    if spec is None or spec.loader is None:
        raise ImportError(f"{tree} has no WebSocket client")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def source(tree: Path) -> Path:
    """Return the file of a checkout's client."""
    return tree / "broker_bridge" / "transport" / "websocket.py"


def memory_mb(tree: Path) -> dict[str, float]:
    """Return the megabytes of a checkout's worker and its launcher at rest."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        site = Site(Path(folder), scripts=TREE / ".venv/bin", worker_scripts=tree / ".venv/bin")
        rest = site.at_rest(0.0)
    return {
        "worker at rest, MB": sum(each.memory_mb for each in rest if each.name in ("edge-worker", "its launcher"))
    }


def table_of(figures: dict[str, list[dict[str, float]]]) -> Table:
    """Return the median of each figure by checkout."""
    table = Table(title="A WebSocket client")
    table.add_column("")
    for name in figures:
        table.add_column(name, justify="right")
    for row in next(iter(figures.values()))[0]:
        medians = (statistics.median(each[row] for each in rounds) for rounds in figures.values())
        table.add_row(row, *(f"{median:.2f}" for median in medians))
    return table


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="turns of each (default: %(default)s)")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another checkout to measure in turn")
    options = parser.parse_args()
    trees = [TREE, *([options.against.resolve()] if options.against else [])]
    clients = {tree: load(tree) for tree in trees}
    figures: dict[str, list[dict[str, float]]] = {tree.name: [] for tree in trees}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        bench = Bench(Path(folder))
        try:
            for number in range(options.rounds):
                for tree in trees if number % 2 else reversed(trees):
                    client = clients[tree]
                    figures[tree.name].append(bench.messages_us(client) | bench.connect_ms(client) | memory_mb(tree))
        finally:
            bench.server.close()
    console = Console()
    console.print(f"{platform.platform()}, Python {platform.python_version()}")
    console.print(table_of(figures))


if __name__ == "__main__":
    main()
