"""The link keeps everything until the bridge has answered it, whatever the connection does."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from edge_mqtt.broker_bridge.protocol import codec
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, JobId
from edge_mqtt.broker_bridge.protocol.messages import (
    TAKEN,
    TAKEN_OVER,
    AdoptRequest,
    Assign,
    CancelJob,
    ErrorReply,
    EventAck,
    ExecutorHello,
    JobAccepted,
    JobFinished,
    JobSpec,
    JobStarted,
    Message,
    Outcome,
    Submit,
    WorkloadType,
)
from edge_mqtt.broker_bridge.transport.interface import Refusal, RefusalReason
from edge_mqtt.broker_bridge.transport.memory import MemoryBroker
from edge_mqtt.executor import outbox
from edge_mqtt.executor.bridge_client import BridgeClient, BridgeClientTiming, PreparedConnection
from edge_mqtt.executor.errors import CannotConnect
from edge_mqtt.executor.outbox import Adoption, News, UnknownJobs
from tests.support.fake_bridge import ME, PATIENCE_S, TOPICS, TwinBridge, line_to, new_job_id

#: Repeats come fast enough for a test to wait for them, slowly enough not to come where none is expected.
SOON = BridgeClientTiming(resend_s=0.05, resend_at_most_s=0.1, reconnect_s=0.05)
NEVER = BridgeClientTiming(resend_s=3600, resend_at_most_s=3600, reconnect_s=3600)
#: What a bridge says that knows every job.
KNOWN = Adoption(frozenset(), frozenset())


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def bridge(broker: MemoryBroker) -> TwinBridge:
    return TwinBridge(broker)


MakeLink = Callable[..., BridgeClient]


@pytest.fixture
def make_link(broker: MemoryBroker) -> Iterator[MakeLink]:
    links = []

    def make(
        timing: BridgeClientTiming = NEVER, dial: Callable[[], PreparedConnection] | None = None
    ) -> BridgeClient:
        link = BridgeClient(dial or (lambda: line_to(broker)), topics=TOPICS, timing=timing)
        links.append(link)
        link.start()
        return link

    yield make
    for link in links:
        link.stop()


def a_job(job_id: JobId | None = None, queue: str = "press/1") -> JobSpec:
    return JobSpec(job_id=job_id or new_job_id(), type=WorkloadType.TASK, queue=queue)


def wait_until(condition: Callable[[], object]) -> None:
    """For what shows only in the link's own state: looks often, with a limit."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.002)


def news_of(link: BridgeClient, count: int) -> list[News]:
    found: list[News] = []

    def have_come() -> bool:
        found.extend(link.read_news())
        return len(found) >= count

    wait_until(have_come)
    return found


def test_the_executor_greets_the_bridge_on_every_connection(bridge: TwinBridge, make_link: MakeLink) -> None:
    make_link()
    topic, message = bridge.next_message()
    assert isinstance(message, ExecutorHello)
    assert topic == TOPICS.admin_request(ME)
    bridge.broker.cut(ME.client_id)
    bridge.broker.restore(ME.client_id)
    bridge.expect(ExecutorHello)


def test_a_job_goes_to_the_executors_own_topic_of_its_queue_at_once(bridge: TwinBridge, make_link: MakeLink) -> None:
    link = make_link()
    bridge.wait_for_executor()
    job = a_job()
    link.submit(job, "secret-token")
    topic, message = bridge.next_message()
    assert topic == TOPICS.submit("press/1", ExecutorName(ME.name))
    assert isinstance(message, Submit)
    assert (message.job, message.token) == (job, "secret-token")
    assert link.status().unanswered == 0


def test_a_job_submitted_while_the_bridge_is_away_arrives_when_it_is_back(
    bridge: TwinBridge, make_link: MakeLink
) -> None:
    bridge.broker.stop()
    link = make_link()
    jobs = [a_job() for _ in range(3)]
    for job in jobs:
        link.submit(job, "t")
    assert link.status().unanswered == 3
    bridge.broker.start()
    assert [bridge.expect(Submit).job.job_id for _ in jobs] == [job.job_id for job in jobs]
    assert link.flush(timeout_s=PATIENCE_S)


