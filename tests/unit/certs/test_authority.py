"""What a certificate says, by role, and what an authority refuses to sign."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from edge_mqtt.certs.authority import AUTHORITY_DAYS, BACKDATE, Authority, create_authority, new_key
from edge_mqtt.certs.credentials import identity_from_names
from edge_mqtt.certs.errors import CredentialsUnusable, Expired, InvalidRequest, NotYetValid
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.certs.profiles import check_host
from edge_mqtt.certs.x509_fields import check_validity, hosts_of, identity_of, is_authority

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
WORKER = Identity(Role.WORKER, "lab-3")
BRIDGE = Identity(Role.BRIDGE, "bridge")


@pytest.fixture(scope="module")
def authority() -> Authority:
    return create_authority(now=NOW)


def issue(authority: Authority, identity: Identity, *hosts: str, days: int = 365) -> x509.Certificate:
    return authority.issue(identity, new_key().public_key(), hosts=hosts, days=days, now=NOW)


def test_an_authority_may_sign_parties_and_nothing_below_them(authority: Authority) -> None:
    extensions = authority.certificate.extensions
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    assert (usage.critical, usage.value.key_cert_sign, usage.value.crl_sign) == (True, True, True)
    assert not usage.value.digital_signature
    assert is_authority(authority.certificate)


def test_keys_are_on_p256(authority: Authority) -> None:
    assert isinstance(authority.key.curve, ec.SECP256R1)
    assert isinstance(new_key().curve, ec.SECP256R1)


def test_two_authorities_never_share_a_name() -> None:
    names = [create_authority(now=NOW).certificate.subject for _ in range(5)]
    assert all(one != other for one, other in pairwise(names))


@pytest.mark.parametrize(
    ("identity", "hosts", "purpose"),
    [
        (BRIDGE, ("edge.example.org",), ExtendedKeyUsageOID.SERVER_AUTH),
        (WORKER, (), ExtendedKeyUsageOID.CLIENT_AUTH),
        (Identity(Role.EXECUTOR, "main"), (), ExtendedKeyUsageOID.CLIENT_AUTH),
        (Identity(Role.OPERATOR, "ann"), (), ExtendedKeyUsageOID.CLIENT_AUTH),
    ],
    ids=lambda value: str(value) if isinstance(value, Identity) else "",
)
def test_a_role_has_its_own_end_of_a_connection(
    authority: Authority, identity: Identity, hosts: tuple[str, ...], purpose: x509.ObjectIdentifier
) -> None:
    certificate = issue(authority, identity, *hosts)
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [purpose]
    assert identity_of(certificate) == identity
    assert hosts_of(certificate) == hosts
    assert not is_authority(certificate)
    certificate.verify_directly_issued_by(authority.certificate)


def test_a_strict_verifier_finds_every_extension_it_asks_for(authority: Authority) -> None:
    extensions = issue(authority, WORKER).extensions
    authority_id = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    named = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert named.key_identifier == authority_id.digest
    assert extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert extensions.get_extension_for_class(x509.BasicConstraints).critical
    assert extensions.get_extension_for_class(x509.KeyUsage).critical


def test_hosts_become_dns_names_and_addresses_once_each(authority: Authority) -> None:
    certificate = issue(authority, BRIDGE, "Edge.Example.org", "edge.example.org", "192.0.2.1", "2001:DB8::1")
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["edge.example.org"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.1", "2001:db8::1"]


def test_validity_begins_a_little_earlier_for_slow_clocks(authority: Authority) -> None:
    certificate = issue(authority, WORKER, days=7)
    assert certificate.not_valid_before_utc == NOW - BACKDATE
    assert certificate.not_valid_after_utc == NOW + timedelta(days=7)


def test_a_certificate_never_outlives_its_authority(authority: Authority) -> None:
    later = NOW + timedelta(days=AUTHORITY_DAYS - 10)
    certificate = authority.issue(WORKER, new_key().public_key(), days=365, now=later)
    assert certificate.not_valid_after_utc == authority.certificate.not_valid_after_utc


@pytest.mark.parametrize("days", [0, -1, AUTHORITY_DAYS + 1])
def test_senseless_days_are_refused(authority: Authority, days: int) -> None:
    with pytest.raises(InvalidRequest, match=f"{days} days"):
        issue(authority, WORKER, days=days)


def test_a_bridge_without_a_host_is_refused(authority: Authority) -> None:
    with pytest.raises(InvalidRequest, match="at least one --bridge-host"):
        issue(authority, BRIDGE)


def test_a_worker_with_a_host_is_refused(authority: Authority) -> None:
    with pytest.raises(InvalidRequest, match="not for worker:lab-3"):
        issue(authority, WORKER, "edge.example.org")


@pytest.mark.parametrize(
    "host",
    [
        "",
        "wss://edge.example.org",
        "edge.example.org:443",
        "edge.example.org/mqtt",
        "edge..org",
        "-edge.org",
        "edge.org.",
        "*.example.org",
        "bücher.example",
        "[::1]",
        "fe80::1%eth0",
        "300.1.2.3",
        "1.2.3",
        "a" * 64 + ".org",
        ".".join(["a" * 60] * 5),
        "edge.org\n",
    ],
)
def test_what_is_not_a_host_is_refused_in_one_line(host: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_host(host)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("host", ["localhost", "a_b", "xn--bcher-kva.example", "10.0.0.1", "::1"])
def test_a_host_is_kept_as_it_is(host: str) -> None:
    assert check_host(host) == host


@pytest.mark.parametrize(
    ("uris", "common_names", "message"),
    [
        ((), ("lab",), "no urn:edge-mqtt"),
        (("https://example.org",), ("lab",), "no urn:edge-mqtt"),
        (("urn:edge-mqtt:worker:lab", "urn:edge-mqtt:bridge:lab"), ("lab",), "names 2"),
        (("urn:edge-mqtt:root:lab",), ("lab",), "unusable"),
        (("urn:edge-mqtt:worker:../lab",), ("../lab",), "unusable"),
        (("urn:edge-mqtt:worker:lab",), ("other",), "common name"),
        (("urn:edge-mqtt:worker:lab",), (), "common name"),
        (("urn:edge-mqtt:worker:lab",), ("lab", "lab"), "common name"),
    ],
)
def test_ambiguous_or_foreign_names_are_nobody(
    uris: tuple[str, ...], common_names: tuple[str, ...], message: str
) -> None:
    with pytest.raises(CredentialsUnusable, match=message):
        identity_from_names(uris, common_names)


def test_a_certificate_of_somebody_else_is_nobody(authority: Authority) -> None:
    with pytest.raises(CredentialsUnusable, match="use one made by edge-certs"):
        identity_of(authority.certificate)


def test_validity_is_checked_at_both_ends(authority: Authority) -> None:
    certificate = issue(authority, WORKER, days=1)
    check_validity(certificate, what="it", remedy="renew", now=certificate.not_valid_before_utc)
    check_validity(certificate, what="it", remedy="renew", now=certificate.not_valid_after_utc)
    second = timedelta(seconds=1)
    with pytest.raises(NotYetValid, match=r"it is valid only from 2030-01-02 02:04 UTC .* set the clock"):
        check_validity(certificate, what="it", remedy="renew", now=certificate.not_valid_before_utc - second)
    with pytest.raises(
        Expired, match=r"it expired on 2030-01-03 03:04 UTC and this machine's clock says .* UTC: renew"
    ):
        check_validity(certificate, what="it", remedy="renew", now=certificate.not_valid_after_utc + second)
