"""A worker whose disk does not store what it is told to, and what it finds in the system's files."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import Assign, Cancel, Finished, JobSpec, WorkloadType
from edge_mqtt.broker_bridge.protocol.topics import Topics
from edge_mqtt.broker_bridge.transport.memory import MemoryBroker, MemoryTransport
from edge_mqtt.broker_bridge.transport.port import MessageChannel
from edge_mqtt.worker import intake, reporting, running, supervisor_main
from edge_mqtt.worker.core.jobs import HeldByUs, JobState
from edge_mqtt.worker.errors import LauncherError, SpoolError
from edge_mqtt.worker.held import HeldJobs
from edge_mqtt.worker.intake import Intake
from edge_mqtt.worker.link import Link, WorkerAddress
from edge_mqtt.worker.log_shipping import LogShipper
from edge_mqtt.worker.order import OUT_OF_MEMORY, RunFiles, RunOrder, RunOutcome, contact_file
from edge_mqtt.worker.reporting import Reporter
from edge_mqtt.worker.running import RunPlan, Runs
from edge_mqtt.worker.spool import Spool
from edge_mqtt.worker.sysinfo import create_exclusively, oom_kills

ADDRESS = WorkerAddress(name=WorkerName("w"), incarnation="i", topics=Topics())
JOB_ID = JobId("j")


class Scene:
    """A worker's parts around a spool on disk; the launcher is one that only remembers."""

    def __init__(self, folder: Path) -> None:
        spool = Spool.open(folder / "spool.db")
        spool._connection.execute("PRAGMA busy_timeout = 10")
        self.path = folder / "spool.db"
        self.held = HeldJobs(spool)
        link = Link(MessageChannel(MemoryTransport(MemoryBroker(), "worker:w")), ADDRESS)
        link.start()
        link.ready = True
        plan = RunPlan(
            worker="w",
            concurrency=1,
            runs_dir=folder,
            socket_path=folder / "api.sock",
            base_log_folder=folder / "logs",
        )
        self.orders: list[RunOrder] = []
        self.ordered = asyncio.Event()
        self.launcher_gone = False
        self.reporter = Reporter(self.held, link, LogShipper(link, plan.log_file), plan)
        self.runs = Runs(plan, self.held, cast("Any", self), self)
        self.intake = Intake(self.held, link, self.runs, self.reporter, queues=("q",), draining=lambda: False)

    # ------------------------------------------------------------ launcher, RunEvents

    async def launch(self, order: RunOrder) -> int:
        self.orders.append(order)
        self.ordered.set()
        if self.launcher_gone:
            raise LauncherError("the launcher process is gone")
        return await asyncio.get_running_loop().create_future()

    def launched(self, job: HeldByUs) -> None:
        pass

    async def exited(self, job: HeldByUs, outcome: RunOutcome) -> None:
        pass

    async def unstarted(self, job: HeldByUs, reason: str) -> None:
        await self.intake.unstarted(job, reason)

    # ------------------------------------------------------------ the disk

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let another program write to the spool's file for a while."""
        other = sqlite3.connect(self.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")
        other.close()


def play(folder: Path, scenario: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        scene = Scene(folder)
        await scenario(scene)
        await scene.runs.close()
        scene.held.close()

    asyncio.run(asyncio.wait_for(run(), 30))


@asynccontextmanager
async def meanwhile(*works: Awaitable[None]) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Let works go on meanwhile."""
    tasks = [asyncio.ensure_future(work) for work in works]
    yield cast("list[asyncio.Task[None]]", tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def assignment(fence: int = 1) -> Assign:
    workload = {"ti": {"id": "x"}, "bundle_info": {"name": "b"}, "dag_rel_path": "a.py"}
    spec = JobSpec(job_id=JOB_ID, type=WorkloadType.TASK, queue="q", workload=workload)
    return Assign(fence=Fence(fence), job=spec, lease_s=60.0)


class Log(logging.Handler):
    """Hears what the worker logs, on its loop."""

    def __init__(self) -> None:
        super().__init__()
        self._actions: list[str] = []
        self._news = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self._actions.append(getattr(record, "action", ""))
        self._news.set()

    async def heard(self, action: str, count: int) -> None:
        """Wait until an event was logged so often."""
        while self._actions.count(action) < count:
            self._news.clear()
            await self._news.wait()


@pytest.fixture
def worker_log(caplog: pytest.LogCaptureFixture) -> Iterator[Log]:
    caplog.set_level(logging.INFO, "edge_mqtt.worker")
    log = Log()
    logging.getLogger("edge_mqtt.worker").addHandler(log)
    yield log
    logging.getLogger("edge_mqtt.worker").removeHandler(log)


# ---------------------------------------------------------------- one job, two runs


def test_job_that_is_replaced_while_it_waits_for_the_spool_is_started_once(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        waiting = HeldByUs.taken(assignment(1))
        await scene.held.change(JOB_ID, lambda _: waiting)
        # The newer assignment is stored first; the launch of what it replaced waits behind it.
        replacement = asyncio.create_task(scene.intake.assigned(assignment(2)))
        await asyncio.sleep(0)
        async with meanwhile(scene.runs.launch_ready()) as (launch,):
            await asyncio.wait([launch], timeout=2)
            await scene.ordered.wait()
            assert [order.fence for order in scene.orders] == [2]
            assert launch.done()
        replacement.cancel()

    play(tmp_path, scenario)


# ---------------------------------------------------------------- supervisors that come too late


def come_and_be_refused(order: RunOrder) -> None:
    """Do what a supervisor does whose worker does not know it any more."""
    assert create_exclusively(order.files.process, b"1 1 another-boot")
    order.files.output.touch()
    order.files.outcome.write_bytes(RunOutcome(exit_code=1, error="unknown_job").to_json())


def files_of_runs(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix in (".pid", ".exit", ".out")}


async def give_back(scene: Scene) -> RunOrder:
    """Have a job given back whose launcher is gone; return what the launcher was told."""
    scene.launcher_gone = True
    await scene.intake.assigned(assignment())
    await scene.held.until(lambda held: not len(held))
    scene.launcher_gone = False
    scene.ordered.clear()
    return scene.orders[-1]


def test_supervisor_that_came_when_its_job_was_given_back_is_not_taken_for_that_of_the_next_launch(
    tmp_path: Path,
) -> None:
    async def scenario(scene: Scene) -> None:
        come_and_be_refused(await give_back(scene))
        # Nothing of it was recorded in the centre: it comes again, under the same fence.
        async with meanwhile(scene.intake.assigned(assignment())):
            await scene.ordered.wait()
            files = scene.orders[-1].files
            assert not files.outcome.exists()
            assert create_exclusively(files.process, b"")

    play(tmp_path, scenario)


def test_what_a_supervisor_leaves_that_came_too_late_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worker_log: Log
) -> None:
    monkeypatch.setattr(running, "LATECOMER_S", 0.02)

    async def scenario(scene: Scene) -> None:
        come_and_be_refused(await give_back(scene))
        await worker_log.heard("runs_swept", 1)
        assert not files_of_runs(tmp_path)

    play(tmp_path, scenario)


def test_worker_that_dies_before_it_can_store_that_a_job_is_given_back_gives_it_back_when_it_is_started_again(
    tmp_path: Path, worker_log: Log
) -> None:
    async def dies(scene: Scene) -> None:
        launched = scene.runs.prepared(HeldByUs.taken(assignment()))
        await scene.held.change(JOB_ID, lambda _: launched)
        with scene.locked():
            async with meanwhile(scene.runs.find_again()):
                await worker_log.heard("give_back_waits", 1)
                assert not create_exclusively(scene.runs.plan.files(launched).process, b"")

    async def starts_again(scene: Scene) -> None:
        assert len(scene.held) == 1
        await scene.runs.find_again()
        assert len(scene.held) == 0
        assert not files_of_runs(tmp_path)

    play(tmp_path, dies)
    play(tmp_path, starts_again)


def test_files_of_runs_that_nobody_holds_are_deleted_after_the_start_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worker_log: Log
) -> None:
    monkeypatch.setattr(running, "LATECOMER_S", 0.0)
    kept = {contact_file(tmp_path), tmp_path / "launcher.out"}
    orphans = set()
    for job_id, launch in ((JOB_ID, "0a1b2c3d"), (JobId("a.b"), ""), (JobId("a/b"), "99999999")):
        files = RunFiles.of(tmp_path, job_id, Fence(1), launch)
        half_written = files.outcome.with_name(f".{files.outcome.name}.4711")
        orphans |= {files.process, files.outcome, files.output, half_written}
    for path in kept | orphans:
        path.touch()

    async def scenario(scene: Scene) -> None:
        launched = scene.runs.prepared(HeldByUs.taken(assignment()))
        await scene.held.change(JOB_ID, lambda _: launched)
        files = scene.runs.plan.files(launched)
        ours = {files.process, files.outcome.with_name(f".{files.outcome.name}.4711")}
        for path in ours:
            path.touch()
        await scene.runs.find_again()
        await worker_log.heard("runs_swept", 1)
        assert not any(path.exists() for path in orphans)
        assert all(path.exists() for path in kept | ours)

    play(tmp_path, scenario)


def test_files_that_cannot_be_deleted_do_not_end_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worker_log: Log
) -> None:
    monkeypatch.setattr(running, "LATECOMER_S", 0.0)
    # No file can be deleted in the place of a folder.
    (tmp_path / "j.0123456789ab.1.pid").mkdir()

    async def scenario(scene: Scene) -> None:
        await scene.runs.find_again()
        async with meanwhile(scene.runs.failure()) as (failure,):
            await worker_log.heard("sweep_failed", 1)
            assert not failure.done()

    play(tmp_path, scenario)


# ---------------------------------------------------------------- a spool that cannot be written


def test_settled_job_is_forgotten_when_the_spool_can_be_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worker_log: Log
) -> None:
    monkeypatch.setattr(reporting, "REPEAT_S", 0.02)

    async def scenario(scene: Scene) -> None:
        result = Finished(job_id=JOB_ID, fence=Fence(1), exit_code=0)
        job = HeldByUs.taken(assignment()).to(JobState.LAUNCHED)
        settled = job.to(JobState.FINISHED, result=result, result_acked=True)
        await scene.held.change(JOB_ID, lambda _: settled)
        scene.reporter.remember()
        with scene.locked():
            async with meanwhile(scene.reporter.run()) as (repeating,):
                await worker_log.heard("spool_failed", 2)
                assert not repeating.done()
                assert len(scene.held) == 1
        async with meanwhile(scene.reporter.run()):
            await scene.held.until(lambda held: not len(held))

    play(tmp_path, scenario)


def test_job_that_could_not_be_started_is_given_back_when_that_can_be_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worker_log: Log
) -> None:
    monkeypatch.setattr(intake, "STORE_RETRY_S", 0.02)

    async def scenario(scene: Scene) -> None:
        scene.launcher_gone = True
        launched = HeldByUs.taken(assignment()).to(JobState.LAUNCHED)
        await scene.held.change(JOB_ID, lambda _: launched)
        with scene.locked():
            # What comes over the link does not wait for the disk.
            await scene.runs.start(launched)
            await worker_log.heard("give_back_waits", 2)
            assert scene.held.get(JOB_ID) is launched
        await scene.held.until(lambda held: not len(held))

    play(tmp_path, scenario)


def test_cancel_of_a_waiting_job_that_cannot_be_stored_changes_nothing(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        waiting = HeldByUs.taken(assignment())
        await scene.held.change(JOB_ID, lambda _: waiting)
        cancel = Cancel(job_id=JOB_ID, fence=Fence(1), reason="cleared")
        with scene.locked(), pytest.raises(SpoolError, match="locked"):
            await scene.intake.cancelled(cancel)
        assert scene.held.get(JOB_ID) is waiting
        await scene.intake.cancelled(cancel)
        job = scene.held.get(JOB_ID)
        assert job is not None
        assert job.result is not None
        assert job.result.error == "cancelled before it started: cleared"

    play(tmp_path, scenario)


def test_nothing_is_said_in_the_log_of_a_task_that_ended_and_whose_result_waits_for_the_disk(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        log = scene.runs.plan.base_log_folder / "task.log"
        log.parent.mkdir()
        log.write_bytes(b"the task's\n")
        assign = assignment()
        assign = assign.model_copy(update={"job": assign.job.model_copy(update={"log_path": log.name})})
        # Its run is over; that is not stored yet.
        launched = scene.runs.prepared(HeldByUs.taken(assign))
        await scene.held.change(JOB_ID, lambda _: launched)
        await scene.intake.cancelled(Cancel(job_id=JOB_ID, fence=Fence(1), reason="cleared"))
        assert log.read_bytes() == b"the task's\n"

    play(tmp_path, scenario)


def test_draining_worker_whose_spool_is_locked_goes_on_to_its_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.held.change(JOB_ID, lambda _: HeldByUs.taken(assignment()))
        with scene.locked():
            await scene.intake.give_back_waiting("this worker is draining")
        assert "locked" in caplog.text
        assert len(scene.held) == 1

    play(tmp_path, scenario)


def test_supervisor_keeps_its_outcome_until_the_disk_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "outcome"
    # What stands in the way for as long as this is a folder.
    path.mkdir()
    waits: list[float] = []

    def make_room(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            path.rmdir()

    monkeypatch.setattr(supervisor_main.time, "sleep", make_room)
    outcome = RunOutcome(exit_code=7)
    supervisor_main._store(path, outcome)
    assert RunOutcome.from_json(path.read_bytes()) == outcome
    assert len(waits) == 3


# ---------------------------------------------------------------- what the system's files say


def test_kernels_count_of_processes_killed_for_memory_is_read_from_either_kind_of_control_group(
    tmp_path: Path,
) -> None:
    cgroup = tmp_path / "cgroup"
    second = tmp_path / "system.slice/worker"
    second.mkdir(parents=True)
    (second / "memory.events").write_text("low 0\noom 9\noom_kill 3\noom_group_kill 0\n")
    cgroup.write_text("0::/system.slice/worker\n")
    assert oom_kills(cgroup, tmp_path) == 3
    first = tmp_path / "memory/jobs"
    first.mkdir(parents=True)
    (first / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    cgroup.write_text("4:cpu,memory:/jobs\n0::/system.slice/worker\n")
    assert oom_kills(cgroup, tmp_path) == 2


@pytest.mark.parametrize("text", ["", "nonsense", "0::/gone\n", "4:memory:/gone\n"])
def test_kernel_that_does_not_say_has_killed_nothing(tmp_path: Path, text: str) -> None:
    cgroup = tmp_path / "cgroup"
    cgroup.write_text(text)
    assert oom_kills(cgroup, tmp_path) == 0
    assert oom_kills(tmp_path / "none", tmp_path) == 0


def test_kill_is_put_down_to_the_kernel_only_when_it_killed_something_meanwhile() -> None:
    assert RunOutcome.of_exit_code(-signal.SIGKILL, oom_kills=1).error == OUT_OF_MEMORY
    assert RunOutcome.of_exit_code(-signal.SIGKILL).error == ""
    assert RunOutcome.of_exit_code(-signal.SIGSEGV, oom_kills=1).error == ""
    assert RunOutcome.of_exit_code(1, oom_kills=1).error == ""


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (RunOutcome(exit_code=1), "exit code 1"),
        (RunOutcome(error="gone"), "gone"),
        (RunOutcome(signal=9), "killed by SIGKILL"),
        (RunOutcome(signal=9, error="why"), "killed by SIGKILL: why"),
        (RunOutcome(signal=99), "killed by signal 99"),
    ],
)
def test_outcome_says_how_the_run_failed(outcome: RunOutcome, said: str) -> None:
    assert outcome.cause == said


# ---------------------------------------------------------------- clocks

WORKER = Path(intake.__file__).parent
#: Where the wall clock is read: times for people, whether a certificate will expire, and which libraries no Dag has
#: asked for in a month.
WALL_CLOCK = {"cli.py": 1, "learned.py": 3, "log_file.py": 1, "supervisor_main.py": 3}


def test_no_decision_of_the_worker_goes_by_the_wall_clock_which_may_jump_by_a_year() -> None:
    wall_clock = re.compile(r"\b(time\.time|datetime\.now|time\.localtime|time\.gmtime)\(")
    reads = {path.name: len(wall_clock.findall(path.read_text())) for path in WORKER.rglob("*.py")}
    assert {name: count for name, count in reads.items() if count} == WALL_CLOCK
