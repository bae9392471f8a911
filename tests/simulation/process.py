"""A process on an edge machine: Airflow's supervisor and its task in one.

Modelled after ``worker/supervisor/main.py`` and ``worker/supervisor/api_transport.py``.
"""

from __future__ import annotations

import json
import os
import random
from typing import TYPE_CHECKING, Final

from edge_mqtt.broker_bridge.protocol.messages import JobSpec, WorkloadType
from edge_mqtt.worker.core.lease import Due, due
from edge_mqtt.worker.ipc.api_contract import START_TARGET
from edge_mqtt.worker.ipc.contact_file import read_contact
from edge_mqtt.worker.ipc.run_outcome import RunOutcome
from edge_mqtt.worker.ipc.run_request import RunRequest
from edge_mqtt.worker.system.files import create_exclusively
from edge_mqtt.worker.system.process import ProcessIdentity
from tests.simulation.clock import Event, Life, Shell
from tests.simulation.dag_runs import TARGET, Maker, conf_of, own_id
from tests.simulation.plan import Work
from tests.simulation.worker import ERROR, Answer

if TYPE_CHECKING:
    from tests.simulation.machine import Machine

#: Which part of the processes outlives a SIGKILL, and for how many seconds.
CLINGING: Final = 0.5
CLINGS_S: Final = 12.0
#: Between the heartbeats of a supervisor, and between its attempts to reach the worker.
HEARTBEAT_S: Final = 5.0
RETRY_S: Final = 1.0
#: The kernel writes what it was given to the disk this late at the latest.
SYNCED_AFTER_S: Final = 20.0


