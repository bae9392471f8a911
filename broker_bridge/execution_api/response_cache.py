"""The responses of the Execution API, kept for workers that repeat a call because the response was lost."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final

from edge_mqtt.broker_bridge.protocol.ids import JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import ApiResponse

#: Responses kept of each job. A supervisor makes one call at a time, so that the newest is the one that can be asked
#: for; a few more cost nothing.
ANSWERS_KEPT: Final = 4
#: Bytes of all of them at most; the oldest go first.
ANSWER_BYTES_KEPT: Final = 256 * 1024 * 1024
#: Calls of each job that are recognised when they come once more, later than anybody can wait for their answer.
CALLS_REMEMBERED: Final = 1024

#: A call: who makes it, and its id.
Key = tuple[WorkerName, str]


@dataclass(slots=True)
class _Calls:
    """The calls of one job that were answered, oldest first."""

    remembered: OrderedDict[Key, None] = field(default_factory=OrderedDict)
    #: Those whose answers are kept.
    recent: deque[Key] = field(default_factory=deque)


class ResponseCache:
    """What was answered to the calls of live jobs."""

    def __init__(self) -> None:
        self._answers: OrderedDict[Key, ApiResponse] = OrderedDict()
        self._calls: dict[JobId, _Calls] = {}
        self._bytes = 0

    def get(self, key: Key) -> ApiResponse | None:
        """Return the answer to a call."""
        return self._answers.get(key)

    def is_outdated(self, job_id: JobId, key: Key) -> bool:
        """Tell whether later calls of the job were answered: nobody waits for this one, and it may not be made again.

        A call that was sent twice can arrive, for the second time, after calls that were made later; repeated then,
        it would undo what they did.
        """
        calls = self._calls.get(job_id)
        return calls is not None and key in calls.remembered and calls.recent[-1] != key

    def keep(self, job_id: JobId, key: Key, response: ApiResponse) -> None:
        """Keep the answer to a call, and drop what is too old or too much."""
        self._drop(key)
        self._answers[key] = response
        self._bytes += len(response.body)
        calls = self._calls.setdefault(job_id, _Calls())
        if key not in calls.recent:
            calls.recent.append(key)
            calls.remembered[key] = None
        if len(calls.recent) > ANSWERS_KEPT:
            self._drop(calls.recent.popleft())
        if len(calls.remembered) > CALLS_REMEMBERED:
            calls.remembered.popitem(last=False)
        while self._bytes > ANSWER_BYTES_KEPT:
            self._drop(next(iter(self._answers)))

    def forget(self, job_id: JobId) -> None:
        """Drop what is kept for a job that is finished."""
        calls = self._calls.pop(job_id, None)
        for key in () if calls is None else calls.recent:
            self._drop(key)

    def _drop(self, key: Key) -> None:
        dropped = self._answers.pop(key, None)
        if dropped is not None:
            self._bytes -= len(dropped.body)
