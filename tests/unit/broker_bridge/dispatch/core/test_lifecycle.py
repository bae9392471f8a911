"""A job from its submission to its end."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from edge_mqtt.broker_bridge.dispatch.core import events
from edge_mqtt.broker_bridge.dispatch.core.effects import ToAdmin
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState
from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import (
    Cancel,
    CancelAck,
    JobAccepted,
    JobFinished,
    JobStarted,
    Outcome,
    ResultAck,
    WorkerState,
)
from tests.support.scenario_dispatch import ALICE, BOB, GRACE_S, SETTLE_S, Scene, spec


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


# ---------------------------------------------------------------- cancellation


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


# ---------------------------------------------------------------- withdrawing


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


# ---------------------------------------------------------------- events that nobody fetches


def test_a_final_event_that_nobody_ever_fetches_is_given_up() -> None:
    scene = Scene().running().result("w", "j").submit("waiting", queue="nobody")
    scene.do(events.EventsGivenUp(job_ids=(JobId("j"), JobId("waiting"), JobId("unknown"))))
    assert scene.job().event_acked
    assert not scene.job("waiting").event_acked
    assert scene.connect().to_executor(JobFinished) == []


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


def test_a_draining_worker_still_starts_and_finishes_what_it_has() -> None:
    scene = Scene().assigned().presence("w", state=WorkerState.DRAINING).start("w", "j")
    assert scene.decided().granted
    assert scene.result("w", "j").job().outcome is Outcome.SUCCESS


# ---------------------------------------------------------------- what the task has told


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
