"""The worker's pure decisions."""

from __future__ import annotations

from typing import Any

import pytest

from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId
from edge_mqtt.broker_bridge.protocol.limits import LEASE_MARGIN_S, MAX_LOG_CHUNK_BYTES
from edge_mqtt.broker_bridge.protocol.messages import (
    Assign,
    Finished,
    JobSpec,
    ReportedJobState,
    WorkloadType,
)
from edge_mqtt.worker.core.drain import SIGTERM_DRAIN_S, Drain, Phase, StopSignal
from edge_mqtt.worker.core.job import IllegalTransition, LocalJob, LocalJobState, Verdict, decide_assignment
from edge_mqtt.worker.core.lease import Contact, Due, Lease, due
from edge_mqtt.worker.core.log_cursor import (
    JOB_WINDOW_BYTES,
    SLOW_LINK_BYTES_PER_S,
    STALLED_AFTER_S,
    WORKER_WINDOW_BYTES,
    LogCursor,
    lost_at,
)
from edge_mqtt.worker.core.slots import launchable, used
from edge_mqtt.worker.core.watchdog import LOOKS, Watchdog

WORKLOAD = {"ti": {"id": "x"}, "bundle_info": {"name": "dags"}, "dag_rel_path": "a.py"}


def spec(job_id: str = "j", **fields: object) -> JobSpec:
    values: dict[str, object] = {"type": WorkloadType.TASK, "queue": "default", "workload": WORKLOAD, **fields}
    return JobSpec.model_validate({"job_id": job_id, **values})


def assign(fence: int = 1, **fields: Any) -> Assign:
    return Assign(fence=Fence(fence), job=spec(**fields), lease_s=900.0)


def held(fence: int = 1, state: LocalJobState = LocalJobState.ACCEPTED, **fields: Any) -> LocalJob:
    return LocalJob(spec=spec(**fields), fence=Fence(fence), lease_s=900.0, state=state)


def decide(message: Assign, have: LocalJob | None = None, *, draining: bool = False) -> Verdict:
    return decide_assignment(message, have, queues=("default",), draining=draining).verdict


# ---------------------------------------------------------------- assignments


def test_new_job_is_taken() -> None:
    assert decide(assign()) is Verdict.ACCEPT


@pytest.mark.parametrize("state", [LocalJobState.ACCEPTED, LocalJobState.LAUNCHED, LocalJobState.FINISHED])
def test_repeated_assignment_is_accepted_again_and_nothing_else(state: LocalJobState) -> None:
    assert decide(assign(2), held(2, state)) is Verdict.CONFIRM


def test_repeated_assignment_of_a_dropped_job_is_ignored() -> None:
    assert decide(assign(2), held(2, LocalJobState.DROPPED)) is Verdict.IGNORE


def test_overtaken_assignment_is_ignored() -> None:
    assert decide(assign(1), held(2)) is Verdict.IGNORE


def test_newer_fence_replaces_a_job_that_waits() -> None:
    assert decide(assign(3), held(2)) is Verdict.REPLACE


@pytest.mark.parametrize("state", [LocalJobState.LAUNCHED, LocalJobState.FINISHED, LocalJobState.DROPPED])
def test_newer_fence_is_rejected_while_the_older_one_has_a_process(state: LocalJobState) -> None:
    decision = decide_assignment(assign(3), held(2, state), queues=("default",), draining=False)
    assert decision.verdict is Verdict.REJECT
    assert not decision.permanent


def test_job_of_another_queue_goes_back() -> None:
    decision = decide_assignment(assign(queue="press"), None, queues=("default",), draining=False)
    assert (decision.verdict, decision.permanent) == (Verdict.REJECT, False)
    assert "press" in decision.reason


def test_draining_worker_takes_nothing_new_but_confirms_what_it_has() -> None:
    assert decide(assign(), draining=True) is Verdict.REJECT
    assert decide_assignment(assign(), None, queues=("default",), draining=True).takes_none
    assert decide(assign(), held(), draining=True) is Verdict.CONFIRM


