"""Airflow's real scheduler on PostgreSQL, whose row locks SQLite has not: no event is lost to them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Before Airflow's first import, which reads it.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-home-"))

import pytest
import sqlalchemy as sa
from airflow.models.taskinstance import TaskInstance
from airflow.utils.state import TaskInstanceState

from edge_mqtt.broker_bridge.protocol.messages import Outcome, Submit
from edge_mqtt.broker_bridge.transport.memory import MemoryBroker
from tests.support.fake_bridge import TwinBridge
from tests.support.scenario_executor import (
    MakeScheduler,
    acks,
    airflow_database,
    make_run,
    schedulers,
    submitted,
    task_instance,
)


@pytest.fixture(autouse=True)
def database(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with airflow_database(url, tmp_path / "certs", monkeypatch):
        yield


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def bridge(broker: MemoryBroker) -> TwinBridge:
    return TwinBridge(broker)


@pytest.fixture
def make_scheduler(broker: MemoryBroker) -> Iterator[MakeScheduler]:
    with schedulers(broker) as make:
        yield make


@pytest.fixture
def elsewhere(url: str) -> Iterator[sa.Engine]:
    """Another program's connections to Airflow's database."""
    engine = sa.create_engine(url)
    yield engine
    engine.dispose()


def test_an_event_for_a_row_that_is_locked_is_offered_again_and_has_its_effect_once(
    bridge: TwinBridge, make_scheduler: MakeScheduler, elsewhere: sa.Engine
) -> None:
    make_run({"task_id": "t"})
    scheduler = make_scheduler()
    job_id = submitted(scheduler, bridge)
    bridge.finished(job_id, Outcome.FAILED, "exit code 1")
    with elsewhere.begin() as other:
        other.execute(sa.select(TaskInstance.id).with_for_update()).all()
        scheduler.executor.heartbeat()
        scheduler.process_events()
        scheduler.executor.heartbeat()
        scheduler.process_events()
    assert task_instance().state == TaskInstanceState.QUEUED
    assert acks(bridge) == []
    assert scheduler.executor.event_buffer == {}, "it waits, so that the scheduler does not spin"
    scheduler.executor.ahead_s += 1.5
    scheduler.executor.heartbeat()
    scheduler.process_events()
    assert task_instance().state == TaskInstanceState.FAILED
    scheduler.executor.heartbeat()
    assert acks(bridge) == [job_id]
    assert scheduler.executor.event_buffer == {}


def test_a_locked_row_holds_no_other_event_back(
    bridge: TwinBridge, make_scheduler: MakeScheduler, elsewhere: sa.Engine
) -> None:
    make_run({"task_id": "locked"}, {"task_id": "free"})
    scheduler = make_scheduler()
    scheduler.loop()
    jobs = {submit.job.task_id: submit.job.job_id for submit in (bridge.expect(Submit), bridge.expect(Submit))}
    for job_id in jobs.values():
        bridge.finished(job_id, Outcome.LOST, "out of reach")
    with elsewhere.begin() as other:
        locked = sa.select(TaskInstance.id).where(TaskInstance.task_id == "locked").with_for_update()
        other.execute(locked).all()
        scheduler.executor.heartbeat()
        scheduler.process_events()
        assert task_instance("free").state == TaskInstanceState.FAILED
        scheduler.executor.heartbeat()
        assert acks(bridge) == [jobs["free"]]
    scheduler.executor.ahead_s += 1.5
    scheduler.executor.heartbeat()
    scheduler.process_events()
    assert task_instance("locked").state == TaskInstanceState.FAILED


def test_what_one_scheduler_has_taken_over_is_left_alone_by_the_next(
    bridge: TwinBridge, make_scheduler: MakeScheduler
) -> None:
    make_run({"task_id": "t"})
    old = make_scheduler()
    bridge.wait_for_executor()
    bridge.broker.stop()
    old.loop()
    before = task_instance()
    old.die()
    bridge.broker.start()
    first = make_scheduler()
    bridge.wait_for_executor()
    first.runner.adopt_or_reset_orphaned_tasks()
    assert bridge.expect(Submit).job.job_id == before.external_executor_id
    second = make_scheduler()
    second.runner.adopt_or_reset_orphaned_tasks()
    assert not [message for message in bridge.hear_everything() if isinstance(message, Submit)]
    after = task_instance()
    assert (after.id, after.try_number, after.queued_by_job_id) == (before.id, before.try_number, first.job.id)
    assert (first.executor.running, second.executor.running) == ({after.key}, set())
