"""OpenTelemetry, which Airflow starts when it is loaded: eight threads, where the launcher must have one.

A task starts what it sends with by itself; the launcher has loaded it.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Final

log = logging.getLogger(__name__)

_STARTING_THREADS: Final = ("AIRFLOW__TRACES__OTEL_ON", "AIRFLOW__METRICS__OTEL_ON")


@contextlib.contextmanager
def telemetry_off() -> Iterator[None]:
    """Let Airflow be loaded as if OpenTelemetry were off."""
    kept = {name: os.environ.get(name) for name in _STARTING_THREADS}
    os.environ.update(dict.fromkeys(kept, "False"))
    try:
        yield
    finally:
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def load_exporters() -> None:
    """Load what tasks send traces and metrics with, if they do."""
    from airflow.sdk.configuration import conf

    try:
        if conf.getboolean("traces", "otel_on", fallback=False):
            # As Airflow chooses it (airflow._shared.observability.traces).
            wanted = os.environ.get("OTEL_TRACES_EXPORTER", "otlp")
            for exporter in entry_points(group="opentelemetry_traces_exporter", name=wanted):
                exporter.load()
        if conf.getboolean("metrics", "otel_on", fallback=False):
            importlib.import_module("airflow.sdk._shared.observability.metrics.otel_logger")
    except (ImportError, ValueError, AttributeError) as error:
        log.debug("not preloaded: %s", error, extra={"action": "preload_skipped", "module_name": "telemetry"})