def test_a_submit_that_got_lost_is_repeated_until_it_is_accepted(bridge: TwinBridge, make_link: MakeLink) -> None:
    lost = threading.Semaphore(3)
    bridge.broker.lose(lambda packet: "/jobs/" in packet.topic and lost.acquire(blocking=False))
    link = make_link(SOON)
    bridge.wait_for_executor()
    job = a_job()
    link.submit(job, "t")
    assert bridge.expect(Submit).job == job
    assert link.flush(timeout_s=PATIENCE_S)
    bridge.hear_everything()
    bridge.broker.cut(ME.client_id)
    bridge.broker.restore(ME.client_id)
    bridge.wait_for_executor()
    link.acknowledge(job.job_id)
    bridge.expect(EventAck)
    assert not [m for m in bridge.hear_everything() if isinstance(m, Submit)], "an accepted job is not sent again"


def test_an_unaccepted_submit_is_repeated_after_a_reconnect(bridge: TwinBridge, make_link: MakeLink) -> None:
    bridge.accepts = False
    link = make_link()
    bridge.wait_for_executor()
    job = a_job()
    link.submit(job, "t")
    bridge.expect(Submit)
    bridge.broker.cut(ME.client_id)
    bridge.accepts = True
    bridge.broker.restore(ME.client_id)
    assert bridge.expect(Submit).job == job
    assert link.flush(timeout_s=PATIENCE_S)


def test_a_start_or_an_end_means_that_the_submit_arrived(bridge: TwinBridge, make_link: MakeLink) -> None:
    bridge.accepts = False
    link = make_link()
    bridge.wait_for_executor()
    first, second = a_job(), a_job()
    link.submit(first, "t")
    link.submit(second, "t")
    bridge.started(first.job_id)
    bridge.finished(second.job_id, Outcome.FAILED, "exit code 1")
    assert link.status().unanswered == 0
    started, finished = link.read_news()
    assert isinstance(started, JobStarted)
    assert isinstance(finished, JobFinished)
    assert finished.detail == "exit code 1"
    assert link.read_news() == []


def test_an_acknowledgement_made_while_the_bridge_is_away_is_sent_later(
    bridge: TwinBridge, make_link: MakeLink
) -> None:
    link = make_link()
    bridge.wait_for_executor()
    job_id = new_job_id()
    bridge.finished(job_id)
    assert len(link.read_news()) == 1
    bridge.broker.cut(ME.client_id)
    link.acknowledge(job_id)
    assert link.status().unsent_acks == 1
    bridge.broker.restore(ME.client_id)
    assert bridge.expect(EventAck).job_id == job_id
    assert link.flush(timeout_s=PATIENCE_S)


def test_a_repeated_final_event_is_acknowledged_again_and_not_handed_out_again(
    bridge: TwinBridge, make_link: MakeLink
) -> None:
    link = make_link()
    bridge.wait_for_executor()
    job_id = new_job_id()
    bridge.finished(job_id)
    link.read_news()
    link.acknowledge(job_id)
    bridge.expect(EventAck)
    bridge.finished(job_id)
    assert bridge.expect(EventAck).job_id == job_id
    assert link.read_news() == []


def test_the_final_event_of_a_dismissed_job_is_acknowledged_even_when_it_came_before(
    bridge: TwinBridge, make_link: MakeLink
) -> None:
    link = make_link()
    bridge.wait_for_executor()
    early, late = new_job_id(), new_job_id()
    bridge.finished(early)
    link.dismiss(early)
    link.dismiss(late)
    assert link.read_news() == []
    assert bridge.expect(EventAck).job_id == early
    bridge.started(late)
    bridge.finished(late)
    assert bridge.expect(EventAck).job_id == late
    assert link.read_news() == []


def test_a_cancel_is_repeated_until_the_bridge_has_taken_note(bridge: TwinBridge, make_link: MakeLink) -> None:
    bridge.answers_cancels = False
    link = make_link(SOON)
    bridge.wait_for_executor()
    job = a_job()
    link.submit(job, "t")
    bridge.started(job.job_id)
    link.cancel(job.job_id)
    for _ in range(3):
        assert bridge.expect(CancelJob).job_id == job.job_id
    bridge.answers_cancels = True
    wait_until(lambda: link.status().unanswered == 0)
    assert link.read_news() == []


