"""Forgets jobs that are over for long enough."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from edge_mqtt.broker_bridge.dispatch.core.events import EventsGivenUp
from edge_mqtt.broker_bridge.dispatch.ledger.async_ledger import AsyncLedger
from edge_mqtt.broker_bridge.dispatch.ledger.interface import Ledger, LedgerError
from edge_mqtt.broker_bridge.dispatch.service import DispatchService, EventFailed

log = logging.getLogger(__name__)

#: Seconds between deletions, and before the first: should the clock have been set forward while the bridge was down,
#: so that all jobs seem old, then executors have this long to fetch their events, and workers to bring their logs.
PURGE_INTERVAL_S: Final = 3600.0


class SteadyClock:
    """Unix time that does not jump while the program runs: a clock that is set makes no job old, or young again."""

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic) -> None:
        self._steady = steady
        self._offset = wall() - steady()

    def __call__(self) -> float:
        """Return the Unix time in seconds."""
        return self._steady() + self._offset


class Retention:
    """Deletes finished jobs when they are older than ``retention_s`` seconds."""

    def __init__(
        self, ledger: AsyncLedger, service: DispatchService, *, retention_s: float, clock: Callable[[], float]
    ) -> None:
        self._ledger = ledger
        self._service = service
        self._retention_s = retention_s
        self._clock = clock

    async def run(self) -> None:
        """Delete until cancelled."""
        while True:
            await asyncio.sleep(PURGE_INTERVAL_S)
            try:
                await self.purge()
            except (LedgerError, EventFailed) as error:
                log.warning("old jobs were not deleted: %s", error, extra={"action": "purge_failed"})

    async def purge(self) -> None:
        """Delete what is old; a final event that was not fetched by now belongs to an executor that is gone.

        :raises LedgerError: the ledger is away.
        """
        finished_before = self._clock() - self._retention_s
        unacknowledged = await self._ledger.run(Ledger.unacknowledged, finished_before)
        if unacknowledged:
            await self._service.commit(EventsGivenUp(job_ids=tuple(unacknowledged)))
            log.warning(
                "%s final events were never fetched by their executors and are given up",
                len(unacknowledged),
                extra={"action": "events_given_up", "jobs": len(unacknowledged)},
            )
        purged = await self._ledger.run(Ledger.purge, finished_before)
        if purged:
            log.info("%s old jobs deleted", purged, extra={"action": "purged", "jobs": purged})
