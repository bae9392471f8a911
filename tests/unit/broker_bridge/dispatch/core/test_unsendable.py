"""Jobs that cannot be taken in, or cannot be sent: they fail with the reason, and nothing that runs is touched."""

from __future__ import annotations

import pytest

from edge_mqtt.broker_bridge.dispatch.core import events
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState
from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import JobAccepted, JobFinished, Outcome
from tests.support.scenario_dispatch import ALICE, BOB, Scene

WHY = "workload: it is nested more than 100 levels deep"
SUBMISSION_FAILED = events.SubmissionFailed(executor=ALICE, job_id=JobId("j"), reason=WHY)
SENDING_FAILED = events.SendingFailed(job_id=JobId("j"), reason=WHY)


def test_a_job_that_was_not_taken_in_has_failed_and_nothing_is_kept_of_it() -> None:
    scene = Scene().do(SUBMISSION_FAILED)
    (failure,) = scene.to_executor(JobFinished)
    assert (failure.job_id, failure.outcome, failure.detail, failure.revoked) == ("j", Outcome.FAILED, WHY, False)
    assert scene.view.get_job(JobId("j")) is None
    assert scene.last.changed == ()


def test_the_ledger_is_asked_whether_the_job_was_taken_in_before() -> None:
    assert Scene().missing(SUBMISSION_FAILED) == ("j",)


def test_a_malformed_repetition_does_not_touch_a_job_that_runs() -> None:
    scene = Scene().running().do(SUBMISSION_FAILED)
    assert scene.to_executor(JobFinished) == []
    assert len(scene.to_executor(JobAccepted)) == 1
    assert scene.job().state is CentralJobState.RUNNING


def test_a_malformed_repetition_of_a_job_that_is_over_is_told_its_end() -> None:
    scene = Scene().running().result("w", "j", exit_code=0).do(SUBMISSION_FAILED)
    assert [event.outcome for event in scene.to_executor(JobFinished)] == [Outcome.SUCCESS]


@pytest.mark.parametrize("scene", [Scene().submit("j"), Scene().assigned()])
def test_a_job_that_no_worker_can_be_given_fails_with_the_reason(scene: Scene) -> None:
    scene.do(SENDING_FAILED)
    (failure,) = scene.to_executor(JobFinished)
    assert (failure.outcome, failure.detail) == (Outcome.FAILED, WHY)
    assert scene.job().state is CentralJobState.FINISHED


def test_what_runs_was_sent_and_goes_on() -> None:
    scene = Scene().running().do(SENDING_FAILED)
    assert scene.job().state is CentralJobState.RUNNING
    assert scene.last.effects == ()
    assert Scene().do(SENDING_FAILED).last.effects == (), "nor is a job made of one that nobody knows"


def test_a_job_that_was_to_be_cancelled_is_cancelled() -> None:
    scene = Scene().assigned().cancel("j", BOB).do(SENDING_FAILED)
    assert [event.outcome for event in scene.to_executor(JobFinished)] == [Outcome.CANCELLED]