def test_the_end_of_a_cancelled_job_ends_the_cancel(bridge: TwinBridge, make_link: MakeLink) -> None:
    bridge.answers_cancels = False
    link = make_link()
    bridge.wait_for_executor()
    job = a_job()
    link.submit(job, "t")
    bridge.started(job.job_id)
    link.cancel(job.job_id)
    assert link.status().unanswered == 1
    bridge.finished(job.job_id, Outcome.CANCELLED)
    assert bridge.expect(EventAck).job_id == job.job_id
    assert link.status().unanswered == 0


def test_the_end_of_a_job_that_was_withdrawn_before_its_start_is_news(
    bridge: TwinBridge, make_link: MakeLink
) -> None:
    bridge.answers_cancels = False
    link = make_link(SOON)
    bridge.wait_for_executor()
    job = a_job()
    link.submit(job, "t")
    link.withdraw(job.job_id)
    link.withdraw(job.job_id)
    for _ in range(3):
        assert bridge.expect(CancelJob) == CancelJob(job_id=job.job_id, unless_started=True)
    assert link.status().unanswered == 1
    end = JobFinished(job_id=job.job_id, outcome=Outcome.CANCELLED, revoked=True)
    bridge.tell(end)
    assert news_of(link, 1) == [end]
    assert link.status().unanswered == 0


def test_a_withdrawal_does_not_weaken_a_cancel(bridge: TwinBridge, make_link: MakeLink) -> None:
    bridge.broker.stop()
    link = make_link()
    job_id = new_job_id()
    link.cancel(job_id)
    link.withdraw(job_id)
    bridge.broker.start()
    assert bridge.expect(CancelJob) == CancelJob(job_id=job_id)


def test_what_waits_in_the_name_of_an_executor_that_was_restarted_is_news(
    bridge: TwinBridge, make_link: MakeLink
) -> None:
    link = make_link()
    bridge.wait_for_executor()
    own, foreign, dismissed = a_job(), new_job_id(), new_job_id()
    link.submit(own, "t")
    wait_until(lambda: link.status().unanswered == 0)
    link.dismiss(dismissed)
    for job_id in (own.job_id, dismissed, foreign):
        bridge.tell(JobAccepted(job_id=job_id))
    assert news_of(link, 1) == [JobAccepted(job_id=foreign)]


def test_a_job_cancelled_before_it_arrived_is_not_submitted_any_more(bridge: TwinBridge, make_link: MakeLink) -> None:
    bridge.broker.stop()
    link = make_link()
    job = a_job()
    link.submit(job, "t")
    link.cancel(job.job_id)
    bridge.broker.start()
    bridge.expect(CancelJob)
    wait_until(lambda: link.status().unanswered == 0)
    assert job.job_id not in bridge.states
    assert link.flush(timeout_s=0)


def test_adoption_tells_which_jobs_the_bridge_knows(bridge: TwinBridge, make_link: MakeLink) -> None:
    link = make_link()
    known, unknown = new_job_id(), new_job_id()
    bridge.states[known] = "running"
    assert link.adopt([known, unknown], timeout_s=PATIENCE_S) == Adoption(frozenset({unknown}), frozenset())
    assert link.read_news() == []


def test_adoption_without_an_answer_is_asked_again_and_reported_later(
    bridge: TwinBridge, make_link: MakeLink
) -> None:
    bridge.broker.stop()
    link = make_link()
    known, unknown = new_job_id(), new_job_id()
    bridge.states[known] = "running"
    assert link.adopt([known, unknown], timeout_s=0.01).unanswered == {known, unknown}
    bridge.broker.start()
    assert news_of(link, 1) == [UnknownJobs((unknown,))]


def test_a_late_answer_that_knows_every_job_is_no_news(bridge: TwinBridge, make_link: MakeLink) -> None:
    bridge.answers_adoption = False
    link = make_link()
    known = new_job_id()
    bridge.states[known] = "running"
    assert link.adopt([known], timeout_s=0.01).unanswered == {known}
    request = bridge.expect(AdoptRequest)
    bridge.answer(request)
    bridge.answer(request)
    assert link.read_news() == []
    assert link.status().unanswered == 0


