"""The dispatcher's data structures, each against its naive model."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_mqtt.broker_bridge.dispatch.core.deadlines import Deadlines
from edge_mqtt.broker_bridge.dispatch.core.journaled_dict import JournaledDict
from edge_mqtt.broker_bridge.dispatch.core.model import (
    TRANSITIONS,
    CentralJobState,
    IllegalMove,
    Job,
    WorkerView,
    check_move,
)
from edge_mqtt.broker_bridge.dispatch.core.ready_queue import ReadyQueue
from edge_mqtt.broker_bridge.dispatch.core.worker_index import WorkerIndex
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import WorkerState, WorkloadType
from tests.support.scenario_dispatch import spec

KEYS = st.sampled_from("abcd")


def a_job(name: str, sequence: int, **changes: object) -> Job:
    return Job(spec=spec(name, **changes), executor=ExecutorName("e"), lease_s=900.0, sequence=sequence)


def nobody(_worker: WorkerName) -> bool:
    return False


# ---------------------------------------------------------------- moves


def test_a_running_or_finished_job_never_goes_back() -> None:
    assert TRANSITIONS[CentralJobState.RUNNING] == {CentralJobState.FINISHED}
    assert TRANSITIONS[CentralJobState.FINISHED] == frozenset()
    assert set(TRANSITIONS) == set(CentralJobState)


def test_a_move_that_is_not_in_the_table_is_a_bug_told_by_name() -> None:
    check_move(JobId("j"), CentralJobState.RUNNING, CentralJobState.RUNNING)
    check_move(JobId("j"), CentralJobState.RUNNING, CentralJobState.FINISHED)
    with pytest.raises(IllegalMove, match="job j cannot go from running to queued"):
        check_move(JobId("j"), CentralJobState.RUNNING, CentralJobState.QUEUED)


# ---------------------------------------------------------------- journal


@given(
    st.lists(st.tuples(KEYS, st.one_of(st.none(), st.integers()))),
    st.lists(st.tuples(KEYS, st.one_of(st.none(), st.integers()))),
)
def test_rollback_returns_to_the_checkpoint(
    before: list[tuple[str, int | None]], after: list[tuple[str, int | None]]
) -> None:
    journal: JournaledDict[str, int] = JournaledDict()
    model: dict[str, int] = {}
    for key, value in before:
        if value is None:
            journal.drop(key)
            model.pop(key, None)
        else:
            journal.put(key, value)
            model[key] = value
    journal.checkpoint()
    for key, value in after:
        if value is None:
            journal.drop(key)
        else:
            journal.put(key, value)
    journal.rollback()
    assert dict(journal.items()) == model
    assert sorted(journal.values()) == sorted(model.values())
    assert all(journal[key] == model[key] and key in journal for key in model)
    journal.rollback()
    assert dict(journal.items()) == model


# ---------------------------------------------------------------- deadlines


@given(st.lists(st.tuples(st.sampled_from(["set", "clear", "due", "next"]), KEYS, st.integers(0, 20)), max_size=60))
def test_deadlines_are_those_set_last(steps: list[tuple[str, str, int]]) -> None:
    deadlines: Deadlines[tuple[str]] = Deadlines()
    model: dict[tuple[str], float] = {}
    for step, name, when in steps:
        key = (name,)
        if step == "set":
            deadlines.set(key, when)
            model[key] = when
        elif step == "clear":
            deadlines.clear(key)
            model.pop(key, None)
        elif step == "due":
            due = deadlines.due(when)
            assert [model[key] for key in due] == sorted(model[key] for key in due)
            assert set(due) == {key for key, time in model.items() if time <= when}
            for key in due:
                del model[key]
        else:
            assert deadlines.next() == min(model.values(), default=None)


# ---------------------------------------------------------------- ready queue


def test_callbacks_go_first_then_priority_then_arrival() -> None:
    jobs = [
        a_job("low", 1, priority=1),
        a_job("test", 2, priority=5, type=WorkloadType.CONNECTION_TEST),
        a_job("high", 3, priority=9),
        a_job("high too", 4, priority=9),
        a_job("callback", 5, priority=0, type=WorkloadType.CALLBACK),
    ]
    random.Random(3).shuffle(jobs)
    queue = ReadyQueue()
    for job in jobs:
        queue.add(job)
    order = []
    while (head := queue.head()) is not None:
        order.append(head[1])
        queue.remove(head[1])
    assert order == ["callback", "high", "high too", "test", "low"]
    assert not queue


def test_a_job_that_returns_has_its_old_place_and_is_there_once() -> None:
    queue = ReadyQueue()
    first, second = a_job("first", 1), a_job("second", 2)
    queue.add(first)
    queue.add(second)
    queue.add(second)
    queue.remove(first.id)
    queue.add(first)
    assert queue.head() == (first.order, "first")
    assert len(queue) == 2
    queue.remove(first.id)
    queue.remove(second.id)
    queue.remove(second.id)
    assert queue.head() is None


def test_jobs_that_are_taken_out_leave_no_memory_behind() -> None:
    queue = ReadyQueue()
    queue.add(a_job("stays", 0))
    for number in range(10_000):
        queue.add(a_job(f"{number}", number + 1))
        queue.remove(JobId(f"{number}"))
    assert len(queue._heap) < 200
    assert queue.head() == (a_job("stays", 0).order, "stays")


# ---------------------------------------------------------------- pool


def a_worker(name: str, concurrency: int = 4, **changes: object) -> WorkerView:
    values: dict[str, object] = {"state": WorkerState.ONLINE, "queues": ("q",)} | changes
    return WorkerView(name=WorkerName(name), concurrency=concurrency, **values)  # type: ignore[arg-type]


def naive_choice(workers: dict[str, tuple[WorkerView, int]], slots: int, avoid: str | None) -> str | None:
    fit = [
        (used - view.concurrency, view.last_assigned, name)
        for name, (view, used) in workers.items()
        if name != avoid
        and view.state is WorkerState.ONLINE
        and "q" in view.queues
        and view.concurrency > 0
        and view.concurrency - used >= min(slots, view.concurrency)
    ]
    return min(fit)[2] if fit else None


VIEWS = st.builds(
    a_worker,
    st.sampled_from("abc"),
    st.integers(0, 4),
    state=st.sampled_from(WorkerState),
    queues=st.sampled_from([("q",), ("q", "r", "q"), ("r",), ()]),
    last_assigned=st.integers(0, 3),
)


@given(
    st.lists(
        st.tuples(VIEWS, st.integers(0, 5), st.integers(1, 6), st.sampled_from([None, "a", "b"]), st.booleans()),
        max_size=30,
    )
)
def test_the_chosen_worker_is_the_one_that_a_search_through_all_would_find(
    steps: list[tuple[WorkerView, int, int, str | None, bool]],
) -> None:
    pool = WorkerIndex()
    model: dict[str, tuple[WorkerView, int]] = {}
    for view, used, slots, avoid, removed in steps:
        if removed:
            pool.remove(view.name)
            model.pop(view.name, None)
        else:
            used = min(used, view.concurrency)  # noqa: PLW2901 - more would be a worker that has shrunk
            pool.update(view, used)
            model[view.name] = (view, used)
        assert pool.choose("q", slots, WorkerName(avoid or "").__eq__) == naive_choice(model, slots, avoid)
        assert {name for name in model if pool.serves(WorkerName(name), "q")} == {
            name for name, (view, _) in model.items() if "q" in view.queues and view.state is WorkerState.ONLINE
        }


def test_a_worker_that_has_shrunk_below_its_jobs_gets_nothing() -> None:
    pool = WorkerIndex()
    pool.update(a_worker("w", 2), 3)
    assert pool.choose("q", 1, nobody) is None


def test_a_busy_worker_leaves_no_memory_behind() -> None:
    pool = WorkerIndex()
    for number in range(10_000):
        pool.update(a_worker("w", 4, last_assigned=number), number % 4)
    assert len(pool._queues["q"].free) < 200
    assert pool.choose("q", 1, nobody) == "w"
