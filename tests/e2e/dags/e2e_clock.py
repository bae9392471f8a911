"""Tasks whose next step is at a time: a retry and a sensor that is rescheduled, on machines whose clocks differ."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag, get_current_context, task

RETRY_DELAY_S = 8


@dag(dag_id="e2e_clock", schedule=None)
def e2e_clock() -> None:
    for queue in ("ahead", "behind"):

        @task(task_id=f"retried_{queue}", queue=queue, retries=1, retry_delay=timedelta(seconds=RETRY_DELAY_S))
        def retried() -> None:
            if get_current_context()["ti"].try_number == 1:
                raise RuntimeError("not yet")

        @task.sensor(
            task_id=f"poked_{queue}", queue=queue, mode="reschedule", poke_interval=RETRY_DELAY_S, timeout=60
        )
        def poked() -> bool:
            return bool(get_current_context()["task_reschedule_count"])

        retried()
        poked()


e2e_clock()
