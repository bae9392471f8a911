"""A certificate's files are read again when they have changed, and not otherwise."""

from __future__ import annotations

import logging
import os
import shutil
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edge_mqtt.certs.credentials import Credentials
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.certs.loading import load_credentials
from edge_mqtt.certs.renewal import CurrentContext
from edge_mqtt.certs.store import Store
from edge_mqtt.certs.tls import client_context

WORKER, OTHER = Identity(Role.WORKER, "lab-3"), Identity(Role.WORKER, "lab-4")
NOW = datetime.now(UTC)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    made.create(hosts=["localhost"], force=False, now=NOW)
    return made


class Site:
    """A worker's copy of its folder, and what reads it."""

    def __init__(self, store: Store, *, days: int = 365) -> None:
        self.store = store
        self.folder = store.directory.parent / "site"
        shutil.copytree(store.issue(WORKER, days=days, force=False, now=NOW).folder, self.folder)
        self.read: list[str] = []
        self.contexts = CurrentContext(load_credentials(self.folder), self._make)

    def _make(self, credentials: Credentials) -> ssl.SSLContext:
        self.read.append(credentials.fingerprint)
        return client_context(credentials)

    def renew(self, *files: str, identity: Identity = WORKER) -> None:
        """Issue the certificate again and copy it here; some files of it only."""
        folder = self.store.issue(identity, force=True, now=NOW).folder
        for file in files or ("ca.crt", "tls.crt", "tls.key"):
            shutil.copy(folder / file, self.folder / file)


def test_files_that_have_not_changed_are_not_read_again(store: Store) -> None:
    site = Site(store)
    assert site.contexts() is site.contexts()
    assert len(site.read) == 1


def test_new_files_make_a_new_context(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="edge_mqtt")
    site = Site(store)
    before = site.contexts()
    site.renew()
    assert site.contexts() is not before
    assert site.contexts() is site.contexts()
    assert len(set(site.read)) == len(site.read) == 2
    (said,) = caplog.messages
    assert said.startswith("new certificate of worker:lab-3, valid until ")


def _half_a_file(site: Site) -> None:
    file = site.folder / "tls.crt"
    file.write_bytes(file.read_bytes()[:200])


def _another_name(site: Site) -> None:
    site.renew(identity=OTHER)


BAD: dict[str, Callable[[Site], object]] = {
    "half a file": _half_a_file,
    "no file": lambda site: (site.folder / "tls.crt").unlink(),
    "a certificate without its key": lambda site: site.renew("tls.crt"),
    "a key without its certificate": lambda site: site.renew("tls.key"),
    "another one's certificate": _another_name,
    "no authority": lambda site: (site.folder / "ca.crt").write_text("none"),
    "no folder": lambda site: shutil.rmtree(site.folder),
}


@pytest.mark.parametrize("harm", BAD.values(), ids=BAD)
def test_files_that_cannot_be_used_are_one_warning_and_change_nothing(
    store: Store, caplog: pytest.LogCaptureFixture, harm: Callable[[Site], object]
) -> None:
    site = Site(store)
    before = site.contexts()
    harm(site)
    assert [site.contexts() for _ in range(3)] == [before] * 3
    (said,) = caplog.messages
    assert said.startswith("the certificate before is used on, as the new one cannot be: ")
    site.folder.mkdir(exist_ok=True)
    site.renew()
    assert site.contexts() is not before


def test_files_that_are_written_with_the_old_size_and_time_are_seen_by_their_number(store: Store) -> None:
    site = Site(store)
    before = site.contexts()
    for file in site.folder.iterdir():
        status = file.stat()
        copy = file.with_name("copy")
        copy.write_bytes(file.read_bytes())
        os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
        copy.replace(file)
    assert site.contexts() is not before


def test_expiry_is_warned_of_once_a_day_until_the_certificate_is_renewed(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(store, days=20)
    for hours in range(73):
        site.contexts.warn_of_expiry(NOW + timedelta(hours=hours, minutes=1))
    assert [message.split(" in /")[0] for message in caplog.messages] == ["the certificate of worker:lab-3"] * 3
    assert "no restart is needed" in caplog.text
    caplog.clear()
    site.renew()
    site.contexts.warn_of_expiry(NOW + timedelta(days=5))
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
