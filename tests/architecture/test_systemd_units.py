"""The units in deploy/systemd say what the documents say."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tests.support.other_users import RULE, TASKS, WORKER

ROOT = Path(__file__).parents[2]
SYSTEMD = ROOT / "deploy" / "systemd"


def settings(unit: str) -> list[str]:
    """Return what a unit sets."""
    lines = (line.strip() for line in (SYSTEMD / unit).read_text().splitlines())
    return [line for line in lines if line and not line.startswith(("#", "["))]


def certificates_of(command: str) -> str:
    words = shlex.split(command)
    return words[words.index("--certs") + 1]


def test_worker_s_paths_are_those_of_the_documents() -> None:
    (command,) = [line for line in settings("edge-worker.service") if line.startswith("ExecStart=")]
    # Where else the state lies would be another worker to the tasks that one started by hand has left.
    assert "--state-dir" not in command
    for page in ("README.md", "docs/worker.md"):
        (example,) = re.findall(r"^    (edge-worker --bridge .*)$", (ROOT / page).read_text(), re.MULTILINE)
        assert certificates_of(command) == certificates_of(example)
    homes = re.findall(r"export (AIRFLOW_HOME=\S*worker)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert homes
    assert all(f"Environment={home}" in settings("edge-worker.service") for home in homes)


def test_a_service_s_tasks_outlive_it_and_have_control_groups_of_their_own() -> None:
    assert {"KillMode=process", "Delegate=yes", "NoNewPrivileges=yes"} <= set(settings("edge-worker.service"))


def test_drop_in_for_other_users_allows_sudo_by_the_rule_of_the_documents_and_tests() -> None:
    name = "edge-worker.service.d/run-as-user.conf"
    assert {"NoNewPrivileges=no", "StateDirectoryMode=0755", "UMask=0022"} == set(settings(name))
    (rule,) = re.findall(r"^#   (edge-worker ALL=.*)$", (SYSTEMD / name).read_text(), re.MULTILINE)
    assert rule in (ROOT / "docs" / "worker.md").read_text()
    assert rule.replace("edge-worker", WORKER).replace("etl", TASKS) == RULE.strip()
    assert f"User={rule.split()[0]}" in settings("edge-worker.service")


def test_drop_in_of_the_scheduler_overrides_nothing_of_airflow_cfg() -> None:
    drop_in = settings("airflow-scheduler.service.d/edge-mqtt.conf")
    assert drop_in
    assert not [line for line in drop_in if "AIRFLOW__" in line]
