"""Everything private to Airflow that the worker uses, in this one file: names that a release may change.

``tests/contract`` checks each of them. What Airflow documents is used where it is needed.
"""

from __future__ import annotations

import os
import selectors
import signal
import ssl
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import httpx
import psutil
from airflow._shared.observability.traces import configure_otel
from airflow.configuration import conf
from airflow.dag_processing.bundles.base import BundleUsageTrackingManager
from airflow.sdk.api.client import Client
from airflow.sdk.api.datamodels._generated import BundleInfo, TaskInstance
from airflow.sdk.execution_time import connection_test_supervisor, supervisor, task_runner
from airflow.sdk.execution_time.comms import CommsDecoder, ToTask, _RequestFrame, _ResponseFrame
from airflow.sdk.execution_time.supervisor import WatchedSubprocess
from pydantic import TypeAdapter

from edge_mqtt.worker.ipc.api_contract import BASE_URL
from edge_mqtt.worker.launcher.logging_shortcut import SHORTCUT
from edge_mqtt.worker.supervisor.replaced_names import REPLACED
from edge_mqtt.worker.system.killing import descendants, reap_adopted, send_signal

#: What task and supervisor write to each other's sockets.
FRAMES: Final = (_RequestFrame, _ResponseFrame)
_NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
#: Final states in which a task is not left alone with what it has started: the next try would meet it.
_FAILED: Final = ("failed", "up_for_retry", supervisor.SERVER_TERMINATED)
#: What reads the messages to a task. It does not change: built once in the launcher, it spares each task 5 ms of CPU.
_TO_TASK: Final[TypeAdapter[Any]] = TypeAdapter(ToTask)


def read_task_instance(document: dict[str, Any]) -> TaskInstance:
    """Return a workload's task instance as ``supervise_task`` takes it."""
    return TaskInstance.model_validate(document)


def read_bundle_info(document: dict[str, Any]) -> BundleInfo:
    """Return a workload's bundle as supervisors take it."""
    return BundleInfo.model_validate(document)


def remove_stale_bundle_versions(bundle_name: str) -> None:
    """Delete what Airflow's settings let go of a bundle's versions.

    Its own method for all bundles makes an object of each, for which a bundle may ask for connections.
    """
    BundleUsageTrackingManager()._remove_stale_bundle_versions_for_bundle(bundle_name)  # noqa: SLF001 -- see above


class WorkerClient(Client):
    """Airflow's own client of the Execution API, calling it by way of the worker.

    :param transport: what the calls go by.
    :param secret: opens the worker's socket for this job.
    """

    def __init__(self, transport: httpx.BaseTransport, secret: str) -> None:
        # trust_env: a proxy variable must not send these calls anywhere but to the socket.
        super().__init__(base_url=BASE_URL, token=secret, transport=transport, timeout=None, trust_env=False)

    @staticmethod
    def _get_ssl_context_cached(*_: str | None) -> ssl.SSLContext:
        """Return what is never used: with the machine's certificate authorities it takes 3 MB in every process."""
        return _NO_TLS


def supervise_connection_test(
    *, connection_test_id: uuid.UUID, connection_id: str, timeout: int, token: str, client: Client
) -> int:
    """Test a connection.

    :param timeout: seconds.
    """

    def same_client(**_: Any) -> Client:
        return client

    # It takes no client, unlike its sisters, but builds one from this name. The process runs this job only.
    REPLACED.replace(connection_test_supervisor, "Client", same_client)
    return connection_test_supervisor.supervise_connection_test(
        connection_test_id=connection_test_id,
        connection_id=connection_id,
        timeout=timeout,
        token=token,
        server=BASE_URL,
    )


@dataclass(slots=True)
class WatchedTasks:
    """What this process supervises."""

    #: The last one.
    last: WatchedSubprocess | None = None

    @property
    def has_failed(self) -> bool:
        """Whether Airflow considers the task failed, though its process may have ended in good order."""
        return getattr(self.last, "final_state", None) in _FAILED


