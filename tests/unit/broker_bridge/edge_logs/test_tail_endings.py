"""How reading ends: interrupts, refusals and bridges that stay away, each with an exit code of its own."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from edge_mqtt.broker_bridge.edge_logs import cli, tail_client
from edge_mqtt.broker_bridge.edge_logs.line_assembler import LogLine
from edge_mqtt.broker_bridge.edge_logs.tail_client import End, Ending, TailClient
from edge_mqtt.broker_bridge.protocol.messages import ErrorReply
from edge_mqtt.broker_bridge.transport.interface import Refusal, RefusalReason
from edge_mqtt.broker_bridge.transport.memory import MemoryBroker
from tests.support.fake_tail_bridge import ME, PATIENCE_S, TOPICS, Paper, TwinBridge
from tests.support.scenario_tail_client import URL, Start, make_reader


def test_output_that_nobody_reads_is_the_end(broker: MemoryBroker, bridge: TwinBridge, paper: Paper) -> None:
    reader = make_reader(broker, paper, follow=True)
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(reader.run)
        bridge.wait_until_parked({})
        reader.unread()
        assert isinstance(reading.exception(PATIENCE_S), BrokenPipeError)


def test_interrupt_ends_reading_behind_what_is_being_printed(bridge: TwinBridge, broker: MemoryBroker) -> None:
    class InterruptedPaper(Paper):
        reader: TailClient

        def lines(self, lines: Sequence[LogLine]) -> None:
            self.reader.interrupt()
            super().lines(lines)

    paper = InterruptedPaper()
    paper.reader = make_reader(broker, paper, follow=True)
    bridge.write("a", b"one\ntwo\n")
    assert paper.reader.run() == Ending(end=End.INTERRUPTED)
    assert paper.printed == [("a", b"one"), ("a", b"two")]


def test_what_cannot_be_met_ends_with_the_bridge_s_own_words(bridge: TwinBridge, start: Start, paper: Paper) -> None:
    bridge.error = "there is no Dag 'd'"
    assert start(follow=True).result(PATIENCE_S) == Ending(end=End.NOT_FOUND, message="there is no Dag 'd'")
    assert paper.printed == []


def test_a_bridge_that_does_not_know_the_request_is_a_clear_end(bridge: TwinBridge, start: Start) -> None:
    reading = start(follow=True)
    bridge.wait_until_parked({})
    bridge.send(ErrorReply(error="unknown message kind 'tail_request'"))
    ending = reading.result(PATIENCE_S)
    assert ending.end is End.REFUSED
    assert "unknown message kind" in ending.message


def test_a_bridge_of_another_version_ends_it_with_both_versions(
    broker: MemoryBroker, bridge: TwinBridge, start: Start
) -> None:
    bridge.mute = True
    reading = start(follow=True)
    bridge.wait_for_requests(1)
    broker.publish(TOPICS.admin_response(ME), b'{"v":2,"kind":"tail_reply"}', qos=0, retain=False)
    assert reading.result(PATIENCE_S) == Ending(
        end=End.VERSION,
        message="the bridge speaks protocol version 2, this program speaks 1: upgrade this program",
    )


def test_every_ending_that_a_script_must_tell_apart_has_an_exit_code_of_its_own() -> None:
    codes = {end: cli._report(Ending(end=end), quiet=True) for end in End}
    assert codes == {
        End.DONE: 0,
        End.RUN_FAILED: 1,
        End.NOT_FOUND: 2,
        End.REFUSED: 3,
        End.NAME_IN_USE: 4,
        End.VERSION: 5,
        End.AWAY: 6,
        End.INTERRUPTED: 130,
    }


def test_a_refusal_ends_with_its_own_words(broker: MemoryBroker, start: Start) -> None:
    broker.refuse(ME.client_id, Refusal(reason=RefusalReason.NOT_AUTHORIZED, message="your certificate has expired"))
    assert start(follow=True).result(PATIENCE_S) == Ending(end=End.REFUSED, message="your certificate has expired")


def test_a_second_reader_is_told_to_get_a_certificate_of_its_own(broker: MemoryBroker, start: Start) -> None:
    broker.refuse(ME.client_id, Refusal(reason=RefusalReason.NAME_IN_USE, message="another program is connected"))
    ending = start(follow=True).result(PATIENCE_S)
    assert ending.end is End.NAME_IN_USE
    assert "edge-certs issue operator" in ending.message


def test_trouble_is_told_once_until_the_bridge_is_there(
    broker: MemoryBroker, bridge: TwinBridge, paper: Paper
) -> None:
    broker.stop()
    reader = make_reader(broker, paper, follow=True)
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(reader.run)
        for _ in range(3):
            reader.trouble("connection refused", name_in_use=False)
        paper.wait_for_news(1)
        broker.start()
        bridge.write("a", b"one\n")
        bridge.end_run("success")
        assert reading.result(PATIENCE_S).end is End.DONE
    assert paper.told == [f"waiting for the bridge at {URL}: connection refused", "connected to the bridge"]


def test_silent_connecting_is_told_after_a_while(
    broker: MemoryBroker, start: Start, paper: Paper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail_client, "QUIET_S", 0.01)
    broker.stop()
    start(follow=True)
    paper.wait_for_news(1)
    assert paper.told == [f"waiting for the bridge at {URL}"]


def test_without_following_a_bridge_that_is_away_is_given_up(
    broker: MemoryBroker, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail_client, "GIVE_UP_AFTER_S", 0.05)
    broker.stop()
    ending = start(follow=False).result(PATIENCE_S)
    assert ending.end is End.AWAY
    assert ending.message.startswith(f"no connection to the bridge at {URL}")


def test_without_following_a_bridge_that_is_mute_is_given_up(
    bridge: TwinBridge, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail_client, "GIVE_UP_AFTER_S", 0.05)
    bridge.mute = True
    ending = start(follow=False).result(PATIENCE_S)
    assert ending.end is End.AWAY
    assert ending.message.startswith(f"no answer from the bridge at {URL}")


def test_without_following_a_name_in_use_is_not_waited_for(
    broker: MemoryBroker, paper: Paper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail_client, "GIVE_UP_AFTER_S", 0.2)
    broker.stop()
    reader = make_reader(broker, paper, follow=False)
    reader.trouble("operator:ann is still connected", name_in_use=True)
    ending = reader.run()
    assert ending.end is End.NAME_IN_USE
    assert "edge-certs issue operator" in ending.message
    assert len(paper.told) == 1
