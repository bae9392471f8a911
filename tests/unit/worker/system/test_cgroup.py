"""Control groups of runs: where there may be any, and what they reach."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_mqtt.worker.system import cgroup
from edge_mqtt.worker.system.cgroup import RunCgroup, find_delegated, remove_empty_cgroups


def machine(tmp_path: Path, *, kind: str = "cgroup2", line: str = "0::/system.slice/edge-worker.service") -> Path:
    """Make a machine's files; return the service's group."""
    group = tmp_path / "mounted" / "system.slice" / "edge-worker.service"
    group.mkdir(parents=True)
    (group / "cgroup.procs").touch()
    (tmp_path / "mounts").write_text(f"proc /proc proc rw 0 0\nnone {tmp_path / 'mounted'} {kind} rw 0 0\n")
    (tmp_path / "cgroup").write_text(f"12:cpu:/\n{line}\n")
    return group


def found(tmp_path: Path) -> Path | None:
    return find_delegated(tmp_path / "mounts", tmp_path / "cgroup")


def test_group_of_a_unit_that_delegates_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = machine(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert found(tmp_path) == group


def test_superuser_s_group_is_ours_when_systemd_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = machine(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert found(tmp_path) is None
    monkeypatch.setattr(os, "getxattr", lambda _path, name: b"1" if name == "trusted.delegate" else b"0")
    assert found(tmp_path) == group


def test_group_that_cannot_be_written_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert found(tmp_path) is None


@pytest.mark.parametrize("differs", [{"kind": "cgroup"}, {"line": "1:name=systemd:/"}])
def test_machine_without_the_unified_hierarchy_has_none(tmp_path: Path, differs: dict[str, str]) -> None:
    machine(tmp_path, **differs)
    assert found(tmp_path) is None


def test_machine_that_says_nothing_has_none(tmp_path: Path) -> None:
    assert found(tmp_path) is None


def test_a_run_without_a_group_does_without() -> None:
    group = RunCgroup(None)
    group.create()
    group.join()
    group.kill()
    group.remove()
    assert group.pids() == []


def test_a_run_s_group_is_made_joined_killed_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "delegated_cgroup", lambda: tmp_path)
    group = RunCgroup.of("a.1")
    group.create()
    group.create()
    folder = tmp_path / "run-a.1"
    for name in ("cgroup.procs", "cgroup.kill"):
        (folder / name).touch()
    group.join()
    group.kill()
    assert (folder / "cgroup.procs").read_text() == "0"
    assert (folder / "cgroup.kill").read_text() == "1"
    assert group.pids() == [0]
    remove_empty_cgroups()
    assert folder.exists()
    for path in folder.iterdir():
        path.unlink()
    remove_empty_cgroups()
    assert not folder.exists()
    assert group.pids() == []
