"""What a certificate says: whose it is, until when, its fingerprint. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from edge_mqtt.certs.errors import Expired, NotYetValid, PartyUnusable
from edge_mqtt.certs.identity import URN_PREFIX, Identity, InvalidName

#: How long before its end a certificate is warned about.
WARN_BEFORE = timedelta(days=30)


def identity_from_names(uris: Sequence[str], common_names: Sequence[str]) -> Identity:
    """Return the one identity that a certificate's names speak of.

    :param uris: URIs of its subject alternative name.
    :param common_names: common names of its subject.
    :raises PartyUnusable: there is none or more than one, or the common name is another.
    """
    urns = [uri for uri in uris if uri.startswith(URN_PREFIX)]
    if len(urns) != 1:
        raise PartyUnusable(
            f"the certificate names {len(urns) or 'no'} {URN_PREFIX}<role>:<name>: use one made by edge-certs"
        )
    try:
        identity = Identity.from_urn(urns[0])
    except InvalidName as error:
        raise PartyUnusable(f"the certificate's identity is unusable, {error}: use one made by edge-certs") from None
    if list(common_names) != [identity.name]:
        raise PartyUnusable(
            f"the certificate's common name is not {identity.name!r}, which its URN says: use one made by edge-certs"
        )
    return identity


def identity_of(certificate: x509.Certificate) -> Identity:
    """Return whose ``certificate`` is.

    :raises PartyUnusable: it is not one of ours.
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


def reissue_command(identity: Identity) -> str:
    """Return the command that makes a new certificate for ``identity``."""
    return f"edge-certs issue {identity.role} {identity.name} --force"


def _common_names(certificate: x509.Certificate) -> list[str]:
    return [str(attribute.value) for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]


def _alternative_names(certificate: x509.Certificate) -> x509.SubjectAlternativeName | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return None
