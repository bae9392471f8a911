"""The lease of a running job is its queue's, is decided once, and ends for each job by itself."""

from __future__ import annotations

from edge_mqtt.broker_bridge.dispatch.core import effects
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState
from edge_mqtt.broker_bridge.protocol.messages import (
    Assign,
    Outcome,
    PresenceAck,
    ReportedJobState,
    Welcome,
    WorkerState,
)
from tests.support.scenario_dispatch import Scene, held

#: Long and short leases, in seconds.
SHIP, PRESS = 7200.0, 60.0


def scene_of_queues() -> Scene:
    return Scene(lease_s_of={"ship": SHIP, "press": PRESS}, queues_keeping_logs=frozenset({"press"}))


def both_running() -> Scene:
    """Return a scene in which one worker runs a job with a long lease and one with a short one."""
    scene = scene_of_queues().hello("w", queues=("ship", "press"))
    for job in ("ship", "press"):
        scene.submit(job, queue=job).accept("w", job).start("w", job)
    return scene


def assign(scene: Scene) -> Assign:
    (effect,) = [effect for effect in scene.effects if isinstance(effect, effects.Assigned)]
    return effect.message


def test_an_assignment_carries_the_lease_and_the_log_policy_of_its_queue() -> None:
    scene = scene_of_queues().hello("w", queues=("ship", "press", "other"))
    assert (assign(scene.submit("a", queue="ship")).lease_s, assign(scene).ships_log) == (SHIP, True)
    assert (assign(scene.submit("b", queue="press")).lease_s, assign(scene).ships_log) == (PRESS, False)
    assert assign(scene.submit("c", queue="other")).lease_s == scene.settings.lease_s


def test_a_job_keeps_its_lease_when_the_bridge_is_restarted_with_other_settings() -> None:
    scene = both_running().restarted(lease_s_of={"ship": 1.0}, lease_s=1.0)
    assert (scene.job("ship").lease_s, scene.job("press").ships_log) == (SHIP, False)
    scene.tick(SHIP - 1)
    assert (scene.state("ship")[0], scene.state("press")[0]) == (CentralJobState.RUNNING, CentralJobState.FINISHED)


def test_a_silent_worker_loses_only_the_jobs_whose_lease_is_over() -> None:
    scene = both_running()
    began = scene.now
    scene.tick(PRESS)
    assert (scene.job("press").outcome, scene.job("press").detail) == (
        Outcome.LOST,
        "no contact with worker w for 60 s",
    )
    assert scene.state("ship") == (CentralJobState.RUNNING, "w", 1)
    assert scene.dispatcher.next_deadline() == began + SHIP
    scene.tick(SHIP - PRESS)
    assert scene.job("ship").outcome is Outcome.LOST


def test_a_silent_worker_gets_nothing_new_while_it_still_holds_a_job() -> None:
    scene = both_running().tick(PRESS).submit("new", queue="ship")
    assert scene.state("new")[0] is CentralJobState.QUEUED
    assert [view.connected for view in scene.view.workers()] == [False]


def test_the_next_presence_of_a_silent_worker_is_a_hello() -> None:
    scene = both_running().tick(PRESS).submit("new", queue="ship")
    scene.presence("w", held("ship"), held("press"))
    (welcome,) = scene.to_worker(Welcome)
    assert [ref.job_id for ref in welcome.drop] == ["press"]
    assert len(scene.to_worker(PresenceAck)) == 1
    assert scene.state("ship") == (CentralJobState.RUNNING, "w", 1)
    assert [job for job, _, _ in scene.assignments()] == ["new"]


def test_what_a_silent_worker_has_not_started_goes_to_another_at_the_first_lease_s_end() -> None:
    scene = both_running().submit("waiting", queue="ship").accept("w", "waiting").hello("v", queues=("ship",))
    scene.tick(PRESS)
    assert scene.assignments() == [("waiting", "v", 2)]


def test_a_will_after_the_silence_changes_nothing_for_the_running_job() -> None:
    scene = both_running().tick(PRESS).will("w")
    assert scene.state("ship")[0] is CentralJobState.RUNNING
    scene.hello("w", held("ship"), queues=("ship",))
    assert scene.state("ship") == (CentralJobState.RUNNING, "w", 1)
    (view,) = scene.view.workers()
    assert (view.state, view.connection) == (WorkerState.ONLINE, 2)


def test_contact_renews_every_lease() -> None:
    scene = both_running().tick(PRESS - 1)
    scene.presence("w", held("ship"), held("press", state=ReportedJobState.RUNNING)).tick(PRESS - 1)
    assert (scene.state("ship")[0], scene.state("press")[0]) == (CentralJobState.RUNNING, CentralJobState.RUNNING)


def test_a_silent_worker_that_holds_nothing_any_more_is_forgotten() -> None:
    scene = Scene(lease_s=PRESS).running().tick(PRESS)
    assert scene.job().outcome is Outcome.LOST
    assert scene.view.workers() == ()
