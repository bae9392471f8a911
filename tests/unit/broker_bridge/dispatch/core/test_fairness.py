"""A job that needs much of a worker gets it in the end, however many small ones come after it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState
from edge_mqtt.broker_bridge.protocol.messages import WorkerState
from tests.support.scenario_dispatch import Scene, held


def queued(scene: Scene, job: str) -> bool:
    return scene.state(job)[0] is CentralJobState.QUEUED


def one_worker_with_a_large_job_waiting() -> Scene:
    """Return a scene in which ``large`` waits for the worker's four slots, of which ``old`` has one."""
    return Scene().hello("w", queues=("q", "r"), concurrency=4).submit("old").submit("large", slots=4)


def test_small_jobs_of_another_queue_do_not_take_the_slots_a_large_job_waits_for() -> None:
    scene = one_worker_with_a_large_job_waiting()
    for number in range(20):
        assert scene.submit(f"small {number}", queue="r").assignments() == []
    assert scene.result("w", "old").assignments() == [("large", "w", 1)]
    assert len(scene.result("w", "large").assignments()) == 4


def test_a_job_of_a_higher_priority_in_another_queue_may_overtake() -> None:
    scene = one_worker_with_a_large_job_waiting()
    assert scene.submit("urgent", queue="r", priority=9).assignments() == [("urgent", "w", 1)]


def test_only_one_worker_is_kept_for_a_job() -> None:
    scene = Scene().hello("w", queues=("q", "r"), concurrency=4).hello("v", queues=("q", "r"), concurrency=4)
    scene.submit("a").submit("b").submit("large", slots=4)
    for number in range(4):
        scene.submit(f"small {number}", queue="r")
    assert len({scene.state(f"small {number}")[1] for number in range(3)}) == 1
    assert queued(scene, "small 3")


def test_a_kept_worker_stays_kept_when_another_has_more_free_slots() -> None:
    scene = Scene().hello("w", queues=("q", "r"), concurrency=4).hello("v", queues=("q", "r"), concurrency=4)
    for job in ("a", "b", "c", "d"):
        scene.submit(job)
    on = {job: scene.state(job)[1] or "" for job in "abcd"}
    kept = scene.submit("large", slots=4).submit("small", queue="r").state("small")[1]
    other = {"w": "v", "v": "w"}[kept or ""]
    for job in [job for job in "abcd" if on[job] == kept]:
        scene.result(on[job], job)
    scene.submit("small 2", queue="r").submit("small 3", queue="r")
    assert {scene.state(job)[1] for job in ("small", "small 2", "small 3")} == {kept}
    for job in [job for job in "abcd" if on[job] == other]:
        scene.result(on[job], job)
    assert scene.state("large")[1] == other


@pytest.mark.parametrize("end", ["cancel", "leave", "refuse"])
def test_a_worker_that_need_not_be_kept_any_more_takes_what_waits(end: str) -> None:
    scene = one_worker_with_a_large_job_waiting().submit("small", queue="r")
    assert queued(scene, "small")
    if end == "cancel":
        scene.cancel("large")
    elif end == "leave":
        scene.presence("w", held("old"), queues=("r",))
    else:
        scene.result("w", "old").reject("w", "large")
    assert scene.state("small")[1] == "w"


def test_a_worker_is_kept_for_the_earliest_of_the_jobs_that_do_not_fit() -> None:
    scene = Scene().hello("w", queues=("q", "r", "s"), concurrency=4).submit("old")
    scene.submit("later", slots=4, queue="r").submit("sooner", slots=4, priority=5).submit("small", queue="s")
    assert queued(scene, "small")
    assert scene.result("w", "old").assignments() == [("sooner", "w", 1)]
    assert scene.result("w", "sooner").assignments() == [("later", "w", 1)]


def test_a_draining_worker_is_kept_for_nobody() -> None:
    scene = one_worker_with_a_large_job_waiting().presence("w", held("old"), state=WorkerState.DRAINING)
    scene.hello("v", queues=("r",), concurrency=1)
    assert scene.submit("small", queue="r").assignments() == [("small", "v", 1)]


QUEUES = ("q", "r", "s")
JOBS = st.lists(st.tuples(st.sampled_from(QUEUES), st.integers(1, 9), st.integers(0, 2)), min_size=1, max_size=12)
WORKERS = st.lists(
    st.tuples(st.lists(st.sampled_from(QUEUES), min_size=1, unique=True), st.integers(1, 6)), min_size=1, max_size=3
)


@given(WORKERS, JOBS, st.randoms(use_true_random=False))
def test_every_job_that_a_worker_serves_is_started_although_small_ones_never_cease(
    workers: list[tuple[list[str], int]], jobs: list[tuple[str, int, int]], chance: random.Random
) -> None:
    """In a round each job ends that ran at its beginning, in any order; whenever one ends, small ones arrive."""
    scene = Scene()
    for number, (queues, concurrency) in enumerate(workers):
        scene.hello(f"w{number}", queues=tuple(queues), concurrency=concurrency)
    served = sorted({queue for queues, _ in workers for queue in queues})
    wanted = {f"j{number}": job for number, job in enumerate(jobs) if job[0] in served}
    for name, (queue, slots, priority) in wanted.items():
        scene.submit(name, queue=queue, slots=slots, priority=priority)
    arrived = 0
    # In each round at least one more of them starts.
    for _ in wanted:
        running = [job.id for view in scene.view.workers() for job in scene.view.jobs_of(view.name)]
        for job in chance.sample(running, len(running)):
            _, worker, fence = scene.state(job)
            scene.result(worker or "", job, fence)
            for queue in served:
                arrived += 1
                scene.submit(f"small {arrived}", queue=queue, priority=0)
    assert [name for name in wanted if queued(scene, name)] == []
