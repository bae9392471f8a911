"""Whether every log is the same at the centre and on the edge, and what else can be read in files."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from edge_mqtt.broker_bridge.dispatch.core.model import FIRST_FENCE
from tests.chaos.evidence import Evidence, Try
from tests.chaos.judge_tries import Row
from tests.chaos.site import Site
from tests.chaos.stream import dag_of
from tests.support.run_checks import log_path

_NUMBERED = re.compile(rb"line (\d+) of (\d+) by ([^\s\"\\]+)")
_HANDLED = re.compile(
    r"TaskInstance Finished: dag_id=\S+, task_id=(\S+), run_id=(\S+), map_index=(-?\d+), .*? try_number=(\d+),"
)
_FINISHED = re.compile(r"action=job_(?:finished|cancelled) job_id=(\S+) worker=\S* outcome=(\w+)")
#: A signed token: header and payload in base64, which begin with ``{"``.
_TOKEN = re.compile(rb"eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.")


def places(evidence: Iterable[Evidence]) -> dict[Try, list[str]]:
    """Return the workers that ran each try, in that order: one, or two when it was deferred in between."""
    found: dict[Try, list[str]] = defaultdict(list)
    for line in sorted(evidence, key=lambda line: line.at):
        if line.worker not in found[line.what]:
            found[line.what].append(line.worker)
    return found


def both_logs(site: Site, what: Try, workers: Iterable[str]) -> tuple[bytes, list[bytes]]:
    """Return the log of a try as the centre has it, and as each of the workers has it."""
    instance = {"dag_id": dag_of(what.run), "dag_run_id": what.run, "task_id": what.task, "map_index": what.map}
    path = log_path(instance, what.number)
    homes = (site.stack.worker_home(worker) for worker in workers)
    return _read(site.stack.central_home / "logs" / path), [_read(home / "logs" / path) for home in homes]


def differing_logs(site: Site, evidence: Iterable[Evidence], jobs: Mapping[Try, Sequence[Row]]) -> list[str]:
    """Return a line for every log that is not the same at the centre and on the workers that ran the task.

    :param jobs: those of each try, in the order of their arrival.
    """
    wrong = []
    for what, workers in places(evidence).items():
        centre, copies = both_logs(site, what, workers)
        edge = b"".join(copies)
        if centre != edge and not _is_all_but_stale(
            centre, dict(zip(workers, copies, strict=True)), jobs.get(what, ())
        ):
            same = next((i for i, (a, b) in enumerate(zip(centre, edge, strict=False)) if a != b), None)
            where = "one is the other's beginning" if same is None else f"they differ from byte {same} on"
            wrong.append(f"log of {what}: {len(centre)} bytes at the centre, {len(edge)} on {workers}; {where}")
    return wrong


def _is_all_but_stale(centre: bytes, copies: Mapping[str, bytes], jobs: Sequence[Row]) -> bool:
    """Tell whether the centre has the whole log of every job, and workers more only of one that was taken from them.

    A worker whose job was given to another before its start has written its own line about that, for nobody.
    """
    if not any(row["fence"] > FIRST_FENCE for row in jobs):
        return False
    end = 0
    for row in jobs:
        size = row["log_size"] or 0
        if row["log_base"] != end or centre[end : end + size] not in copies.get(row["worker"], b""):
            return False
        end += size
    return end == len(centre)


def missing_lines(log: bytes, stages: Collection[str] = ("",)) -> str | None:
    """Return what is wrong with the numbered lines of the log of a task that succeeded; None: nothing."""
    found: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for number, of, name in _NUMBERED.findall(log):
        found[name.decode().rpartition("/")[2]].append((int(number), int(of)))
    for stage in sorted({*stages, *found}):
        lines = found.get(stage, [])
        if not lines or lines != [(number, lines[0][1]) for number in range(lines[0][1])]:
            return f"numbered lines {stage} {[number for number, _ in lines]}"
    return None


def handled_events(outputs: Iterable[str]) -> Counter[Try]:
    """Return how often schedulers say to have handled a final event of each try."""
    return Counter(
        Try(run=run, task=task, map=int(index), number=int(number))
        for output in outputs
        for task, run, index, number in _HANDLED.findall(output)
    )


def two_ends(bridge_output: str) -> list[str]:
    """Return a line for every job of which the bridge has told different ends; the same one it may repeat."""
    ends: dict[str, set[str]] = defaultdict(set)
    for job_id, outcome in _FINISHED.findall(bridge_output):
        ends[job_id].add(outcome)
    return [f"the bridge ended job {job_id} as {sorted(some)}" for job_id, some in ends.items() if len(some) > 1]


def tokens_in(folders: Mapping[str, Path]) -> list[str]:
    """Return a line for every file with a token in it."""
    return [
        f"there is a token in {name}: {file.relative_to(folder)}"
        for name, folder in folders.items()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and _TOKEN.search(file.read_bytes())
    ]


def _read(file: Path) -> bytes:
    return file.read_bytes() if file.exists() else b""
