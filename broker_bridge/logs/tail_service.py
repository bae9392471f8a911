"""Answers operators who read task logs, held or live."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from edge_mqtt.broker_bridge.dispatch.change_feed import ChangeFeed
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job
from edge_mqtt.broker_bridge.dispatch.job_records import JobRecords
from edge_mqtt.broker_bridge.dispatch.ledger.async_ledger import AsyncLedger
from edge_mqtt.broker_bridge.dispatch.ledger.interface import Ledger
from edge_mqtt.broker_bridge.logs.completeness import Completeness
from edge_mqtt.broker_bridge.logs.segments import describe_gap, final_gaps
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
#: Seconds between looks at a run's state while a reader waits for its end.
RUN_STATE_INTERVAL_S: Final = 1.0
#: Seconds from one answer to the next at least: what comes meanwhile travels together.
PACE_S: Final = 0.05
#: Looking for jobs again waits this many times as long as it took the last time: the ledger has other work.
FIND_PAUSE: Final = 10.0
#: Seconds for which a reader is remembered that does not ask again: it prints, or is gone.
KEEP_READER_S: Final = 60.0
#: Jobs of one run (or of --all) that are looked at.
MAX_JOBS: Final = 10_000
#: Airflow's final states of a Dag run (DagRunState).
FINAL_RUN_STATES: Final = frozenset({"success", "failed"})


class RunLookup(Protocol):
    """What Airflow says of runs."""

    async def get_state(self, dag_id: str, run_id: str) -> str:
        """Return the run's state, empty when unknown."""

    async def find_problem(self, dag_id: str, run_id: str | None, task_id: str | None) -> str | None:
        """Return one line when there is no such thing."""


