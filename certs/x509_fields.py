"""What a certificate says: whose it is, until when, its fingerprint. Pure."""

from __future__ import annotations

from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from edge_mqtt.certs.credentials import identity_from_names
from edge_mqtt.certs.errors import Expired, NotYetValid
from edge_mqtt.certs.identity import Identity


def identity_of(certificate: x509.Certificate) -> Identity:
    """Return whose ``certificate`` is.

    :raises CredentialsUnusable: it is not one of ours.
    """
    names = _alternative_names(certificate)
    uris = [] if names is None else names.get_values_for_type(x509.UniformResourceIdentifier)
    return identity_from_names(uris, _common_names(certificate))


def common_name(certificate: x509.Certificate) -> str:
    """Return the subject's common name, empty when it has none."""
    return next(iter(_common_names(certificate)), "")


def hosts_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the DNS names and IP addresses that ``certificate`` is valid for."""
    names = _alternative_names(certificate)
    if names is None:
        return ()
    addresses = (str(address) for address in names.get_values_for_type(x509.IPAddress))
    return (*names.get_values_for_type(x509.DNSName), *addresses)


def fingerprint_of(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of the certificate's DER form, in lower-case hexadecimal."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def is_authority(certificate: x509.Certificate) -> bool:
    """Tell whether ``certificate`` may sign others."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def is_issuer(authority: x509.Certificate, certificate: x509.Certificate) -> bool:
    """Tell whether ``authority`` has signed ``certificate``."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def check_validity(certificate: x509.Certificate, *, what: str, remedy: str, now: datetime) -> None:
    """Return when ``now`` is within the validity of ``certificate``.

    :param what: how the message calls it.
    :param remedy: what the message tells to do when it has expired.
    :raises NotYetValid: it begins later.
    :raises Expired: it has ended.
    """
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begins:
        raise NotYetValid(
            f"{what} is valid only from {begins:%Y-%m-%d %H:%M} UTC and this machine's clock says "
            f"{now:%Y-%m-%d %H:%M} UTC: set the clock"
        )
    if now > ends:
        raise Expired(
            f"{what} expired on {ends:%Y-%m-%d %H:%M} UTC and this machine's clock says {now:%Y-%m-%d %H:%M} UTC: "
            f"{remedy}"
        )


def _common_names(certificate: x509.Certificate) -> list[str]:
    return [str(attribute.value) for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]


def _alternative_names(certificate: x509.Certificate) -> x509.SubjectAlternativeName | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return None
