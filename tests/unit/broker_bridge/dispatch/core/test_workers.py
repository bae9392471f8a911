"""Workers come, go, fall silent, and come back with or without their jobs."""

from __future__ import annotations

import pytest

from edge_mqtt.broker_bridge.dispatch.core import events
from edge_mqtt.broker_bridge.dispatch.core.effects import ToWorker
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState
from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import (
    Cancel,
    JobFinished,
    Outcome,
    Presence,
    PresenceAck,
    ReportedJobState,
    Welcome,
    WorkerState,
)
from tests.support.scenario_dispatch import ALICE, GRACE_S, SETTLE_S, Scene, held

# ---------------------------------------------------------------- hello


def test_the_first_presence_is_answered_with_a_welcome_and_a_confirmation() -> None:
    scene = Scene(kill_grace_s=7, presence_interval_s=3).hello("w", queues=("q", "r"), concurrency=5)
    (welcome,) = scene.to_worker(Welcome)
    assert welcome.incarnation == "first"
    assert (welcome.kill_grace_s, welcome.presence_interval_s) == (7, 3)
    assert (welcome.logs, welcome.drop, welcome.known_results) == ((), (), ())
    assert scene.to_worker(PresenceAck) == [PresenceAck(incarnation="first", connection=1, sequence=0)]
    (view,) = scene.view.workers()
    assert (view.name, view.state, view.queues, view.concurrency) == ("w", WorkerState.ONLINE, ("q", "r"), 5)
    assert (view.incarnation, view.connection, view.lease_from) == ("first", 1, scene.now)


def test_later_presences_are_confirmed_without_a_welcome() -> None:
    scene = Scene().hello("w").presence("w")
    assert scene.to_worker(PresenceAck) == [PresenceAck(incarnation="first", connection=1, sequence=1)]
    assert len(scene.effects) == 1
    assert scene.hello("w").to_worker(Welcome) != []


def test_a_repeated_presence_is_confirmed_but_renews_nothing() -> None:
    scene = Scene().running()
    scene.presence("w", held("j"), sequence=4)
    scene.now += 100
    scene.presence("w", sequence=4)
    assert scene.to_worker(PresenceAck) == [PresenceAck(incarnation="first", connection=1, sequence=4)]
    scene.presence("w", sequence=0)
    assert scene.to_worker(PresenceAck) == [PresenceAck(incarnation="first", connection=1, sequence=0)]
    assert scene.job().state is CentralJobState.RUNNING
    assert scene.view.workers()[0].lease_from == scene.now - 100


def test_a_presence_of_an_earlier_connection_is_ignored() -> None:
    scene = Scene().running()
    old = scene._presences["w"]
    scene.hello("w", held("j")).present("w", old)
    assert scene.effects == ()
    assert scene.job().state is CentralJobState.RUNNING


def test_a_hello_whose_first_presence_was_lost_still_settles_everything() -> None:
    scene = Scene().running()
    scene.present("w", Presence(incarnation="first", connection=2, sequence=3, state=WorkerState.ONLINE))
    assert len(scene.to_worker(Welcome)) == 1
    assert scene.job().outcome is Outcome.LOST


def test_a_worker_is_told_what_of_its_jobs_is_settled() -> None:
    scene = Scene().hello("w").submit("a").submit("b").submit("c").submit("d")
    for job in "abcd":
        scene.accept("w", job).start("w", job)
    scene.result("w", "b").result("w", "d")
    scene.hello(
        "w",
        held("a"),
        held("b", state=ReportedJobState.FINISHED),
        held("c", fence=0),
        held("c"),
        held("d"),
        held("x", state=ReportedJobState.FINISHED),
    )
    (welcome,) = scene.to_worker(Welcome)
    assert [(ref.job_id, ref.fence) for ref in welcome.known_results] == [("b", 1), ("d", 1)]
    assert [(ref.job_id, ref.fence) for ref in welcome.drop] == [("c", 0), ("x", 1)]
    assert scene.job("a").state is scene.job("c").state is CentralJobState.RUNNING


