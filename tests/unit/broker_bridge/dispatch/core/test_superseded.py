"""Airflow queues a task instance again when its run is over: what is left of an earlier queueing must not act."""

from __future__ import annotations

from typing import Any

from edge_mqtt.broker_bridge.dispatch.core.lifecycle import SUPERSEDED
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState
from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import Cancel, JobAccepted, JobFinished, Outcome, WorkloadType
from tests.support.scenario_dispatch import BOB, Scene, held

TASK: dict[str, Any] = {"dag_id": "d", "run_id": "r", "task_id": "t"}


def superseded(scene: Scene, job: str) -> bool:
    return scene.view.is_superseded(JobId(job))


def deferred() -> Scene:
    """Return a scene in which a task runs whose task instance was queued again."""
    scene = Scene().hello("w").submit("first", **TASK).accept("w", "first").start("w", "first")
    return scene.submit("second", **TASK)


def test_a_running_job_is_superseded_when_its_task_is_submitted_again() -> None:
    scene = deferred()
    assert (superseded(scene, "first"), superseded(scene, "second")) == (True, False)
    assert scene.to_worker(Cancel) == []
    assert scene.assignments() == [("second", "w", 1)]


def test_jobs_of_other_tasks_and_other_workloads_are_not_superseded() -> None:
    scene = Scene()
    others: tuple[dict[str, Any], ...] = ({"dag_id": "e"}, {"run_id": "s"}, {"task_id": "u"}, {"map_index": 3})
    for number, other in enumerate(others):
        scene.submit(f"other {number}", **(TASK | other))
    scene.submit("no task").submit("callback", type=WorkloadType.CALLBACK, **TASK).submit("first", **TASK)
    scene.submit("no task either")
    assert not any(superseded(scene, job) for job in scene.all_changed)


def test_a_superseded_job_that_waits_never_runs_and_its_executor_is_told() -> None:
    scene = Scene().submit("first", **TASK).submit("second", executor=BOB, **TASK)
    assert (scene.job("first").outcome, scene.job("first").detail) == (Outcome.CANCELLED, SUPERSEDED)
    assert [end.job_id for end in scene.to_executor(JobFinished)] == ["first"]
    assert [job for job, _, _ in scene.hello("w").assignments()] == ["second"]


def test_a_superseded_job_that_was_assigned_cannot_start() -> None:
    scene = Scene().hello("w").submit("first", **TASK).accept("w", "first").submit("second", **TASK)
    assert [cancel.job_id for cancel in scene.to_worker(Cancel)] == ["first"]
    assert not scene.start("w", "first").decided().granted
    assert scene.start("w", "second").decided().granted


def test_a_superseded_job_is_not_permitted_to_start_once_more() -> None:
    scene = deferred().start("w", "first")
    assert (scene.decided().granted, scene.decided().reason) == (False, SUPERSEDED)


def test_an_earlier_try_that_arrives_late_does_not_supersede_the_later_one() -> None:
    scene = Scene().submit("second try", try_number=2, **TASK).submit("first try", try_number=1, **TASK)
    assert scene.state("second try")[0] is CentralJobState.QUEUED
    assert [ack.job_id for ack in scene.to_executor(JobAccepted)] == ["first try"]
    assert scene.job("first try").outcome is Outcome.CANCELLED


def test_a_repeated_submission_supersedes_nothing() -> None:
    scene = deferred().submit("first", **TASK)
    assert (superseded(scene, "first"), superseded(scene, "second")) == (True, False)


def test_a_job_that_is_over_is_superseded_no_more_and_supersedes_for_good() -> None:
    scene = deferred().result("w", "second").ack("second")
    assert superseded(scene, "first")
    scene.result("w", "first")
    assert not superseded(scene, "first")
    assert scene.job("first").outcome is Outcome.SUCCESS


def test_a_restarted_bridge_knows_which_jobs_are_superseded() -> None:
    scene = deferred().restarted()
    assert (superseded(scene, "first"), superseded(scene, "second")) == (True, False)
    scene = deferred().result("w", "second").restarted()
    assert superseded(scene, "first")


def test_a_superseded_job_is_lost_with_its_worker_like_any_other() -> None:
    scene = deferred().hello("w", held("second"))
    assert scene.job("first").outcome is Outcome.LOST
    assert not superseded(scene, "first")
