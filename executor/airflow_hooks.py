"""What the executor needs of Airflow's ``BaseExecutor`` beside its public methods, in one place.

Airflow's rules that shape it (``airflow.jobs.scheduler_job_runner``, ``airflow.executors.base_executor``):

- ``queue_workload`` runs inside the scheduler's transaction, ``_process_workloads`` after its commit: only the
  latter may submit.
- A row that another transaction has locked is skipped by ``process_executor_events`` and its event dropped. What it
  has handled it takes out of the very dict that ``get_event_buffer`` returned, so what is left in there at the next
  ``sync`` was passed over; what is gone was committed, for otherwise the scheduler had died.
- Beside another executor, Airflow assigns job ids only to tasks whose ``executor=`` is exactly the alias or the
  module path, though it routes those with the bare class name to the same executor.
- ``log_task_event`` keeps a weak reference to its entry only: Airflow 3.3 pops the entry, and it would be gone before
  it is written.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.executors.base_executor import BaseExecutor
from airflow.executors.executor_utils import ExecutorName as AirflowExecutorName

if TYPE_CHECKING:
    from airflow.executors.base_executor import EventBufferValueType
    from airflow.executors.workloads import ExecutorWorkload
    from airflow.executors.workloads.types import WorkloadKey


class AirflowHooks(BaseExecutor, ABC):
    """An executor that gets workloads in :meth:`submit_workloads`, and knows which events Airflow has passed over."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._handed_out: list[dict[WorkloadKey, EventBufferValueType]] = []
        self._log_entries: list[Any] = []

    @abstractmethod
    def submit_workloads(self, workloads: Sequence[ExecutorWorkload]) -> None:
        """Take workloads whose state is committed."""

    def _process_workloads(self, workload_items: Sequence[ExecutorWorkload]) -> None:
        self.submit_workloads(workload_items)

    def get_event_buffer(self, dag_ids: Any = None) -> dict[WorkloadKey, EventBufferValueType]:
        """Return and flush the events; remembers the dict, because the scheduler takes out of it what it handles."""
        events = super().get_event_buffer(dag_ids)
        self._handed_out.append(events)
        return events

    def pop_passed_over(self) -> dict[WorkloadKey, EventBufferValueType]:
        """Return the events that Airflow was given since the last call and has not handled."""
        passed_over: dict[WorkloadKey, EventBufferValueType] = {}
        for events in self._handed_out:
            passed_over.update(events)
        self._handed_out.clear()
        return passed_over

    def unqueue(self, key: WorkloadKey) -> None:
        """Take ``key`` from whichever queue it is in."""
        queues: tuple[dict[Any, Any], ...] = (
            self.queued_tasks,
            self.queued_callbacks,
            self.queued_connection_tests,
        )
        for queue in queues:
            queue.pop(key, None)

    def keep_log_entries(self) -> None:
        """Keep the entries of ``log_task_event`` until the next call: Airflow is about to store them."""
        self._log_entries = list(self._task_event_logs)

    def use_class_name_as_alias(self) -> None:
        """Give the executor its class name as alias when it has none, as Airflow's own executors have."""
        if self.name is not None and self.name.alias is None:
            self.name = AirflowExecutorName(
                module_path=self.name.module_path,
                alias=self.name.module_path.rpartition(".")[2],
                team_name=self.name.team_name,
            )
