"""Tasks that can have no log file on their worker, and one beside them that can."""

from __future__ import annotations

from pathlib import Path

from airflow.sdk import conf, dag, get_current_context, task

#: Legal ids whose folders, ``task_id=…``, have names that are too long for the disk.
LONG = ("a" * 248, "検" * 90)
#: The folder of this one's log is a link that leads to itself.
LOOP = "loop"


@dag(schedule=None, max_active_runs=4)
def e2e_unusable_logs():
    @task
    def first():
        """Make the run's folder, in which the worker looks for the others' logs."""
        instance = get_current_context()["ti"]
        run = Path(conf.get("logging", "base_log_folder"), f"dag_id={instance.dag_id}", f"run_id={instance.run_id}")
        (run / f"task_id={LOOP}").symlink_to(f"task_id={LOOP}")

    @task
    def hello():
        print("hello")

    begun = first()
    for task_id in (*LONG, LOOP, "neighbour"):
        begun >> hello.override(task_id=task_id, retries=0)()


e2e_unusable_logs()
