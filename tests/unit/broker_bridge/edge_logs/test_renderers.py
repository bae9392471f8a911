"""Log lines are readable for people, exact for programs, and harmless for terminals."""

from __future__ import annotations

import json
from datetime import UTC, timedelta, timezone

import pytest

from edge_mqtt.broker_bridge.edge_logs.line_assembler import LogLine
from edge_mqtt.broker_bridge.edge_logs.renderers import JsonRenderer, PrettyRenderer, RawRenderer
from edge_mqtt.broker_bridge.protocol.messages import LogSelector, LogStream

ONE_TASK = LogSelector(dag_id="etl", task_id="pull")
WHOLE_RUN = LogSelector(dag_id="etl")
EVERYTHING = LogSelector()


def stream(task_id: str = "pull", *, map_index: int = -1, try_number: int = 1, worker: str = "lab-3") -> LogStream:
    return LogStream(
        stream_id=f"{task_id}.{map_index}.{try_number}",
        dag_id="etl",
        run_id="manual__1",
        task_id=task_id,
        map_index=map_index,
        try_number=try_number,
        worker=worker,
        queue="default",
        complete=False,
    )


def logged(data: bytes | dict[str, object], of: LogStream | None = None, *, terminated: bool = True) -> LogLine:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return LogLine(stream=of or stream(), data=raw, terminated=terminated)


def line(event: str = "hello", **fields: object) -> dict[str, object]:
    return {
        "timestamp": "2026-03-04T05:06:07.890123Z",
        "level": "info",
        "event": event,
        "logger": "task",
        "filename": "pull.py",
        "lineno": 3,
    } | fields


def pretty(
    *log_lines: LogLine, selector: LogSelector = ONE_TASK, colour: bool = False, timezone: timezone = UTC
) -> list[str]:
    renderer = PrettyRenderer(selector, colour=colour, timezone=timezone)
    text = b"".join(renderer.render(log_line) for log_line in log_lines).decode()
    assert text.endswith("\n") or not text
    return text.split("\n")[:-1]


def body(*log_lines: LogLine, colour: bool = False) -> list[str]:
    """Return what is printed below the header."""
    return pretty(*log_lines, colour=colour)[1:]


# ------------------------------------------------------------ pretty: a line


def test_a_line_shows_time_level_logger_message_and_what_was_logged_with_it() -> None:
    assert body(logged(line(rows=3, source="s3://bucket", note='two "words"', filters={"a": [1]}))) == [
        '05:06:07.890 INFO  task  hello rows=3 source=s3://bucket note="two \\"words\\"" filters={"a": [1]}'
    ]


def test_times_are_of_the_reader_s_zone() -> None:
    there = timezone(timedelta(hours=2))
    assert pretty(logged(line()), timezone=there)[1].startswith("07:06:07.890 ")


@pytest.mark.parametrize(
    ("level", "shown"),
    [("debug", "DEBUG"), ("info", "INFO "), ("warning", "WARN "), ("error", "ERROR"), ("critical", "CRIT ")],
)
def test_levels_are_of_one_width(level: str, shown: str) -> None:
    assert body(logged(line(level=level))) == [f"05:06:07.890 {shown} task  hello"]


def test_a_level_of_somebody_s_own_is_shown_as_it_is() -> None:
    assert body(logged(line(level="trace"))) == ["05:06:07.890 TRACE task  hello"]


def test_colours_follow_the_level() -> None:
    (shown,) = body(logged(line(level="warning")), colour=True)
    assert "\x1b[33mWARN \x1b[0m" in shown


def test_a_line_that_is_not_json_is_printed_as_it_is() -> None:
    assert body(logged(b"Segmentation fault {core dumped}"), logged(b'{"half": ')) == [
        "Segmentation fault {core dumped}",
        '{"half": ',
    ]


@pytest.mark.parametrize("data", [b'{"rows": 3}', b"[1]", b"{}", b"{" * 100_000, b""])
def test_json_that_is_no_log_line_is_printed_as_it_is(data: bytes) -> None:
    assert body(logged(data)) == [data.decode()]


def test_bytes_that_are_not_text_do_not_stop_the_rest() -> None:
    assert body(logged(b"caf\xe9"), logged(line())) == [
        "caf\N{REPLACEMENT CHARACTER}",
        "05:06:07.890 INFO  task  hello",
    ]


@pytest.mark.parametrize("timestamp", ["yesterday", "0001-01-01T00:00:00+14:00", 12, None])
def test_a_time_that_cannot_be_read_does_not_hide_the_line(timestamp: object) -> None:
    (shown,) = body(logged(line(timestamp=timestamp)))
    assert shown.endswith("INFO  task  hello")


def test_a_time_without_a_zone_is_utc() -> None:
    assert body(logged(line(timestamp="2026-03-04T05:06:07")))[0].startswith("05:06:07.000 ")


