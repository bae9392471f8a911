"""The bridge's own calls of the Execution API are in a version that this Airflow serves and its tasks speak."""

from __future__ import annotations

import pytest

from edge_mqtt.broker_bridge.execution_api.client import API_VERSION


@pytest.mark.filterwarnings("ignore:Using `httpx`")  # Of what Airflow's api-server is made with.
def test_the_api_server_serves_it() -> None:
    from airflow.api_fastapi.execution_api.versions import bundle

    assert API_VERSION in {str(version.value) for version in bundle.versions}


def test_the_tasks_speak_it_too_so_that_the_server_has_built_it_before_they_wait_for_it() -> None:
    from airflow.sdk.api.datamodels._generated import API_VERSION as THE_TASKS

    assert API_VERSION == THE_TASKS
