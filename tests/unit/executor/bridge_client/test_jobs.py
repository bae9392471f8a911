"""The client keeps jobs and acknowledgements until the bridge has answered them, whatever the connection does."""

from __future__ import annotations

import threading

from edge_mqtt.broker_bridge.protocol.ids import ExecutorName
from edge_mqtt.broker_bridge.protocol.messages import (
    EventAck,
    ExecutorHello,
    JobAccepted,
    JobFinished,
    JobStarted,
    Outcome,
    Submit,
)
from tests.support.fake_bridge import ME, PATIENCE_S, TOPICS, TwinBridge, new_job_id
from tests.support.scenario_bridge_client import SOON, MakeLink, a_job, news_of, wait_until


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
