"""Workers refuse jobs: who is spared what, for how long, whom that holds up, and when a job has failed by it."""

from __future__ import annotations

import pytest

from edge_mqtt.broker_bridge.dispatch.core import completion, events
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState
from edge_mqtt.broker_bridge.dispatch.core.settings import DispatchSettings
from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import JobFinished, Outcome, WorkerState
from tests.support.scenario_dispatch import BOB, Scene

MOST = 4


def refused(times: int, *, takes_none: bool = False, **settings: int) -> Scene:
    """Return a scene in which the only worker has refused the only job so often."""
    scene = Scene(max_refusals=MOST, **settings).hello("w").submit("j")
    for _ in range(times):
        assert scene.tick(30).state()[:2] == (CentralJobState.ASSIGNED, "w")
        scene.reject("w", "j", scene.state()[2], takes_none=takes_none)
    return scene


# ---------------------------------------------------------------- whom it holds up


def test_a_refused_job_holds_up_none_behind_it() -> None:
    scene = Scene().hello("w", concurrency=1).submit("j").submit("next").submit("last")
    assert scene.reject("w", "j").assignments() == [("next", "w", 1)]
    assert scene.tick(5).assignments() == []
    assert scene.result("w", "next").assignments() == [("j", "w", 2)]


def test_a_refused_job_that_has_no_other_worker_waits_and_the_others_go_on() -> None:
    scene = Scene().hello("w", concurrency=2).submit("j").reject("w", "j")
    assert scene.submit("urgent", priority=9).assignments() == [("urgent", "w", 1)]
    assert scene.submit("other").assignments() == [("other", "w", 1)]


def test_workers_that_refuse_a_job_in_turns_are_each_spared_it() -> None:
    scene = Scene().hello("w", concurrency=2).hello("v", concurrency=1).submit("j").reject("w", "j")
    assert scene.assignments() == [("j", "v", 2)]
    assert scene.tick(2).reject("v", "j", 2).assignments() == []
    assert scene.tick(3).assignments() == [("j", "w", 3)]


def test_a_paused_job_that_needs_much_keeps_a_worker_that_has_not_refused_it() -> None:
    scene = Scene().hello("v", queues=("q", "r"), concurrency=4).submit("old", queue="r")
    scene.hello("w", queues=("q", "r"), concurrency=4).submit("large", slots=4).reject("w", "large")
    for number in range(5):
        scene.submit(f"small {number}", queue="r")
    assert {scene.state(f"small {number}")[1] for number in range(4)} == {"w"}
    assert scene.state("small 4")[0] is CentralJobState.QUEUED
    assert scene.result("v", "old").assignments() == [("large", "v", 2)]


def test_an_assignment_without_an_answer_counts_as_no_refusal() -> None:
    scene = Scene(max_refusals=1, settle_s=10.0).hello("w").submit("j")
    for fence in (2, 3, 4):
        scene.tick(10).tick(10)
        assert scene.state() == (CentralJobState.QUEUED, None, fence)
        scene.tick(5)


# ---------------------------------------------------------------- a worker that takes nothing


def test_a_worker_that_can_take_no_job_is_given_none_for_a_while() -> None:
    scene = Scene().hello("w", concurrency=2).submit("j").reject("w", "j", takes_none=True)
    assert scene.submit("other").assignments() == []
    assert sorted(scene.tick(5).assignments()) == [("j", "w", 2), ("other", "w", 1)]


def test_the_jobs_of_a_worker_that_takes_none_go_to_the_others() -> None:
    scene = Scene().hello("w", concurrency=2).hello("v", concurrency=1).submit("j").submit("next")
    scene.reject("w", "j", takes_none=True)
    scene.result("v", "next")
    assert scene.state()[:2] == (CentralJobState.ASSIGNED, "v")


def test_a_pause_is_over_when_the_worker_takes_a_job_starts_one_or_connects_anew() -> None:
    scene = Scene().hello("w", concurrency=3).submit("j").submit("taken").submit("begun")
    scene.reject("w", "j", takes_none=True)
    assert scene.submit("a").assignments() == []
    assert scene.accept("w", "taken").assignments() == [("a", "w", 1)]
    scene.reject("w", "a", takes_none=True)
    assert scene.submit("b").assignments() == []
    assert scene.start("w", "begun").assignments() == [("b", "w", 1)]
    scene.reject("w", "b", takes_none=True).submit("c")
    assert scene.hello("w", concurrency=8).state("c")[:2] == (CentralJobState.ASSIGNED, "w")