class Process:
    """A supervisor with its task. It outlives the worker's program."""

    def __init__(self, machine: Machine, request: RunRequest) -> None:
        self._world = machine.world
        self._machine = machine
        self.life = Life(machine.world.clock)
        self.exited = Event()
        self.pid = machine.world.count()
        #: In the kernel's words.
        self.started = self.pid
        self.request = request
        self.job_id = request.job_id
        self.fence = request.fence
        self.spec: JobSpec = machine.world.jobs[request.job_id]
        #: The life of the worker that had it started.
        self.launcher = machine.worker.life
        self.has_begun = False
        self.told_to_end = False
        self.signal: int | None = None
        self._is_gone = False
        self._is_let_go = False
        self.work: Work = machine.world.plan.work[int(self.spec.task_id)]
        self._began = machine.world.clock.now
        #: Bytes of the log file that no loss of power takes away.
        self._synced = 0
        self._log = None if request.log_path is None else machine.logs / request.log_path
        if self._log is not None and self._log.exists():
            self._synced = self._log.stat().st_size

    def __str__(self) -> str:
        return f"{self._machine.name}:{self.pid} ({self.job_id}, fence {self.fence})"

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return not self._is_gone

    @property
    def _who(self) -> dict[str, object]:
        # Airflow gets that of a run call and of a heartbeat only; of the others it is for the verdict.
        return {"hostname": self._machine.name, "pid": self.pid, "job": self.job_id}

    # ------------------------------------------------------------ what it does

    def run(self) -> Shell:
        """Ask for permission, run the user code, tell Airflow, and write down how it ended."""
        chance = self._world.chance
        yield self.life.sleep(chance.uniform(0.05, 0.5))
        me = ProcessIdentity(pid=self.pid, start=self.started, boot=self._machine.boot_id)
        if not create_exclusively(self.request.files.process, str(me).encode()):
            self.die(None)
            return
        if chance.random() < 0.3:
            self.write(b"supervisor\n")
        callback = self.spec.type is WorkloadType.CALLBACK
        if callback:
            status = yield from self._call("POST", START_TARGET)
        else:
            self.life.spawn(self._heartbeat())
            target = f"task-instances/{self.request.workload['ti']['id']}/run"
            status = yield from self._call("PATCH", target, self._who)
        if status >= ERROR:
            self.die(RunOutcome(exit_code=1, error=f"refused with {status}"))
            return
        self._world.promises.user_code_begins(self)
        self._world.trace("%s begins", self)
        self.has_begun = True
        yield from self._user_code()
        exit_code = yield from self._final_call()
        self.die(RunOutcome(exit_code=exit_code))

    def _user_code(self) -> Shell:
        calls = triggers = 0
        for step, amount in self._part():
            if step == "log":
                self.write(self._line(int(amount)))
            elif step == "sleep":
                yield self.life.sleep(amount)
            elif step == "trigger":
                yield from self._trigger(Maker(self.job_id, triggers), has_own_id=bool(amount))
                triggers += 1
            elif self.spec.type is WorkloadType.TASK:
                yield from self._call("POST", "xcoms", {"job": self.job_id, "call": calls})
                calls += 1

    def _trigger(self, call: Maker, *, has_own_id: bool) -> Shell:
        run_id = own_id(self.work) if has_own_id else f"new-{self._world.count()}"
        body = {"conf": conf_of(self.work), "job": call.job_id, "call": call.number}
        answer = yield from self._ask("POST", f"{TARGET}/{run_id}", body)
        self._world.promises.triggered(run_id, call, answer)

    def _part(self) -> tuple[tuple[str, float], ...]:
        """Return the steps before the deferral, those after it, or all of them."""
        script = self.work.script
        half = len(script) // 2
        if not self.work.pauses:
            return script
        return script[half:] if self.spec.workload["resumed"] else script[:half]

    def _final_call(self) -> Shell:
        if self.spec.type is WorkloadType.CALLBACK:
            return self.work.exit_code
        target = f"task-instances/{self.request.workload['ti']['id']}/state"
        if self.work.pauses and not self.spec.workload["resumed"]:
            status = yield from self._call("PATCH", target, {"state": self.work.pauses, **self._who})
            return 0 if status < ERROR else 1
        if self.work.is_silent:
            return self.work.exit_code
        failed = "up_for_retry" if self.spec.workload["may_retry"] else "failed"
        state = failed if self.work.exit_code else "success"
        status = yield from self._call("PATCH", target, {"state": state, **self._who})
        return self.work.exit_code if status < ERROR else 1

    def _line(self, size: int) -> bytes:
        head = f"{self.job_id}:{self.pid}:{self._world.count()} ".encode()
        return (head * (size // len(head) + 1))[: size - 1] + b"\n"

    def write(self, data: bytes) -> None:
        """Add to the task's log."""
        if self._log is not None:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("ab") as file:
                file.write(data)
                end = file.tell()
            self.life.after(SYNCED_AFTER_S, lambda: self._sync(end))

    def _sync(self, end: int) -> None:
        self._synced = max(self._synced, end)

    def _call(self, method: str, target: str, body: object = None) -> Shell:
        """Make a call; return the status of its answer."""
        answer = yield from self._ask(method, target, body)
        return answer.status

    def _ask(self, method: str, target: str, body: object) -> Shell:
        """Make a call, again and again until it is answered."""
        request_id = f"r{self._world.count()}"
        answered = Event()
        answers: list[Answer] = []
        called: Life | None = None

        def take_answer(answer: Answer) -> None:
            def take() -> None:
                if not answers:
                    answers.append(answer)
                    answered.set()

            self.life.after(0.001, take)

        content = b"" if body is None else json.dumps(body).encode()
        worker = self._machine.worker
        while not answers:
            # A connection that is up is waited on for ever; a worker that died has broken it.
            if worker.life is not called and worker.call(
                self.request.secret, request_id, method, target, body=content, answer=take_answer
            ):
                called = worker.life
            yield answered.within(self.life, RETRY_S)
        return answers[0]

    def _heartbeat(self) -> Shell:
        target = f"task-instances/{self.request.workload['ti']['id']}/heartbeat"
        while True:
            yield self.life.sleep(HEARTBEAT_S)
            status = yield from self._call("PUT", target, self._who)
            if status >= ERROR and self.clings:
                return  # Its supervisor cannot end it either.
            if status >= ERROR:
                self.write(b"killed by its supervisor\n")
                self.die(RunOutcome(exit_code=1))
                return

    def lose_files(self, chance: random.Random) -> None:
        """Lose the end of the log, and the file that says who we are when it is new."""
        if self._log is not None and self.request.log_path is not None and self._log.exists():
            written = self._log.read_bytes()
            self._machine.torn_logs.setdefault(self.request.log_path, []).append(written)
            unsynced = max(0, len(written) - self._synced)
            os.truncate(self._log, len(written) - chance.randint(0, unsynced))
        if self._world.clock.now - self._began < SYNCED_AFTER_S and chance.random() < 0.5:
            self.request.files.process.unlink(missing_ok=True)

    # ------------------------------------------------------------ how it ends

    def die(self, outcome: RunOutcome | None) -> None:
        """End; ``outcome`` is written down first, if there is time for it."""
        if self._is_gone:
            return
        self._is_gone = True
        if outcome is not None:
            self.request.files.outcome.write_bytes(outcome.to_json())
        self._world.trace("%s ends: %s", self, outcome)
        self.has_begun = False
        self.life.end()
        self.exited.set()

    def hang(self) -> None:
        """Do nothing any more, and not end either."""
        self._world.trace("%s hangs", self)
        self.life.end()

    def terminate(self, why: str) -> None:
        """Get SIGTERM."""
        self._world.promises.signalled(self, why)
        self.told_to_end = True
        if self.work.obeys:
            self.life.after(0.5, lambda: self.die(RunOutcome(exit_code=1)))

    @property
    def clings(self) -> bool:
        """Whether a SIGKILL does not end it at once: some are another user's, or hang in the kernel.

        Never beyond its lease, which nobody could keep then.
        """
        contact = read_contact(self._machine.runs, now=self._machine.computer.boottime())
        now = self._machine.computer.boottime() + CLINGS_S
        is_over = due(contact, lease_s=self.request.lease_s, now=now) is Due.KILL
        chance = random.Random(f"{self._world.plan.seed} {self.job_id} clings").random()
        return self.life.alive and chance < CLINGING and not is_over

    def let_go_later(self, why: str) -> None:
        """Get a SIGKILL that takes its time."""
        if not self._is_let_go:
            self._is_let_go = True
            self._world.tally["clings"] += 1
            self._world.promises.signalled(self, why)
            self.life.after(CLINGS_S, lambda: self.kill(why))

    def kill(self, why: str) -> None:
        """Get SIGKILL."""
        self._world.promises.signalled(self, why)
        self.signal = 9
        self.die(None)
