"""Jobs whose log ends early, for tests of what the bridge writes in place of the rest."""

from __future__ import annotations

import json
from typing import Any

from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState
from edge_mqtt.broker_bridge.logs.completeness import OBSERVATION_S
from edge_mqtt.broker_bridge.protocol.ids import JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import LogSelector, TailReply, TailRequest
from tests.support.scenario_bridge_logs import PATH, Centre

#: The worker of the later jobs.
OTHER = WorkerName("v")
#: What is written in place of the rest of :func:`with_incomplete_log`.
MISSING = "the last 16 bytes of the log before this line are missing: worker w has not brought them"


def ended(base: int | None, size: int | None) -> dict[str, Any]:
    """Return what changes in a job's record when it ends."""
    return {"state": CentralJobState.FINISHED, "log_base": base, "log_size": size}


def lines_of(text: bytes) -> list[str]:
    """Return a log's lines; of our own ones, what they say."""
    return [json.loads(line)["event"] if line.startswith("{") else line for line in text.decode().splitlines()]


async def wait(centre: Centre, job_id: str, seconds: float, offset: int = 0, data: bytes = b"later\n") -> None:
    """Let time pass while a worker tries, again and again, to ship the beginning of a job's log."""
    until = centre.now + seconds
    while True:
        centre.ship(job_id, offset, data, OTHER)
        await centre.settled()
        if centre.now >= until:
            break
        centre.now = min(centre.now + OBSERVATION_S, until)


async def read(centre: Centre, position: int) -> TailReply:
    """Ask what an operator would from ``position`` on."""
    return await centre.tail.answer(
        TailRequest(request_id="q", selector=LogSelector(dag_id="d", run_id="r"), positions={PATH: position})
    )


async def with_incomplete_log(centre: Centre) -> None:
    """Let a job end of whose 20 bytes 4 are here, and another go on with its task on another worker."""
    centre.records.put("before", 1)
    await centre.shipped("before", 0, b"one\n")
    centre.records.change("before", **ended(0, 20))
    centre.records.put("after", 2, worker=OTHER)


async def write_notice(centre: Centre, job_id: str) -> None:
    """Have the line written that a job's log needs, if any."""
    centre.receiver.write_notice(JobId(job_id))
    await centre.settled()
