"""The authority's folder: where everything lies, and nothing in it is ever replaced by accident.

::

    DIR/ca/ca.crt, ca.key, issued.json     the authority; its key never leaves this folder
    DIR/bridge/                            a folder for each holder, ready to copy: ca.crt, tls.crt, tls.key
    DIR/workers/NAME/  executors/NAME/  operators/NAME/

Revocation lists and enrolment secrets are the authority's business too: their place is DIR/ca.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509

from edge_mqtt.broker_bridge.program.private_files import (
    is_there,
    locked,
    make_private_directory,
    sync_directory,
    write_files,
    writing,
)
from edge_mqtt.certs.authority import CERTIFICATE_DAYS, Authority, create_authority, new_key
from edge_mqtt.certs.credentials import CERTIFICATE_FILE, KEY_FILE, TRUST_FILE
from edge_mqtt.certs.errors import AlreadyExists, AuthorityMissing, CredentialsUnusable
from edge_mqtt.certs.identity import Identity, Role, check_name
from edge_mqtt.certs.issued import IssuedCertificate, IssuedCertificates, read_issued, record_of
from edge_mqtt.certs.pem import certificate_pem, key_pem, read_certificates, read_key
from edge_mqtt.certs.x509_fields import check_validity

#: Further files of the authority's folder.
AUTHORITY_KEY_FILE = "ca.key"
ISSUED_FILE = "issued.json"
#: The bridge's name unless told otherwise.
BRIDGE_NAME = "bridge"

_FOLDERS = {Role.WORKER: "workers", Role.EXECUTOR: "executors", Role.OPERATOR: "operators"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Issued:
    """A certificate that was just issued."""

    record: IssuedCertificate
    folder: Path
    #: Records of the same holder that are still valid: nothing takes them back yet.
    still_valid: tuple[IssuedCertificate, ...]
    #: It ends before its days are over, because the authority does.
    shortened: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Created:
    """An authority that was just made."""

    bridge: Issued
    #: Where the authority lies that was there before.
    put_aside: Path | None


class Store:
    """The folder in which an authority and the holders' folders lie."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority_folder = directory / "ca"

    def folder(self, identity: Identity) -> Path:
        """Return the folder of ``identity``'s key and certificate."""
        if identity.role is Role.BRIDGE:
            return self.directory / "bridge"
        return self.directory / _FOLDERS[identity.role] / identity.name

    def create(self, *, hosts: Sequence[str], days: int = CERTIFICATE_DAYS, force: bool, now: datetime) -> Created:
        """Make an authority and the bridge's certificate.

        :param hosts: names and addresses that workers connect to.
        :param days: validity of the bridge's certificate.
        :param force: put an authority that is there aside and make a new one.
        :raises AlreadyExists: there is one, or a key of a bridge, and ``force`` is not given.
        :raises InvalidRequest: ``hosts`` or ``days`` make no sense; nothing was written.
        :raises FileUnusable: something cannot be written.
        """
        bridge = Identity(Role.BRIDGE, BRIDGE_NAME)
        authority = create_authority(now=now)
        # Dry run: whatever is wrong with the request must show before there is an authority.
        authority.issue(bridge, authority.key.public_key(), hosts=hosts, days=days, now=now)
        make_private_directory(self.directory)
        with self._lock():
            if not force and _exists(self.authority_folder):
                raise AlreadyExists(
                    f"{self.directory} has an authority already: use 'edge-certs issue' for more certificates; "
                    "--force would make a new one, and every certificate of the old one would stop working"
                )
            self._check_free(bridge, force=force)
            put_aside = self._install_authority(authority, now)
            issued = self._issue(authority, bridge, hosts=hosts, days=days, now=now)
        return Created(bridge=issued, put_aside=put_aside)

    def issue(
        self,
        identity: Identity,
        *,
        hosts: Sequence[str] = (),
        days: int = CERTIFICATE_DAYS,
        force: bool,
        now: datetime,
    ) -> Issued:
        """Make a key and a certificate for ``identity``.

        :param hosts: names and addresses that a bridge answers as; none: those it has had.
        :param days: validity of the certificate.
        :param force: replace the key and the certificate that are there.
        :raises InvalidName: the name cannot be used.
        :raises AuthorityMissing: there is no authority.
        :raises AlreadyExists: there is a key and ``force`` is not given.
        :raises InvalidRequest: ``hosts`` or ``days`` make no sense.
        :raises CertificateError: the authority is unusable, or something cannot be written.
        """
        check_name(identity.name)
        self._require_authority()
        with self._lock():
            if identity.role is Role.BRIDGE and not hosts:
                hosts = self._hosts_so_far(identity)
            authority = self.authority(now=now)
            self._check_free(identity, force=force)
            return self._issue(authority, identity, hosts=hosts, days=days, now=now)

    def authority(self, *, now: datetime) -> Authority:
        """Return the authority.

        :raises AuthorityMissing: there is none.
        :raises CertificateError: its files cannot be read or do not belong together, or it has expired.
        """
        certificate = self.certificate()
        path = self.authority_folder / TRUST_FILE
        key = read_key(self.authority_folder / AUTHORITY_KEY_FILE)
        if certificate.public_key() != key.public_key():
            raise CredentialsUnusable(
                f"{path} and {AUTHORITY_KEY_FILE} do not belong together: restore them from a backup"
            )
        remedy = "make a new one with 'edge-certs init' in another folder and issue every certificate again"
        check_validity(certificate, what=f"the authority {path}", remedy=remedy, now=now)
        return Authority(certificate=certificate, key=key)

    def certificate(self) -> x509.Certificate:
        """Return the authority's certificate, expired or not.

        :raises AuthorityMissing: there is none.
        :raises FileUnusable: it cannot be read.
        """
        self._require_authority()
        return read_certificates(self.authority_folder / TRUST_FILE)[0]

    def issued_certificates(self) -> IssuedCertificates:
        """Return what the authority has issued.

        :raises AuthorityMissing: there is none.
        :raises FileUnusable: the record of them cannot be read.
        """
        self._require_authority()
        return read_issued(self.authority_folder / ISSUED_FILE)

    def _lock(self) -> AbstractContextManager[None]:
        return locked(self.directory / ".lock")

    def _require_authority(self) -> None:
        if not _exists(self.authority_folder):
            raise AuthorityMissing(
                f"{self.directory} has no authority: name its folder with --dir (or EDGE_CERTS_DIR), "
                "or make one with 'edge-certs init'"
            )

    def _hosts_so_far(self, identity: Identity) -> Sequence[str]:
        return next(
            (record.hosts for record in self.issued_certificates().newest() if record.identity == identity), ()
        )

    def _check_free(self, identity: Identity, *, force: bool) -> None:
        key = self.folder(identity) / KEY_FILE
        if not force and _exists(key):
            raise AlreadyExists(f"{key} exists: choose another name or folder, or replace it with --force")

    def _install_authority(self, authority: Authority, now: datetime) -> Path | None:
        """Put ``authority`` in its place; return where the one lies that was there."""
        # Written under another name first: an authority is there as a whole or not at all, whatever crashes.
        making = self.directory / f".ca.{secrets.token_hex(4)}"
        make_private_directory(making)
        write_files(
            {
                making / TRUST_FILE: certificate_pem(authority.certificate),
                making / AUTHORITY_KEY_FILE: key_pem(authority.key),
                making / ISSUED_FILE: IssuedCertificates().to_json(),
            }
        )
        put_aside = None
        with writing(self.authority_folder):
            if is_there(self.authority_folder):
                put_aside = self.authority_folder.rename(self.directory / f"ca-replaced-{now:%Y%m%dT%H%M%S.%fZ}")
            making.rename(self.authority_folder)
        sync_directory(self.directory)
        return put_aside

    def _issue(
        self, authority: Authority, identity: Identity, *, hosts: Sequence[str], days: int, now: datetime
    ) -> Issued:
        key = new_key()
        certificate = authority.issue(identity, key.public_key(), hosts=hosts, days=days, now=now)
        record = record_of(certificate, issued_at=now)
        issued = self.issued_certificates()
        folder = self.folder(identity)
        make_private_directory(folder)
        # The record first: a certificate that is not in it could never be revoked.
        written = issued.model_copy(update={"issued": (*issued.issued, record)})
        write_files({self.authority_folder / ISSUED_FILE: written.to_json()})
        write_files(
            {
                folder / KEY_FILE: key_pem(key),
                folder / CERTIFICATE_FILE: certificate_pem(certificate),
                folder / TRUST_FILE: certificate_pem(authority.certificate),
            }
        )
        earlier = tuple(r for r in issued.issued if r.identity == identity and r.not_after > now)
        shortened = record.not_after == authority.certificate.not_valid_after_utc
        return Issued(record=record, folder=folder, still_valid=earlier, shortened=shortened)


def _exists(path: Path) -> bool:
    with writing(path):
        return is_there(path)