def test_a_hello_that_arrives_again_after_the_result_takes_no_log_from_the_worker() -> None:
    scene = Scene().running()
    scene.hello("w", held("j")).result("w", "j", log_size=300)
    scene.presence("w", held("j"), sequence=0)
    (welcome,) = scene.to_worker(Welcome)
    assert ([ref.job_id for ref in welcome.known_results], welcome.drop) == (["j"], ())


def test_a_worker_drops_what_another_worker_has_now() -> None:
    scene = Scene().assigned().will("w").hello("v").hello("w", held("j"))
    (welcome,) = scene.to_worker(Welcome)
    assert [(ref.job_id, ref.fence) for ref in welcome.drop] == [("j", 1)]
    assert scene.state() == (CentralJobState.ASSIGNED, "v", 2)


def test_a_new_incarnation_may_still_hold_its_jobs() -> None:
    scene = Scene().running().hello("w", held("j"), incarnation="second")
    assert scene.job().state is CentralJobState.RUNNING
    assert scene.to_worker(Welcome)[0].incarnation == "second"


def test_a_running_job_that_its_worker_came_back_without_is_lost_at_once() -> None:
    scene = Scene().running().hello("w", incarnation="second")
    assert (scene.job().outcome, scene.job().detail) == (Outcome.LOST, "worker w came back without it")
    assert [event.outcome for event in scene.to_executor(JobFinished)] == [Outcome.LOST]


def test_a_cancelled_job_that_its_worker_came_back_without_is_cancelled() -> None:
    scene = Scene().running().ended("j").hello("w")
    assert scene.job().outcome is Outcome.CANCELLED


def test_an_assignment_that_never_arrived_is_sent_again() -> None:
    scene = Scene().assigned().hello("w")
    assert scene.assignments() == [("j", "w", 1)]
    assert scene.state() == (CentralJobState.ASSIGNED, "w", 1)


def test_an_assignment_that_its_worker_confirmed_and_forgot_must_be_confirmed_again() -> None:
    scene = Scene().assigned().accept("w", "j").hello("w")
    assert scene.assignments() == [("j", "w", 1)]
    assert not scene.job().accepted
    scene.accept("w", "j")
    assert scene.job().accepted
    assert scene.tick(SETTLE_S).assignments() == []


def test_an_assignment_that_a_draining_worker_does_not_have_goes_back() -> None:
    scene = Scene().assigned().hello("w", state=WorkerState.DRAINING)
    assert scene.state() == (CentralJobState.QUEUED, None, 2)


def test_an_assignment_that_is_held_is_confirmed_by_that() -> None:
    scene = Scene().assigned().hello("w", held("j", state=ReportedJobState.ACCEPTED))
    assert scene.job().accepted
    assert scene.assignments() == []


def test_a_cancelled_assignment_that_never_arrived_is_over() -> None:
    scene = Scene().assigned().cancel("j").hello("w")
    assert scene.job().outcome is Outcome.CANCELLED


@pytest.mark.parametrize("state", [ReportedJobState.ACCEPTED, ReportedJobState.RUNNING])
def test_a_cancellation_is_said_again_at_every_presence(state: ReportedJobState) -> None:
    scene = Scene().running().cancel("j").hello("w", held("j", state=state))
    assert len(scene.to_worker(Cancel)) == 1
    assert len(scene.presence("w", held("j", state=state)).to_worker(Cancel)) == 1


def test_a_job_that_ended_needs_no_cancellation() -> None:
    scene = Scene().running().cancel("j").hello("w", held("j", state=ReportedJobState.FINISHED))
    assert scene.to_worker(Cancel) == []


def test_a_later_presence_makes_a_lost_confirmation_good() -> None:
    scene = Scene().assigned().presence("w", held("j", state=ReportedJobState.ACCEPTED))
    assert scene.job().accepted


def test_a_later_presence_with_a_job_that_is_not_its_own_any_more_is_answered_with_a_stop() -> None:
    scene = Scene().running().presence("w", held("j", 0), held("x", state=ReportedJobState.FINISHED), held("j"))
    assert [(cancel.job_id, cancel.fence) for cancel in scene.to_worker(Cancel)] == [("j", 0)]


