"""Moments in calls that a task's machine has read off its own clock: corrected where that clock is not the centre's.

Airflow counts retries and reschedules from them. Only what Airflow's own client and task runner take from the clock
is corrected; what a Dag's author computes (a logical date, a trigger's arguments) is theirs.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, Final

from edge_mqtt.broker_bridge.execution_api.client import ApiResult
from edge_mqtt.broker_bridge.execution_api.endpoints import (
    is_first_reschedule,
    is_run,
    is_state,
    is_store_write,
)
from edge_mqtt.broker_bridge.protocol.messages import ApiRequest

#: The fields that hold moments, of whichever of the calls.
_MOMENTS: Final = ("start_date", "end_date", "reschedule_date", "expires_at")


def body_in_centre_time(request: ApiRequest) -> bytes:
    """Return a call's body as it would be if the worker's clock were ours."""
    if request.clock_offset_s == 0.0 or not (is_run(request) or is_state(request) or is_store_write(request)):
        return request.body
    return _shifted_body(request.body, request.clock_offset_s)


def result_in_worker_time(request: ApiRequest, result: ApiResult) -> ApiResult:
    """Return an answer as it is to be read by a task that compares its moments with the worker's clock.

    A sensor counts its timeout from when its task was first started or rescheduled.
    """
    asked = is_run(request) or is_first_reschedule(request)
    if request.clock_offset_s == 0.0 or result.status != HTTPStatus.OK or not asked:
        return result
    return replace(result, body=_shifted_body(result.body, -request.clock_offset_s))


def _shifted_body(body: bytes, seconds: float) -> bytes:
    try:
        document = json.loads(body)
    except ValueError:
        return body
    if isinstance(document, dict):
        document |= {name: _shifted(document[name], seconds) for name in _MOMENTS if name in document}
    else:
        document = _shifted(document, seconds)
    return json.dumps(document).encode()


def _shifted(value: Any, seconds: float) -> Any:
    """Return a moment so much later; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return (datetime.fromisoformat(value) + timedelta(seconds=seconds)).isoformat()
    except (ValueError, OverflowError):
        return value
