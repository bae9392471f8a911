"""Jobs that run a task of a Dag as Airflow's executor submits them, and what Airflow answers to their first call."""

from __future__ import annotations

import json
import uuid
from typing import Any

from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import ApiRequest, ApiResponse, JobSpec, WorkloadType

_MOMENT = "2024-01-01T00:00:00Z"


def task_spec(dag_id: str, task_id: str, job_id: str, **fields: Any) -> JobSpec:
    """Return a job that runs a task of the Dag in the file of its name, with ``fields`` in the place of the usual."""
    task_instance = {
        "id": str(uuid.uuid5(uuid.NAMESPACE_OID, job_id)),
        "dag_version_id": str(uuid.uuid4()),
        "context_carrier": {},
        "queue": "default",
        "task_id": task_id,
        "dag_id": dag_id,
        "run_id": "r1",
        "try_number": 1,
        "map_index": -1,
        "pool_slots": 1,
        "priority_weight": 1,
    }
    workload = {
        "type": "ExecuteTask",
        "ti": task_instance,
        "dag_rel_path": f"{dag_id}.py",
        "bundle_info": {"name": "dags-folder", "version": None},
    }
    usual: dict[str, Any] = {
        "job_id": JobId(job_id),
        "type": WorkloadType.TASK,
        "queue": "default",
        "dag_id": dag_id,
        "task_id": task_id,
        "run_id": "r1",
        "try_number": 1,
        "log_path": f"dag_id={dag_id}/run_id=r1/task_id={task_id}/attempt=1-{job_id[:8]}.log",
        "workload": workload,
    }
    return JobSpec(**(usual | fields))


def run_context(dag_id: str) -> dict[str, Any]:
    """Return what Airflow answers to the ``run`` call of a task."""
    return {
        "dag_run": {
            "dag_id": dag_id,
            "run_id": "r1",
            "logical_date": _MOMENT,
            "data_interval_start": None,
            "data_interval_end": None,
            "run_after": _MOMENT,
            "start_date": _MOMENT,
            "end_date": None,
            "run_type": "manual",
            "state": "running",
            "conf": {},
            "consumed_asset_events": [],
            "partition_key": None,
        },
        "task_reschedule_count": 0,
        "max_tries": 0,
        "variables": [],
        "connections": [],
        "upstream_map_indexes": {},
        "xcom_keys_to_clear": [],
        "should_retry": False,
    }


def answer_json(request: ApiRequest, status: int, body: object = None) -> ApiResponse:
    """Return an answer of the Execution API."""
    if body is None:
        return ApiResponse(request_id=request.request_id, status=status)
    headers = {"content-type": "application/json"}
    return ApiResponse(request_id=request.request_id, status=status, headers=headers, body=json.dumps(body).encode())
