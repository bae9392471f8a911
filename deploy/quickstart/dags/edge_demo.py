"""What tasks on an edge machine can do: everything they can do elsewhere.

A press hall is inspected: the plan comes from a Variable, the machine is known by a Connection, ten parts are
measured at once, one gauge needs a second try, and the press itself, which has a queue of its own, is slow and
talkative.
"""

from __future__ import annotations

import logging
import os
import statistics
import time
from datetime import timedelta

import pendulum
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.sensors.date_time import DateTimeSensorAsync
from airflow.sdk import Connection, Variable, dag, get_current_context, task

log = logging.getLogger("press_hall")


@dag(
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["edge", "demo"],
    doc_md=__doc__,
)
def edge_demo():
    @task
    def read_plan() -> dict[str, float]:
        """Read a Variable and a Connection, here on the edge."""
        plan = Variable.get("press_plan", deserialize_json=True)
        press = Connection.get("press_plc")
        log.info("press at %s:%s as %s", press.host, press.port, press.login)
        log.info("plan: %s", plan)
        return plan

    @task
    def part_numbers(plan: dict[str, float]) -> list[int]:
        """Make the list that the measurements are mapped over."""
        return list(range(1, int(plan["parts"]) + 1))

    @task
    def measure(part: int, plan: dict[str, float]) -> float:
        """Measure one part; ten of these run at once."""
        width = plan["width_mm"] + (part % 3 - 1) * 0.01
        log.info("part %d is %.2f mm wide", part, width)
        return width

    @task(retries=1, retry_delay=timedelta(seconds=2))
    def calibrate_gauge() -> None:
        """Fail once, as cold gauges do, and succeed when tried again."""
        attempt = get_current_context()["ti"].try_number
        if attempt == 1:
            raise RuntimeError("the gauge is cold: no reading")
        log.info("the gauge reads on try %d", attempt)

    @task(queue="press", pool_slots=2)
    def press_parts() -> int:
        """Log a line a second for 20 seconds, on the press's own queue, with two slots of its pool."""
        for stroke in range(1, 21):
            log.info("stroke %d of 20", stroke)
            time.sleep(1)
        return 20

    @task
    def report(widths: list[float], strokes: int) -> str:
        """Pull what the others have returned and sum it up."""
        summary = f"{len(widths)} parts, {statistics.fmean(widths):.3f} mm on average, {strokes} strokes"
        log.info("%s (process %d)", summary, os.getpid())
        return summary

    warm_up = DateTimeSensorAsync(
        task_id="warm_up",
        # Five seconds from its own start: the sensor lets go of its worker and is resumed by the triggerer.
        target_time="{{ ti.start_date + macros.timedelta(seconds=5) }}",
    )
    look_around = BashOperator(
        task_id="look_around",
        bash_command='echo "on $(uname -n) with $(nproc) cores"; echo "run {{ run_id }}"; df -h . | tail -1',
    )

    plan = read_plan()
    widths = measure.partial(plan=plan).expand(part=part_numbers(plan))
    strokes = press_parts()
    look_around >> plan
    [calibrate_gauge(), warm_up] >> report(widths, strokes)


edge_demo()
