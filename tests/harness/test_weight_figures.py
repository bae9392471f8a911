"""What the benchmark of weight reads from the system is what is there."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from importlib.metadata import distributions
from pathlib import Path

from tests.benchmarks.weight.board import field_of
from tests.benchmarks.weight.installs import size_of
from tests.benchmarks.weight.proc import Use, family, proportional_mb, used


def test_memory_is_that_of_living_processes_only() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert proportional_mb([gone.pid]) == 0.0
    assert family(gone.pid) == []
    assert proportional_mb([os.getpid()]) > 1.0


def test_memory_that_is_taken_shows() -> None:
    before = proportional_mb([os.getpid()])
    taken = bytearray(b"x" * 64 * 1024 * 1024)
    assert proportional_mb([os.getpid()]) - before > 60.0
    del taken


def test_thread_that_waits_again_and_again_wakes_up_as_often() -> None:
    asked, answered, over = threading.Semaphore(0), threading.Semaphore(0), threading.Event()

    def answer() -> None:
        while not over.is_set():
            asked.acquire()
            answered.release()

    thread = threading.Thread(target=answer)
    thread.start()
    before = used([os.getpid()])
    for _ in range(100):
        asked.release()
        answered.acquire()
    during = used([os.getpid()]).since(before)
    over.set()
    asked.release()
    thread.join()
    assert during.wakeups >= 100
    assert during.cpu_s > 0


def test_use_is_what_came_after() -> None:
    assert Use(cpu_s=3.0, wakeups=8).since(Use(cpu_s=1.0, wakeups=3)) == Use(cpu_s=2.0, wakeups=5)


def test_package_weighs_its_files_and_their_bytecode(tmp_path: Path) -> None:
    info = tmp_path / "light-1.0.dist-info"
    info.mkdir()
    (tmp_path / "light.py").write_text("x" * 100)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "light.cpython-311.pyc").write_bytes(b"x" * 50)
    (tmp_path / "__pycache__" / "lightest.cpython-311.pyc").write_bytes(b"x" * 7)
    (info / "METADATA").write_text("Name: light\nVersion: 1.0\n")
    (info / "RECORD").write_text("light.py,,\nlight-1.0.dist-info/RECORD,,\nlost.py,,\n")
    (light,) = distributions(path=[str(tmp_path)])
    assert size_of(light) == 150 + (info / "RECORD").stat().st_size


def test_field_of_a_group_is_found_by_its_whole_name() -> None:
    assert field_of("total_rss 9\nrss 4096\nrss_huge 1\n", "rss") == 4096
    assert field_of("rss 4096\n", "oom_kill") == 0
