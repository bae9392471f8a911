"""Everything that goes wrong, and for how long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edge_mqtt.broker_bridge.protocol.codec import encode
from edge_mqtt.broker_bridge.protocol.ids import WorkerName
from edge_mqtt.broker_bridge.protocol.messages import ApiRequest, Finished, LogChunk, Message, WorkloadType
from tests.simulation.plan import CALM_S, GRACE_S, RECONNECT_S, TROUBLE_S

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

#: What no program of ours sends; none of it may have any effect.
_ODD: Final = (
    b'{"v":1,"kind":"finished","job_id":"\\ud800","fence":1}',
    b'{"v":1,"kind":"finished","job_id":"j1","fence":18446744073709551616}',
    b'{"v":1,"kind":"assignment_rejected","job_id":"j\\u0000","fence":1,"reason":"","permanent":true}',
    b'{"v":0,"kind":"presence","incarnation":"i","connection":1,"state":"offline"}',
    b'{"v":1,"kind":"presence","incarnation":"i","connection":1,"state":"online","concurrency":-1}',
)


class Outages:
    """How long each worker has been out of the bridge's reach. Outages with little calm between count as one."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._began: dict[str, float] = {}
        self._calm_since: dict[str, float] = {}

    def look(self) -> None:
        """Take note of how things stand; to be called after every change."""
        world, now = self._world, self._world.clock.now
        for machine in world.machines:
            worker = machine.worker
            if world.bridge.life.alive and worker.life.alive and not worker.wire.silent:
                self._calm_since.setdefault(machine.name, now)
                continue
            calm_since = self._calm_since.pop(machine.name, None)
            if calm_since is not None and now - calm_since >= CALM_S:
                self._began.pop(machine.name, None)
            self._began.setdefault(machine.name, now)

    def blip(self, name: str) -> None:
        """Take note of an outage that is over at once."""
        if name in self._calm_since:
            now = self._world.clock.now
            if now - self._calm_since[name] >= CALM_S:
                self._began[name] = now
            self._calm_since[name] = now

    def is_long(self, name: str, grace_s: float) -> bool:
        """Tell whether a worker is, or was until a moment ago, out of reach for longer than ``grace_s`` seconds."""
        now = self._world.clock.now
        began = self._began.get(name)
        calm_since = self._calm_since.get(name)
        if began is None or (calm_since is not None and now - calm_since >= CALM_S):
            return False
        return now - began > grace_s - RECONNECT_S


