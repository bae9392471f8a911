"""What the shared systems of this folder are: their names and their settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from deploy.quickstart.airflow_homes import Config, merged
from deploy.quickstart.stack import Stack
from tests.support.bad_link import BadLink
from tests.support.stacks import QUICK

#: A worker on a link that can be made bad, and one whose link is good.
FAR, NEAR = "edge-1", "edge-2"
#: The queues of the Dags' tasks that both workers serve: an ordinary one, one whose tasks survive short outages only,
#: and one whose logs stay on the worker.
QUEUE, BRIEF, KEPT = "far", "brief", "kept"
#: One that nobody serves until a test's worker does.
NOWHERE = "nowhere"
#: Every Dag of this folder.
DAG_IDS = (
    *("e2e_hold", "e2e_hold_nowhere", "e2e_hold_brief", "e2e_hold_kept", "e2e_hold_pooled"),
    *("e2e_large_xcom", "e2e_flood"),
)

# ---------------------------------------------------------------- the hurried system: hours elsewhere, seconds here

#: Seconds that a token lives, and after which Airflow gives up a task without heartbeats.
TOKEN_S = 20
HEARTBEAT_TIMEOUT_S = 12
#: Seconds after which Airflow takes a task back that is still queued.
QUEUED_TIMEOUT_S = 15
#: Seconds between MQTT pings; a name in use is asked for again during twice as many.
KEEP_ALIVE_S = 6
KILL_GRACE_S = 3
#: Seconds that a task survives without its worker: longer than every outage but those that are meant to be too long.
LONG_GRACE_S = 150
SHORT_GRACE_S = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What a system is started with."""

    config: Config
    environment: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class System:
    """A running system and the links in it that can be made bad."""

    stack: Stack
    far_link: BadLink
    executors_link: BadLink

    def is_connected(self) -> bool:
        """Tell whether the far worker and the scheduler have a connection."""
        return self.far_link.open_connections > 0 and self.executors_link.open_connections > 0

    def mend(self) -> None:
        """Make every link good."""
        for link in (self.far_link, self.executors_link):
            link.restore()

    def revive(self) -> None:
        """Start what is dead again: a test that failed half-way must not fail those after it."""
        for name, part in self.stack.services.items():
            if not part.alive:
                self.stack.restart(name)


_HURRIED = Settings(
    config=merged(
        QUICK,
        {
            "execution_api": {"jwt_expiration_time": str(TOKEN_S)},
            "scheduler": {
                "task_instance_heartbeat_timeout": str(HEARTBEAT_TIMEOUT_S),
                "task_instance_heartbeat_timeout_detection_interval": "2",
                "task_queued_timeout": str(QUEUED_TIMEOUT_S),
                "task_queued_timeout_check_interval": "2",
                # By default the third time fails the task; on a slow machine others wait, too.
                "num_stuck_in_queued_retries": "10",
            },
            "edge_mqtt": {
                "offline_grace": str(LONG_GRACE_S),
                "queue_offline_grace": f"{BRIEF}={SHORT_GRACE_S}",
                "kill_grace": str(KILL_GRACE_S),
                "presence_interval": "3",
                "heartbeat_interval": "2",
            },
        },
    ),
    environment={
        "AIRFLOW__EDGE_MQTT__KEEP_ALIVE": str(KEEP_ALIVE_S),
        # A worker waits for the silent supervisor of a task for this long, and a minute.
        "AIRFLOW__CORE__TASK_SUCCESS_OVERTIME": "3",
    },
)
_ORDINARY = Settings(config=merged(QUICK, {"edge_mqtt": {"queues_keeping_logs": KEPT}}), environment={})

#: Marks for modules: run on the system whose times are as they are when nobody sets them,
ordinary = pytest.mark.parametrize("system", [_ORDINARY], ids=["ordinary"], indirect=True, scope="session")
#: or on the one in which everything that takes long happens sooner.
hurried = pytest.mark.parametrize("system", [_HURRIED], ids=["hurried"], indirect=True, scope="session")
