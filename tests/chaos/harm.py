"""Does what the plan says to a site, and keeps it going meanwhile as an operator's systemd would."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import psutil

from deploy.quickstart.services import API_SERVER, DAG_PROCESSOR, TRIGGERER, WORKER_PREFIX
from tests.chaos.bad_links import SharedLink
from tests.chaos.evidence import Evidence
from tests.chaos.faults import BRIDGE, POSTGRES, SCHEDULERS, WORKERS, Fault, Kind
from tests.chaos.record import Record, Silence
from tests.chaos.site import BRIEF_GRACE_S, KILL_GRACE_S, PRESENCE_INTERVAL_S, Site
from tests.chaos.stream import BRIEF, BRIEF_TASK, HELD, HELD_TASK, Stream

#: Airflow's own services: they may end when their database does, and are started again then.
_AIRFLOW = (*SCHEDULERS, API_SERVER, DAG_PROCESSOR, TRIGGERER)
#: How a bridge ends that is started while its ledger's server is away. One that runs already must outlive that.
_NO_LEDGER = (BRIDGE, 2)
#: What a worker may have no contact with the centre without, when something happens to it.
_SILENCING = frozenset({*WORKERS, BRIDGE, POSTGRES})
#: Seconds of an outage that ends a brief task on the worker and its lease at the centre, wherever in between two
#: presences it begins, and however late a busy machine is.
OUTAGE_S = 2.0 * (BRIEF_GRACE_S + PRESENCE_INTERVAL_S + KILL_GRACE_S)
#: Seconds that a brief task takes: it is far from its end when the outage has begun and the lease is over.
_BRIEF_S = OUTAGE_S + 20.0
#: Seconds after which something that must happen in the midst of faults, has not.
_PATIENCE_S = 300.0
_POLL_S = 0.25


class Harm:
    """Begins and ends faults. One thread calls it; faults that wait for a task to run have threads of their own."""

    def __init__(self, site: Site, stream: Stream, record: Record, say: Callable[[str], None]) -> None:
        self._site = site
        self._stream = stream
        self._record = record
        self._say = say
        self._links = {name: SharedLink(link) for name, link in site.links.items()}
        #: Parts that are away because a fault says so.
        self._away: set[str] = set()
        self._begun: dict[Fault, float] = {}
        self._waiting: list[Future[None]] = []
        self._threads = ThreadPoolExecutor(max_workers=8, thread_name_prefix="fault")
        self._stopped = threading.Event()

    def begin(self, fault: Fault) -> None:
        """Let a fault happen."""
        self._record.faults[fault.sort] += 1
        self._begun[fault] = time.time()
        match fault.kind:
            case Kind.KILL if fault.target == POSTGRES:
                self._kill_postgres()
            case Kind.KILL:
                self._kill(fault.target)
            case Kind.FREEZE:
                self._site.stack.kill(fault.target, signal.SIGSTOP)
            case Kind.REBOOT:
                self._reboot(fault.target)
            case Kind.KILL_TASK:
                self._kill_task()
            case Kind.OUTAGE:
                self._waiting.append(self._threads.submit(self._outage))
            case Kind.MARK | Kind.CLEAR:
                self._waiting.append(self._threads.submit(self._stop_task, fault.kind))
            case _:
                self._links[fault.target].begin(fault.kind)

    def end(self, fault: Fault) -> None:
        """Undo a fault that lasts."""
        if fault.target in _SILENCING:
            worker = fault.target if fault.target in WORKERS else None
            self._record.silences.append(Silence(worker, self._begun.pop(fault), time.time()))
        match fault.kind:
            case Kind.KILL if fault.target == POSTGRES:
                self._site.postgres.start()
                self._away.discard(POSTGRES)
            case Kind.KILL | Kind.REBOOT:
                self._away.discard(fault.target)
                self._site.stack.restart(_part_name(fault.target), wait=False)
            case Kind.FREEZE:
                self._site.stack.kill(fault.target, signal.SIGCONT)
            case _:
                self._links[fault.target].end(fault.kind)

    def tend(self) -> None:
        """Start again what ended with the database.

        :raises PartFailed: something else has ended.
        """
        if POSTGRES in self._away:
            return
        away = {_part_name(target) for target in self._away}
        for name, part in self._site.stack.services.items():
            if name in away or part.alive:
                continue
            may_end = name in _AIRFLOW or (name, part.exit_code) == _NO_LEDGER
            if not (may_end and self._record.database_deaths):
                self._site.stack.check_alive()
            self._say(f"         {name} had ended with exit code {part.exit_code}: started again")
            self._record.fell[name] += 1
            self._note_scheduler(name)
            self._site.stack.restart(name, wait=False)

    def finished(self) -> bool:
        """Tell whether every fault is over, those too that waited for a task to run."""
        for future in [each for each in self._waiting if each.done()]:
            self._waiting.remove(future)
            future.result()
        return not self._waiting

    def close(self) -> None:
        """End the threads."""
        self._stopped.set()
        self._threads.shutdown()

    # ---------------------------------------------------------------- processes

    def _kill(self, target: str) -> None:
        part = self._site.stack.services[_part_name(target)]
        self._away.add(target)
        self._note_scheduler(target)
        # Of a service of Airflow all goes, as systemd would have it. A worker's tasks must live on.
        for process in part.processes() if target in _AIRFLOW else [psutil.Process(part.pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        part.wait(10.0)

    def _kill_postgres(self) -> None:
        self._away.add(POSTGRES)
        self._record.database_deaths.append(time.time())
        self._site.postgres.kill()

    def _reboot(self, worker: str) -> None:
        """Kill everything on a worker's machine in one moment: nobody there sees another die."""
        self._away.add(worker)
        processes = self._machine(worker)
        for signal_number in (signal.SIGSTOP, signal.SIGKILL):
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal_number)
            if signal_number == signal.SIGSTOP:
                self._record.reboots.append((worker, time.time()))
        self._site.stack.services[_part_name(worker)].wait(10.0)
        psutil.wait_procs(processes, timeout=10.0)

    def _machine(self, worker: str) -> list[psutil.Process]:
        home = str(self._site.stack.worker_home(worker))
        found = []
        for process in self._site.stack.left_over():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("AIRFLOW_HOME") == home:
                    found.append(process)
        return found

    def _note_scheduler(self, name: str) -> None:
        if name in SCHEDULERS:
            self._record.scheduler_deaths.append(time.time())

    # ---------------------------------------------------------------- tasks

    def _kill_task(self) -> None:
        """Kill the task that began last, if one runs; not one that is already in its second try."""
        ours = {process.pid: process for process in self._site.stack.left_over()}
        for line in sorted(self._site.evidence(), key=lambda line: -line.at):
            if line.pid in ours and line.what.number == 1:
                # Noted before: that it failed must never be seen without the reason.
                self._record.killed.add(line.what)
                with contextlib.suppress(psutil.NoSuchProcess):
                    ours[line.pid].kill()
                self._say(f"         that was {line.what} on {line.worker}")
                return
        self._say("         no task ran")

    def _outage(self) -> None:
        """Wait until a brief task has just begun, and cut the link of its worker for too long."""
        line = self._fresh(BRIEF, BRIEF_TASK, {"seconds": _BRIEF_S})
        if line is None:
            return
        self._record.outages.append(line.what)
        self._say(f"         {line.worker} is cut off for {OUTAGE_S:.0f} s with {line.what}")
        self._links[line.worker].begin(Kind.OUTAGE)
        self._stopped.wait(OUTAGE_S)
        self._links[line.worker].end(Kind.OUTAGE)

    def _stop_task(self, how: Kind) -> None:
        """Wait until a held task runs, stop it through the REST API, and see that its process ends."""
        line = self._fresh(HELD, HELD_TASK, {})
        if line is None:
            return
        self._record.stopped[line.what.instance] = how
        self._say(f"         {how} {line.what} on {line.worker}")
        self._until(lambda: self._stream.try_to_stop(line.what, how), f"{how} of {line.what} to be taken")
        self._until(lambda: _is_gone(line.pid), f"process {line.pid} of {line.what} to end after {how}")

    def _fresh(self, dag_id: str, task: str, conf: dict[str, object]) -> Evidence | None:
        """Start a run and return what its task leaves when it begins; None when that took too long."""
        run_id = self._stream.new_run(dag_id)
        self._until(lambda: self._stream.try_to_start(run_id, conf), f"{run_id} to be started")
        found: list[Evidence] = []

        def began() -> bool:
            found[:] = [line for line in self._site.evidence() if (line.what.run, line.what.task) == (run_id, task)]
            return bool(found)

        return found[-1] if self._until(began, f"{task} of {run_id} to begin") else None

    def _until(self, condition: Callable[[], bool], what: str) -> bool:
        deadline = time.monotonic() + _PATIENCE_S
        while not condition():
            if time.monotonic() > deadline or self._stopped.wait(_POLL_S):
                self._record.problems.append(f"waited {_PATIENCE_S:.0f} s for {what}")
                return False
        return True


def _part_name(target: str) -> str:
    return WORKER_PREFIX + target if target in WORKERS else target


def _is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
