"""The authority's folder: nothing is replaced by accident, half written or readable by others."""

from __future__ import annotations

import json
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from edge_mqtt.broker_bridge.program.private_files import FileUnusable
from edge_mqtt.certs.authority import AUTHORITY_DAYS
from edge_mqtt.certs.credentials import expiry_warning
from edge_mqtt.certs.errors import (
    AlreadyExists,
    AuthorityMissing,
    CredentialsUnusable,
    Expired,
    InvalidRequest,
    NotYetValid,
)
from edge_mqtt.certs.identity import Identity, InvalidName, Role
from edge_mqtt.certs.loading import load_credentials
from edge_mqtt.certs.pem import read_certificates, read_key
from edge_mqtt.certs.store import Store
from edge_mqtt.certs.x509_fields import identity_of

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
WORKER = Identity(Role.WORKER, "lab-3")
EVERYBODY = (WORKER, Identity(Role.EXECUTOR, "main"), Identity(Role.OPERATOR, "ann"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "pki")
    made.create(hosts=["localhost"], force=False, now=NOW)
    return made


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_party_gets_a_folder_that_loads(store: Store) -> None:
    for identity in EVERYBODY:
        issued = store.issue(identity, force=False, now=NOW)
        party = load_credentials(issued.folder, now=NOW)
        assert party.identity == identity
        assert (party.not_before, party.not_after) == (issued.record.not_before, issued.record.not_after)
        assert party.fingerprint == issued.record.fingerprint
    assert load_credentials(store.directory / "bridge", now=NOW).identity == Identity(Role.BRIDGE, "bridge")
    names = {path.relative_to(store.directory).as_posix() for path in store.directory.rglob("tls.crt")}
    assert names == {
        "bridge/tls.crt",
        "workers/lab-3/tls.crt",
        "executors/main/tls.crt",
        "operators/ann/tls.crt",
    }


def test_files_and_folders_are_their_owners_alone(store: Store) -> None:
    old = os.umask(0)
    try:
        store.issue(WORKER, force=False, now=NOW)
    finally:
        os.umask(old)
    paths = [store.directory, *store.directory.rglob("*")]
    modes = {path: path.stat().st_mode & 0o777 for path in paths}
    assert len(modes) > 10
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}


def test_no_temporary_file_is_left(store: Store) -> None:
    store.issue(WORKER, force=False, now=NOW)
    assert [path.name for path in store.directory.rglob(".*")] == [".lock"]


def test_the_authority_key_is_in_no_party_folder(store: Store) -> None:
    store.issue(WORKER, force=False, now=NOW)
    secret = (store.authority_folder / "ca.key").read_bytes()
    holders = [path for path, data in content(store.directory).items() if secret in data]
    assert holders == [store.authority_folder / "ca.key"]


def test_a_second_authority_is_refused_and_changes_nothing(store: Store) -> None:
    before = content(store.directory)
    with pytest.raises(AlreadyExists, match="has an authority already"):
        store.create(hosts=["localhost"], force=False, now=NOW)
    assert content(store.directory) == before


def test_a_forced_second_authority_puts_the_first_aside_whole(store: Store) -> None:
    before = content(store.authority_folder)
    created = store.create(hosts=["other"], force=True, now=NOW)
    assert created.put_aside is not None
    assert {path.name: data for path, data in content(created.put_aside).items()} == {
        path.name: data for path, data in before.items()
    }
    assert load_credentials(store.directory / "bridge", now=NOW).fingerprint == created.bridge.record.fingerprint
    assert store.issued_certificates().issued == (created.bridge.record,)


def test_a_refused_host_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest):
        Store(tmp_path / "pki").create(hosts=["wss://x"], force=False, now=NOW)
    assert list(tmp_path.iterdir()) == []


def test_a_key_is_never_replaced_without_force(store: Store) -> None:
    store.issue(WORKER, force=False, now=NOW)
    before = content(store.directory)
    with pytest.raises(AlreadyExists, match="replace it with --force"):
        store.issue(WORKER, force=False, now=NOW)
    assert content(store.directory) == before


def test_force_replaces_the_key_and_names_what_stays_valid(store: Store) -> None:
    first = store.issue(WORKER, force=False, now=NOW)
    second = store.issue(WORKER, force=True, now=NOW + timedelta(days=1))
    assert second.still_valid == (first.record,)
    assert first.still_valid == ()
    assert load_credentials(second.folder, now=NOW + timedelta(days=1)).fingerprint == second.record.fingerprint
    third = store.issue(WORKER, force=True, now=NOW + timedelta(days=365, hours=1))
    assert third.still_valid == (second.record,)


