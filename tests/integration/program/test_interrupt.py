"""Ctrl-C while a command is still starting: it ends at once and says nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.program.exit_codes import ExitCode
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.certs.store import Store
from tests.support.interrupt_sweep import Home, sweep

#: The first import of every command; what comes later finds the handler installed.
FIRST = "edge_mqtt.broker_bridge.program.interrupt"
#: Python writes a line like this for every module that it has imported.
NOISE = "import time:"
WORKER, OPERATOR = Identity(Role.WORKER, "lab-1"), Identity(Role.OPERATOR, "ann")
NOWHERE = ("--bridge", "wss://localhost:1/mqtt")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = Store(tmp_path_factory.mktemp("certs") / "store")
    now = datetime.now(UTC)
    made.create(hosts=["localhost"], force=False, now=now)
    for identity in (WORKER, OPERATOR):
        made.issue(identity, force=False, now=now)
    return made


class Command:
    """A command in a process group of its own, which tells of its imports."""

    def __init__(self, module: str, arguments: tuple[str, ...], home: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-X", "importtime", "-m", module, *arguments],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(home),
                "AIRFLOW_HOME": str(home / "airflow"),
                "AIRFLOW__API_AUTH__JWT_SECRET": "a" * 64,
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def imports(self) -> Iterator[str]:
        assert self.process.stderr is not None
        return (line.rsplit("|", 1)[-1].strip() for line in self.process.stderr if line.startswith(NOISE))

    def interrupt_after(self, count: int) -> tuple[int, list[str]]:
        """Send what Ctrl-C sends after so many imports; return the exit code and what was said."""
        imports = self.imports()
        assert FIRST in imports
        for _ in range(count):
            next(imports, None)
        os.killpg(self.process.pid, signal.SIGINT)
        # Up to the end of whoever has inherited stderr.
        _, rest = self.process.communicate(timeout=60)
        return self.process.returncode, [line for line in rest.splitlines() if not line.startswith(NOISE)]


def arguments_of(module: str, store: Store, home: Path) -> tuple[str, ...]:
    if module == "edge_mqtt.broker_bridge":
        bridge = str(store.folder(Identity(Role.BRIDGE, "bridge")))
        return ("--certs", bridge, "--port", "0", "--host", "127.0.0.1", "--health-port", "0")
    if module == "edge_mqtt.worker":
        return (*NOWHERE, "--certs", str(store.folder(WORKER)), "--state-dir", str(home / "state"))
    if module == "edge_mqtt.broker_bridge.edge_logs":
        return (*NOWHERE, "--certs", str(store.folder(OPERATOR)), "--all", "--follow")
    return ("list", "--dir", str(store.directory))


#: After how many imports Ctrl-C is pressed: from the first to one of the last before the program's own handlers.
MOMENTS = {
    "edge_mqtt.broker_bridge": (1, 100, 300, 500, 800, 1200),
    "edge_mqtt.worker": (1, 60, 120, 180, 240, 300, 600, 1200),
    "edge_mqtt.broker_bridge.edge_logs": (1, 60, 120, 180, 220, 260),
    "edge_mqtt.certs": (1, 50, 100, 150, 200, 250),
}


@pytest.mark.parametrize(("module", "count"), [(module, n) for module, counts in MOMENTS.items() for n in counts])
def test_interrupt_during_the_start_ends_a_command_without_a_word(
    store: Store, tmp_path: Path, module: str, count: int
) -> None:
    command = Command(module, arguments_of(module, store, tmp_path), tmp_path)
    code, said = command.interrupt_after(count)
    assert (code, said) == (ExitCode.INTERRUPTED, [])


def test_interrupt_at_any_moment_of_its_life_ends_a_command_without_a_traceback(tmp_path: Path) -> None:
    home = Home(tmp_path)
    endings = [ending for program in home.programs() for ending in sweep(home, program, 8, first=0.5)]
    assert [ending for ending in endings if not ending.is_right] == []
    assert {ending.code for ending in endings} >= {ExitCode.INTERRUPTED, ExitCode.DONE}


@pytest.mark.parametrize("script", [False, True], ids=["module", "script"])
def test_interrupt_before_the_first_instruction_ends_every_command(tmp_path: Path, *, script: bool) -> None:
    home = Home(tmp_path)
    endings = [home.interrupt(program, 0.0, script=script) for program in home.programs()]
    assert [(ending.code, ending.noise) for ending in endings] == [(ExitCode.INTERRUPTED, None)] * 4


#: Sends a signal to itself, as the terminal would.
SELF = """
import os, signal, sys
from edge_mqtt.broker_bridge.program import interrupt

def press():
    os.kill(os.getpid(), signal.SIGINT)

"""


def outcome(script: str, *, ignored: bool = False) -> tuple[int, str]:
    """Return the exit code of a script, and what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", SELF + script],
        check=False,
        capture_output=True,
        text=True,
        preexec_fn=(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if ignored else None,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_interrupt_stays_ignored_for_a_program_in_the_background() -> None:
    script = """
interrupt.end_quietly()
press()
interrupt.call_once(lambda: print("called"))
press()
"""
    assert outcome(script, ignored=True) == (0, "")


def test_interrupt_that_was_held_back_at_the_start_ends_the_program() -> None:
    script = """
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
press()
print("still here", flush=True)
interrupt.end_quietly()
print("never here", flush=True)
"""
    assert outcome(script) == (ExitCode.INTERRUPTED, "still here\n")


def test_first_interrupt_is_a_request_and_the_second_the_end() -> None:
    script = """
interrupt.end_quietly()
interrupt.call_once(lambda: print("asked to end", flush=True))
press()
print("ending", flush=True)
press()
print("never here", flush=True)
"""
    assert outcome(script) == (ExitCode.INTERRUPTED, "asked to end\nending\n")


def test_interrupt_waits_while_a_thing_is_done_as_a_whole() -> None:
    script = """
interrupt.end_quietly()
with interrupt.HeldBack():
    press()
    print("done as a whole", flush=True)
print("never here", flush=True)
"""
    assert outcome(script) == (ExitCode.INTERRUPTED, "done as a whole\n")


@pytest.mark.parametrize("when", ["as Python ends", "as the last objects go", "as threads end"])
def test_interrupt_at_the_end_of_the_interpreter_changes_nothing(when: str) -> None:
    script = {
        "as Python ends": "import atexit; atexit.register(press)",
        "as the last objects go": """
class Late:
    def __del__(self, press=press):
        press()
sys.late = Late()
""",
        "as threads end": "import threading; threading._register_atexit(press)",
    }[when]
    assert outcome(f"interrupt.end_quietly()\n{script}\ninterrupt.ignore()\nsys.exit(7)") == (7, "")


def test_signals_make_calls_in_a_loop_and_none_behind_its_end() -> None:
    script = """
import asyncio
interrupt.end_quietly()

async def main():
    told = asyncio.Event()
    interrupt.call_in_loop(asyncio.get_running_loop(), {signal.SIGINT: told.set})
    asyncio.get_running_loop().call_later(0.05, press)
    await told.wait()
    print("told", flush=True)

asyncio.run(main())
press()
print("gone on")
"""
    assert outcome(script) == (0, "told\ngone on\n")
