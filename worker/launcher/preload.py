"""What a task needs, imported once in the launcher, so that starting one costs a fork and not seconds of imports.

Everything here is optional but Airflow itself: a module that this Airflow does not have is left out.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import linecache
import logging
import sys
from typing import Final

from edge_mqtt.broker_bridge.program.settings.sources import Snapshot
from edge_mqtt.worker.launcher.hidden_modules import hide_modules
from edge_mqtt.worker.launcher.large_pages import use_large_pages
from edge_mqtt.worker.launcher.logging_shortcut import SHORTCUT
from edge_mqtt.worker.launcher.settings import settle_settings
from edge_mqtt.worker.launcher.telemetry import load_exporters, telemetry_off

log = logging.getLogger(__name__)

_NEEDED: Final = (
    "airflow.sdk.execution_time.supervisor",
    "airflow.sdk.execution_time.task_runner",
)
_USEFUL: Final = (
    "airflow.sdk",
    "airflow.sdk.definitions.asset.metadata",
    "airflow.sdk.definitions.decorators",
    "airflow.version",
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
    # Of what a task sends traces and metrics with; without threads until it is used.
    "airflow._shared.observability.traces",
    "encodings.ascii",
    "jinja2.ext",
    "edge_mqtt.worker.supervisor.airflow_internals",
    "edge_mqtt.worker.supervisor.main",
)


def preload_airflow() -> Snapshot:
    """Import it all and take it out of the garbage collector's sight, so that forks go on sharing its memory.

    :return: the settings that the worker goes by.
    :raises SettingError: one of them cannot be read.
    """
    # Never collected: what is freed leaves holes, which every process that is forked would fill one by one, and each
    # would take a page of its own for it.
    gc.disable()
    with telemetry_off():
        _load_without_rich()
        _load("airflow.sdk.configuration")
        settings = settle_settings()
        _load_airflow()
    load_exporters()
    _fill_caches()
    _let_go_of_database()
    _configure_logging()
    _warm_up()
    gc.freeze()
    use_large_pages()
    return settings


def _load_without_rich() -> None:
    # They would load rich and Pygments, for a command line and for tracebacks in colour: no task has a terminal.
    with hide_modules("rich", "httpx._main"):
        for name in ("httpx", "structlog.dev", "structlog.tracebacks"):
            _load(name)


def _load_airflow() -> None:
    for name in _NEEDED:
        _load(name)
    for name in _USEFUL:
        try:
            _load(name)
        except ImportError:
            log.debug("not preloaded", extra={"action": "preload_skipped", "module_name": name})


def _load(name: str) -> None:
    importlib.import_module(name)
    # Airflow notes where it was imported from, for which the sources of all that took part are read and kept: 2 MB.
    linecache.clearcache()


def _warm_up() -> None:
    from edge_mqtt.worker.launcher.warm_up import warm_up_caches

    warm_up_caches()


def _fill_caches() -> None:
    """Do now what each task would otherwise do first."""
    from airflow.sdk.api.client import get_hostname
    from airflow.sdk.execution_time.coordinator import get_coordinator_manager
    from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime

    get_hostname()
    get_coordinator_manager()
    runtime = ProvidersManagerTaskRuntime()
    runtime.initialize_providers_taskflow_decorator()


def _let_go_of_database() -> None:
    """Forget the database that tasks may not use anyway: Airflow forgets it anew in every process that is forked."""
    from airflow.settings import dispose_orm

    dispose_orm()


def _configure_logging() -> None:
    """Let what a supervisor logs on its own behalf go to its standard output, which becomes a file.

    Before anything that uses a logger: each is made once, as configured then.
    """
    from airflow.sdk.log import configure_logging, reset_logging

    hook = sys.excepthook
    # Twice: what it imports finds everything as it is without us.
    for looking_on in (contextlib.nullcontext(), SHORTCUT.recorded()):
        reset_logging()
        with looking_on:
            configure_logging(json_output=True, output=sys.stdout.buffer)
    sys.excepthook = hook  # The launcher's own end is told in plain words.
