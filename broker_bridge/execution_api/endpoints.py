"""The calls of the Execution API that mean something to us, and what a repetition of a call comes to.

After a crash it is not known whether a call that was sent again had been carried out. Most may be carried out twice:
they set a value. For the others, Airflow's refusal of the repetition tells that the first one arrived (routes in
airflow's ``api_fastapi/execution_api/routes``).
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote

from edge_mqtt.broker_bridge.execution_api.client import ApiResult
from edge_mqtt.broker_bridge.protocol.messages import ApiRequest

_RUN: Final = re.compile(r"task-instances/[^/]+/run")
_STATE: Final = re.compile(r"task-instances/[^/]+/state")
_TRIGGER: Final = re.compile(r"dag-runs/[^/]+/[^/]+")
_CONNECTION_TEST: Final = re.compile(r"connection-tests/[^/]+")


def is_run(request: ApiRequest) -> bool:
    """Tell whether the call is the start of a task's user code (``ti_run``)."""
    return _is("PATCH", _RUN, request)


def is_state(request: ApiRequest) -> bool:
    """Tell whether the call is the last of a task's run: it ended, or was deferred or rescheduled."""
    return _is("PATCH", _STATE, request)


def was_carried_out(request: ApiRequest, result: ApiResult) -> bool:
    """Tell whether Airflow's refusal of a repeated call means that an earlier one was carried out.

    A task instance that is not running any more, or has another id because a retry is planned, has taken its state;
    the caller ends either way. A Dag run of that id, and the result of a connection test, are there.
    """
    if is_state(request):
        return result.status in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.GONE)
    if _is("POST", _TRIGGER, request):
        return result.status == HTTPStatus.CONFLICT and b"already_exists" in result.body
    return _is("PATCH", _CONNECTION_TEST, request) and result.status == HTTPStatus.CONFLICT


def _is(method: str, path: re.Pattern[str], request: ApiRequest) -> bool:
    # Decoded, as Airflow's router takes it: "%72un" is "run" to it.
    return request.method == method and path.fullmatch(unquote(request.target.partition("?")[0])) is not None
