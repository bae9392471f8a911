"""What dead supervisors leave behind is killed; and what a kill came to is looked at, not believed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from edge_mqtt.worker.system import killing
from edge_mqtt.worker.system.boot_clock import boot_id
from edge_mqtt.worker.system.cgroup import RunCgroup
from edge_mqtt.worker.system.killing import (
    NOTHING,
    Killed,
    ask_to_end,
    kill_below,
    kill_orphans,
    kill_tree,
    reap_adopted,
)
from edge_mqtt.worker.system.process import ProcessIdentity, start_time

NO_GROUP = RunCgroup(None)
#: A session's leader with a child that outlives it; prints the child's pid.
LEADER = """
import os, subprocess, sys, time
os.setsid()
print(subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL).pid, flush=True)
time.sleep(600)
"""
#: A supervisor that is a subreaper, with a task that has left a daemon in a session of its own.
SUPERVISOR = """
import os, subprocess, sys, time
from edge_mqtt.worker.system.killing import become_subreaper
become_subreaper()
daemon = "import subprocess; print(subprocess.Popen(['sleep', '600'], start_new_session=True, stdout=2).pid)"
print(subprocess.check_output([sys.executable, "-c", daemon], text=True), end="", flush=True)
time.sleep(600)
"""


def identity_of(process: subprocess.Popen[str]) -> ProcessIdentity:
    return ProcessIdentity(pid=process.pid, start=start_time(process.pid) or 0, boot=boot_id())


Started = list[subprocess.Popen[str] | psutil.Process]


@pytest.fixture
def started() -> Iterator[Started]:
    """Processes that must not outlive the test."""
    processes: Started = []
    yield processes
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        if isinstance(process, subprocess.Popen):
            process.wait()


def start(code: str, started: Started) -> tuple[subprocess.Popen[str], ProcessIdentity, psutil.Process]:
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.stdout.close()
    started += [child, parent]
    return parent, identity_of(parent), child


def is_gone(process: psutil.Process) -> bool:
    return start_time(process.pid) is None


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def test_what_a_killed_supervisor_leaves_is_killed(started: Started) -> None:
    leader, identity, child = start(LEADER, started)
    end(leader)
    assert child.is_running()
    assert kill_orphans(identity, NO_GROUP) == Killed(count=1)
    assert is_gone(child)


@pytest.mark.parametrize("boot", ["", "another"])
def test_nothing_is_killed_for_a_supervisor_that_lives_or_is_of_another_boot(started: Started, boot: str) -> None:
    leader, identity, child = start(LEADER, started)
    assert kill_orphans(identity, NO_GROUP) == NOTHING
    end(leader)
    assert kill_orphans(ProcessIdentity(pid=identity.pid, start=identity.start, boot=boot), NO_GROUP) == NOTHING
    assert not is_gone(child)


def test_what_a_task_has_left_in_another_session_is_found_below_its_supervisor(
    started: Started,
) -> None:
    supervisor, identity, daemon = start(SUPERVISOR, started)
    assert daemon.ppid() == identity.pid
    assert os.getsid(daemon.pid) != os.getsid(identity.pid)
    assert kill_below(identity, NO_GROUP) == Killed(count=1)
    assert is_gone(daemon)
    assert identity.is_alive()
    assert kill_tree(identity, NO_GROUP) == NOTHING
    assert supervisor.wait(10) == -signal.SIGKILL


def test_a_process_that_is_not_ours_to_kill_is_told_of_and_its_supervisor_stays(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, identity, daemon = start(SUPERVISOR, started)
    monkeypatch.setattr(killing, "GONE_WAIT_S", 0.1)

    def refuse(self: psutil.Process, _signum: int) -> None:
        raise psutil.AccessDenied(self.pid)

    # Not even sudo may, which this machine need not have.
    monkeypatch.setattr(psutil.Process, "send_signal", refuse)
    monkeypatch.setattr(killing, "_send_as", lambda *_: "sudo: a password is required")
    killed = kill_tree(identity, NO_GROUP)
    user = daemon.username()
    assert str(killed) == f"{daemon.pid} ({user}, sleep) (sudo: a password is required)"
    assert killed.count == 0
    assert identity.is_alive()


def test_a_machine_without_sudo_says_so(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, child = start(LEADER, started)

    def refuse(self: psutil.Process, _signum: int) -> None:
        raise psutil.AccessDenied(self.pid)

    monkeypatch.setattr(psutil.Process, "send_signal", refuse)
    monkeypatch.setattr(psutil.Process, "uids", lambda _self: SimpleNamespace(real=4711))
    monkeypatch.setenv("PATH", "/nowhere")
    assert killing.send_signal([child], signal.SIGKILL).startswith("sudo: ")
    assert not is_gone(child)


def test_sigterm_goes_to_the_supervisor_and_to_the_group_of_its_task(tmp_path: Path, started: Started) -> None:
    code = f"""
import os, signal, subprocess, sys, time
from pathlib import Path
here = Path({str(tmp_path)!r})
def told(name):
    signal.signal(signal.SIGTERM, lambda *_: (here / name).touch())
told("supervisor")
pid = os.fork()
if pid == 0:
    os.setpgid(0, 0)
    told("task")
    if os.fork() == 0:
        told("child")
        (here / "ready").touch()
    while True:
        time.sleep(600)
print(pid, flush=True)
while True:
    time.sleep(600)
"""
    _, identity, task = start(code, started)
    await_file(tmp_path / "ready")
    started += task.children()
    ask_to_end(identity)
    await_file(tmp_path / "supervisor")
    await_file(tmp_path / "child")
    # It gets it from its supervisor, once.
    assert not (tmp_path / "task").exists()


def test_supervisor_that_has_no_task_yet_gets_sigterm_and_one_that_is_gone_nothing(
    started: Started,
) -> None:
    leader, identity, _ = start(LEADER, started)
    ask_to_end(identity)
    assert leader.wait(10) == -signal.SIGTERM
    ask_to_end(identity)
    assert kill_below(identity, NO_GROUP) == NOTHING


def test_children_that_have_ended_are_buried_but_for_the_one_that_another_waits_for() -> None:
    code = """
import os, time
from edge_mqtt.worker.system.killing import reap_adopted
assert reap_adopted(0) is False
own = os.fork()
if own == 0:
    os._exit(7)
os.waitid(os.P_PID, own, os.WEXITED | os.WNOWAIT)
assert reap_adopted(own) is True
other = os.fork()
if other == 0:
    os._exit(0)
os.waitid(os.P_PID, other, os.WEXITED | os.WNOWAIT)
assert os.waitstatus_to_exitcode(os.waitpid(own, 0)[1]) == 7
assert reap_adopted(own) is False
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
    assert reap_adopted(0) in (True, False)


def await_file(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"there is no {path.name}"
        time.sleep(0.01)
