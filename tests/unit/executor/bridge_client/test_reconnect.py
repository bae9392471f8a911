"""After a reconnect the client asks the bridge whether it still knows what it was handed."""

from __future__ import annotations

import pytest

from edge_mqtt.broker_bridge.protocol.messages import (
    TAKEN,
    TAKEN_OVER,
    AdoptRequest,
    JobFinished,
    JobStarted,
    Outcome,
)
from edge_mqtt.executor import outbox
from edge_mqtt.executor.outbox import UnknownJobs
from tests.support.fake_bridge import PATIENCE_S, TwinBridge, new_job_id
from tests.support.scenario_bridge_client import KNOWN, MakeLink, accepted_job, news_of, wait_until


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
