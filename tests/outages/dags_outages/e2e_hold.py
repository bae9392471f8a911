"""A task that a test holds in its hand: it goes on until a file lets it go, and leaves a trace of all it does."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import DAG, BaseOperator, Variable
from airflow.sdk.exceptions import AirflowRescheduleException

#: How many XComs and values of a Variable the task writes when it is asked to.
STEPS = 4


class Hold(BaseOperator):
    """Runs until there is ``release`` in ``conf["folder"]``; its second try ends at once.

    Other files there ask it to ``push`` XComs and a Variable, to ``defer`` or ``reschedule`` itself for a second, or
    to ``fail``. With ``lingers`` in its conf, its process lives on after its last word, until there is ``leave``.
    Its traces there begin with the number of the try: ``pids`` (its own and its supervisor's), ``beats`` (the time
    of every round), ``pushing`` and ``pushed`` (around the calls), ``resumed``, ``on_kill`` and ``child``.
    """

    killed = False

    def execute(self, context: Any) -> None:
        """Hold."""
        conf = context["dag_run"].conf
        if conf.get("lingers"):
            # Run when its process ends, after it has told Airflow its state.
            atexit.register(_wait_for, Path(conf["folder"]) / "leave")
        if conf.get("stubborn"):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            child = subprocess.Popen(["sleep", "600"])
            self._trace(context, "child", str(child.pid))
        self._trace(context, "pids", f"{os.getpid()} {os.getppid()}")
        self._hold(context)

    def resume(self, context: Any, event: Any) -> None:
        """Hold on, after having been deferred."""
        print(f"resumed at {event}")
        self._trace(context, "resumed", f"{os.getpid()} {os.getppid()}")
        self._hold(context)

    def _hold(self, context: Any) -> None:
        instance, conf = context["ti"], context["dag_run"].conf
        folder = Path(conf["folder"])
        beat = 0
        while instance.try_number == 1 and not (folder / "release").exists():
            self._trace(context, "beats", str(time.time()))
            if not conf.get("quiet"):
                print(f"try {instance.try_number} beat {beat}")
            beat += 1
            if (folder / "push").exists():
                (folder / "push").unlink()
                self._trace(context, "pushing", str(time.time()))
                self._push(context)
                self._trace(context, "pushed", str(time.time()))
            if (folder / "defer").exists():
                (folder / "defer").unlink()
                self.defer(trigger=TimeDeltaTrigger(timedelta(seconds=1)), method_name="resume")
            if (folder / "reschedule").exists():
                (folder / "reschedule").unlink()
                raise AirflowRescheduleException(datetime.now(UTC) + timedelta(seconds=1))
            if (folder / "fail").exists():
                (folder / "fail").unlink()
                raise RuntimeError("failed as asked")
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

    def _push(self, context: Any) -> None:
        """Write XComs and a Variable in turn, and read each value back."""
        variable = f"step_in_{Path(context['dag_run'].conf['folder']).name}"
        for step in range(STEPS):
            context["ti"].xcom_push(key=f"step_{step}", value=f"{step} of try {context['ti'].try_number}")
            Variable.set(variable, str(step))
            read = Variable.get(variable)
            if read != str(step):
                raise RuntimeError(f"{variable} is {read} after it was set to {step}")

    def _trace(self, context: Any, name: str, text: str) -> None:
        self._context = context
        path = Path(context["dag_run"].conf["folder"]) / f"{context['ti'].try_number}.{name}"
        with path.open("a") as file:
            file.write(text + "\n")


def _wait_for(file: Path) -> None:
    while not file.exists():
        time.sleep(0.1)


for name in ("far", "nowhere", "brief", "kept"):
    with DAG("e2e_hold" if name == "far" else f"e2e_hold_{name}", schedule=None, max_active_runs=32):
        Hold(task_id="hold", queue=name, retries=1, retry_delay=timedelta(seconds=1))
with DAG("e2e_hold_pooled", schedule=None, max_active_runs=32):
    Hold(task_id="hold", queue="far", retries=1, retry_delay=timedelta(seconds=1), pool="outages")