def test_a_pause_ends_with_what_is_known_of_its_worker() -> None:
    scene = Scene(lease_s=3.0).hello("w").submit("j").submit("other").reject("w", "j", takes_none=True)
    scene.tick(4)
    assert not list(scene.dispatcher._state.pauses.items())


# ---------------------------------------------------------------- for how long


@pytest.mark.parametrize("takes_none", [False, True])
def test_pauses_become_longer_up_to_a_limit(takes_none: bool) -> None:
    scene, pauses = Scene().hello("w").submit("j"), []
    for fence in range(1, 7):
        scene.reject("w", "j", fence, takes_none=takes_none)
        due = scene.dispatcher.next_deadline() or 0.0
        pauses.append(due - scene.now)
        scene.tick(due - scene.now)
    assert pauses == [5.0, 10.0, 20.0, 30.0, 30.0, 30.0]


def test_pauses_have_a_limit_however_often_there_is_one() -> None:
    assert DispatchSettings().backoff_s(100_000) == 30.0


def test_a_job_fails_by_refusals_later_than_a_short_want_of_room_and_sooner_than_airflow_takes_it_back() -> None:
    settings = DispatchSettings()
    first = sum(settings.backoff_s(times) for times in range(1, settings.max_refusals))
    assert 360 < first < 600
    assert (settings.max_refusals - 1) * settings.refusal_backoff_at_most_s < 600


# ---------------------------------------------------------------- how often


def test_a_job_that_its_only_worker_refuses_too_often_fails_with_the_reason() -> None:
    scene = refused(MOST - 1)
    assert scene.state()[0] is CentralJobState.QUEUED
    scene.tick(30).reject("w", "j", MOST)
    assert (scene.job().outcome, scene.job().worker) == (Outcome.FAILED, "w")
    told = [event.detail for event in scene.to_executor(JobFinished)]
    assert told == [f"spool full (worker w has refused it {MOST} times)"]
    assert not list(scene.dispatcher._state.refusals.items())


def test_a_job_fails_only_when_every_worker_of_its_queue_has_refused_it_so_often() -> None:
    scene = refused(MOST - 1).hello("v", concurrency=1)
    assert scene.state()[:2] == (CentralJobState.ASSIGNED, "v")
    for _ in range(2 * MOST - 2):
        assert scene.job().outcome is None
        scene.reject(scene.state()[1] or "", "j", scene.state()[2]).tick(30)
    scene.reject(scene.state()[1] or "", "j", scene.state()[2])
    assert scene.job().outcome is Outcome.FAILED
    assert "each of the 2 workers has refused it" in scene.job().detail


def test_refusals_of_a_worker_that_goes_fail_no_job() -> None:
    scene = refused(MOST - 1).tick(30)
    scene.presence("w", state=WorkerState.DRAINING).reject("w", "j", MOST)
    assert scene.state()[0] is CentralJobState.QUEUED


def test_refusals_are_forgotten_when_the_job_starts() -> None:
    scene = refused(2).tick(30).start("w", "j", 3)
    assert not list(scene.dispatcher._state.refusals.items())


def test_a_cancelled_job_that_is_refused_too_often_was_cancelled() -> None:
    scene = refused(MOST - 1).tick(30).cancel("j").reject("w", "j", MOST)
    assert scene.job().outcome is Outcome.CANCELLED


def test_a_reason_is_one_line_of_a_sensible_length() -> None:
    said = events.JobRejected(
        worker=WorkerName("w"), job_id=JobId("j"), fence=Fence(1), reason="no\nroom " * 1000, permanent=True
    )
    detail = Scene().assigned().do(said).job().detail
    assert detail.startswith("no room no room")
    assert len(detail) == completion.MAX_DETAIL_CHARS


def test_nothing_is_left_of_a_pause_that_ends_together_with_the_lease() -> None:
    scene = Scene(lease_s=4.0).hello("w").submit("j").submit("other").reject("w", "j", takes_none=True)
    assert scene.hello("v", concurrency=1).state()[:2] == (CentralJobState.ASSIGNED, "v")
    scene.cancel("j", BOB).tick(10)
    assert scene.job().outcome is Outcome.CANCELLED
    assert not list(scene.dispatcher._state.pauses.items())
    assert not list(scene.dispatcher._state.refusals.items())


def test_of_two_paused_jobs_the_first_in_order_goes_first() -> None:
    scene = Scene().hello("w", concurrency=2).submit("j").submit("urgent", priority=9)
    scene.reject("w", "j").reject("w", "urgent")
    assert scene.hello("v", concurrency=1).assignments() == [("urgent", "v", 2)]
    assert scene.tick(5).assignments() == [("j", "w", 2)]