def test_the_lines_of_a_message_stay_together_and_its_fields_come_last() -> None:
    assert body(logged(line("SELECT 1\nFROM t\nWHERE x", rows=1))) == [
        "05:06:07.890 INFO  task  SELECT 1",
        "    FROM t",
        "    WHERE x rows=1",
    ]


def test_an_event_that_is_no_text_is_shown_as_json() -> None:
    assert body(logged(line() | {"event": {"a": 1}, "logger": None})) == ['05:06:07.890 INFO  {"a": 1}']


def test_groups_are_titles() -> None:
    assert body(logged(line("::group::Pre Execute")), logged(line("::endgroup::"))) == [
        "05:06:07.890 INFO  task  ▸ Pre Execute"
    ]


# ------------------------------------------------------------ pretty: exceptions


def stack(kind: str, value: str, **fields: object) -> dict[str, object]:
    return {
        "exc_type": kind,
        "exc_value": value,
        "exc_notes": [],
        "syntax_error": None,
        "is_cause": False,
        "frames": [{"filename": "/dags/etl.py", "lineno": 7, "name": "pull"}],
        "is_group": False,
        "exceptions": [],
    } | fields


def traceback_of(*stacks: object) -> list[str]:
    return [shown.removeprefix("    ") for shown in body(logged(line("failed", error_detail=list(stacks))))[1:]]


def test_an_exception_reads_as_python_prints_it() -> None:
    assert traceback_of(stack("ValueError", "no rows\nat all", exc_notes=["table t"])) == [
        "Traceback (most recent call last):",
        '  File "/dags/etl.py", line 7, in pull',
        "ValueError: no rows",
        "at all",
        "table t",
    ]


def test_causes_come_first() -> None:
    shown = traceback_of(stack("A", "a"), stack("B", "b", is_cause=True), stack("C", ""))
    assert [text for text in shown if not text.startswith(("Traceback", "  File"))] == [
        "C",
        "",
        "During handling of the above exception, another exception occurred:",
        "",
        "B: b",
        "",
        "The above exception was the direct cause of the following exception:",
        "",
        "A: a",
    ]


def test_a_syntax_error_shows_its_line() -> None:
    error = {"filename": "x.py", "lineno": 2, "line": "  def f(:\n", "offset": 7, "msg": "invalid syntax"}
    assert traceback_of(stack("SyntaxError", "invalid syntax", frames=[], syntax_error=error)) == [
        '  File "x.py", line 2',
        "    def f(:",
        "SyntaxError: invalid syntax",
    ]


def test_a_group_shows_every_exception_in_it() -> None:
    inner = {"stacks": [stack("B", "b", frames=[])]}
    assert traceback_of(stack("ExceptionGroup", "two", frames=[], is_group=True, exceptions=[inner, inner])) == [
        "ExceptionGroup: two",
        "  +---------------- 1 ----------------",
        "  | B: b",
        "  +---------------- 2 ----------------",
        "  | B: b",
    ]


def test_a_traceback_that_is_text_is_shown_as_it_is() -> None:
    assert body(logged(line("failed", exception="Traceback:\n  boom\n")))[1:] == ["    Traceback:", "      boom"]


def test_an_exception_of_another_form_is_not_hidden() -> None:
    assert traceback_of({"oops": 1}) == ['error_detail=[{"oops": 1}]']


# ------------------------------------------------------------ pretty: several streams


def test_a_header_says_where_a_stream_is_from() -> None:
    assert pretty(logged(line(), stream(map_index=4, try_number=2)))[0] == (
        "── etl · manual__1 · pull[4] · try 2 · worker lab-3 · queue default · 2026-03-04"
    )


def test_a_header_is_printed_once_and_again_when_the_stream_goes_on_elsewhere() -> None:
    shown = pretty(logged(line()), logged(line()), logged(line(), stream(worker="lab-4")))
    assert [number for number, text in enumerate(shown) if text.startswith("──")] == [0, 3]


def test_one_stream_has_no_prefix() -> None:
    assert pretty(logged(line()))[1] == "05:06:07.890 INFO  task  hello"


def test_lines_of_several_tries_are_told_apart_from_the_second_on() -> None:
    shown = pretty(logged(line()), logged(line(), stream(try_number=2)))
    assert shown[1] == "05:06:07.890 INFO  task  hello"
    assert shown[3] == "pull #2 | 05:06:07.890 INFO  task  hello"


def test_lines_of_a_run_carry_task_and_try_in_a_column() -> None:
    log_lines = (logged(line("a\nb"), stream("transform", map_index=3)), logged(line(), stream("load")))
    shown = [text for text in pretty(*log_lines, selector=WHOLE_RUN) if not text.startswith("──")]
    assert shown == [
        "transform[3] #1 | 05:06:07.890 INFO  task  a",
        "transform[3] #1 |     b",
        "load #1         | 05:06:07.890 INFO  task  hello",
    ]