def test_stopping_ends_a_wait_for_an_adoption(bridge: TwinBridge, make_link: MakeLink) -> None:
    bridge.answers_adoption = False
    link = make_link()
    stopper = threading.Timer(0.05, link.stop)
    stopper.start()
    began = time.monotonic()
    assert link.adopt([new_job_id()], timeout_s=PATIENCE_S).unanswered
    assert time.monotonic() - began < PATIENCE_S / 2
    stopper.join()


def test_a_job_that_is_being_submitted_is_asked_about_only_when_that_is_answered(
    bridge: TwinBridge, make_link: MakeLink
) -> None:
    bridge.accepts = False
    link = make_link()
    bridge.wait_for_executor()
    running, first, second = new_job_id(), a_job(), a_job()
    bridge.states[running] = "running"
    link.submit(first, "t")
    link.submit(second, "t")
    adoption = link.adopt([first.job_id, running, second.job_id], timeout_s=0.05)
    assert adoption == Adoption(frozenset(), frozenset({first.job_id, second.job_id}))
    assert bridge.expect(AdoptRequest).job_ids == (running,)
    bridge.take(second.job_id)
    assert link.status().unanswered == 2
    bridge.take(first.job_id)
    question = bridge.expect(AdoptRequest)
    assert (question.job_ids, question.take_over) == ((first.job_id, second.job_id), True)
    wait_until(lambda: link.status().unanswered == 0)
    assert link.read_news() == []


def test_adoption_of_a_job_that_is_submitted_at_once_waits_for_both_answers(
    bridge: TwinBridge, make_link: MakeLink
) -> None:
    bridge.broker.stop()
    link = make_link()
    job = a_job()
    link.submit(job, "t")
    returner = threading.Timer(0.05, bridge.broker.start)
    returner.start()
    assert link.adopt([job.job_id], timeout_s=PATIENCE_S) == KNOWN
    assert bridge.states == {job.job_id: "queued"}
    returner.join()


@pytest.mark.parametrize("let_go", [BridgeClient.cancel, BridgeClient.dismiss])
def test_a_job_that_nobody_wants_any_more_is_not_submitted_and_keeps_no_question_back(
    bridge: TwinBridge, make_link: MakeLink, let_go: Callable[[BridgeClient, JobId], None]
) -> None:
    bridge.accepts = False
    link = make_link()
    bridge.wait_for_executor()
    unwanted, wanted = a_job(), a_job()
    for job in (unwanted, wanted):
        link.submit(job, "t")
    link.adopt([unwanted.job_id, wanted.job_id], timeout_s=0.01)
    bridge.take(wanted.job_id)
    bridge.hear_everything()
    let_go(link, unwanted.job_id)
    assert set(bridge.expect(AdoptRequest).job_ids) == {unwanted.job_id, wanted.job_id}
    bridge.reconnect()
    wait_until(lambda: link.status().unanswered == 0)
    assert unwanted.job_id not in bridge.states
    assert not [message for message in bridge.hear_everything() if isinstance(message, Submit)]


def test_a_job_is_not_let_go_as_another_s_while_it_is_being_taken_over(
    bridge: TwinBridge, make_link: MakeLink
) -> None:
    bridge.accepts = False
    link = make_link()
    bridge.wait_for_executor()
    first, second = a_job(), a_job()
    link.submit(first, "t")
    link.submit(second, "t")
    link.adopt([first.job_id, second.job_id], timeout_s=0.01)
    # The dead executor's; only the question with which it is taken over makes it ours.
    bridge.take(first.job_id)
    bridge.states[first.job_id] = TAKEN
    bridge.reconnect()
    bridge.take(second.job_id)
    assert bridge.expect(AdoptRequest).take_over
    wait_until(lambda: link.status().unanswered == 0)
    assert link.read_news() == []


def accepted_job(link: BridgeClient, bridge: TwinBridge) -> JobId:
    """Submit a job and wait until the bridge has it."""
    job = a_job()
    link.submit(job, "t")
    bridge.expect(Submit)
    assert link.flush(timeout_s=PATIENCE_S)
    return job.job_id


