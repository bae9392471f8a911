"""Every fault of a link, between worker and bridge and between executor and bridge: all arrives, nothing twice."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.support.scenario_bad_links import BadLinkSite, WorkerProcess

JOBS = 6


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BadLinkSite]:
    made = BadLinkSite(tmp_path_factory.mktemp("site"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def worker(site: BadLinkSite) -> WorkerProcess:
    started = site.start_worker("machine")
    started.wait_line("connected to")
    return started


@pytest.fixture(autouse=True)
def good_links(site: BadLinkSite) -> Iterator[None]:
    yield
    for link in site.links.values():
        link.delay_s = link.jitter_s = 0.0
        link.bytes_per_s = None
        link.restore()


def each(site: BadLinkSite, act: Callable[[str], None]) -> None:
    for name in site.links:
        act(name)


@dataclass(frozen=True)
class Outage:
    """What happens to both links, and how it is seen that it has had its effect."""

    begin: Callable[[BadLinkSite, str], None]
    is_felt: Callable[[BadLinkSite, str], bool]


def is_noticed(site: BadLinkSite, name: str) -> bool:
    """Both sides have given the connection up."""
    return site.links[name].open_connections == 0


OUTAGES = {
    "cut": Outage(lambda site, name: site.links[name].cut(), is_noticed),
    "black hole": Outage(lambda site, name: site.links[name].blackhole(), lambda site, _: broker_has_nobody(site)),
    "half open, nothing up": Outage(
        lambda site, name: site.links[name].blackhole(down=False), lambda site, _: broker_has_nobody(site)
    ),
    "half open, nothing down": Outage(
        lambda site, name: site.links[name].blackhole(up=False), lambda site, _: broker_has_nobody(site)
    ),
}


def broker_has_nobody(site: BadLinkSite) -> bool:
    log = site.bridge_log
    return log.count(" disconnected") >= log.count(" connected from")


@pytest.mark.parametrize("name", OUTAGES)
def test_an_outage_delays_everything_and_loses_nothing(site: BadLinkSite, worker: WorkerProcess, name: str) -> None:
    outage = OUTAGES[name]
    jobs = site.submit(JOBS)
    site.wait_ended(jobs[:1])
    each(site, lambda link: outage.begin(site, link))
    jobs += site.submit(JOBS)
    site.wait(lambda: all(outage.is_felt(site, link) for link in site.links), "the outage")
    each(site, lambda link: site.links[link].restore())
    site.expect_exactly_once(jobs, worker)


def test_resets_in_mid_frame_lose_nothing(site: BadLinkSite, worker: WorkerProcess) -> None:
    chance = random.Random(1)
    jobs = []
    for _ in range(4):
        resets = {name: link.connections for name, link in site.links.items()}
        each(site, lambda name: site.links[name].reset_after(chance.randrange(50, 3000), up=chance.random() < 0.5))
        while any(link.connections == resets[name] for name, link in site.links.items()):
            # How many bytes a job sends each way depends on what travels together: as many jobs as it takes.
            jobs += site.submit(2)
            site.wait_ended(jobs[-2:])
    each(site, lambda link: site.links[link].restore())
    site.expect_exactly_once(jobs, worker)


def test_a_link_that_only_refuses_newcomers_disturbs_nobody(site: BadLinkSite, worker: WorkerProcess) -> None:
    site.expect_exactly_once(site.submit(1), worker)
    before = {name: link.connections for name, link in site.links.items()}
    each(site, lambda name: site.links[name].refuse())
    site.expect_exactly_once(site.submit(JOBS), worker)
    assert {name: link.connections for name, link in site.links.items()} == before


@pytest.mark.parametrize(
    ("delay_s", "jitter_s", "bytes_per_s"),
    [(0.3, 0.0, None), (0.05, 0.4, None), (0.05, 0.0, 20_000.0)],
    ids=["delay", "jitter", "bandwidth"],
)
def test_a_slow_link_breaks_no_connection(
    site: BadLinkSite, worker: WorkerProcess, delay_s: float, jitter_s: float, bytes_per_s: float | None
) -> None:
    site.expect_exactly_once(site.submit(1), worker)
    before = {name: link.connections for name, link in site.links.items()}
    for link in site.links.values():
        link.delay_s, link.jitter_s, link.bytes_per_s = delay_s, jitter_s, bytes_per_s
    site.expect_exactly_once(site.submit(JOBS), worker)
    assert {name: link.connections for name, link in site.links.items()} == before
