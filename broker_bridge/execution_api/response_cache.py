"""The responses of the Execution API, kept for workers that repeat a call because the response was lost."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from cachetools import FIFOCache

from edge_mqtt.broker_bridge.protocol.ids import JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import ApiResponse

#: A call: who makes it, and its id.
Key = tuple[WorkerName, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheLimits:
    """How much is kept."""

    #: Responses kept of each job. A supervisor makes one call at a time, so that the newest is the one that can be
    #: asked for; a few more cost nothing.
    responses_per_job: int = 4
    #: Bytes of all of them at most; the oldest go first.
    response_bytes: int = 256 * 1024 * 1024
    #: Calls of each job that are recognised when they come once more, later than anybody can wait for their response.
    calls_per_job: int = 1024


@dataclass(slots=True)
class _Calls:
    """The calls of one job that were answered, oldest first."""

    remembered: FIFOCache[Key, None]
    #: Those whose responses are kept.
    recent: deque[Key]


class ResponseCache:
    """What was answered to the calls of live jobs."""

    def __init__(self, limits: CacheLimits | None = None) -> None:
        self._limits = limits or CacheLimits()
        self._responses: FIFOCache[Key, ApiResponse] = FIFOCache(
            self._limits.response_bytes, getsizeof=lambda response: len(response.body)
        )
        self._calls: dict[JobId, _Calls] = {}

    def get(self, key: Key) -> ApiResponse | None:
        """Return the response to a call."""
        return self._responses.get(key)

    def is_outdated(self, job_id: JobId, key: Key) -> bool:
        """Tell whether later calls of the job were answered: this one is not waited for, and may not be made again.

        A call that was sent twice can arrive, for the second time, after calls that were made later; repeated then,
        it would undo what they did.
        """
        calls = self._calls.get(job_id)
        return calls is not None and key in calls.remembered and calls.recent[-1] != key

    def put(self, job_id: JobId, key: Key, response: ApiResponse) -> None:
        """Keep the response to a call, and drop what is too old or too much."""
        if len(response.body) <= self._limits.response_bytes:
            self._responses[key] = response
        calls = self._calls.get(job_id)
        if calls is None:
            calls = self._calls[job_id] = _Calls(FIFOCache(self._limits.calls_per_job), deque())
        if key not in calls.recent:
            calls.recent.append(key)
            calls.remembered[key] = None
        if len(calls.recent) > self._limits.responses_per_job:
            self._responses.pop(calls.recent.popleft(), None)

    def forget_job(self, job_id: JobId) -> None:
        """Drop what is kept for a job that is finished."""
        calls = self._calls.pop(job_id, None)
        for key in () if calls is None else calls.recent:
            self._responses.pop(key, None)
