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
from typing import Any, Final

import httpx
from airflow.sdk.api.client import Client
from airflow.sdk.api.datamodels._generated import BundleInfo, TaskInstance
from airflow.sdk.execution_time import comms, connection_test_supervisor, task_runner
from airflow.sdk.execution_time.comms import _RequestFrame, _ResponseFrame
from airflow.sdk.execution_time.supervisor import WatchedSubprocess
from pydantic import JsonValue, TypeAdapter

from edge_mqtt.worker.ipc.api_contract import BASE_URL

#: What task and supervisor write to each other's sockets.
FRAMES: Final = (_RequestFrame, _ResponseFrame)
_NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def read_task_instance(document: dict[str, Any]) -> TaskInstance:
    """Return a workload's task instance as ``supervise_task`` takes it."""
    return TaskInstance.model_validate(document)


def read_bundle_info(document: dict[str, Any]) -> BundleInfo:
    """Return a workload's bundle as supervisors take it."""
    return BundleInfo.model_validate(document)


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
    vars(connection_test_supervisor)["Client"] = same_client
    return connection_test_supervisor.supervise_connection_test(
        connection_test_id=connection_test_id,
        connection_id=connection_id,
        timeout=timeout,
        token=token,
        server=BASE_URL,
    )


def replace_type_adapter(adapter_of: Callable[[Any], object]) -> None:
    """Have Airflow's task make its pydantic adapters with ``adapter_of``, and make those that it needs now.

    An Airflow that has no such names makes them as ever.
    """
    for module, kind in ((comms, comms.ToTask), (task_runner, JsonValue)):
        if vars(module).get("TypeAdapter") is TypeAdapter:
            vars(module)["TypeAdapter"] = adapter_of
            adapter_of(kind)


def patch_task_watching() -> None:
    """Change two things about how Airflow's supervisor watches its task.

    A task closes its sockets a moment before it is gone. The supervisor then waits on nothing at all for a whole
    heartbeat interval before it looks again (``_monitor_subprocess``): a second in which the slot is taken. It is
    given the task's end to wait on, like another socket that closes.

    A task that is being stopped gets its SIGKILL from the worker, while the supervisor still waits for what SIGTERM
    does. It would write into the task's log that the machine lacks memory.
    """
    service = WatchedSubprocess._service_subprocess  # noqa: SLF001 -- Airflow has no public place for this
    register = WatchedSubprocess._register_pipe_readers  # noqa: SLF001 -- nor for this

    def register_end_too(self: WatchedSubprocess, *sockets: Any, **more: Any) -> None:
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
        return service(self, max_wait_time, raise_on_timeout, expect_signal)

    WatchedSubprocess._register_pipe_readers = register_end_too  # type: ignore[method-assign]  # noqa: SLF001 -- as above
    WatchedSubprocess._service_subprocess = expecting_sigkill  # type: ignore[method-assign]  # noqa: SLF001 -- as above