def test_after_a_reconnect_the_bridge_is_asked_about_what_it_has_and_nothing_else(
    bridge: TwinBridge, make_link: MakeLink
) -> None:
    link = make_link()
    bridge.wait_for_executor()
    unfinished, finished, revoked = (accepted_job(link, bridge) for _ in range(3))
    adopted, started = new_job_id(), new_job_id()
    bridge.states[adopted] = "running"
    assert link.adopt([adopted], timeout_s=PATIENCE_S) == KNOWN
    bridge.started(started)
    bridge.finished(finished)
    link.cancel(revoked)
    bridge.hear_everything()
    bridge.reconnect()
    question = bridge.expect(AdoptRequest)
    assert (set(question.job_ids), question.take_over) == ({unfinished, adopted}, False)
    wait_until(lambda: link.status().unanswered == 0)
    assert [type(item) for item in link.read_news()] == [JobStarted, JobFinished]


def test_an_executor_without_jobs_asks_nothing(bridge: TwinBridge, make_link: MakeLink) -> None:
    link = make_link()
    bridge.wait_for_executor()
    bridge.reconnect()
    assert link.status().unanswered == 0
    assert bridge.hear_everything() == []


def test_a_job_that_the_bridge_has_forgotten_is_reported_once(bridge: TwinBridge, make_link: MakeLink) -> None:
    link = make_link()
    bridge.wait_for_executor()
    known, forgotten = accepted_job(link, bridge), accepted_job(link, bridge)
    del bridge.states[forgotten]
    bridge.reconnect()
    assert news_of(link, 1) == [UnknownJobs((forgotten,), forgotten=True)]
    bridge.reconnect()
    while set(bridge.expect(AdoptRequest).job_ids) != {known}:
        pass
    assert link.read_news() == []


def test_many_jobs_are_asked_about_in_several_questions(
    bridge: TwinBridge, make_link: MakeLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "_JOBS_PER_QUESTION", 2)
    link = make_link()
    bridge.wait_for_executor()
    jobs = [accepted_job(link, bridge) for _ in range(5)]
    bridge.reconnect()
    questions = [bridge.expect(AdoptRequest).job_ids for _ in range(3)]
    assert [len(question) for question in questions] == [2, 2, 1]
    assert [job for question in questions for job in question] == jobs


def test_a_question_that_was_not_answered_is_asked_anew_after_the_next_reconnect(
    bridge: TwinBridge, make_link: MakeLink
) -> None:
    bridge.answers_adoption = False
    link = make_link()
    bridge.wait_for_executor()
    job = accepted_job(link, bridge)
    bridge.reconnect()
    first = bridge.expect(AdoptRequest)
    bridge.finished(job)
    bridge.reconnect()
    assert link.status().unanswered == 0
    del bridge.states[job]
    bridge.answer(first)
    assert [type(item) for item in link.read_news()] == [JobFinished], "it has ended, whatever an old answer says"


def test_a_job_that_ends_before_the_answer_is_not_called_forgotten(bridge: TwinBridge, make_link: MakeLink) -> None:
    bridge.answers_adoption = False
    link = make_link()
    bridge.wait_for_executor()
    job = accepted_job(link, bridge)
    bridge.reconnect()
    question = bridge.expect(AdoptRequest)
    bridge.finished(job)
    del bridge.states[job]
    bridge.answer(question)
    assert [type(item) for item in link.read_news()] == [JobFinished]


def test_a_job_that_was_taken_over_and_taken_back_is_kept(bridge: TwinBridge, make_link: MakeLink) -> None:
    link = make_link()
    bridge.wait_for_executor()
    job = accepted_job(link, bridge)
    bridge.states[job] = "running"
    bridge.tell(JobFinished(job_id=job, outcome=Outcome.CANCELLED, detail=TAKEN_OVER, revoked=True))
    assert link.adopt([job], timeout_s=PATIENCE_S) == KNOWN
    bridge.finished(job)
    (news,) = news_of(link, 1)
    assert isinstance(news, JobFinished)
    assert (news.job_id, news.outcome) == (job, Outcome.SUCCESS)


