"""How long a job waits for its start and its end while another one's log is shipped, on a fast and a slow link."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table

from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import JobFinished, JobStarted
from tests.benchmarks.figures import percentile

if TYPE_CHECKING:
    from tests.benchmarks.logs import LogSite

#: 1 Mbit/s, 100 ms there and back.
SLOW_BYTES_PER_S: Final = 125_000
SLOW_DELAY_S: Final = 0.05
#: Megabytes that are not through in the time of the jobs beside them.
SLOW_FLOOD_MB: Final = 30
JOBS: Final = 15
#: Bytes of a log that are written before the jobs beside it begin.
BEGUN_BYTES: Final = 1_000_000
LOOK_S: Final = 0.001
PATIENCE_S: Final = 60.0


@dataclass
class Beside:
    """What jobs waited for."""

    link: str
    load: str
    started_s: list[float] = field(default_factory=list)
    finished_s: list[float] = field(default_factory=list)
    #: Bytes of log that arrived meanwhile, and in how many seconds.
    log_bytes: int = 0
    wall_s: float = 0.0


def measure(site: LogSite, megabytes: int) -> list[Beside]:
    """Measure, on loopback and on a slow link, alone and beside a log that zstd makes small and one that it cannot.

    :param megabytes: of the log on loopback; it is written again for as long as there are jobs to measure.
    """
    link = site.site.links["worker"]
    results = []
    for name, slow in (("loopback", False), ("1 Mbit/s, 100 ms", True)):
        link.delay_s, link.bytes_per_s = (SLOW_DELAY_S, SLOW_BYTES_PER_S) if slow else (0.0, None)
        run_jobs(site, Beside(name, "warms up"), 1)
        for load, function in (("nothing", None), ("a log that shrinks", "flood"), ("random bytes", "scramble")):
            figures = Beside(name, load)
            results.append(figures)
            while len(figures.started_s) < JOBS:
                if function is None:
                    run_jobs(site, figures, JOBS)
                else:
                    _beside(site, figures, function, SLOW_FLOOD_MB if slow else megabytes)
    link.delay_s, link.bytes_per_s = 0.0, None
    return results


def _beside(site: LogSite, figures: Beside, function: str, megabytes: int) -> None:
    """Run jobs while a log is shipped, and let the rest of it travel fast."""
    loud = JobId(str(uuid.uuid4()))
    site.submit(function, loud, file=str(site.edge(loud)), megabytes=megabytes)
    edge, central = site.edge(loud), site.central(loud)
    _wait_for(lambda: edge.exists() and edge.stat().st_size > BEGUN_BYTES and central.exists())
    began, before = time.monotonic(), central.stat().st_size
    while len(figures.started_s) < JOBS and (
        loud not in site.site.outcomes or central.stat().st_size < edge.stat().st_size
    ):
        run_jobs(site, figures, 1)
    figures.log_bytes += central.stat().st_size - before
    figures.wall_s += time.monotonic() - began
    link = site.site.links["worker"]
    conditions = link.delay_s, link.bytes_per_s
    link.delay_s, link.bytes_per_s = 0.0, None
    site.site.wait_ended([loud])
    _wait_for(lambda: central.stat().st_size == edge.stat().st_size)
    link.delay_s, link.bytes_per_s = conditions


def run_jobs(site: LogSite, figures: Beside, jobs: int) -> None:
    """Run jobs that do nothing, one after the other."""
    for _ in range(jobs):
        began = time.monotonic()
        job = site.submit("prints", count=0, per_s=1)
        news: dict[type, float] = {}

        def has_ended(job: JobId = job, began: float = began, news: dict[type, float] = news) -> bool:
            for item in site.site.link.read_news():
                if isinstance(item, JobStarted | JobFinished) and item.job_id == job:
                    news.setdefault(type(item), time.monotonic() - began)
                if isinstance(item, JobFinished):
                    site.site.outcomes[item.job_id] = item
                    site.site.link.acknowledge(item.job_id)
            return JobFinished in news

        _wait_for(has_ended)
        figures.finished_s.append(news[JobFinished])
        # One that both began and ended between two looks may be told of by its end alone.
        figures.started_s.append(news.get(JobStarted, news[JobFinished]))


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(LOOK_S)


def print_table(console: Console, results: Sequence[Beside]) -> None:
    """Print what was measured."""
    table = Table(title="A job that does nothing, beside a log, ms")
    for name in ("link", "beside", "jobs", "started: median", "p95", "finished: median", "p95", "log, KB/s"):
        table.add_column(name, justify="right")
    for result in results:
        row = [result.link, result.load, str(len(result.started_s))]
        for values in (result.started_s, result.finished_s):
            row += [f"{percentile(values, share) * 1000:.0f}" for share in (0.5, 0.95)]
        row.append(f"{result.log_bytes / result.wall_s / 1e3:.0f}" if result.wall_s else "-")
        table.add_row(*row)
    console.print(table)
