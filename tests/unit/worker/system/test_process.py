"""What dead supervisors leave behind."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from edge_mqtt.worker.system.boot_clock import boot_id
from edge_mqtt.worker.system.process import ProcessIdentity, kill_orphans, start_time

#: A session's leader with a child that outlives it; prints the child's pid.
LEADER = """
import os, subprocess, sys, time
os.setsid()
print(subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL).pid, flush=True)
time.sleep(600)
"""


def start_leader() -> tuple[subprocess.Popen[str], ProcessIdentity, psutil.Process]:
    leader = subprocess.Popen([sys.executable, "-c", LEADER], stdout=subprocess.PIPE, text=True)
    assert leader.stdout is not None
    child = psutil.Process(int(leader.stdout.readline()))
    leader.stdout.close()
    return leader, ProcessIdentity(pid=leader.pid, start=start_time(leader.pid) or 0, boot=boot_id()), child


def test_what_a_killed_supervisor_leaves_is_killed() -> None:
    leader, identity, child = start_leader()
    leader.kill()
    leader.wait()
    assert child.is_running()
    assert kill_orphans(identity) == 1
    gone, _ = psutil.wait_procs([child], timeout=10)
    assert gone == [child] or child.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("boot", ["", "another"])
def test_nothing_is_killed_for_a_supervisor_that_lives_or_is_of_another_boot(boot: str) -> None:
    leader, identity, child = start_leader()
    try:
        assert kill_orphans(identity) == 0
        leader.kill()
        leader.wait()
        assert kill_orphans(ProcessIdentity(pid=identity.pid, start=identity.start, boot=boot)) == 0
        assert child.is_running()
    finally:
        leader.kill()
        leader.wait()
        child.kill()
