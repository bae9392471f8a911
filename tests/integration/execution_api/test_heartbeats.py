"""Airflow hears of running tasks from the bridge, and what it answers is believed when it can be true."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from edge_mqtt.broker_bridge.dispatch.change_feed import ChangeFeed
from edge_mqtt.broker_bridge.dispatch.core.events import Event, TaskEnded, TokenRefreshed
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job
from edge_mqtt.broker_bridge.dispatch.ledger.interface import LedgerFull
from edge_mqtt.broker_bridge.execution_api.client import ApiCall, ApiResult, ExecutionApiClient
from edge_mqtt.broker_bridge.execution_api.heartbeats import Heartbeats, HeartbeatTiming
from edge_mqtt.broker_bridge.execution_api.relay import Relay, parse_starter
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, Fence, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import JobSpec, WorkloadType
from tests.support.fake_change_feed import WaitedChangeFeed

JOB = JobId("j")
GONE = (409, b'{"detail":{"reason":"not_running","message":"no longer"}}')
FINE = (204, b"")
TIMING = HeartbeatTiming(interval_s=0.001, doubt_s=0.0)


class Airflow(ExecutionApiClient):
    """Answers each heartbeat with the next of what it was told."""

    def __init__(self, answers: list[tuple[int, bytes]]) -> None:
        super().__init__("http://127.0.0.1:9/execution/")
        self.answers = answers
        self.calls: list[ApiCall] = []
        self.refreshed: str | None = None
        self.all_asked = asyncio.Event()

    async def call(self, call: ApiCall, *, patient: bool = True) -> ApiResult:
        self.calls.append(call)
        status, body = self.answers.pop(0)
        if not self.answers:
            self.all_asked.set()
            self.answers.append((status, body))
        return ApiResult(status=status, headers={}, body=body, refreshed_token=self.refreshed)


@dataclass
class Held:
    """One running job."""

    current: Job
    ledger_full: bool = False
    ended: list[str] = field(default_factory=list)
    superseded: bool = False
    connected: bool = True
    told: asyncio.Event = field(default_factory=asyncio.Event)
    looked: asyncio.Event = field(default_factory=asyncio.Event)

    def get_job(self, job_id: JobId) -> Job | None:
        return self.current

    def running_jobs(self) -> list[Job]:
        self.looked.set()
        return [self.current]

    def is_superseded(self, job_id: JobId) -> bool:
        return self.superseded

    def is_reachable(self, job: Job) -> bool:
        return self.connected

    def post(self, event: Event) -> None:
        assert isinstance(event, TaskEnded)
        self.ended.append(event.reason)
        self.told.set()

    async def ask_start(self, worker: WorkerName, job_id: JobId, fence: Fence, starter: str) -> str | None:
        raise AssertionError("nobody starts here")

    async def commit(self, event: Event) -> None:
        assert isinstance(event, TokenRefreshed)
        if self.ledger_full:
            raise LedgerFull("the disk is full")
        self.current = replace(self.current, token=event.token)


class Issuer:
    def issue_token(self, task_instance_id: str) -> str | None:
        return f"issued for {task_instance_id}"


def running(starter: str = "edge-1:42") -> Job:
    spec = JobSpec(job_id=JOB, type=WorkloadType.TASK, queue="q", workload={"ti": {"id": "ti-1"}})
    return Job(
        spec=spec,
        executor=ExecutorName("e"),
        lease_s=900.0,
        token="t1",
        state=CentralJobState.RUNNING,
        worker=WorkerName("w"),
        starter=starter,
    )


def beat(
    answers: list[tuple[int, bytes]],
    *,
    held: Held | None = None,
    clock: Callable[[], float] = lambda: 0.0,
    refreshed: str | None = None,
) -> tuple[Airflow, Held]:
    """Heartbeat until every answer has been given."""
    jobs = held or Held(running())

    async def test() -> Airflow:
        airflow = Airflow(answers)
        airflow.refreshed = refreshed
        beats = Heartbeats(
            airflow,
            jobs,
            jobs,
            Relay(airflow, jobs, jobs, Issuer()),
            ChangeFeed(),
            timing=TIMING,
            clock=clock,
        )
        task = asyncio.create_task(beats.run())
        await asyncio.wait_for(airflow.all_asked.wait(), 10)
        # The next round begins when everything has been done about the answers of this one.
        jobs.looked.clear()
        await asyncio.wait_for(jobs.looked.wait(), 10)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await airflow.aclose()
        return airflow

    return asyncio.run(test()), jobs


def test_a_heartbeat_names_the_process_that_airflow_knows() -> None:
    airflow, held = beat([FINE, FINE])
    assert airflow.calls[0].target == "task-instances/ti-1/heartbeat"
    assert airflow.calls[0].body == b'{"hostname": "edge-1", "pid": 42}'
    assert held.ended == []


def test_a_task_that_airflow_does_not_want_is_ended_after_a_second_look() -> None:
    _, held = beat([FINE, GONE, GONE])
    assert held.ended[0] == "not_running: no longer"
    _, held = beat([FINE, GONE, FINE])
    assert held.ended == []


def test_a_job_whose_run_call_may_not_have_reached_airflow_is_left_alone_at_first() -> None:
    _, held = beat([GONE] * 20)
    assert held.ended == []
    now = iter(range(0, 10_000, int(TIMING.unconfirmed_s) + 1))
    _, held = beat([GONE] * 20, clock=lambda: float(next(now)))
    assert held.ended != []


def test_a_job_that_a_restarted_bridge_finds_running_is_left_alone_until_its_worker_is_back() -> None:
    now = iter(range(0, 10_000, int(TIMING.unconfirmed_s) + 1))
    _, held = beat([GONE] * 20, held=Held(running(), connected=False), clock=lambda: float(next(now)))
    assert held.ended == []


def test_a_superseded_job_gets_no_heartbeats_and_is_ended() -> None:

    async def test() -> None:
        held = Held(running())
        airflow = Airflow([FINE])
        beats = Heartbeats(
            airflow, held, held, Relay(airflow, held, held, Issuer()), ChangeFeed(), timing=TIMING, clock=lambda: 0.0
        )
        task = asyncio.create_task(beats.run())
        await asyncio.wait_for(airflow.all_asked.wait(), 10)
        held.superseded = True
        airflow.calls.clear()
        await asyncio.wait_for(held.told.wait(), 10)
        assert airflow.calls == []
        assert "queued the task again" in held.ended[0]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await airflow.aclose()

    asyncio.run(test())


def test_nothing_is_looked_at_before_a_job_begins() -> None:
    @dataclass
    class Idle(Held):
        looks: int = 0
        idle: bool = True

        def running_jobs(self) -> list[Job]:
            self.looks += 1
            return [] if self.idle else super().running_jobs()

    async def test() -> None:
        held, changes = Idle(running()), WaitedChangeFeed()
        airflow = Airflow([FINE])
        beats = Heartbeats(
            airflow, held, held, Relay(airflow, held, held, Issuer()), changes, timing=TIMING, clock=lambda: 0.0
        )
        task = asyncio.create_task(beats.run())
        await changes.waited.wait()
        assert held.looks == 1
        assert changes.timeout_s is None
        held.idle = False
        changes.notify()
        await asyncio.wait_for(airflow.all_asked.wait(), 10)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await airflow.aclose()

    asyncio.run(test())


def test_a_ledger_that_takes_nothing_ends_no_heartbeats() -> None:
    airflow, _ = beat([FINE] * 5, held=Held(running(), ledger_full=True), refreshed="t2")
    assert len(airflow.calls) >= 5


def test_an_expired_token_is_replaced() -> None:
    airflow, held = beat([(403, b'{"detail":"Invalid auth token"}'), FINE])
    assert held.current.token == "issued for ti-1"
    assert airflow.calls[-1].token == "issued for ti-1"


def test_an_answer_that_is_not_understood_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    _, held = beat([(500, b"oops"), FINE])
    assert held.ended == []
    assert "refuses a heartbeat with 500" in caplog.text


@pytest.mark.parametrize("starter", [None, "", "start:r1", "host:", "unknown:0", ":42"])
def test_a_starter_that_is_no_process_gets_no_heartbeats(starter: str | None) -> None:
    assert parse_starter(starter) is None


def test_a_host_name_may_have_colons() -> None:
    assert parse_starter("fe80::1:42") == ("fe80::1", 42)


def test_one_task_s_heartbeat_that_fails_ends_those_of_no_other(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Airflow):
        async def call(self, call: ApiCall, *, patient: bool = True) -> ApiResult:
            if "odd" in call.target:
                raise RuntimeError("a bug of ours")
            return await super().call(call, patient=patient)

    odd = running()
    odd = replace(odd, spec=odd.spec.model_copy(update={"job_id": JobId("odd"), "workload": {"ti": None}}))

    class Both(Held):
        def running_jobs(self) -> list[Job]:
            return [odd, *super().running_jobs()]

    async def test() -> Airflow:
        airflow, jobs = Failing([FINE] * 3), Both(running())
        beats = Heartbeats(
            airflow,
            jobs,
            jobs,
            Relay(airflow, jobs, jobs, Issuer()),
            ChangeFeed(),
            timing=TIMING,
            clock=lambda: 0.0,
        )
        task = asyncio.create_task(beats.run())
        await asyncio.wait_for(airflow.all_asked.wait(), 10)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await airflow.aclose()
        return airflow

    airflow = asyncio.run(test())
    assert {call.target for call in airflow.calls} == {"task-instances/ti-1/heartbeat"}
    assert "heartbeat failed: RuntimeError at test_heartbeats.py" in caplog.text
    assert "Traceback" not in caplog.text
