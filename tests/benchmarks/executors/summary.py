"""What the raw figures say: medians, percentiles, ratios, round trips, and which targets are reached."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from tests.benchmarks.executors.live_lines import FILE
from tests.benchmarks.figures import percentile, slope
from tests.benchmarks.metrics import Metric, Raw, Target

_OURS: Final = "ours"
_CELERY: Final = "Celery + Redis"
_LOCAL: Final = "LocalExecutor"
_EDGE3: Final = "edge3"
#: Idle CPU is told for this many seconds.
_IDLE_S: Final = 120.0
_TARGET_RTT: Final = "0.1"


def _values(raw: Raw, scenario: str, key: str) -> list[float]:
    return [figures[key] for figures in raw[scenario]]


def _median(scenario: str, key: str) -> Callable[[Raw], float]:
    return lambda raw: statistics.median(_values(raw, scenario, key))


def _p95(scenario: str, key: str) -> Callable[[Raw], float]:
    return lambda raw: percentile(_values(raw, scenario, key), 0.95)


def _bytes_per_task(raw: Raw) -> float:
    sums: list[float] = [figures["bytes_up"] + figures["bytes_down"] for figures in raw["single"]]
    return statistics.median(sums)


def _mapped_bytes_per_task(raw: Raw) -> float:
    shares: list[float] = [(run["bytes_up"] + run["bytes_down"]) / run["tasks"] for run in raw["mapped"]]
    return statistics.median(shares)


def _mean_of_single(key: str) -> Callable[[Raw], float]:
    return lambda raw: statistics.fmean(_values(raw, "single", key))


def _idle_per_minute(*keys: str) -> Callable[[Raw], float]:
    def read(raw: Raw) -> float:
        (figures,) = raw["idle"]
        return float(sum(figures[key] for key in keys) / figures["seconds"] * 60.0)

    return read


def _idle_cpu(raw: Raw) -> float:
    (figures,) = raw["idle"]
    return float(figures["cpu_s"] / figures["seconds"] * _IDLE_S)


def delays(raw: Raw, reader: str) -> list[float]:
    """Return the delays of printed lines to one kind of reader, in seconds, all rounds together."""
    return [delay for found in raw["lines"] for delay in found.get(reader, [])]


def _ms(title: str, read: Callable[[Raw], float]) -> Metric:
    return Metric(title=title, read=read, unit="ms", scale=1000.0)


def _mb(title: str, read: Callable[[Raw], float]) -> Metric:
    return Metric(title=title, read=read, unit="MB", scale=1e-6)


def _count(title: str, read: Callable[[Raw], float]) -> Metric:
    return Metric(title=title, read=read, unit="", digits=1)


def _lines(judge: Callable[[Sequence[float]], float]) -> Callable[[Raw], float]:
    return lambda raw: judge(delays(raw, FILE))


QUEUED_TO_START: Final = _ms("queued → start, one task, median", _median("single", "queued_to_start_s"))
TASKS_PER_S: Final = Metric(title="100 mapped tasks", read=_median("mapped", "tasks_per_s"), unit="tasks/s", digits=2)
CPU_ALONE: Final = _ms("worker CPU per task, alone", _median("single", "cpu_s"))
CPU_MAPPED: Final = _ms("worker CPU per task, in the 100", _median("mapped", "cpu_s"))
PSS_FULL: Final = _mb("worker memory, 16 slots busy (PSS)", _median("full", "pss_bytes"))
PSS_IDLE: Final = _mb("idle worker: memory (PSS)", _median("idle", "pss_bytes"))
CPU_IDLE: Final = _ms("idle worker: CPU per 120 s", _idle_cpu)
BYTES_IDLE: Final = Metric(
    title="idle worker: bytes per minute", read=_idle_per_minute("bytes_up", "bytes_down"), unit="B"
)
BYTES: Final = Metric(title="wire per task", read=_bytes_per_task, unit="B")
BYTES_MAPPED: Final = Metric(title="wire per task, in the 100", read=_mapped_bytes_per_task, unit="B")
CONNECTIONS: Final = _count("wire per task: new connections", _mean_of_single("connections"))
LINE_MEDIAN: Final = _ms("printed line → central file, median", _lines(statistics.median))
LINE_P95: Final = _ms("printed line → central file, p95", _lines(lambda values: percentile(values, 0.95)))

METRICS: Final = (
    QUEUED_TO_START,
    _ms("queued → start, one task, p95", _p95("single", "queued_to_start_s")),
    _ms("start → end, one task, median", _median("single", "start_to_end_s")),
    TASKS_PER_S,
    _ms("longest of the 100 tasks", _median("mapped", "slowest_s")),
    CPU_ALONE,
    CPU_MAPPED,
    PSS_FULL,
    PSS_IDLE,
    CPU_IDLE,
    BYTES_IDLE,
    _count("idle worker: HTTP requests per minute", _idle_per_minute("requests")),
    BYTES,
    BYTES_MAPPED,
    _count("wire per task: HTTP requests", _mean_of_single("requests")),
    _count("wire per task: pieces sent by the worker", _mean_of_single("writes")),
    CONNECTIONS,
    LINE_MEDIAN,
    LINE_P95,
)


def ratio(metric: Metric, figures: Mapping[str, Raw], over: str, under: str) -> float | None:
    """Return one system's number divided by another's; None when one is missing or the divisor is 0."""
    if over not in figures or under not in figures:
        return None
    above, below = metric.of(figures[over]), metric.of(figures[under])
    return None if above is None or not below else above / below


def _to(metric: Metric, peer: str) -> Callable[[Mapping[str, Raw]], float | None]:
    return lambda figures: ratio(metric, figures, _OURS, peer)


def _own(metric: Metric) -> Callable[[Mapping[str, Raw]], float | None]:
    return lambda figures: metric.of(figures[_OURS]) if _OURS in figures else None


def over_links(raw: Raw, key: str) -> dict[float, float]:
    """Return the median of a duration by the round trip time of the link, both in seconds."""
    tasks = {0.0: raw["single"], **{float(rtt): tasks for rtt, tasks in raw["wan"].items()}}
    return {rtt: statistics.median(task[key] for task in found) for rtt, found in sorted(tasks.items()) if found}


def round_trips(raw: Raw, key: str) -> float:
    """Return by how many round trips a duration grows with the round trip time of the link.

    :raises ValueError: it was measured over one link only.
    """
    return slope(list(over_links(raw, key).items()))


def _extra_round_trips(figures: Mapping[str, Raw]) -> float | None:
    """Return by how many round trips of 100 ms "queued → start" is longer over such a link."""
    tasks = figures.get(_OURS, {}).get("wan", {}).get(_TARGET_RTT)
    near = _own(QUEUED_TO_START)(figures)
    if not tasks or near is None:
        return None
    far: list[float] = [task["queued_to_start_s"] for task in tasks]
    return (statistics.median(far) - near) / float(_TARGET_RTT)


TARGETS: Final = (
    Target(title="queued → start ÷ Celery's", measure=_to(QUEUED_TO_START, _CELERY), at_least=1.5, aim=1.0),
    Target(
        title="edge3's queued → start ÷ ours",
        measure=lambda figures: ratio(QUEUED_TO_START, figures, _EDGE3, _OURS),
        at_least=40.0,
        aim=40.0,
        more_is_better=True,
    ),
    Target(
        title="queued → start over 100 ms RTT: longer by",
        measure=_extra_round_trips,
        at_least=1.5,
        aim=1.5,
        unit="RTT",
    ),
    Target(
        title="100 mapped tasks: tasks/s ÷ LocalExecutor's",
        measure=_to(TASKS_PER_S, _LOCAL),
        at_least=1.0,
        aim=1.2,
        more_is_better=True,
    ),
    Target(title="worker CPU per task, alone ÷ Celery's", measure=_to(CPU_ALONE, _CELERY), at_least=1.0, aim=0.7),
    Target(
        title="worker CPU per task, in the 100 ÷ Celery's", measure=_to(CPU_MAPPED, _CELERY), at_least=1.0, aim=0.7
    ),
    Target(title="memory with 16 slots busy ÷ edge3's", measure=_to(PSS_FULL, _EDGE3), at_least=0.5, aim=0.3),
    Target(title="idle: bytes per minute ÷ edge3's", measure=_to(BYTES_IDLE, _EDGE3), at_least=1 / 25, aim=1 / 50),
    Target(title="idle: CPU ÷ edge3's", measure=_to(CPU_IDLE, _EDGE3), at_least=0.25, aim=0.1),
    Target(title="idle: memory ÷ edge3's", measure=_to(PSS_IDLE, _EDGE3), at_least=1.0, aim=0.6),
    Target(title="wire per task ÷ edge3's", measure=_to(BYTES, _EDGE3), at_least=1 / 3, aim=1 / 5),
    Target(title="new connections per task", measure=_own(CONNECTIONS), at_least=0.0, aim=0.0, unit=""),
    Target(title="printed line → centre, median", measure=_own(LINE_MEDIAN), at_least=0.10, aim=0.05, unit="s"),
    Target(title="printed line → centre, p95", measure=_own(LINE_P95), at_least=0.25, aim=0.15, unit="s"),
)