def test_a_reissued_bridge_keeps_its_hosts_unless_told_others(store: Store) -> None:
    bridge = Identity(Role.BRIDGE, "bridge")
    assert store.issue(bridge, force=True, now=NOW).record.hosts == ("localhost",)
    assert store.issue(bridge, hosts=["a.example"], force=True, now=NOW).record.hosts == ("a.example",)
    assert store.issue(bridge, force=True, now=NOW).record.hosts == ("a.example",)


def test_a_certificate_cut_short_by_its_authority_says_so(store: Store) -> None:
    assert not store.issue(WORKER, force=False, now=NOW).shortened
    late = NOW + timedelta(days=AUTHORITY_DAYS - 100)
    assert store.issue(WORKER, force=True, now=late).shortened


def test_the_register_has_everything_and_lists_the_newest(store: Store) -> None:
    for identity in EVERYBODY:
        store.issue(identity, force=False, now=NOW)
    again = store.issue(WORKER, force=True, now=NOW)
    register = store.issued_certificates()
    assert [str(record.identity) for record in register.issued] == [
        "bridge:bridge",
        "worker:lab-3",
        "executor:main",
        "operator:ann",
        "worker:lab-3",
    ]
    assert len({record.serial for record in register.issued}) == 5
    assert [str(record.identity) for record in register.newest()] == [
        "bridge:bridge",
        "executor:main",
        "worker:lab-3",
        "operator:ann",
    ]
    assert again.record in register.newest()
    assert register.find("lab-3") == register.find("worker:lab-3") == [again.record]
    assert register.find("operator:lab-3") == []


def test_fields_of_a_newer_register_survive(store: Store) -> None:
    path = store.authority_folder / "issued.json"
    data = json.loads(path.read_bytes())
    data["issued"][0]["revoked_at"] = "2030-01-03T00:00:00Z"
    data["crl_number"] = 7
    path.write_text(json.dumps(data))
    store.issue(WORKER, force=False, now=NOW)
    rewritten = json.loads(path.read_bytes())
    assert rewritten["issued"][0]["revoked_at"] == "2030-01-03T00:00:00Z"
    assert rewritten["crl_number"] == 7
    assert len(rewritten["issued"]) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "damaged"),
        ('{"issued": [{"role": "worker"}]}', r"damaged \(issued.0.serial\)"),
        ('{"version": 2, "issued": []}', "newer edge-certs"),
    ],
)
def test_an_unusable_register_is_one_line(store: Store, text: str, message: str) -> None:
    (store.authority_folder / "issued.json").write_text(text)
    with pytest.raises(FileUnusable, match=message) as caught:
        store.issue(WORKER, force=False, now=NOW)
    assert "\n" not in str(caught.value)
    assert not store.folder(WORKER).exists()