class Trouble:
    """Lets one fault after the other happen while the trouble lasts."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = world.chance

    def begin(self) -> None:
        """Plan the first fault."""
        if self._world.plan.faults:
            self._world.clock.after(self._chance.expovariate(1 / self._world.plan.pause_s), self._next)

    def _next(self) -> None:
        if self._world.clock.now < TROUBLE_S:
            fault = self._chance.choice(self._world.plan.faults)
            self._world.trace("fault: %s", fault)
            self._world.tally[fault] += 1
            getattr(self, f"_{fault.replace(' ', '_')}")()
            self.begin()

    # ------------------------------------------------------------ wires

    def _wire(self) -> Any:
        return self._chance.choice(self._world.network.wires)

    def _cut(self) -> None:
        wire = self._wire()
        wire.cut()
        self._world.outages.blip(wire.identity.name)

    def _silence(self) -> None:
        self._silent_for(self._chance.choice([1.0, 4.0, 12.0, 30.0, 80.0]))

    def _long_outage(self) -> None:
        self._silent_for(self._chance.uniform(GRACE_S * 0.8, GRACE_S * 2.0))

    def _silent_for(self, seconds: float) -> None:
        wire = self._wire()
        if wire.silent:
            return
        wire.go_silent()
        self._world.outages.look()

        def heal() -> None:
            if wire.silent:
                self._world.trace("%s: the wire is back", wire.identity)
                wire.heal()
                self._world.outages.look()

        self._world.clock.after(seconds, heal)

    # ------------------------------------------------------------ programs

    def _kill_worker(self) -> None:
        worker = self._chance.choice(self._world.machines).worker
        if worker.life.alive:
            self._world.restart_later(worker, self._away_s())

    def _kill_bridge(self) -> None:
        self._world.restart_later(self._world.bridge, self._chance.uniform(0.5, 3.0))

    def _bridge_away(self) -> None:
        self._world.restart_later(self._world.bridge, self._away_s())

    def _kill_executor(self) -> None:
        self._world.restart_later(self._chance.choice(self._world.schedulers), self._away_s())

    def _away_s(self) -> float:
        return self._chance.choice([0.5, 3.0, 20.0, 50.0])

    def _reboot(self) -> None:
        machine = self._chance.choice(self._world.machines)
        running = [process.job_id for process in machine.living()]
        self._world.promises.excuse([*running, *machine.worker.held()], "its machine was rebooted")
        self._world.restart_later(machine.worker, self._away_s())
        if self._chance.random() < 0.5:
            machine.reboot()
        else:
            machine.lose_power()

    def _new_machine(self) -> None:
        machine = self._chance.choice(self._world.machines)
        gone = [*(process.job_id for process in machine.living()), *machine.worker.held()]
        self._world.promises.excuse(gone, "its machine is gone")
        self._world.promises.lost_logs.update(gone)
        self._world.restart_later(machine.worker, self._away_s())
        machine.be_replaced()

    def _drain(self) -> None:
        self._chance.choice(self._world.machines).worker.drain()

    def _clock_jump(self) -> None:
        """Somebody sets a clock wrong: by minutes, or by a year."""
        machines = self._world.machines
        computer = self._chance.choice([self._world.central, *(machine.computer for machine in machines)])
        computer.set_wall(self._chance.choice([-1, 1]) * self._chance.choice([300.0, 31_536_000.0]))

    def _oom(self) -> None:
        process = self._process()
        if process is not None:
            self._world.promises.excuse([process.job_id], "its process was killed")
            process.signal = 9
            process.die(None)

    def _hang(self) -> None:
        """A supervisor hangs. Of a task, whose heartbeats are missed; callbacks make none."""
        process = self._process()
        if process is not None and process.spec.type is WorkloadType.TASK:
            self._world.promises.excuse([process.job_id], "its supervisor hangs")
            process.hang()

    def _process(self) -> Process | None:
        processes = [process for machine in self._world.machines for process in machine.living()]
        return self._chance.choice(processes) if processes else None

    # ------------------------------------------------------------ the centre

    def _api_down(self) -> None:
        self._world.airflow.restart_api()

    def _ledger_full(self) -> None:
        self._full_for_a_while(self._world.bridge, "ledger_is_full")

    def _log_disk_full(self) -> None:
        self._full_for_a_while(self._world.bridge, "log_disk_is_full")

    def _spool_full(self) -> None:
        self._full_for_a_while(self._chance.choice(self._world.machines).worker, "disk_is_full")

    def _full_for_a_while(self, program: object, which: str) -> None:
        setattr(program, which, True)
        self._world.clock.after(self._chance.uniform(1.0, 20.0), lambda: setattr(program, which, False))

    def _revoke(self) -> None:
        """A task is stuck in its queue, says Airflow: whichever scheduler finds that first revokes it."""
        world = self._world
        rows = [row for row in world.airflow.rows if row.state == "queued" and not row.work.callback]
        if rows:
            row = self._chance.choice(rows)
            world.excuse_task(row.work.number, "revoked")
            row.is_stuck = True

    def _clear(self) -> None:
        """A user clears a running task."""
        rows = [row for row in self._world.airflow.rows if row.state == "running"]
        if rows:
            row = self._chance.choice(rows)
            self._world.excuse_task(row.work.number, "cleared")
            row.cleared = True

    def _mark(self) -> None:
        """A user marks a task failed that waits for a worker: nobody tells its executor."""
        rows = [row for row in self._world.airflow.rows if row.state == "queued" and not row.work.callback]
        if rows:
            row = self._chance.choice(rows)
            self._world.excuse_task(row.work.number, "marked")
            self._world.airflow.mark(row)

    def _rogue(self) -> None:
        """A worker with a good certificate and bad intentions: it claims what is another's."""
        world, chance = self._world, self._chance
        live = [job for job in world.bridge.ledger.load_live() if job.worker is not None]
        machine = chance.choice(world.machines)
        others = [job for job in live if job.worker != machine.name]
        if not others:
            return
        job = chance.choice(others)
        me, topics = WorkerName(machine.name), world.topics
        victim = job.worker or me
        result = Finished(job_id=job.id, fence=job.fence, exit_code=66)
        chunk = LogChunk(job_id=job.id, fence=job.fence, offset=chance.choice([0, 10, 300]), body=b"rogue")
        task_instance_id = job.spec.workload.get("ti", {}).get("id")
        call = ApiRequest(
            request_id=f"x{world.count()}",
            job_id=job.id,
            fence=job.fence,
            method="PATCH",
            target=f"task-instances/{task_instance_id}/{chance.choice(['run', 'state'])}",
            body=b'{"rogue": true, "hostname": "rogue", "pid": 1, "state": "success"}',
        )
        said: list[tuple[str, Message]] = [
            (topics.results(me), result),
            (topics.results(victim), result),
            (topics.log(me, job.id), chunk),
            (topics.log(victim, job.id), chunk),
            (topics.rpc_request(me), call),
            (topics.rpc_request(victim), call),
        ]
        for topic, message in said:
            machine.worker.wire.send(topic, encode(message)[0])
        for odd in _ODD:
            machine.worker.wire.send(chance.choice([topics.presence(me), topics.acks(me), topics.results(me)]), odd)
