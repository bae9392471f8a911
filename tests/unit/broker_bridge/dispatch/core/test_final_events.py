"""Executors hear of their jobs until they have acknowledged that, and adopt those of others."""

from __future__ import annotations

from edge_mqtt.broker_bridge.dispatch.core import events
from edge_mqtt.broker_bridge.dispatch.core.effects import ToAdmin
from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import JobAccepted, JobFinished, JobStarted, Outcome
from tests.support.scenario_dispatch import ALICE, BOB, Scene


def test_a_final_event_that_nobody_ever_fetches_is_given_up() -> None:
    scene = Scene().running().result("w", "j").submit("waiting", queue="nobody")
    scene.do(events.EventsGivenUp(job_ids=(JobId("j"), JobId("waiting"), JobId("unknown"))))
    assert scene.job().event_acked
    assert not scene.job("waiting").event_acked
    assert scene.connect().to_executor(JobFinished) == []


def test_an_acknowledged_event_is_told_no_more() -> None:
    scene = Scene().running().result("w", "j")
    assert len(scene.connect().to_executor(JobFinished)) == 1
    scene.ack("j")
    assert scene.last.changed == (scene.job(),)
    assert scene.connect().effects == ()
    assert scene.ack("x").last.changed == ()


def test_an_unfinished_job_cannot_be_acknowledged() -> None:
    assert not Scene().running().ack("j").job().event_acked


def test_an_executor_that_connects_hears_of_its_own_jobs() -> None:
    scene = Scene().hello("w").submit("a").submit("b").submit("c", BOB).submit("d", BOB).submit("e").submit("f", BOB)
    for job in "abcd":
        scene.accept("w", job).start("w", job)
    scene.result("w", "b").result("w", "d").connect(ALICE)
    assert [event.job_id for event in scene.to_executor(JobStarted)] == ["a"]
    assert [event.job_id for event in scene.to_executor(JobFinished)] == ["b"]
    assert [event.job_id for event in scene.to_executor(JobAccepted)] == ["e"]
    assert len(scene.effects) == 3


def test_adoption_moves_jobs_and_tells_their_states() -> None:
    scene = Scene().running().submit("k", queue="nobody").running("l", "v").result("v", "l")
    scene.adopt("j", "k", "l", "unknown", "j")
    replies = [effect.message for effect in scene.effects if isinstance(effect, ToAdmin)]
    assert [(reply.request_id, reply.states) for reply in replies] == [
        ("a-1", {"j": "running", "k": "queued", "l": "finished"})
    ]
    assert [event.job_id for event in scene.to_executor(JobFinished, BOB)] == ["l"]
    assert {scene.job(job).executor for job in "jkl"} == {BOB}
    assert scene.result("w", "j").to_executor(JobFinished, ALICE) == []
    assert scene.ack("j", ALICE).job().event_acked is False
    assert scene.ack("j", BOB).job().event_acked is True


def test_an_event_that_was_acknowledged_but_not_passed_on_is_told_to_the_adopter() -> None:
    scene = Scene().running().result("w", "j").ack("j").adopt("j")
    assert [event.outcome for event in scene.to_executor(JobFinished, BOB)] == [Outcome.SUCCESS]
    assert not scene.job().event_acked


def test_a_revoked_job_that_is_adopted_tells_its_end_after_all() -> None:
    scene = Scene().running().cancel("j").adopt("j").result("w", "j", exit_code=None, signal=15)
    assert [event.outcome for event in scene.to_executor(JobFinished, BOB)] == [Outcome.CANCELLED]


def test_a_job_that_an_adopter_was_told_is_unknown_is_not_accepted_any_more() -> None:
    scene = Scene().hello("w").adopt("j").submit("j")
    assert scene.view.get_job(JobId("j")) is None
    assert scene.to_executor(JobAccepted) == []
    (denial,) = scene.to_executor(JobFinished)
    assert (denial.outcome, denial.detail) == (Outcome.LOST, "the job arrived after Airflow had given it up")
    assert scene.last.changed == ()


def told(job: str, state: str) -> events.TaskTold:
    return events.TaskTold(job_id=JobId(job), state=state)


def test_what_the_task_told_last_goes_with_its_end() -> None:
    scene = Scene().running().do(told("j", "deferred")).result("w", "j")
    assert [event.told for event in scene.to_executor(JobFinished)] == ["deferred"]
    assert [event.told for event in scene.connect().to_executor(JobFinished)] == ["deferred"]
    adopted = scene.adopt("j", executor=ALICE)
    assert [event.told for event in adopted.to_executor(JobFinished)] == ["deferred"]


def test_a_word_that_was_refused_was_not_told() -> None:
    scene = Scene().running().do(told("j", "deferred")).do(told("j", "")).result("w", "j")
    assert [event.told for event in scene.to_executor(JobFinished)] == [""]


def test_a_word_is_stored_once_and_only_for_a_job_that_runs() -> None:
    assert [job.told for job in Scene().running().do(told("j", "success")).last.changed] == ["success"]
    assert Scene().running().do(told("j", "success")).do(told("j", "success")).last.changed == ()
    assert Scene().do(told("j", "success")).last.changed == ()
    assert Scene().assigned().do(told("j", "success")).last.changed == ()
    assert Scene().running().result("w", "j").do(told("j", "success")).last.changed == ()
