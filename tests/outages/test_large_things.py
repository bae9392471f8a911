"""XComs and logs that are far larger than a packet, bytes that are no text, and a log that is cut off."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.quickstart.homes import merged
from deploy.quickstart.stack import Stack, WorkerSpec
from tests.e2e.checks import assert_logs_equal, log_path
from tests.e2e.conftest import QUICK, running_stack
from tests.outages.held_tasks import DAG, DAGS, QUEUE, HeldTask

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(300)]

NAME = "edge-1"
XCOM_DAG = "e2e_large_xcom"
FLOOD_DAG = "e2e_flood"
FLOOD_MEGABYTES = 200
LONG_LINE = 10_000_000
CONFIG = merged(QUICK, {"edge_mqtt": {"presence_interval": "3", "heartbeat_interval": "2"}})


@pytest.fixture(scope="module")
def large_stack() -> Iterator[Stack]:
    """A stack with one worker."""
    with running_stack(dags=DAGS, config=CONFIG, workers=[WorkerSpec(name=NAME, queues=(QUEUE,))]) as stack:
        for dag_id in (DAG, XCOM_DAG, FLOOD_DAG):
            stack.wait_for_dag(dag_id)
        yield stack
        stack.check_alive()


def only_instance(stack: Stack, dag_id: str, run_id: str) -> dict[str, Any]:
    (found,) = stack.task_instances(dag_id, run_id)
    return found


def test_xcom_of_fifty_megabytes_goes_from_task_to_task(large_stack: Stack, tmp_path: Path) -> None:
    run_id = large_stack.trigger(XCOM_DAG, {"megabytes": 50, "folder": str(tmp_path)})
    assert large_stack.wait_run(XCOM_DAG, run_id, timeout_s=180) == "success"
    assert (tmp_path / "pushed").read_text().startswith("50000000 ")
    assert (tmp_path / "pulled").read_text() == (tmp_path / "pushed").read_text()
    assert_logs_equal(large_stack, XCOM_DAG, run_id)


def test_xcom_over_the_limit_fails_its_task_with_a_clear_line_and_nothing_else(
    large_stack: Stack, tmp_path: Path
) -> None:
    held = HeldTask(large_stack, tmp_path / "beside")
    run_id = large_stack.trigger(XCOM_DAG, {"megabytes": 70, "folder": str(tmp_path)})
    assert large_stack.wait_run(XCOM_DAG, run_id, timeout_s=120) == "failed"
    instances = {instance["task_id"]: instance for instance in large_stack.task_instances(XCOM_DAG, run_id)}
    assert {task: instance["state"] for task, instance in instances.items()} == {
        "push": "failed",
        "pull": "upstream_failed",
    }
    assert_logs_equal(large_stack, XCOM_DAG, run_id)
    text = (large_stack.central_home / "logs" / log_path(instances["push"], 1)).read_text()
    assert "over the limit of 67108864 bytes" in text
    held.await_beats(2)
    held.assert_undisturbed()


def test_flood_of_log_holds_up_no_other_task_and_arrives_whole(large_stack: Stack, tmp_path: Path) -> None:
    run_id = large_stack.trigger(FLOOD_DAG, {"megabytes": FLOOD_MEGABYTES, "folder": str(tmp_path)})
    large_stack.wait_until((tmp_path / "flooding").exists, "the flood")
    beside = HeldTask(large_stack, tmp_path / "beside")
    beside.await_beats(2)
    beside.assert_undisturbed()
    assert assert_logs_equal(large_stack, DAG, beside.run_id) == 1
    assert large_stack.run_state(FLOOD_DAG, run_id) == "running"
    large_stack.wait_until((tmp_path / "flooded").exists, "the end of the flood", timeout_s=180)
    (tmp_path / "release").touch()
    assert large_stack.wait_run(FLOOD_DAG, run_id) == "success"
    path = log_path(only_instance(large_stack, FLOOD_DAG, run_id), 1)
    edge, central = (home / "logs" / path for home in (large_stack.worker_home(NAME), large_stack.central_home))
    large_stack.wait_until(
        lambda: central.stat().st_size >= edge.stat().st_size, "the whole log", timeout_s=180, poll_s=1.0
    )
    assert assert_logs_equal(large_stack, FLOOD_DAG, run_id) == 1
    assert central.stat().st_size > FLOOD_MEGABYTES * 1_000_000
    with central.open("rb") as lines:
        events = [str(json.loads(line)["event"]) for line in lines]
    numbered = [event.split()[1] for event in events if event.startswith("line ")]
    assert numbered == [str(number) for number in range(FLOOD_MEGABYTES * 100)]
    assert [len(event) for event in events if event.startswith("long line ")] == [LONG_LINE + len("long line ")]
    strange = [event for event in events if event.startswith("not text ")]
    assert sorted(strange) == [
        "not text \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER} from a child",
        "not text \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER} from the task",
    ]


def test_bytes_in_a_log_file_that_are_no_text_arrive_as_they_are(large_stack: Stack, tmp_path: Path) -> None:
    held = HeldTask(large_stack, tmp_path)
    odd = b"\xff\xfe\x00\x80 raw " + bytes(range(256)) + b"\n"
    with held.edge_log(NAME).open("ab") as file:
        file.write(odd)
    held.await_beats(2)
    held.assert_undisturbed()
    assert_logs_equal(large_stack, DAG, held.run_id)
    assert odd in (large_stack.central_home / "logs" / held.log_path()).read_bytes()


@pytest.mark.parametrize("how", ["truncated", "rotated"])
def test_log_that_is_cut_off_on_the_edge_goes_on_at_the_centre(large_stack: Stack, tmp_path: Path, how: str) -> None:
    held = HeldTask(large_stack, tmp_path)
    held.await_beats(5)
    large_stack.wait_until(lambda: "try 1 beat 4" in held.central_log(), "beat 4 at the centre")
    path = held.edge_log(NAME)
    if how == "truncated":
        os.truncate(path, 0)
    else:
        path.rename(path.with_suffix(".old"))
    held.await_beats(5)
    after = len(held.trace("beats"))
    held.await_beats(5)
    held.assert_undisturbed()
    large_stack.wait_until(lambda: "try 1 was let go" in held.central_log(), "the last line at the centre")
    text = held.central_log()
    beats = [beat for beat in range(len(held.trace("beats")) - 1) if f'"try 1 beat {beat}"' in text]
    assert beats[:5] == [0, 1, 2, 3, 4]
    # What was written and not yet shipped at that moment is gone from the disk. Everything later is there.
    assert set(range(after, len(held.trace("beats")) - 1)) <= set(beats)
    # Nothing was torn.
    assert [line for line in text.splitlines() if not isinstance(json.loads(line), dict)] == []
