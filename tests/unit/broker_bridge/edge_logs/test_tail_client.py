"""The reader asks one thing at a time and loses and repeats nothing, whatever the connection does."""

from __future__ import annotations

import math
import queue
from types import SimpleNamespace

import pytest

from edge_mqtt.broker_bridge.edge_logs import tail_client
from edge_mqtt.broker_bridge.edge_logs.tail_client import End, Ending
from edge_mqtt.broker_bridge.protocol.messages import LogStream, StreamBytes, TailReply
from edge_mqtt.broker_bridge.transport.memory import MemoryBroker
from tests.support.fake_tail_bridge import ME, PATIENCE_S, Paper, TwinBridge
from tests.support.scenario_tail_client import URL, Start


def test_without_following_what_is_there_is_printed_and_reading_ends(
    bridge: TwinBridge, start: Start, paper: Paper
) -> None:
    bridge.write("a", b"one\ntwo\nhalf a li")
    bridge.write("b", b"three\n")
    ending = start(follow=False).result(PATIENCE_S)
    assert ending == Ending(end=End.DONE)
    assert paper.printed == [("a", b"one"), ("a", b"two"), ("b", b"three"), ("a", b"half a li")]


def test_without_following_a_long_log_is_read_to_its_end(bridge: TwinBridge, start: Start, paper: Paper) -> None:
    bridge.write("a", b"0123456789012345678901234567890\n" * 1000)
    assert start(follow=False).result(PATIENCE_S).end is End.DONE
    assert len(paper.printed) == 1000
    assert len(bridge.requests) == 2


def test_a_followed_run_is_printed_as_it_goes_and_ends_with_it(
    bridge: TwinBridge, start: Start, paper: Paper
) -> None:
    reading = start(follow=True)
    bridge.write("a", b"one\n")
    paper.wait_for_lines(1)
    bridge.wait_until_parked({"a": 4})
    bridge.write("a", b"two\nthr")
    paper.wait_for_lines(2)
    assert not reading.done()
    bridge.write("a", b"ee")
    bridge.end_run("success")
    assert reading.result(PATIENCE_S) == Ending(end=End.DONE, run_state="success")
    assert paper.printed == [("a", b"one"), ("a", b"two"), ("a", b"three")]


def test_a_followed_run_that_fails_is_told_apart(bridge: TwinBridge, start: Start) -> None:
    bridge.write("a", b"one\n")
    bridge.end_run("failed")
    assert start(follow=True).result(PATIENCE_S) == Ending(end=End.RUN_FAILED, run_state="failed")


def test_a_failed_run_that_is_only_printed_is_no_failure(bridge: TwinBridge, start: Start) -> None:
    bridge.write("a", b"one\n")
    bridge.end_run("failed")
    assert start(follow=False).result(PATIENCE_S).end is End.DONE


def test_nothing_is_lost_or_repeated_when_the_link_breaks(
    broker: MemoryBroker, bridge: TwinBridge, start: Start, paper: Paper
) -> None:
    reading = start(follow=True)
    expected = []
    for number in range(20):
        line = f"line {number}".encode()
        expected.append(("a", line))
        if number % 3 == 0:
            broker.cut(ME.client_id)
            bridge.forget_request()
        bridge.write("a", line[:4])
        bridge.write("a", line[4:] + b"\n")
        if number % 3 == 0:
            broker.restore(ME.client_id)
        paper.wait_for_lines(number + 1)
    bridge.end_run("success")
    assert reading.result(PATIENCE_S).end is End.DONE
    assert paper.printed == expected


def test_the_same_is_asked_again_after_a_reconnect_under_a_new_id(
    broker: MemoryBroker, bridge: TwinBridge, start: Start, paper: Paper
) -> None:
    start(follow=True)
    bridge.write("a", b"one\n")
    bridge.wait_until_parked({"a": 4})
    asked = bridge.requests[-1]
    bridge.forget_request()
    broker.cut(ME.client_id, "reset by peer")
    broker.restore(ME.client_id)
    bridge.wait_until_parked({"a": 4})
    again = bridge.requests[-1]
    assert again.request_id != asked.request_id
    assert (again.selector, again.positions, again.wait_s) == (asked.selector, asked.positions, asked.wait_s)
    # It was told that what it continued is forgotten.
    assert again.continues == ""
    paper.wait_for_news(2)
    assert paper.told == [f"waiting for the bridge at {URL}: reset by peer", "connected to the bridge"]


