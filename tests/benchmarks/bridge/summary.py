"""What the raw figures of the bridges say."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Final

from tests.benchmarks.bridge.session import RTT_S
from tests.benchmarks.figures import percentile
from tests.benchmarks.metrics import Metric, Raw, Target
from tests.benchmarks.page import Sheet, target_sheet

_RTT_MS: Final = round(RTT_S * 1000)


def _median(scenario: str, key: str) -> Callable[[Raw], float]:
    return lambda raw: statistics.median(turn[key] for turn in raw[scenario])


def _share(key: str) -> Callable[[Raw], float]:
    return lambda raw: statistics.median(turn[key] / turn["seconds"] for turn in raw["storm"])


def _delay(scenario: str, moment: str, share: float) -> Callable[[Raw], float]:
    return lambda raw: percentile([delay for turn in raw[scenario] for delay in turn[moment]], share)


def _busy_delay(moment: str, place: int) -> Callable[[Raw], float]:
    return lambda raw: statistics.median(turn[moment][place] for turn in raw["busy"])


def _longer(moment: str) -> Callable[[Raw], float]:
    """Return by how many round trips a job takes longer to a moment at the end of the long link."""
    near, far, rtt = _delay("calm", moment, 0.5), _delay("far", moment, 0.5), _delay("far", "round_trip", 0.5)
    return lambda raw: (far(raw) - near(raw)) / rtt(raw)


def _per_connection(key: str) -> Callable[[Raw], float]:
    def read(raw: Raw) -> float:
        connecting = raw["connecting"]
        if not connecting["connections"]:
            raise ValueError("no connections")
        return float(connecting[key] / connecting["connections"])

    return read


def _idle_cpu(raw: Raw) -> float:
    return float(raw["idle"]["bridge_cpu_s"] / raw["idle"]["seconds"] * 60.0)


def _ms(title: str, read: Callable[[Raw], float], digits: int = 1) -> Metric:
    return Metric(title=title, read=read, unit="ms", scale=1000.0, digits=digits)


def _percent(title: str, read: Callable[[Raw], float]) -> Metric:
    return Metric(title=title, read=read, unit="%", scale=100.0)


def _s(title: str, read: Callable[[Raw], float]) -> Metric:
    return Metric(title=title, read=read, unit="s", digits=2)


def _round_trips(title: str, moment: str) -> Metric:
    return Metric(title=title, read=_longer(moment), unit="RTT", digits=2)


JOBS_PER_S: Final = Metric(
    title="jobs/s: accepted, dispatched, finished, with their logs", read=_median("busy", "jobs_per_s"), unit=""
)
CPU: Final = _ms("bridge CPU per job", _median("busy", "bridge_cpu_s"), digits=2)
STARTED: Final = _ms("one at a time, submitted → started, median", _delay("calm", "started", 0.5))
FAR_STARTED: Final = _ms(f"over {_RTT_MS} ms RTT, submitted → started, median", _delay("far", "started", 0.5))
FAR_ROUND_TRIPS: Final = _round_trips(f"over {_RTT_MS} ms RTT, submitted → started: longer by", "started")
MEMORY: Final = Metric(
    title="bridge memory (resident)", read=lambda raw: float(raw["memory_bytes"]), unit="MB", scale=1e-6
)
CONNECTION_BYTES: Final = Metric(
    title="memory per idle connection", read=_per_connection("bytes"), unit="KB", scale=1e-3
)
CONNECTION_CPU: Final = _ms("bridge CPU per connection made", _per_connection("bridge_cpu_s"))
IDLE_CPU: Final = _s("a minute at rest: bridge CPU", _idle_cpu)
STORM: Final = _s("all cut at once: all back and welcome", _median("storm", "seconds"))

METRICS: Final = (
    JOBS_PER_S,
    CPU,
    _percent("the bridge's share of a core meanwhile", _median("busy", "bridge_cpu_share")),
    _percent("the load's", _median("busy", "load_cpu_share")),
    _ms("submitted → finished meanwhile, median", _busy_delay("finished_s", 0), digits=0),
    _ms("submitted → finished meanwhile, p95", _busy_delay("finished_s", 1), digits=0),
    _ms("one at a time, submitted → at the worker, median", _delay("calm", "assigned", 0.5)),
    _ms("one at a time, submitted → at the worker, p95", _delay("calm", "assigned", 0.95)),
    STARTED,
    _ms("one at a time, submitted → started, p95", _delay("calm", "started", 0.95)),
    _ms("one at a time, submitted → finished, median", _delay("calm", "finished", 0.5)),
    _ms("one at a time, submitted → finished, p95", _delay("calm", "finished", 0.95)),
    FAR_STARTED,
    _round_trips(f"over {_RTT_MS} ms RTT, submitted → at the worker: longer by", "assigned"),
    FAR_ROUND_TRIPS,
    _round_trips(f"over {_RTT_MS} ms RTT, submitted → finished: longer by", "finished"),
    CONNECTION_CPU,
    CONNECTION_BYTES,
    MEMORY,
    IDLE_CPU,
    STORM,
    _s("all cut at once: bridge CPU", _median("storm", "bridge_cpu_s")),
    _percent("all cut at once: the load's share of a core", _share("load_cpu_s")),
    _s("all cut at once: until the job of each has ended", _median("storm", "finished_s")),
)


def _ratio(figures: Mapping[str, Raw], over: str, under: str) -> float | None:
    """Return the median over the rounds, in each of which both had their turn, of the ratio of jobs per second."""
    pairs = zip(figures[over]["busy"], figures[under]["busy"], strict=True)
    ratios = [above["jobs_per_s"] / below["jobs_per_s"] for above, below in pairs]
    return statistics.median(ratios) if ratios and over != under else None


def targets(figures: Mapping[str, Raw]) -> list[Target]:
    """Return what must be reached with the most workers, and in comparison to the fewest."""
    few, many = min(figures, key=int), max(figures, key=int)
    return [*_speed_targets(few, many), *_connection_targets(many)]


def _with(workers: str, metric: Metric) -> Callable[[Mapping[str, Raw]], float | None]:
    return lambda figures: metric.of(figures[workers])


def _speed_targets(few: str, many: str) -> list[Target]:
    with_many = f"{int(many):,} workers"
    return [
        Target(
            title=f"jobs/s with {with_many} ÷ with {int(few):,}",
            measure=lambda figures: _ratio(figures, many, few),
            at_least=0.8,
            aim=0.95,
            digits=(2, 2),
            more_is_better=True,
        ),
        Target(
            title=f"jobs/s, {with_many}",
            measure=_with(many, JOBS_PER_S),
            at_least=400,
            aim=1000,
            digits=(0, 0),
            more_is_better=True,
        ),
        Target(
            title=f"submitted → started over {_RTT_MS} ms RTT, {with_many}: longer by",
            measure=_with(many, FAR_ROUND_TRIPS),
            at_least=1.5,
            aim=1.5,
            unit="RTT",
            # The link keeps time by the millisecond, and its own length is all that may be there.
            digits=(1, 1),
        ),
    ]


def _connection_targets(many: str) -> list[Target]:
    with_many = f"{int(many):,} workers"
    read_bytes = _with(many, CONNECTION_BYTES)
    return [
        Target(
            title=f"memory per idle connection, {with_many}",
            measure=lambda figures: None if (found := read_bytes(figures)) is None else found / 1000,
            at_least=150,
            aim=60,
            unit="KB",
            digits=(0, 0),
        ),
        Target(
            title=f"all cut at once: all back and welcome, {with_many}",
            measure=_with(many, STORM),
            at_least=60,
            aim=20,
            unit="s",
            digits=(0, 1),
        ),
    ]


def sheets(figures: Mapping[str, Raw]) -> list[Sheet]:
    """Return all tables that the figures give."""
    rows = (
        (metric.title, *(metric.show(metric.of(raw)) for raw in figures.values()))
        for metric in METRICS
        if any(metric.of(raw) is not None for raw in figures.values())
    )
    columns = ("", *(f"{int(workers):,} workers" for workers in figures))
    return [
        Sheet(title="By the number of connected workers", columns=columns, rows=tuple(rows)),
        target_sheet("Targets of the bridge", targets(figures), figures),
    ]
