"""A client of the bridge as the executor has one, for its tests: jobs to hand it, and waits for what it says."""

from __future__ import annotations

import time
from collections.abc import Callable

from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import JobSpec, Submit, WorkloadType
from edge_mqtt.executor.bridge_client import BridgeClient, BridgeClientTiming
from edge_mqtt.executor.outbox import Adoption, News
from tests.support.fake_bridge import PATIENCE_S, TwinBridge, new_job_id

#: Repeats come fast enough for a test to wait for them, slowly enough not to come where none is expected.
SOON = BridgeClientTiming(resend_s=0.05, resend_at_most_s=0.1, reconnect_s=0.05)
NEVER = BridgeClientTiming(resend_s=3600, resend_at_most_s=3600, reconnect_s=3600)
#: What a bridge says that knows every job.
KNOWN = Adoption(frozenset(), frozenset())

MakeLink = Callable[..., BridgeClient]


def a_job(job_id: JobId | None = None, queue: str = "press/1") -> JobSpec:
    """Return a task's job."""
    return JobSpec(job_id=job_id or new_job_id(), type=WorkloadType.TASK, queue=queue)


def wait_until(condition: Callable[[], object]) -> None:
    """Wait for what shows only in the client's own state: look often, with a limit."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.002)


def news_of(link: BridgeClient, count: int) -> list[News]:
    """Wait for at least ``count`` news and return them."""
    found: list[News] = []

    def have_come() -> bool:
        found.extend(link.read_news())
        return len(found) >= count

    wait_until(have_come)
    return found


def accepted_job(link: BridgeClient, bridge: TwinBridge) -> JobId:
    """Submit a job and wait until the bridge has it."""
    job = a_job()
    link.submit(job, "t")
    bridge.expect(Submit)
    assert link.flush(timeout_s=PATIENCE_S)
    return job.job_id