@pytest.mark.parametrize(
    "fields",
    [
        {"workload": {"ti": {}}},
        {"type": WorkloadType.CALLBACK},
        {"type": WorkloadType.CONNECTION_TEST},
        {"log_path": "/etc/passwd"},
        {"log_path": "a/../../b"},
        {"log_path": ""},
    ],
)
def test_job_that_nobody_could_run_fails_for_good(fields: dict[str, Any]) -> None:
    decision = decide_assignment(assign(**fields), None, queues=("default",), draining=False)
    assert (decision.verdict, decision.permanent) == (Verdict.REJECT, True)


def test_job_with_an_ordinary_log_path_is_taken() -> None:
    assert decide(assign(log_path="dag_id=a/attempt=1.log")) is Verdict.ACCEPT


# ---------------------------------------------------------------- states


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        ({"dag_id": "etl", "task_id": "pull", "run_id": "manual__1", "try_number": 2}, "etl.pull manual__1 try 2"),
        (
            {"dag_id": "etl", "task_id": "pull", "run_id": "manual__1", "try_number": 1, "map_index": 3},
            "etl.pull[3] manual__1 try 1",
        ),
        ({"type": WorkloadType.CONNECTION_TEST}, f"{WorkloadType.CONNECTION_TEST} j"),
    ],
)
def test_job_is_called_what_people_call_it(fields: dict[str, Any], label: str) -> None:
    assert held(**fields).label == label


def test_finished_job_cannot_be_launched() -> None:
    with pytest.raises(IllegalTransition, match="from finished to launched"):
        held(state=LocalJobState.FINISHED).moved_to(LocalJobState.LAUNCHED)


def test_transition_keeps_what_it_is_not_told_to_change() -> None:
    launched = held().moved_to(LocalJobState.LAUNCHED, secret="s", log_base=7)
    assert (launched.job_id, launched.state, launched.secret, launched.log_base) == (
        "j",
        LocalJobState.LAUNCHED,
        "s",
        7,
    )


def test_presence_names_live_jobs_and_not_dropped_ones() -> None:
    assert held(state=LocalJobState.DROPPED).to_report() is None
    told = held(5, LocalJobState.LAUNCHED).to_report()
    assert told is not None
    assert (told.fence, told.state) == (5, ReportedJobState.RUNNING)


def test_job_is_settled_only_with_result_and_log_stored() -> None:
    result = Finished(job_id=JobId("j"), fence=Fence(1), exit_code=0)
    open_job = LocalJob(spec=spec(), fence=Fence(1), lease_s=900.0, state=LocalJobState.FINISHED, result=result)
    acked = LocalJob(
        spec=spec(), fence=Fence(1), lease_s=900.0, state=LocalJobState.FINISHED, result=result, result_acked=True
    )
    assert not held().is_settled(log_stored=True)
    assert not open_job.is_settled(log_stored=True)
    assert not acked.is_settled(log_stored=False)
    assert acked.is_settled(log_stored=True)


# ---------------------------------------------------------------- slots


def test_jobs_are_launched_in_order_until_the_slots_are_taken() -> None:
    jobs = [held(job_id="a", slots=2), held(job_id="b"), held(job_id="c")]
    assert [job.job_id for job in launchable(jobs, 3)] == ["a", "b"]


def test_nothing_overtakes_a_job_that_does_not_fit() -> None:
    jobs = [
        held(job_id="run", state=LocalJobState.LAUNCHED, slots=2),
        held(job_id="big", slots=3),
        held(job_id="small"),
    ]
    assert launchable(jobs, 4) == []


def test_a_job_that_cannot_be_launched_now_keeps_no_slots_from_those_behind_it() -> None:
    jobs = [held(job_id="big", slots=3), held(job_id="small")]
    assert [job.job_id for job in launchable(jobs, 3, but={JobId("big")})] == ["small"]


def test_job_larger_than_the_worker_takes_all_of_it() -> None:
    jobs = [held(job_id="huge", slots=99)]
    assert [job.job_id for job in launchable(jobs, 2)] == ["huge"]
    assert used([held(state=LocalJobState.DROPPED, slots=99)], 2) == 2