def test_a_later_presence_without_a_running_job_proves_nothing() -> None:
    assert Scene().running().presence("w").job().state is CentralJobState.RUNNING


# ---------------------------------------------------------------- gone


def test_a_job_that_did_not_start_goes_to_another_worker_at_once_when_its_worker_vanishes() -> None:
    scene = Scene().assigned().hello("v", concurrency=1).accept("w", "j").will("w")
    assert scene.assignments() == [("j", "v", 2)]
    assert scene.to_worker(PresenceAck) == []


def test_a_running_job_stays_with_a_worker_that_vanished() -> None:
    scene = Scene().running().hello("v").will("w")
    assert scene.state() == (CentralJobState.RUNNING, "w", 1)
    assert scene.view.running_jobs() == scene.view.jobs_of(scene.job().worker or "") != ()  # type: ignore[arg-type]


def test_a_cancelled_job_that_did_not_start_is_over_when_its_worker_vanishes() -> None:
    assert Scene().assigned().cancel("j").will("w").job().outcome is Outcome.CANCELLED


def test_the_will_of_an_earlier_connection_or_incarnation_is_ignored() -> None:
    scene = Scene().assigned().hello("w").hello("w", incarnation="second").will("w", connection=2)
    assert scene.state() == (CentralJobState.ASSIGNED, "w", 1)
    scene.will("w", incarnation="first")
    assert scene.state() == (CentralJobState.ASSIGNED, "w", 1)
    scene.will("w")
    assert scene.state() == (CentralJobState.QUEUED, None, 2)


def test_a_presence_that_comes_after_the_will_of_its_connection_is_ignored() -> None:
    scene = Scene().assigned().will("w").presence("w")
    assert scene.effects == ()
    assert scene.view.workers()[0].state is WorkerState.OFFLINE


def test_the_will_of_a_worker_that_was_never_seen_is_remembered() -> None:
    scene = Scene().present("w", Presence(incarnation="first", connection=1, state=WorkerState.OFFLINE))
    assert scene.effects == ()
    assert [view.state for view in scene.view.workers()] == [WorkerState.OFFLINE]


# ---------------------------------------------------------------- lease


def test_a_running_job_is_lost_when_its_worker_is_silent_for_the_grace() -> None:
    scene = Scene().running().will("w")
    assert scene.dispatcher.next_deadline() == scene.now + GRACE_S
    assert scene.tick(GRACE_S - 1).last.changed == ()
    scene.tick(1)
    assert (scene.job().outcome, scene.job().detail) == (Outcome.LOST, "no contact with worker w for 900 s")
    assert [event.outcome for event in scene.to_executor(JobFinished, ALICE)] == [Outcome.LOST]
    assert scene.dispatcher.next_deadline() is None


def test_every_presence_renews_the_lease() -> None:
    scene = Scene().running()
    for _ in range(3):
        scene.now += GRACE_S - 1
        scene.presence("w", held("j"))
    assert scene.tick(GRACE_S - 1).job().state is CentralJobState.RUNNING
    assert scene.tick(1).job().outcome is Outcome.LOST


def test_a_start_renews_the_lease() -> None:
    scene = Scene().assigned().accept("w", "j")
    scene.now += GRACE_S - 1
    scene.start("w", "j")
    assert scene.dispatcher.next_deadline() == scene.now + GRACE_S


def test_the_silence_of_an_idle_worker_counts_from_its_first_job() -> None:
    scene = Scene().hello("w")
    scene.now += 100_000
    scene.submit("j").accept("w", "j").start("w", "j")
    assert scene.tick(GRACE_S - 1).job().state is CentralJobState.RUNNING


def test_what_the_centre_decides_about_a_job_does_not_renew_its_lease() -> None:
    scene = Scene().running()
    scene.now += GRACE_S - 1
    scene.ended("j")
    assert scene.tick(1).job().state is CentralJobState.FINISHED


