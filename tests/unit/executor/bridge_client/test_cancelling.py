"""What Airflow gives up is cancelled, repeated until the bridge has answered, and then let go."""

from __future__ import annotations

from edge_mqtt.broker_bridge.protocol.messages import CancelJob, EventAck, JobFinished, Outcome
from tests.support.fake_bridge import TwinBridge, new_job_id
from tests.support.scenario_bridge_client import SOON, MakeLink, a_job, news_of, wait_until


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
