"""What the executor needs of Airflow's ``BaseExecutor`` beside its public methods, in one place.

Airflow's rules that shape it (``airflow.jobs.scheduler_job_runner``, ``airflow.executors.base_executor``):

- ``queue_workload`` runs inside the scheduler's transaction, ``_process_workloads`` after its commit: only the
  latter may submit.
- A row that another transaction has locked is skipped by ``process_executor_events`` and its event dropped. What it
  has handled it takes out of the very dict that ``get_event_buffer`` returned, so what is left in there at the next
  ``sync`` was passed over; what is gone was committed, for otherwise the scheduler had died.
- Beside another executor, Airflow assigns job ids only to tasks whose ``executor=`` is exactly the alias or the
  module path, though it routes those with the bare class name to the same executor.
- Beside one that has no ids assigned, a task that chooses none may still have the id of an earlier job of its own,
  which ran before it was deferred or retried.
- ``log_task_event`` keeps a weak reference to its entry only: Airflow 3.3 pops the entry, and it would be gone before
  it is written.
- What an event says is written to the database by the scheduler, and looked up there: it ends on text that the
  database does not take.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.executors.base_executor import BaseExecutor
from airflow.executors.executor_loader import ExecutorLoader
from airflow.executors.executor_utils import ExecutorName as AirflowExecutorName

from edge_mqtt.executor.fault_isolation import is_storable_key, storable_text

if TYPE_CHECKING:
    from airflow.executors.base_executor import EventBufferValueType
    from airflow.executors.workloads import ExecutorWorkload
    from airflow.executors.workloads.types import WorkloadKey, WorkloadState

log = logging.getLogger(__name__)


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

    def change_state(
        self, key: WorkloadKey, state: WorkloadState, info: Any = None, remove_running: bool = True
    ) -> None:
        """Put an event into Airflow's event buffer, so that its database takes it."""
        if not is_storable_key(key):
            self.running.discard(key)
            log.error(
                "Airflow is not told that a workload is %s, as no database can have it: %r",
                state,
                key,
                extra={"action": "event_dropped"},
            )
            return
        text = None if info is None else storable_text(str(info))
        super().change_state(key, state, text, remove_running)

    def log_task_event(self, *, event: str, extra: str, ti_key: WorkloadKey) -> None:
        """Add an entry to the task's audit log."""
        if is_storable_key(ti_key):
            super().log_task_event(event=event, extra=storable_text(extra), ti_key=ti_key)

    @cached_property
    def is_given_ids(self) -> bool:
        """Airflow assigns a new job id to every task that it queues: each of its executors asks for that."""
        names = ExecutorLoader.get_executor_names()
        return all(ExecutorLoader.import_executor_cls(name)[0].pre_assigns_external_executor_id for name in names)

    @property
    def names(self) -> tuple[str, ...]:
        """What tasks may call this executor."""
        if self.name is None:
            return ()
        path = self.name.module_path
        return tuple(filter(None, (self.name.alias, path, path.rpartition(".")[2])))

    @property
    def is_default(self) -> bool:
        """Tasks that name no executor come here."""
        default = ExecutorLoader.get_default_executor_name(self.team_name)
        return self.name is not None and default.module_path == self.name.module_path

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
