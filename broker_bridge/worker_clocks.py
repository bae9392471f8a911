"""The clocks of workers' machines: a line in the log when one is wrong, and when it is right again."""

from __future__ import annotations

import logging

from edge_mqtt.broker_bridge.program.clock_notice import ClockNotice, describe_offset
from edge_mqtt.broker_bridge.protocol.ids import WorkerName

log = logging.getLogger(__name__)


class WorkerClocks:
    """Remembers of which workers it was said."""

    def __init__(self) -> None:
        self._wrong: dict[WorkerName, ClockNotice] = {}

    def record_offset(self, worker: WorkerName, offset_s: float) -> None:
        """Take what a worker says of its clock.

        :param offset_s: seconds that it is behind ours, negative for ahead.
        """
        notice = self._wrong.get(worker) or ClockNotice()
        if not notice.is_news(offset_s):
            return
        if notice.is_wrong:
            self._wrong[worker] = notice
            log.warning(
                "the clock of worker %s is %s: what its tasks tell Airflow is corrected; set that clock",
                worker,
                describe_offset(offset_s),
                extra={"action": "worker_clock_wrong", "worker": worker, "offset_s": offset_s},
            )
        else:
            del self._wrong[worker]
            log.info(
                "the clock of worker %s is right again",
                worker,
                extra={"action": "worker_clock_right", "worker": worker},
            )
