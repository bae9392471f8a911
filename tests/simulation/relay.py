"""Calls of supervisors on their way to Airflow, and the heartbeats that the bridge sends for running tasks.

Thin models of ``execution_api/relay.py`` and ``execution_api/heartbeats.py``: fence, recording of starts, answers
kept for repeats, waiting for an api-server that is away, silence around ``run`` and ``state`` calls. Left out:
tokens, and limits on what is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edge_mqtt.broker_bridge.dispatch.core import events
from edge_mqtt.broker_bridge.dispatch.core.model import Job, JobState
from edge_mqtt.broker_bridge.execution_api.heartbeats import DOUBT_S, UNCONFIRMED_S
from edge_mqtt.broker_bridge.protocol.ids import JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import ApiRequest, ApiResponse, StartRequest, WorkloadType
from tests.simulation.airflow_db import CONFLICT, OK
from tests.simulation.clock import Shell
from tests.simulation.plan import UNAVAILABLE

if TYPE_CHECKING:
    from tests.simulation.bridge import Bridge
    from tests.simulation.world import World

UNAVAILABLE_RETRY_S: Final = 1.0
HEARTBEAT_S: Final = 5.0

Request = ApiRequest | StartRequest


class Relay:
    """Answers calls, for one life of the bridge."""

    def __init__(self, world: World, bridge: Bridge) -> None:
        self._world = world
        self._bridge = bridge
        self._under_way: set[tuple[WorkerName, str]] = set()
        self._answers: dict[tuple[WorkerName, str], ApiResponse] = {}
        self.silent: set[JobId] = set()
        #: Jobs of which Airflow has answered ``run`` since this bridge was started.
        self.begun: set[JobId] = set()

    def forget(self, job_id: JobId) -> None:
        """Drop what is kept for a job that is finished."""
        self.silent.discard(job_id)
        self.begun.discard(job_id)

    def answer(self, worker: WorkerName, request: Request) -> Shell:
        """Answer one call, once."""
        key = (worker, request.request_id)
        if key in self._under_way:
            return
        if key not in self._answers:
            self._under_way.add(key)
            status = yield from self._respond(worker, request)
            self._under_way.discard(key)
            self._answers[key] = ApiResponse(request_id=request.request_id, status=status)
        self._bridge.send(self._world.topics.rpc_response(worker), self._answers[key])

    def _respond(self, worker: WorkerName, request: Request) -> Shell:
        starter = _starter(request)
        if starter is not None:
            refusal = yield from self._ask_start(worker, request, starter)
            if refusal is not None:
                return CONFLICT
        elif self._held(worker, request) is None:
            return CONFLICT
        if isinstance(request, StartRequest):
            return OK
        return (yield from self._pass_on(worker, request))

    def _ask_start(self, worker: WorkerName, request: Request, starter: str) -> Shell:
        was_silent = request.job_id in self.silent
        self.silent.add(request.job_id)
        refusal = yield self._bridge.ask_start(worker, request, starter)
        while refusal == UNAVAILABLE:
            yield self._bridge.life.sleep(UNAVAILABLE_RETRY_S)
            refusal = yield self._bridge.ask_start(worker, request, starter)
        if not was_silent and (refusal is not None or isinstance(request, StartRequest)):
            self.silent.discard(request.job_id)
        return refusal

    def _held(self, worker: WorkerName, request: Request) -> Job | None:
        job = self._bridge.dispatcher.job(request.job_id)
        if job is None or job.worker != worker or job.fence != request.fence or job.state is not JobState.RUNNING:
            return None
        return job

    def _pass_on(self, worker: WorkerName, request: ApiRequest) -> Shell:
        ends = request.target == "state"
        if ends:
            self.silent.add(request.job_id)
        status = yield from self._call_until_answered(worker, request)
        if status == OK and request.target == "run":
            self.begun.add(request.job_id)
        if status != OK or not ends:
            self.silent.discard(request.job_id)
        return status

    def _call_until_answered(self, worker: WorkerName, request: ApiRequest) -> Shell:
        world = self._world
        while self._held(worker, request) is not None:
            yield self._bridge.life.sleep(world.chance.uniform(0.005, 0.3))
            if not world.airflow.api_is_up:
                yield self._bridge.life.sleep(UNAVAILABLE_RETRY_S)
                continue
            self._bridge.step()
            status = world.call_airflow(worker, request)
            # The answer is on its way from Airflow.
            yield self._bridge.life.sleep(world.chance.uniform(0.005, 0.1))
            return status
        return CONFLICT


def _starter(request: Request) -> str | None:
    """Return who asks to start user code; None when the call is not a start."""
    if isinstance(request, StartRequest):
        return f"start:{request.request_id}"
    return request.body.decode() if request.target == "run" else None


class Heartbeats:
    """Heartbeats for one life of the bridge."""

    def __init__(self, world: World, bridge: Bridge) -> None:
        self._world = world
        self._bridge = bridge
        self._confirmed: set[JobId] = set()
        self._doubted: dict[JobId, float] = {}

    def run(self) -> Shell:
        """Send one for every running task, again and again."""
        life = self._bridge.life
        while True:
            tasks = [job for job in self._bridge.dispatcher.running_jobs() if job.spec.type is WorkloadType.TASK]
            self._doubted = {job.id: self._doubted[job.id] for job in tasks if job.id in self._doubted}
            self._confirmed &= {job.id for job in tasks}
            for job in tasks:
                life.spawn(self._keep_alive(job))
            yield life.sleep(HEARTBEAT_S)

    def _keep_alive(self, job: Job) -> Shell:
        wanted = yield from self._beat(job)
        if wanted:
            self._doubted.pop(job.id, None)
            return
        now = self._world.clock.now
        if job.id not in self._confirmed and job.id not in self._bridge.relay.begun:
            since = self._doubted.setdefault(job.id, now)
            if now - since < UNCONFIRMED_S:
                return
        yield self._bridge.life.sleep(DOUBT_S)
        current = self._bridge.dispatcher.job(job.id)
        if current is not None and not (yield from self._beat(current)):
            self._bridge.post(events.TaskEnded(job_id=job.id, reason="Airflow does not want it to run"))

    def _beat(self, job: Job) -> Shell:
        world, silent = self._world, self._bridge.relay.silent
        if job.starter is None or job.token is None or job.id in silent or not world.airflow.api_is_up:
            return True
        yield self._bridge.life.sleep(world.chance.uniform(0.005, 0.1))
        status = world.airflow.heartbeat(int(job.spec.task_id), job.starter)
        yield self._bridge.life.sleep(world.chance.uniform(0.005, 0.1))
        if status == OK:
            self._confirmed.add(job.id)
        return status == OK or job.id in silent
