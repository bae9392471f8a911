"""What a certificate says about its holder: one profile per role.

Who serves cannot pose as a client and who is a client cannot pose as the bridge: the extended key usage is
checked by the TLS library of the other side, so that a stolen worker key cannot be used to pretend to be the bridge.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from edge_mqtt.certs.errors import InvalidRequest
from edge_mqtt.certs.identity import Identity, Role

#: One label of a DNS name [RFC 1123, 2.1]; underscores are in use inside container networks.
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
#: Characters that a DNS name has at most [RFC 1035, 2.3.4].
_MAX_DNS_NAME_LENGTH = 253

_EXTENDED_KEY_USAGE: dict[Role, ObjectIdentifier] = {
    Role.BRIDGE: ExtendedKeyUsageOID.SERVER_AUTH,
    Role.EXECUTOR: ExtendedKeyUsageOID.CLIENT_AUTH,
    Role.WORKER: ExtendedKeyUsageOID.CLIENT_AUTH,
    Role.OPERATOR: ExtendedKeyUsageOID.CLIENT_AUTH,
}


@dataclass(frozen=True, slots=True)
class Profile:
    """Who a certificate is for and, for a bridge, which hosts it answers as."""

    identity: Identity
    hosts: tuple[str, ...] = ()

    def subject(self) -> x509.Name:
        """Return the subject: the name alone, as the common name."""
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.identity.name)])

    def alternative_names(self) -> x509.SubjectAlternativeName:
        """Return the subject alternative name: the identity's URN and the hosts."""
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(self.identity.urn)]
        names.extend(_general_name(host) for host in self.hosts)
        return x509.SubjectAlternativeName(names)

    def extended_key_usage(self) -> x509.ExtendedKeyUsage:
        """Return whether the holder may serve or connect."""
        return x509.ExtendedKeyUsage([_EXTENDED_KEY_USAGE[self.identity.role]])


def profile_for(identity: Identity, hosts: Iterable[str] = ()) -> Profile:
    """Return the profile for ``identity``.

    :param hosts: DNS names and IP addresses that workers connect to; a bridge needs one, other roles have none.
    :raises InvalidRequest: a host is malformed, missing or given to a role that does not serve.
    """
    checked = tuple(dict.fromkeys(check_host(host) for host in hosts))
    if identity.role is Role.BRIDGE and not checked:
        raise InvalidRequest("a bridge needs at least one --bridge-host: the name or address that workers connect to")
    if identity.role is not Role.BRIDGE and checked:
        raise InvalidRequest(f"--bridge-host is for a bridge, not for {identity}: leave it out")
    return Profile(identity, checked)


def key_usage(*, authority: bool = False) -> x509.KeyUsage:
    """Return what a key may do: sign certificates and revocation lists for an authority, signatures for a holder."""
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def check_host(host: str) -> str:
    """Return ``host`` as it is written into a certificate: an IP address or a lower-case DNS name.

    :raises InvalidRequest: it is neither.
    """
    if "%" not in host:  # a scope (fe80::1%eth0) means something on one machine only
        with suppress(ValueError):
            return str(ipaddress.ip_address(host))
    labels = host.split(".")
    if len(host) > _MAX_DNS_NAME_LENGTH or not all(_LABEL.fullmatch(label) for label in labels):
        raise InvalidRequest(
            f"{host!r} is not a host: give a DNS name (edge.example.org; non-ASCII names in their xn-- form) "
            "or an IP address, without wss://, port or path"
        )
    if labels[-1].isdigit():
        raise InvalidRequest(f"{host!r} looks like an IP address but is not one: check its digits")
    return host.lower()


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
