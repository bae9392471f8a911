"""A job is cancelled, withdrawn or ended by Airflow, wherever it is just then."""

from __future__ import annotations

from edge_mqtt.broker_bridge.dispatch.core import events
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState
from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import Cancel, CancelAck, JobAccepted, JobFinished, Outcome
from tests.support.scenario_dispatch import ALICE, BOB, GRACE_S, SETTLE_S, Scene


def test_a_waiting_job_is_cancelled_at_once_and_its_end_is_told_to_nobody() -> None:
    scene = Scene().submit("j").cancel("j")
    job = scene.job()
    assert (job.state, job.outcome, job.event_acked, job.token) == (
        CentralJobState.FINISHED,
        Outcome.CANCELLED,
        True,
        None,
    )
    assert [ack.job_id for ack in scene.to_executor(CancelAck)] == ["j"]
    assert len(scene.effects) == 1
    assert scene.moves() == [("j", CentralJobState.FINISHED)]
    assert scene.hello("w").assignments() == []


def test_a_running_job_is_cancelled_by_its_worker_and_its_end_is_told_to_nobody() -> None:
    scene = Scene().running().cancel("j")
    (cancel,) = scene.to_worker(Cancel)
    assert (cancel.job_id, cancel.fence, cancel.reason) == ("j", 1, "revoked by Airflow")
    assert scene.job().state is CentralJobState.RUNNING
    scene.result("w", "j", exit_code=None, signal=15)
    assert (scene.job().outcome, scene.job().detail) == (Outcome.CANCELLED, "revoked by Airflow")
    assert scene.to_executor(JobFinished) == []
    assert scene.connect().effects == ()


def test_a_repeated_cancellation_is_passed_on_again() -> None:
    scene = Scene().running().ended("j").cancel("j")
    assert [cancel.reason for cancel in scene.to_worker(Cancel)] == ["marked failed in the UI"]
    assert scene.job().event_acked


def test_a_finished_job_is_not_reported_after_it_was_cancelled() -> None:
    scene = Scene().running().result("w", "j").cancel("j")
    assert scene.job().outcome is Outcome.SUCCESS
    assert scene.connect().to_executor(JobFinished) == []


def test_a_job_that_was_revoked_before_it_arrived_never_runs() -> None:
    scene = Scene().hello("w").cancel("j", executor=BOB)
    assert [ack.job_id for ack in scene.to_executor(CancelAck, BOB)] == ["j"]
    scene.submit("j")
    assert scene.to_executor(JobAccepted) == []
    assert [(end.outcome, end.revoked) for end in scene.to_executor(JobFinished)] == [(Outcome.CANCELLED, True)]


def test_the_cancellation_of_a_job_that_is_over_for_long_is_acknowledged() -> None:
    scene = Scene(remembered_jobs=0).running().result("w", "j").ack("j")
    event = events.CancelAsked(executor=ALICE, job_id=JobId("j"))
    assert scene.missing(event) == ("j",)
    scene.recall(scene.all_changed[JobId("j")])
    assert [ack.job_id for ack in scene.do(event).to_executor(CancelAck)] == ["j"]
    assert scene.to_executor(JobFinished) == []


def test_an_owner_hears_the_end_of_a_job_that_another_executor_revoked_until_it_acknowledges_that() -> None:
    scene = Scene().submit("j").cancel("j", executor=BOB)
    assert [ack.job_id for ack in scene.to_executor(CancelAck, BOB)] == ["j"]
    assert [(end.outcome, end.revoked) for end in scene.to_executor(JobFinished)] == [(Outcome.CANCELLED, True)]
    assert len(scene.connect().to_executor(JobFinished)) == 1
    assert scene.ack("j").connect().to_executor(JobFinished) == []


def test_an_owner_hears_the_end_of_a_running_job_that_another_executor_revoked() -> None:
    scene = Scene().running().cancel("j", executor=BOB)
    assert len(scene.to_worker(Cancel)) == 1
    scene.result("w", "j", exit_code=None, signal=15)
    assert [(end.outcome, end.revoked) for end in scene.to_executor(JobFinished)] == [(Outcome.CANCELLED, True)]
    assert scene.to_executor(JobFinished, BOB) == []


