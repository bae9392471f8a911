"""Ctrl-C at many moments of a command, from its first instruction to the end of its interpreter."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from edge_mqtt.broker_bridge.program.exit_codes import ExitCode
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.certs.store import Store

WORKER, OPERATOR, BRIDGE = (
    Identity(Role.WORKER, "lab-1"),
    Identity(Role.OPERATOR, "ann"),
    Identity(Role.BRIDGE, "bridge"),
)
NOWHERE: Final = ("--bridge", "wss://localhost:1/mqtt")
#: Python's own start, before the command's first instruction, is not ours: SIGINT is held back until then, and the
#: command lets it through.
WRAPPER: Final = """
import os, runpy, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
wake, target = int(sys.argv.pop(1)), sys.argv.pop(1)
sys.argv.pop(0)
sys.argv.insert(0, target)
os.write(wake, b"!")
os.close(wake)
if "/" in target:
    runpy.run_path(target, run_name="__main__")
else:
    runpy.run_module(target, run_name="__main__", alter_sys=True)
"""
#: What nobody shall see.
NOISE: Final = re.compile(r"Traceback|KeyboardInterrupt|Exception ignored|Error in ")
#: Seconds that anything may take on a busy machine.
PATIENCE_S: Final = 60.0


@dataclass(frozen=True, kw_only=True)
class Program:
    """A command, and how it may end."""

    name: str
    module: str
    arguments: tuple[str, ...]
    #: Exit codes beside ``ExitCode.INTERRUPTED``: those of one that is asked to end when it works, or has ended.
    codes: frozenset[int]
    #: What it says when it works; None: it ends by itself.
    ready: str | None

    def target(self, *, script: bool) -> str:
        """Return what is run: the installed script, or the module."""
        return str(Path(sys.executable).with_name(self.name)) if script else self.module


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a run ended."""

    program: Program
    after_s: float
    code: int
    noise: str | None

    @property
    def is_right(self) -> bool:
        """Whether it was the end, without a traceback."""
        return self.noise is None and self.code in {ExitCode.INTERRUPTED, *self.program.codes}


class Home:
    """Folders and certificates for one run after another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(folder / "certs")
        now = datetime.now(UTC)
        self.store.create(hosts=["localhost"], force=False, now=now)
        for identity in (WORKER, OPERATOR):
            self.store.issue(identity, force=False, now=now)

    def programs(self) -> list[Program]:
        """Return every command."""
        bridge, worker, operator = (str(self.store.folder(party)) for party in (BRIDGE, WORKER, OPERATOR))
        ports = ("--port", "0", "--host", "127.0.0.1", "--health-port", "0")
        state = ("--state-dir", str(self.folder / "state"))
        return [
            Program(
                name="edge-bridge",
                module="edge_mqtt.broker_bridge",
                arguments=("--certs", bridge, *ports),
                # Told twice it ends at once.
                codes=frozenset({ExitCode.DONE, ExitCode.FAILED}),
                ready="bridge is ready",
            ),
            Program(
                name="edge-worker",
                module="edge_mqtt.worker",
                arguments=(*NOWHERE, "--certs", worker, *state),
                codes=frozenset({ExitCode.DONE, ExitCode.FAILED}),
                ready="no connection to",
            ),
            Program(
                name="edge-logs",
                module="edge_mqtt.broker_bridge.edge_logs",
                arguments=(*NOWHERE, "--certs", operator, "--all", "--follow"),
                codes=frozenset(),
                ready="waiting for the bridge",
            ),
            Program(
                name="edge-certs",
                module="edge_mqtt.certs",
                arguments=("list", "--dir", str(self.store.directory)),
                codes=frozenset({ExitCode.DONE}),
                ready=None,
            ),
        ]

    def start(self, program: Program, *, script: bool) -> subprocess.Popen[bytes]:
        """Start a command; return when its first instruction is about to be."""
        wake, marker = os.pipe()
        with open(wake, "rb") as began:  # noqa: PTH123 -- a descriptor
            process = subprocess.Popen(
                [sys.executable, "-c", WRAPPER, str(marker), program.target(script=script), *program.arguments],
                env={
                    "PATH": os.environ["PATH"],
                    "HOME": str(self.folder),
                    "AIRFLOW_HOME": str(self.folder / "airflow"),
                    "AIRFLOW__API_AUTH__JWT_SECRET": "a" * 64,
                },
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(marker,),
                start_new_session=True,
            )
            os.close(marker)
            began.read(1)
        return process

    def measure(self, program: Program) -> float:
        """Return the seconds after which a command works, or has ended by itself."""
        process = self.start(program, script=False)
        began = time.monotonic()
        if program.ready is not None:
            wait_for(process, program.ready)
            took_s = time.monotonic() - began
            process.kill()
        process.communicate(timeout=PATIENCE_S)
        return took_s if program.ready is not None else time.monotonic() - began

    def interrupt(self, program: Program, after_s: float, *, script: bool, again_s: float | None = None) -> Ending:
        """Press Ctrl-C after so many seconds, and again so many seconds later; return how the command ended."""
        process = self.start(program, script=script)
        for pause_s in (after_s,) if again_s is None else (after_s, again_s):
            time.sleep(pause_s)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE_S)
        text = said.decode(errors="replace")
        return Ending(
            program=program,
            after_s=after_s + (again_s or 0.0),
            code=process.returncode,
            noise=text[-2000:] if NOISE.search(text) else None,
        )


def wait_for(process: subprocess.Popen[bytes], text: str) -> None:
    """Wait until a command says something."""
    assert process.stderr is not None
    said, deadline = b"", time.monotonic() + PATIENCE_S
    with selectors.DefaultSelector() as selector:
        selector.register(process.stderr, selectors.EVENT_READ)
        while text.encode() not in said:
            assert time.monotonic() < deadline, said
            if selector.select(1.0):
                data = os.read(process.stderr.fileno(), 65536)
                assert data, said
                said += data


def sweep(home: Home, program: Program, moments: int, *, first: float = 0.0) -> list[Ending]:
    """Press Ctrl-C at so many moments, spread over the life of a command, in turn as a script and as a module.

    :param first: where in its share of the time the first moment is, from 0 to 1.
    """
    # A program that works goes on a little: its own handlers, and its end.
    # The first time, files are read that are in memory the second time.
    life_s = min(home.measure(program) for _ in range(2)) * (1.05 if program.ready is None else 1.2)
    endings = []
    for number in range(moments):
        after_s = life_s * (number + first) / moments
        endings.append(home.interrupt(program, after_s, script=number % 2 == 1))
    if program.ready is not None:
        # In its end, too.
        for number in range(moments // 4):
            again_s = 0.5 * (number + first) / (moments // 4)
            endings.append(home.interrupt(program, life_s, script=number % 2 == 1, again_s=again_s))
    return endings


def main(arguments: Sequence[str] | None = None) -> int:
    """Sweep; return 1 when a run ended in another way than it should."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=200, help="of each command (default: %(default)s)")
    options = parser.parse_args(arguments)
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="interrupts-") as folder:
        home = Home(Path(folder))
        for program in home.programs():
            endings = sweep(home, program, options.moments)
            bad = [ending for ending in endings if not ending.is_right]
            codes = Counter(ending.code for ending in endings)
            print(f"{program.name}: {len(endings)} times, exit codes {dict(codes)}, {len(bad)} wrong", flush=True)
            for ending in bad:
                print(f"  after {ending.after_s:.4f} s: {ending.code}\n{ending.noise or ''}", flush=True)
            wrong += len(bad)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