def test_finished_jobs_take_no_slots() -> None:
    assert used([held(state=LocalJobState.FINISHED), held()], 2) == 0


# ---------------------------------------------------------------- drain


def test_first_interrupt_waits_for_ever_by_default() -> None:
    drain = Drain().after_signal(StopSignal.INTERRUPT, 10.0, drain_timeout_s=0)
    assert drain.phase is Phase.DRAINING
    assert not drain.accepts_jobs
    assert drain.at(1e9).phase is Phase.DRAINING


def test_drain_timeout_ends_in_termination() -> None:
    drain = Drain().after_signal(StopSignal.INTERRUPT, 10.0, drain_timeout_s=5.0)
    assert drain.at(14.9).phase is Phase.DRAINING
    assert drain.at(15.0).phase is Phase.TERMINATING


def test_terminate_waits_a_short_time_however_long_the_drain_timeout_is() -> None:
    drain = Drain().after_signal(StopSignal.TERMINATE, 0.0, drain_timeout_s=3600)
    assert drain.deadline == SIGTERM_DRAIN_S
    assert Drain().after_signal(StopSignal.TERMINATE, 0.0, drain_timeout_s=0).deadline == SIGTERM_DRAIN_S


@pytest.mark.parametrize("second", list(StopSignal))
def test_second_signal_terminates_at_once(second: StopSignal) -> None:
    drain = (
        Drain()
        .after_signal(StopSignal.INTERRUPT, 0.0, drain_timeout_s=0)
        .after_signal(second, 1.0, drain_timeout_s=0)
    )
    assert drain.phase is Phase.TERMINATING
    assert drain.after_signal(second, 2.0, drain_timeout_s=0).phase is Phase.TERMINATING


def test_serving_worker_takes_jobs() -> None:
    assert Drain().accepts_jobs
    assert Drain().at(1e9) == Drain()


# ---------------------------------------------------------------- lease


def test_lease_is_over_on_the_worker_before_it_is_over_in_the_centre() -> None:
    lease = Lease.granted(confirmed_at=100.0, lease_s=900.0, kill_grace_s=10.0)
    assert lease.kill_at == 1000.0 - LEASE_MARGIN_S
    assert lease.stop_at == lease.kill_at - 10.0


def test_every_lease_counts_from_the_same_contact() -> None:
    contact = Contact(confirmed_at=100.0, kill_grace_s=10.0)
    for lease_s in (60.0, 900.0):
        assert contact.lease(lease_s) == Lease.granted(confirmed_at=100.0, lease_s=lease_s, kill_grace_s=10.0)


def test_contact_survives_its_file_and_garbage_is_no_contact() -> None:
    contact = Contact(confirmed_at=1.5, kill_grace_s=10.0)
    assert Contact.from_json(contact.to_json(), now=2.0) == contact
    for garbage in (b"", b"[]", b"7", b"{}", b'{"confirmed_at": 1}', b'{"confirmed_at": "x", "kill_grace_s": 1}'):
        assert Contact.from_json(garbage, now=1e9) is None


def test_contact_of_an_earlier_boot_is_no_contact() -> None:
    contact = Contact(confirmed_at=5000.0, kill_grace_s=10.0)
    assert Contact.from_json(contact.to_json(), now=20.0) is None


@pytest.mark.parametrize(
    ("now", "todo"), [(984.9, Due.NOTHING), (985.0, Due.STOP), (994.9, Due.STOP), (995.0, Due.KILL), (1e9, Due.KILL)]
)
def test_job_without_a_worker_is_stopped_and_then_killed_when_its_lease_ends(now: float, todo: Due) -> None:
    contact = Contact(confirmed_at=100.0, kill_grace_s=10.0)
    assert due(contact, lease_s=895.0 + LEASE_MARGIN_S, now=now) is todo


def test_job_without_a_worker_that_was_never_permitted_to_run_is_killed() -> None:
    assert due(None, lease_s=900.0, now=0.0) is Due.KILL


# ---------------------------------------------------------------- silence

A, B = JobId("a"), JobId("b")


