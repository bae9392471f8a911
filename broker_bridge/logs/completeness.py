"""How long the rest of an ended job's log is waited for. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cachetools import LRUCache

from edge_mqtt.broker_bridge.dispatch.core.model import Job
from edge_mqtt.broker_bridge.protocol.ids import JobId

#: Seconds for which a connected worker may bring nothing of a log before it is taken to have no more of it: it has
#: lost its disk, or its spool.
LOG_WAIT_S: Final = 60.0
#: Seconds between two observations that count as waiting at most: nothing is known of a longer time between them.
OBSERVATION_S: Final = 10.0
#: Logs that are watched at once.
MAX_WATCHED: Final = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Watch:
    """What has been seen of a log that is not complete."""

    stored: int
    observed_at: float
    #: Seconds for which its worker was connected and brought nothing.
    idle_s: float = 0.0
    #: Seconds for which its worker has been away now.
    away_s: float = 0.0


def observe(watch: Watch | None, *, stored: int, connected: bool, now: float) -> Watch:
    """Return what is known after another observation, at ``now`` (monotonic seconds)."""
    if watch is None or stored != watch.stored:
        return Watch(stored=stored, observed_at=now)
    passed = min(now - watch.observed_at, OBSERVATION_S)
    if connected:
        return Watch(stored=stored, observed_at=now, idle_s=watch.idle_s + passed)
    return Watch(stored=stored, observed_at=now, idle_s=watch.idle_s, away_s=watch.away_s + passed)


def is_over(watch: Watch, lease_s: float) -> bool:
    """Tell whether the rest of the log is given up: its worker has nothing more, or is gone for the job's lease."""
    return watch.idle_s >= LOG_WAIT_S or watch.away_s >= lease_s


class Completeness:
    """Watches the logs whose end is waited for.

    :param clock: monotonic seconds.
    """

    def __init__(self, is_reachable: Callable[[Job], bool], *, clock: Callable[[], float]) -> None:
        self._is_reachable = is_reachable
        self._clock = clock
        self._watches: LRUCache[JobId, Watch] = LRUCache(MAX_WATCHED)
        #: Nothing can be stored: that nothing comes is not the workers' fault.
        self.paused = False

    def is_given_up(self, job: Job, stored: int) -> bool:
        """Tell whether the rest of an ended job's log is given up, now that ``stored`` bytes of it are here."""
        known = None if self.paused else self._watches.get(job.id)
        watch = observe(known, stored=stored, connected=self._is_reachable(job), now=self._clock())
        self._watches[job.id] = watch
        return is_over(watch, job.lease_s)
