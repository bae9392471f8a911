"""A task that a test holds in its hand: it goes on until a file lets it go, and leaves a trace of all it does."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, BaseOperator


class Hold(BaseOperator):
    """Runs until there is ``release`` in ``conf["folder"]``; its second try ends at once.

    Its traces there begin with the number of the try: ``pids`` (its own and its supervisor's), ``beats`` (the time
    of every round), ``pushing`` and ``pushed`` (around the XCom that the file ``push`` asks for), ``on_kill`` and
    ``child``.
    """

    killed = False

    def execute(self, context: Any) -> None:
        """Hold."""
        instance, conf = context["ti"], context["dag_run"].conf
        folder = Path(conf["folder"])
        if conf.get("stubborn"):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            child = subprocess.Popen(["sleep", "600"])
            self._trace(context, "child", str(child.pid))
        self._trace(context, "pids", f"{os.getpid()} {os.getppid()}")
        beat = 0
        while instance.try_number == 1 and not (folder / "release").exists():
            self._trace(context, "beats", str(time.time()))
            if not conf.get("quiet"):
                print(f"try {instance.try_number} beat {beat}")
            beat += 1
            if (folder / "push").exists():
                (folder / "push").unlink()
                self._trace(context, "pushing", str(time.time()))
                instance.xcom_push(key="word", value=f"of try {instance.try_number}")
                self._trace(context, "pushed", str(time.time()))
            if self.killed:
                raise RuntimeError("ended by on_kill")
            time.sleep(0.2)
        self._trace(context, "beats", str(time.time()))
        print(f"try {instance.try_number} was let go")

    def on_kill(self) -> None:
        """Leave a trace and end."""
        if not self.killed:
            self.killed = True
            self._trace(self._context, "on_kill", str(time.time()))

    def _trace(self, context: Any, name: str, text: str) -> None:
        self._context = context
        path = Path(context["dag_run"].conf["folder"]) / f"{context['ti'].try_number}.{name}"
        with path.open("a") as file:
            file.write(text + "\n")


with DAG("e2e_hold", schedule=None):
    Hold(task_id="hold", queue="far", retries=1, retry_delay=timedelta(seconds=1))
