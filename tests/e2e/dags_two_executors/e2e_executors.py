"""Tasks that choose their executor."""

from __future__ import annotations

import os

from airflow.sdk import dag, task

EDGE = "edge_mqtt.executor.EdgeMqttExecutor"


def home() -> str:
    """Return the AIRFLOW_HOME in which this runs."""
    return os.environ["AIRFLOW_HOME"]


@dag(schedule=None)
def e2e_executors() -> None:
    """Run one task at the centre and one on the edge, and hand an XCom from one to the other."""

    @task(executor="LocalExecutor")
    def at_the_centre() -> str:
        return home()

    @task(executor=EDGE)
    def on_the_edge(before: str) -> str:
        print(f"the task before ran in {before}")
        return home()

    on_the_edge(at_the_centre())


e2e_executors()
