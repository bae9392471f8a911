"""Every command ends in the same way: one line on stderr for what its user did wrong, and a code that says more."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from edge_mqtt.broker_bridge.cli import app as bridge
from edge_mqtt.broker_bridge.edge_logs.cli import app as logs
from edge_mqtt.broker_bridge.program.command import new_app, run_command
from edge_mqtt.broker_bridge.program.errors import ProgramError
from edge_mqtt.broker_bridge.program.exit_codes import ExitCode
from edge_mqtt.certs.cli import app as certs
from edge_mqtt.worker.cli import cli as worker


def run(command: Callable[[], int], **options: Callable[[ProgramError], ExitCode]) -> int:
    """Return the exit code of a program that does ``command``."""
    app = new_app("edge-test")
    app.command()(command)
    return run_command(app, "edge-test", [], **options)


def fail() -> int:
    raise ProgramError("the disk is full: make room")


def test_a_program_s_own_code_is_its_exit_code() -> None:
    assert run(lambda: 7) == 7
    assert run(lambda: 0) == ExitCode.DONE


def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(fail) == ExitCode.USAGE
    assert capsys.readouterr() == ("", "edge-test: the disk is full: make room\n")


def test_a_program_may_tell_errors_apart_by_code() -> None:
    assert run(fail, code_of=lambda _: ExitCode.FAILED) == ExitCode.FAILED


def test_ctrl_c_is_reported_as_a_shell_does(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    assert run(interrupted) == ExitCode.INTERRUPTED
    assert capsys.readouterr().err == ""


def test_an_output_that_is_closed_is_reported_as_a_shell_does(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/null", "w") as nowhere:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdout", nowhere)

        def unread() -> int:
            raise BrokenPipeError

        assert run(unread) == ExitCode.BROKEN_PIPE


@pytest.mark.parametrize("app", [bridge, certs, logs, worker], ids=["bridge", "certs", "logs", "worker"])
def test_an_option_that_a_program_does_not_have_is_one_line(app: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(app, "edge-test", ["--nonsense"]) == ExitCode.USAGE  # type: ignore[arg-type]
    said = capsys.readouterr().err
    assert said.startswith("edge-test: No such option: --nonsense")
    assert said.endswith("See edge-test --help.\n")
    assert said.count("\n") == 1
