"""What the time is at the data centre, by messages whose way there and back takes its time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

#: Answers that are compared: a slow link now and then has a quick one among so many.
SAMPLES_KEPT: Final = 8
#: Seconds that two clocks may differ without it mattering to anybody.
IGNORED_S: Final = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """A moment on a worker, by its two clocks."""

    #: Unix time in seconds, right or wrong.
    wall: float
    #: Seconds since boot.
    boot: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sample:
    #: Seconds from this machine's boot to the centre's zero of time, and how far off that may be.
    centre: float
    error_s: float

    def agrees_with(self, other: _Sample) -> bool:
        return abs(self.centre - other.centre) <= self.error_s + other.error_s + IGNORED_S


class CentreClock:
    """Goes by this machine's time since boot: setting its wall clock does not disturb what is known of the centre's.

    The centre wrote its time down somewhere between the sending of a message and the receipt of its answer (as in
    NTP, RFC 5905, section 8): the answer that came quickest tells it best.
    """

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque(maxlen=SAMPLES_KEPT)

    def record(self, *, sent_at: float, received_at: float, centre: float) -> None:
        """Learn from an answer.

        :param sent_at: when the message was sent that was answered, in seconds since boot.
        :param received_at: when the answer came, in seconds since boot.
        :param centre: what the time was at the centre in between, as Unix time in seconds.
        """
        sample = _Sample(centre=centre - (sent_at + received_at) / 2, error_s=(received_at - sent_at) / 2)
        if not all(sample.agrees_with(known) for known in self._samples):
            # Both cannot be right: the centre's clock was set meanwhile.
            self._samples.clear()
        self._samples.append(sample)

    def offset_s(self, moment: Moment) -> float:
        """Return how many seconds the wall clock was behind the centre's at a moment, negative for ahead.

        0 when nothing is known, or when it is so little that it may be the link's doing or does not matter.
        """
        best = min(self._samples, key=lambda sample: sample.error_s, default=None)
        if best is None:
            return 0.0
        offset_s = best.centre + moment.boot - moment.wall
        return round(offset_s, 3) if abs(offset_s) > max(IGNORED_S, best.error_s) else 0.0
