"""What a task's process is like under either executor, and what its own alarms and log settings come to."""

from __future__ import annotations

import logging
import logging.config
import multiprocessing
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from typing import Any

from airflow.sdk import dag, task

EDGE = "edge_mqtt.executor.EdgeMqttExecutor"
HANDLERS = {"out": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout"}}
ROOT = {"handlers": ["out"], "level": "INFO"}


class TooLong(Exception):
    """A time limit is over."""


def too_long(*_: object) -> None:
    """Be what an alarm calls."""
    raise TooLong


def limited(_number: int) -> str:
    """Work with a limit, and say how it ended."""
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        time.sleep(20)
    except TooLong:
        return "limited"
    return "slept"


@dag(schedule=None)
def e2e_task_process() -> None:
    """Look at the process of a task at the centre and of one on the edge, and use what Airflow or we might."""

    @task(executor="LocalExecutor")
    def at_the_centre() -> dict[str, Any]:
        import task_process  # type: ignore[import-not-found]  # a Dag's own folder is no package

        return dict(task_process.look_everywhere())

    @task(executor=EDGE)
    def on_the_edge() -> dict[str, Any]:
        import task_process

        return dict(task_process.look_everywhere())

    @task(executor=EDGE)
    def limits_the_work_of_a_pool() -> None:
        signal.signal(signal.SIGALRM, too_long)
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
            assert list(pool.map(limited, range(4))) == ["limited"] * 4

    @task(executor=EDGE, execution_timeout=timedelta(seconds=60))
    def airflow_s_handler_outlives_a_fork() -> None:
        before = signal.getsignal(signal.SIGALRM)
        assert callable(before)
        reading, writing = os.pipe()
        if os.fork() == 0:
            os.write(writing, b"same" if signal.getsignal(signal.SIGALRM) == before else b"lost")
            os._exit(0)
        os.wait()
        assert os.read(reading, 4) == b"same"

    @task(executor=EDGE)
    def configures_logging_as_it_likes() -> None:
        for _ in range(4):
            logging.config.dictConfig(
                {"version": 1, "disable_existing_loggers": False, "handlers": HANDLERS, "root": ROOT}
            )
            logging.config.dictConfig({"version": 1, "incremental": True, "root": {"level": "INFO"}})
        strict = {"version": 1, "handlers": HANDLERS, "loggers": {"kept": {"level": "DEBUG"}}, "root": ROOT}
        for number in range(4):
            between = logging.getLogger(f"made.between.{number}")
            logging.config.dictConfig(strict)
            assert between.disabled
        assert not logging.getLogger("kept").disabled

    at_the_centre()
    on_the_edge()
    limits_the_work_of_a_pool()
    airflow_s_handler_outlives_a_fork()
    configures_logging_as_it_likes()


e2e_task_process()
