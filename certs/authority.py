"""The certificate authority: makes itself and signs certificates. No files, no clock."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edge_mqtt.certs.errors import InvalidRequest
from edge_mqtt.certs.identity import Identity
from edge_mqtt.certs.profiles import key_usage, profile_for

#: Days that an authority is valid: long, because replacing it means touching every edge machine.
AUTHORITY_DAYS = 3652
#: Days that an issued certificate is valid unless told otherwise.
CERTIFICATE_DAYS = 365
#: How far back validity begins: clocks on edge machines run behind, and a fresh certificate must work there.
BACKDATE = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Authority:
    """A certificate authority that can sign."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def issue(
        self,
        identity: Identity,
        public_key: ec.EllipticCurvePublicKey,
        *,
        hosts: Iterable[str] = (),
        days: int = CERTIFICATE_DAYS,
        now: datetime,
    ) -> x509.Certificate:
        """Return a certificate for ``identity`` and its public key; it never outlives the authority.

        :param hosts: names and addresses that a bridge answers as.
        :param days: how long it is valid, from ``now``.
        :raises InvalidRequest: ``days`` or ``hosts`` make no sense.
        """
        if not 1 <= days <= AUTHORITY_DAYS:
            raise InvalidRequest(f"a certificate cannot be valid for {days} days: use 1 to {AUTHORITY_DAYS}")
        profile = profile_for(identity, hosts)
        ends = min(now + timedelta(days=days), self.certificate.not_valid_after_utc)
        authority_key_id = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = (
            _builder(profile.subject(), self.certificate.subject, public_key, now, ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(), critical=True)
            .add_extension(profile.extended_key_usage(), critical=False)
            .add_extension(profile.alternative_names(), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority_key_id), critical=False
            )
        )
        return builder.sign(self.key, hashes.SHA256())


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a fresh EC P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def create_authority(*, now: datetime) -> Authority:
    """Return a new authority, valid for ``AUTHORITY_DAYS``."""
    key = new_key()
    # Two authorities of one name make TLS libraries report a bad signature where "unknown authority" is meant.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"edge-mqtt authority {secrets.token_hex(4)}")])
    builder = (
        _builder(name, name, key.public_key(), now, now + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(authority=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    return Authority(certificate=builder.sign(key, hashes.SHA256()), key=key)


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, now: datetime, ends: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )
