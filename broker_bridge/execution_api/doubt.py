"""Whether Airflow has carried out a call that it did not answer: decided by what is known, without asking anybody.

A call is in doubt when it was sent to Airflow and no answer came. One that never left, or that a proxy or a busy
server turned away, is not: whatever Airflow answers when it is made again is its answer. Of a call in doubt, its
refusal can mean that it was carried out (routes in airflow's ``api_fastapi/execution_api/routes``): here it is looked
at whether it does. What is not certain is not taken for a success: then Airflow's answer is handed on, as Airflow's
own client would get it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final

from edge_mqtt.broker_bridge.execution_api.client import ApiResult
from edge_mqtt.broker_bridge.execution_api.endpoints import is_connection_test, is_state
from edge_mqtt.broker_bridge.protocol.messages import ApiRequest

#: What a run is before it is made, and when Airflow did not say.
ABSENT: Final = "absent"
UNKNOWN: Final = "unknown"
#: How Airflow calls a run that a task has triggered (``DagRunType.OPERATOR_TRIGGERED``).
OPERATOR_TRIGGERED: Final = "operator_triggered"
#: States that a task instance leaves again under the same id; it gets another one with every try.
_ON_THE_WAY: Final = frozenset({"deferred", "awaiting_input", "up_for_reschedule"})
#: Airflow's for a task instance that was cleared while it ran. It has taken no state of that run.
_RESTARTING: Final = "restarting"


@dataclass(frozen=True, kw_only=True, slots=True)
class ForwardedCall:
    """What is stored of a call that makes or clears a Dag run before it is forwarded."""

    request_id: str
    #: What the run was then: :data:`ABSENT`, :data:`UNKNOWN`, or how often it had been cleared.
    before: str

    def to_text(self) -> str:
        """Return it as the ledger has it."""
        return f"{self.before} {self.request_id}"

    @classmethod
    def parse(cls, text: str | None) -> ForwardedCall | None:
        """Return what the ledger has; None for nothing."""
        before, _, request_id = (text or "").partition(" ")
        return cls(request_id=request_id, before=before) if request_id else None


def describe_run(result: ApiResult) -> str:
    """Return what a run is by Airflow's answer to the question for it, as in :attr:`ForwardedCall.before`."""
    if result.status == HTTPStatus.NOT_FOUND:
        return ABSENT
    cleared = _document(result.body).get("clear_number")
    return str(cleared) if result.status == HTTPStatus.OK and isinstance(cleared, int) else UNKNOWN


def was_cleared(before: str, now: ApiResult) -> bool:
    """Tell whether a run was cleared since.

    :param before: what it was before the call was forwarded.
    :param now: Airflow's answer to the question for the run.
    """
    after = describe_run(now)
    return before.isdecimal() and after.isdecimal() and int(after) > int(before)


def was_triggered(before: str, payload: bytes, now: ApiResult) -> bool:
    """Tell whether a run was made by the call that was to trigger it.

    It was not there before the call, it was made by a task, and it has what the call asked for.

    :param before: what the run was before the call was forwarded.
    :param payload: the call's body (``TriggerDAGRunPayload``).
    :param now: Airflow's answer to the question for the run.
    """
    if before != ABSENT or now.status != HTTPStatus.OK:
        return False
    asked, run = _document(payload), _document(now.body)
    return (
        run.get("run_type") == OPERATOR_TRIGGERED
        and (run.get("conf") or {}) == (asked.get("conf") or {})
        and run.get("partition_key") == asked.get("partition_key")
        and _moment(run.get("logical_date")) == _moment(asked.get("logical_date"))
        and ("run_after" not in asked or _moment(run.get("run_after")) == _moment(asked["run_after"]))
    )


def means_success(request: ApiRequest, result: ApiResult) -> bool:
    """Tell whether Airflow's refusal of a call in doubt says by itself that the call was carried out."""
    asked, refusal = _document(request.body), _detail(result.body)
    if is_state(request):
        return _has_taken(asked.get("state"), result.status, refusal.get("previous_state"))
    if is_connection_test(request) and result.status == HTTPStatus.CONFLICT:
        # "… is already in terminal state: success": ours, or another's.
        said, told = str(refusal.get("message")).rpartition(":")[2], str(asked.get("state"))
        return re.search(rf"\b{re.escape(told)}\b", said, re.IGNORECASE) is not None
    return False


def _has_taken(told: object, status: int, state: object) -> bool:
    """Tell whether a task instance that is in ``state`` now had taken the one that it was told.

    Told the same one again Airflow says yes by itself.
    """
    if status == HTTPStatus.NOT_FOUND:
        # It has another id by now: a retry was planned, or somebody cleared it when it had ended.
        return True
    return status == HTTPStatus.CONFLICT and told in _ON_THE_WAY and state != _RESTARTING


def _document(body: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _detail(body: bytes) -> Mapping[str, Any]:
    detail = _document(body).get("detail")
    return detail if isinstance(detail, dict) else {}


def _moment(value: object) -> datetime | str | None:
    """Return a moment however it is written; anything else as it is."""
    if not isinstance(value, str):
        return None
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        return value
