"""Old versions of Dag bundles, which Airflow keeps on the disk of whoever runs tasks: deleted by its own rules.

Airflow's scheduler does it for the executors that run tasks beside it (``BundleUsageTrackingManager`` in
airflow/dag_processing/bundles/base.py). A version that a task uses is locked by it, and stays.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import psutil

from edge_mqtt.worker.system.oom import prefer_as_oom_victim

log = logging.getLogger(__name__)

#: Seconds from the start to the first look at most: a worker may be restarted more often than the interval is long.
FIRST_LOOK_S: Final = 60.0
#: The lowest priority (nice(2)).
LAST: Final = 19
_AIRFLOWS_LOGGER: Final = "airflow.dag_processing.bundles.base"


class CleanupTimer:
    """Tells when old versions are to be looked for.

    :param interval_s: seconds between two looks; 0 or less: never.
    :param clock: seconds that only ever grow.
    """

    def __init__(self, interval_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._next = clock() + min(interval_s, FIRST_LOOK_S)

    def wait_s(self) -> float | None:
        """Return the seconds until the next look; None when there is none."""
        return max(0.0, self._next - self._clock()) if self._interval_s > 0 else None

    def is_due(self) -> bool:
        """Tell whether it is time for a look; if so, the next one is an interval later."""
        if self.wait_s() != 0:
            return False
        self._next = self._clock() + self._interval_s
        return True


def has_versions() -> bool:
    """Tell whether a version of any bundle has been used on this machine."""
    from airflow.dag_processing.bundles.base import STALE_BUNDLE_TRACKING_FOLDER

    with contextlib.suppress(OSError):
        return any(STALE_BUNDLE_TRACKING_FOLDER.iterdir())
    return False


def delete_old_versions() -> None:
    """Delete what Airflow's settings let go of every bundle, and give way to everything else meanwhile."""
    from airflow.sdk.configuration import conf
    from setproctitle import setproctitle

    setproctitle("edge-worker: old bundle versions")
    prefer_as_oom_victim()
    os.nice(LAST)
    with contextlib.suppress(OSError, psutil.Error):
        psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)
    logging.getLogger(_AIRFLOWS_LOGGER).setLevel(logging.WARNING)
    for bundle in conf.getjson("dag_processor", "dag_bundle_config_list", fallback=[]):
        try:
            _delete_old_versions_of(bundle["name"], bundle["classpath"])
        except Exception as error:  # noqa: BLE001 -- the other bundles' are to be deleted all the same
            log.warning(
                "old versions of a Dag bundle stay: %s",
                error,
                extra={"action": "bundle_versions_kept", "bundle": bundle},
            )


def _delete_old_versions_of(name: str, classpath: str) -> None:
    from airflow.dag_processing.bundles.base import get_bundle_tracking_dir

    from edge_mqtt.worker.supervisor.airflow_internals import remove_stale_bundle_versions

    module, _, class_name = classpath.rpartition(".")
    if not getattr(importlib.import_module(module), class_name).supports_versioning:
        return
    folder = get_bundle_tracking_dir(name)
    before = _count(folder)
    remove_stale_bundle_versions(name)
    if deleted := before - _count(folder):
        log.info(
            "deleted %d old versions of Dag bundle %s",
            deleted,
            name,
            extra={"action": "bundle_versions_deleted", "bundle": name},
        )


def _count(folder: Path) -> int:
    with contextlib.suppress(OSError):
        return len(list(folder.iterdir()))
    return 0
