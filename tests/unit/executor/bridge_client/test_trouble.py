"""What cannot be sent or understood, refusals, and bridges that stay away: each is said, and nothing else suffers."""

from __future__ import annotations

import logging
import time

import pytest

from edge_mqtt.broker_bridge.protocol import codec
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, JobId
from edge_mqtt.broker_bridge.protocol.messages import (
    Assign,
    ErrorReply,
    JobFinished,
    JobStarted,
    Message,
    Outcome,
    Submit,
)
from edge_mqtt.broker_bridge.transport.interface import Refusal, RefusalReason
from edge_mqtt.broker_bridge.transport.memory import MemoryBroker
from edge_mqtt.executor import outbox
from edge_mqtt.executor.bridge_client import PreparedConnection
from edge_mqtt.executor.errors import CannotConnect
from tests.support.fake_bridge import ME, PATIENCE_S, TOPICS, TwinBridge, line_to
from tests.support.scenario_bridge_client import SOON, MakeLink, a_job, news_of, wait_until


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
