"""A job from its submission to its end."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from edge_mqtt.broker_bridge.dispatch.core import events
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState
from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import (
    Cancel,
    JobAccepted,
    JobFinished,
    JobStarted,
    Outcome,
    ResultAck,
    WorkerState,
)
from tests.support.scenario_dispatch import ALICE, BOB, GRACE_S, Scene, spec


def test_a_submitted_job_is_accepted_and_waits() -> None:
    scene = Scene().submit("j", priority=7)
    job = scene.job()
    assert (job.state, job.fence, job.sequence, job.executor) == (CentralJobState.QUEUED, 1, 1, ALICE)
    assert job.token == "token of j"
    assert scene.last.changed == (job,)
    assert scene.to_executor(JobAccepted) == [JobAccepted(job_id=JobId("j"))]


def test_a_token_shows_in_no_text() -> None:
    scene = Scene()
    event = events.Submitted(executor=ALICE, job=spec("j"), token="very-secret")
    scene.do(event)
    refreshed = events.TokenRefreshed(job_id=JobId("j"), token="very-secret")
    assert "very-secret" not in f"{event!r} {scene.job()!r} {scene.last!r} {refreshed!r}"


def test_a_repeated_submission_changes_nothing_and_is_answered() -> None:
    scene = Scene().submit("j").submit("j", priority=9)
    assert scene.last.changed == ()
    assert scene.job().spec.priority == 1
    assert len(scene.to_executor(JobAccepted)) == 1


def test_a_repeated_submission_of_a_finished_job_brings_its_end_until_that_is_acknowledged() -> None:
    scene = Scene().running().result("w", "j").submit("j")
    assert [event.outcome for event in scene.to_executor(JobFinished)] == [Outcome.SUCCESS]
    scene.ack("j").submit("j")
    assert scene.to_executor(JobFinished) == []
    assert len(scene.to_executor(JobAccepted)) == 1


def test_a_confirmed_assignment_is_kept_as_such() -> None:
    scene = Scene().assigned()
    assert not scene.job().accepted
    scene.accept("w", "j")
    assert scene.job().accepted
    assert scene.last.changed == (scene.job(),)
    assert scene.accept("w", "j").last.changed == ()


@pytest.mark.parametrize(("worker", "fence"), [("w", 2), ("other", 1)])
def test_a_worker_that_confirms_what_is_not_its_own_is_told_to_stop(worker: str, fence: int) -> None:
    scene = Scene().assigned().accept(worker, "j", fence)
    (cancel,) = scene.to_worker(Cancel, worker)
    assert (cancel.job_id, cancel.fence) == ("j", fence)
    assert not scene.job().accepted


# ---------------------------------------------------------------- start


def test_a_start_is_granted_to_the_holder_and_told_to_the_executor() -> None:
    scene = Scene().assigned().start("w", "j", starter="host:77")
    assert scene.decided().granted
    assert scene.decided().request_id == "r-1"
    assert (scene.job().state, scene.job().starter, scene.job().accepted) == (
        CentralJobState.RUNNING,
        "host:77",
        True,
    )
    assert scene.to_executor(JobStarted) == [JobStarted(job_id=JobId("j"), worker="w")]
    assert scene.last.changed == (scene.job(),)


def test_the_same_process_may_ask_again() -> None:
    scene = Scene().running().start("w", "j")
    assert scene.decided().granted
    assert scene.last.changed == ()
    assert scene.to_executor(JobStarted) == []


def test_a_second_process_is_refused() -> None:
    scene = Scene().running().start("w", "j", starter="host:2")
    assert not scene.decided().granted
    assert scene.decided().reason == "the job was started by host:1"
    assert scene.job().starter == "host:1"


@pytest.mark.parametrize(("worker", "job", "fence"), [("w", "j", 2), ("w", "j", 0), ("v", "j", 1), ("w", "x", 1)])
def test_nobody_else_may_start_a_job(worker: str, job: str, fence: int) -> None:
    scene = Scene().assigned().start(worker, job, fence)
    assert not scene.decided().granted
    assert "no longer assigned" in scene.decided().reason
    assert scene.last.changed == ()


def test_a_job_that_went_back_to_the_queue_cannot_be_started_under_its_old_fence() -> None:
    scene = Scene().assigned().will("w").start("w", "j", fence=1)
    assert not scene.decided().granted
    assert scene.state() == (CentralJobState.QUEUED, None, 2)


def test_a_cancelled_job_cannot_be_started() -> None:
    scene = Scene().assigned().cancel("j").start("w", "j")
    assert not scene.decided().granted
    assert scene.decided().reason == "revoked by Airflow"
    assert scene.job().state is CentralJobState.ASSIGNED


def test_a_finished_job_cannot_be_started_again() -> None:
    assert not Scene().running().result("w", "j").start("w", "j").decided().granted


# ---------------------------------------------------------------- result


@pytest.mark.parametrize(
    ("result", "outcome", "detail"),
    [
        ({"exit_code": 0}, Outcome.SUCCESS, ""),
        ({"exit_code": 1}, Outcome.FAILED, "exit code 1"),
        ({"exit_code": 1, "error": "no\nsuch  file"}, Outcome.FAILED, "exit code 1: no such file"),
        ({"exit_code": None, "signal": 9}, Outcome.FAILED, "killed by SIGKILL (likely out of memory)"),
        ({"exit_code": None, "signal": int(signal.SIGSEGV)}, Outcome.FAILED, "killed by SIGSEGV"),
        ({"exit_code": None, "signal": 250}, Outcome.FAILED, "killed by signal 250"),
        ({"exit_code": None, "error": "the machine rebooted"}, Outcome.FAILED, "the machine rebooted"),
        ({"exit_code": None}, Outcome.FAILED, "the worker gave no reason"),
    ],
)
def test_a_result_ends_the_job(result: dict[str, Any], outcome: Outcome, detail: str) -> None:
    scene = Scene().running().result("w", "j", log_size=77, **result)
    job = scene.job()
    assert (job.state, job.outcome, job.detail, job.log_size) == (CentralJobState.FINISHED, outcome, detail, 77)
    assert job.token is None
    assert scene.to_worker(ResultAck) == [ResultAck(job_id=job.id, fence=job.fence)]
    expected = JobFinished(job_id=job.id, outcome=outcome, detail=detail, worker="w")
    assert scene.to_executor(JobFinished) == [expected]


def test_a_result_without_a_start_ends_the_job_too() -> None:
    scene = Scene().assigned().result("w", "j", exit_code=1, error="cannot import the Dag")
    assert scene.job().outcome is Outcome.FAILED


@pytest.mark.parametrize(("worker", "job", "fence"), [("w", "j", 2), ("v", "j", 1), ("w", "x", 1)])
def test_a_stale_result_is_acknowledged_and_changes_nothing(worker: str, job: str, fence: int) -> None:
    scene = Scene().running().result(worker, job, fence)
    assert len(scene.to_worker(ResultAck, worker)) == 1
    assert scene.last.changed == ()
    assert scene.job().state is CentralJobState.RUNNING


def test_a_repeated_result_is_acknowledged_again_and_told_once() -> None:
    scene = Scene().running().result("w", "j").result("w", "j", exit_code=1)
    assert len(scene.to_worker(ResultAck)) == 1
    assert scene.to_executor(JobFinished) == []
    assert scene.job().outcome is Outcome.SUCCESS


def test_expired_lease_cannot_report_success() -> None:
    scene = Scene().running().tick(GRACE_S)
    assert scene.job().outcome is Outcome.LOST
    scene.result("w", "j")
    assert scene.job().outcome is Outcome.LOST
    assert len(scene.to_worker(ResultAck)) == 1


# ---------------------------------------------------------------- rejection


def test_a_refused_job_goes_to_another_worker_under_a_new_fence() -> None:
    scene = Scene().assigned().hello("v", concurrency=1).reject("w", "j")
    assert scene.assignments() == [("j", "v", 2)]


def test_a_worker_that_refused_a_job_gets_it_again_after_a_pause_when_there_is_nobody_else() -> None:
    scene = Scene().assigned().reject("w", "j")
    assert scene.state() == (CentralJobState.QUEUED, None, 2)
    assert scene.assignments() == []
    assert scene.dispatcher.next_deadline() == scene.now + 5
    assert scene.tick(5).assignments() == [("j", "w", 2)]


def test_a_paused_job_goes_to_another_worker_that_comes() -> None:
    scene = Scene().assigned().reject("w", "j").hello("v", concurrency=1)
    assert scene.assignments() == [("j", "v", 2)]
    assert scene.will("v").assignments() == []
    assert scene.tick(5).assignments() == [("j", "w", 3)]


def test_a_job_that_no_worker_can_take_fails_with_the_reason() -> None:
    scene = Scene().assigned().reject("w", "j", permanent=True)
    assert (scene.job().outcome, scene.job().detail) == (Outcome.FAILED, "spool full")
    assert [event.detail for event in scene.to_executor(JobFinished)] == ["spool full"]


def test_a_stale_refusal_changes_nothing() -> None:
    assert Scene().assigned().reject("w", "j", 2).last.changed == ()
    assert Scene().running().reject("w", "j").last.changed == ()


@pytest.mark.parametrize("permanent", [True, False])
def test_a_refused_job_that_was_cancelled_is_over(permanent: bool) -> None:
    scene = Scene().assigned().cancel("j").reject("w", "j", permanent=permanent)
    assert scene.job().outcome is Outcome.CANCELLED
    assert scene.effects == ()


def test_a_beginning_and_an_end_are_noted_once_whoever_hears_of_them_how_often() -> None:
    scene = Scene().running()
    assert scene.moves() == [("j", CentralJobState.RUNNING)]
    assert scene.start("w", "j").moves() == []
    assert scene.connect().moves() == []
    assert scene.result("w", "j").moves() == [("j", CentralJobState.FINISHED)]
    for again in (scene.result("w", "j"), scene.connect(), scene.adopt("j"), scene.ack("j", BOB)):
        assert again.moves() == []


# ---------------------------------------------------------------- Airflow refuses


def test_a_job_whose_start_airflow_refused_ends_with_that_reason() -> None:
    scene = Scene().running()
    scene.do(events.StartRefused(job_id=JobId("j"), reason="invalid_state: not queued"))
    assert scene.effects == ()
    scene.result("w", "j", exit_code=1)
    assert [(end.outcome, end.detail) for end in scene.to_executor(JobFinished)] == [
        (Outcome.CANCELLED, "invalid_state: not queued")
    ]


def test_a_refused_start_changes_nothing_for_a_job_that_is_over_or_cancelled_or_unknown() -> None:
    refused = events.StartRefused(job_id=JobId("j"), reason="invalid_state: not queued")
    assert Scene().do(refused).last.changed == ()
    assert Scene().running().result("w", "j").do(refused).last.changed == ()
    assert Scene().running().cancel("j").do(refused).last.changed == ()


# ---------------------------------------------------------------- token and log


def test_the_newest_token_is_kept_while_the_job_lives() -> None:
    scene = Scene().running()
    scene.do(events.TokenRefreshed(job_id=JobId("j"), token="new"))
    assert scene.job().token == "new"
    assert scene.last.changed == (scene.job(),)
    scene.result("w", "j").do(events.TokenRefreshed(job_id=JobId("j"), token="late"))
    assert scene.job().token is None
    assert scene.do(events.TokenRefreshed(job_id=JobId("x"), token="t")).last.changed == ()


def test_the_latest_call_that_may_not_simply_be_made_twice_is_kept_while_the_job_lives() -> None:
    scene = Scene().running()
    for call in ("absent r1", "0 r2"):
        scene.do(events.CallForwarded(job_id=JobId("j"), call=call))
        assert scene.job().forwarded == call
        assert scene.last.changed == (scene.job(),)
    scene.result("w", "j").do(events.CallForwarded(job_id=JobId("j"), call="0 r3"))
    assert scene.job().forwarded == "0 r2"
    assert scene.do(events.CallForwarded(job_id=JobId("x"), call="0 r1")).last.changed == ()


def test_the_log_begins_where_it_was_last_said_to_begin() -> None:
    scene = Scene().running().do(events.LogOpened(job_id=JobId("j"), base=300))
    assert scene.do(events.LogOpened(job_id=JobId("j"), base=300)).last.changed == ()
    scene.do(events.LogOpened(job_id=JobId("j"), base=400))
    assert scene.job().log_base == 400
    assert scene.do(events.LogOpened(job_id=JobId("x"), base=0)).last.changed == ()


def test_a_log_goes_on_behind_others_which_keep_what_is_there_of_them() -> None:
    scene = Scene().running().do(events.LogOpened(job_id=JobId("j"), base=0))
    left = events.LogLeft(job_id=JobId("j"), base=0, kept=70)
    unknown = events.LogLeft(job_id=JobId("x"), base=0, kept=70)
    scene.do(events.LogOpened(job_id=JobId("other"), base=None, left=(left, unknown)))
    assert (scene.job().log_base, scene.job().log_kept, scene.job().log_left) == (0, 70, True)
    scene.do(events.LogOpened(job_id=JobId("j"), base=None))
    assert scene.job().log_left
    scene.do(events.LogOpened(job_id=JobId("j"), base=0))
    assert (scene.job().log_base, scene.job().log_kept, scene.job().log_left) == (0, 70, False)


# ---------------------------------------------------------------- executors


def test_a_draining_worker_still_starts_and_finishes_what_it_has() -> None:
    scene = Scene().assigned().presence("w", state=WorkerState.DRAINING).start("w", "j")
    assert scene.decided().granted
    assert scene.result("w", "j").job().outcome is Outcome.SUCCESS
