"""Reads a folder with a key and certificates and finds out whether everything in it is in order."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path

from edge_mqtt.certs.credentials import CERTIFICATE_FILE, KEY_FILE, TRUST_FILE, Credentials, reissue_command
from edge_mqtt.certs.errors import CredentialsUnusable
from edge_mqtt.certs.pem import read_certificates, read_key
from edge_mqtt.certs.x509_fields import check_validity, fingerprint_of, identity_of, is_issuer

log = logging.getLogger(__name__)


def load_credentials(directory: Path, *, now: datetime | None = None) -> Credentials:
    """Return the credentials whose ``ca.crt``, ``tls.crt`` and ``tls.key`` lie in ``directory``.

    :param now: the time at which the certificate must be valid; None: the clock's.
    :raises FileUnusable: a file is missing, cannot be read or is no PEM file.
    :raises CredentialsUnusable: the files do not belong together, or the certificate is not one of ours.
    :raises NotYetValid: the clock is before the certificate's time.
    :raises Expired: the certificate, or the authority, has expired.
    """
    now = datetime.now(UTC) if now is None else now
    path = directory / CERTIFICATE_FILE
    certificate = read_certificates(path)[0]
    trusted = read_certificates(directory / TRUST_FILE)
    key_path = directory / KEY_FILE
    if certificate.public_key() != read_key(key_path).public_key():
        raise CredentialsUnusable(f"{key_path} is not the key of {path}: copy the whole folder again")
    identity = identity_of(certificate)
    issuer = next((authority for authority in trusted if is_issuer(authority, certificate)), None)
    if issuer is None:
        raise CredentialsUnusable(
            f"{path} was not issued by the authority in {directory / TRUST_FILE}: copy the whole folder again"
        )
    remedy = f"issue it again with '{reissue_command(identity)}' and copy the folder here"
    check_validity(certificate, what=f"the certificate {path}", remedy=remedy, now=now)
    authority_remedy = "make a new authority with 'edge-certs init' and issue every certificate again"
    check_validity(issuer, what=f"the authority {directory / TRUST_FILE}", remedy=authority_remedy, now=now)
    if key_path.stat().st_mode & 0o007:
        log.warning(
            "%s is open to every user of this machine: chmod o-rwx it",
            key_path,
            extra={"action": "key_exposed", "path": str(key_path)},
        )
    return Credentials(
        identity=identity,
        directory=directory,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        fingerprint=fingerprint_of(certificate),
    )
