"""Which job goes to which worker, and that the answer costs little."""

from __future__ import annotations

from edge_mqtt.broker_bridge.dispatch.core.effects import Assigned
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState
from edge_mqtt.broker_bridge.protocol.messages import WorkerState, WorkloadType
from tests.support.instructions import counted_instructions
from tests.support.scenario_dispatch import Scene, held


def who(scene: Scene) -> list[str]:
    return [job for job, _, _ in scene.assignments()]


def test_callbacks_then_priority_then_arrival() -> None:
    scene = Scene().submit("low").submit("high", priority=9).submit("high too", priority=9)
    scene.submit("test", priority=5, type=WorkloadType.CONNECTION_TEST)
    scene.submit("callback", priority=0, type=WorkloadType.CALLBACK)
    assert who(scene.hello("w")) == ["callback", "high", "high too", "test", "low"]


def test_among_queues_the_first_in_order_goes_first() -> None:
    scene = Scene().submit("a", queue="q").submit("b", queue="r", priority=5).submit("c", queue="q", priority=3)
    assert who(scene.hello("w", queues=("q", "r"), concurrency=2)) == ["b", "c"]


def test_a_job_goes_to_the_worker_with_the_most_free_slots() -> None:
    scene = Scene().hello("small", concurrency=2).hello("large", concurrency=4).submit("a").submit("b", slots=2)
    assert scene.assignments() == [("b", "large", 1)]
    assert scene.state("a")[1] == "large"
    scene.submit("c")
    assert scene.assignments() == [("c", "small", 1)]


def test_equals_take_turns() -> None:
    scene = Scene()
    for worker in ("a", "b", "c"):
        scene.hello(worker)
    taken = [scene.submit(f"{number}").assignments()[0][1] for number in range(6)]
    assert sorted(taken[:3]) == ["a", "b", "c"]
    for number in range(6):
        scene.result(scene.state(f"{number}")[1] or "", f"{number}")
    assert taken[3:] == taken[:3]


def test_only_workers_that_serve_the_queue_get_its_jobs() -> None:
    scene = Scene().hello("w", queues=("other",)).submit("j")
    assert scene.assignments() == []
    assert scene.hello("v").assignments() == [("j", "v", 1)]


def test_draining_and_offline_workers_get_nothing_new() -> None:
    scene = Scene().hello("draining", state=WorkerState.DRAINING).hello("gone").will("gone").submit("j")
    assert scene.assignments() == []
    assert scene.presence("draining", state=WorkerState.ONLINE).assignments() == [("j", "draining", 1)]


def test_nothing_overtakes_a_large_job_in_its_queue() -> None:
    scene = Scene().hello("w", concurrency=4).submit("a", slots=3).submit("large", slots=3).submit("small")
    assert scene.state("small")[0] is CentralJobState.QUEUED
    assert who(scene.result("w", "a")) == ["large", "small"]


def test_a_large_job_does_not_hold_up_another_queue() -> None:
    scene = Scene().hello("w", queues=("q",), concurrency=4).submit("a", slots=3).submit("large", slots=3)
    scene.hello("v", queues=("r",))
    assert who(scene.submit("small", queue="r")) == ["small"]


def test_a_job_behind_a_cancelled_one_gets_its_turn() -> None:
    scene = Scene().hello("w", concurrency=4).submit("a", slots=3).submit("large", slots=3).submit("small")
    assert who(scene.cancel("large")) == ["small"]


def test_a_job_larger_than_a_worker_takes_the_whole_of_it() -> None:
    scene = Scene().hello("w", concurrency=2).submit("a").submit("huge", slots=9)
    assert scene.state("huge")[0] is CentralJobState.QUEUED
    assert who(scene.result("w", "a")) == ["huge"]
    assert scene.submit("b").assignments() == []


def test_a_new_concurrency_counts_at_once() -> None:
    scene = Scene().hello("w", concurrency=1).submit("a").submit("b").submit("c", slots=5)
    assert who(scene.presence("w", held("a"), concurrency=2)) == ["b"]
    scene.presence("w", held("a"), held("b"), concurrency=1).result("w", "a")
    assert scene.assignments() == []
    assert who(scene.result("w", "b")) == ["c"]
    assert who(scene.submit("d").presence("w", held("c"), concurrency=9)) == ["d"]


def test_new_queues_count_at_once() -> None:
    scene = Scene().hello("w", queues=("q",)).submit("j", queue="r").submit("k", queue="q")
    assert who(scene.presence("w", queues=("r",))) == ["j"]
    assert scene.submit("l", queue="q").assignments() == []


def test_an_assignment_names_the_queue_and_carries_no_token() -> None:
    scene = Scene().hello("w", queues=("über / 3",)).submit("j", queue="über / 3")
    (effect,) = [effect for effect in scene.effects if isinstance(effect, Assigned)]
    assert effect.queue == "über / 3"
    assert "token of j" not in effect.message.model_dump_json()


def test_a_job_that_returns_keeps_its_place() -> None:
    scene = Scene().hello("w", concurrency=1).submit("first").submit("second").submit("third").will("w")
    assert who(scene.hello("v", concurrency=2)) == ["first", "second"]


def instructions_of_a_result(workers: int, jobs: int) -> float:
    """Return what a result takes while ``jobs`` wait for ``workers`` that are all busy."""
    scene = Scene()
    for number in range(workers):
        scene.hello(f"w{number}", queues=("q", "r"), concurrency=2)
    for number in range(jobs):
        scene.submit(f"{number}", queue="q" if number % 2 else "r")
    finished = 30
    with counted_instructions() as counted:
        for number in range(finished):
            worker = scene.state(f"{number}")[1]
            assert worker is not None
            scene.result(worker, f"{number}")
            assert len(scene.assignments()) == 1
    return counted.count / finished


def test_an_event_takes_no_more_with_thousands_of_workers_and_jobs() -> None:
    few = instructions_of_a_result(workers=150, jobs=700)
    many = instructions_of_a_result(workers=2_000, jobs=14_000)
    # Trees and heaps grow with the logarithm; a look at each worker or job would take more than ten times as many.
    assert many < 2 * few, f"{few:.0f} instructions grew to {many:.0f}"
