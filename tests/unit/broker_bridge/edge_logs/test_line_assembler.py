"""However the bridge cuts a log up, whole lines come out, each once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_mqtt.broker_bridge.edge_logs.line_assembler import MAX_LINE_BYTES, LineAssembler, LogLine
from edge_mqtt.broker_bridge.protocol.messages import LogSelector, LogStream, StreamBytes, TailReply, TailRequest

SELECTOR = LogSelector(dag_id="d")


def stream(name: str = "a", *, complete: bool = False) -> LogStream:
    return LogStream(
        stream_id=name,
        dag_id="d",
        run_id="r",
        task_id=name,
        map_index=-1,
        try_number=1,
        worker="w",
        queue="q",
        complete=complete,
    )


def reply(*slices: tuple[str, int, bytes], complete: bool = False, **changes: object) -> TailReply:
    names = dict.fromkeys(name for name, _, _ in slices)
    fields: dict[str, object] = {
        "request_id": "x",
        "streams": tuple(stream(name, complete=complete) for name in names),
        "slices": tuple(StreamBytes(stream_id=n, offset=o, length=len(data)) for n, o, data in slices),
        "body": b"".join(data for _, _, data in slices),
    }
    return TailReply.model_validate(fields | changes)


def tail(*, last_lines: int | None = None) -> LineAssembler:
    return LineAssembler(SELECTOR, last_lines=last_lines, wait_s=20)


def asked_whole(reading: LineAssembler) -> TailRequest:
    """Return the next request when the bridge has forgotten the ones before."""
    assert reading.accept(reply(forgotten=True)).progress
    return reading.request("again")


def texts(lines: tuple[LogLine, ...]) -> list[bytes]:
    return [line.data for line in lines]


def test_an_incomplete_line_waits_for_its_end() -> None:
    reading = tail()
    assert texts(reading.accept(reply(("a", 0, b"one\ntw"))).lines) == [b"one"]
    assert asked_whole(reading).positions == {"a": 6}
    assert texts(reading.accept(reply(("a", 6, b"o\nthree\n"))).lines) == [b"two", b"three"]
    assert reading.rest() == ()


def test_an_incomplete_last_line_is_printed_when_its_stream_is_complete_and_read_to_the_end() -> None:
    reading = tail()
    assert reading.accept(reply(("a", 0, b"cut sh"), complete=True)).lines == ()
    (line,) = reading.accept(reply(streams=(stream(complete=True),))).lines
    assert (line.data, line.terminated) == (b"cut sh", False)
    assert reading.accept(reply(streams=(stream(complete=True),))).lines == ()


def test_what_is_left_at_the_end_is_printed_even_when_its_stream_goes_on() -> None:
    reading = tail()
    reading.accept(reply(("a", 0, b"prompt> ")))
    assert texts(reading.rest()) == [b"prompt> "]


def test_a_slice_that_was_read_before_is_not_printed_again() -> None:
    reading = tail()
    reading.accept(reply(("a", 0, b"one\ntwo\n")))
    again = reading.accept(reply(("a", 0, b"one\ntwo\n")))
    assert again.lines == ()
    assert not again.progress
    assert texts(reading.accept(reply(("a", 4, b"two\nthree\n"))).lines) == [b"three"]


def test_a_slice_after_a_gap_is_not_taken_but_asked_for_again() -> None:
    reading = tail()
    reading.accept(reply(("a", 0, b"one\n")))
    ahead = reading.accept(reply(("a", 9, b"three\n")))
    assert (ahead.lines, ahead.progress) == ((), False)
    assert asked_whole(reading).positions == {"a": 4}


def test_a_slice_of_an_unknown_stream_is_left_alone() -> None:
    reading = tail()
    taken = reading.accept(reply(("a", 0, b"one\n"), streams=()))
    assert (taken.lines, taken.progress) == ((), False)
    assert asked_whole(reading).positions == {}


def test_a_stream_begins_where_the_bridge_says() -> None:
    reading = tail(last_lines=1)
    assert reading.request("1").last_lines == 1
    assert texts(reading.accept(reply(("a", 100, b"last\n"))).lines) == [b"last"]
    assert asked_whole(reading).positions == {"a": 105}


def test_a_stream_that_turns_up_later_is_read_from_its_first_byte() -> None:
    reading = tail(last_lines=1)
    reading.accept(reply(("a", 100, b"last\n")))
    assert asked_whole(reading).last_lines is None


def test_an_empty_stream_is_known_from_then_on() -> None:
    reading = tail()
    assert reading.accept(reply(("a", 0, b""))).progress
    assert asked_whole(reading).positions == {"a": 0}


def test_the_newest_run_is_looked_up_once() -> None:
    reading = tail()
    assert reading.request("1").selector.run_id is None
    reading.accept(reply(run_id="first", cursor=7))
    second = asked_whole(reading)
    assert (second.selector.run_id, second.cursor) == ("first", 7)


def test_a_line_without_end_is_printed_in_parts_instead_of_held() -> None:
    reading = tail()
    half = b"x" * (MAX_LINE_BYTES // 2 + 1)
    assert reading.accept(reply(("a", 0, half))).lines == ()
    (line,) = reading.accept(reply(("a", len(half), half))).lines
    assert (len(line.data), line.terminated) == (2 * len(half), False)
    assert reading.rest() == ()


@given(
    log=st.binary(max_size=200).map(lambda data: data.replace(b"\x00", b"\n")),
    windows=st.lists(st.tuples(st.integers(0, 210), st.integers(0, 80)), max_size=40),
)
def test_any_cut_of_a_log_gives_its_bytes_once(log: bytes, windows: list[tuple[int, int]]) -> None:
    reading = tail()
    reading.accept(reply(("a", 0, b"")))
    printed = b""
    for start, length in [*windows, (0, len(log))]:
        begin = min(start, len(log))
        for line in reading.accept(reply(("a", begin, log[begin : begin + length]))).lines:
            assert b"\n" not in line.data
            printed += line.data + b"\n" * line.terminated
    for line in reading.rest():
        printed += line.data
    assert printed == log


def test_what_the_bridge_remembers_is_not_told_again() -> None:
    reading = tail(last_lines=1)
    reading.accept(reply(("a", 0, b"one\n"), ("b", 0, b"two\n"), cursor=7, run_id="r"))
    second = reading.request("2")
    assert (second.continues, second.positions, second.last_lines, second.cursor) == ("x", {}, None, 0)
    whole = asked_whole(reading)
    assert (whole.continues, whole.positions, whole.cursor) == ("", {"a": 4, "b": 4}, 7)


def test_after_a_gap_everything_is_told() -> None:
    reading = tail()
    reading.accept(reply(("a", 0, b"one\n")))
    reading.accept(reply(("a", 9, b"three\n")))
    assert reading.request("2").continues == ""
