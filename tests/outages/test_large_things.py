"""XComs and logs that are far larger than a packet, bytes that are no text, and a log that is cut off."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from deploy.quickstart.stack import Stack
from tests.support.bad_link import BadLink
from tests.support.outage_systems import FAR, ordinary
from tests.support.run_checks import assert_logs_equal, log_path
from tests.support.scenario_held_task import DAG, KEPT_DAG, HeldTask, Watch

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(300), ordinary]

XCOM_DAG = "e2e_large_xcom"
FLOOD_DAG = "e2e_flood"
FLOOD_MEGABYTES = 200
LONG_LINE = 10_000_000
#: Seconds by which the flood may hold another task's start or end up: the aim is 0.25; a machine of two cores, which
#: writes and reads the flood besides, may take longer. Behind the whole flood, a task would wait for many times this.
HELD_UP_S = 0.25 + 3.0


def only_instance(stack: Stack, dag_id: str, run_id: str) -> dict[str, Any]:
    (found,) = stack.task_instances(dag_id, run_id)
    return found


def start_and_end_s(stack: Stack, folder: Path) -> tuple[float, float]:
    """Run a task; return the seconds from its acceptance to its start, and from its code's end to its known end.

    Both as the bridge sees it: what Airflow's own loops take is not ours.
    """
    bridge = Watch(stack, "bridge")
    held = HeldTask(stack, folder)
    held.release()
    bridge.await_line("job finished")
    accepted, started, finished = (
        datetime.strptime(bridge.lines(f"job {what}")[0][:23], "%Y-%m-%d %H:%M:%S,%f").astimezone().timestamp()
        for what in ("accepted", "started", "finished")
    )
    return started - accepted, finished - float(held.trace("beats")[-1])


def test_xcom_of_fifty_megabytes_goes_from_task_to_task(stack: Stack, tmp_path: Path) -> None:
    run_id = stack.trigger(XCOM_DAG, {"megabytes": 50, "folder": str(tmp_path)})
    assert stack.wait_run(XCOM_DAG, run_id, timeout_s=180) == "success"
    assert (tmp_path / "pushed").read_text().startswith("50000000 ")
    assert (tmp_path / "pulled").read_text() == (tmp_path / "pushed").read_text()
    assert_logs_equal(stack, XCOM_DAG, run_id)


def test_xcom_whose_connection_is_reset_in_mid_frame_arrives_whole_in_both_directions(
    stack: Stack, far_link: BadLink, tmp_path: Path
) -> None:
    before = far_link.connections
    far_link.reset_after(7_654_321, up=True)
    far_link.reset_after(3_210_987, up=False)
    run_id = stack.trigger(XCOM_DAG, {"megabytes": 20, "folder": str(tmp_path)})
    assert stack.wait_run(XCOM_DAG, run_id, timeout_s=180) == "success"
    assert far_link.connections == before + 2
    assert (tmp_path / "pushed").read_text().startswith("20000000 ")
    assert (tmp_path / "pulled").read_text() == (tmp_path / "pushed").read_text()
    assert {instance["try_number"] for instance in stack.task_instances(XCOM_DAG, run_id)} == {1}
    assert_logs_equal(stack, XCOM_DAG, run_id)


def test_xcom_over_the_limit_fails_its_task_with_a_clear_line_and_nothing_else(stack: Stack, tmp_path: Path) -> None:
    held = HeldTask(stack, tmp_path / "beside")
    run_id = stack.trigger(XCOM_DAG, {"megabytes": 70, "folder": str(tmp_path)})
    assert stack.wait_run(XCOM_DAG, run_id, timeout_s=120) == "failed"
    instances = {instance["task_id"]: instance for instance in stack.task_instances(XCOM_DAG, run_id)}
    assert {task: instance["state"] for task, instance in instances.items()} == {
        "push": "failed",
        "pull": "upstream_failed",
    }
    assert_logs_equal(stack, XCOM_DAG, run_id)
    text = (stack.central_home / "logs" / log_path(instances["push"], 1)).read_text()
    assert "over the limit of 67108864 bytes" in text
    held.await_beats(2)
    held.assert_undisturbed()


def test_flood_of_log_holds_up_no_other_task_and_arrives_whole(stack: Stack, tmp_path: Path) -> None:
    before = [start_and_end_s(stack, tmp_path / f"before-{number}") for number in range(3)]
    run_id = stack.trigger(FLOOD_DAG, {"megabytes": FLOOD_MEGABYTES, "folder": str(tmp_path)})
    stack.wait_until((tmp_path / "flooding").exists, "the flood")
    during = [start_and_end_s(stack, tmp_path / f"during-{number}") for number in range(3)]
    beside = HeldTask(stack, tmp_path / "beside")
    beside.await_beats(2)
    beside.assert_undisturbed()
    assert assert_logs_equal(stack, DAG, beside.run_id) == 1
    central = stack.central_home / "logs" / log_path(only_instance(stack, FLOOD_DAG, run_id), 1)
    # Otherwise nothing was measured: the flood must still have been on its way.
    assert not (tmp_path / "flooded").exists()
    (tmp_path / "enough").touch()
    for what, quiet, flooded in zip(
        ("start", "end"), zip(*before, strict=True), zip(*during, strict=True), strict=True
    ):
        print(f"{what}: {median(quiet):.2f} s without the flood, {median(flooded):.2f} s with it")
        assert median(flooded) - median(quiet) < HELD_UP_S
    stack.wait_until((tmp_path / "flooded").exists, "the end of the flood", timeout_s=180)
    (tmp_path / "release").touch()
    assert stack.wait_run(FLOOD_DAG, run_id) == "success"
    edge = stack.worker_home(FAR) / central.relative_to(stack.central_home)
    stack.wait_until(
        lambda: central.stat().st_size >= edge.stat().st_size, "the whole log", timeout_s=180, poll_s=1.0
    )
    assert assert_logs_equal(stack, FLOOD_DAG, run_id) == 1
    assert central.stat().st_size > FLOOD_MEGABYTES * 1_000_000
    with central.open("rb") as lines:
        events = [str(json.loads(line)["event"]) for line in lines]
    numbered = [event.split()[1] for event in events if event.startswith("line ")]
    assert len(numbered) >= FLOOD_MEGABYTES * 100
    assert numbered == [str(number) for number in range(len(numbered))]
    assert [len(event) for event in events if event.startswith("long line ")] == [LONG_LINE + len("long line ")]
    strange = [event for event in events if event.startswith("not text ")]
    assert sorted(strange) == [
        "not text \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER} from a child",
        "not text \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER} from the task",
    ]


def test_bytes_in_a_log_file_that_are_no_text_arrive_as_they_are(stack: Stack, tmp_path: Path) -> None:
    held = HeldTask(stack, tmp_path)
    odd = b"\xff\xfe\x00\x80 raw " + bytes(range(256)) + b"\n"
    with held.edge_log(FAR).open("ab") as file:
        file.write(odd)
    held.await_beats(2)
    held.assert_undisturbed()
    assert_logs_equal(stack, DAG, held.run_id)
    assert odd in (stack.central_home / "logs" / held.log_path()).read_bytes()


def test_log_of_a_queue_that_keeps_its_logs_stays_on_the_worker(stack: Stack, tmp_path: Path) -> None:
    held = HeldTask(stack, tmp_path, dag_id=KEPT_DAG)
    held.await_beats(2)
    held.assert_undisturbed()
    assert "try 1 was let go" in held.edge_log(FAR).read_text()
    stack.wait_until(lambda: f"stays on worker {FAR}" in held.central_log(), "the line that says where the log is")
    assert "try 1" not in held.central_log()


@pytest.mark.parametrize("how", ["truncated", "rotated"])
def test_log_that_is_cut_off_on_the_edge_goes_on_at_the_centre(stack: Stack, tmp_path: Path, how: str) -> None:
    held = HeldTask(stack, tmp_path)
    held.await_beats(5)
    stack.wait_until(lambda: "try 1 beat 4" in held.central_log(), "beat 4 at the centre")
    path = held.edge_log(FAR)
    if how == "truncated":
        os.truncate(path, 0)
    else:
        path.rename(path.with_suffix(".old"))
    held.await_beats(5)
    after = len(held.trace("beats"))
    held.await_beats(5)
    held.assert_undisturbed()
    stack.wait_until(lambda: "try 1 was let go" in held.central_log(), "the last line at the centre")
    text = held.central_log()
    beats = [beat for beat in range(len(held.trace("beats")) - 1) if f'"try 1 beat {beat}"' in text]
    assert beats[:5] == [0, 1, 2, 3, 4]
    # What was written and not yet shipped at that moment is gone from the disk. Everything later is there.
    assert set(range(after, len(held.trace("beats")) - 1)) <= set(beats)
    # Nothing was torn.
    assert [line for line in text.splitlines() if not isinstance(json.loads(line), dict)] == []
