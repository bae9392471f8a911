"""What Airflow says of Dags, runs and tasks, for operators who follow their logs."""

from __future__ import annotations

import json
import time
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote, urlencode
from uuid import UUID

from cachetools import TTLCache

from edge_mqtt.broker_bridge.execution_api.client import ApiCall, ApiUnavailable, ExecutionApiClient
from edge_mqtt.broker_bridge.execution_api.token_issuer import TokenIssuer

#: Seconds for which a run's state is good enough for every operator who follows it.
STATE_AGE_S: Final = 1.0
#: Runs whose states are remembered: more than operators follow at once.
MAX_STATES: Final = 1000
#: The subject of tokens that ask about runs: no task instance has it, so such a token can change nothing.
NO_TASK_INSTANCE: Final = str(UUID(int=0))


class DagRuns:
    """Asks the Execution API, remembering each answer for a second. Empty answers mean "cannot be asked now"."""

    def __init__(self, api: ExecutionApiClient, issuer: TokenIssuer, *, api_version: str) -> None:
        self._api = api
        self._issuer = issuer
        self._api_version = api_version
        self._states: TTLCache[tuple[str, str], str] = TTLCache(MAX_STATES, STATE_AGE_S, timer=time.monotonic)

    @property
    def note(self) -> str:
        """What operators should know: a line when Airflow cannot be asked about runs at all, else empty."""
        if self._issuer.issue_token(NO_TASK_INSTANCE) is not None:
            return ""
        return (
            "the end of the run is not seen: the bridge cannot ask Airflow without [api_auth] jwt_secret, the "
            "api-server's; end with Ctrl-C"
        )

    async def get_state(self, dag_id: str, run_id: str) -> str:
        """Return the run's state; empty when Airflow cannot be asked or has no such run."""
        key = (dag_id, run_id)
        known = self._states.get(key)
        if known is not None:
            return known
        answer = await self._get(f"dag-runs/{quote(dag_id, safe='')}/{quote(run_id, safe='')}/state")
        state = str(answer[1]["state"]) if answer is not None and answer[0] == HTTPStatus.OK else ""
        self._states[key] = state
        return state

    async def find_problem(self, dag_id: str, run_id: str | None, task_id: str | None) -> str | None:
        """Return one line when Airflow knows no such Dag, run or task; None when it does or cannot be asked."""
        if await self._is_missing(f"dags/{quote(dag_id, safe='')}"):
            return f"no such Dag: {dag_id!r}"
        if run_id is None:
            return None
        if await self._is_missing(f"dag-runs/{quote(dag_id, safe='')}/{quote(run_id, safe='')}/state"):
            return f"no such run of Dag {dag_id!r}: {run_id!r}"
        if task_id is None or await self._has_task(dag_id, run_id, task_id):
            return None
        return f"no such task in run {run_id!r} of Dag {dag_id!r}: {task_id!r}"

    async def _is_missing(self, target: str) -> bool:
        answer = await self._get(target)
        return answer is not None and answer[0] == HTTPStatus.NOT_FOUND

    async def _has_task(self, dag_id: str, run_id: str, task_id: str) -> bool:
        answer = await self._get("task-instances/states?" + urlencode({"dag_id": dag_id, "run_ids": run_id}))
        if answer is None or answer[0] != HTTPStatus.OK:
            return True
        # A mapped task is listed as <task_id>_<map_index>.
        tasks = answer[1]["task_states"].get(run_id, {})
        return any(name == task_id or name.rpartition("_")[0] == task_id for name in tasks)

    async def _get(self, target: str) -> tuple[int, Any] | None:
        token = self._issuer.issue_token(NO_TASK_INSTANCE)
        if token is None:
            return None
        headers = {"airflow-api-version": self._api_version}
        try:
            result = await self._api.call(ApiCall(method="GET", target=target, token=token, headers=headers))
            return result.status, json.loads(result.body or b"null")
        except (ApiUnavailable, ValueError):
            return None
