"""Certificates for thousands of simulated workers, made once and kept in a folder between runs."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

from edge_mqtt.certs.authority import new_key
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.certs.pem import certificate_pem, key_pem
from edge_mqtt.certs.store import Store


class Parties:
    """An authority, the bridge's folder, and a certificate for whoever connects."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._store = Store(folder / "certs")
        self._now = datetime.now(UTC)
        if not self._store.authority_folder.exists():
            self._store.create(hosts=["localhost"], force=False, now=self._now)
        self._authority = self._store.authority(now=self._now)
        self._trust = certificate_pem(self._authority.certificate).decode()

    @property
    def bridge_folder(self) -> Path:
        """Return the folder that the bridge is given."""
        return self._store.folder(Identity(Role.BRIDGE, "bridge"))

    def context(self, identity: Identity) -> ssl.SSLContext:
        """Return a client's TLS context; OpenSSL takes one certificate for each, so this cannot be shared."""
        file = self._folder / "parties" / f"{identity.role}-{identity.name}.pem"
        if not file.exists():
            # Past the register of what was issued: it is written whole for every certificate.
            key = new_key()
            certificate = self._authority.issue(identity, key.public_key(), hosts=(), days=30, now=self._now)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(certificate_pem(certificate) + key_pem(key))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self._trust)
        context.load_cert_chain(file)
        return context
