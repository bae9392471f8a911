"""Outages as long as tokens, heartbeats and leases allow, and longer: what takes hours elsewhere, in a minute."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.quickstart.stack import Stack
from tests.support.bad_link import BadLink
from tests.support.outage_systems import (
    FAR,
    HEARTBEAT_TIMEOUT_S,
    KEEP_ALIVE_S,
    NEAR,
    SHORT_GRACE_S,
    TOKEN_S,
    System,
    hurried,
)
from tests.support.run_checks import assert_logs_equal
from tests.support.scenario_held_task import BRIEF_DAG, DAG, HeldTask, Watch

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(400), hurried]

OUTAGE_S = max(3 * TOKEN_S, 5 * HEARTBEAT_TIMEOUT_S) + 2
OUT_OF_REACH = "out of reach for longer than offline_grace"
GIVEN_UP = f"no contact with worker {FAR}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outage:
    """What was seen of an outage of :data:`OUTAGE_S` seconds, and the tasks that met it."""

    #: It makes calls while the link is down, and runs when it is back.
    survivor: HeldTask
    #: It ends while the link is down.
    ended: HeldTask
    #: Its supervisor hangs.
    hung: HeldTask
    #: Its queue has a grace that is shorter than the outage; it makes calls while the link is down.
    given_up: HeldTask
    #: What the bridge had said of the far worker when the last one's process ended.
    said_before: list[str]
    #: The states of the first two at the outage's end, and whether the first had got an answer.
    states: list[str]
    answered: bool


@pytest.fixture(scope="module")
def outage(system: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outage]:
    """One outage for several tests: a minute of nothing need not be waited for more than once."""
    stack, link, folder = system.stack, system.far_link, tmp_path_factory.mktemp("outage")
    survivor, ended, hung = (HeldTask(stack, folder / name) for name in ("survivor", "ended", "hung"))
    given_up = HeldTask(stack, folder / "given_up", dag_id=BRIEF_DAG)
    bridge, worker = Watch(stack, "bridge"), Watch(stack, f"worker-{FAR}")
    os.kill(hung.supervisor_pid, signal.SIGSTOP)
    link.cut()
    began = time.monotonic()
    survivor.push()
    given_up.push()
    ended.release()
    given_up.await_gone(timeout_s=3 * SHORT_GRACE_S)
    said_before = bridge.lines(GIVEN_UP)
    bridge.await_line(GIVEN_UP, timeout_s=3 * SHORT_GRACE_S)
    # The link is still down: the second try runs on the other worker.
    assert stack.wait_run(BRIEF_DAG, given_up.run_id) == "success"
    time.sleep(max(0.0, began + OUTAGE_S - time.monotonic()))
    states = [held.instance()["state"] for held in (survivor, ended)]
    answered = bool(survivor.trace("pushed"))
    link.restore()
    # A minute at most passes between two attempts to connect.
    worker.await_line("connected to wss:", timeout_s=90)
    yield Outage(
        survivor=survivor,
        ended=ended,
        hung=hung,
        given_up=given_up,
        said_before=said_before,
        states=states,
        answered=answered,
    )
    survivor.release()


def test_task_survives_an_outage_of_three_token_lives_and_five_heartbeat_timeouts(
    stack: Stack, outage: Outage
) -> None:
    held = outage.survivor
    assert outage.states == ["running", "running"]
    assert not outage.answered
    held.await_trace("pushed")
    held.await_beats(2)
    held.assert_undisturbed()
    held.assert_pushed_in_order()
    assert_logs_equal(stack, DAG, held.run_id)


def test_task_that_ended_during_a_long_outage_has_succeeded_after_it(stack: Stack, outage: Outage) -> None:
    outage.ended.assert_undisturbed()
    assert_logs_equal(stack, DAG, outage.ended.run_id)


def test_task_whose_supervisor_hangs_is_not_alive_for_ever(stack: Stack, outage: Outage) -> None:
    held = outage.hung
    assert stack.wait_run(DAG, held.run_id, timeout_s=90) == "success"
    assert held.instance()["try_number"] == 2
    held.assert_tries_did_not_overlap()
    held.assert_one_final_event()
    assert assert_logs_equal(stack, DAG, held.run_id) == 2
    assert "the task's supervisor has hung" in held.central_log()


def test_task_is_ended_on_the_edge_when_its_queue_s_grace_is_over_and_then_tried_again_elsewhere(
    stack: Stack, outage: Outage
) -> None:
    held = outage.given_up
    # Its process was gone before the centre gave it up.
    assert outage.said_before == []
    assert (held.instance()["state"], held.instance()["try_number"]) == ("success", 2)
    assert held.edge_log(NEAR, 2).exists()
    held.assert_tries_did_not_overlap()
    held.assert_one_final_event()
    assert assert_logs_equal(stack, BRIEF_DAG, held.run_id) == 2
    assert OUT_OF_REACH in held.central_log()
    # The first try's calls were on their way when the link went: they must not arrive in the second's name.
    assert held.pushed() == []
    assert stack.run_state(BRIEF_DAG, held.run_id) == "success"


def test_task_of_a_worker_that_stays_dead_is_ended_there_and_then_tried_again_elsewhere(
    stack: Stack, tmp_path: Path
) -> None:
    held = HeldTask(stack, tmp_path, dag_id=BRIEF_DAG)
    bridge = Watch(stack, "bridge")
    stack.kill(f"worker-{FAR}", signal.SIGKILL)
    held.await_gone(timeout_s=3 * SHORT_GRACE_S)
    assert bridge.lines(GIVEN_UP) == []
    assert stack.wait_run(BRIEF_DAG, held.run_id) == "success"
    held.assert_tries_did_not_overlap()
    stack.restart(f"worker-{FAR}")
    assert assert_logs_equal(stack, BRIEF_DAG, held.run_id) == 2
    assert (held.instance()["state"], held.instance()["try_number"]) == ("success", 2)
    held.assert_one_final_event()


def test_silent_link_is_noticed_on_both_sides(stack: Stack, far_link: BadLink, tmp_path: Path) -> None:
    held = HeldTask(stack, tmp_path)
    worker, bridge = Watch(stack, f"worker-{FAR}"), Watch(stack, "bridge")
    far_link.blackhole()
    # Half a second: what was on its way when the silence began counts from its arrival. The rest is the machine's.
    limit_s = 1.5 * KEEP_ALIVE_S + 0.5
    noise_s = 5.0
    assert bridge.await_line(f"worker:{FAR} dropped: silent") < limit_s + noise_s
    assert worker.await_line("connection lost") < limit_s + KEEP_ALIVE_S / 12 + noise_s
    far_link.restore()
    worker.await_line("connected to wss:")
    held.await_beats(2)
    held.assert_undisturbed()
    assert_logs_equal(stack, DAG, held.run_id)
