"""Answers operators who read task logs, held or live."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from edge_mqtt.broker_bridge.changes import Changes
from edge_mqtt.broker_bridge.dispatch.core.model import Job, JobState
from edge_mqtt.broker_bridge.logs.patience import Patience
from edge_mqtt.broker_bridge.logs.placement import describe, final_lacks
from edge_mqtt.broker_bridge.logs.store import LogPathRefused, LogStore
from edge_mqtt.broker_bridge.protocol.messages import (
    LogSelector,
    LogStream,
    StreamBytes,
    TailReply,
    TailRequest,
)

#: Bytes of log in one reply, and of one stream in it, so that a long log does not starve the others.
REPLY_BYTES: Final = 256 * 1024
STREAM_BYTES: Final = 64 * 1024
#: Seconds a request is held at most, whatever it asks for.
MAX_WAIT_S: Final = 60.0
#: Seconds between looks at a run's state while somebody waits for its end.
RUN_STATE_INTERVAL_S: Final = 1.0
#: Jobs of one run (or of --all) that are looked at.
MAX_JOBS: Final = 10_000
#: Airflow's final states of a Dag run (DagRunState).
FINAL_RUN_STATES: Final = frozenset({"success", "failed"})


class JobIndex(Protocol):
    """Where jobs are found by the names that people use."""

    async def find(self, selector: LogSelector, limit: int) -> list[Job]:
        """Return matching jobs, newest first."""

    async def newest_run(self, dag_id: str) -> str | None:
        """Return the run of ``dag_id`` whose job was queued last."""

    async def next_sequence(self) -> int:
        """Return the number that the next job will get, or the lowest of the jobs that still run."""


class RunLookup(Protocol):
    """What Airflow says of runs."""

    async def state(self, dag_id: str, run_id: str) -> str:
        """Return the run's state, empty when unknown."""

    async def problem(self, dag_id: str, run_id: str | None, task_id: str | None) -> str | None:
        """Return one line when there is no such thing."""


@dataclass(frozen=True, slots=True)
class _Found:
    streams: tuple[LogStream, ...]
    sizes: dict[str, int]


class TailService:
    """Answers :class:`TailRequest`. It remembers nothing between requests: the reader brings its positions."""

    def __init__(
        self,
        store: LogStore,
        jobs: JobIndex,
        runs: RunLookup,
        changes: Changes,
        patience: Patience,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._runs = runs
        self._changes = changes
        self._patience = patience
        self._clock = clock

    async def answer(self, request: TailRequest) -> TailReply:
        """Return what is new to the reader, waiting up to ``request.wait_s`` seconds for it."""
        selector = await self._resolve(request.selector)
        problem = await self._problem(selector, first=not request.positions, follow=request.wait_s > 0)
        if problem is not None:
            return TailReply(request_id=request.request_id, error=problem)
        cursor = request.cursor or (0 if selector.dag_id is not None else await self._jobs.next_sequence())
        deadline = self._clock() + min(request.wait_s, MAX_WAIT_S)
        while True:
            seen = self._changes.version
            selector = await self._resolve(selector)
            # The state first: what is found after a run's end is all there will be.
            run_state = await self._run_state(selector)
            found = await self._find(selector, cursor)
            slices, body = await asyncio.to_thread(self._read, request, found)
            ended = not slices and run_state in FINAL_RUN_STATES and all(stream.complete for stream in found.streams)
            remaining = deadline - self._clock()
            if slices or ended or remaining <= 0:
                return TailReply(
                    request_id=request.request_id,
                    streams=found.streams,
                    slices=slices,
                    body=body,
                    run_id=selector.run_id,
                    run_state=run_state,
                    cursor=cursor,
                    ended=ended,
                )
            follows_run = selector.dag_id is not None and selector.run_id is not None
            await self._changes.wait(seen, min(remaining, RUN_STATE_INTERVAL_S) if follows_run else remaining)

    async def _resolve(self, selector: LogSelector) -> LogSelector:
        """Return the selector with the newest run of its Dag, when it names a Dag and no run."""
        if selector.dag_id is None or selector.run_id is not None:
            return selector
        return selector.model_copy(update={"run_id": await self._jobs.newest_run(selector.dag_id)})

    async def _problem(self, selector: LogSelector, *, first: bool, follow: bool) -> str | None:
        if selector.dag_id is None or not first:
            return None
        if selector.run_id is not None and await self._jobs.find(selector, 1):
            return None
        problem = await self._runs.problem(selector.dag_id, selector.run_id, selector.task_id)
        if problem is not None or follow:
            return problem
        wanted = f"task {selector.task_id!r} of " if selector.task_id else ""
        return f"nothing of {wanted}Dag {selector.dag_id!r} has run on an edge worker, or it is no longer kept"

    async def _run_state(self, selector: LogSelector) -> str:
        if selector.dag_id is None or selector.run_id is None:
            return ""
        return await self._runs.state(selector.dag_id, selector.run_id)

    async def _find(self, selector: LogSelector, cursor: int) -> _Found:
        jobs = [job for job in await self._jobs.find(selector, MAX_JOBS) if job.sequence >= cursor]
        by_path: dict[str, list[Job]] = {}
        for job in sorted(jobs, key=lambda job: job.sequence):
            if job.spec.log_path is not None and job.worker is not None:
                by_path.setdefault(job.spec.log_path, []).append(job)
        sizes = await asyncio.to_thread(self._sizes, list(by_path))
        streams = tuple(self._stream(path, of_path, sizes.get(path, 0)) for path, of_path in by_path.items())
        return _Found(streams, sizes)

    def _sizes(self, paths: Sequence[str]) -> dict[str, int]:
        sizes = {}
        for path in paths:
            try:
                sizes[path] = self._store.size(path)
            except LogPathRefused:
                continue
        return sizes

    def _read(self, request: TailRequest, found: _Found) -> tuple[tuple[StreamBytes, ...], bytes]:
        slices: list[StreamBytes] = []
        body = bytearray()
        for stream in found.streams:
            path = stream.stream_id
            if path not in found.sizes:
                continue
            known = request.positions.get(path)
            position = self._begin(path, request.last_lines) if known is None else known
            room = min(STREAM_BYTES, REPLY_BYTES - len(body))
            data = self._store.read(path, position, room) if position < found.sizes[path] and room > 0 else b""
            # A new stream is told even when empty: its position is where the reader goes on.
            if data or known is None:
                slices.append(StreamBytes(stream_id=path, offset=position, length=len(data)))
                body += data
        return tuple(slices), bytes(body)

    def _begin(self, path: str, last_lines: int | None) -> int:
        return 0 if last_lines is None else self._store.offset_of_last_lines(path, last_lines)

    def _stream(self, path: str, jobs: Sequence[Job], size: int) -> LogStream:
        last = jobs[-1]
        lacks = final_lacks(jobs, size, self._patience.is_over) if last.state is JobState.FINISHED else None
        return LogStream(
            stream_id=path,
            dag_id=last.spec.dag_id,
            run_id=last.spec.run_id,
            task_id=last.spec.task_id,
            map_index=last.spec.map_index,
            try_number=last.spec.try_number,
            worker=last.worker or "",
            queue=last.spec.queue,
            complete=lacks is not None,
            missing="; ".join(describe(lack, "the log") for lack in lacks or ()),
        )
