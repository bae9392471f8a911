"""Errors of the executor's side.

ExecutorError
├── AirflowUnanswering  Airflow's database does not answer
├── CannotConnect       the connection can't even be tried: its certificate is missing or not an executor's
├── SharedCertificate   another executor of this scheduler has the same name at the same bridge
└── WorkloadTooLarge    a workload is over the limit of a message
"""

from __future__ import annotations

from edge_mqtt.broker_bridge.program.errors import ProgramError


class ExecutorError(ProgramError):
    """Root of the executor's errors; the text is one line that says what to do."""


class CannotConnect(ExecutorError):
    """There is nothing to connect with; may be fixed while the scheduler runs."""


class AirflowUnanswering(ExecutorError):
    """Airflow's database does not answer; ask again later."""


class SharedCertificate(ExecutorError):
    """The bridge would take two executors of one scheduler for one."""


class WorkloadTooLarge(ExecutorError):
    """A workload cannot travel."""