def watch_tasks() -> WatchedTasks:
    """Change a few things about how Airflow's supervisor watches its task; return what it comes to watch.

    A task closes its sockets a moment before it is gone. The supervisor then waits on nothing at all for a whole
    heartbeat interval before it looks again (``_monitor_subprocess``): a second in which the slot is taken. It is
    given the task's end to wait on, like another socket that closes.

    A task that is being stopped gets its SIGKILL from the worker, while the supervisor still waits for what SIGTERM
    does. It would write into the task's log that the machine lacks memory.

    What a task leaves behind becomes the supervisor's child, and is buried by it.

    A task under ``run_as_user`` is not the supervisor's to signal, which would break down over it.
    """
    watched = WatchedTasks()

    def register_end_too(self: WatchedSubprocess, *sockets: Any, **more: Any) -> None:
        watched.last = self
        register(self, *sockets, **more)
        end = open(os.pidfd_open(self.pid), "rb", buffering=0)  # noqa: PTH123, SIM115 -- the supervisor closes it
        self.selector.register(end, selectors.EVENT_READ, (lambda _: False, self._on_socket_closed))

    def expecting_sigkill(
        self: WatchedSubprocess,
        max_wait_time: float,
        raise_on_timeout: bool = False,
        expect_signal: int | None = None,
    ) -> Any:
        if expect_signal == signal.SIGTERM:
            expect_signal = signal.SIGKILL
        exit_code = service(self, max_wait_time, raise_on_timeout, expect_signal)
        reap_adopted(self.pid)
        return exit_code

    def by_sudo_too(self: WatchedSubprocess, sig: signal.Signals) -> None:
        try:
            send(self, sig)
        except psutil.AccessDenied:
            send_signal(descendants(os.getpid()), sig)

    # Airflow has no public place for any of them.
    register = REPLACED.replace(WatchedSubprocess, "_register_pipe_readers", register_end_too)
    service = REPLACED.replace(WatchedSubprocess, "_service_subprocess", expecting_sigkill)
    send = REPLACED.replace(WatchedSubprocess, "_signal_subprocess", by_sudo_too)
    return watched


def begin_tasks_with(shed: Callable[[], None]) -> None:
    """Have each process that this supervisor forks for user code be one as Airflow makes it.

    In it every name that stands for something of ours is put back first. What is done for speed goes on while
    Airflow's own code sets the task up, and is over before a Dag is read.

    :param shed: lets go of what else a supervisor of ours has and Airflow's has not, in the new process.
    """
    fork_main = supervisor._fork_main  # noqa: SLF001 -- Airflow has no public place for this
    configure_logs = supervisor._configure_logs_over_json_channel  # noqa: SLF001 -- nor for this

    def begin(requests: Any, child_stdout: Any, child_stderr: Any, log_fd: int, target: Callable[[], None]) -> None:
        REPLACED.restore()
        shed()
        # The launcher has none of the threads of it.
        configure_otel(conf)
        REPLACED.replace(supervisor, "_configure_logs_over_json_channel", configure_logs_quickly)

        def run() -> None:
            REPLACED.restore()
            if target is supervisor._subprocess_main:  # noqa: SLF001 -- nor for this
                REPLACED.replace(task_runner, "CommsDecoder", _FirstDecoder())
            target()

        fork_main(requests, child_stdout, child_stderr, log_fd, run)

    def configure_logs_quickly(log_fd: int) -> None:
        REPLACED.restore()
        with SHORTCUT.taken():
            configure_logs(log_fd)

    REPLACED.replace(supervisor, "_fork_main", begin)


class _FirstDecoder:
    """Stands for ``CommsDecoder`` until the task makes its own, which is the first thing that it does."""

    def __getitem__(self, _kinds: Any) -> _FirstDecoder:
        return self

    def __call__(self, **more: Any) -> CommsDecoder[Any, Any]:
        REPLACED.restore()
        return CommsDecoder(body_decoder=_TO_TASK, err_decoder=_TO_TASK, **more)
