"""The dispatcher's data structures, each against its naive model."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_mqtt.broker_bridge.dispatch.core.journaled_dict import JournaledDict
from edge_mqtt.broker_bridge.dispatch.core.model import (
    TRANSITIONS,
    CentralJobState,
    IllegalMove,
    Job,
    WorkerView,
    check_move,
)
from edge_mqtt.broker_bridge.dispatch.core.priority_map import PriorityMap
from edge_mqtt.broker_bridge.dispatch.core.ready_queue import ReadyQueues
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


# ---------------------------------------------------------------- priorities


@given(
    st.lists(
        st.tuples(st.sampled_from(["set", "discard", "pop", "first"]), KEYS, st.floats(0, 20), st.sets(KEYS)),
        max_size=60,
    )
)
def test_priorities_are_those_set_last(steps: list[tuple[str, str, float, set[str]]]) -> None:
    priorities: PriorityMap[str, float] = PriorityMap()
    model: dict[str, float] = {}
    for step, key, value, skipped in steps:
        if step == "set":
            priorities.set(key, value)
            model[key] = value
        elif step == "discard":
            priorities.discard(key)
            model.pop(key, None)
        elif step == "pop":
            popped = priorities.pop_until(value)
            assert [model[one] for one in popped] == sorted(model[one] for one in popped)
            assert set(popped) == {one for one, priority in model.items() if priority <= value}
            for one in popped:
                del model[one]
        else:
            left = [(priority, one) for one, priority in model.items() if one not in skipped]
            assert priorities.first(skipped.__contains__) == min(left, default=None)
        assert len(priorities) == len(model)
        assert (priorities.first() or (None,))[0] == min(model.values(), default=None)


@pytest.mark.parametrize("rises", [True, False])
def test_keys_that_come_and_go_leave_no_memory_behind(rises: bool) -> None:
    priorities: PriorityMap[str, float] = PriorityMap()
    priorities.set("stays", 20_000.0)
    for number in range(10_000):
        when = float(number if rises else 10_000 - number)
        priorities.set("moves", when)
        priorities.set("returns", when)
        priorities.discard("returns")
        priorities.set(f"{number}", when)
        priorities.discard(f"{number}")
    assert len(priorities._heap) < 200
    priorities.discard("moves")
    assert priorities.first() == (20_000.0, "stays")


# ---------------------------------------------------------------- ready jobs


def test_callbacks_go_first_then_priority_then_arrival() -> None:
    jobs = [
        a_job("low", 1, priority=1),
        a_job("test", 2, priority=5, type=WorkloadType.CONNECTION_TEST),
        a_job("high", 3, priority=9),
        a_job("high too", 4, priority=9),
        a_job("callback", 5, priority=0, type=WorkloadType.CALLBACK),
    ]
    random.Random(3).shuffle(jobs)
    ready = ReadyQueues()
    for job in jobs:
        ready.add(job)
    order = []
    while (head := ready.get_head("q")) is not None:
        order.append(head[1])
        ready.remove(next(job for job in jobs if job.id == head[1]))
    assert order == ["callback", "high", "high too", "test", "low"]


def test_a_job_that_returns_has_its_old_place_and_is_there_once() -> None:
    ready = ReadyQueues()
    first, second = a_job("first", 1), a_job("second", 2)
    for job in (first, second, second):
        ready.add(job)
    ready.remove(first)
    ready.add(first)
    assert ready.get_head("q") == (first.order, "first")
    ready.remove(first)
    ready.remove(second)
    assert ready.get_head("q") is None


def test_a_queue_is_matched_again_when_its_jobs_or_workers_have_changed() -> None:
    ready = ReadyQueues()
    ready.add(a_job("j", 1))
    assert ready.unmatched == {"q"}
    ready.unmatched.clear()
    ready.mark_unmatched(["q", "without jobs"])
    assert ready.unmatched == {"q"}


# ---------------------------------------------------------------- workers


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
    index = WorkerIndex()
    model: dict[str, tuple[WorkerView, int]] = {}
    for view, used, slots, avoid, removed in steps:
        if removed:
            index.remove(view.name)
            model.pop(view.name, None)
        else:
            used = min(used, view.concurrency)  # noqa: PLW2901 - more would be a worker that has shrunk
            index.update(view, used)
            model[view.name] = (view, used)
        assert index.choose("q", slots, WorkerName(avoid or "").__eq__) == naive_choice(model, slots, avoid)
        assert {name for name in model if index.serves(WorkerName(name), "q")} == {
            name for name, (view, _) in model.items() if "q" in view.queues and view.state is WorkerState.ONLINE
        }


def test_a_worker_that_has_shrunk_below_its_jobs_gets_nothing() -> None:
    index = WorkerIndex()
    index.update(a_worker("w", 2), 3)
    assert index.choose("q", 1, nobody) is None


def test_a_busy_worker_leaves_no_memory_behind() -> None:
    index = WorkerIndex()
    for number in range(10_000):
        index.update(a_worker("w", 4, last_assigned=number), number % 4)
    assert len(index._queues["q"].free._heap) < 200
    assert index.choose("q", 1, nobody) == "w"
