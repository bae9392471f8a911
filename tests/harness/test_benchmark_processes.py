"""The benchmark looks at real processes, and makes them stand still."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deploy.quickstart.errors import ServiceFailed
from deploy.quickstart.process import Service
from deploy.quickstart.stack import Stack
from tests.benchmarks.executors.processes import cpu_seconds, freeze, pss_bytes, thaw
from tests.benchmarks.executors.systems import add_part

#: A process that has a child and has waited for another one. Both have used CPU, more than the kernel counts in.
_PROGRAM = """
import subprocess, sys, time
burn = "import time\\nwhile time.process_time() < 0.3: pass"
subprocess.run([sys.executable, "-c", burn], check=True)
exec(burn)
child = subprocess.Popen(["sleep", "100"])
print("ready", flush=True)
child.wait()
"""


@contextlib.contextmanager
def family() -> Iterator[psutil.Process]:
    """Run a parent with one child."""
    with subprocess.Popen([sys.executable, "-c", _PROGRAM], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        parent = psutil.Process(process.pid)
        members = members_of(parent)
        try:
            yield parent
        finally:
            for member in members:
                member.kill()


def members_of(parent: psutil.Process) -> list[psutil.Process]:
    return [parent, *parent.children(recursive=True)]


def wait_for(processes: list[psutil.Process], *, stopped: bool) -> None:
    deadline = time.monotonic() + 10.0
    while any((process.status() == psutil.STATUS_STOPPED) is not stopped for process in processes):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_family_stands_still_until_it_may_go_on() -> None:
    with family() as parent:
        freeze(lambda: members_of(parent))
        wait_for(members_of(parent), stopped=True)
        thaw(members_of(parent))
        wait_for(members_of(parent), stopped=False)
        assert len(members_of(parent)) == 2


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A stack without services."""
    stack = Stack(tmp_path / "stack", dags=tmp_path, executor="LocalExecutor")
    stack.central_home.mkdir(parents=True)
    yield stack
    stack.stop(at_once=True)


def test_a_part_that_was_added_is_found_with_its_stack(stack: Stack) -> None:
    add_part(stack, "sleeper", ["sleep", "100"], ready=lambda _: True)
    assert [process.pid for process in stack.left_over()] == [stack.services["sleeper"].pid]


def test_a_part_that_hides_that_it_is_the_stacks_is_refused(stack: Stack) -> None:
    # Redis does so when it gives itself a title; it would neither be frozen nor stopped.
    def replaced(part: Service) -> bool:
        return psutil.Process(part.pid).name() == "sleep"

    with pytest.raises(ServiceFailed, match=r"^sleeper hides the environment"):
        add_part(stack, "sleeper", ["env", "-i", "sleep", "100"], ready=replaced)
    assert stack.services["sleeper"].wait(10.0)


def test_what_ended_children_have_used_counts() -> None:
    with family() as parent:
        children_only = cpu_seconds([parent], but=parent)
        assert children_only >= 0.29
        assert cpu_seconds([parent]) > children_only


def test_a_process_that_has_gone_costs_nothing() -> None:
    with family() as parent:
        pass
    parent.wait(10)
    assert cpu_seconds([parent]) == 0.0
    assert pss_bytes([parent]) == 0
    thaw([parent])


def test_memory_is_that_of_all_processes_together() -> None:
    with family() as parent:
        members = members_of(parent)
        assert pss_bytes(members) > pss_bytes(members[:1]) > 1_000_000
