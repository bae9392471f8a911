"""The centre's log files grow without a gap, whatever order and repetition chunks come in."""

from __future__ import annotations

import os
import resource
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_mqtt.broker_bridge.logs.store import LogPathRefused, LogStore, Write
from edge_mqtt.broker_bridge.program.log_files import LogModes
from edge_mqtt.broker_bridge.protocol.ids import JobId

JOB = JobId("j")
PATH = "dag_id=d/run_id=r/task_id=t/attempt=1.log"


def write(offset: int, data: bytes, base: int = 0, job: JobId = JOB) -> Write:
    return Write(job_id=job, log_path=PATH, base=base, offset=offset, data=data)


def stored_by(store: LogStore, *writes: Write) -> dict[JobId, int]:
    appended = store.append(writes)
    assert appended.failed == {}
    return appended.stored


def test_a_file_that_cannot_be_written_holds_up_no_other(tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("a file where a folder should be")
    store = LogStore(tmp_path)
    bad = Write(job_id=JobId("bad"), log_path="blocked/attempt=1.log", base=0, offset=0, data=b"x")
    outside = Write(job_id=JobId("out"), log_path="../x.log", base=0, offset=0, data=b"x")
    appended = store.append([bad, outside, write(0, b"one\n")])
    assert appended.stored == {JOB: 4}
    assert set(appended.failed) == {"blocked/attempt=1.log", "../x.log"}


def test_of_what_does_not_fit_nothing_is_left(tmp_path: Path) -> None:
    store = LogStore(tmp_path)
    stored_by(store, write(0, b"one\n"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        assert set(store.append([write(4, b"two, which is long\n")]).failed) == {PATH}
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / PATH).read_bytes() == b"one\n"
    assert stored_by(store, write(4, b"two, which is long\n")) == {JOB: 23}


def test_bytes_are_stored_once_however_often_they_come(tmp_path: Path) -> None:
    store = LogStore(tmp_path)
    assert stored_by(store, write(0, b"one\n"), write(0, b"one\n"), write(2, b"e\ntwo\n")) == {JOB: 8}
    assert (tmp_path / PATH).read_bytes() == b"one\ntwo\n"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
@pytest.mark.parametrize(("folder", "file"), [(0o750, 0o640), (0o775, 0o664), (0o777, 0o666), (0o700, 0o600)])
def test_new_files_and_folders_have_the_modes_that_are_set_whatever_the_umask(
    tmp_path: Path, umask: int, folder: int, file: int
) -> None:
    before = os.umask(umask)
    try:
        store = LogStore(tmp_path / "deep" / "logs", modes=LogModes(folder=folder, file=file))
        store.check_writable()
        store.append([write(0, b"one\n")])
    finally:
        os.umask(before)
    made = {path.relative_to(tmp_path): stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert made.pop(Path("deep/logs", PATH)) == file
    assert len(made) == 5
    assert set(made.values()) == {folder}


def test_what_is_there_keeps_its_mode(tmp_path: Path) -> None:
    file = tmp_path / PATH
    file.parent.mkdir(parents=True, mode=0o711)
    file.touch(0o604)
    LogStore(tmp_path, modes=LogModes(folder=0o700, file=0o600)).append([write(0, b"one\n")])
    assert [stat.S_IMODE(path.stat().st_mode) for path in (file.parent, file)] == [0o711, 0o604]


def test_a_gap_is_not_stored_and_the_answer_says_where_to_go_on(tmp_path: Path) -> None:
    store = LogStore(tmp_path)
    store.append([write(0, b"one\n")])
    assert stored_by(store, write(8, b"three\n")) == {JOB: 4}
    assert store.size(PATH) == 4


def test_a_second_job_goes_on_where_the_first_ended(tmp_path: Path) -> None:
    store = LogStore(tmp_path)
    store.append([write(0, b"before deferral\n")])
    second = JobId("k")
    assert stored_by(store, write(0, b"after\n", base=16, job=second)) == {second: 6}
    assert store.read(PATH, 0, 100) == b"before deferral\nafter\n"


@given(st.binary(max_size=200), st.lists(st.tuples(st.integers(0, 220), st.integers(0, 60)), max_size=30))
@settings(max_examples=60)
def test_any_chunks_in_any_order_leave_a_prefix_of_the_worker_s_file(
    tmp_path_factory: pytest.TempPathFactory, whole: bytes, cuts: list[tuple[int, int]]
) -> None:
    store = LogStore(tmp_path_factory.mktemp("logs"))
    for start, length in cuts:
        stored = stored_by(store, write(start, whole[start : start + length]))
        assert stored[JOB] == store.size(PATH)
    content = store.read(PATH, 0, 1000)
    assert whole.startswith(content)
    store.append([write(len(content), whole[len(content) :])])
    assert store.read(PATH, 0, 1000) == whole


@pytest.mark.parametrize("path", ["a" * 256, f"d/{'検' * 86}/1.log"])
def test_a_name_that_is_too_long_is_refused_though_nothing_is_there(tmp_path: Path, path: str) -> None:
    with pytest.raises(LogPathRefused, match="too long"):
        LogStore(tmp_path).path(path)
    with pytest.raises(LogPathRefused, match="too long"):
        LogStore(tmp_path / "missing").path(path)
    assert LogStore(tmp_path).path(path.replace("aa", "a").replace("検検", "検"))


@pytest.mark.parametrize("path", ["", ".", "../x", "a/../../x", "/etc/passwd", "link/x"])
def test_a_path_that_leads_outside_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "link").symlink_to(tmp_path)
    with pytest.raises(LogPathRefused, match="outside"):
        LogStore(tmp_path / "logs").path(path)


def test_a_link_within_the_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real" / "alias.log").symlink_to("one.log")
    store = LogStore(tmp_path)
    assert {store.path(path) for path in ("link/one.log", "real/alias.log", "real/./one.log", "real/one.log")} == {
        tmp_path / "real" / "one.log"
    }


def test_a_link_that_comes_later_leads_nothing_outside(tmp_path: Path) -> None:
    store = LogStore(tmp_path / "logs")
    store.append([write(0, b"one\n")])
    file = store.path(PATH)
    file.parent.rename(tmp_path / "outside")
    file.parent.symlink_to(tmp_path / "outside")
    assert "leads outside" in store.append([write(4, b"two\n")]).failed[PATH]
    assert (tmp_path / "outside" / file.name).read_bytes() == b"one\n"


@pytest.mark.parametrize("path", ["loop", "loop/x", "first/x", "a/up", "a\0b"])
def test_a_path_that_leads_nowhere_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "first").symlink_to("second")
    (tmp_path / "second").symlink_to("first")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "up").symlink_to("../a/up")
    with pytest.raises(LogPathRefused, match="cannot be used"):
        LogStore(tmp_path).path(path)


def test_a_folder_that_is_a_link_loop_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="loop"):
        LogStore(tmp_path / "loop").check_writable()


def test_a_file_that_is_not_there_is_empty(tmp_path: Path) -> None:
    store = LogStore(tmp_path)
    assert (store.size(PATH), store.read(PATH, 0, 10)) == (0, b"")


@pytest.mark.parametrize("ending", [b"", b"\n"])
@pytest.mark.parametrize("lines", [0, 1, 2, 3, 20_000, 20_001])
def test_the_last_lines_are_found_across_blocks(tmp_path: Path, lines: int, ending: bytes) -> None:
    content = b"\n".join(b"line %d" % number for number in range(20_000)) + ending
    store = LogStore(tmp_path)
    store.append([write(0, content)])
    tail = content[store.offset_of_last_lines(PATH, lines) :]
    assert tail.splitlines() == content.splitlines()[max(0, 20_000 - lines) :] if lines else tail == b""
