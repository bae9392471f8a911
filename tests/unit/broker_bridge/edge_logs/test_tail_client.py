"""The reader asks one thing at a time and loses and repeats nothing, whatever the connection does."""

from __future__ import annotations

import math
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from edge_mqtt.broker_bridge.edge_logs import cli, tail_client
from edge_mqtt.broker_bridge.edge_logs.line_assembler import LineAssembler, LogLine
from edge_mqtt.broker_bridge.edge_logs.tail_client import End, Ending, TailClient
from edge_mqtt.broker_bridge.protocol.messages import ErrorReply, LogSelector, LogStream, StreamBytes, TailReply
from edge_mqtt.broker_bridge.transport.channel import MessageChannel
from edge_mqtt.broker_bridge.transport.interface import Refusal, RefusalReason
from edge_mqtt.broker_bridge.transport.memory import MemoryBroker, MemoryTransport
from tests.support.fake_tail_bridge import ME, PATIENCE_S, TOPICS, Paper, TwinBridge

URL = "wss://bridge.example:443/mqtt"


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def bridge(broker: MemoryBroker) -> TwinBridge:
    return TwinBridge(broker)


@pytest.fixture
def paper() -> Paper:
    return Paper()


Start = Callable[..., Future[Ending]]


def make_reader(broker: MemoryBroker, paper: Paper, *, follow: bool, last_lines: int | None = None) -> TailClient:
    transport = MemoryTransport(broker, ME.client_id, (TOPICS.admin_response(ME),))
    return TailClient(
        MessageChannel(transport),
        url=URL,
        request_topic=TOPICS.admin_request(ME),
        tail=LineAssembler(LogSelector(dag_id="d"), last_lines=last_lines, wait_s=20.0 if follow else 0.0),
        output=paper,
        follow=follow,
    )


@pytest.fixture
def start(broker: MemoryBroker, bridge: TwinBridge, paper: Paper) -> Iterator[Start]:  # noqa: ARG001  the bridge has to be there first
    """Start a reader in a thread; what it has not ended by itself is ended by a refusal."""
    running: list[tuple[TailClient, Future[Ending]]] = []
    with ThreadPoolExecutor(4) as threads:

        def begin(*, follow: bool, last_lines: int | None = None) -> Future[Ending]:
            reader = make_reader(broker, paper, follow=follow, last_lines=last_lines)
            future = threads.submit(reader.run)
            running.append((reader, future))
            return future

        yield begin
        for reader, _ in running:
            reader.refused(Refusal(reason=RefusalReason.NOT_AUTHORIZED, message="the test is over"))


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
