"""What a task needs, imported once in the launcher, so that starting one costs a fork and not seconds of imports.

Everything here is optional but Airflow itself: a module that this Airflow does not have is left out.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import logging
from typing import Final

from edge_mqtt.worker.api_client import BASE_URL

log = logging.getLogger(__name__)

_NEEDED: Final = (
    "airflow.sdk.execution_time.supervisor",
    "airflow.sdk.execution_time.task_runner",
)
_USEFUL: Final = (
    "airflow.sdk",
    "airflow.sdk._shared.logging.factory",
    "airflow.sdk._shared.logging.remote",
    "airflow.sdk.execution_time.callback_supervisor",
    "airflow.sdk.execution_time.connection_test_supervisor",
    "airflow.sdk.execution_time.secrets",
    "airflow.sdk.execution_time.secrets.execution_api",
    "airflow.sdk.execution_time.timeout",
    "airflow.sdk.definitions.connection",
    "airflow.sdk.definitions.variable",
    "airflow.sdk.serde",
    "airflow.dag_processing.dagbag",
    "airflow.dag_processing.bundles.manager",
    "airflow.dag_processing.bundles.local",
    "airflow.secrets.environment_variables",
    "airflow.serialization.serialized_objects",
    "airflow.providers.standard.operators.bash",
    "airflow.providers.standard.operators.empty",
    "airflow.providers.standard.operators.python",
    "airflow.providers.standard.decorators.bash",
    "airflow.providers.standard.decorators.python",
    "airflow.providers.standard.sensors.date_time",
    "airflow.providers.standard.sensors.time_delta",
    "jinja2.ext",
    "edge_mqtt.worker.supervisor_main",
)


def preload() -> None:
    """Import it all and take it out of the garbage collector's sight, so that forks go on sharing its memory."""
    gc.disable()
    for name in _NEEDED:
        importlib.import_module(name)
    for name in _USEFUL:
        try:
            importlib.import_module(name)
        except ImportError:
            log.debug("not preloaded", extra={"action": "preload_skipped", "module_name": name})
    _fill_caches()
    gc.collect()
    gc.freeze()


def _fill_caches() -> None:
    """Do now what each task would otherwise do first."""
    from airflow.sdk.api.client import Client, get_hostname
    from airflow.sdk.execution_time.coordinator import get_coordinator_manager
    from airflow.sdk.execution_time.schema import get_schema_version_migrator
    from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime

    Client(base_url=BASE_URL, token="").close()  # Loads the machine's certificate authorities, once.
    get_hostname()  # type: ignore[no-untyped-call]
    get_schema_version_migrator()
    get_coordinator_manager()
    runtime = ProvidersManagerTaskRuntime()  # type: ignore[no-untyped-call]
    runtime.initialize_providers_taskflow_decorator()
