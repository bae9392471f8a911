"""What a worker knows of the time at the centre, whatever the link and its own clock do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_mqtt.worker.core.centre_clock import IGNORED_S, SAMPLES_KEPT, CentreClock, Moment

#: What the centre's clock shows when this machine boots.
ZERO = 1_800_000_000.0

delays = st.floats(min_value=0.0, max_value=60.0)
offsets = st.floats(min_value=-1e6, max_value=1e6)


def answered(clock: CentreClock, *, at: float, there_s: float, back_s: float, zero: float = ZERO) -> None:
    """Have a message sent at ``at``, in seconds since boot, answered with the centre's time."""
    clock.record(sent_at=at, received_at=at + there_s + back_s, centre=zero + at + there_s)


def shown(offset_s: float, boot: float) -> Moment:
    """Return a moment on a machine whose clock is so many seconds behind the centre's."""
    return Moment(wall=ZERO + boot - offset_s, boot=boot)


@given(offset=offsets, links=st.lists(st.tuples(delays, delays), min_size=1, max_size=20))
def test_the_offset_is_as_good_as_the_quickest_answer(offset: float, links: list[tuple[float, float]]) -> None:
    clock = CentreClock()
    for number, (there_s, back_s) in enumerate(links):
        answered(clock, at=100.0 * number, there_s=there_s, back_s=back_s)
    error_s = min((there_s + back_s) / 2 for there_s, back_s in links[-SAMPLES_KEPT:])
    found = clock.offset_s(shown(offset, 5_000.0))
    if found == 0.0:
        assert abs(offset) <= max(IGNORED_S, error_s) + error_s + 0.01
    else:
        assert abs(found - offset) <= error_s + 0.01


@pytest.mark.parametrize("offset", [-1.0, -0.5, 0.0, 0.9])
def test_what_matters_to_nobody_is_no_offset(offset: float) -> None:
    clock = CentreClock()
    answered(clock, at=10.0, there_s=0.01, back_s=0.01)
    assert clock.offset_s(shown(offset, 20.0)) == 0.0


def test_what_the_link_may_have_done_is_no_offset() -> None:
    clock = CentreClock()
    answered(clock, at=10.0, there_s=40.0, back_s=0.0)
    assert clock.offset_s(shown(0.0, 60.0)) == 0.0
    answered(clock, at=60.0, there_s=0.1, back_s=0.1)
    assert clock.offset_s(shown(15.0, 70.0)) == pytest.approx(15.0, abs=0.2)


def test_nothing_is_known_before_an_answer() -> None:
    assert CentreClock().offset_s(shown(3600.0, 10.0)) == 0.0


@given(offset=offsets, jump=offsets)
def test_clock_of_this_machine_that_is_set_is_followed_at_once(offset: float, jump: float) -> None:
    clock = CentreClock()
    answered(clock, at=10.0, there_s=0.0, back_s=0.0)
    for behind in (offset, offset + jump):
        assert clock.offset_s(shown(behind, 20.0)) == pytest.approx(
            behind if abs(behind) > IGNORED_S else 0.0, abs=0.01
        )


def test_clock_of_the_centre_that_is_set_is_followed_from_the_next_answer_on() -> None:
    clock = CentreClock()
    answered(clock, at=10.0, there_s=0.0, back_s=0.0)
    answered(clock, at=30.0, there_s=2.0, back_s=2.0, zero=ZERO + 300.0)
    assert clock.offset_s(shown(0.0, 40.0)) == pytest.approx(300.0, abs=2.0)
