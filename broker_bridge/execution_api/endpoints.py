"""The calls of the Execution API that mean something to us (routes in airflow's ``execution_api/routes``)."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

from edge_mqtt.broker_bridge.protocol.messages import ApiRequest

_RUN: Final = re.compile(r"task-instances/[^/]+/run")
_STATE: Final = re.compile(r"task-instances/[^/]+/state")
_STORE: Final = re.compile(r"store/ti/[^/]+/.+", re.DOTALL)
_RESCHEDULE: Final = re.compile(r"task-reschedules/[^/]+/start_date")
_DAG_RUN: Final = re.compile(r"dag-runs/[^/]+/[^/]+")
_CLEAR: Final = re.compile(r"dag-runs/[^/]+/[^/]+/clear")
_CONNECTION_TEST: Final = re.compile(r"connection-tests/[^/]+")


def is_run(request: ApiRequest) -> bool:
    """Tell whether the call is the start of a task's user code (``ti_run``)."""
    return _is("PATCH", _RUN, request)


def is_state(request: ApiRequest) -> bool:
    """Tell whether the call is the last of a task's run: it ended, or was deferred or rescheduled."""
    return _is("PATCH", _STATE, request)


def is_store_write(request: ApiRequest) -> bool:
    """Tell whether the call writes to a task's state store."""
    return _is("PUT", _STORE, request)


def is_first_reschedule(request: ApiRequest) -> bool:
    """Tell whether the call asks when a task was first rescheduled."""
    return _is("GET", _RESCHEDULE, request)


def is_trigger(request: ApiRequest) -> bool:
    """Tell whether the call makes a Dag run."""
    return _is("POST", _DAG_RUN, request)


def is_clear(request: ApiRequest) -> bool:
    """Tell whether the call clears a Dag run."""
    return _is("POST", _CLEAR, request)


def is_connection_test(request: ApiRequest) -> bool:
    """Tell whether the call is the result of a connection test."""
    return _is("PATCH", _CONNECTION_TEST, request)


def run_target(request: ApiRequest) -> str:
    """Return where Airflow tells of the Dag run that a call makes or clears."""
    path = request.target.partition("?")[0]
    return path.rpartition("/")[0] if is_clear(request) else path


def _is(method: str, path: re.Pattern[str], request: ApiRequest) -> bool:
    # Decoded, as Airflow's router takes it: "%72un" is "run" to it.
    return request.method == method and path.fullmatch(unquote(request.target.partition("?")[0])) is not None