def test_a_job_that_another_executor_has_taken_over_is_let_go(bridge: TwinBridge, make_link: MakeLink) -> None:
    link = make_link()
    bridge.wait_for_executor()
    job = accepted_job(link, bridge)
    bridge.states[job] = TAKEN
    bridge.reconnect()
    (news,) = news_of(link, 1)
    assert isinstance(news, JobFinished)
    assert (news.job_id, news.outcome, news.revoked) == (job, Outcome.CANCELLED, True)
    bridge.hear_everything()
    bridge.reconnect()
    assert link.status().unanswered == 0, "it is not asked about again"


def test_flush_does_not_wait_for_a_bridge_that_is_away(bridge: TwinBridge, make_link: MakeLink) -> None:
    bridge.broker.stop()
    link = make_link()
    link.submit(a_job(), "t")
    began = time.monotonic()
    assert not link.flush(timeout_s=PATIENCE_S)
    assert time.monotonic() - began < PATIENCE_S / 2


def test_a_job_too_large_for_the_wire_fails_instead_of_waiting_for_ever(
    bridge: TwinBridge, make_link: MakeLink, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    link = make_link()
    bridge.wait_for_executor()
    caplog.set_level(logging.ERROR, logger="edge_mqtt.executor.bridge_client")
    monkeypatch.setattr(codec, "MAX_MESSAGE_BYTES", 100)
    job = a_job()
    link.submit(job, "t" * 200)
    (failed,) = link.read_news()
    assert isinstance(failed, JobFinished)
    assert (failed.job_id, failed.outcome) == (job.job_id, Outcome.FAILED)
    assert "over the limit" in failed.detail
    (said,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert said.startswith("not sent: a submit message of")
    assert link.status().unanswered == 0


def test_a_job_that_no_packet_can_carry_fails_with_the_reason(
    bridge: TwinBridge, make_link: MakeLink, caplog: pytest.LogCaptureFixture
) -> None:
    link = make_link()
    bridge.wait_for_executor()
    job = a_job()
    link.submit(job, "a\0b")
    (failed,) = link.read_news()
    assert isinstance(failed, JobFinished)
    assert (failed.job_id, failed.outcome) == (job.job_id, Outcome.FAILED)
    assert failed.detail.startswith("token: String should match")
    assert link.status().unanswered == 0
    link.cancel(JobId("a\0b"))
    assert link.read_news() == [], "no such job can be anywhere"
    assert link.status().unanswered == 0
    assert [vars(record)["action"] for record in caplog.records if record.levelno == logging.ERROR] == [
        "message_not_sent",
        "message_not_sent",
    ]


def test_an_id_that_no_job_can_have_is_unknown_and_keeps_no_other_from_being_adopted(
    bridge: TwinBridge, make_link: MakeLink
) -> None:
    link = make_link()
    bridge.wait_for_executor()
    job = new_job_id()
    bridge.take(job)
    odd = JobId("x" * 251)
    assert link.adopt([job, odd], timeout_s=PATIENCE_S) == Adoption(frozenset({odd}), frozenset())


def test_a_failure_of_the_client_itself_is_one_line_and_what_waits_is_sent_later(
    bridge: TwinBridge, make_link: MakeLink, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = iter([RuntimeError("a bug of ours"), RuntimeError("a bug of ours")])
    whole = outbox.Outbox.due

    def due(self: outbox.Outbox, now: float) -> list[outbox.Unanswered]:
        for failure in failures:
            raise failure
        return whole(self, now)

    monkeypatch.setattr(outbox.Outbox, "due", due)
    link = make_link(SOON)
    link.submit(a_job(), "t")
    bridge.expect(Submit)
    wait_until(lambda: sum(vars(record).get("action") == "client_failed" for record in caplog.records) == 2)
    assert "Traceback" not in caplog.text


def test_a_message_that_the_executor_fails_at_is_one_line_and_counted(
    bridge: TwinBridge, make_link: MakeLink, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    link = make_link()
    bridge.wait_for_executor()
    whole = outbox.Outbox.accept_message

    def accept(self: outbox.Outbox, message: Message) -> bool:
        if isinstance(message, JobStarted):
            raise KeyError("a bug of ours")
        return whole(self, message)

    monkeypatch.setattr(outbox.Outbox, "accept_message", accept)
    job = a_job()
    link.submit(job, "t")
    bridge.expect(Submit)
    bridge.started(job.job_id)
    assert "a job_started message: KeyError at " in bridge.expect(ErrorReply).error
    bridge.finished(job.job_id)
    assert [type(one) for one in news_of(link, 1)] == [JobFinished]
    (line,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert vars(line)["action"] == "message_failed"


def test_a_refusal_is_said_loudly_and_tried_again_with_a_new_line(
    bridge: TwinBridge, make_link: MakeLink, broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    refusal = Refusal(
        reason=RefusalReason.NAME_IN_USE, message="the name exec-1 is in use: issue another certificate"
    )
    broker.refuse(ME.client_id, refusal)
    with caplog.at_level(logging.ERROR, logger="edge_mqtt.executor.bridge_client"):
        link = make_link(SOON)
        link.submit(a_job(), "t")
        wait_until(lambda: len(caplog.records) >= 2)
    assert all(refusal.message in record.getMessage() for record in caplog.records)
    assert link.status().problem == refusal.message
    broker._refusals.clear()
    bridge.expect(Submit)
    assert link.status().connected


def test_a_bridge_of_a_newer_version_is_refused_loudly_and_the_jobs_wait(
    bridge: TwinBridge, make_link: MakeLink, broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    bridge.accepts = False
    link = make_link(SOON)
    bridge.wait_for_executor()
    job = a_job()
    link.submit(job, "t")
    bridge.expect(Submit)
    broker.publish(TOPICS.events(ExecutorName(ME.name)), b'{"kind":"job_accepted","v":2}', qos=1, retain=False)
    (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "protocol version 2, this program speaks 1: upgrade this program (1 messages wait" in line
    bridge.accepts = True
    assert bridge.expect(Submit).job == job, "on a new line"
    assert link.flush(timeout_s=PATIENCE_S)


def test_a_line_that_cannot_be_made_is_tried_again(
    bridge: TwinBridge, make_link: MakeLink, broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    problems = ["tls.crt is missing: run edge-certs issue", "tls.crt expired: issue it again"]

    def dial() -> PreparedConnection:
        if problems:
            raise CannotConnect(problems.pop(0))
        return line_to(broker)

    with caplog.at_level(logging.ERROR, logger="edge_mqtt.executor.bridge_client"):
        link = make_link(SOON, dial)
        link.submit(a_job(), "t")
        bridge.expect(Submit)
    assert ["is missing" in caplog.messages[0], "expired" in caplog.messages[1]] == [True, True]


def test_a_bridge_that_stays_away_is_complained_about_again_and_again(
    bridge: TwinBridge, make_link: MakeLink, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="edge_mqtt.executor.bridge_client"):
        link = make_link(SOON)
        bridge.wait_for_executor()
        bridge.broker.cut(ME.client_id, "reset by peer")
        link.submit(a_job(), "t")
        wait_until(lambda: sum("still out of reach (reset by peer): 1 messages" in m for m in caplog.messages) >= 2)
    assert any("lost the connection to the bridge (reset by peer)" in m for m in caplog.messages)


def test_messages_that_are_nothing_for_an_executor_are_logged_and_ignored(
    bridge: TwinBridge, make_link: MakeLink, caplog: pytest.LogCaptureFixture
) -> None:
    link = make_link()
    bridge.wait_for_executor()
    with caplog.at_level(logging.WARNING, logger="edge_mqtt.executor.bridge_client"):
        bridge.tell(ErrorReply(error="unknown message kind 'x'"))
        bridge.tell(Assign(fence=1, job=a_job(), lease_s=935.0))
    refused, ignored = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "unknown message kind 'x'" in refused
    assert "assign" in ignored
    assert link.read_news() == []


def test_no_token_appears_in_what_the_link_shows_of_itself(bridge: TwinBridge, make_link: MakeLink) -> None:
    bridge.broker.stop()
    link = make_link()
    link.submit(a_job(), "secret-token")
    assert "secret-token" not in repr(link.status()) + repr(link._outbox._unanswered)


def test_a_signal_handler_may_ask_for_the_status_while_the_link_is_locked(make_link: MakeLink) -> None:
    link = make_link()
    with link._changed:
        assert link.status().unanswered == 0
