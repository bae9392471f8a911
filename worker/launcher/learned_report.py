"""How a task tells the launcher which modules it had to import by itself."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import sysconfig
from collections.abc import Callable
from itertools import takewhile
from typing import Any, Final

from edge_mqtt.worker.core.imports import Learned, Report

#: Folders of what is installed, as against what is a Dag's own.
INSTALLED: Final = tuple(
    {sysconfig.get_path(kind) + os.sep for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
)


#: What Airflow's names for the modules that it makes of Dag files begin with (airflow/_shared/module_loading/
#: dag_file.py).
DAG_FILE: Final = "unusual_prefix_"


def tell_imports(ear: socket.socket, learned: Learned) -> None:
    """Let the task of this supervisor tell, at its end, what was imported from now on.

    The name that is replaced is looked up by Airflow in the task's process (``_subprocess_main`` in airflow.sdk
    execution_time/supervisor.py).

    :param ear: a datagram socket: a report arrives whole, or not at all when nobody has read the last ones yet.
    :param learned: knows what need not be told.
    """
    from airflow.sdk.execution_time import task_runner

    main: Callable[[], Any] = task_runner.main
    last = next(reversed(sys.modules))

    def main_that_tells() -> None:
        try:
            main()
        finally:
            # Nothing here is worth a task.
            with contextlib.suppress(Exception):
                report = _report(last, learned)
                if report.installed or report.own:
                    ear.send(report.to_json(), socket.MSG_DONTWAIT)

    vars(task_runner)["main"] = main_that_tells


def _report(last: str, learned: Learned) -> Report:
    """Return what was imported after ``last``.

    From the end backwards: whatever is touched of what came before would have to be copied by this process.
    """
    new = list(takewhile(lambda name: name != last, reversed(sys.modules)))
    installed: list[str] = []
    own: list[str] = []
    for name in reversed(new):
        if name.startswith(DAG_FILE) or learned.settled(name):
            continue
        spec = getattr(sys.modules[name], "__spec__", None)
        origin = getattr(spec, "origin", None)
        if spec is None or spec.name != name or origin is None or not origin.startswith(os.sep):
            continue  # Made by hand, an alias, or part of Python itself.
        (installed if origin.startswith(INSTALLED) else own).append(name)
    return Report(installed=tuple(installed), own=tuple(own))
