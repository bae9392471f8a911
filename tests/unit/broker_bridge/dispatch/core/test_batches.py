"""Batches that fail, restarts, and what memory forgets."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from edge_mqtt.broker_bridge.dispatch.core import events
from edge_mqtt.broker_bridge.dispatch.core.dispatcher import Dispatcher
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import JobAccepted, Outcome, ReportedJobState, Welcome, WorkerState
from tests.support.scenario_dispatch import ALICE, GRACE_S, SETTLE_S, Scene, held, spec

# ---------------------------------------------------------------- rollback


def snapshot(dispatcher: Dispatcher) -> dict[str, Any]:
    """Return everything that later decisions can depend on."""
    state, indexes, view = dispatcher._state, dispatcher._indexes, dispatcher.view
    loads = {worker.name: indexes.get_load(worker.name) for worker in view.workers()}
    return {
        "jobs": dict(state.jobs.items()),
        "workers": dict(state.workers.items()),
        "unconfirmed": dict(state.unconfirmed.items()),
        "refusals": dict(state.refusals.items()),
        "pauses": dict(state.pauses.items()),
        "denied": dict(state.denied.items()),
        "superseded": dict(state.superseded.items()),
        "orphaned": dict(state.orphaned.items()),
        "by task": {task: set(jobs) for task, jobs in indexes.jobs.by_task.items()},
        "leases": {name: dict(load.leases) for name, load in loads.items()},
        "held": {name: set(load.jobs) for name, load in loads.items()},
        "used": {name: load.used_slots for name, load in loads.items()},
        "running": set(indexes.jobs.running),
        "unacked": set(indexes.jobs.unacked),
        "closed": set(indexes.jobs.closed),
        "ready": {name: dict(queue._priorities) for name, queue in indexes.ready._queues.items()},
        "paused": {name: dict(queue) for name, queue in indexes.ready._paused.items()},
        "deadlines": dict(indexes.deadlines._priorities),
        "choices": {
            (queue, slots): indexes.worker_index.choose(queue, slots, lambda _: False)
            for queue in ("q", "r")
            for slots in range(1, 6)
        },
    }


def some_event(scene: Scene, chance: random.Random) -> Callable[[], Scene]:
    """Return one of the things that can happen, near enough to what is there to matter."""
    job = f"j{chance.randrange(6)}"
    worker = chance.choice(["v", "w"])
    known = scene.view.get_job(JobId(job))
    fence = 1 if known is None else known.fence
    holder = (None if known is None else known.worker) or worker
    claims = tuple(held(mine.id, mine.fence) for mine in scene.view.jobs_of(WorkerName(worker)))
    claimed = claims[: chance.randrange(len(claims) + 1)]
    connected = worker in scene._presences
    return chance.choice(
        [
            lambda: scene.do(events.SendingFailed(job_id=JobId(job), reason="too deep")),
            lambda: scene.do(events.SubmissionFailed(executor=ALICE, job_id=JobId(job), reason="too deep")),
            lambda: scene.submit(
                job,
                slots=chance.randrange(1, 4),
                queue=chance.choice("qr"),
                dag_id="d",
                task_id=chance.choice(["", "t", "u"]),
                try_number=chance.randrange(2),
            ),
            lambda: scene.hello(
                worker, *claimed, queues=("q", "r"), concurrency=chance.randrange(1, 5), home=chance.choice("ab")
            ),
            lambda: scene.presence(worker, *claims, concurrency=3) if connected else scene.tick(),
            lambda: scene.will(worker) if connected else scene.tick(),
            lambda: scene.accept(holder, job, fence),
            lambda: scene.reject(holder, job, fence, takes_none=chance.random() < 0.5),
            lambda: scene.start(holder, job, fence),
            lambda: scene.result(holder, job, fence),
            lambda: scene.cancel(job),
            lambda: scene.ended(job),
            lambda: scene.ack(job),
            lambda: scene.adopt(job, executor=ALICE),
            lambda: scene.tick(chance.choice([1, SETTLE_S, GRACE_S])),
        ]
    )


def test_a_batch_whose_commit_failed_leaves_no_trace() -> None:
    for seed in range(60):
        chance = random.Random(seed)
        scene = Scene()
        for _ in range(chance.randrange(30)):
            some_event(scene, chance)()
        before = snapshot(scene.dispatcher)
        with scene.undone():
            for _ in range(chance.randrange(1, 15)):
                some_event(scene, chance)()
        assert snapshot(scene.dispatcher) == before, seed
        scene.do(events.ExecutorConnected(executor=ExecutorName("nobody")))


def test_the_indexes_never_differ_from_what_they_index() -> None:
    for seed in range(40):
        chance = random.Random(seed)
        scene = Scene()
        for _ in range(40):
            some_event(scene, chance)()
        before = snapshot(scene.dispatcher)
        with scene.undone():
            pass
        assert snapshot(scene.dispatcher) == before, seed


def test_what_was_undone_can_happen_again() -> None:
    scene = Scene().assigned()
    with scene.undone():
        scene.start("w", "j")
    assert scene.job().state is CentralJobState.ASSIGNED
    assert scene.start("w", "j", starter="host:2").decided().granted


def test_what_recall_brought_is_undone_with_its_batch() -> None:
    scene = Scene()
    with scene.undone():
        scene.recall(over_job("old"))
    assert scene.view.get_job(JobId("old")) is None


# ---------------------------------------------------------------- restart


def test_a_restart_with_nothing_decides_nothing() -> None:
    dispatcher = Dispatcher(Scene().settings)
    dispatcher.load([], 1.0)
    with dispatcher.batch() as batch:
        batch.handle(events.Tick(), 1.0)
    assert batch.changed == {}
    assert batch.effects == []


def test_waiting_jobs_wait_on_after_a_restart_in_their_order() -> None:
    scene = Scene().submit("a").submit("b", priority=2).submit("c").restarted()
    assert [job for job, _, _ in scene.hello("w").assignments()] == ["b", "a", "c"]
    assert scene.submit("d").job("d").sequence == 4


def test_new_jobs_come_after_all_that_the_ledger_ever_had() -> None:
    scene = Scene()
    scene.dispatcher.load([], 1.0, last_sequence=77)
    assert scene.submit("j").job().sequence == 78


def test_the_lease_of_a_running_job_begins_anew_at_a_restart() -> None:
    scene = Scene().running().restarted()
    assert [job.id for job in scene.view.jobs_of(WorkerName("w"))] == ["j"]
    assert scene.dispatcher.next_deadline() == scene.now + GRACE_S
    assert scene.tick(GRACE_S).job().outcome is Outcome.LOST


def test_a_running_job_is_found_again_when_its_worker_is_back() -> None:
    scene = Scene().running().restarted().hello("w", held("j"))
    assert scene.to_worker(Welcome)[0].drop == ()
    assert scene.start("w", "j").decided().granted
    assert not scene.start("w", "j", starter="host:2").decided().granted
    assert scene.result("w", "j").job().outcome is Outcome.SUCCESS


def test_an_assigned_job_waits_a_little_for_its_worker_after_a_restart() -> None:
    scene = Scene().assigned().accept("w", "j").restarted().hello("v")
    assert scene.tick(SETTLE_S - 1).state() == (CentralJobState.ASSIGNED, "w", 1)
    assert scene.tick(1).assignments() == [("j", "v", 2)]


def test_an_assigned_job_stays_with_a_worker_that_is_back_in_time() -> None:
    scene = Scene().assigned().accept("w", "j").restarted().hello("w", held("j"))
    assert scene.tick(10 * SETTLE_S).state() == (CentralJobState.ASSIGNED, "w", 1)


def test_an_assigned_job_goes_back_at_once_when_its_worker_is_known_to_be_away_after_a_restart() -> None:
    fresh = Scene().assigned().restarted()
    fresh._presences["w"] = Scene().hello("w")._presences["w"]
    assert fresh.will("w").state() == (CentralJobState.QUEUED, None, 2)


def test_an_event_that_was_not_acknowledged_survives_a_restart() -> None:
    scene = Scene().running().result("w", "j").restarted()
    assert len(scene.connect().effects) == 1


# ---------------------------------------------------------------- forgetting


def over_job(name: str) -> Job:
    return Job(
        spec=spec(name),
        executor=ALICE,
        lease_s=900.0,
        state=CentralJobState.FINISHED,
        outcome=Outcome.SUCCESS,
        event_acked=True,
        sequence=3,
        worker=WorkerName("w"),
    )


def test_jobs_that_are_over_leave_memory_oldest_first() -> None:
    scene = Scene(remembered_jobs=2).hello("w")
    for job in "abc":
        scene.submit(job).result("w", job).ack(job)
    scene.submit("d").result("w", "d")
    assert scene.view.get_job(JobId("b")) is not None
    with scene.undone():
        scene.ack("d")
        assert [scene.view.get_job(JobId(job)) is None for job in "abcd"] == [True, False, False, False]
    assert scene.view.get_job(JobId("a")) is None


def test_a_late_repetition_of_a_forgotten_job_is_recognised_by_recall() -> None:
    scene = Scene().hello("w")
    event = events.Submitted(executor=ALICE, job=spec("old"), token="t")
    assert scene.missing(event) == ("old",)
    scene.recall(over_job("old"))
    assert scene.missing(event) == ()
    scene.do(event)
    assert scene.assignments() == []
    assert scene.last.changed == ()


def test_denied_jobs_are_forgotten_oldest_first() -> None:
    scene = Scene(remembered_denials=2).adopt("a").adopt("b").adopt("c")
    assert [len(scene.submit(job).to_executor(JobAccepted)) for job in "abc"] == [1, 0, 0]


def test_recall_never_overwrites_what_memory_knows() -> None:
    scene = Scene().running()
    scene.recall(over_job("j"))
    assert scene.job().state is CentralJobState.RUNNING


def test_the_ledger_is_asked_about_what_an_event_names_and_memory_lacks() -> None:
    scene = Scene().running()
    ask = scene.missing
    assert ask(events.AdoptAsked(executor=ALICE, request_id="a", job_ids=(JobId("j"), JobId("x")))) == ("x",)
    presence = scene._presences["w"].model_copy(update={"jobs": (held("j"), held("y"))})
    assert ask(events.WorkerSeen(worker=WorkerName("w"), presence=presence)) == ("y",)
    assert ask(events.Tick()) == ()


def test_a_result_that_only_the_ledger_remembers_is_known_to_the_welcome() -> None:
    scene = Scene()
    scene.recall(over_job("old"))
    finished = held("old", state=ReportedJobState.FINISHED)
    scene.hello("w", finished, state=WorkerState.DRAINING)
    assert [ref.job_id for ref in scene.to_worker(Welcome)[0].known_results] == ["old"]


# ---------------------------------------------------------------- while nothing can be committed


def test_a_presence_that_changes_no_job_is_confirmed_without_a_commit() -> None:
    scene = Scene().running().tick(GRACE_S - 1)
    presence = scene._presences["w"].model_copy(update={"sequence": 1, "jobs": (held("j"),)})
    event = events.WorkerSeen(worker=WorkerName("w"), presence=presence)
    decision = scene.dispatcher.handle_unless_changing(event, scene.now)
    assert decision is not None
    assert [type(effect).__name__ for effect in decision.effects] == ["ToWorker"]
    assert scene.tick(GRACE_S - 1).state()[0] is CentralJobState.RUNNING


def test_a_presence_that_changes_a_job_waits_for_the_commit() -> None:
    scene = Scene().running()
    before = snapshot(scene.dispatcher)
    hello = scene._presences["w"].model_copy(update={"connection": 2})
    event = events.WorkerSeen(worker=WorkerName("w"), presence=hello)
    assert scene.dispatcher.handle_unless_changing(event, scene.now) is None
    assert snapshot(scene.dispatcher) == before


def test_a_presence_about_jobs_that_only_the_ledger_knows_waits_for_it() -> None:
    scene = Scene().hello("w")
    presence = scene._presences["w"].model_copy(update={"sequence": 1, "jobs": (held("old"),)})
    event = events.WorkerSeen(worker=WorkerName("w"), presence=presence)
    assert scene.dispatcher.handle_unless_changing(event, scene.now) is None


def test_what_is_due_waits_for_the_commit() -> None:
    scene = Scene().running().hello("v")
    scene.now += GRACE_S
    presence = scene._presences["v"].model_copy(update={"sequence": 1})
    event = events.WorkerSeen(worker=WorkerName("v"), presence=presence)
    assert scene.dispatcher.handle_unless_changing(event, scene.now) is not None
    assert scene.state()[0] is CentralJobState.RUNNING
    assert scene.tick().state()[0] is CentralJobState.FINISHED


def test_whether_the_machine_of_a_job_can_be_reached_is_known() -> None:
    scene = Scene().submit("j")
    assert not scene.view.is_reachable(scene.job())
    assert scene.hello("w", home="a").view.is_reachable(scene.job())
    assert not scene.will("w").view.is_reachable(scene.job())