def test_two_issuers_at_once_both_stay_registered(store: Store) -> None:
    names = [f"lab-{number}" for number in range(8)]
    threads = [
        threading.Thread(target=Store(store.directory).issue, args=(Identity(Role.WORKER, name),), kwargs=kwargs)
        for name in names
        for kwargs in [{"force": False, "now": NOW}]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {record.name for record in store.issued_certificates().issued} == {"bridge", *names}


def test_no_authority_is_one_line(tmp_path: Path) -> None:
    store = Store(tmp_path / "nowhere")
    for attempt in (lambda: store.issue(WORKER, force=False, now=NOW), store.issued_certificates, store.certificate):
        with pytest.raises(AuthorityMissing, match="has no authority"):
            attempt()
    assert not store.directory.exists()


def test_a_name_that_leaves_the_folder_is_refused(store: Store) -> None:
    with pytest.raises(InvalidName):
        store.issue(Identity(Role.WORKER, "../bridge"), force=True, now=NOW)


def test_an_authority_with_another_key_is_refused(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    other.create(hosts=["localhost"], force=False, now=NOW)
    (other.authority_folder / "ca.key").replace(store.authority_folder / "ca.key")
    with pytest.raises(CredentialsUnusable, match="do not belong together"):
        store.issue(WORKER, force=False, now=NOW)


def test_an_expired_authority_issues_nothing(store: Store) -> None:
    with pytest.raises(Expired, match=r"the authority .* expired"):
        store.issue(WORKER, force=False, now=NOW + timedelta(days=AUTHORITY_DAYS + 1))
    assert not store.folder(WORKER).exists()


def test_a_folder_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "pki").write_text("")
    with pytest.raises(FileUnusable, match="is a file, not a folder"):
        Store(tmp_path / "pki").create(hosts=["localhost"], force=False, now=NOW)


def test_a_party_loads_with_a_bundle_of_authorities(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    other.create(hosts=["localhost"], force=False, now=NOW)
    folder = store.issue(WORKER, force=False, now=NOW).folder
    trust = folder / "ca.crt"
    trust.write_bytes((other.authority_folder / "ca.crt").read_bytes() + trust.read_bytes())
    assert load_credentials(folder, now=NOW).identity == WORKER


@pytest.mark.parametrize("name", ["ca.crt", "tls.crt", "tls.key"])
def test_a_missing_or_damaged_file_is_named(store: Store, name: str) -> None:
    folder = store.issue(WORKER, force=False, now=NOW).folder
    (folder / name).write_text("nonsense")
    with pytest.raises(FileUnusable, match=f"{name} is not a PEM"):
        load_credentials(folder, now=NOW)
    (folder / name).unlink()
    with pytest.raises(FileUnusable, match=f"{name} does not exist"):
        load_credentials(folder, now=NOW)
    (folder / name).mkdir()
    with pytest.raises(FileUnusable, match=f"{name} cannot be read: Is a directory"):
        load_credentials(folder, now=NOW)


def test_files_of_different_parties_are_told_apart(store: Store, tmp_path: Path) -> None:
    folder = store.issue(WORKER, force=False, now=NOW).folder
    other = Store(tmp_path / "other")
    other.create(hosts=["localhost"], force=False, now=NOW)
    (folder / "ca.crt").write_bytes((other.authority_folder / "ca.crt").read_bytes())
    with pytest.raises(CredentialsUnusable, match="was not issued by the authority"):
        load_credentials(folder, now=NOW)
    (folder / "tls.key").write_bytes((store.directory / "bridge" / "tls.key").read_bytes())
    with pytest.raises(CredentialsUnusable, match="is not the key of"):
        load_credentials(folder, now=NOW)


def test_keys_of_another_kind_are_refused(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "tls.key"
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    path.write_bytes(key.private_bytes(*form, serialization.NoEncryption()))
    with pytest.raises(FileUnusable, match="not an elliptic-curve key"):
        read_key(path)
    encrypted = read_key(store.authority_folder / "ca.key")
    path.write_bytes(encrypted.private_bytes(*form, serialization.BestAvailableEncryption(b"secret")))
    with pytest.raises(FileUnusable, match="is encrypted"):
        read_key(path)


def test_a_party_loads_only_within_its_time(store: Store) -> None:
    folder = store.issue(WORKER, days=10, force=False, now=NOW).folder
    with pytest.raises(Expired, match=r"edge-certs issue worker lab-3 --force"):
        load_credentials(folder, now=NOW + timedelta(days=11))
    with pytest.raises(NotYetValid, match="set the clock"):
        load_credentials(folder, now=NOW - timedelta(days=1))


def test_expiry_is_warned_about_for_thirty_days(store: Store) -> None:
    folder = store.issue(WORKER, days=100, force=False, now=NOW).folder
    party = load_credentials(folder, now=NOW)
    assert expiry_warning(party, NOW + timedelta(days=69, hours=23)) is None
    soon = expiry_warning(party, NOW + timedelta(days=70))
    assert soon is not None
    assert "worker:lab-3" in soon
    assert "expires in 30 days" in soon
    assert "edge-certs issue worker lab-3 --force" in soon
    assert "\n" not in soon
    over = expiry_warning(party, NOW + timedelta(days=100))
    assert over is not None
    assert "has expired" in over


def test_an_exposed_key_is_warned_about(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    folder = store.issue(WORKER, force=False, now=NOW).folder
    load_credentials(folder, now=NOW)
    assert caplog.records == []
    (folder / "tls.key").chmod(0o604)
    load_credentials(folder, now=NOW)
    assert [record.__dict__["action"] for record in caplog.records] == ["key_exposed"]


def test_a_certificate_in_the_store_is_the_one_that_was_registered(store: Store) -> None:
    issued = store.issue(WORKER, force=False, now=NOW)
    certificate = read_certificates(issued.folder / "tls.crt")[0]
    assert f"{certificate.serial_number:x}" == issued.record.serial
    assert identity_of(certificate) == issued.record.identity
