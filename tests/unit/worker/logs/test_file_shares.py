"""Every byte of a file that several jobs write is in one job's log, whoever ends first and when the worker dies."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId
from edge_mqtt.worker.logs.file_shares import FileShares
from edge_mqtt.worker.logs.log_file import LogFile
from edge_mqtt.worker.logs.shipped_log import ShippedLog


class Site:
    """A worker with jobs that write one file, and what its spool and the centre have of them."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "shared.log"
        self.path.write_bytes(b"")
        self.shares = FileShares()
        self.logs: dict[int, ShippedLog] = {}
        #: As the spool has it: base, and size once a job has ended.
        self.spool: dict[int, tuple[int, int | None]] = {}
        self.centre: dict[int, bytes] = {}
        self.launched = 0

    def write(self, _: int) -> None:
        """Let somebody write a line that no other is like."""
        with self.path.open("ab") as file:
            file.write(b"%d\n" % self.path.stat().st_size)

    def launch(self, _: int) -> None:
        """Launch the next job."""
        self.spool[self.launched] = (self.path.stat().st_size, None)
        self.centre.setdefault(self.launched, b"")
        self.follow(self.launched)
        self.launched += 1

    def follow(self, number: int) -> None:
        base, size = self.spool[number]
        shipped = ShippedLog(
            job_id=JobId(str(number)),
            file=LogFile(self.path),
            fence=Fence(1),
            base=base,
            launch=f"{number:03}",
            final_size=size,
            has_ended=size is not None,
        )
        shipped.cursor.resume_at(len(self.centre[number]))
        shipped.stored = shipped.cursor.acked
        self.logs[number] = shipped
        self.shares.join(shipped)

    def ship(self, number: int) -> None:
        """Ship what there is of a log."""
        shipped = self.logs.get(number)
        if shipped is None or shipped.rides:
            return
        shipped.seen = shipped.size()
        data = shipped.read(shipped.seen - shipped.cursor.sent)
        shipped.cursor.record_sent(len(data), 0.0)
        self.centre[number] += data
        shipped.cursor.record_ack(shipped.cursor.sent, 0.0)
        shipped.stored = shipped.cursor.acked

    def end(self, number: int) -> None:
        """Let a job end."""
        shipped = self.logs.get(number)
        if shipped is None or shipped.has_ended:
            return
        if not shipped.rides:
            shipped.seen = shipped.size()
        shipped.finish()
        self.spool[number] = (shipped.base, shipped.seen)
        shipped.has_ended = True
        self.shares.end(shipped)

    def forget(self, number: int) -> None:
        """Forget a job of which the centre has everything."""
        shipped = self.logs.get(number)
        if shipped is None or not (shipped.is_shipped and self.shares.is_passed(shipped)):
            return
        successor = self.shares.find_successor(shipped)
        if successor is not None:
            self.spool[int(successor.job_id)] = (successor.base, None)
        del self.spool[number], self.logs[number]
        self.shares.leave(shipped)

    def restart(self, first: int) -> None:
        """Kill the worker and start it again, which finds its jobs in any order."""
        for shipped in self.logs.values():
            shipped.file.close()
        self.shares, self.logs = FileShares(), {}
        for number in sorted(self.spool, key=lambda number: (number != first, -number)):
            self.follow(number)


STEPS = st.lists(
    st.tuples(st.sampled_from(["write", "launch", "ship", "ship", "end", "forget", "restart"]), st.integers(0, 4)),
    max_size=40,
)


@given(STEPS)
def test_every_byte_is_in_one_log_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    site = Site(tmp_path_factory.mktemp("site"))
    site.launch(0)
    for name, number in steps:
        if name != "write" or any(not log.has_ended for log in site.logs.values()):
            getattr(site, name)(number)
    for number in range(site.launched):
        site.end(number)
    for number in range(site.launched):
        site.ship(number)
    for number in range(site.launched):
        site.forget(number)
    lines = b"".join(site.centre.values()).splitlines()
    assert sorted(lines) == sorted(site.path.read_bytes().splitlines())
    assert site.logs == {}


def test_a_log_that_is_dropped_leaves_what_the_centre_lacks_of_it_to_the_next(tmp_path: Path) -> None:
    site = Site(tmp_path)
    for number in (0, 1):
        site.launch(number)
    site.write(0)
    site.ship(0)
    site.write(0)
    dropped = site.logs.pop(0)
    site.shares.leave(dropped)
    site.ship(1)
    assert site.centre == {0: b"0\n", 1: b"2\n"}


def test_a_job_that_has_ended_waits_for_what_another_s_log_still_has_to_bring(tmp_path: Path) -> None:
    site = Site(tmp_path)
    for number in (0, 1):
        site.launch(number)
    site.write(0)
    site.end(1)
    site.forget(1)
    assert 1 in site.logs
    site.ship(0)
    site.write(0)
    site.forget(1)
    assert 1 not in site.logs


def test_what_the_centre_does_not_want_of_a_dropped_log_is_shipped_with_the_next(tmp_path: Path) -> None:
    site = Site(tmp_path)
    for number in (0, 1):
        site.launch(number)
    site.write(0)
    dropped = site.logs.pop(0)
    dropped.seen = dropped.size()
    dropped.cursor.record_sent(dropped.seen, 0.0)
    # Acknowledged, for nothing of it will be stored.
    dropped.cursor.record_ack(dropped.cursor.sent, 0.0)
    dropped.is_only_copy = True
    site.shares.leave(dropped)
    site.ship(1)
    assert site.centre[1] == b"0\n"


def test_a_file_is_copied_when_the_centre_has_all_of_it_and_nobody_writes_it_any_more(tmp_path: Path) -> None:
    site = Site(tmp_path)
    for number in (0, 1, 2):
        site.launch(number)
    site.write(0)
    # Given back before it began: what it would have written is nobody's loss.
    site.shares.leave(site.logs.pop(2))
    site.end(1)
    site.end(0)
    assert not site.shares.is_copied(site.logs[0])
    site.ship(0)
    site.forget(1)
    assert site.shares.is_copied(site.logs[0])
    site.write(0)
    assert not site.shares.is_copied(site.logs[0])


def test_a_file_with_something_that_the_centre_never_got_is_no_copy(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.launch(0)
    site.write(0)
    dropped = site.logs.pop(0)
    dropped.seen = dropped.size()
    site.shares.leave(dropped)
    site.launch(1)
    site.end(1)
    site.ship(1)
    assert site.logs[1].is_shipped
    assert not site.shares.is_copied(site.logs[1])
