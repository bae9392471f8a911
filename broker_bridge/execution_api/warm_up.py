"""The first call to the Execution API, made before a task has to wait for it.

Airflow 3.3 builds the Execution API's versions when the first request arrives, which takes some ten seconds of CPU.
Asking for its health once has that done before a task waits for it, and tells an operator whether it is there.
"""

from __future__ import annotations

import logging
from typing import Final

from edge_mqtt.broker_bridge.execution_api.client import ApiCall, ApiUnavailable, ExecutionApiClient
from edge_mqtt.broker_bridge.execution_api.retry import retry

log = logging.getLogger(__name__)

#: Seconds between attempts while the api-server is not there.
RETRY_S: Final = 2.0


async def warm_up(api: ExecutionApiClient, api_version: str) -> None:
    """Ask for the Execution API's health until it answers, and say so once."""
    call = ApiCall(method="GET", target="health", token="", headers={"airflow-api-version": api_version})
    failures = 0

    def report(error: Exception) -> None:
        nonlocal failures
        failures += 1
        if failures == 1:
            log.warning("waiting for the api-server: %s", error, extra={"action": "api_unavailable"})

    result = await retry(lambda: api.call(call), ApiUnavailable, wait_s=RETRY_S, on_failure=report)
    log.info("the Execution API answers", extra={"action": "api_available", "status": result.status})
