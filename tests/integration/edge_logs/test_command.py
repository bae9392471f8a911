"""The edge-logs command as people run it, over real WSS against the real tail service."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.program.exit_codes import ExitCode
from tests.support.scenario_edge_logs import OPERATOR, PATIENCE_S, WORKER, LogCentre

COMMAND = [sys.executable, "-m", "edge_mqtt.broker_bridge.edge_logs.cli"]


@pytest.fixture
def centre(tmp_path: Path) -> Iterator[LogCentre]:
    centre = LogCentre(tmp_path)
    yield centre
    centre.close()


Run = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def run(centre: LogCentre, tmp_path: Path) -> Iterator[Run]:
    """Start edge-logs with the given arguments; kill what still runs at the end."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **environ: str) -> subprocess.Popen[str]:
        bridge = ["--bridge", centre.url, "--certs", str(centre.certs_of(OPERATOR))]
        process = subprocess.Popen(
            [*COMMAND, *arguments, *bridge],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TZ": "UTC", **environ},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def log_line(number: int, **fields: object) -> bytes:
    record = {
        "timestamp": "2026-03-04T05:06:07.890123Z",
        "level": "info",
        "event": f"line {number}",
        "logger": "task",
        **fields,
    }
    return json.dumps(record).encode() + b"\n"


def read_lines(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().rstrip("\n") for _ in range(count)]


def test_what_is_there_is_printed_and_that_is_all(centre: LogCentre, run: Run) -> None:
    centre.write("pull", log_line(1) + b"no json\n" + log_line(2, rows=3))
    out, err = (process := run("etl", "pull")).communicate(timeout=PATIENCE_S)
    assert out.splitlines() == [
        "── etl · r1 · pull · try 1 · worker lab-3 · queue default · 2026-03-04",
        "05:06:07.890 INFO  task  line 1",
        "no json",
        "05:06:07.890 INFO  task  line 2 rows=3",
    ]
    assert err == ""
    assert process.returncode == 0


def test_the_last_lines_of_every_log_are_printed(centre: LogCentre, run: Run) -> None:
    for task in ("pull", "load"):
        centre.write(task, b"".join(log_line(number) for number in range(50)))
    out, _ = run("etl", "-n", "2", "--output", "json").communicate(timeout=PATIENCE_S)
    shown = [(line["task_id"], line["event"]) for line in map(json.loads, out.splitlines())]
    assert sorted(shown) == [("load", "line 48"), ("load", "line 49"), ("pull", "line 48"), ("pull", "line 49")]


def test_one_try_of_one_mapped_task_can_be_picked(centre: LogCentre, run: Run) -> None:
    centre.write("pull", b"other\n", map_index=1, try_number=2)
    centre.write("pull", b"other\n", map_index=2, try_number=1)
    centre.write("pull", b"this\n", map_index=2, try_number=2)
    out, _ = run("etl", "pull", "--map-index", "2", "--try", "2", "-o", "raw").communicate(timeout=PATIENCE_S)
    assert out == "this\n"


def test_a_large_log_comes_through_byte_for_byte(centre: LogCentre, run: Run) -> None:
    log = b"".join(log_line(number, text="é" * (number % 50)) for number in range(30_000)) + b"the end"
    centre.write("pull", log)
    out, _ = run("etl", "pull", "-o", "raw").communicate(timeout=PATIENCE_S)
    assert out.encode() == log


@pytest.mark.parametrize(("state", "code"), [("success", 0), ("failed", 1)])
def test_a_followed_run_ends_with_its_result(centre: LogCentre, run: Run, state: str, code: int) -> None:
    centre.write("pull", log_line(1))
    process = run("etl", "-f", "-o", "json")
    assert json.loads(read_lines(process, 1)[0])["event"] == "line 1"
    centre.write("pull", log_line(2))
    centre.write("load", log_line(3)[:-1])
    assert json.loads(read_lines(process, 1)[0])["event"] == "line 2"
    centre.end_run(state)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert json.loads(out)["event"] == "line 3"
    assert err == ""
    assert process.returncode == code


def test_a_line_is_shown_as_soon_as_it_is_there(centre: LogCentre, run: Run) -> None:
    centre.write("pull", b"0\n")
    process = run("etl", "pull", "-f", "-o", "raw")
    assert read_lines(process, 1) == ["0"]
    delays = []
    for number in range(1, 21):
        began = time.monotonic()
        centre.write("pull", f"{number}\n".encode())
        assert read_lines(process, 1) == [str(number)]
        delays.append(time.monotonic() - began)
    # Half a second is the promise for the whole way; this is its last part.
    assert sorted(delays)[10] < 0.25


def test_a_restart_of_the_bridge_loses_and_repeats_nothing(centre: LogCentre, run: Run) -> None:
    process = run("etl", "-f", "-o", "raw")
    expected = []
    for round_ in range(3):
        for number in range(20):
            expected.append(f"{round_}.{number}")
            centre.write("pull", f"{round_}.{number}\n".encode())
        if round_ == 1:
            expected.append("while away")
            centre.stop()
            assert process.stderr is not None
            assert process.stderr.readline().startswith(f"edge-logs: waiting for the bridge at {centre.url}")
            # Half of the line before the restart, half after it.
            centre.write("pull", b"while ")
            centre.start()
            centre.write("pull", b"away\n")
        assert (
            read_lines(process, len(expected) - 20 * round_ - (round_ > 1)) == expected[20 * round_ + (round_ > 1) :]
        )
    centre.end_run("success")
    out, err = process.communicate(timeout=PATIENCE_S)
    assert out == ""
    assert err.splitlines() == ["edge-logs: connected to the bridge"]
    assert process.returncode == 0


def test_no_such_dag_is_one_line(run: Run) -> None:
    out, err = (process := run("nope", "-f")).communicate(timeout=PATIENCE_S)
    assert (out, err) == ("", "edge-logs: there is no Dag 'nope'\n")
    assert process.returncode == 2


def test_a_second_reader_with_the_same_certificate_is_told_what_to_do(centre: LogCentre, run: Run) -> None:
    centre.write("pull", b"1\n")
    first = run("etl", "-f", "-o", "raw")
    assert read_lines(first, 1) == ["1"]
    out, err = (second := run("etl")).communicate(timeout=PATIENCE_S)
    assert second.returncode == ExitCode.NAME_IN_USE
    assert out == ""
    assert "edge-certs issue operator NAME" in err.splitlines()[-1]
    centre.write("pull", b"2\n")
    assert read_lines(first, 1) == ["2"]


def test_one_reader_after_the_other_is_fine(centre: LogCentre, run: Run) -> None:
    centre.write("pull", b"1\n")
    for _ in range(3):
        out, err = run("etl", "-o", "raw").communicate(timeout=PATIENCE_S)
        assert (out, err) == ("1\n", "")


def test_ctrl_c_is_quiet(centre: LogCentre, run: Run) -> None:
    centre.write("pull", b"1\n")
    process = run("etl", "-f", "-o", "raw")
    assert read_lines(process, 1) == ["1"]
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=PATIENCE_S) == ("", "")
    assert process.returncode == 130
    centre.wait_for_readers(0)


