"""What tasks tell Airflow of their end, noted for their executors: what the end of a job means follows from it.

A word after which the task goes on as another job (it is deferred, say) is stored before Airflow hears it: from then
on the end of this job must not be taken for the task's, whatever is lost or killed. A final word need not be waited
for: once Airflow has it, no news of the job changes it.
"""

from __future__ import annotations

import json
import re
from typing import Final

from edge_mqtt.broker_bridge.dispatch.core.events import TaskTold
from edge_mqtt.broker_bridge.dispatch.ledger.interface import LedgerError
from edge_mqtt.broker_bridge.execution_api.interface import EventSink
from edge_mqtt.broker_bridge.execution_api.retry import retry
from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import ApiRequest

#: Airflow's final states that a task may tell (``TerminalTIState``).
FINAL: Final = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
#: What names of states look like.
_STATE_NAME: Final = re.compile(r"[a-z_]{1,40}")


class LastWords:
    """Notes what is told with the ``state`` calls of jobs.

    :param wait_s: seconds between attempts while the ledger is away.
    """

    def __init__(self, dispatch: EventSink, *, wait_s: float) -> None:
        self._dispatch = dispatch
        self._wait_s = wait_s

    async def note(self, request: ApiRequest) -> None:
        """Note what a ``state`` call tells, before it is passed on."""
        state = told_state(request.body)
        word = TaskTold(job_id=request.job_id, state=state)
        if state in FINAL:
            self._dispatch.post(word)
        elif state:
            await retry(lambda: self._dispatch.commit(word), LedgerError, wait_s=self._wait_s)

    def take_back(self, job_id: JobId) -> None:
        """Note that Airflow has refused what the job told last."""
        self._dispatch.post(TaskTold(job_id=job_id, state=""))


def told_state(body: bytes) -> str:
    """Return the state in the body of a ``state`` call; empty when there is none."""
    try:
        state = json.loads(body)["state"]
    except (ValueError, KeyError, TypeError):
        return ""
    return state if isinstance(state, str) and _STATE_NAME.fullmatch(state) else ""
