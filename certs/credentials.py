"""Credentials: a folder with a key and certificates, and what else is known of it without reading certificates.

Nothing here imports the library that does: it takes more memory than anything else that a worker would load.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from edge_mqtt.certs.errors import CredentialsUnusable
from edge_mqtt.certs.identity import URN_PREFIX, Identity, InvalidName

#: Files of the folder: the trusted authority, the certificate and its key.
TRUST_FILE = "ca.crt"
CERTIFICATE_FILE = "tls.crt"
KEY_FILE = "tls.key"
#: How long before its end a certificate is warned about.
WARN_BEFORE = timedelta(days=30)


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """A folder with a certificate, its key and the authority, read and found to be in order."""

    identity: Identity
    directory: Path
    #: Validity of the certificate, in UTC.
    not_before: datetime
    not_after: datetime
    #: SHA-256 of the certificate's DER form, in hexadecimal.
    fingerprint: str


def identity_from_names(uris: Sequence[str], common_names: Sequence[str]) -> Identity:
    """Return the one identity that a certificate's names speak of.

    :param uris: URIs of its subject alternative name.
    :param common_names: common names of its subject.
    :raises CredentialsUnusable: there is none or more than one, or the common name is another.
    """
    urns = [uri for uri in uris if uri.startswith(URN_PREFIX)]
    if len(urns) != 1:
        raise CredentialsUnusable(
            f"the certificate names {len(urns) or 'no'} {URN_PREFIX}<role>:<name>: use one made by edge-certs"
        )
    try:
        identity = Identity.from_urn(urns[0])
    except InvalidName as error:
        raise CredentialsUnusable(
            f"the certificate's identity is unusable, {error}: use one made by edge-certs"
        ) from None
    if list(common_names) != [identity.name]:
        raise CredentialsUnusable(
            f"the certificate's common name is not {identity.name!r}, which its URN says: use one made by edge-certs"
        )
    return identity


def expiry_warning(credentials: Credentials, now: datetime) -> str | None:
    """Return one line about a certificate that expires within ``WARN_BEFORE`` or has expired, else None."""
    left = credentials.not_after - now
    if left > WARN_BEFORE:
        return None
    when = "has expired" if left.total_seconds() <= 0 else f"expires in {left.days} days"
    return (
        f"the certificate of {credentials.identity} in {credentials.directory} {when} "
        f"({credentials.not_after:%Y-%m-%d %H:%M} UTC): issue it again with "
        f"'{reissue_command(credentials.identity)}', copy the folder here; no restart is needed"
    )


def reissue_command(identity: Identity) -> str:
    """Return the command that makes a new certificate for ``identity``."""
    return f"edge-certs issue {identity.role} {identity.name} --force"
