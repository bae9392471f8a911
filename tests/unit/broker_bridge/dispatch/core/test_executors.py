"""Executors ask the bridge about jobs: to take them over, or to learn whether it still knows them."""

from __future__ import annotations

from edge_mqtt.broker_bridge.dispatch.core import events
from edge_mqtt.broker_bridge.dispatch.core.effects import ToAdmin
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, JobId
from edge_mqtt.broker_bridge.protocol.messages import (
    TAKEN,
    TAKEN_OVER,
    JobAccepted,
    JobFinished,
    Outcome,
    WorkloadType,
)
from tests.support.scenario_dispatch import ALICE, BOB, Scene


def ask(scene: Scene, *jobs: str, executor: ExecutorName = ALICE) -> dict[JobId, str]:
    """Ask about jobs without taking them over; return the answer."""
    ids = tuple(JobId(job) for job in jobs)
    scene.do(events.AdoptAsked(executor=executor, request_id="a-1", job_ids=ids, take_over=False))
    (reply,) = [effect for effect in scene.effects if isinstance(effect, ToAdmin)]
    assert reply.executor == executor
    return reply.message.states


def test_an_executor_that_asks_learns_which_of_its_jobs_are_known() -> None:
    scene = Scene().running().submit("k", queue="nobody")
    assert ask(scene, "j", "k", "unknown") == {"j": "running", "k": "queued"}


def test_a_job_that_an_executor_was_told_is_unknown_is_not_accepted_any_more() -> None:
    scene = Scene().hello("w")
    assert ask(scene, "j") == {}
    scene.submit("j")
    assert scene.to_executor(JobAccepted) == []
    assert [denial.outcome for denial in scene.to_executor(JobFinished)] == [Outcome.LOST]


def test_asking_does_not_take_a_job_from_the_executor_that_took_it_over() -> None:
    scene = Scene().running().adopt("j", executor=BOB)
    assert ask(scene, "j", executor=ALICE) == {"j": TAKEN}
    assert scene.job().executor == BOB
    scene.result("w", "j")
    assert [event.job_id for event in scene.to_executor(JobFinished, BOB)] == ["j"]


def test_an_executor_that_a_job_is_taken_from_is_told_once_and_keeps_its_own() -> None:
    scene = Scene().running().adopt("j", executor=BOB)
    (told,) = scene.to_executor(JobFinished, ALICE)
    assert (told.outcome, told.detail, told.revoked) == (Outcome.CANCELLED, TAKEN_OVER, True)
    assert scene.to_executor(JobFinished, BOB) == []
    # The question may be asked again, and the one that had the job may acknowledge what it was told.
    assert scene.adopt("j", executor=BOB).to_executor(JobFinished, BOB) == []
    assert scene.to_executor(JobFinished, ALICE) == []
    scene.ack("j", ALICE).result("w", "j").ack("j", ALICE)
    assert not scene.job().event_acked


def test_the_end_of_a_job_that_its_executor_believes_to_be_unfinished_is_told_again() -> None:
    scene = Scene().running().result("w", "j").ack("j")
    assert ask(scene, "j") == {"j": "finished"}
    assert [event.job_id for event in scene.to_executor(JobFinished)] == ["j"]
    assert not scene.job().event_acked


def test_a_final_event_says_what_kind_of_workload_ended() -> None:
    scene = Scene().submit("c", type=WorkloadType.CALLBACK)
    scene.hello("w").accept("w", "c").start("w", "c").result("w", "c")
    assert [event.type for event in scene.to_executor(JobFinished)] == [WorkloadType.CALLBACK]


def test_a_task_that_airflow_ended_is_not_called_revoked() -> None:
    scene = Scene().running().ended("j").result("w", "j", exit_code=None, signal=15)
    assert [(event.outcome, event.revoked) for event in scene.to_executor(JobFinished)] == [
        (Outcome.CANCELLED, False)
    ]


def test_an_adopter_is_told_the_end_of_a_job_whose_revocation_airflow_never_noted() -> None:
    scene = Scene().running().cancel("j").adopt("j").result("w", "j", exit_code=None, signal=15)
    (event,) = scene.to_executor(JobFinished, BOB)
    assert (event.outcome, event.revoked) == (Outcome.CANCELLED, False)
