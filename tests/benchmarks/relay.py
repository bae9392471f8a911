"""What the way over the edge adds to one Execution API call of a task, in time, bytes and CPU, and over far links.

Real programs, each in a process of its own: a bridge, a worker, and a job whose supervisor this program speaks for,
making calls on the worker's unix socket with the supervisor's own client. Behind the bridge stands an HTTP server
with a fixed answer instead of Airflow's api-server, whose own time would hide what is measured. The same client makes
the same calls to that server directly, in turn with the others.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from edge_mqtt.worker.ipc.api_contract import BASE_URL
from edge_mqtt.worker.supervisor.api_transport import WorkerTransport
from tests.support.scenario_bad_links import BadLinkSite

#: An answer of usual length, as to a variable's question.
BODY: Final = b'{"key":"threshold","value":"' + b"0123456789" * 12 + b'"}'
ANSWER: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(BODY), BODY)
)
TARGET: Final = "variables/threshold"
HEADERS: Final = {"airflow-api-version": "2026-06-30", "content-type": "application/json"}
#: Calls that a task without XCom makes one after the other: run, rendered fields, state.
CALLS_OF_A_TASK: Final = 3
#: Calls in a row on one way before the other way's turn.
IN_TURN: Final = 10
#: Round trip times of the links, in seconds.
ROUND_TRIPS_S: Final = (0.0, 0.02, 0.1, 0.3)
#: Calls that warm everything up.
WARM_UP: Final = 20


class _FixedAnswer(asyncio.Protocol):
    """Answers every request, which must have no body."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note where answers go."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer what has ended with this; a request comes in one piece on this machine."""
        self._transport.write(ANSWER * data.count(b"\r\n\r\n"))


def serve() -> int:
    """Answer in a thread until the program ends; return the port."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(_FixedAnswer, "127.0.0.1", 0))
    threading.Thread(target=loop.run_forever, name="api-server", daemon=True).start()
    port: int = server.sockets[0].getsockname()[1]
    return port


@dataclass(frozen=True, slots=True)
class Figures:
    """Calls on one way."""

    seconds: Sequence[float]
    bytes_up: float = 0.0
    bytes_down: float = 0.0

    @property
    def median_s(self) -> float:
        """The median duration."""
        return statistics.median(self.seconds)

    @property
    def p95_s(self) -> float:
        """The duration that one call in twenty exceeds."""
        return sorted(self.seconds)[int(len(self.seconds) * 0.95)]


def make_calls(client: httpx.Client, count: int) -> list[float]:
    """Return the seconds that each of ``count`` calls in a row took."""
    durations = []
    for _ in range(count):
        begun = time.perf_counter()
        client.get(TARGET).raise_for_status()
        durations.append(time.perf_counter() - begun)
    return durations


def secret_of_the_job(spool: Path) -> str:
    """Return what opens the worker's socket for the one job that it runs."""
    with sqlite3.connect(f"file:{spool}?mode=ro", uri=True) as connection:
        ((secret,),) = connection.execute("SELECT secret FROM jobs WHERE state = 'launched'").fetchall()
    return str(secret)


class Bench:
    """The site with its one job, and a client for each way."""

    def __init__(self, folder: Path) -> None:
        port = serve()
        url = f"http://127.0.0.1:{port}/execution/"
        # No presences between the calls whose bytes are counted.
        options = ("--execution-api-url", url, "--presence-interval", "600")
        self.site = BadLinkSite(folder, bridge_options=options)
        self.worker = self.site.start_worker("machine")
        self._hold = folder / "hold"
        self.jobs = self.site.submit(1, hold=self._hold)
        self.site.wait(lambda: bool(self.site.runs()[0]), "the start of the job")
        state = folder / "machine" / "state"
        token = {"authorization": f"Bearer {secret_of_the_job(state / 'spool.db')}"}
        transport = WorkerTransport(next(state.glob("*.sock")))
        self.relayed = httpx.Client(base_url=BASE_URL, transport=transport, headers=HEADERS | token, trust_env=False)
        self.direct = httpx.Client(base_url=url, headers=HEADERS | token, trust_env=False)
        self.processes = {
            "worker": psutil.Process(self.worker.process.pid),
            "bridge": psutil.Process(self.site.bridge_pid),
        }

    def measure(self, round_trip_s: float, count: int) -> tuple[Figures, Figures]:
        """Return direct and relayed calls, made in turn."""
        link = self.site.links["worker"]
        link.delay_s = round_trip_s / 2
        direct: list[float] = []
        relayed: list[float] = []
        up, down = link.bytes_up, link.bytes_down
        while len(relayed) < count:
            direct += make_calls(self.direct, IN_TURN)
            relayed += make_calls(self.relayed, min(IN_TURN, count - len(relayed)))
        link.delay_s = 0.0
        bytes_up, bytes_down = (link.bytes_up - up) / count, (link.bytes_down - down) / count
        return Figures(direct), Figures(relayed, bytes_up, bytes_down)

    def cpu_of(self, work: Callable[[], object]) -> dict[str, float]:
        """Return the CPU seconds that each program spends on ``work``."""
        before = {name: sum(process.cpu_times()[:2]) for name, process in self.processes.items()}
        work()
        return {name: sum(process.cpu_times()[:2]) - before[name] for name, process in self.processes.items()}

    def close(self) -> None:
        """Let the job end and stop everything."""
        self.relayed.close()
        self.direct.close()
        self._hold.touch()
        self.site.wait_ended(self.jobs)
        self.site.close()


def table_of(rows: dict[float, tuple[Figures, Figures]]) -> Table:
    """Return the figures of every link."""
    table = Table(title="One Execution API call of a task")
    for name in ("link's RTT", "direct, ms", "p95", "relayed, ms", "p95", "added", "RTTs", "bytes up", "bytes down"):
        table.add_column(name, justify="right")
    near = rows[0.0][1].median_s
    for round_trip_s, (direct, relayed) in rows.items():
        round_trips = f"{(relayed.median_s - near) / round_trip_s:.2f}" if round_trip_s else ""
        durations = (
            direct.median_s,
            direct.p95_s,
            relayed.median_s,
            relayed.p95_s,
            relayed.median_s - direct.median_s,
        )
        table.add_row(
            f"{round_trip_s * 1000:.0f} ms",
            *(f"{value * 1000:.2f}" for value in durations),
            round_trips,
            f"{relayed.bytes_up:.0f}",
            f"{relayed.bytes_down:.0f}",
        )
    return table


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=300, help="calls without delay (default: %(default)s)")
    parser.add_argument("--far-calls", type=int, default=20, help="calls over each far link (default: %(default)s)")
    options = parser.parse_args()
    console = Console()
    console.print(f"{platform.platform()}, Python {platform.python_version()}; the api-server is a stand-in")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        bench = Bench(Path(folder))
        try:
            make_calls(bench.relayed, WARM_UP)
            rows = {
                round_trip_s: bench.measure(round_trip_s, options.far_calls if round_trip_s else options.calls)
                for round_trip_s in ROUND_TRIPS_S
            }
            cpu = bench.cpu_of(lambda: make_calls(bench.relayed, options.calls))
        finally:
            bench.close()
    console.print(table_of(rows))
    spent = ", ".join(f"{name} {seconds / options.calls * 1000:.2f} ms" for name, seconds in cpu.items())
    console.print(f"CPU of one relayed call: {spent}")
    console.print(
        f"A task without XCom makes {CALLS_OF_A_TASK} such calls, one after the other: as many round trips."
    )


if __name__ == "__main__":
    main()
