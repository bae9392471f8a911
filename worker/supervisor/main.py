"""What runs in a supervisor's process: Airflow's own supervisor, speaking to the worker's unix socket.

The process is forked by the launcher, leads a session of its own and outlives the worker. It writes how it ended to
a file, so that a restarted worker knows.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

from edge_mqtt.broker_bridge.protocol.messages import WorkloadType
from edge_mqtt.worker.ipc.api_contract import START_TARGET
from edge_mqtt.worker.ipc.run_outcome import RunOutcome
from edge_mqtt.worker.ipc.run_request import RunRequest
from edge_mqtt.worker.supervisor.api_transport import WorkerTransport
from edge_mqtt.worker.supervisor.lease_guard import guard_own_lease, leave_lease_guard
from edge_mqtt.worker.supervisor.log_file import make_log_file
from edge_mqtt.worker.supervisor.sweep import sweep_run
from edge_mqtt.worker.system.cgroup import RunCgroup
from edge_mqtt.worker.system.files import create_exclusively, redirect_output, write_atomically
from edge_mqtt.worker.system.killing import become_subreaper, kill_below
from edge_mqtt.worker.system.oom import oom_kills, prefer_as_oom_victim
from edge_mqtt.worker.system.process import ProcessIdentity

if TYPE_CHECKING:
    from airflow.sdk.api.client import Client

#: Characters of an error that are reported.
ERROR_LENGTH: Final = 500
#: Seconds between attempts while the disk is full.
STORE_RETRY_S: Final = 5.0


class StopAsked(Exception):
    """SIGTERM came while no task was there to pass it on to.

    An ordinary exception on purpose: Airflow's supervisor kills the task that it has just forked on any of those.
    """


def run_job(request: RunRequest, launcher_pid: int) -> int:
    """Run the job to its end; return the process's exit code.

    :param launcher_pid: the pid of the process that we were forked from.
    """
    files = request.files
    started_at = time.time()
    if not create_exclusively(files.process, str(ProcessIdentity.of_this()).encode()):
        # A restarted worker found no process and took the job back; or a repeat. It is not ours to run.
        return 0
    # Without worker and launcher there would be no tasks at all.
    prefer_as_oom_victim()
    # The worker's terminal or pipe may go away before we do: our own words go into a file.
    redirect_output(files.output)
    signal.signal(signal.SIGTERM, _on_sigterm)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    become_subreaper()
    group = RunCgroup.of(files.run)
    group.create()
    guard_own_lease(request, group, launcher_pid)
    _set_title(request.title)
    killed_before = oom_kills()
    ended_well = False
    try:
        code, ended_well = _supervise(request, group)
        killed = oom_kills() - killed_before
        outcome = RunOutcome.of_exit_code(code, oom_kills=killed, started_at=started_at, ended_at=time.time())
    except BaseException as error:  # noqa: BLE001 -- the process ends here: whatever it is goes into the outcome
        with contextlib.suppress(OSError):
            traceback.print_exc()
        # The task's process has no supervisor any more; it must not run beside the next try.
        kill_below(ProcessIdentity.of_this(), group)
        outcome = RunOutcome(exit_code=1, error=describe_error(error), started_at=started_at, ended_at=time.time())
    store_outcome(files.outcome, outcome)
    sweep_run(request, group, ended_well=ended_well)
    return 0


def store_outcome(path: Path, outcome: RunOutcome, *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Store the outcome, however long the disk has no room for it: it must not be lost.

    :param sleep: waits so many seconds.
    """
    while True:
        try:
            write_atomically(path, outcome.to_json(), durable=True)
        except FileNotFoundError:
            raise  # The whole folder is gone: there is nothing to wait for.
        except OSError as error:
            with contextlib.suppress(OSError):
                sys.stderr.write(f"the outcome waits to be stored: {error}\n")
            sleep(STORE_RETRY_S)
        else:
            return


def describe_error(error: BaseException) -> str:
    """Return one line for people: what the bridge answered when it refused, else the exception."""
    detail = getattr(error, "detail", None)
    if isinstance(detail, dict):
        detail = detail.get("message") or detail.get("reason")
    lines = str(detail or error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:ERROR_LENGTH].rstrip(": ")


def _supervise(request: RunRequest, group: RunCgroup) -> tuple[int, bool]:
    """Return the task's exit code, and whether what it has left may go on: it ended by itself and has not failed."""
    from edge_mqtt.worker.supervisor.airflow_internals import WorkerClient, begin_tasks_with, watch_tasks

    transport = WorkerTransport(Path(request.socket_path))

    def shed() -> None:
        leave_lease_guard()
        transport.close()
        group.join()

    watched = watch_tasks()
    begin_tasks_with(shed)
    make_log_file(request.log_path)
    with WorkerClient(transport, request.secret) as client:
        code = _supervise_workload(request, client)
    return code, code == 0 and not watched.has_failed


def _supervise_workload(request: RunRequest, client: Client) -> int:
    match WorkloadType(request.type):
        case WorkloadType.TASK:
            return _supervise_task(request, client)
        case WorkloadType.CALLBACK:
            client.post(START_TARGET)
            return _supervise_callback(request, client)
        case WorkloadType.CONNECTION_TEST:
            client.post(START_TARGET)
            return _supervise_connection_test(request, client)


def _supervise_task(request: RunRequest, client: Client) -> int:
    from airflow.sdk.execution_time.supervisor import supervise_task

    from edge_mqtt.worker.supervisor.airflow_internals import read_bundle_info, read_task_instance

    workload = request.workload
    code = supervise_task(
        ti=read_task_instance(workload["ti"]),
        bundle_info=read_bundle_info(workload["bundle_info"]),  # type: ignore[arg-type]  # the SDK's twin
        dag_rel_path=workload["dag_rel_path"],
        token=request.secret,
        client=client,
        log_path=request.log_path,
        sentry_integration=workload.get("sentry_integration", ""),
    )
    return int(code)


def _supervise_callback(request: RunRequest, client: Client) -> int:
    from airflow.sdk.execution_time.callback_supervisor import supervise_callback

    from edge_mqtt.worker.supervisor.airflow_internals import read_bundle_info

    workload = request.workload
    callback = workload["callback"]
    return supervise_callback(
        id=callback["id"],
        callback_path=callback["data"].get("path", ""),
        callback_kwargs=callback["data"].get("kwargs", {}),
        dag_rel_path=workload["dag_rel_path"],
        log_path=request.log_path,
        bundle_info=read_bundle_info(workload["bundle_info"]),
        token=request.secret,
        client=client,
    )


def _supervise_connection_test(request: RunRequest, client: Client) -> int:
    from edge_mqtt.worker.supervisor.airflow_internals import supervise_connection_test

    workload = request.workload
    return supervise_connection_test(
        connection_test_id=uuid.UUID(workload["connection_test_id"]),
        connection_id=workload["connection_id"],
        timeout=int(workload["timeout"]),
        token=request.secret,
        client=client,
    )


def _on_sigterm(_signum: int, _frame: FrameType | None) -> None:
    raise StopAsked("stopped by the worker")


def _set_title(title: str) -> None:
    from setproctitle import setproctitle

    setproctitle(title)