def test_lines_of_everything_carry_the_dag_too() -> None:
    assert pretty(logged(line()), selector=EVERYTHING)[1].startswith("etl/pull #1 | ")


def test_a_task_s_colour_is_always_the_same() -> None:
    first = pretty(logged(line(), stream("a")), logged(line(), stream("b")), selector=WHOLE_RUN, colour=True)
    second = pretty(logged(line(), stream("b")), logged(line(), stream("a")), selector=WHOLE_RUN, colour=True)
    assert first[1].partition("#")[0] == second[3].partition("#")[0]
    assert first[1].startswith("\x1b[")


# ------------------------------------------------------------ pretty: terminals

CLEAR_SCREEN = "\x1b[2J\x1b[H"
TITLE = "\x1b]0;owned\x07"


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize(
    "hostile", [CLEAR_SCREEN, TITLE, "\x1b[", "\x1bc", "\x08\x08", "\x9b2J", "\x1b]52;c;ZXZpbA=="]
)
def test_a_log_cannot_command_the_terminal(hostile: str, *, colour: bool) -> None:
    plain = logged(f"a{hostile}b".encode())
    shown = body(
        plain,
        logged(line(f"a{hostile}b", logger=hostile, level=hostile, timestamp=hostile)),
        logged(line() | {f"k{hostile}": 1, "value": hostile}),
        logged(line(error_detail=[stack(hostile, hostile)])),
        colour=colour,
    )
    painted = "".join(shown).replace("\x1b[0m", "")
    for code in ("1", "2", "31", "32", "36", "1;31"):
        painted = painted.replace(f"\x1b[{code}m", "")
    assert not any(ord(character) < 0x20 or 0x7F <= ord(character) <= 0x9F for character in painted)


def test_colours_of_a_task_s_own_output_show_on_a_terminal_and_end_with_their_line() -> None:
    green = logged(b"\x1b[32mok\x1b[2J done")
    assert body(green, colour=True) == ["\x1b[32mok done\x1b[0m"]
    assert body(green) == ["ok done"]


def test_the_states_of_a_progress_bar_are_lines() -> None:
    assert body(logged(b"10 %\r20 %\r\n")) == ["10 %", "20 %", ""]
    assert body(logged(b"done\r")) == ["done"]


def test_an_output_that_knows_few_characters_gets_what_it_knows() -> None:
    renderer = PrettyRenderer(ONE_TASK, colour=False, encoding="ascii", timezone=UTC)
    assert renderer.render(logged(line("naïve"))).endswith(b"na?ve\n")


# ------------------------------------------------------------ json and raw


def test_json_adds_where_a_line_is_from() -> None:
    shown = JsonRenderer().render(logged(line(rows=3), stream(map_index=2)))
    assert shown.endswith(b"\n")
    assert json.loads(shown) == line(rows=3) | {
        "dag_id": "etl",
        "run_id": "manual__1",
        "task_id": "pull",
        "map_index": 2,
        "try_number": 1,
        "worker": "lab-3",
        "queue": "default",
    }


@pytest.mark.parametrize("data", [b"plain", b"[1]", b'{"half', b"caf\xe9"])
def test_json_makes_an_event_of_what_is_no_object(data: bytes) -> None:
    assert json.loads(JsonRenderer().render(logged(data)))["event"] == data.decode(errors="replace")


def test_json_is_valid_whatever_was_logged() -> None:
    shown = JsonRenderer().render(logged(b'{"event": "\\ud800"}'))
    assert json.loads(shown)["task_id"] == "pull"


def test_raw_is_the_bytes_as_they_are() -> None:
    renderer = RawRenderer()
    assert renderer.render(logged(b"\x00\xff{")) == b"\x00\xff{\n"
    assert renderer.render(logged(b"the end", terminated=False)) == b"the end"


def test_raw_lines_of_two_streams_do_not_run_together() -> None:
    renderer = RawRenderer()
    assert renderer.render(logged(b"no line feed", terminated=False)) == b"no line feed"
    assert renderer.render(logged(b"other", stream("b"))) == b"\nother\n"
    assert renderer.render(logged(b"a", terminated=False)) == b"a"
    assert renderer.render(logged(b"b")) == b"b\n"


def test_fields_that_the_header_says_are_left_out_and_long_values_are_cut() -> None:
    fields = {"ti_id": "1", "dag_id": "d", "try_number": 1, "ti": "x" * 500, "key": "k"}
    (shown,) = body(logged(line("pushed", **fields)))
    assert "ti_id" not in shown
    assert "dag_id" not in shown
    assert "key=k" in shown
    assert f"ti={'x' * 120}… (500 characters)" in shown
