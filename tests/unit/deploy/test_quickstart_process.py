"""The quickstart's processes: watched while they come up, and none of them left behind."""

from __future__ import annotations

import os
import secrets
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from deploy.quickstart.errors import ServiceFailed
from deploy.quickstart.process import LAST_LINES, MARKER, Service, marked, stop_services, sweep

UP = "print('up', flush=True); import time; time.sleep(60)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + UP
#: Begins a grandchild in a session of its own, as a worker does with its tasks, and says its process id.
PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {UP!r}], start_new_session=True)
print(child.pid, flush=True)
{UP}
"""


@pytest.fixture
def marker() -> str:
    return secrets.token_hex(8)


@pytest.fixture
def make_part(tmp_path: Path, marker: str) -> Callable[..., Service]:
    def make(code: str, *, startup_s: float = 10.0, stop_s: float = 5.0) -> Service:
        return Service(
            name="part",
            argv=[sys.executable, "-c", code],
            environment={"PATH": os.defpath, MARKER: marker},
            directory=tmp_path,
            output=tmp_path / "part.log",
            ready=lambda part: "up" in part.output_since_start(),
            startup_s=startup_s,
            stop_s=stop_s,
        )

    return make


def come_up(part: Service) -> None:
    part.start()
    while not part.check():
        time.sleep(0.01)


def test_part_is_ready_once_it_says_so_and_ends_when_stopped(make_part: Callable[..., Service]) -> None:
    part = make_part(UP)
    come_up(part)
    assert part.took_s is not None
    stop_services([part])
    assert part.exit_code == -signal.SIGTERM


def test_part_that_dies_is_reported_with_its_last_lines(make_part: Callable[..., Service]) -> None:
    part = make_part("for i in range(100): print('line', i)\nraise SystemExit(3)")
    with pytest.raises(ServiceFailed, match="part ended with exit code 3") as failure:
        come_up(part)
    assert failure.value.last_lines == [f"line {number}" for number in range(100 - LAST_LINES, 100)]


def test_part_that_is_killed_is_reported_by_the_signal_s_name(make_part: Callable[..., Service]) -> None:
    part = make_part("import os; os.kill(os.getpid(), 9)")
    with pytest.raises(ServiceFailed, match="part was killed by SIGKILL"):
        come_up(part)


def test_part_that_never_says_that_it_is_up_has_its_time(make_part: Callable[..., Service]) -> None:
    part = make_part("import time; time.sleep(60)", startup_s=0.2)
    with pytest.raises(ServiceFailed, match=r"was not ready within 0\.2 s"):
        come_up(part)
    stop_services([part])


def test_what_an_earlier_start_has_said_does_not_make_a_part_ready(make_part: Callable[..., Service]) -> None:
    part = make_part(UP)
    come_up(part)
    stop_services([part])
    part.argv[-1] = "import time; time.sleep(60)"
    part.start()
    assert not part.check()
    assert part.output() == "up\n"
    stop_services([part])


def test_part_that_is_deaf_to_sigterm_is_killed(make_part: Callable[..., Service]) -> None:
    part = make_part(DEAF, stop_s=0.2)
    come_up(part)
    stop_services([part])
    assert part.exit_code == -signal.SIGKILL


def test_sweep_finds_what_a_killed_part_has_left_behind(make_part: Callable[..., Service], marker: str) -> None:
    part = make_part(PARENT)
    come_up(part)
    orphan = psutil.Process(int(part.output().split()[0]))
    part.send(signal.SIGKILL)
    part.wait(5)
    assert [process.pid for process in marked(marker)] == [orphan.pid]
    assert sweep(marker, grace_s=5) == 1
    assert marked(marker) == []
    assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE


def test_sweep_leaves_other_processes_alone(make_part: Callable[..., Service], marker: str) -> None:
    part = make_part(UP)
    come_up(part)
    assert sweep(secrets.token_hex(8), grace_s=5) == 0
    assert part.alive
    assert sweep(marker, grace_s=0) == 1
    part.wait(5)


def test_environment_is_not_inherited(make_part: Callable[..., Service], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET_OF_OURS", "x")
    part = make_part("import os; print(sorted(os.environ), 'up', flush=True); import time; time.sleep(60)")
    come_up(part)
    assert "A_SECRET_OF_OURS" not in part.output()
    stop_services([part])