def test_a_silent_worker_that_is_still_connected_gets_nothing_more_until_it_speaks() -> None:
    scene = Scene().running().submit("k").accept("w", "k").tick(GRACE_S)
    assert scene.job("j").outcome is Outcome.LOST
    assert scene.state("k") == (CentralJobState.QUEUED, None, 2)
    assert scene.view.workers() == ()
    scene.presence("w", held("j"), held("k", state=ReportedJobState.ACCEPTED))
    assert [(ref.job_id, ref.fence) for ref in scene.to_worker(Welcome)[0].drop] == [("j", 1), ("k", 1)]
    assert scene.assignments() == [("k", "w", 2)]


def test_the_lease_outlives_the_last_job_without_harm() -> None:
    scene = Scene(settle_s=GRACE_S / 2).assigned().tick(GRACE_S / 2)
    assert scene.assignments() == [("j", "w", 1)]
    scene.tick(GRACE_S / 2)
    assert scene.state() == (CentralJobState.QUEUED, None, 2)


def test_a_lease_and_an_unconfirmed_assignment_that_end_together_give_the_job_back_once() -> None:
    scene = Scene().running()
    scene.now += GRACE_S - 10
    scene.submit("k").tick(20 + SETTLE_S)
    assert scene.state("k") == (CentralJobState.QUEUED, None, 2)


# ---------------------------------------------------------------- unconfirmed assignments


def test_an_unconfirmed_assignment_is_sent_once_more_and_then_given_to_another() -> None:
    scene = Scene().assigned().hello("v", concurrency=1)
    assert scene.tick(SETTLE_S).assignments() == [("j", "w", 1)]
    assert scene.tick(SETTLE_S).assignments() == [("j", "v", 2)]


def test_a_confirmed_assignment_waits_for_its_worker() -> None:
    scene = Scene().assigned().accept("w", "j").tick(SETTLE_S).tick(SETTLE_S)
    assert scene.state() == (CentralJobState.ASSIGNED, "w", 1)


def test_a_tick_with_nothing_due_decides_nothing() -> None:
    scene = Scene().tick(1e9)
    assert (scene.last.changed, scene.effects) == ((), ())
    assert scene.dispatcher.next_deadline() is None


def test_messages_to_a_worker_name_only_that_worker() -> None:
    scene = Scene().hello("v").running().cancel("j")
    assert {effect.worker for effect in scene.effects if isinstance(effect, ToWorker)} <= {"w", "v"}
    assert all(effect.worker == scene.job().worker for effect in scene.effects if isinstance(effect, ToWorker))


def test_a_welcome_names_the_logs_that_the_worker_may_go_on_shipping() -> None:
    scene = Scene().running()
    scene.hello("w", held("j"), held("unknown"), incarnation="second")
    (welcome,) = scene.to_worker(Welcome)
    assert [position.job_id for position in welcome.logs] == ["j"]


def test_a_repeated_hello_is_welcomed_again_because_the_first_welcome_may_be_lost() -> None:
    scene = Scene().running()
    scene.presence("w", held("j"), sequence=0)
    assert len(scene.to_worker(Welcome)) == 1


def test_a_finished_job_that_memory_has_forgotten_is_recalled_when_its_log_arrives() -> None:
    assert Scene().missing(events.LogOpened(job_id=JobId("old"), base=0)) == ("old",)
    left = events.LogLeft(job_id=JobId("older"), base=0, kept=1)
    assert Scene().missing(events.LogOpened(job_id=JobId("old"), base=1, left=(left,))) == ("old", "older")


# ---------------------------------------------------------------- queues


def test_a_queue_is_served_by_whoever_is_connected_though_it_takes_no_new_jobs() -> None:
    scene = Scene().hello("w", queues=("q", "r")).hello("leaving", queues=("s",), state=WorkerState.DRAINING)
    assert [scene.view.is_served(queue) for queue in ("q", "r", "s", "t")] == [True, True, True, False]
    scene.will("w").will("leaving")
    assert [scene.view.is_served(queue) for queue in ("q", "s")] == [False, False]