def looks(silence: Watchdog, count: int, *, waiting: tuple[JobId, ...] = ()) -> list[JobId]:
    """Look at A and B ``count`` times; return the last look's verdict."""
    for _ in range(count - 1):
        silence.find_hung([A, B], waiting=waiting)
    return silence.find_hung([A, B], waiting=waiting)


def test_supervisor_that_says_nothing_for_too_many_looks_is_found() -> None:
    silence = Watchdog()
    assert looks(silence, LOOKS) == []
    silence.record_call(B)
    assert looks(silence, 1) == [A]
    assert looks(silence, 1) == [A]


def test_supervisor_that_waits_for_an_answer_owes_no_word() -> None:
    silence = Watchdog()
    assert looks(silence, 10 * LOOKS, waiting=(A, B)) == []
    assert looks(silence, LOOKS, waiting=(A,)) == []
    assert looks(silence, 1, waiting=(A,)) == [B]


def test_job_that_is_looked_at_no_more_is_forgotten() -> None:
    silence = Watchdog()
    looks(silence, LOOKS)
    silence.find_hung([B], waiting=())
    assert silence.find_hung([A], waiting=()) == []


# ---------------------------------------------------------------- log cursor


def test_cursor_sends_chunks_up_to_its_window_and_no_further() -> None:
    cursor, size = LogCursor(), 10 * JOB_WINDOW_BYTES
    sent = 0
    while length := cursor.next_length(size, WORKER_WINDOW_BYTES, MAX_LOG_CHUNK_BYTES):
        assert length <= MAX_LOG_CHUNK_BYTES
        cursor.record_sent(length, lost_at=0.0)
        sent += length
    assert sent == cursor.in_flight == JOB_WINDOW_BYTES


def test_cursor_respects_the_room_that_the_worker_has_left() -> None:
    assert LogCursor().next_length(1000, 10, MAX_LOG_CHUNK_BYTES) == 10
    assert LogCursor().next_length(1000, -5, MAX_LOG_CHUNK_BYTES) == 0
    assert LogCursor(acked=5, sent=5).next_length(5, 1000, MAX_LOG_CHUNK_BYTES) == 0


def test_a_lower_acknowledgement_means_that_the_centre_has_lost_bytes_and_wants_them_again() -> None:
    cursor = LogCursor()
    cursor.record_sent(100, lost_at=0.0)
    cursor.record_ack(60, lost_at=1.0)
    assert cursor.record_ack(10, lost_at=2.0)
    assert (cursor.acked, cursor.sent) == (10, 10)


def test_acknowledgement_advances_and_a_repeated_one_is_no_news() -> None:
    cursor = LogCursor()
    cursor.record_sent(100, lost_at=0.0)
    assert cursor.record_ack(60, lost_at=1.0)
    assert not cursor.record_ack(60, lost_at=2.0)
    assert (cursor.acked, cursor.sent, cursor.in_flight) == (60, 100, 40)


def test_acknowledgement_beyond_what_this_connection_sent_is_believed() -> None:
    cursor = LogCursor()
    assert cursor.record_ack(500, lost_at=0.0)
    assert cursor.in_flight == 0


def test_cursor_goes_back_when_nothing_is_acknowledged() -> None:
    cursor = LogCursor()
    cursor.record_sent(100, lost_at=10.0)
    cursor.record_sent(100, lost_at=12.0)
    assert not cursor.rewind_if_stalled(9.9)
    assert cursor.rewind_if_stalled(10.0)
    assert cursor.sent == 0
    assert not cursor.rewind_if_stalled(1e9)


def test_what_is_on_the_way_is_given_the_time_that_a_slow_link_takes_for_everything() -> None:
    assert lost_at(10.0, 0) == 10.0 + STALLED_AFTER_S
    assert lost_at(10.0, 3 * SLOW_LINK_BYTES_PER_S) == 13.0 + STALLED_AFTER_S


def test_cursor_resumes_where_the_centre_says_even_if_that_is_further_back() -> None:
    cursor = LogCursor(acked=100, sent=200)
    cursor.resume_at(40)
    assert (cursor.acked, cursor.sent) == (40, 40)
