"""A machine takes the name of another one, which may run on where nobody can reach it."""

from __future__ import annotations

import pytest

from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState
from edge_mqtt.broker_bridge.protocol.messages import Cancel, JobFinished, Outcome, WorkerState
from tests.support.scenario_dispatch import GRACE_S, Scene, held

OLD, NEW = "old folder", "new folder"
SILENCE_S = 100.0
GIVEN_UP = "no contact with the former machine of worker w for 900 s"


def running_on_the_old_machine() -> Scene:
    """Return a scene in which the job ``j`` has the only slot of a machine."""
    return Scene().hello("w", home=OLD, concurrency=1).submit("j").accept("w", "j").start("w", "j")


def taken_by_a_new_one() -> Scene:
    """Return the same with another machine under its name, some time after it was last heard."""
    scene = running_on_the_old_machine()
    scene.now += SILENCE_S
    return scene.hello("w", home=NEW, incarnation="second", concurrency=1)


def old_one_returns(scene: Scene, *jobs: str) -> Scene:
    """Let the old machine have its name back, with ``jobs``."""
    return scene.hello("w", *(held(job) for job in jobs), home=OLD, incarnation="third", concurrency=1)


def test_what_runs_on_the_old_machine_goes_on_when_another_takes_its_name() -> None:
    scene = taken_by_a_new_one()
    assert scene.state() == (CentralJobState.RUNNING, "w", 1)
    assert scene.to_executor(JobFinished) == []
    assert scene.view.running_jobs() == scene.view.jobs_of(scene.view.workers()[0].name) != ()
    assert not scene.view.is_reachable(scene.job())


def test_what_runs_on_the_old_machine_takes_no_slots_of_the_new_one() -> None:
    scene = taken_by_a_new_one().submit("k")
    assert scene.assignments() == [("k", "w", 1)]
    assert scene.submit("l").assignments() == []
    scene.tick(GRACE_S - SILENCE_S)
    assert scene.job("j").state is CentralJobState.FINISHED
    assert scene.state("l") == (CentralJobState.QUEUED, None, 1)


def test_its_lease_counts_from_the_last_contact_with_the_old_machine() -> None:
    scene = taken_by_a_new_one().tick(GRACE_S - SILENCE_S - 2)
    assert scene.job().state is CentralJobState.RUNNING
    scene.now += 1
    assert scene.presence("w").job().state is CentralJobState.RUNNING
    scene.tick(1)
    assert (scene.job().outcome, scene.job().detail) == (Outcome.LOST, GIVEN_UP)
    assert [event.outcome for event in scene.to_executor(JobFinished)] == [Outcome.LOST]
    assert scene.dispatcher.next_deadline() is None


def test_a_lease_that_is_over_when_the_new_machine_appears_ends_the_job_at_once() -> None:
    scene = running_on_the_old_machine()
    scene.now += GRACE_S
    assert scene.hello("w", home=NEW, incarnation="second").job().detail == GIVEN_UP


def test_a_third_machine_changes_nothing_for_the_first_one_s_job() -> None:
    scene = taken_by_a_new_one().submit("k").accept("w", "k").start("w", "k")
    scene.now += SILENCE_S
    scene.hello("w", home="third folder", incarnation="third")
    assert scene.tick(GRACE_S - 2 * SILENCE_S).job("j").outcome is Outcome.LOST
    assert scene.job("k").state is CentralJobState.RUNNING
    assert scene.tick(SILENCE_S).job("k").outcome is Outcome.LOST


def test_a_machine_of_another_name_changes_nothing() -> None:
    scene = taken_by_a_new_one().hello("v", home="its own")
    assert scene.state() == (CentralJobState.RUNNING, "w", 1)


def test_what_the_old_machine_has_not_started_goes_to_the_new_one() -> None:
    scene = Scene().hello("w", home=OLD).submit("j").accept("w", "j")
    scene.hello("w", home=NEW, incarnation="second")
    assert scene.assignments() == [("j", "w", 2)]
    assert scene.job().home == NEW
    scene.start("w", "j", fence=1)
    assert not scene.decided().granted
    assert scene.start("w", "j", fence=2).decided().granted


def test_the_state_folder_that_no_longer_has_a_job_ends_it_at_once() -> None:
    scene = running_on_the_old_machine().hello("w", home=OLD, incarnation="second")
    assert (scene.job().outcome, scene.job().detail) == (Outcome.LOST, "worker w came back without it")


# ---------------------------------------------------------------- the old machine returns


