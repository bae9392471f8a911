"""One log file for all mapped tasks of a run, as the template of log paths has no map index: on a whole system."""

from __future__ import annotations

import re
import signal
import stat
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from deploy.quickstart.services import WORKER_PREFIX
from deploy.quickstart.stack import Stack, WorkerSpec
from tests.support.stacks import QUICK

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(300)]

DAG = "e2e_lines"
TEMPLATE = "{{ ti.dag_id }}/{{ ti.task_id }}/{{ ti.run_id }}/{{ ti.try_number }}.log"
#: Readable by the group alone.
MODES = {
    "file_task_handler_new_folder_permissions": "0o750",
    "file_task_handler_new_file_permissions": "0o640",
}
TASKS, SECONDS = 4, 10


def variables(logging: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that set options of Airflow's [logging]."""
    return {f"AIRFLOW__LOGGING__{name.upper()}": value for name, value in logging.items()}


def lines_in(file: Path) -> Counter[tuple[int, int]]:
    """Return how often each printed line is there: (task, line) -> times."""
    text = file.read_text() if file.exists() else ""
    return Counter((int(task), int(line)) for task, line in re.findall(r"task (\d+) line (\d+)\"", text))


def test_every_line_of_tasks_that_share_a_file_is_there_once_and_live_although_a_worker_is_killed(
    make_stack: Callable[..., Stack], tmp_path: Path
) -> None:
    # One of them deletes what the centre has.
    workers = [
        WorkerSpec(name="edge-1", concurrency=2, environment=variables(MODES)),
        WorkerSpec(name="edge-2", concurrency=2, environment=variables({"delete_local_logs": "True"})),
    ]
    stack = make_stack(workers=workers, config={**QUICK, "logging": {"log_filename_template": TEMPLATE, **MODES}})
    stack.wait_for_dag(DAG)
    run_id = stack.trigger(DAG, {"tasks": TASKS, "seconds": SECONDS, "folder": str(tmp_path)})
    file = stack.central_home / "logs" / DAG / "trace" / run_id / "1.log"
    # Of each, while it runs.
    stack.wait_until(lambda: {task for task, _ in lines_in(file)} == set(range(TASKS)), "lines of all tasks")
    assert stack.run_state(DAG, run_id) == "running"
    stack.kill(f"{WORKER_PREFIX}edge-1", signal.SIGKILL)
    stack.restart(f"{WORKER_PREFIX}edge-1")
    assert stack.wait_run(DAG, run_id) == "success"
    expected = dict.fromkeys([(task, line) for task in range(TASKS) for line in range(SECONDS * 2)], 1)
    stack.wait_until(lambda: len(lines_in(file)) == len(expected), "all lines")
    assert lines_in(file) == expected
    kept, deleted = (
        stack.worker_home(worker.name) / "logs" / file.relative_to(stack.central_home / "logs") for worker in workers
    )
    assert set(kept.read_text().splitlines()) < set(file.read_text().splitlines())
    stack.wait_until(lambda: not deleted.exists(), "the copy to be deleted")
    stack.wait_until(lambda: not (stack.worker_home("edge-2") / "logs" / DAG).exists(), "its folders to be deleted")
    for log in (file, kept):
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (log, *log.parents[:3])]
        assert modes == [0o640, 0o750, 0o750, 0o750]
