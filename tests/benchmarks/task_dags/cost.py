"""Tasks that say when they got where, and what CPU that had cost them."""

from __future__ import annotations

import atexit
import importlib
import json
import os
import sys
import time
from pathlib import Path

PARSED_FROM = (time.monotonic(), time.process_time())

from airflow.sdk import DAG, task  # noqa: E402 -- its time is measured

for name in filter(None, os.environ["TASK_COST_IMPORTS"].split(",")):
    importlib.import_module(name)

STAGES = {"parse": PARSED_FROM}


def reached(stage: str) -> None:
    """Note the moment."""
    STAGES[stage] = (time.monotonic(), time.process_time())


def tell() -> None:
    """Say it all in one line."""
    reached("exit")
    line = json.dumps({"pid": os.getpid(), "stages": STAGES, "modules": list(sys.modules)}) + "\n"
    descriptor = os.open(os.environ["TASK_COST_MARKS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, line.encode())
    os.close(descriptor)


with DAG("cost") as dag:

    @task
    def nothing() -> None:
        """Do nothing."""
        reached("execute")

    @task
    def hold() -> None:
        """Hold a slot until the folder says that it is over."""
        folder = Path(os.environ["TASK_COST_HOLD"])
        (folder / f"{os.getpid()}.held").touch()
        while not (folder / "over").exists():
            time.sleep(0.05)

    nothing()
    hold()

reached("parsed")
atexit.register(tell)