def test_a_finished_job_that_another_executor_revokes_still_ends_for_its_owner() -> None:
    scene = Scene().running().result("w", "j").cancel("j", executor=BOB)
    assert [end.outcome for end in scene.connect().to_executor(JobFinished)] == [Outcome.SUCCESS]


def test_a_queued_job_that_is_withdrawn_ends_and_its_executor_is_told() -> None:
    scene = Scene().submit("j").withdraw("j")
    assert [ack.job_id for ack in scene.to_executor(CancelAck)] == ["j"]
    assert [(end.outcome, end.revoked) for end in scene.to_executor(JobFinished)] == [(Outcome.CANCELLED, True)]
    assert len(scene.connect().to_executor(JobFinished)) == 1
    assert scene.ack("j").connect().effects == ()
    assert scene.hello("w").assignments() == []


def test_an_assigned_job_that_is_withdrawn_is_taken_from_its_worker_and_never_starts() -> None:
    scene = Scene().hello("w").submit("j").accept("w", "j").withdraw("j")
    assert len(scene.to_worker(Cancel)) == 1
    assert not scene.start("w", "j").decided().granted
    scene.reject("w", "j")
    assert [(end.outcome, end.revoked) for end in scene.to_executor(JobFinished)] == [(Outcome.CANCELLED, True)]


def test_a_job_that_has_started_is_not_withdrawn() -> None:
    scene = Scene().running().withdraw("j")
    assert [ack.job_id for ack in scene.to_executor(CancelAck)] == ["j"]
    assert len(scene.effects) == 1
    scene.result("w", "j").withdraw("j")
    assert len(scene.effects) == 1
    assert [end.outcome for end in scene.connect().to_executor(JobFinished)] == [Outcome.SUCCESS]


def test_a_job_that_was_withdrawn_before_it_arrived_never_runs() -> None:
    scene = Scene().hello("w").withdraw("j").submit("j")
    assert scene.to_executor(JobAccepted) == []
    assert [(end.outcome, end.revoked) for end in scene.to_executor(JobFinished)] == [(Outcome.CANCELLED, True)]


def test_a_cancelled_job_whose_worker_is_away_is_told_at_its_return() -> None:
    scene = Scene().running().will("w").cancel("j")
    assert scene.to_worker(Cancel) == []
    assert scene.job().cancel_reason == "revoked by Airflow"


def test_a_confirmation_that_crosses_a_cancellation_brings_it_again() -> None:
    scene = Scene().assigned().cancel("j").accept("w", "j")
    assert len(scene.to_worker(Cancel)) == 1


def test_a_task_that_airflow_ended_is_stopped_and_its_end_told() -> None:
    scene = Scene().running().ended("j")
    assert [cancel.reason for cancel in scene.to_worker(Cancel)] == ["marked failed in the UI"]
    assert scene.ended("j").effects == ()
    scene.result("w", "j", exit_code=None, signal=15)
    assert [event.outcome for event in scene.to_executor(JobFinished)] == [Outcome.CANCELLED]


def test_a_task_that_succeeds_while_it_is_being_stopped_has_succeeded() -> None:
    scene = Scene().running().ended("j").result("w", "j")
    assert scene.job().outcome is Outcome.SUCCESS


def test_only_a_held_job_can_be_ended_by_airflow() -> None:
    assert Scene().submit("j").ended("j").last.changed == ()
    assert Scene().ended("j").last.changed == ()
    assert Scene().running().result("w", "j").ended("j").last.changed == ()


def test_a_cancelled_job_that_was_never_confirmed_is_over_when_the_time_for_that_is() -> None:
    scene = Scene().assigned().cancel("j").tick(SETTLE_S).tick(SETTLE_S)
    assert scene.job().outcome is Outcome.CANCELLED


def test_a_cancelled_running_job_is_over_at_the_end_of_its_lease() -> None:
    scene = Scene().running().cancel("j").tick(GRACE_S)
    assert (scene.job().outcome, scene.job().detail) == (Outcome.CANCELLED, "revoked by Airflow")
    assert scene.to_executor(JobFinished) == []
