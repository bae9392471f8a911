"""One name, two machines: who keeps it, who gets it, and what becomes of the jobs."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.program.exit_codes import ExitCode
from edge_mqtt.broker_bridge.protocol.messages import Outcome
from tests.support.scenario_bad_links import BadLinkSite, log_path

#: Seconds that a task survives out of reach: much longer than it takes to notice that its worker is silent.
OFFLINE_GRACE_S = 20.0


@pytest.fixture
def site(tmp_path: Path) -> Iterator[BadLinkSite]:
    made = BadLinkSite(tmp_path, offline_grace_s=OFFLINE_GRACE_S)
    yield made
    made.close()


@pytest.fixture
def patient_site(tmp_path: Path) -> Iterator[BadLinkSite]:
    made = BadLinkSite(tmp_path)
    yield made
    made.close()


def test_a_second_machine_of_a_name_is_refused_in_one_line_and_the_first_is_undisturbed(
    site: BadLinkSite, tmp_path: Path
) -> None:
    first = site.start_worker("first")
    first.wait_line("connected to")
    hold = tmp_path / "hold"
    jobs = site.submit(2, hold=hold)
    site.wait(lambda: len(site.runs()) == 2, "the start")
    connections = site.links["worker"].connections
    second = site.start_worker("second", direct=True)
    assert second.process.wait(60) == ExitCode.NAME_IN_USE
    second.end()
    line = second.wait_line("another program is connected as worker:lab-1")
    assert "issue this machine a certificate with a name of its own" in line
    assert not second.said("Traceback")
    assert site.links["worker"].connections == connections
    assert first.said("connected to") == 1
    hold.touch()
    site.expect_exactly_once(jobs, first)


def test_a_new_machine_takes_the_name_of_one_that_fell_silent(site: BadLinkSite, tmp_path: Path) -> None:
    old = site.start_worker("old")
    old.wait_line("connected to")
    (orphan,) = site.submit(1, hold=tmp_path / "never")
    number = uuid.UUID(orphan).int
    site.wait(lambda: site.runs()[number] == 1, "the start")
    site.links["worker"].blackhole()
    new = site.start_worker("new", direct=True)
    new.wait_line("connected to")
    site.expect_exactly_once(site.submit(3), new)
    site.wait_ended([orphan])
    assert site.outcomes[orphan].outcome is Outcome.LOST
    # The old machine has stopped it before: a retry would not meet it.
    ours = (old.logs / log_path(orphan)).read_bytes()
    assert b"out of reach" in ours
    assert b" ends" not in ours
    # The old machine comes back into reach: it is not let in.
    site.links["worker"].restore()
    assert old.process.wait(60) == ExitCode.NAME_IN_USE
    assert site.ends[orphan] == 1
    assert site.runs()[number] == 1


def test_a_machine_that_gets_its_name_back_goes_on_with_its_task(patient_site: BadLinkSite, tmp_path: Path) -> None:
    site, hold = patient_site, tmp_path / "hold"
    old = site.start_worker("old")
    old.wait_line("connected to")
    (job,) = site.submit(1, hold=hold)
    site.wait(lambda: site.runs()[uuid.UUID(job).int] == 1, "the start")
    site.links["worker"].blackhole()
    new = site.start_worker("new", direct=True)
    new.wait_line("connected to")
    site.expect_exactly_once(site.submit(3), new)
    assert new.end() == ExitCode.DONE
    assert job not in site.outcomes
    site.links["worker"].restore()
    old.wait_line("connected to", 2)
    hold.touch()
    site.expect_exactly_once([job], old)
