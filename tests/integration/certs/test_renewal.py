"""A bridge, a worker and an executor whose certificates are renewed while they run."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edge_mqtt.certs.identity import Identity, Role
from tests.support.scenario_bad_links import NAME, BadLinkSite

BRIDGE, EXECUTOR, WORKER = (
    Identity(Role.BRIDGE, "bridge"),
    Identity(Role.EXECUTOR, "main"),
    Identity(Role.WORKER, NAME),
)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[BadLinkSite]:
    made = BadLinkSite(tmp_path)
    yield made
    made.close()


def shown_by_the_bridge(site: BadLinkSite) -> bytes:
    """Return the certificate that a new connection is shown."""
    port = site.links["worker"].port
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("localhost", port)))


def certificate(folder: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(
        (folder / "tls.crt").read_text().partition("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n"
    )


def test_renewed_certificates_are_used_without_a_restart(site: BadLinkSite) -> None:
    worker = site.start_worker("machine")
    worker.wait_line("connected to")
    (job,) = site.submit(1)
    site.expect_exactly_once([job], worker)
    folder = site.store.folder(BRIDGE)
    old = certificate(folder)
    assert shown_by_the_bridge(site) == old
    # The whole authority is another one: whoever goes on with what it has cannot connect.
    site.store.create(hosts=["localhost"], force=True, now=datetime.now(UTC))
    for identity in (EXECUTOR, WORKER):
        site.store.issue(identity, force=True, now=datetime.now(UTC))
    for link in site.links.values():
        link.reset()
    worker.wait_line("new certificate of worker:lab-1")
    worker.wait_line("connected to", 2)
    jobs = site.submit(2)
    site.expect_exactly_once(jobs, worker)
    assert shown_by_the_bridge(site) == certificate(folder) != old
    assert site.bridge_log.count("new certificate of bridge:bridge") == 1


def test_half_of_a_renewal_keeps_the_bridge_and_the_worker_connected(site: BadLinkSite) -> None:
    worker = site.start_worker("machine")
    worker.wait_line("connected to")
    folders = [site.store.folder(identity) for identity in (BRIDGE, WORKER)]
    for folder in folders:
        shutil.copy(site.store.folder(EXECUTOR) / "tls.key", folder / "tls.key")
    site.links["worker"].reset()
    worker.wait_line("connected to", 2)
    assert worker.said("the certificate before is used on") == 1
    (job,) = site.submit(1)
    site.expect_exactly_once([job], worker)
    assert site.bridge_log.count("the certificate before is used on") == 1
