"""What supervisors ask their worker, on its way to the centre. A thin model of ``worker/execution_api.py``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import ApiRequest, ApiResponse, StartRequest
from tests.simulation.airflow_db import OK

if TYPE_CHECKING:
    from tests.simulation.machine import Process
    from tests.simulation.worker import Worker

UNKNOWN_JOB: Final = 401
JOB_HAS_ENDED: Final = 410


@dataclass
class _Call:
    """A call that is not answered."""

    request: ApiRequest | StartRequest
    answer: Callable[[int], None]
    #: When it was first sent, in seconds since boot.
    sent_at: float | None = None

    @property
    def starts_a_job(self) -> bool:
        """Whether it asks for the permission to start."""
        return isinstance(self.request, StartRequest) or self.request.target == "run"


class Calls:
    """The calls that wait for their answers, for one life of the worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._waiting: dict[str, _Call] = {}

    def take(self, process: Process, request_id: str, target: str, body: str, answer: Callable[[int], None]) -> None:
        """Take a supervisor's call; a repeat of one that waits is the same call."""
        if request_id in self._waiting:
            return
        job = self._worker.held.get(process.job_id)
        if job is None or job.secret != process.secret:
            answer(UNKNOWN_JOB)
            return
        fields: dict[str, Any] = {"request_id": request_id, "job_id": job.job_id, "fence": job.fence}
        request: ApiRequest | StartRequest = StartRequest(**fields)
        if target != "start":
            request = ApiRequest(**fields, method="PATCH", target=target, body=body.encode())
        call = self._waiting[request_id] = _Call(request, answer)
        if self._worker.ready:
            self._send(call)

    def _send(self, call: _Call) -> None:
        if call.sent_at is None:
            call.sent_at = self._worker.machine.boottime()
        self._worker.wire.send(self._worker.topics.rpc_request(self._worker.name), call.request)

    def answered(self, response: ApiResponse) -> None:
        """Take the answer to a call."""
        call = self._waiting.pop(response.request_id, None)
        if call is None:
            return
        if call.starts_a_job and call.sent_at is not None and response.status == OK:
            self._worker.presences.permitted(call.sent_at)
        call.answer(response.status)

    def resend(self) -> None:
        """Send again whatever is not answered."""
        for call in list(self._waiting.values()):
            self._send(call)

    def forget(self, job_id: JobId) -> None:
        """Give up the calls of a job that has ended."""
        for request_id, call in list(self._waiting.items()):
            if call.request.job_id == job_id:
                del self._waiting[request_id]
                call.answer(JOB_HAS_ENDED)
