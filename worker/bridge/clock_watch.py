"""How far this machine's clock is from the bridge's, and a line in the log when that matters."""

from __future__ import annotations

import logging
import time

from edge_mqtt.broker_bridge.program.clock_notice import ClockNotice, describe_offset
from edge_mqtt.worker.core.centre_clock import CentreClock, Moment
from edge_mqtt.worker.system.boot_clock import boottime

log = logging.getLogger(__name__)


def moment_now() -> Moment:
    """Return this moment."""
    return Moment(wall=time.time(), boot=boottime())


class ClockWatch:
    """Learns from what the bridge answers to presences."""

    def __init__(self) -> None:
        self._clock = CentreClock()
        self._notice = ClockNotice()

    def offset_s(self, moment: Moment) -> float:
        """Return how many seconds this machine's clock was behind the bridge's; see :meth:`CentreClock.offset_s`."""
        return self._clock.offset_s(moment)

    def record_answer(self, sent_at: float, centre: float) -> bool:
        """Learn from an answer that has just come; tell whether there is news for the bridge.

        :param sent_at: when the presence that it answers was sent, in seconds since boot.
        :param centre: the bridge's time in it, as Unix time in seconds.
        """
        now = moment_now()
        self._clock.record(sent_at=sent_at, received_at=now.boot, centre=centre)
        offset_s = self._clock.offset_s(now)
        if not self._notice.is_news(offset_s):
            return False
        if self._notice.is_wrong:
            log.warning(
                "this machine's clock is %s: what tasks tell Airflow is corrected, their logs are not; set the clock",
                describe_offset(offset_s),
                extra={"action": "clock_wrong", "offset_s": offset_s},
            )
        else:
            log.info("this machine's clock is right again", extra={"action": "clock_right"})
        return True
