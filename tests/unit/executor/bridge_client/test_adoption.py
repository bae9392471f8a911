"""A scheduler's client asks which jobs of a dead one the bridge knows, and takes them over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import TAKEN, AdoptRequest, Submit
from edge_mqtt.executor.bridge_client import BridgeClient
from edge_mqtt.executor.outbox import Adoption, UnknownJobs
from tests.support.fake_bridge import PATIENCE_S, TwinBridge, new_job_id
from tests.support.scenario_bridge_client import KNOWN, MakeLink, a_job, news_of, wait_until


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


def test_an_id_that_no_job_can_have_is_unknown_and_keeps_no_other_from_being_adopted(
    bridge: TwinBridge, make_link: MakeLink
) -> None:
    link = make_link()
    bridge.wait_for_executor()
    job = new_job_id()
    bridge.take(job)
    odd = JobId("x" * 251)
    assert link.adopt([job, odd], timeout_s=PATIENCE_S) == Adoption(frozenset({odd}), frozenset())