def test_the_old_machine_goes_on_with_its_job_when_it_returns_in_time() -> None:
    scene = old_one_returns(taken_by_a_new_one(), "j")
    assert scene.view.is_reachable(scene.job())
    assert scene.submit("k").assignments() == []
    assert scene.tick(GRACE_S - 1).job().state is CentralJobState.RUNNING
    assert scene.result("w", "j").job().outcome is Outcome.SUCCESS
    assert scene.tick(GRACE_S).job("j").outcome is Outcome.SUCCESS


def test_the_old_machine_that_returns_without_its_job_ends_it_at_once() -> None:
    scene = old_one_returns(taken_by_a_new_one())
    assert (scene.job().outcome, scene.job().detail) == (Outcome.LOST, "worker w came back without it")
    assert scene.dispatcher.next_deadline() is None


def test_machines_may_take_turns_with_a_name() -> None:
    scene = taken_by_a_new_one().submit("k").accept("w", "k").start("w", "k")
    for _ in range(10):
        scene.now += SILENCE_S
        old_one_returns(scene, "j")
        scene.now += SILENCE_S
        scene.hello("w", held("k"), home=NEW, incarnation="second", concurrency=1)
        assert (scene.job("j").state, scene.job("k").state) == (CentralJobState.RUNNING, CentralJobState.RUNNING)
    assert scene.tick(GRACE_S - SILENCE_S).job("j").outcome is Outcome.LOST
    assert scene.job("k").state is CentralJobState.RUNNING


def test_a_result_that_was_on_its_way_when_the_name_was_taken_counts() -> None:
    scene = taken_by_a_new_one().result("w", "j")
    assert scene.job().outcome is Outcome.SUCCESS
    assert scene.tick(GRACE_S).to_executor(JobFinished) == []
    assert scene.dispatcher.next_deadline() is None


# ---------------------------------------------------------------- cancelled


def test_the_new_machine_is_not_told_to_stop_what_it_does_not_have() -> None:
    scene = taken_by_a_new_one().ended("j")
    assert scene.to_worker(Cancel) == []
    assert scene.job().state is CentralJobState.RUNNING
    assert [cancel.job_id for cancel in old_one_returns(scene, "j").to_worker(Cancel)] == ["j"]


def test_a_revoked_job_of_the_old_machine_takes_no_slot_either_and_is_over_with_its_lease() -> None:
    scene = taken_by_a_new_one().cancel("j").submit("k")
    assert scene.assignments() == [("k", "w", 1)]
    assert scene.tick(GRACE_S - SILENCE_S).job("j").outcome is Outcome.CANCELLED


# ---------------------------------------------------------------- the bridge restarts


@pytest.mark.parametrize("taken", [False, True])
def test_a_bridge_that_begins_anew_knows_whose_job_it_is(taken: bool) -> None:
    scene = (taken_by_a_new_one() if taken else running_on_the_old_machine()).restarted()
    scene.now += SILENCE_S
    scene.hello("w", home=NEW, incarnation="second")
    assert scene.tick(GRACE_S - SILENCE_S - 1).job().state is CentralJobState.RUNNING
    assert scene.tick(1).job().outcome is Outcome.LOST


def test_after_the_restart_every_machine_keeps_its_own() -> None:
    scene = taken_by_a_new_one().submit("k").accept("w", "k").start("w", "k").restarted()
    scene.hello("w", held("k"), home=NEW, incarnation="second", concurrency=1)
    assert (scene.job("j").state, scene.job("k").state) == (CentralJobState.RUNNING, CentralJobState.RUNNING)
    scene.result("w", "k").submit("l")
    assert scene.assignments() == [("l", "w", 1)]


def test_a_worker_that_learnt_to_name_its_folder_keeps_its_jobs() -> None:
    scene = Scene().running().hello("w", held("j"), home=NEW, incarnation="second")
    assert (scene.job().state, scene.job().home) == (CentralJobState.RUNNING, NEW)
    assert scene.hello("w", home=NEW, incarnation="third").job().outcome is Outcome.LOST


def test_a_batch_that_fails_leaves_the_job_where_it_was() -> None:
    scene = running_on_the_old_machine()
    with scene.undone():
        scene.hello("w", home=NEW, incarnation="second")
    assert scene.view.is_reachable(scene.job())
    scene.hello("w", home=NEW, incarnation="second")
    with scene.undone():
        old_one_returns(scene, "j")
    assert scene.tick(GRACE_S).job().detail == GIVEN_UP
    assert scene.view.workers()[0].state is WorkerState.ONLINE