def test_a_reader_of_the_output_that_leaves_ends_it_at_once(centre: LogCentre, run: Run) -> None:
    centre.write("pull", b"1\n2\n")
    process = run("etl", "-f", "-o", "raw")
    assert read_lines(process, 1) == ["1"]
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(PATIENCE_S) == 141
    assert process.stderr is not None
    assert process.stderr.read() == ""


def test_a_bridge_that_is_away_is_waited_for_when_following(centre: LogCentre, run: Run) -> None:
    centre.write("pull", b"1\n")
    centre.stop()
    process = run("etl", "-f", "-o", "raw")
    assert process.stderr is not None
    assert process.stderr.readline().startswith(f"edge-logs: waiting for the bridge at {centre.url}")
    centre.start()
    assert read_lines(process, 1) == ["1"]


def test_a_bridge_that_is_away_is_given_up_when_not_following(centre: LogCentre, run: Run) -> None:
    centre.stop()
    out, err = (process := run("etl")).communicate(timeout=PATIENCE_S)
    assert out == ""
    first, last = err.splitlines()
    assert first.startswith(f"edge-logs: waiting for the bridge at {centre.url}")
    assert last.startswith(f"edge-logs: no connection to the bridge at {centre.url} within 10 s")
    assert process.returncode == ExitCode.UNREACHABLE


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "name a Dag"),
        (["--all", "etl"], "--all means every Dag"),
        (["etl", "--try", "0"], "--try"),
        (["etl", "--nonsense"], "--nonsense"),
        (
            ["etl", "--bridge", "http://x", "--certs", "CERTS"],
            "--bridge is 'http://x': it must be of the form wss://",
        ),
        (["etl", "--bridge", "wss://x", "--certs", "WORKER"], "needs an operator's"),
        (["etl", "--bridge", "wss://x", "--certs", "/nowhere"], "/nowhere"),
        (["etl"], "EDGE_MQTT_BRIDGE_URL"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    centre: LogCentre, tmp_path: Path, arguments: list[str], says: str
) -> None:
    folders = {"CERTS": str(centre.certs_of(OPERATOR)), "WORKER": str(centre.certs_of(WORKER))}
    done = subprocess.run(
        [*COMMAND, *(folders.get(argument, argument) for argument in arguments)],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("edge-logs: ")
    assert says in line


def on_a_terminal(centre: LogCentre, tmp_path: Path, **environ: str) -> str:
    """Return what edge-logs prints when its stdout is a terminal."""
    primary, secondary = pty.openpty()
    bridge = ["--bridge", centre.url, "--certs", str(centre.certs_of(OPERATOR))]
    with subprocess.Popen(
        [*COMMAND, "etl", *bridge],
        stdout=secondary,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TERM": "xterm-256color", "TZ": "UTC", **environ},
    ) as process:
        os.close(secondary)
        shown = b""
        while select.select([primary], [], [], PATIENCE_S)[0]:
            try:
                shown += os.read(primary, 65536)
            except OSError:
                # The terminal's other side is closed: the program has ended.
                break
        assert process.wait(PATIENCE_S) == 0
    os.close(primary)
    return shown.decode()


def test_a_terminal_gets_colours(centre: LogCentre, tmp_path: Path) -> None:
    centre.write("pull", log_line(1, level="error"))
    assert "\x1b[1;31mERROR" in on_a_terminal(centre, tmp_path)


def test_a_terminal_that_wants_none_gets_no_colours(centre: LogCentre, tmp_path: Path) -> None:
    centre.write("pull", log_line(1, level="error"))
    shown = on_a_terminal(centre, tmp_path, NO_COLOR="1")
    assert "ERROR" in shown
    assert "\x1b" not in shown


def test_airflow_is_not_imported() -> None:
    script = (
        "import sys; from edge_mqtt.broker_bridge.edge_logs.cli import main; "
        "code = main(['d', '--bridge', 'http://x', '--certs', '/nowhere']); "
        "heavy = {'airflow', 'sqlalchemy', 'amqtt'} & set(sys.modules); sys.exit(code if not heavy else str(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