def test_an_answer_to_an_earlier_request_is_ignored(bridge: TwinBridge, start: Start, paper: Paper) -> None:
    start(follow=True)
    bridge.wait_until_parked({})
    stale = TailReply(
        request_id="of-another-life",
        streams=(
            LogStream(
                stream_id="a",
                dag_id="d",
                run_id="r1",
                task_id="a",
                map_index=-1,
                try_number=1,
                worker="w",
                queue="q",
                complete=False,
            ),
        ),
        slices=(StreamBytes(stream_id="a", offset=0, length=6),),
        body=b"stale\n",
    )
    bridge.send(stale)
    bridge.write("a", b"one\n")
    paper.wait_for_lines(1)
    assert paper.printed == [("a", b"one")]


def test_one_request_is_outstanding_at_a_time(bridge: TwinBridge, start: Start) -> None:
    start(follow=True)
    bridge.wait_until_parked({})
    bridge.write("a", b"one\n")
    bridge.wait_until_parked({"a": 4})
    assert len(bridge.requests) == 2


def test_a_follower_sleeps_until_something_happens_or_an_answer_counts_as_lost(
    bridge: TwinBridge, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeps: queue.SimpleQueue[float] = queue.SimpleQueue()

    class Events(queue.SimpleQueue[object]):
        def get(self, block: bool = True, timeout: float | None = None) -> object:
            sleeps.put(math.inf if timeout is None else timeout)
            return super().get(block, timeout)

    monkeypatch.setattr(tail_client, "queue", SimpleNamespace(SimpleQueue=Events, Empty=queue.Empty))
    reading = start(follow=True)
    bridge.wait_until_parked({})
    while sleeps.get(timeout=PATIENCE_S) < 39.0:
        pass
    assert not reading.done()


def test_an_answer_that_got_lost_is_asked_for_again(
    bridge: TwinBridge, start: Start, paper: Paper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail_client, "ANSWER_WITHIN_S", -19.95)
    bridge.mute = True
    start(follow=True)
    bridge.wait_for_requests(1)
    bridge.mute = False
    bridge.forget_request()
    bridge.write("a", b"one\n")
    paper.wait_for_lines(1)
    assert paper.printed == [("a", b"one")]


def test_answers_that_bring_nothing_are_not_asked_for_without_pause(
    bridge: TwinBridge, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail_client, "PAUSE_S", 0.2)
    reading = start(follow=True)
    bridge.wait_until_parked({})
    bridge.send(TailReply(request_id=bridge.requests[-1].request_id))
    bridge.wait_for_requests(2)
    first, second = bridge.asked_at
    assert second - first >= 0.15
    bridge.write("a", b"one\n")
    bridge.end_run("success")
    assert reading.result(PATIENCE_S).end is End.DONE


def test_a_log_that_stays_incomplete_is_told_in_one_line_at_the_end(
    bridge: TwinBridge, start: Start, paper: Paper
) -> None:
    bridge.missing = {"b": "the last 5 bytes of the log are missing", "c": "the end of the log may be missing"}
    for stream in "abc":
        bridge.write(stream, b"1\n")
    ending = start(follow=True)
    paper.wait_for_lines(3)
    assert paper.told == []
    bridge.end_run("failed")
    assert ending.result(PATIENCE_S) == Ending(end=End.RUN_FAILED, run_state="failed")
    assert paper.told == ["d b try 1: the last 5 bytes of the log are missing; 1 more logs are incomplete too"]


def test_what_the_bridge_notes_is_told_once(bridge: TwinBridge, start: Start, paper: Paper) -> None:
    bridge.note = "the end of the run is not seen"
    bridge.write("a", b"1\n")
    ending = start(follow=True)
    paper.wait_for_lines(1)
    bridge.write("a", b"2\n")
    paper.wait_for_lines(2)
    bridge.end_run("success")
    assert ending.result(PATIENCE_S).end is End.DONE
    assert paper.told == ["the end of the run is not seen"]
