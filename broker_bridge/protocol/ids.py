"""Names of jobs and parties on the wire, told apart by type."""

from __future__ import annotations

from typing import NewType

#: One queueing of one workload: the external_executor_id that Airflow assigns when it queues.
JobId = NewType("JobId", str)
#: A worker's name, which is its certificate's common name.
WorkerName = NewType("WorkerName", str)
#: An executor's name, which is its certificate's common name.
ExecutorName = NewType("ExecutorName", str)
#: Counts the assignments of one job. Only the holder of the newest may start it.
Fence = NewType("Fence", int)
