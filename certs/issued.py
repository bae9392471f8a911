"""The record of every certificate that an authority has issued, kept beside its key as ``issued.json``."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from cryptography import x509
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from edge_mqtt.broker_bridge.program.private_files import FileUnusable, read_bytes
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.certs.x509_fields import fingerprint_of, hosts_of, identity_of

#: Version of the file's form. A newer program may add fields (they are kept) without raising it.
ISSUED_VERSION = 1


class IssuedCertificate(BaseModel):
    """One issued certificate. Nothing in it is secret."""

    # Fields of a newer version survive a rewrite by this one: a revocation must never be lost that way.
    model_config = ConfigDict(frozen=True, extra="allow")

    serial: str
    role: Role
    name: str
    hosts: tuple[str, ...] = ()
    issued_at: AwareDatetime
    not_before: AwareDatetime
    not_after: AwareDatetime
    fingerprint: str

    @property
    def identity(self) -> Identity:
        """Whose certificate it is."""
        return Identity(self.role, self.name)


class IssuedCertificates(BaseModel):
    """All that an authority has issued, in that order."""

    model_config = ConfigDict(frozen=True, extra="allow")

    version: int = ISSUED_VERSION
    issued: tuple[IssuedCertificate, ...] = ()

    def newest(self) -> list[IssuedCertificate]:
        """Return the newest record of each identity, by role and name."""
        latest = {record.identity.client_id: record for record in self.issued}
        roles = list(Role)
        return sorted(latest.values(), key=lambda record: (roles.index(record.role), record.name))

    def find(self, wanted: str) -> list[IssuedCertificate]:
        """Return the newest records whose name, or role and name (``worker:lab``), is ``wanted``."""
        return [record for record in self.newest() if wanted in (record.name, record.identity.client_id)]

    def to_json(self) -> bytes:
        """Return the file's content."""
        return self.model_dump_json(indent=1).encode() + b"\n"


def record_of(certificate: x509.Certificate, *, issued_at: datetime) -> IssuedCertificate:
    """Return the record for a certificate that was issued at ``issued_at``."""
    identity = identity_of(certificate)
    return IssuedCertificate(
        serial=f"{certificate.serial_number:x}",
        role=identity.role,
        name=identity.name,
        hosts=hosts_of(certificate),
        issued_at=issued_at,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        fingerprint=fingerprint_of(certificate),
    )


def read_issued(path: Path) -> IssuedCertificates:
    """Return the record in ``path``.

    :raises FileUnusable: it cannot be read, is damaged or was written by a newer program.
    """
    try:
        issued = IssuedCertificates.model_validate_json(read_bytes(path))
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors(include_url=False)[0]["loc"]) or "not JSON"
        raise FileUnusable(f"{path} is damaged ({where}): restore it from a backup") from None
    if issued.version > ISSUED_VERSION:
        raise FileUnusable(f"{path} was written by a newer edge-certs: upgrade this one")
    return issued
