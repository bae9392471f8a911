"""What the launcher imports ahead of the tasks is decided by what they imported before."""

from __future__ import annotations

import gc
import json
import os
import random
import socket
import threading
from pathlib import Path

import pytest

from edge_mqtt.worker.core.imports import KEPT_S, MOST_MODULES, NEVER, Learned, Report, Trial
from edge_mqtt.worker.launcher.learned_trial import MOST_MEMORY, Footprint, room_kb

NOW = 1_800_000_000.0


def tasks_importing(*names: str, times: int = 2, own: tuple[str, ...] = ()) -> Learned:
    learned = Learned()
    for _ in range(times):
        learned.note(Report(installed=names, own=own), now=NOW)
    return learned


def test_module_of_a_single_task_is_not_wanted() -> None:
    learned = tasks_importing("requests", times=1)
    assert learned.wanted() == ()
    assert not learned.settled("requests")


def test_module_of_two_tasks_is_wanted_and_need_not_be_told_again() -> None:
    learned = tasks_importing("requests")
    assert learned.wanted() == ("requests",)
    assert learned.settled("requests")


def test_modules_are_wanted_in_the_order_in_which_tasks_imported_them() -> None:
    assert tasks_importing("requests", "requests.models", "imaplib").wanted() == (
        "requests",
        "requests.models",
        "imaplib",
    )


def test_refused_module_takes_what_is_inside_it_along_and_nothing_else() -> None:
    learned = tasks_importing("grpc", "grpc.aio", "grpcio")
    learned.refuse("grpc", "importing it changes: threads", now=NOW)
    assert learned.wanted() == ("grpcio",)
    assert learned.settled("grpc.aio.server")


def test_installed_module_that_a_dag_has_one_of_its_own_of_is_not_wanted() -> None:
    assert tasks_importing("common", own=("common",)).wanted() == ()


@pytest.mark.parametrize("name", NEVER)
def test_library_with_random_numbers_of_its_own_is_never_wanted(name: str) -> None:
    assert tasks_importing(name, f"{name}.random").wanted() == ()


def test_number_of_remembered_modules_is_bounded() -> None:
    learned = tasks_importing(*(f"m{number}" for number in range(MOST_MODULES + 1)))
    learned.refuse("one_more", "it fails", now=NOW)
    assert len(learned.wanted()) == MOST_MODULES
    assert not learned.settled("one_more")


def test_dropped_module_may_be_learned_anew() -> None:
    learned = tasks_importing("requests", "requests.models")
    learned.drop(["requests.models", "unheard_of"])
    assert learned.wanted() == ("requests",)
    assert not learned.settled("requests.models")


def test_what_was_learned_is_read_back_as_it_was() -> None:
    learned = tasks_importing("requests", "imaplib")
    learned.refuse("imaplib", "importing it fails: ImportError", now=NOW)
    again = Learned.from_json(learned.to_json(), now=NOW + KEPT_S - 1)
    assert again.to_json() == learned.to_json()
    assert again.wanted() == ("requests",)


@pytest.mark.parametrize("now", [NOW + KEPT_S, NOW - 1], ids=["old", "of the future"])
def test_what_was_learned_at_another_time_is_forgotten(now: float) -> None:
    assert Learned.from_json(tasks_importing("requests").to_json(), now=now).to_json() == b"{}"


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"7", b'{"x": 1}', b'{"x": {"seen": 2}}', b'{"x": {"seen": 2, "at": "then"}}', b"\xff"]
)
def test_damaged_file_is_no_more_than_nothing_learned(data: bytes) -> None:
    assert Learned.from_json(data, now=NOW).wanted() == ()


def test_report_is_read_back_without_what_cannot_be_a_module() -> None:
    report = Report(installed=("requests", "two words", "../x", "", "a.b\nc"), own=("helpers.x",))
    assert Report.from_json(report.to_json()) == Report(installed=("requests",), own=("helpers.x",))


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"installed": 1, "own": []}', b"\xff"])
def test_what_is_no_report_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- JSON's own errors are some, too
        Report.from_json(data)


def test_trial_without_harm_has_no_bad_module() -> None:
    lines = ["requests", "requests 900 ", "imaplib", "imaplib 80 "]
    assert Trial.from_lines(lines) == Trial(good=(("requests", 900), ("imaplib", 80)))


def test_trial_ends_at_the_module_that_does_harm() -> None:
    lines = ["requests", "requests 900 ", "grpc", "grpc 100 importing it changes: threads"]
    assert Trial.from_lines(lines) == Trial(
        good=(("requests", 900),), bad="grpc", reason="importing it changes: threads"
    )


def test_trial_that_was_killed_blames_the_module_that_it_was_at() -> None:
    trial = Trial.from_lines(["requests", "requests 900 ", "grpc"])
    assert (trial.good, trial.bad) == ((("requests", 900),), "grpc")
    assert trial.reason == "importing it did not come to an end"


def test_trial_that_came_to_nothing_blames_nobody() -> None:
    assert Trial.from_lines([]) == Trial()


# ---------------------------------------------------------------- what an import must not change


def test_footprint_of_a_process_that_does_nothing_stays_the_same() -> None:
    before = Footprint.of_this_process()
    assert before.changes(Footprint.of_this_process()) == ""


def test_footprint_tells_what_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    gc.collect()
    before = Footprint.of_this_process()
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    chance = random.Random(1)
    monkeypatch.setenv("LEFT_BY_AN_IMPORT", "1")
    with socket.socket():
        changes = before.changes(Footprint.of_this_process())
    over.set()
    thread.join()
    assert changes.split(", ") == ["threads", "open files", "environment", "random generators"]
    assert chance.random() < 1


def test_random_numbers_of_the_kernel_are_harmless() -> None:
    before = Footprint.of_this_process()
    generator = random.SystemRandom()
    assert before.changes(Footprint.of_this_process()) == ""
    assert generator.random() < 1


# ---------------------------------------------------------------- memory


def limited(tmp_path: Path, group: str, file: str, limits: dict[str, str]) -> int:
    cgroup = tmp_path / "cgroup"
    cgroup.write_text(f"{group}\n")
    for folder, limit in limits.items():
        (tmp_path / "fs" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / folder / file).write_text(f"{limit}\n")
    return room_kb(cgroup, tmp_path / "fs")


def test_control_groups_limit_bounds_what_is_imported_ahead(tmp_path: Path) -> None:
    limits = {"system.slice": str(256 * 2**20), "system.slice/edge": "max"}
    assert limited(tmp_path, "0::/system.slice/edge", "memory.max", limits) == 16 * 1024


def test_limit_of_an_old_control_group_counts_as_well(tmp_path: Path) -> None:
    limits = {"memory/edge": str(512 * 2**20)}
    assert limited(tmp_path, "3:cpu:/x\n4:memory:/edge", "memory.limit_in_bytes", limits) == 32 * 1024


def test_large_machine_gives_no_more_than_the_most(tmp_path: Path) -> None:
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert room_kb(tmp_path / "none", tmp_path) == min(MOST_MEMORY, machine // 16) // 1024


def test_file_is_plain_json() -> None:
    learned = json.loads(tasks_importing("requests").to_json())
    assert learned == {"requests": {"seen": 2, "at": NOW, "refused": ""}}
