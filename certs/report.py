"""Certificates as tables for people."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TextIO

from cryptography import x509
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edge_mqtt.broker_bridge.program.private_files import is_folder, is_there, reading
from edge_mqtt.certs.credentials import CERTIFICATE_FILE, TRUST_FILE, WARN_BEFORE, expiry_warning
from edge_mqtt.certs.errors import CertificateError
from edge_mqtt.certs.issued import IssuedCertificates
from edge_mqtt.certs.loading import load_credentials
from edge_mqtt.certs.pem import IF_MISSING, read_certificates
from edge_mqtt.certs.x509_fields import (
    check_validity,
    common_name,
    fingerprint_of,
    hosts_of,
    identity_of,
    is_authority,
)

#: Characters of a fingerprint that tell a few thousand certificates apart.
SHORT_FINGERPRINT = 16
#: Columns when the output is not a terminal: wide enough that no name is cut in a pipe.
PIPE_WIDTH = 240


def issued_table(authority: x509.Certificate, issued: IssuedCertificates, *, now: datetime) -> Table:
    """Return the authority and the newest certificate of every holder, those that end soon in a warning colour."""
    table = Table(box=None, pad_edge=False)
    table.add_column("ROLE", no_wrap=True)
    table.add_column("NAME", overflow="fold")
    table.add_column("EXPIRES", no_wrap=True)
    table.add_column("FINGERPRINT", no_wrap=True)
    rows = [("authority", common_name(authority), authority.not_valid_after_utc, fingerprint_of(authority))]
    rows.extend((str(r.role), r.name, r.not_after, r.fingerprint) for r in issued.newest())
    for role, name, ends, fingerprint in rows:
        style = _style(ends, now)
        table.add_row(role, escape(name), _until(ends, now), fingerprint[:SHORT_FINGERPRINT], style=style)
    return table


def certificate_table(path: Path, *, now: datetime) -> Table:
    """Return what the certificate at ``path`` says.

    :param path: a certificate's file, or the folder of credentials or of an authority.
    :raises CertificateError: there is no certificate that can be read.
    """
    file = _certificate_file(path)
    certificate = read_certificates(file)[0]
    ends = certificate.not_valid_after_utc
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("identity", escape(_whose(certificate)))
    if hosts_of(certificate):
        table.add_row("hosts", escape(", ".join(hosts_of(certificate))))
    table.add_row("valid from", f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC")
    table.add_row("expires", f"{ends:%Y-%m-%d %H:%M} UTC ({_left(ends, now)})", style=_style(ends, now))
    table.add_row("issued by", escape(certificate.issuer.rfc4514_string()))
    table.add_row("serial", f"{certificate.serial_number:x}")
    table.add_row("fingerprint", f"SHA-256 {fingerprint_of(certificate)}")
    table.add_row("file", escape(str(file)))
    return table


def check(path: Path, *, now: datetime) -> str | None:
    """Return one line about a certificate that ends soon; None when all is well.

    :param path: a certificate's file, or the folder of credentials or of an authority.
    :raises CertificateError: this certificate cannot be used to connect now.
    """
    with reading(path, if_missing=IF_MISSING):
        has_credentials = is_folder(path) and is_there(path / CERTIFICATE_FILE)
    if has_credentials:
        return expiry_warning(load_credentials(path, now=now), now)
    file = _certificate_file(path)
    certificate = read_certificates(file)[0]
    check_validity(certificate, what=f"the certificate {file}", remedy="issue it again with edge-certs", now=now)
    return None


def show_on(stream: TextIO, table: Table) -> None:
    """Write ``table``; colours only on a terminal."""
    console = Console(file=stream, highlight=False)
    if not console.is_terminal:
        console = Console(file=stream, highlight=False, width=PIPE_WIDTH)
    console.print(table)


def _certificate_file(path: Path) -> Path:
    with reading(path, if_missing=IF_MISSING):
        if not is_folder(path):
            return path
        authority, certificate = path / TRUST_FILE, path / CERTIFICATE_FILE
        return authority if is_there(authority) and not is_there(certificate) else certificate


def _whose(certificate: x509.Certificate) -> str:
    try:
        return str(identity_of(certificate))
    except CertificateError:
        kind = "an authority" if is_authority(certificate) else "none of this project"
        return f"{common_name(certificate)} ({kind})"


def _until(ends: datetime, now: datetime) -> str:
    return f"{ends:%Y-%m-%d} ({_left(ends, now)})"


def _left(ends: datetime, now: datetime) -> str:
    days = (ends - now).days
    return "EXPIRED" if ends <= now else f"in {days} day{'' if days == 1 else 's'}"


def _style(ends: datetime, now: datetime) -> str | None:
    if ends <= now:
        return "bold red"
    return "yellow" if ends - now <= WARN_BEFORE else None