@dataclass(slots=True)
class _Reader:
    """One reader: what it wants, what it has been told, and what is known of that."""

    selector: LogSelector
    cursor: int
    #: Where each stream goes on; a stream that is missing has not been told.
    positions: dict[str, int]
    #: What a stream begins with that is told now; see :class:`TailRequest`.
    last_lines: int | None
    told: dict[str, LogStream] = field(default_factory=dict)
    #: By path: the jobs in the order in which they were queued, the file's size, and what is to be told.
    jobs: dict[str, list[Job]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    #: By path: all jobs that write it, whether they are wanted or not: one may bring what another has written.
    writers: dict[str, list[Job]] = field(default_factory=dict)
    streams: dict[str, LogStream] = field(default_factory=dict)
    #: The versions of the changes that ``jobs`` and ``sizes`` have; -1: none yet.
    jobs_seen: int = -1
    sizes_seen: int = -1
    #: When jobs may be looked for again.
    find_at: float = 0.0
    answered_at: float = -PACE_S

    def is_behind(self) -> bool:
        """Tell whether there is anything to read; a stream that has not been told is told even when empty."""
        return any(
            path not in self.positions or self.positions[path] < self.sizes[path]
            for path in self.streams
            if path in self.sizes
        )

    def news(self) -> tuple[LogStream, ...]:
        """Return the streams that are not as they were told, which they are from now on."""
        news = {path: stream for path, stream in self.streams.items() if self.told.get(path) != stream}
        self.told.update(news)
        return tuple(news.values())


class TailService:
    """Answers :class:`TailRequest`. What it remembers of a reader it may forget: the reader can bring its positions.

    A run may have a thousand tasks: what has not changed is neither told nor looked at again.
    """

    def __init__(
        self,
        store: LogStore,
        records: JobRecords,
        ledger: AsyncLedger,
        *,
        runs: RunLookup,
        change_feed: ChangeFeed,
        completeness: Completeness,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._records = records
        self._ledger = ledger
        self._runs = runs
        self._change_feed = change_feed
        self._completeness = completeness
        self._clock = clock
        #: By the request that was answered last.
        self._readers: dict[str, _Reader] = {}

    async def answer(self, request: TailRequest) -> TailReply:
        """Return what is new to the reader, waiting up to ``request.wait_s`` seconds for it."""
        deadline = self._clock() + min(request.wait_s, MAX_WAIT_S)
        self._forget_old()
        reader = self._take_reader(request) if request.continues else await self._make_reader(request)
        if isinstance(reader, TailReply):
            return reader
        await asyncio.sleep(max(0.0, reader.answered_at + PACE_S - self._clock()))
        while True:
            selector = await self._resolve(reader.selector)
            is_new = selector != reader.selector
            reader.selector = selector
            # The state first: what is found after a run's end is all there will be.
            run_state = await self._run_state(reader.selector)
            is_over = run_state in FINAL_RUN_STATES
            found_all = await self._update(reader, stale=is_over or is_new)
            slices, body = await asyncio.to_thread(self._read, reader) if reader.is_behind() else ((), b"")
            complete = all(stream.complete for stream in reader.streams.values())
            ended = not slices and is_over and found_all and complete
            remaining = deadline - self._clock()
            if slices or ended or remaining <= 0:
                reader.answered_at = self._clock()
                reader.last_lines = None
                self._readers[request.request_id] = reader
                return TailReply(
                    request_id=request.request_id,
                    streams=reader.news(),
                    slices=slices,
                    body=body,
                    run_id=reader.selector.run_id,
                    run_state=run_state,
                    cursor=reader.cursor,
                    ended=ended,
                )
            await self._change_feed.wait(
                reader.sizes_seen, min(remaining, self._next_look_in(reader, found_all=found_all))
            )

    def _forget_old(self) -> None:
        oldest = self._clock() - KEEP_READER_S
        self._readers = {name: reader for name, reader in self._readers.items() if reader.answered_at >= oldest}

    def _take_reader(self, request: TailRequest) -> _Reader | TailReply:
        reader = self._readers.pop(request.continues, None)
        return reader or TailReply(request_id=request.request_id, forgotten=True)

    async def _make_reader(self, request: TailRequest) -> _Reader | TailReply:
        selector = await self._resolve(request.selector)
        problem = await self._find_problem(selector, first=not request.positions, follow=request.wait_s > 0)
        if problem is not None:
            return TailReply(request_id=request.request_id, error=problem)
        cursor = request.cursor or (0 if selector.dag_id is not None else await self._records.next_sequence())
        return _Reader(
            selector=selector, cursor=cursor, positions=dict(request.positions), last_lines=request.last_lines
        )

    def _next_look_in(self, reader: _Reader, *, found_all: bool) -> float:
        """Return the seconds until there may be news that no change tells of."""
        if not found_all:
            return max(0.0, reader.find_at - self._clock())
        follows_run = reader.selector.dag_id is not None and reader.selector.run_id is not None
        return RUN_STATE_INTERVAL_S if follows_run else MAX_WAIT_S

    async def _resolve(self, selector: LogSelector) -> LogSelector:
        """Return the selector with the newest run of its Dag, when it names a Dag and no run."""
        if selector.dag_id is None or selector.run_id is not None:
            return selector
        return selector.model_copy(update={"run_id": await self._ledger.run(Ledger.newest_run, selector.dag_id)})

    async def _find_problem(self, selector: LogSelector, *, first: bool, follow: bool) -> str | None:
        if selector.dag_id is None or not first:
            return None
        if selector.run_id is not None:
            known = await self._ledger.run(Ledger.find, selector, 1)
            if known:
                return None
        problem = await self._runs.find_problem(selector.dag_id, selector.run_id, selector.task_id)
        if problem is not None or follow:
            return problem
        wanted = f"task {selector.task_id!r} of " if selector.task_id else ""
        return f"nothing of {wanted}Dag {selector.dag_id!r} has run on an edge worker, or it is no longer kept"

    async def _run_state(self, selector: LogSelector) -> str:
        if selector.dag_id is None or selector.run_id is None:
            return ""
        return await self._runs.get_state(selector.dag_id, selector.run_id)

    async def _update(self, reader: _Reader, *, stale: bool) -> bool:
        """Learn what has changed since the last time; tell whether nothing is missing of the jobs.

        :param stale: find the jobs anew in any case.
        """
        # The versions first: what changes meanwhile is looked at again.
        version, now = self._change_feed.version, self._clock()
        stale = stale or reader.jobs_seen < self._change_feed.jobs_version
        finds = stale and now >= reader.find_at
        if finds:
            await self._find(reader)
            reader.jobs_seen = version
            reader.find_at = self._clock() + FIND_PAUSE * (self._clock() - now)
            changed = None
        else:
            changed = self._change_feed.grown_since(reader.sizes_seen)
        reader.sizes_seen = version
        paths = list(reader.jobs) if changed is None else [path for path in changed if path in reader.jobs]
        if paths:
            reader.sizes.update(await asyncio.to_thread(self._sizes, paths))
        # A log that is waited for may be given up now, without any change.
        waiting = [path for path, jobs in reader.jobs.items() if self._may_be_given_up(reader, path, jobs[-1])]
        # A new stream is told in the order in which the jobs were queued, which is that of reader.jobs.
        new = set(paths).union(waiting)
        for path in (path for path in reader.jobs if path in new):
            last, writers = reader.jobs[path][-1], reader.writers.get(path, reader.jobs[path])
            reader.streams[path] = self._stream(last, writers, reader.sizes.get(path, 0))
        return finds or not stale

    def _may_be_given_up(self, reader: _Reader, path: str, last: Job) -> bool:
        stream = reader.streams.get(path)
        return last.state is CentralJobState.FINISHED and (stream is None or not stream.complete)

    async def _find(self, reader: _Reader) -> None:
        found = await self._ledger.run(Ledger.find, reader.selector, MAX_JOBS)
        reader.jobs = {}
        for job in sorted(found, key=lambda job: job.sequence):
            if job.sequence >= reader.cursor and job.spec.log_path is not None and job.worker is not None:
                reader.jobs.setdefault(job.spec.log_path, []).append(job)
        writers = await self._ledger.run(Ledger.find_of_logs, list(reader.jobs)) if reader.jobs else []
        reader.writers = {}
        for job in writers:
            if job.worker is not None:
                reader.writers.setdefault(job.spec.log_path or "", []).append(job)
        reader.streams = {path: stream for path, stream in reader.streams.items() if path in reader.jobs}

    def _sizes(self, paths: Sequence[str]) -> dict[str, int]:
        sizes = {}
        for path in paths:
            try:
                sizes[path] = self._store.size(path)
            except LogPathRefused:
                continue
        return sizes

    def _read(self, reader: _Reader) -> tuple[tuple[StreamBytes, ...], bytes]:
        slices: list[StreamBytes] = []
        body = bytearray()
        for path in reader.streams:
            size = reader.sizes.get(path)
            if size is None:
                continue
            known = reader.positions.get(path)
            position = self._begin(path, reader.last_lines) if known is None else known
            room = min(STREAM_BYTES, REPLY_BYTES - len(body))
            data = self._store.read(path, position, room) if position < size and room > 0 else b""
            # A new stream is told even when empty: its position is where the reader goes on.
            if data or known is None:
                slices.append(StreamBytes(stream_id=path, offset=position, length=len(data)))
                reader.positions[path] = position + len(data)
                body += data
        return tuple(slices), bytes(body)

    def _begin(self, path: str, last_lines: int | None) -> int:
        return 0 if last_lines is None else self._store.offset_of_last_lines(path, last_lines)

    def _stream(self, last: Job, writers: Sequence[Job], size: int) -> LogStream:
        """Return what is told of a file.

        :param last: the last of the wanted jobs that write it.
        """
        ended = all(job.state is CentralJobState.FINISHED for job in writers)
        gaps = final_gaps(writers, size, self._completeness.is_given_up) if ended else None
        return LogStream(
            stream_id=last.spec.log_path or "",
            dag_id=last.spec.dag_id,
            run_id=last.spec.run_id,
            task_id=last.spec.task_id,
            map_index=last.spec.map_index,
            try_number=last.spec.try_number,
            worker=last.worker or "",
            queue=last.spec.queue,
            complete=gaps is not None,
            missing="; ".join(describe_gap(gap, "the log") for gap in gaps or ()),
        )
